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
  if (i < 2 * p.n && (bulk_copies() ? thread_anew() == ASKER : thread_anew() < SPEAKER)) {
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
      ROLLED for (u32 at = thread_anew() * 4; at < floats; at += SPEAKER * 4) copy_ahead(to + at, from + at);
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
  const u32 tid = thread_anew(), half = I.rotary / 2;
  Share p = s.share;
  // Found once in a step, with what only the step decides.
  if (!(p.window == I.window && p.heads == I.heads && p.kv_heads == I.kv_heads && p.turned == half)) {
    p = block_share(I);
    sync();
    if (tid == 0) s.share = p;
    if (tid >= 64 && tid - 64 < p.n) s.share_tiles[tid - 64] = in.at<u64>(in.tables)[(u64)s.table_row * in.table_stride + p.from + p.low + tid - 64];
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

/** Heads' tiles that a block does at once, at most; a barrier of those with scores. */
constexpr u32 PARTS_AT_ONCE = 4, SCORES_MEET = 1;
/** Packets that a thread waits for at once, of values and of sums. */
constexpr u32 PACKETS = 4;

/** Has every block one tile, for few heads, or all that there is of one head? */
DEVICE bool all_at_once(const Share& p) {
  if (p.runs == 1) return p.count * p.n <= PARTS_AT_ONCE && (p.n == 1 || (p.n == 2 && p.count == 1));
  return p.runs == p.tiles && p.count <= PARTS_AT_ONCE && 2 * p.runs <= blocks();
}

/**
 * The rest of `attend_split` where `all_at_once`: few barriers, and scores stay with their threads until they are exponentials. A part is a head's
 * tile, of a head alone both. What lies where is as there; of the largest each run tells two.
 */
DEVICE Told attend_parts(const Instruction& I, u32 tag, u32 asked, const Gate& gate) {
  // Its fields are read where they are wanted: registers are few.
  Shared& s = shared();
  const Share& p = s.share;
  const u32 D = I.head_dim, tid = thread_anew(), lane = tid & 31, warp = tid / 32, count = p.count, n = p.n, runs = p.runs, all_parts = count * n;
  const u32 group = I.heads / I.kv_heads, last_at = s.position % POSITIONS;
  float* const own = behind_places() + (2 + count + 1) * D;
  const float* const q = own + 2 * D;
  float* const e = own + (2 + (count + 1) / 2 * 2) * D;  // [part][position]
  float* const sums = e + all_parts * POSITIONS;         // [part]
  float* const added = sums + PARTS_AT_ONCE;             // [D] of the second tile
  // Packets of values of the kv head's tile t, and of sums.
  auto told_of = [&](u32 t) { return (u64*)I.scratch + (u64)I.heads * blocks() + (((u64)p.kv * I.splits + t) * group + p.head % group) * D; };
  auto sums_of = [&](u32 t) {
    return (u64*)I.scratch + (u64)I.heads * blocks() + (u64)I.heads * I.splits * D + ((u64)p.kv * I.splits + t) * group + p.head % group;
  };
  const bool newest = p.run + 1 == runs;
  // Of a tile: where its first and its last positions are that count.
  auto low_of = [&](u32 t) {
    const u32 base = (p.from + p.low + t) * POSITIONS;
    return p.first > base ? p.first - base : 0;
  };
  auto high_of = [&](u32 t) { return newest && t + 1 == n ? last_at + 1 : POSITIONS; };
  // [part][lane of the sums][position]; one tile leaves places.
  float* const parts = n == 1 ? tile_place(2u) : behind_places() + split_behind(I, p);
  if (bulk_copies()) {
    if (n > 1) await_bulk(&s.arrivals[PLACES_ARRIVE + 1], asked >> (PLACES_ARRIVE + 1) & 1);
  } else {
    copies_there<0>();
  }
  wait_place(0u, asked);
  ask_place(I, p, PLACES - 1);
  mark(3);
  ROLLED for (u32 t = 0; t < n; t++) {
    // A warp has one of the 16 lanes of the sums, a thread two positions.
    const u32 at = 2 * lane;
    const float* const keys = tile_place(t) + warp * POSITIONS + at;
    Pair k[TILE_DIM / 16];
    UNROLL for (u32 i = 0; i < TILE_DIM / 16; i++) {
      if (16 * i < D) k[i] = *(const Pair*)(keys + 16 * i * POSITIONS);
    }
    if (newest && t + 1 == n) {
      // The key of this step is not in the tile.
      UNROLL for (u32 i = 0; i < TILE_DIM / 16; i++) {
        const float mine = 16 * i < D ? own[warp + 16 * i] : 0.0f;
        k[i] = {at == last_at ? mine : k[i].x, at + 1 == last_at ? mine : k[i].y};
      }
    }
    ROLLED for (u32 pair = 0; pair < count; pair += 2) {
      const float* const x = q + (pair * D + warp * 2);
      float* const to = parts + ((pair + t) * 16 + warp) * POSITIONS + at;
      Pair a = {0.0f, 0.0f}, b = {0.0f, 0.0f};
      if (pair + 1 < count) {
        UNROLL for (u32 i = 0; i < TILE_DIM / 16; i++) {
          if (16 * i < D) {
            const Pair of = *(const Pair*)(x + 32 * i);
            a = {a.x + of.x * k[i].x, a.y + of.x * k[i].y};
            b = {b.x + of.y * k[i].x, b.y + of.y * k[i].y};
          }
        }
        *(Pair*)(to + 16 * POSITIONS) = b;
      } else {
        UNROLL for (u32 i = 0; i < TILE_DIM / 16; i++) {
          if (16 * i < D) a = {a.x + x[32 * i] * k[i].x, a.y + x[32 * i] * k[i].y};
        }
      }
      *(Pair*)to = a;
    }
  }
  mark(10);
  sync();
  mark(11);
  if (warp < 2 * all_parts) {
    const u32 part = warp / 2, h = n == 1 ? part : 0, t = n == 1 ? 0 : part, at = tid % POSITIONS;
    float l[16];
    UNROLL for (u32 k = 0; k < 16; k++) l[k] = parts[(part * 16 + k) * POSITIONS + at];
    UNROLL for (u32 k = 0; k < 8; k++) l[k] = l[k] + l[k + 8];
    UNROLL for (u32 k = 0; k < 4; k++) l[k] = l[k] + l[k + 4];
    const float score = ((l[0] + l[2]) + (l[1] + l[3])) * I.scale;
    const bool there = at >= low_of(t) && at < high_of(t);
    u32 m = warp_max(there ? lifted(score) : 0);
    if (runs > 1) {
      u64* const all = (u64*)I.scratch + (u64)(p.head + h) * blocks();
      if (lane == 0) publish(all + 2 * p.run + (warp & 1), lowered(m), tag);
      ROLLED for (u32 c = lane; c < 2 * runs; c += 32) m = larger(m, lifted(receive(all + c, tag)));
      sync_warp();
    } else {
      if (lane == 0) s.largest[warp] = m;
      meet<SCORES_MEET>(all_parts * POSITIONS);
      // A head's.
      if (lane < 2 * n) m = larger(m, s.largest[2 * n * h + lane]);
    }
    m = warp_max(m);
    mark(5);
    if (there) e[part * POSITIONS + at] = exp_f32(score - lowered(m));
  } else if (newest && tid >= THREADS - D && p.head % group == 0) {
    const u32 d = tid - (THREADS - D);
    float* const to = (float*)s.share_tiles[n - 1] + ((u64)2 * I.layer * I.kv_heads + p.kv) * D * POSITIONS;
    to[d * POSITIONS + last_at] = own[d];
    to[((u64)I.kv_heads * POSITIONS + last_at) * D + d] = own[D + d];
  }
  if (bulk_copies() && tid == ASKER && gate.next() != nullptr && gate.next()->op == TERNARY) fetch_next(gate);
  if (bulk_copies()) {
    // Of one tile the second place has its values.
    if (n > 1) await_bulk(&s.arrivals[PLACES_ARRIVE + 3], asked >> (PLACES_ARRIVE + 3) & 1);
    await_bulk(&s.arrivals[PLACES_ARRIVE + n], asked >> (PLACES_ARRIVE + n) & 1);
  } else {
    copies_there<0>();
  }
  sync();
  mark(6);
  // The last warps have no values where there are few parts.
  if ((WARPS - 1 - warp) * 2 < all_parts) {
    const u32 part = (WARPS - 1 - warp) * 2 + lane / 16, there = part < all_parts ? part : 0, t = n == 1 ? 0 : there, low = low_of(t);
    const float sum = sum_block(e + there * POSITIONS + low, high_of(t) - low);
    if ((lane & 15) == 0 && part < all_parts) {
      if (runs > 1) publish(sums_of(p.low) + part, sum, tag);
      else sums[part] = sum;
    }
  }
  const u32 part = tid / TILE_DIM, d = tid % TILE_DIM;
  const bool weighs = part < all_parts && d < D;
  float v = 0.0f;
  if (weighs) {
    const u32 t = n == 1 ? 0 : part, low = low_of(t), high = high_of(t);
    const bool last = newest && t + 1 == n;
    const float* const x = e + part * POSITIONS;
    const float* const y = tile_place(n + t) + d;
    // The value of this step is not in the tile.
    const u32 end = last ? high - 1 : high;
    if (low == 0) {
      ROLLED for (u32 j = 0; j < POSITIONS; j += 16) {
        float w[16], of[16];
        UNROLL for (u32 k = 0; k < 16; k += 4) {
          const Floats four = *(const Floats*)(x + j + k);
          w[k] = four.x, w[k + 1] = four.y, w[k + 2] = four.z, w[k + 3] = four.w;
        }
        UNROLL for (u32 k = 0; k < 16; k++) of[k] = y[(j + k) * D];
        UNROLL for (u32 k = 0; k < 16; k++) {
          if (j + k < end) v = v + w[k] * of[k];
        }
      }
    } else {
      ROLLED for (u32 j = low; j < end; j++) v = v + x[j] * y[j * D];
    }
    if (last) v = v + x[end] * own[D + d];
    if (runs > 1) publish(told_of(p.low) + part * D + d, v, tag);
    else if (t == 1) added[d] = v;
  }
  mark(8);
  u32 writers;
  if (runs == 1) {
    sync();
    mark(7);
    writers = count * TILE_DIM;
    if (tid >= writers) return OTHERS;
    if (weighs) {
      v = 0.0f + v;
      float total = 0.0f + sums[part];
      if (n == 2) {
        v = v + added[d];
        total = total + sums[1];
      }
      ((float*)I.out)[(p.head + part) * D + d] = divide(v, total);
    }
  } else {
    // Columns of the output, tile after tile.
    const u32 each = (count * D + runs - 1) / runs, c0 = p.run * each;
    const u32 mine = c0 >= count * D ? 0 : count * D - c0 < each ? count * D - c0 : each;
    if (mine == 0) return UNTOLD;
    writers = (mine + 31) / 32 * 32;
    if (tid >= writers) return OTHERS;
    if (tid < mine) {
      const u32 c = c0 + tid, of = (c >= D) + (c >= 2 * D) + (c >= 3 * D);
      const u64 *values_at = told_of(0) + c, *sums_at = sums_of(0) + of;
      float total = 0.0f, out = 0.0f;
      ROLLED for (u32 t = 0; t < runs; t += PACKETS) {
        float values[PACKETS], weights[PACKETS];
        receive_both(values, values_at, group * D, weights, sums_at, group, runs - t, tag);
        values_at += PACKETS * group * D;
        sums_at += PACKETS * group;
        UNROLL for (u32 k = 0; k < PACKETS; k++) {
          if (t + k < runs) {
            total = total + weights[k];
            out = out + values[k];
          }
        }
      }
      mark(9);
      ((float*)I.out)[p.head * D + c] = divide(out, total);
    }
  }
  // Who copies for itself must not do so while others still read.
  if (bulk_copies()) gate.ends();
  meet<RESULTS>(writers);
  if (warp == 0) gate.done(lane == 0);
  return bulk_copies() ? SELF : OTHERS;
}

/** PARTS: in `attend_parts` where it can be; kernels of group-scaled products have no registers for it. */
template <bool PARTS> DEVICE Told attend_split(const Instruction& I, const Input& in, u32 tag, const Gate& gate) {
  Shared& s = shared();
  const u32 asked = s.asked;
  const Share p = split_ahead(I, in);
  mark(18);
  gate.pass();
  mark(19);
  if (p.n == 0) return UNTOLD;
  count_asked(asked, places_asked(p.n));
  const u32 D = I.head_dim, tid = thread_anew(), lane = tid & 31, warp = tid / 32, half = I.rotary / 2, count = p.count;
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

  // Heads, the key and the value, as they come or normed; all but the value turned.
  auto turn = [&](u32 h, u32 d, auto element) {
    // Beside the one that it turns with.
    const bool low = d < half, turns = h <= count && d < 2 * half;
    const u32 j = turns ? (low ? d : d - half) : 0, other = turns ? (low ? d + half : j) : d;
    const float v = element(d), w = element(other), a = v * s.cosine[j], b = w * s.sine[j], turned = low ? a - b : a + b, y = turns ? turned : v;
    if (h >= count) own[(h - count) * D + d] = y;
    else q[(h / 2 * D + d) * 2 + (h & 1)] = y;
  };
  auto row_of = [&](u32 h) { return h < count ? (const float*)I.x + (p.head + h) * D : (const float*)(h == count ? I.y : I.weight) + p.kv * D; };
  const u32 column = tid % TILE_DIM;
  if (!I.codes) {
    ROLLED for (u32 h = tid / TILE_DIM; h < count + 2; h += THREADS / TILE_DIM) {
      const float* const from = row_of(h);
      if (column < D) turn(h, column, [from](u32 d) { return load(from + d); });
    }
    mark(0);
  } else {
    // 16 threads each.
    if (tid >= THREADS - D) own[D + tid - (THREADS - D)] = load(row_of(count + 1) + tid - (THREADS - D));
    copies_there<PLACES - 1>();
    sync();
    ROLLED for (u32 base = warp * 2; base <= count; base += WARPS * 2) {
      const u32 h = base + lane / 16, hh = h < count ? h : count;
      const float* const from = row_of(hh);
      float v[TILE_DIM / 16];
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) v[k] = 16 * k < D ? load(from + 16 * k + (lane & 15)) : 0.0f;
      float sum = 0.0f;
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
        if (16 * k < D) sum = sum + v[k] * v[k];
      }
      sum = fold(sum);
      const float r = inverse_of(from_bits((u32)broadcast16((i32)bits(sum))), D, I.eps);
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
        if (16 * k < D) v[k] = (v[k] * r) * weight[(hh < count ? 0 : D) + 16 * k + (lane & 15)];
      }
      if (h > count) continue;
      UNROLL for (u32 k = 0; k < TILE_DIM / 16; k++) {
        if (16 * k < D) plain[h * D + 16 * k + (lane & 15)] = v[k];
      }
    }
    mark(0);
    sync();
    mark(1);
    ROLLED for (u32 h = tid / TILE_DIM; h <= count; h += THREADS / TILE_DIM) {
      const float* const x = plain + h * D;
      if (column < D) turn(h, column, [x](u32 d) { return x[d]; });
    }
  }
  mark(2);
  if (PARTS && all_at_once(p)) return attend_parts(I, tag, asked, gate);
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
  const bool both = !PARTS && p.runs == 1 && p.n == 2 && count == 1;
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
    return UNTOLD;
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
  return UNTOLD;
}
