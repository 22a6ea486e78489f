// Attention: scores and their maximum over all keys, then exponentials and weighted values in blocks of 64 absolute positions,
// whose sums are added from the lowest on. A short context is one block's work (`attend`); a long one is cut at the cache's
// blocks: `scores`, and after a barrier `values`, whose last block of a row adds up.
#pragma once

#include "rows.cuh"

/** Floats that order as these integers do, and back. */
DEVICE i32 ordered(float x) {
  const i32 v = (i32)bits(x);
  return v ^ (v >> 31 & 0x7fffffff);
}
DEVICE float unordered(i32 v) { return from_bits((u32)(v ^ (v >> 31 & 0x7fffffff))); }
DEVICE u32 lifted(float x) { return (u32)ordered(x) ^ 0x80000000u; }
DEVICE float lowered(u32 v) { return unordered((i32)(v ^ 0x80000000u)); }

/** The folds of 16 lanes that one thread has. */
DEVICE float fold_lanes(float (&lanes)[16]) {
  UNROLL for (u32 half = 8; half >= 1; half /= 2) {
    UNROLL for (u32 l = 0; l < half; l++) lanes[l] = lanes[l] + lanes[l + half];
  }
  return lanes[0];
}

/** laneSum of D products; a key's elements lie 64 floats apart, in the cache or, STAGED, in shared memory. */
template <bool STAGED> DEVICE float key_dot(const float* q, const float* k, u32 D) {
  auto element = [&](u32 d) { return STAGED ? k[d * POSITIONS] : load(k + d * POSITIONS); };
  float lanes[16];
  UNROLL for (u32 l = 0; l < 16; l++) lanes[l] = 0.0f;
  u32 d = 0;
  for (; d + 16 <= D; d += 16) {
    float kk[16];
    UNROLL for (u32 l = 0; l < 16; l++) kk[l] = element(d + l);
    UNROLL for (u32 l = 0; l < 16; l++) lanes[l] = lanes[l] + q[d + l] * kk[l];
  }
  UNROLL for (u32 l = 0; l < 16; l++) {
    if (d + l < D) lanes[l] = lanes[l] + q[d + l] * element(d + l);
  }
  return fold_lanes(lanes);
}

struct Seen {
  u32 position, first, end, table_row;
};
DEVICE Seen seen_by(const Instruction& I, const Input& in, u32 t) {
  Seen s;
  s.position = I.rows == 1 ? shared().position : in.at<u32>(in.positions)[t];
  s.end = s.position + 1;
  s.first = I.window && s.end > I.window ? s.end - I.window : 0;
  s.table_row = I.rows == 1 ? shared().table_row : in.at<u32>(in.table_rows)[t];
  return s;
}

/**
 * Fields of an attention instruction: x q, y k and weight v of a fused one (one row of the step; `codes` and `weight2` are the
 * norms of the heads of q and k, or 0), out, scratch; heads of a block in `parts`.
 *
 * Heads [head, head + count) of row t, all of one kv head, into shared memory; of a fused instruction normed, turned, and with the
 * row's own key (`k`, behind q), which with its value goes to the cache where `stores`.
 */
DEVICE void ready_row(const Instruction& I, const Input& in, const Seen& s, u32 t, u32 head, u32 count, u32 kv, float* q, float* k, bool stores) {
  const u32 D = I.head_dim, tid = thread(), half = I.rotary / 2;
  const float* from = (const float*)I.x + (u64)t * I.x_stride + head * D;
  if (!I.fused) {
    for (u32 i = tid; i < count * D; i += THREADS) q[i] = load(from + i);
    sync();
    return;
  }
  const float* key = (const float*)I.y + (u64)t * I.y_stride + kv * D;
  // The rotation of this thread's pair, asked for beside the heads.
  const u32 j0 = half ? tid % half : 0;
  const float c0 = half ? ((const float*)I.cosine)[(u64)s.position * half + j0] : 0.0f;
  const float s0 = half ? ((const float*)I.sine)[(u64)s.position * half + j0] : 0.0f;
  for (u32 i = tid; i < (count + 1) * D; i += THREADS) q[i] = i < count * D ? load(from + i) : load(key + i - count * D);
  sync();
  if (I.codes) {
    const u32 lane = tid & 15;
    for (u32 base = 0; base < count + 1; base += THREADS / 16) {
      const u32 h = base + tid / 16;
      float* x = q + (h <= count ? h : 0) * D;
      float sum = 0.0f;
      for (u32 i = lane; i < D; i += 16) sum = sum + x[i] * x[i];
      sum = fold(sum);
      const float r = inverse_of(from_bits((u32)broadcast16((i32)bits(sum))), D, I.eps);
      const float* weight = (const float*)(h < count ? I.codes : I.weight2);
      if (h <= count) {
        for (u32 i = lane; i < D; i += 16) x[i] = (x[i] * r) * weight[i];
      }
    }
    sync();
  }
  for (u32 i = tid; i < (count + 1) * half; i += THREADS) {
    const u32 j = i % half;
    float* x = q + i / half * D + j;
    const bool mine = j == j0;
    const float c = mine ? c0 : ((const float*)I.cosine)[(u64)s.position * half + j];
    const float sn = mine ? s0 : ((const float*)I.sine)[(u64)s.position * half + j];
    const float a = x[0], b = x[half];
    x[0] = a * c - b * sn;
    x[half] = b * c + a * sn;
  }
  sync();
  if (!stores) return;
  const float* value = (const float*)I.weight + (u64)t * I.y_stride + kv * D;
  for (u32 d = tid; d < D; d += THREADS) {
    key_at(I, in, s.table_row, kv, s.position)[(u64)d * POSITIONS] = k[d];
    value_at(I, in, s.table_row, kv, s.position)[d] = load(value + d);
  }
}

// ---- tiles: a block of the cache, one kv head's keys or values, in shared memory

/** Heads up to here have tiles. */
constexpr u32 TILE_DIM = 128, TILE_FLOATS = TILE_DIM * POSITIONS;
DEVICE bool tiled(const Instruction& I) { return I.head_dim <= TILE_DIM && I.head_dim % 4 == 0; }

DEVICE void ask_tile(const Instruction& I, const float* from, float* to) {
  for (u32 i = thread(); i < I.head_dim * POSITIONS / 4; i += THREADS) copy_ahead(to + 4 * i, from + 4 * i);
}
DEVICE float* key_tile() { return (float*)pool(); }
DEVICE float* value_tile() { return (float*)pool() + TILE_FLOATS; }
/** Behind two tiles. */
DEVICE float* behind_tiles() { return (float*)pool() + 2 * TILE_FLOATS; }

/** The same for the row's own key, which lies in shared memory in one piece. */
DEVICE float own_dot(const float* q, const float* k, u32 D) {
  float lanes[16];
  UNROLL for (u32 l = 0; l < 16; l++) lanes[l] = 0.0f;
  for (u32 d = 0; d < D; d += 16) {
    UNROLL for (u32 l = 0; l < 16; l++) {
      if (d + l < D) lanes[l] = lanes[l] + q[d + l] * k[d + l];
    }
  }
  return fold_lanes(lanes);
}

/** Largest of a value of every thread. */
DEVICE float block_max(float v) {
  Shared& s = shared();
  const u32 most = warp_max(lifted(v));
  sync();
  if ((thread() & 31) == 0) s.largest[thread() / 32] = most;
  sync();
  return lowered(warp_max(s.largest[thread() & 15]));
}

/** laneSum of e[from..to), 16 threads, all of which call it; in the first. */
DEVICE float sum_block(const float* e, u32 n) {
  const u32 lane = thread() & 15;
  float s = 0.0f;
  for (u32 i = lane; i < n; i += 16) s = s + e[i];
  return fold(s);
}

/** `parts` heads of a row, all keys, by one block. */
APART void attend(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, count = I.parts, group = I.heads / I.kv_heads, items = I.heads / count;
  float* q = (float*)pool();
  float* own = q + count * D;
  float* sums = own + D;
  float* parts = sums + 64;
  float* e = parts + THREADS;
  const u32 slot = (D + 31) / 32 * 32, at_once = THREADS / slot, d = thread() % slot, place = thread() / slot;
  for (u32 item = block(); item < I.rows * items; item += blocks()) {
    const u32 t = item / items, head = item % items * count, kv = head / group;
    const Seen s = seen_by(I, in, t);
    const u32 n = s.end - s.first;
    ready_row(I, in, s, t, head, count, kv, q, own, head % group == 0);
    for (u32 i = thread(); i < count * n; i += THREADS) {
      const u32 h = i / n, j = s.first + i % n;
      const bool mine = I.fused && j == s.position;
      e[i] = (mine ? own_dot(q + h * D, own, D) : key_dot<false>(q + h * D, key_at(I, in, s.table_row, kv, j), D)) * I.scale;
    }
    sync();
    for (u32 h = 0; h < count; h++) {
      float* mine = e + h * n;
      float most = -from_bits(0x7f800000);
      for (u32 j = thread(); j < n; j += THREADS) most = mine[j] > most || mine[j] != mine[j] ? mine[j] : most;
      most = block_max(most);
      for (u32 j = thread(); j < n; j += THREADS) mine[j] = exp_f32(mine[j] - most);
    }
    sync();
    for (u32 h = 0; h < count; h++) {
      const float* mine = e + h * n;
      float total = 0.0f, out = 0.0f;
      // Rounds of as many blocks as there are threads for: sums and values of each, then all threads of the first place add up.
      for (u32 from = s.first / POSITIONS; from * POSITIONS < s.end; from += at_once) {
        const u32 b = from + place;
        const u32 low = b * POSITIONS > s.first ? b * POSITIONS : s.first;
        const u32 high = (b + 1) * POSITIONS < s.end ? (b + 1) * POSITIONS : s.end;
        const bool there = b * POSITIONS < s.end;
        for (u32 base = 0; base < at_once; base += THREADS / 16) {
          const u32 c = base + thread() / 16, bb = from + c;
          const u32 lo = bb * POSITIONS > s.first ? bb * POSITIONS : s.first;
          const u32 hi = (bb + 1) * POSITIONS < s.end ? (bb + 1) * POSITIONS : s.end;
          const float sum = sum_block(mine + (lo - s.first), c < at_once && lo < hi ? hi - lo : 0);
          if ((thread() & 15) == 0 && c < at_once) sums[c] = sum;
        }
        float v = 0.0f;
        if (there && d < D) {
          const float* at = value_at(I, in, s.table_row, kv, low) + d;
          const float* weight = mine + (low - s.first);
          const u32 m = high - low;
          const bool last = I.fused && high == s.end;
          const u32 cached = last ? m - 1 : m;
          u32 j = 0;
          for (; j + 8 <= cached; j += 8) {
            float x[8];
            UNROLL for (u32 k = 0; k < 8; k++) x[k] = load(at + (u64)(j + k) * D);
            UNROLL for (u32 k = 0; k < 8; k++) v = v + weight[j + k] * x[k];
          }
          for (; j < cached; j++) v = v + weight[j] * load(at + (u64)j * D);
          if (last) v = v + weight[j] * load((const float*)I.weight + (u64)t * I.y_stride + kv * D + d);
        }
        parts[thread()] = v;
        sync();
        if (place == 0) {
          for (u32 c = 0; c < at_once && (from + c) * POSITIONS < s.end; c++) {
            total = total + sums[c];
            out = out + parts[c * slot + d];
          }
        }
        sync();
      }
      if (place == 0 && d < D) ((float*)I.out)[(u64)t * I.out_stride + (head + h) * D + d] = divide(out, total);
    }
    sync();
  }
}

// Long contexts. Scratch of a row and head: scores of `splits` blocks, each block's largest, its sum, its values.
struct Scratch {
  float *scores, *largest, *sums, *values;
};
DEVICE Scratch scratch_of(const Instruction& I, u32 t, u32 head) {
  const u64 n = (u64)I.rows * I.heads * I.splits, at = ((u64)t * I.heads + head) * I.splits;
  float* p = (float*)I.scratch;
  return {p + at * POSITIONS, p + n * POSITIONS + at, p + n * (POSITIONS + 1) + at, p + n * (POSITIONS + 2) + at * I.head_dim};
}

/** What of an item's tiles is there before the row is: all but the row's own position. */
APART void attend_ahead(const Instruction& I, const Input& in) {
  if (!I.fused || !tiled(I)) return;
  const Seen s = seen_by(I, in, 0);
  if (I.op == ATTEND_ONE) {
    if (block() >= I.heads) return;
    const u32 kv = block() / (I.heads / I.kv_heads);
    ask_tile(I, key_at(I, in, s.table_row, kv, 0), key_tile());
    ask_tile(I, value_at(I, in, s.table_row, kv, 0), value_tile());
    copies_asked();
    if (thread() < 2 && I.rotary) fetch((const float*)(thread() ? I.cosine : I.sine) + (u64)s.position * (I.rotary / 2));
    return;
  }
  const u32 item = block();
  if (item >= I.kv_heads * I.splits) return;
  const u32 kv = item / I.splits, b = item % I.splits;
  if (b * POSITIONS >= s.end || (b + 1) * POSITIONS <= s.first) return;
  if (I.op == SCORES) ask_tile(I, key_at(I, in, s.table_row, kv, b * POSITIONS), key_tile());
  else ask_tile(I, value_at(I, in, s.table_row, kv, b * POSITIONS), key_tile());
  copies_asked();
}

/** One row, all of whose positions are in the first block of the cache: a head by one block, from tiles. */
APART void attend_one(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, tid = thread();
  float* q = behind_tiles();
  float* own = q + D;
  float* e = own + D;
  float* lanes = e + POSITIONS;
  for (u32 head = block(); head < I.heads; head += blocks()) {
    const u32 kv = head / group;
    const Seen s = seen_by(I, in, 0);
    if (head != block()) {
      ask_tile(I, key_at(I, in, s.table_row, kv, 0), key_tile());
      ask_tile(I, value_at(I, in, s.table_row, kv, 0), value_tile());
      copies_asked();
    }
    // The row's own value, asked for early.
    const float value = tid < D ? load((const float*)I.weight + kv * D + tid) : 0.0f;
    ready_row(I, in, s, 0, head, 1, kv, q, own, false);
    copies_there<0>();
    sync();
    if (tid < D) {
      key_tile()[tid * POSITIONS + s.position] = own[tid];
      value_tile()[s.position * D + tid] = value;
      if (head % group == 0) {
        key_at(I, in, s.table_row, kv, s.position)[(u64)tid * POSITIONS] = own[tid];
        value_at(I, in, s.table_row, kv, s.position)[tid] = value;
      }
    }
    sync();
    // A key by four threads of different warps, each with four of the 16 lanes.
    if (tid < 4 * POSITIONS) {
      const u32 j = tid % POSITIONS, part = tid / POSITIONS * 4;
      const float* k = key_tile() + j;
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (u32 d = part; d < D; d += 16) {
        UNROLL for (u32 l = 0; l < 4; l++) {
          if (d + l < D) sum[l] = sum[l] + q[d + l] * k[(d + l) * POSITIONS];
        }
      }
      UNROLL for (u32 l = 0; l < 4; l++) lanes[(part + l) * POSITIONS + j] = sum[l];
    }
    sync();
    float score = -from_bits(0x7f800000);
    if (tid < POSITIONS && tid >= s.first && tid < s.end) {
      float all[16];
      UNROLL for (u32 l = 0; l < 16; l++) all[l] = lanes[l * POSITIONS + tid];
      score = fold_lanes(all) * I.scale;
    }
    const float most = block_max(score);
    if (tid < POSITIONS) e[tid] = tid >= s.first && tid < s.end ? exp_f32(score - most) : 0.0f;
    sync();
    if (tid < 32) {
      const float sum = sum_block(e + s.first, s.end - s.first);
      if (tid == 0) shared().inverse = sum;
    }
    float v = 0.0f;
    if (tid < D) {
      for (u32 j = s.first; j < s.end; j++) v = v + e[j] * value_tile()[j * D + tid];
    }
    sync();
    // From +0, as blocks are added.
    if (tid < D) ((float*)I.out)[head * D + tid] = divide(0.0f + v, 0.0f + shared().inverse);
    sync();
  }
}

/** Positions from low to below high: what a row sees of a block of the cache. */
struct Bounds {
  u32 low, high;
};
DEVICE Bounds seen_of_block(const Seen& s, u32 b) {
  const u32 low = b * POSITIONS > s.first ? b * POSITIONS : s.first;
  const u32 high = (b + 1) * POSITIONS < s.end ? (b + 1) * POSITIONS : s.end;
  return {low, high};
}

APART void scores(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, each = I.kv_heads * I.splits, tid = thread();
  const bool tiles = tiled(I);
  float* q = behind_tiles();
  float* own = q + group * D;
  u32* most = (u32*)(own + D);
  for (u32 item = block(); item < I.rows * each; item += blocks()) {
    const u32 t = item / each, kv = item % each / I.splits, b = item % I.splits;
    const Seen s = seen_by(I, in, t);
    const auto [low, high] = seen_of_block(s, b);
    if (low >= high) continue;
    if (tiles && (item != block() || !I.fused)) {
      ask_tile(I, key_at(I, in, s.table_row, kv, b * POSITIONS), key_tile());
      copies_asked();
    }
    ready_row(I, in, s, t, kv * group, group, kv, q, own, high == s.end);
    if (tiles) {
      copies_there<0>();
      sync();
      if (I.fused && high == s.end) {
        for (u32 d = tid; d < D; d += THREADS) key_tile()[d * POSITIONS + s.position % POSITIONS] = own[d];
      }
    }
    for (u32 i = tid; i < group; i += THREADS) most[i] = 0;
    sync();
    for (u32 base = 0; base < group * POSITIONS; base += THREADS) {
      const u32 i = base + tid, h = i / POSITIONS, j = b * POSITIONS + i % POSITIONS;
      u32 found = 0;
      if (i < group * POSITIONS && j >= low && j < high) {
        const bool mine = !tiles && I.fused && j == s.position;
        const float dot = tiles  ? key_dot<true>(q + h * D, key_tile() + i % POSITIONS, D)
                          : mine ? own_dot(q + h * D, own, D)
                                 : key_dot<false>(q + h * D, key_at(I, in, s.table_row, kv, j), D);
        const float score = dot * I.scale;
        scratch_of(I, t, kv * group + h).scores[(u64)b * POSITIONS + i % POSITIONS] = score;
        found = lifted(score);
      }
      // 64 positions are two warps.
      found = warp_max(found);
      if ((tid & 31) == 0 && i < group * POSITIONS) max_shared(most + h, found);
    }
    sync();
    for (u32 h = tid; h < group; h += THREADS) scratch_of(I, t, kv * group + h).largest[b] = lowered(most[h]);
    sync();
  }
}

APART void values(const Instruction& I, const Input& in) {
  Shared& shared_ = shared();
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, each = I.kv_heads * I.splits, tid = thread();
  const bool tiles = tiled(I);
  float* e = behind_tiles();
  for (u32 item = block(); item < I.rows * each; item += blocks()) {
    const u32 t = item / each, kv = item % each / I.splits, b = item % I.splits;
    const Seen s = seen_by(I, in, t);
    const auto [low, high] = seen_of_block(s, b);
    if (low >= high) continue;
    if (tiles && (item != block() || !I.fused)) {
      ask_tile(I, value_at(I, in, s.table_row, kv, b * POSITIONS), key_tile());
      copies_asked();
    }
    const u32 first = s.first / POSITIONS, last = (s.end - 1) / POSITIONS, n = high - low;
    // A warp a head: the largest of all blocks, then the exponentials of this one.
    for (u32 h = tid / 32; h < group; h += WARPS) {
      const Scratch mine = scratch_of(I, t, kv * group + h);
      u32 most = 0;
      for (u32 c = first + (tid & 31); c <= last; c += 32) {
        const u32 v = lifted(load(mine.largest + c));
        most = v > most ? v : most;
      }
      const float largest = lowered(warp_max(most));
      for (u32 i = tid & 31; i < n; i += 32) e[h * POSITIONS + i] = exp_f32(load(mine.scores + low + i) - largest);
      sync_warp();
      const float sum = sum_block(e + h * POSITIONS, n);
      if ((tid & 31) == 0) mine.sums[b] = sum;
    }
    if (tiles) copies_there<0>();
    sync();
    if (tiles && I.fused && high == s.end) {
      for (u32 d = tid; d < D; d += THREADS)
        key_tile()[s.position % POSITIONS * D + d] = load((const float*)I.weight + (u64)t * I.y_stride + kv * D + d);
      sync();
    }
    for (u32 i = tid; i < group * D; i += THREADS) {
      const u32 h = i / D, d = i % D;
      const float* weight = e + h * POSITIONS;
      float v = 0.0f;
      if (tiles) {
        const float* at = key_tile() + low % POSITIONS * D + d;
        u32 j = 0;
        for (; j + 8 <= n; j += 8) {
          UNROLL for (u32 k = 0; k < 8; k++) v = v + weight[j + k] * at[(j + k) * D];
        }
        for (; j < n; j++) v = v + weight[j] * at[j * D];
      } else {
        const float* at = value_at(I, in, s.table_row, kv, low) + d;
        for (u32 j = 0; j < n; j++) v = v + weight[j] * load(at + (u64)j * D);
      }
      scratch_of(I, t, kv * group + h).values[(u64)b * D + d] = v;
    }
    fence();
    sync();
    if (tid == 0) {
      u32* counter = (u32*)I.counters + (u64)t * I.kv_heads + kv;
      shared_.last = add_global(counter, 1) == last - first;
      if (shared_.last) *counter = 0;
      fence();
    }
    sync();
    if (!shared_.last) continue;
    for (u32 i = tid; i < group * D; i += THREADS) {
      const u32 h = i / D, d = i % D;
      const Scratch mine = scratch_of(I, t, kv * group + h);
      float total = 0.0f, out = 0.0f;
      u32 c = first;
      for (; c + 8 <= last + 1; c += 8) {
        float x[8], y[8];
        UNROLL for (u32 k = 0; k < 8; k++) {
          x[k] = load(mine.sums + c + k);
          y[k] = load(mine.values + (u64)(c + k) * D + d);
        }
        UNROLL for (u32 k = 0; k < 8; k++) {
          total = total + x[k];
          out = out + y[k];
        }
      }
      for (; c <= last; c++) {
        total = total + load(mine.sums + c);
        out = out + load(mine.values + (u64)c * D + d);
      }
      ((float*)I.out)[(u64)t * I.out_stride + (kv * group + h) * D + d] = divide(out, total);
    }
    sync();
  }
}
