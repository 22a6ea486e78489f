// Attention of a step's only row as one instruction, for grids whose blocks run together: the blocks of a kv head share its
// heads and the cache's blocks (tiles of 64 positions). Each finds its scores, tells the others its largest, weighs its values,
// tells them the sums of every tile; then each adds up some of the output's columns, tile after tile from the lowest on.
//
// A block's keys, then its values, go through four places in shared memory as they lie in the cache, three of them on their way.
#pragma once

#include "attention.cuh"
#include "one-row.cuh"

constexpr u32 PLACES = 4, PLACE_FLOATS = TILE_DIM * POSITIONS;

DEVICE float* tile_place(u32 i) { return (float*)pool() + i % PLACES * PLACE_FLOATS; }
/** Behind the tiles: weights of the heads' norms, heads as they come, the key, the value, heads in pairs. */
DEVICE float* behind_places() { return (float*)pool() + PLACES * PLACE_FLOATS; }

/** Tile i of the block's keys (i < n), then of its values. */
DEVICE void ask_place(const Instruction& I, const Share& p, u32 i) {
  if (i < 2 * p.n && (bulk_copies() ? thread() == ASKER : thread() < SPEAKER)) {
    const bool values = i >= p.n;
    const float* from = (const float*)shared().share_tiles[values ? i - p.n : i];
    from += ((u64)(2 * I.layer + (values ? 1 : 0)) * I.kv_heads + p.kv) * I.head_dim * POSITIONS;
    float* const to = tile_place(i);
    const u32 floats = I.head_dim * POSITIONS;
    if (bulk_copies()) {
      u64* const arrival = &shared().arrivals[PLACES_ARRIVE + i % PLACES];
      expect(arrival, floats * 4);
      copy_bulk(to, from, floats * 4, arrival);
    } else {
      ROLLED for (u32 at = thread() * 4; at < floats; at += SPEAKER * 4) copy_ahead(to + at, from + at);
    }
  }
  copies_asked();
}
/** Tile i is there; the place of the one before may be used again. `asked`: of `shared()`, before this instruction. */
DEVICE void wait_place(u32 i, u32 asked) {
  if (bulk_copies()) await_bulk(&shared().arrivals[PLACES_ARRIVE + i % PLACES], (asked >> (PLACES_ARRIVE + i % PLACES) & 1) ^ (i / PLACES & 1));
  else copies_there<PLACES - 2>();
  sync();
}
/** What n tiles of keys and values change of it. */
DEVICE u32 places_asked(u32 n) {
  u32 what = 0;
  UNROLL for (u32 p = 0; p < PLACES; p++) what |= ((2 * n + PLACES - 1 - p) / PLACES & 1) << (PLACES_ARRIVE + p);
  return what;
}

/** Tiles that one block does for a head on its own, which costs less than to tell another. */
constexpr u32 TILES_ALONE = 2;

/** Which share of the work is this block's. */
DEVICE Share block_share(const Instruction& I) {
  const u32 group = I.heads / I.kv_heads, of_head = blocks() / I.kv_heads;
  const u32 end = shared().position + 1, first = I.window && end > I.window ? end - I.window : 0;
  Share p;
  p.first = first;
  p.from = first / POSITIONS;
  p.tiles = (end - 1) / POSITIONS + 1 - p.from;
  // Few tiles leave blocks for few heads each.
  const bool alone = p.tiles <= TILES_ALONE && group <= of_head;
  p.count = alone || p.tiles * group <= of_head ? 1 : group % 2 == 0 && p.tiles * (group / 2) <= of_head ? 2 : group;
  const u32 parts = group / p.count, runs = alone ? 1 : of_head / parts, x = block() % of_head;
  const u32 per = (p.tiles + runs - 1) / runs;
  p.runs = (p.tiles + per - 1) / per;
  p.run = x / parts;
  p.kv = block() / of_head;
  p.head = p.kv * group + x % parts * p.count;
  p.low = p.run * per;
  p.n = p.kv < I.kv_heads && p.run < p.runs ? (p.tiles - p.low < per ? p.tiles - p.low : per) : 0;
  p.window = I.window;
  p.heads = I.heads;
  p.kv_heads = I.kv_heads;
  p.turned = I.rotary / 2;
  return p;
}

/** Before the barrier: this block's share, its first tiles, the rotation. */
DEVICE Share split_ahead(const Instruction& I, const Input& in) {
  Shared& s = shared();
  const u32 tid = thread(), half = I.rotary / 2;
  Share p = s.share;
  // Found once in a step, with what only the step decides.
  if (!(p.window == I.window && p.heads == I.heads && p.kv_heads == I.kv_heads && p.turned == half)) {
    p = block_share(I);
    sync();
    if (tid == 0) s.share = p;
    if (tid >= 64 && tid - 64 < p.n) s.share_tiles[tid - 64] = ((const u64*)in.tables)[(u64)s.table_row * in.table_stride + p.from + p.low + tid - 64];
    if (tid >= 128 && tid - 128 < half) {
      s.cosine[tid - 128] = ((const float*)I.cosine)[(u64)s.position * half + tid - 128];
      s.sine[tid - 128] = ((const float*)I.sine)[(u64)s.position * half + tid - 128];
    }
    sync();
  }
  if (I.codes && p.n > 0 && tid < I.head_dim / 2) {
    const bool of_key = tid >= I.head_dim / 4;
    const u32 at = 4 * (of_key ? tid - I.head_dim / 4 : tid);
    copy_ahead(behind_places() + 4 * tid, (const float*)(of_key ? I.weight2 : I.codes) + at);
  }
  copies_asked();
  ROLLED for (u32 i = 0; i + 1 < PLACES; i++) ask_place(I, p, i);
  return p;
}

/** Floats from `behind_places` to the parts of the scores. */
DEVICE u32 split_behind(const Instruction& I, const Share& p) {
  const u32 floats = I.head_dim * (2 + p.count + 1 + 2 + (p.count + 1) / 2 * 2 + p.count + 1) + p.count * (p.n * (POSITIONS + 1) + 1);
  return (floats + 3) / 4 * 4;
}

DEVICE void attend_split(const Instruction& I, const Input& in, u32 tag, const Gate& gate) {
  Shared& s = shared();
  const u32 asked = s.asked;
  const Share p = split_ahead(I, in);
  mark(18);
  gate.pass();
  mark(19);
  if (p.n == 0) return;
  count_asked(asked, places_asked(p.n));
  const u32 D = I.head_dim, tid = thread(), lane = tid & 31, warp = tid / 32, half = I.rotary / 2, count = p.count;
  const u32 group = I.heads / I.kv_heads, last_at = s.position % POSITIONS, stride = p.n * POSITIONS;
  const bool newest = p.run + 1 == p.runs;
  float* const weight = behind_places();
  float* const plain = weight + 2 * D;              // [head, then the key][D]
  float* const own = plain + (count + 1) * D;       // key, value
  float* const q = own + 2 * D;                     // [pair of heads][D][2]
  float* const e = q + (count + 1) / 2 * 2 * D;     // [head][tile, position]
  float* const added = e + count * stride;          // [head][D], of a block that has all tiles; of two tiles at once both
  float* const most = added + (count + 1) * D;      // [head]
  float* const sums = most + count;                 // [tile][head]
  float* const parts = behind_places() + split_behind(I, p);  // [lane of the scores' sums][of two heads][position]
  u64* const largest = (u64*)I.scratch;             // [head][run]
  u64* const told = largest + (u64)I.heads * blocks();                                // [kv head][tile][head of it][D]
  u64* const told_sums = told + (u64)I.heads * I.splits * D;                          // [kv head][tile][head of it]
  const u64 of_kv = (u64)p.kv * I.splits * group;

  // Heads and the key, 16 threads each: as they come, normed where they are; then turned.
  if (tid >= THREADS - D) own[D + tid - (THREADS - D)] = load((const float*)I.weight + p.kv * D + tid - (THREADS - D));
  if (I.codes) copies_there<PLACES - 1>();
  if (I.codes) sync();
  ROLLED for (u32 base = warp * 2; base <= count; base += WARPS * 2) {
    const u32 h = base + lane / 16, hh = h < count ? h : count;
    const float* from = hh < count ? (const float*)I.x + (p.head + hh) * D : (const float*)I.y + p.kv * D;
    float v[TILE_DIM / 16];
    UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) v[k] = 16 * k < D ? load(from + 16 * k + (lane & 15)) : 0.0f;
    if (I.codes) {
      float sum = 0.0f;
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
        if (16 * k < D) sum = sum + v[k] * v[k];
      }
      sum = fold(sum);
      const float r = inverse_of(from_bits((u32)broadcast16((i32)bits(sum))), D, I.eps);
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
        if (16 * k < D) v[k] = (v[k] * r) * weight[(hh < count ? 0 : D) + 16 * k + (lane & 15)];
      }
    }
    if (h > count) continue;
    UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
      if (16 * k < D) plain[h * D + 16 * k + (lane & 15)] = v[k];
    }
  }
  mark(0);
  sync();
  mark(1);
  ROLLED for (u32 i = tid; i < (count + 1) * D; i += THREADS) {
    const u32 h = i / D, d = i % D;
    // Beside the one that it turns with.
    const bool low = d < half, turns = d < 2 * half;
    const u32 j = turns ? (low ? d : d - half) : 0, other = turns ? (low ? d + half : j) : d;
    const float* const x = plain + h * D;
    const float v = x[d], a = v * s.cosine[j], b = x[other] * s.sine[j], turned = low ? a - b : a + b, y = turns ? turned : v;
    if (h == count) own[d] = y;
    else q[(h / 2 * D + d) * 2 + (h & 1)] = y;
  }
  mark(2);
  ROLLED for (u32 t = 0; t < p.n; t++) {
    wait_place(t, asked);
    mark(3);
    ask_place(I, p, t + PLACES - 1);
    const bool last = newest && t + 1 == p.n;
    // A warp has one of the 16 lanes of the sums, a thread two positions, for two heads at a time. The key of this step is not in
    // the tile.
    const u32 at = 2 * lane;
    const float* const keys = tile_place(t) + at;
    ROLLED for (u32 pair = 0; pair < count; pair += 2) {
      if (pair > 0) sync();
      Pair a = {0.0f, 0.0f}, b = {0.0f, 0.0f};
      // Four dimensions' at once.
      ROLLED for (u32 d0 = warp; d0 < D; d0 += 64) {
        Pair k[4], x[4];
        UNROLL for (u32 i = 0; i < 4; i++) {
          if (d0 + 16 * i < D) k[i] = *(const Pair*)(keys + (d0 + 16 * i) * POSITIONS);
        }
        UNROLL for (u32 i = 0; i < 4; i++) {
          if (d0 + 16 * i < D) x[i] = *(const Pair*)(q + pair * D + (d0 + 16 * i) * 2);
        }
        if (last && (at == last_at || at + 1 == last_at)) {
          UNROLL for (u32 i = 0; i < 4; i++) {
            const float mine = d0 + 16 * i < D ? own[d0 + 16 * i] : 0.0f;
            k[i] = {at == last_at ? mine : k[i].x, at == last_at ? k[i].y : mine};
          }
        }
        UNROLL for (u32 i = 0; i < 4; i++) {
          if (d0 + 16 * i < D) {
            a = {a.x + x[i].x * k[i].x, a.y + x[i].x * k[i].y};
            b = {b.x + x[i].y * k[i].x, b.y + x[i].y * k[i].y};
          }
        }
      }
      mark(10);
      *(Pair*)(parts + warp * 2 * POSITIONS + at) = a;
      *(Pair*)(parts + (warp * 2 + 1) * POSITIONS + at) = b;
      sync();
      mark(11);
      const u32 h = tid / POSITIONS;
      if (h < 2 && pair + h < count) {
        float l[16];
        UNROLL for (u32 k = 0; k < 16; k++) l[k] = parts[k * 2 * POSITIONS + tid];
        UNROLL for (u32 k = 0; k < 8; k++) l[k] = l[k] + l[k + 8];
        UNROLL for (u32 k = 0; k < 4; k++) l[k] = l[k] + l[k + 4];
        e[(pair + h) * stride + t * POSITIONS + tid % POSITIONS] = ((l[0] + l[2]) + (l[1] + l[3])) * I.scale;
      }
    }
  }
  mark(4);
  sync();
  // The largest of all blocks' keys, a warp a head.
  const u32 base = (p.from + p.low) * POSITIONS;
  const u32 low = p.first > base ? p.first - base : 0, high = newest ? stride - POSITIONS + last_at + 1 : stride;
  ROLLED for (u32 h = warp; h < count; h += WARPS) {
    u32 m = 0;
    ROLLED for (u32 i = low + lane; i < high; i += 32) {
      const u32 v = lifted(e[h * stride + i]);
      m = v > m ? v : m;
    }
    m = warp_max(m);
    if (p.runs > 1) {
      u64* const all = largest + (u64)(p.head + h) * blocks();
      if (lane == 0) publish(all + p.run, lowered(m), tag);
      ROLLED for (u32 c = lane; c < p.runs; c += 32) {
        const u32 v = lifted(receive(all + c, tag));
        m = v > m ? v : m;
      }
      sync_warp();
      m = warp_max(m);
    }
    if (lane == 0) most[h] = lowered(m);
  }
  mark(5);
  sync();
  ROLLED for (u32 h = 0; h < count; h++) {
    ROLLED for (u32 i = low + tid; i < high; i += THREADS) e[h * stride + i] = exp_f32(e[h * stride + i] - most[h]);
  }
  sync();
  ROLLED for (u32 at = warp * 2; at < p.n * count; at += WARPS * 2) {
    const u32 item = at + lane / 16, there = item < p.n * count ? item : 0, t = there / count, h = there % count;
    const u32 from = t * POSITIONS > low ? t * POSITIONS : low, to = (t + 1) * POSITIONS < high ? (t + 1) * POSITIONS : high;
    const float sum = sum_block(e + h * stride + from, to - from);
    if ((lane & 15) == 0 && item < p.n * count) {
      sums[there] = sum;
      if (p.runs > 1) publish(told_sums + of_kv + (u64)(p.low + t) * group + p.head % group + h, sum, tag);
    }
  }
  mark(6);
  // One head's two tiles at once.
  const bool both = p.runs == 1 && p.n == 2 && count == 1;
  ROLLED for (u32 t0 = 0; t0 < p.n; t0 += both ? 2 : 1) {
    if (both) {
      if (!bulk_copies()) copies_there<0>();
      wait_place(p.n, asked);
      if (bulk_copies()) wait_place(p.n + 1, asked);
    } else {
      wait_place(p.n + t0, asked);
    }
    mark(7);
    ask_place(I, p, p.n + t0 + PLACES - 1);
    ROLLED for (u32 i = tid; i < (both ? 2 : count) * D; i += THREADS) {
      const u32 d = i % D, h = both ? 0 : i / D, t = both ? i / D : t0;
      const u32 from = t * POSITIONS > low ? t * POSITIONS : low, to = (t + 1) * POSITIONS < high ? (t + 1) * POSITIONS : high;
      const float* const x = e + h * stride;
      const float* const y = tile_place(p.n + t) + d;
      // The value of this step is not in the tile.
      const bool last = newest && t + 1 == p.n;
      const u32 end = last ? to - 1 : to;
      float v = 0.0f;
      u32 j = from;
      ROLLED for (; j < end && j % 4 != 0; j++) v = v + x[j] * y[j % POSITIONS * D];
      ROLLED for (; j + 16 <= end; j += 16) {
        const float* const z = y + j % POSITIONS * D;
        float w[16], of[16];
        UNROLL for (u32 k = 0; k < 16; k += 4) {
          const Floats four = *(const Floats*)(x + j + k);
          w[k] = four.x, w[k + 1] = four.y, w[k + 2] = four.z, w[k + 3] = four.w;
        }
        UNROLL for (u32 k = 0; k < 16; k++) of[k] = z[k * D];
        UNROLL for (u32 k = 0; k < 16; k++) v = v + w[k] * of[k];
      }
      ROLLED for (; j < end; j++) v = v + x[j] * y[j % POSITIONS * D];
      if (last) v = v + x[end] * own[D + d];
      if (p.runs > 1) publish(told + (of_kv + (u64)(p.low + t) * group + p.head % group + h) * D + d, v, tag);
      else added[i] = t == 0 ? 0.0f + v : both ? v : added[i] + v;
    }
  }
  // The others need not wait for it.
  if (newest && tid < D && p.head % group == 0) {
    float* const to = (float*)s.share_tiles[p.n - 1] + ((u64)2 * I.layer * I.kv_heads + p.kv) * D * POSITIONS;
    to[tid * POSITIONS + last_at] = own[tid];
    to[((u64)I.kv_heads * POSITIONS + last_at) * D + tid] = own[D + tid];
  }
  mark(8);
  if (both) sync();
  if (p.runs == 1) {
    ROLLED for (u32 i = tid; i < count * D; i += THREADS) {
      float total = 0.0f;
      ROLLED for (u32 t = 0; t < p.n; t++) total = total + sums[t * count + i / D];
      ((float*)I.out)[p.head * D + i] = divide(both ? added[i] + added[D + i] : added[i], total);
    }
    return;
  }
  // Columns of the output, tile after tile.
  const u32 each = (count * D + p.runs - 1) / p.runs, c0 = p.run * each;
  const u32 mine = c0 >= count * D ? 0 : count * D - c0 < each ? count * D - c0 : each;
  float* const all_sums = (float*)pool();
  float* const all = all_sums + p.tiles * count;
  sync();
  ROLLED for (u32 i = tid; i < p.tiles * mine; i += THREADS) {
    const u32 c = c0 + i % mine;
    all[i] = receive(told + (of_kv + (u64)(i / mine) * group + p.head % group) * D + c, tag);
  }
  ROLLED for (u32 i = tid; i < p.tiles * count; i += THREADS)
    all_sums[i] = receive(told_sums + of_kv + (u64)(i / count) * group + p.head % group + i % count, tag);
  mark(9);
  sync();
  ROLLED for (u32 c = tid; c < mine; c += THREADS) {
    const u32 h = (c0 + c) / D;
    float total = 0.0f, out = 0.0f;
    UNROLL4 for (u32 t = 0; t < p.tiles; t++) {
      total = total + all_sums[t * count + h];
      out = out + all[t * mine + c];
    }
    ((float*)I.out)[p.head * D + c0 + c] = divide(out, total);
  }
}
