// Attention of steps with several rows. `ready` turns their heads and fills the cache; then either a sequence's rows share the
// keys and values that they see (`attend_rows`: prompts), or each row has its own (`attend_batch`: one token of many sequences).
// Both stream the cache through rings of shared memory, and multiply where every load serves several products: on CUDA cores,
// since every operation rounds once.
#pragma once

#include "attention.cuh"

/**
 * One phase for what comes before attention: of a fused instruction's fields (attention.cuh) x, y and weight are q, k and v of
 * all rows. 16 threads have a head: norm (`codes`, `weight2`: its weights, or 0), rotation, and k and v go to the cache. N: 16ths of
 * a head's dimensions, all of which are turned (or none).
 */
template <u32 N> APART void ready_rows(const Instruction& I, const Input& in) {
  constexpr u32 D = 16 * N, HALF = N / 2;
  const u32 lane = thread() & 15, slots = I.heads + 2 * I.kv_heads, all = I.rows * slots;
  const u32* positions = (const u32*)in.positions;
  const u32* table_rows = (const u32*)in.table_rows;
  for (u32 from = block() * (THREADS / 16); from < all; from += blocks() * (THREADS / 16)) {
    const u32 item = from + thread() / 16;
    const bool there = item < all;
    const u32 t = there ? item / slots : 0, slot = there ? item % slots : 0;
    const bool query = slot < I.heads, value = slot >= I.heads + I.kv_heads;
    const u32 head = query ? slot : value ? slot - I.heads - I.kv_heads : slot - I.heads;
    const float* x = query ? (const float*)I.x + (u64)t * I.x_stride : (const float*)(value ? I.weight : I.y) + (u64)t * I.y_stride;
    x += head * D + lane;
    const u32 position = positions[t], table_row = table_rows[t];
    float v[N];
    UNROLL for (u32 k = 0; k < N; k++) v[k] = load(x + 16 * k);
    const bool turned = I.rotary != 0 && !value;
    float c[HALF], s[HALF];
    UNROLL for (u32 k = 0; k < HALF; k++) {
      const u64 at = (u64)position * (D / 2) + lane + 16 * k;
      c[k] = turned ? ((const float*)I.cosine)[at] : 1.0f;
      s[k] = turned ? ((const float*)I.sine)[at] : 0.0f;
    }
    if (I.codes) {
      float sum = 0.0f;
      UNROLL for (u32 k = 0; k < N; k++) sum = sum + v[k] * v[k];
      sum = fold(sum);
      const float r = divide(1.0f, root(divide(from_bits((u32)broadcast16((i32)bits(sum))), (float)D) + I.eps));
      const float* weight = (const float*)(query ? I.codes : I.weight2) + lane;
      if (!value) {
        UNROLL for (u32 k = 0; k < N; k++) v[k] = (v[k] * r) * weight[16 * k];
      }
    }
    if (turned) {
      UNROLL for (u32 k = 0; k < HALF; k++) {
        const float a = v[k], b = v[k + HALF];
        v[k] = a * c[k] - b * s[k];
        v[k + HALF] = b * c[k] + a * s[k];
      }
    }
    if (!there) continue;
    if (query) {
      UNROLL for (u32 k = 0; k < N; k++) ((float*)x)[16 * k] = v[k];
    } else if (value) {
      float* to = value_at(I, in, table_row, head, position) + lane;
      UNROLL for (u32 k = 0; k < N; k++) to[16 * k] = v[k];
    } else {
      float* to = key_at(I, in, table_row, head, position) + (u64)lane * POSITIONS;
      UNROLL for (u32 k = 0; k < N; k++) to[16 * k * POSITIONS] = v[k];
    }
  }
}

DEVICE void ready(const Instruction& I, const Input& in) {
  if (I.head_dim == 32) ready_rows<2>(I, in);
  else if (I.head_dim == 64) ready_rows<4>(I, in);
  else ready_rows<8>(I, in);
}

// ---- a sequence's rows

/** Queries (rows times heads of a kv head) of a block. */
constexpr u32 QUERIES = 32;
/** Floats from dimension to dimension of queries, from position to position of exponentials: 16 bytes more than the queries. */
constexpr u32 QUERY_STRIDE = QUERIES + 4;
/** What is streamed at once: a quarter of the dimensions of two blocks' keys, or half a block's values; as many of them are there. */
constexpr u32 PIECE_FLOATS = TILE_DIM / 4 * 2 * POSITIONS, RING = 4;
/** Scores of a block of the cache. */
constexpr u32 BLOCK_SCORES = QUERIES * POSITIONS;

/**
 * A block has as many rows as make 32 queries with one kv head. First all scores, which go to the block's own scratch (by block of
 * the cache, position, query), and each query's largest; then block after block of values. A thread has 4 queries and 2 keys, then
 * 4 queries and 2 dimensions.
 *
 * A laneSum's lanes are gone through so that few are held at a time: a piece has the dimensions d with the same d % 4, which are four
 * lanes; their fold is ((d % 4 = 0) + (2)) + ((1) + (3)). A sum that begins with its first product, not with +0 + it, can differ in
 * the sign of a zero only: scores go through exp, blocks are added to +0, so that no result shows it.
 */
APART void attend_rows(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, each = QUERIES / group, tid = thread();
  const u32 lane = tid & 31, warp = tid / 32, q0 = lane / 4 * 4, pair = lane & 3;
  const u32 tiles = (I.rows + each - 1) / each, items = tiles * I.kv_heads;
  float* ring = (float*)pool();
  float* q = ring + RING * PIECE_FLOATS;  // [dimension][query]; later exponentials of two blocks
  u32* most = (u32*)(q + 2 * POSITIONS * QUERY_STRIDE);
  float* totals = (float*)(most + QUERIES);
  float* const scratch = (float*)I.scratch + (u64)block() * I.splits * BLOCK_SCORES;
  const u32* positions = (const u32*)in.positions;
  const u32* table_rows = (const u32*)in.table_rows;
  const u32 dims = D / 4;
  const float nothing = -from_bits(0x7f800000);
  for (u32 round = 0; round * blocks() < items; round++) {
    // The last rows, which see the most, first; who had more in one round has less in the next.
    const u32 item = round * blocks() + (round & 1 ? blocks() - 1 - block() : block());
    if (item >= items) continue;
    const u32 kv = item % I.kv_heads, from = (tiles - 1 - item / I.kv_heads) * each;
    const u32 to = from + each < I.rows ? from + each : I.rows;
    for (u32 t0 = from; t0 < to;) {
      // Rows of one sequence.
      u32 t1 = t0 + 1;
      while (t1 < to && table_rows[t1] == table_rows[t0]) t1++;
      const u32 rows = t1 - t0, queries = rows * group, table_row = table_rows[t0], p0 = positions[t0];
      const u32 end = p0 + rows, first = I.window && p0 + 1 > I.window ? p0 + 1 - I.window : 0;
      const u32 b0 = first / POSITIONS, b1 = (end + POSITIONS - 1) / POSITIONS;
      const u32 passes = (b1 - b0 + 1) / 2, key_pieces = 4 * passes, pieces = key_pieces + 2 * (b1 - b0);
      // Where the pieces are in the cache: found one piece ahead of being asked for.
      struct Place {
        const float *one, *two;
      };
      auto place_of = [&](u32 p) {
        Place place = {nullptr, nullptr};
        if (p < key_pieces) {
          const u32 b = b0 + p / 4 * 2;
          const u32 d = (p & 1) * 2 + (p >> 1 & 1);  // 0, 2, 1, 3
          place.one = key_at(I, in, table_row, kv, b * POSITIONS) + d * POSITIONS;
          if (b + 1 < b1) place.two = key_at(I, in, table_row, kv, (b + 1) * POSITIONS) + d * POSITIONS;
        } else if (p < pieces) {
          const u32 v = p - key_pieces;
          place.one = value_at(I, in, table_row, kv, (b0 + v / 2) * POSITIONS) + (v & 1) * (POSITIONS / 2) * D;
        }
        return place;
      };
      auto ask = [&](u32 p, const Place& place) {
        float* to = ring + p % RING * PIECE_FLOATS;
        if (p < key_pieces) {
          const u32 piece = tid & 31;
          const float* base = piece < 16 ? place.one : place.two;
          if (base != nullptr) {
            for (u32 i = tid / 32; i < dims; i += WARPS) {
              copy_ahead(to + i * 2 * POSITIONS + piece * 4, base + (u64)i * 4 * POSITIONS + (piece & 15) * 4);
            }
          }
        } else if (p < pieces) {
          for (u32 i = tid; i < POSITIONS / 2 * D / 4; i += THREADS) copy_ahead(to + 4 * i, place.one + 4 * i);
        }
        copies_asked();
      };
      UNROLL for (u32 p = 0; p < RING - 1; p++) ask(p, place_of(p));
      Place next = place_of(RING - 1);
      for (u32 i = tid; i < QUERIES * D; i += THREADS) {
        const u32 query = i / D, d = i % D;
        q[d * QUERY_STRIDE + query] =
            query < queries ? load((const float*)I.x + (u64)(t0 + query / group) * I.x_stride + (kv * group + query % group) * D + d) : 0.0f;
      }
      if (tid < QUERIES) most[tid] = 0;
      // What this thread's queries see: [begin, last].
      i32 begin[4], last[4];
      UNROLL for (u32 n = 0; n < 4; n++) {
        const i32 p = (i32)(p0 + (q0 + n) / group);
        last[n] = q0 + n < queries ? p : -1;
        begin[n] = I.window && p + 1 > (i32)I.window ? p + 1 - (i32)I.window : 0;
      }
      auto turn_ring = [&](u32 p) {
        copies_there<RING - 2>();
        sync();
        ask(p + RING - 1, next);
        next = place_of(p + RING);
      };
      u32 found[4] = {0, 0, 0, 0};
      float even[4][2], one[4][2];
      for (u32 p = 0; p < key_pieces; p++) {
        turn_ring(p);
        const u32 key = warp * 8 + pair * 2, at = (b0 + p / 4 * 2) * POSITIONS + key, low = at - pair * 2;
        if (low >= end || low + 8 <= first) continue;
        const float* keys = ring + p % RING * PIECE_FLOATS + key;
        const float* x = q + ((p & 1) * 2 + (p >> 1 & 1)) * QUERY_STRIDE + q0;
        // Lanes r, r + 4, r + 8, r + 12.
        float sum[4][4][2];
        auto step = [&](u32 i, u32 c, bool begins) {
          const Floats a = *(const Floats*)(x + (i + c) * 4 * QUERY_STRIDE);
          const Pair k = *(const Pair*)(keys + (i + c) * 2 * POSITIONS);
          const float as[4] = {a.x, a.y, a.z, a.w};
          UNROLL for (u32 n = 0; n < 4; n++) {
            sum[c][n][0] = begins ? as[n] * k.x : sum[c][n][0] + as[n] * k.x;
            sum[c][n][1] = begins ? as[n] * k.y : sum[c][n][1] + as[n] * k.y;
          }
        };
        const u32 here = D / 4;
        UNROLL for (u32 c = 0; c < 4; c++) {
          UNROLL for (u32 n = 0; n < 4; n++) sum[c][n][0] = sum[c][n][1] = 0.0f;
          if (c < here) step(0, c, true);
        }
        u32 i = 4;
        _Pragma("unroll 1") for (; i + 4 <= here; i += 4) {
          UNROLL for (u32 c = 0; c < 4; c++) step(i, c, false);
        }
        UNROLL for (u32 c = 0; c < 3; c++) {
          if (i + c < here) step(i, c, false);
        }
        UNROLL for (u32 n = 0; n < 4; n++) {
          UNROLL for (u32 k = 0; k < 2; k++) {
            const float r = (sum[0][n][k] + sum[2][n][k]) + (sum[1][n][k] + sum[3][n][k]);
            if ((p & 3) == 0) even[n][k] = r;
            else if ((p & 3) == 1) even[n][k] = even[n][k] + r;
            else if ((p & 3) == 2) one[n][k] = r;
            else one[n][k] = (even[n][k] + (one[n][k] + r)) * I.scale;
          }
        }
        if ((p & 3) < 3) continue;
        UNROLL for (u32 k = 0; k < 2; k++) {
          float score[4];
          UNROLL for (u32 n = 0; n < 4; n++) {
            const bool sees = (i32)(at + k) <= last[n] && (i32)(at + k) >= begin[n];
            score[n] = sees ? one[n][k] : nothing;
            const u32 v = sees ? lifted(score[n]) : 0;
            found[n] = v > found[n] ? v : found[n];
          }
          *(Floats*)(scratch + (u64)(at / POSITIONS - b0) * BLOCK_SCORES + (at + k) % POSITIONS * QUERIES + q0) = {score[0], score[1], score[2], score[3]};
        }
      }
      UNROLL for (u32 n = 0; n < 4; n++) {
        u32 v = found[n];
        u32 other = (u32)shuffle_xor((i32)v, 1);
        v = other > v ? other : v;
        other = (u32)shuffle_xor((i32)v, 2);
        v = other > v ? other : v;
        if (pair == 0) max_shared(most + q0 + n, v);
      }
      sync();
      // Exponentials: a position and 4 queries of a thread, asked for a block ahead.
      const u32 mine = tid / 8, e0 = tid % 8 * 4;
      float largest[4];
      UNROLL for (u32 n = 0; n < 4; n++) largest[n] = lowered(most[e0 + n]);
      Floats scores = load((const Floats*)(scratch + mine * QUERIES + e0));
      const u32 d0 = warp * 8 + pair * 2;
      float out[4][2], total = 0.0f;
      UNROLL for (u32 n = 0; n < 4; n++) out[n][0] = out[n][1] = 0.0f;
      // The sum of exponentials of a query: 16 threads, counted from the first position that it sees in the block.
      const u32 of = tid / 16, p_of = p0 + of / group, begin_of = I.window && p_of + 1 > I.window ? p_of + 1 - I.window : 0;
      for (u32 b = b0; b < b1; b++) {
        float* e = q + (b & 1) * POSITIONS * QUERY_STRIDE;
        const u32 low = first > b * POSITIONS ? first - b * POSITIONS : 0;
        const u32 high = end - b * POSITIONS < POSITIONS ? end - b * POSITIONS : POSITIONS;
        Floats w = {0.0f, 0.0f, 0.0f, 0.0f};
        if (mine >= low && mine < high)
          w = {exp_f32(scores.x - largest[0]), exp_f32(scores.y - largest[1]), exp_f32(scores.z - largest[2]), exp_f32(scores.w - largest[3])};
        *(Floats*)(e + mine * QUERY_STRIDE + e0) = w;
        if (b + 1 < b1) scores = load((const Floats*)(scratch + (u64)(b + 1 - b0) * BLOCK_SCORES + mine * QUERIES + e0));
        float x[4][2];
        UNROLL for (u32 n = 0; n < 4; n++) x[n][0] = x[n][1] = 0.0f;
        UNROLL for (u32 half = 0; half < 2; half++) {
          const u32 p = key_pieces + (b - b0) * 2 + half;
          turn_ring(p);
          if (half == 0) {
            const u32 skip = begin_of > b * POSITIONS ? begin_of - b * POSITIONS : 0;
            float s = 0.0f;
            UNROLL for (u32 k = 0; k < 4; k++) {
              const u32 i = skip + (tid & 15) + 16 * k;
              if (i < POSITIONS) s = s + e[i * QUERY_STRIDE + of];
            }
            total = total + fold(s);
          }
          if (d0 >= D) continue;
          constexpr u32 HALF = POSITIONS / 2;
          const u32 j0 = low > half * HALF ? low - half * HALF : 0, j1 = high < half * HALF ? 0 : high - half * HALF < HALF ? high - half * HALF : HALF;
          const float* values = ring + p % RING * PIECE_FLOATS + d0;
          const float* weights = e + half * HALF * QUERY_STRIDE + q0;
          auto step = [&](u32 j) {
            const Floats a = *(const Floats*)(weights + j * QUERY_STRIDE);
            const Pair v = *(const Pair*)(values + j * D);
            x[0][0] = x[0][0] + a.x * v.x;
            x[0][1] = x[0][1] + a.x * v.y;
            x[1][0] = x[1][0] + a.y * v.x;
            x[1][1] = x[1][1] + a.y * v.y;
            x[2][0] = x[2][0] + a.z * v.x;
            x[2][1] = x[2][1] + a.z * v.y;
            x[3][0] = x[3][0] + a.w * v.x;
            x[3][1] = x[3][1] + a.w * v.y;
          };
          u32 j = j0;
          _Pragma("unroll 1") for (; j + 8 <= j1; j += 8) {
            UNROLL for (u32 k = 0; k < 8; k++) step(j + k);
          }
          for (; j < j1; j++) step(j);
        }
        UNROLL for (u32 n = 0; n < 4; n++) {
          out[n][0] = out[n][0] + x[n][0];
          out[n][1] = out[n][1] + x[n][1];
        }
      }
      copies_there<0>();
      if ((tid & 15) == 0) totals[of] = total;
      sync();
      UNROLL for (u32 n = 0; n < 4; n++) {
        const u32 query = q0 + n;
        if (query >= queries || d0 >= D) continue;
        const float all = totals[query];
        *(Pair*)((float*)I.out + (u64)(t0 + query / group) * I.out_stride + (kv * group + query % group) * D + d0) = {divide(out[n][0], all),
                                                                                                          divide(out[n][1], all)};
      }
      t0 = t1;
    }
  }
}

// ---- a row of each sequence

/** Heads of a kv head that are multiplied together; four warps have one row's, and work on their own. */
constexpr u32 HEADS_AT_ONCE = 4;
/** Floats of a piece: 32 dimensions of a block's keys, or 16 positions of its values. */
constexpr u32 ROW_PIECE = 32 * POSITIONS, ROW_POSITIONS = 16;
/** Shared memory of four warps beside their ring: queries, two blocks' exponentials, what a thread tells another. */
constexpr u32 ROW_BYTES = (TILE_DIM * HEADS_AT_ONCE + 2 * POSITIONS * HEADS_AT_ONCE + POSITIONS * HEADS_AT_ONCE + 16) * 4;
DEVICE u32 four_bytes(u32 slots) { return slots * ROW_PIECE * 4 + ROW_BYTES; }

/** SLOTS: pieces in a ring. */
template <u32 SLOTS> APART void attend_batch_of(const Instruction& I, const Input& in) {
  constexpr u32 H = HEADS_AT_ONCE;
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, sets = (group + H - 1) / H;
  const u32 four = thread() / 128, tid = thread() % 128, lane = tid & 31, warp = tid / 32;
  float* ring = (float*)(pool() + four * four_bytes(SLOTS));
  float* q = ring + SLOTS * ROW_PIECE;             // [dimension][head]
  float* es = q + TILE_DIM * H;                    // of two blocks: [position][head]
  float* told = es + 2 * POSITIONS * H;            // [position][head]
  float* few = told + POSITIONS * H;               // largest by warp and head, then totals
  const u32 worker = four * blocks() + block(), workers = 4 * blocks();
  float* const scratch = (float*)I.scratch + (u64)worker * I.splits * POSITIONS * H;
  const u32 key_pieces_each = (D + 31) / 32;
  const float nothing = -from_bits(0x7f800000);
  for (u32 item = worker; item < I.rows * I.kv_heads * sets; item += workers) {
    const u32 t = item / (I.kv_heads * sets), kv = item / sets % I.kv_heads, h0 = item % sets * H;
    const u32 heads = group - h0 < H ? group - h0 : H;
    const Seen s = seen_by(I, in, t);
    const u32 b0 = s.first / POSITIONS, b1 = (s.end + POSITIONS - 1) / POSITIONS;
    const u32 key_pieces = (b1 - b0) * key_pieces_each, pieces = key_pieces + (b1 - b0) * (POSITIONS / ROW_POSITIONS);
    auto place_of = [&](u32 p) {
      if (p < key_pieces)
        return (const float*)key_at(I, in, s.table_row, kv, (b0 + p / key_pieces_each) * POSITIONS) + p % key_pieces_each * ROW_PIECE;
      const u32 v = p - key_pieces;
      return p < pieces ? (const float*)value_at(I, in, s.table_row, kv, (b0 + v / 4) * POSITIONS) + v % 4 * ROW_POSITIONS * D : nullptr;
    };
    auto ask = [&](u32 p, const float* from) {
      float* to = ring + p % SLOTS * ROW_PIECE;
      u32 n = p < pieces ? ROW_POSITIONS * D / 4 : 0;
      if (p < key_pieces) {
        const u32 left = D - p % key_pieces_each * 32;
        n = (left < 32 ? left : 32) * POSITIONS / 4;
      }
      for (u32 i = tid; i < n; i += 128) copy_ahead(to + 4 * i, from + 4 * i);
      copies_asked();
    };
    UNROLL for (u32 p = 0; p < SLOTS - 1; p++) ask(p, place_of(p));
    const float* next = place_of(SLOTS - 1);
    for (u32 i = tid; i < H * D; i += 128) {
      const u32 h = i / D, d = i % D;
      q[d * H + h] = h < heads ? load((const float*)I.x + (u64)t * I.x_stride + (kv * group + h0 + h) * D + d) : 0.0f;
    }
    auto turn_ring = [&](u32 p) {
      copies_there<SLOTS - 2>();
      sync_four(four);
      ask(p + SLOTS - 1, next);
      next = place_of(p + SLOTS);
    };
    // Scores: a thread has a key and every second of the 16 lanes.
    const u32 key = tid % POSITIONS, part = tid / POSITIONS;
    u32 found[H];
    UNROLL for (u32 h = 0; h < H; h++) found[h] = 0;
    u32 p = 0;
    for (u32 b = b0; b < b1; b++) {
      float sum[8][H];
      UNROLL for (u32 l = 0; l < 8; l++) {
        UNROLL for (u32 h = 0; h < H; h++) sum[l][h] = 0.0f;
      }
      for (u32 k = 0; k < key_pieces_each; k++, p++) {
        turn_ring(p);
        const float* keys = ring + p % SLOTS * ROW_PIECE + part * POSITIONS + key;
        const float* x = q + (k * 32 + part) * H;
        UNROLL for (u32 half = 0; half < 2; half++) {
          UNROLL for (u32 l = 0; l < 8; l++) {
            const u32 d = half * 16 + 2 * l;
            if (k * 32 + d + part < D) {
              const Floats a = *(const Floats*)(x + d * H);
              const float v = keys[d * POSITIONS];
              sum[l][0] = sum[l][0] + a.x * v;
              sum[l][1] = sum[l][1] + a.y * v;
              sum[l][2] = sum[l][2] + a.z * v;
              sum[l][3] = sum[l][3] + a.w * v;
            }
          }
        }
      }
      float r[H];
      UNROLL for (u32 h = 0; h < H; h++) r[h] = ((sum[0][h] + sum[4][h]) + (sum[2][h] + sum[6][h])) + ((sum[1][h] + sum[5][h]) + (sum[3][h] + sum[7][h]));
      if (part == 1) *(Floats*)(told + key * H) = {r[0], r[1], r[2], r[3]};
      sync_four(four);
      if (part == 1) continue;
      const Floats other = *(const Floats*)(told + key * H);
      const float others[H] = {other.x, other.y, other.z, other.w};
      const u32 at = b * POSITIONS + key;
      const bool sees = at >= s.first && at < s.end;
      UNROLL for (u32 h = 0; h < H; h++) {
        r[h] = sees ? (r[h] + others[h]) * I.scale : nothing;
        const u32 v = sees ? lifted(r[h]) : 0;
        found[h] = v > found[h] ? v : found[h];
      }
      *(Floats*)(scratch + (u64)(b - b0) * POSITIONS * H + key * H) = {r[0], r[1], r[2], r[3]};
    }
    UNROLL for (u32 h = 0; h < H; h++) {
      const u32 v = warp_max(found[h]);
      if (lane == 0 && part == 0) ((u32*)few)[warp * H + h] = v;
    }
    sync_four(four);
    // Values: a thread has a dimension of all heads; exponentials are two heads' of a position.
    const u32 e0 = part * 2;
    float largest[2];
    UNROLL for (u32 k = 0; k < 2; k++) {
      const u32 a = ((const u32*)few)[e0 + k], b = ((const u32*)few)[H + e0 + k];
      largest[k] = lowered(a > b ? a : b);
    }
    float out[H], total = 0.0f;
    UNROLL for (u32 h = 0; h < H; h++) out[h] = 0.0f;
    const u32 of = tid / 16;
    const float* mine = scratch + key * H + e0;
    float score[2] = {load(mine), load(mine + 1)};
    for (u32 b = b0; b < b1; b++) {
      float* e = es + (b & 1) * POSITIONS * H;
      const u32 low = s.first > b * POSITIONS ? s.first - b * POSITIONS : 0;
      const u32 high = s.end - b * POSITIONS < POSITIONS ? s.end - b * POSITIONS : POSITIONS;
      Pair w = {0.0f, 0.0f};
      if (key >= low && key < high) w = {exp_f32(score[0] - largest[0]), exp_f32(score[1] - largest[1])};
      *(Pair*)(e + key * H + e0) = w;
      if (b + 1 < b1) {
        const float* later = mine + (u64)(b + 1 - b0) * POSITIONS * H;
        score[0] = load(later);
        score[1] = load(later + 1);
      }
      float x[H];
      UNROLL for (u32 h = 0; h < H; h++) x[h] = 0.0f;
      for (u32 k = 0; k < POSITIONS / ROW_POSITIONS; k++, p++) {
        turn_ring(p);
        if (k == 0 && tid < 64) {
          float sum = 0.0f;
          UNROLL for (u32 n = 0; n < 4; n++) {
            const u32 i = low + (tid & 15) + 16 * n;
            if (i < POSITIONS) sum = sum + e[i * H + of];
          }
          total = total + fold(sum);
        }
        if (tid >= D) continue;
        const float* values = ring + p % SLOTS * ROW_PIECE + tid;
        const float* weights = e + k * ROW_POSITIONS * H;
        const u32 j0 = low > k * ROW_POSITIONS ? low - k * ROW_POSITIONS : 0;
        const u32 j1 = high < k * ROW_POSITIONS ? 0 : high - k * ROW_POSITIONS;
        auto step = [&](u32 j) {
          const Floats a = *(const Floats*)(weights + j * H);
          const float v = values[j * D];
          x[0] = x[0] + a.x * v;
          x[1] = x[1] + a.y * v;
          x[2] = x[2] + a.z * v;
          x[3] = x[3] + a.w * v;
        };
        if (j0 == 0 && j1 >= ROW_POSITIONS) {
          UNROLL for (u32 j = 0; j < ROW_POSITIONS; j++) step(j);
        } else {
          for (u32 j = j0; j < j1 && j < ROW_POSITIONS; j++) step(j);
        }
      }
      UNROLL for (u32 h = 0; h < H; h++) out[h] = out[h] + x[h];
    }
    copies_there<0>();
    if (tid < 64 && (tid & 15) == 0) few[2 * H + of] = total;
    sync_four(four);
    if (tid < D) {
      UNROLL for (u32 h = 0; h < H; h++) {
        if (h < heads) ((float*)I.out)[(u64)t * I.out_stride + (kv * group + h0 + h) * D + tid] = divide(out[h], few[2 * H + h]);
      }
    }
  }
}

DEVICE void attend_batch(const Instruction& I, const Input& in) {
  if (POOL_AT + 4 * four_bytes(3) <= shared_size()) attend_batch_of<3>(I, in);
  else attend_batch_of<2>(I, in);
}
