// Attention of a step's only row as one instruction, for grids whose blocks run together: the blocks of a kv head share its
// heads and the cache's blocks (tiles of 64 positions). Each finds its scores, tells the others its largest, weighs its values,
// tells them the sums of every tile; then each adds up some of the output's columns, tile after tile from the lowest on.
//
// A block's keys, then its values, go through four places in shared memory, three of them on their way.
#pragma once

#include "attention.cuh"
#include "one-row.cuh"

/** A tile's rows of keys, so far apart that neither eight dimensions of four positions nor 16-byte copies meet in a bank. */
constexpr u32 KEY_STRIDE = POSITIONS + 4, PLACES = 4, PLACE_FLOATS = TILE_DIM * KEY_STRIDE;

DEVICE float* tile_place(u32 i) { return (float*)pool() + i % PLACES * PLACE_FLOATS; }
/** Behind the tiles: weights of the heads' norms, heads as they come, the key, the value, heads in pairs. */
DEVICE float* behind_places() { return (float*)pool() + PLACES * PLACE_FLOATS; }

/** Tile i of the block's keys (i < n), then of its values. */
DEVICE void ask_place(const Instruction& I, const Share& p, u32 i) {
  if (i < 2 * p.n && thread() < SPEAKER) {
    const bool values = i >= p.n;
    const float* from = (const float*)shared().share_tiles[values ? i - p.n : i];
    from += ((u64)(2 * I.layer + (values ? 1 : 0)) * I.kv_heads + p.kv) * I.head_dim * POSITIONS;
    float* const to = tile_place(i);
    const u32 vectors = I.head_dim * (POSITIONS / 4), gap = values ? 0 : KEY_STRIDE - POSITIONS;
    ROLLED for (u32 v = thread(); v < vectors; v += SPEAKER) copy_ahead(to + 4 * v + v / (POSITIONS / 4) * gap, from + 4 * v);
  }
  copies_asked();
}

/** Before the barrier: which share of the work is this block's, its first tiles, the rotation. */
DEVICE Share split_ahead(const Instruction& I, const Input& in) {
  Shared& s = shared();
  const u32 tid = thread(), group = I.heads / I.kv_heads, of_head = blocks() / I.kv_heads, half = I.rotary / 2;
  const u32 end = s.position + 1, first = I.window && end > I.window ? end - I.window : 0;
  Share p;
  p.first = first;
  p.from = first / POSITIONS;
  p.tiles = (s.position / POSITIONS) + 1 - p.from;
  // Few tiles leave blocks for few heads each.
  p.count = p.tiles * group <= of_head ? 1 : group % 2 == 0 && p.tiles * (group / 2) <= of_head ? 2 : group;
  const u32 parts = group / p.count, runs = of_head / parts, x = block() % of_head;
  const u32 per = (p.tiles + runs - 1) / runs;
  p.runs = (p.tiles + per - 1) / per;
  p.run = x / parts;
  p.kv = block() / of_head;
  p.head = p.kv * group + x % parts * p.count;
  p.low = p.run * per;
  p.n = p.kv < I.kv_heads && p.run < p.runs ? (p.tiles - p.low < per ? p.tiles - p.low : per) : 0;
  p.turned = half;
  // What only the step decides is asked for once in it.
  if (!(s.share.n == p.n && s.share.low == p.low && s.share.from == p.from && s.share.turned == half)) {
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
  ROLLED for (u32 i = 0; i + 1 < PLACES; i++) ask_place(I, p, i);
  return p;
}

DEVICE void attend_split(const Instruction& I, const Input& in, u32 tag, const Gate& gate) {
  Shared& s = shared();
  const Share p = split_ahead(I, in);
  mark(18);
  gate.pass();
  mark(19);
  if (p.n == 0) return;
  const u32 D = I.head_dim, tid = thread(), lane = tid & 31, warp = tid / 32, half = I.rotary / 2, count = p.count;
  const u32 group = I.heads / I.kv_heads, last_at = s.position % POSITIONS, stride = p.n * POSITIONS;
  const bool newest = p.run + 1 == p.runs;
  float* const weight = behind_places();
  float* const plain = weight + 2 * D;              // [head, then the key][D]
  float* const own = plain + (count + 1) * D;       // key, value
  float* const q = own + 2 * D;                     // [pair of heads][D][2]
  float* const e = q + (count + 1) / 2 * 2 * D;     // [head][tile, position]
  float* const added = e + count * stride;          // [head][D], of a block that has all tiles
  float* const most = added + count * D;            // [head]
  float* const sums = most + count;                 // [tile][head]
  u64* const largest = (u64*)I.scratch;             // [head][run]
  u64* const told = largest + (u64)I.heads * blocks();                                // [kv head][tile][head of it][D]
  u64* const told_sums = told + (u64)I.heads * I.splits * D;                          // [kv head][tile][head of it]
  const u64 of_kv = (u64)p.kv * I.splits * group;

  // Heads and the key, 16 threads each: as they come, normed where they are; then turned.
  if (tid >= THREADS - D) own[D + tid - (THREADS - D)] = load((const float*)I.weight + p.kv * D + tid - (THREADS - D));
  if (I.codes) copies_there<2>();
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
      const float r = divide(1.0f, root(divide(from_bits((u32)broadcast16((i32)bits(sum))), (float)D) + I.eps));
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
    copies_there<PLACES - 2>();
    sync();
    mark(3);
    ask_place(I, p, t + PLACES - 1);
    float* const keys = tile_place(t);
    if (newest && t + 1 == p.n) {
      if (tid < D) {
        keys[tid * KEY_STRIDE + last_at] = own[tid];
        if (p.head % group == 0) {
          float* const to = (float*)s.share_tiles[t] + ((u64)2 * I.layer * I.kv_heads + p.kv) * D * POSITIONS;
          to[tid * POSITIONS + last_at] = own[tid];
          to[((u64)I.kv_heads * POSITIONS + last_at) * D + tid] = own[D + tid];
        }
      }
      sync();
    }
    // A warp has four positions; eight threads share one, each with two of the 16 lanes of its sums, for two heads at a time.
    const u32 at = warp * 4 + (lane & 3), l = lane / 4;
    const float* const k = keys + l * KEY_STRIDE + at;
    ROLLED for (u32 pair = 0; pair < count; pair += 2) {
      const Pair* const x = (const Pair*)(q + pair * D) + l;
      float a[2] = {0.0f, 0.0f}, b[2] = {0.0f, 0.0f};
      UNROLL4 for (u32 d = 0; d < D; d += 16) {
        const float k0 = k[d * KEY_STRIDE], k1 = k[(d + 8) * KEY_STRIDE];
        const Pair x0 = x[d], x1 = x[d + 8];
        a[0] = a[0] + x0.x * k0;
        a[1] = a[1] + x0.y * k0;
        b[0] = b[0] + x1.x * k1;
        b[1] = b[1] + x1.y * k1;
      }
      UNROLL for (u32 h = 0; h < 2; h++) {
        float sum = a[h] + b[h];
        sum = sum + from_bits((u32)shuffle_xor((i32)bits(sum), 16));
        sum = sum + from_bits((u32)shuffle_xor((i32)bits(sum), 8));
        sum = sum + from_bits((u32)shuffle_xor((i32)bits(sum), 4));
        if (l == h && pair + h < count) e[(pair + h) * stride + t * POSITIONS + at] = sum * I.scale;
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
  ROLLED for (u32 t = 0; t < p.n; t++) {
    copies_there<PLACES - 2>();
    sync();
    mark(7);
    ask_place(I, p, p.n + t + PLACES - 1);
    float* const values = tile_place(p.n + t);
    if (newest && t + 1 == p.n) {
      if (tid < D) values[last_at * D + tid] = own[D + tid];
      sync();
    }
    const u32 from = t * POSITIONS > low ? t * POSITIONS : low, to = (t + 1) * POSITIONS < high ? (t + 1) * POSITIONS : high;
    ROLLED for (u32 i = tid; i < count * D; i += THREADS) {
      const u32 h = i / D, d = i % D;
      const float* const x = e + h * stride;
      const float* const y = values + d;
      float v = 0.0f;
      u32 j = from;
      ROLLED for (; j < to && j % 4 != 0; j++) v = v + x[j] * y[j % POSITIONS * D];
      UNROLL4 for (; j + 4 <= to; j += 4) {
        const Floats w = *(const Floats*)(x + j);
        const float* const z = y + j % POSITIONS * D;
        const float y0 = z[0], y1 = z[D], y2 = z[2 * D], y3 = z[3 * D];
        v = v + w.x * y0;
        v = v + w.y * y1;
        v = v + w.z * y2;
        v = v + w.w * y3;
      }
      ROLLED for (; j < to; j++) v = v + x[j] * y[j % POSITIONS * D];
      if (p.runs > 1) publish(told + (of_kv + (u64)(p.low + t) * group + p.head % group + h) * D + d, v, tag);
      else added[i] = t == 0 ? 0.0f + v : added[i] + v;
    }
  }
  mark(8);
  if (p.runs == 1) {
    ROLLED for (u32 i = tid; i < count * D; i += THREADS) {
      float total = 0.0f;
      ROLLED for (u32 t = 0; t < p.n; t++) total = total + sums[t * count + i / D];
      ((float*)I.out)[p.head * D + i] = divide(added[i], total);
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
