// Attention of steps with several rows. `ready` turns their heads and fills the cache; then either a sequence's rows share the
// keys and values that they see (`attend_rows`: prompts), or each row has its own (`attend_batch`: one token of many sequences).
// Both stream the cache through rings of shared memory, and multiply where every load serves several products: on CUDA cores,
// since every operation rounds once.
#pragma once

#include "attention.cuh"

/** What comes before attention: 16 threads have a head of a row's queries, of its key or of its value. */
enum Slot : u32 { QUERY, KEY, VALUE };

/** Rotation of a head's elements lane, lane + 16, ...: N 16ths of its dimensions, all of which are turned (or none). */
template <u32 N> struct Turn {
  float c[N / 2], s[N / 2];
};
template <u32 N> DEVICE Turn<N> turn_of(const Instruction& I, u32 position, bool turned) {
  Turn<N> turn;
  UNROLL for (u32 k = 0; k < N / 2; k++) {
    const u64 at = (u64)position * (8 * N) + (thread() & 15) + 16 * k;
    turn.c[k] = turned ? ((const float*)I.cosine)[at] : 1.0f;
    turn.s[k] = turned ? ((const float*)I.sine)[at] : 0.0f;
  }
  return turn;
}

/** Head `head` of row t; of a fused instruction's fields (attention.cuh). */
template <u32 N> DEVICE void load_head(const Instruction& I, u32 t, u32 slot, u32 head, float (&v)[N]) {
  const float* x = slot == QUERY ? (const float*)I.x + (u64)t * I.x_stride : (const float*)(slot == VALUE ? I.weight : I.y) + (u64)t * I.y_stride;
  x += head * 16 * N + (thread() & 15);
  UNROLL for (u32 k = 0; k < N; k++) v[k] = load(x + 16 * k);
}
/** The head normed (`codes`, `weight2`: the norms' weights, or 0) and turned. */
template <u32 N> DEVICE void turn_head(const Instruction& I, u32 slot, const Turn<N>& turn, float (&v)[N]) {
  constexpr u32 D = 16 * N, HALF = N / 2;
  const u32 lane = thread() & 15;
  if (I.codes) {
    float sum = 0.0f;
    UNROLL for (u32 k = 0; k < N; k++) sum = sum + v[k] * v[k];
    sum = fold(sum);
    const float r = inverse_of(from_bits((u32)broadcast16((i32)bits(sum))), D, I.eps);
    const float* weight = (const float*)(slot == QUERY ? I.codes : I.weight2) + lane;
    if (slot != VALUE) {
      UNROLL for (u32 k = 0; k < N; k++) v[k] = (v[k] * r) * weight[16 * k];
    }
  }
  if (I.rotary == 0 || slot == VALUE) return;
  UNROLL for (u32 k = 0; k < HALF; k++) {
    const float a = v[k], b = v[k + HALF];
    v[k] = a * turn.c[k] - b * turn.s[k];
    v[k + HALF] = b * turn.c[k] + a * turn.s[k];
  }
}

template <u32 N> DEVICE void ready_head(const Instruction& I, u32 t, u32 slot, u32 head, const Turn<N>& turn, float (&v)[N]) {
  load_head<N>(I, t, slot, head, v);
  turn_head<N>(I, slot, turn, v);
}

/** Where a thread's first element of a key or value goes in the cache. */
DEVICE float* place_of_head(const Instruction& I, const Input& in, u32 table_row, u32 slot, u32 head, u32 position) {
  const u32 lane = thread() & 15;
  return slot == VALUE ? value_at(I, in, table_row, head, position) + lane : key_at(I, in, table_row, head, position) + (u64)lane * POSITIONS;
}
template <u32 N> DEVICE void append_head(float* to, u32 slot, const float (&v)[N]) {
  const u32 step = slot == VALUE ? 16 : 16 * POSITIONS;
  UNROLL for (u32 k = 0; k < N; k++) to[k * step] = v[k];
}

/** All rows' heads: queries in place (none where attention turns them), keys and values to the cache. Two of a thread's are on their way at once. */
template <u32 N> APART void ready_rows(const Instruction& I, const Input& in) {
  const u32 slots = I.heads + 2 * I.kv_heads, all = I.rows * slots, step = blocks() * (THREADS / 16), first = block() * (THREADS / 16);
  const u32* positions = in.at<u32>(in.positions);
  const u32* table_rows = in.at<u32>(in.table_rows);
  ROLLED for (u32 from = first; from < all || from == first; from += 2 * step) {
    u32 t[2], slot[2], head[2], position[2];
    bool there[2];
    float* to[2];
    Turn<N> turn[2];
    float v[2][N];
    UNROLL for (u32 k = 0; k < 2; k++) {
      const u32 item = from + k * step + thread() / 16;
      there[k] = item < all;
      t[k] = there[k] ? item / slots : 0;
      const u32 at = there[k] ? item % slots : 0;
      slot[k] = at < I.heads ? QUERY : at < I.heads + I.kv_heads ? KEY : VALUE;
      head[k] = slot[k] == QUERY ? at : slot[k] == KEY ? at - I.heads : at - I.heads - I.kv_heads;
      position[k] = positions[t[k]];
    }
    UNROLL for (u32 k = 0; k < 2; k++) {
      turn[k] = turn_of<N>(I, position[k], I.rotary != 0 && slot[k] != VALUE);
      to[k] = slot[k] == QUERY ? (float*)I.x + (u64)t[k] * I.x_stride + head[k] * 16 * N + (thread() & 15)
                               : place_of_head(I, in, table_rows[t[k]], slot[k], head[k], position[k]);
    }
    if (from == first) wait_for_earlier();
    UNROLL for (u32 k = 0; k < 2; k++) load_head<N>(I, t[k], slot[k], head[k], v[k]);
    UNROLL for (u32 k = 0; k < 2; k++) {
      turn_head<N>(I, slot[k], turn[k], v[k]);
      if (!there[k]) continue;
      if (slot[k] != QUERY) {
        append_head<N>(to[k], slot[k], v[k]);
        continue;
      }
      UNROLL for (u32 i = 0; i < N; i++) to[k][16 * i] = v[k][i];
    }
  }
}

/** Nobody has waited for the kernel before. */
DEVICE void ready(const Instruction& I, const Input& in) {
  if (I.head_dim == 32) ready_rows<2>(I, in);
  else if (I.head_dim == 64) ready_rows<4>(I, in);
  else ready_rows<8>(I, in);
}

// ---- a sequence's rows

/** Threads of the kernel, each with twice the registers of others; of four warps, which work on their own. */
constexpr u32 ROWS_THREADS = 256, ROWS_FOUR = ROWS_THREADS / 2;
/** Queries (rows times heads of a kv head) of four warps, at most; where a thread has 4 of them instead of 8 half as many. */
constexpr u32 QUERIES = 32;
/** Floats from dimension to dimension of queries, from position to position of exponentials: 16 bytes more than the queries. */
constexpr u32 query_stride(u32 queries) { return queries + 4; }
/** Keys come in quarters of their dimensions: those that are even, then the odd ones behind them, QUARTER_DIMS each. */
constexpr u32 QUARTER_DIMS = TILE_DIM / 8, QUARTER_FLOATS = 2 * QUARTER_DIMS * POSITIONS;
/** Scores of a block of the cache, as exponentials lie. */
constexpr u32 block_scores(u32 queries) { return POSITIONS * query_stride(queries); }
/**
 * Shared memory of four warps. PARTS: in how many pieces a block's keys are streamed, and its values; PLACES: pieces that are there at once.
 * One part is the block as it lies in the cache, which one thread asks for.
 */
template <u32 PARTS, u32 PLACES> struct alignas(128) RowsFour {
  /** Where a block's last keys were its scores' halves are told. */
  float ring[PLACES][4 / PARTS * QUARTER_FLOATS];
  /** [dimension][query]; later scores and exponentials of two blocks, [position][query]; then results by thread. */
  float q[2 * block_scores(QUERIES)];
  u32 most[QUERIES];
  float totals[QUERIES];
  /** The first position that a query sees, and how many behind it. */
  u32 begin[QUERIES], behind[QUERIES];
  /** Of the ring's places, and of the first scores. */
  u64 arrivals[PLACES + 1];
};
static_assert(TILE_DIM <= 2 * POSITIONS, "queries lie where exponentials do");
static_assert(QUARTER_FLOATS >= 16 * ROWS_FOUR, "a thread tells another 16 scores");
static_assert(2 * block_scores(QUERIES) >= QUERIES * TILE_DIM && 2 * block_scores(QUERIES / 2) >= QUERIES / 2 * TILE_DIM, "results lie where exponentials did");
/** What four warps have asked for so far: pieces, and tiles' first scores; whether it has waited for the kernel before. */
struct Asked {
  u32 pieces, tiles;
  bool waited;
};

/** Where the blocks of one kv head of a layer are. */
struct Cached {
  const u64* table;
  u64 keys, values;
  DEVICE_MEMBER const float* keys_of(u32 b) const { return (const float*)(table[b] + keys); }
  DEVICE_MEMBER const float* values_of(u32 b) const { return (const float*)(table[b] + values); }
};
DEVICE Cached cached(const Instruction& I, const Input& in, u32 table_row, u32 kv) {
  const u64 head = (u64)I.head_dim * POSITIONS * 4, first = ((u64)I.layer * 2 * I.kv_heads + kv) * head;
  return {in.at<u64>(in.tables) + (u64)table_row * in.table_stride, first, first + I.kv_heads * head};
}

/** R queries by 4 keys or dimensions. */
template <u32 R> using Sums = float[R][4];
/** What a step of a sum takes. */
template <u32 R> struct Factors {
  Floats a[R / 4], b;
  DEVICE_MEMBER float product(u32 n, u32 k) const { return part(a[n / 4], n % 4) * part(b, k); }
  DEVICE_MEMBER static float part(const Floats& v, u32 k) { return k == 0 ? v.x : k == 1 ? v.y : k == 2 ? v.z : v.w; }
};
template <u32 R> DEVICE Factors<R> factors_at(const float* queries, const float* others) {
  Factors<R> f;
  UNROLL for (u32 i = 0; i < R / 4; i++) f.a[i] = ((const Floats*)queries)[i];
  f.b = *(const Floats*)others;
  return f;
}
template <u32 R> DEVICE void add_products(Sums<R>& sum, const Factors<R>& f) {
  UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = sum[k / 4][k % 4] + f.product(k / 4, k % 4);
}
template <u32 R> DEVICE void add_all(Sums<R>& sum, const Sums<R>& other) {
  UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = sum[k / 4][k % 4] + other[k / 4][k % 4];
}
template <u32 R> DEVICE void set_all(Sums<R>& sum, const Sums<R>& other) {
  UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = other[k / 4][k % 4];
}
template <u32 R> DEVICE void set_all(Sums<R>& sum, float to) {
  UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = to;
}
/** Adds the products of `n` steps, `one` the first, of the even ones to `even`. The next step's factors are on their way while one is added. */
template <u32 R, class Next> DEVICE void add_steps(Sums<R>& even, Sums<R>& odd, Factors<R> one, u32 n, const Next& next) {
  ROLLED for (; n >= 2; n -= 2) {
    const Factors<R> two = next();
    add_products<R>(even, one);
    one = next();
    add_products<R>(odd, two);
  }
  if (n > 0) add_products<R>(even, one);
}
/**
 * Products of R queries and 4 keys, of every eighth dimension, `n` of them, at least two: lanes r and r + 8 of the laneSum, and their sum.
 * Each begins with its first product: that it may be -0 where 0 and it were 0 makes no difference to exponentials. KEY_STEP: floats
 * between the dimensions' keys.
 */
template <u32 R, u32 KEY_STEP> DEVICE void two_lanes(Sums<R>& sum, const float* x, const float* keys, u32 n) {
  Sums<R> other;
  auto next = [&]() {
    const Factors<R> f = factors_at<R>(x, keys);
    x += 8 * query_stride(4 * R);
    keys += KEY_STEP;
    return f;
  };
  const Factors<R> zero = next(), one = next();
  UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = zero.product(k / 4, k % 4);
  const Factors<R> two = next();
  UNROLL for (u32 k = 0; k < 4 * R; k++) other[k / 4][k % 4] = one.product(k / 4, k % 4);
  add_steps<R>(sum, other, two, n - 2, next);
  add_all<R>(sum, other);
}

/** Rows t0.. of one sequence, `rows` of them, and a kv head, by four warps: their thread `tid`, with R queries. */
template <u32 R, u32 PARTS, u32 PLACES>
DEVICE void attend_tile(const Instruction& I, const Input& in, RowsFour<PARTS, PLACES>& mine, Asked& before, u32 four, u32 tid, u32 t0, u32 rows, u32 kv, float* scratch) {
  constexpr bool BULK = PARTS == 1;
  static_assert(PARTS == 1 || PARTS == 4, "a piece is all of a block's keys or a quarter");
  constexpr u32 PIECE_POSITIONS = POSITIONS / PARTS, QUERIES = 4 * R, QUERY_STRIDE = query_stride(QUERIES), BLOCK_SCORES = block_scores(QUERIES);
  // Of a thread: vectors of 4 queries' exponentials of a block, and sums of them.
  constexpr u32 EXPONENTS = QUERIES * POSITIONS / 4 / ROWS_FOUR, TOTALS = QUERIES * 16 / ROWS_FOUR;
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, lane = tid & 31, warp = tid / 32;
  // Of scores two warps have the even dimensions, two the odd ones, each with half of a block's keys.
  const u32 parity = warp / 2, q0 = lane / 8 * R, k0 = (warp & 1) * 32 + (lane & 7) * 4;
  const u32 queries = rows * group, p0 = in.at<u32>(in.positions)[t0];
  const u32 end = p0 + rows, first = I.window && p0 + 1 > I.window ? p0 + 1 - I.window : 0;
  const u32 b0 = first / POSITIONS, b1 = (end + POSITIONS - 1) / POSITIONS;
  const u32 key_pieces = PARTS * (b1 - b0), pieces = 2 * key_pieces, base = before.pieces;
  const Cached from = cached(I, in, in.at<u32>(in.table_rows)[t0], kv);
  // Quarter i of four: dimensions d with d % 8 = 0, 4, 2, 6, and those behind them.
  auto residue = [](u32 i) { return (i & 1) << 2 | (i & 2); };
  // Where the next piece is in the cache is looked up one piece ahead of asking for it.
  const u32 column = tid & 15, line = tid / 16;
  auto place_of = [&](u32 p) -> const float* {
    if (p < key_pieces) return from.keys_of(b0 + p / PARTS) + (BULK ? 0 : 8 * line * POSITIONS + column * 4);
    const u32 v = p - key_pieces;
    return p < pieces ? from.values_of(b0 + v / PARTS) + v % PARTS * PIECE_POSITIONS * D : nullptr;
  };
  auto slot_of = [&](u32 p) { return (base + p) % PLACES; };
  auto high_of = [&](u32 b) { return end - b * POSITIONS < POSITIONS ? end - b * POSITIONS : POSITIONS; };
  auto scores_of = [&](u32 b) { return scratch + (u64)(b - b0) * BLOCK_SCORES; };
  auto exponentials_of = [&](u32 b) { return mine.q + (b - b0 & 1) * BLOCK_SCORES; };
  auto copy_all = [&](float* to, const float* from, u32 floats) {
    ROLLED for (u32 i = tid; i < floats / 4; i += ROWS_FOUR) copy_ahead(to + 4 * i, from + 4 * i);
  };
  // The values of a block but the first come with its scores.
  auto ask = [&](u32 p, const float* place) {
    float* to = mine.ring[slot_of(p)];
    const u32 v = p - key_pieces, b = b0 + v / PARTS;
    const bool scores = p >= key_pieces && v % PARTS == 0 && b > b0;
    if (BULK) {
      if (tid != 0 || place == nullptr) return;
      u64* const arrival = &mine.arrivals[slot_of(p)];
      const u32 bytes = p < key_pieces ? D * POSITIONS * 4 : high_of(b) * D * 4;
      expect(arrival, bytes + (scores ? BLOCK_SCORES * 4 : 0));
      copy_bulk(to, place, bytes, arrival);
      if (scores) copy_bulk(exponentials_of(b), scores_of(b), BLOCK_SCORES * 4, arrival);
      return;
    }
    if (p < key_pieces) {
      // Even dimensions, then the odd ones.
      UNROLL for (u32 k = 0; k < 4; k++) {
        const u32 odd = k / 2 & 1, far = k & 1, d = residue(p % PARTS) + odd + 64 * far;
        if (d + 8 * line < D) copy_ahead(to + (odd * QUARTER_DIMS + line + 8 * far) * POSITIONS + column * 4, place + d * POSITIONS);
      }
    } else if (place != nullptr) {
      copy_all(to, place, PIECE_POSITIONS * D);
      if (scores) copy_all(exponentials_of(b), scores_of(b), BLOCK_SCORES);
    }
    copies_asked();
  };
  const u32 query = tid % QUERIES, dim = tid / QUERIES * 4;
  constexpr u32 STEP = ROWS_FOUR / QUERIES * 4, VECTORS = TILE_DIM / STEP;
  // Queries that are turned here: a thread has both elements of a pair.
  const u32 turning = query < queries && I.rotary ? D / 2 : 0;
  Floats c[VECTORS / 2], s[VECTORS / 2];
  UNROLL for (u32 k = 0; k < VECTORS / 2; k++) {
    const u64 at = (u64)(p0 + query / group) * turning + dim + k * STEP;
    c[k] = s[k] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (dim + k * STEP < turning) c[k] = *(const Floats*)((const float*)I.cosine + at), s[k] = *(const Floats*)((const float*)I.sine + at);
  }
  const float* ahead[PLACES];
  UNROLL for (u32 p = 0; p < PLACES; p++) ahead[p] = place_of(p);
  if (!before.waited) {
    wait_for_earlier();
    // Keys and values of this step's rows.
    if (BULK) before_bulk_of_all();
    before.waited = true;
  }
  UNROLL for (u32 p = 0; p < PLACES - 1; p++) ask(p, ahead[p]);
  const float* next = ahead[PLACES - 1];
  {
    const float* x = (const float*)I.x + (u64)(t0 + query / group) * I.x_stride + (kv * group + query % group) * D;
    Floats v[VECTORS];
    UNROLL for (u32 k = 0; k < VECTORS; k++) {
      const u32 at = dim + k * STEP;
      v[k] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (query < queries && at < D) v[k] = load((const Floats*)(x + at));
    }
    auto turn = [&](Floats& low, Floats& high, const Floats& c, const Floats& s) {
      const Floats a = low, b = high;
      low = {a.x * c.x - b.x * s.x, a.y * c.y - b.y * s.y, a.z * c.z - b.z * s.z, a.w * c.w - b.w * s.w};
      high = {b.x * c.x + a.x * s.x, b.y * c.y + a.y * s.y, b.z * c.z + a.z * s.z, b.w * c.w + a.w * s.w};
    };
    if (turning == TILE_DIM / 2) {
      UNROLL for (u32 k = 0; k < VECTORS / 2; k++) turn(v[k], v[k + VECTORS / 2], c[k], s[k]);
    } else if (turning == TILE_DIM / 4) {
      UNROLL for (u32 k = 0; k < VECTORS / 4; k++) turn(v[k], v[k + VECTORS / 4], c[k], s[k]);
    }
    UNROLL for (u32 k = 0; k < VECTORS; k++) {
      const u32 at = dim + k * STEP;
      if (at >= D) continue;
      float* to = mine.q + at * QUERY_STRIDE + query;
      to[0] = v[k].x;
      to[QUERY_STRIDE] = v[k].y;
      to[2 * QUERY_STRIDE] = v[k].z;
      to[3 * QUERY_STRIDE] = v[k].w;
    }
    if (tid < QUERIES) {
      const u32 p = p0 + query / group, begin = I.window && p + 1 > I.window ? p + 1 - I.window : 0;
      mine.most[query] = 0;
      mine.begin[query] = query < queries ? begin : 0;
      mine.behind[query] = query < queries ? p - begin : 0;
    }
  }
  // What all had of the piece before they have done with: the next goes there.
  auto turn_ring = [&](u32 p) {
    if (BULK) before_bulk();
    else copies_there<PLACES - 2>();
    sync_four(four);
    ask(p + PLACES - 1, next);
    next = place_of(p + PLACES);
    if (BULK) await_bulk(&mine.arrivals[slot_of(p)], (base + p) / PLACES & 1);
  };
  // A thread ends with the scores of 4 queries and KEYS keys: of even dimensions with those of its first queries or keys, of odd ones with
  // those of the others.
  constexpr u32 KEYS = R / 2;
  const u32 q_end = q0 + (R == 8 ? 4 * parity : 0), k_end = k0 + (R == 8 ? 0 : 2 * parity);
  float found[4];
  UNROLL for (u32 n = 0; n < 4; n++) found[n] = -from_bits(0x7f800000);
  u32 p = 0;
  ROLLED for (u32 b = b0; b < b1; b++) {
    Sums<R> sum;
    if (BULK) turn_ring(p++);
    if (b * POSITIONS + (k0 & 32) < end) {
      Sums<R> two, four_lanes;
      ROLLED for (u32 h = 0; h < 2; h++) {
        auto quarter_of = [&](u32 quarter, Sums<R>& to) {
          if (!BULK) turn_ring(p++);
          const u32 r = residue(quarter) + parity;
          const float* keys = mine.ring[slot_of(p - 1)] + (BULK ? r : parity * QUARTER_DIMS) * POSITIONS + k0;
          two_lanes<R, BULK ? 8 * POSITIONS : POSITIONS>(to, mine.q + r * QUERY_STRIDE + q0, keys, (D - r + 7) / 8);
        };
        quarter_of(2 * h, sum);
        quarter_of(2 * h + 1, two);
        add_all<R>(sum, two);
        if (h == 0) set_all<R>(four_lanes, sum);
      }
      UNROLL for (u32 k = 0; k < 4 * R; k++) sum[k / 4][k % 4] = four_lanes[k / 4][k % 4] + sum[k / 4][k % 4];
    } else {
      // Keys that nobody sees: all of a warp's.
      UNROLL for (u32 k = 0; k < PARTS && !BULK; k++) turn_ring(p++);
      set_all<R>(sum, 0.0f);
    }
    // The sums of even and of odd dimensions, told where the last keys were.
    Floats* const told = (Floats*)mine.ring[slot_of(p - 1)];
    sync_four(four);
    auto sums_of = [&](u32 odd, u32 k) {
      const u32 n = R == 8 ? 4 * odd : 0, at = R == 8 ? k : 2 * odd + k;
      return Floats{sum[n][at], sum[n + 1][at], sum[n + 2][at], sum[n + 3][at]};
    };
    UNROLL for (u32 k = 0; k < KEYS; k++) told[k * ROWS_FOUR + tid] = parity ? sums_of(0, k) : sums_of(1, k);
    sync_four(four);
    float* const place = scores_of(b) + k_end * QUERY_STRIDE + q_end;
    const u32 at = b * POSITIONS + k_end;
    const Words begin = *(const Words*)(mine.begin + q_end), behind = *(const Words*)(mine.behind + q_end);
    const u32 begins[4] = {begin.x, begin.y, begin.z, begin.w}, behinds[4] = {behind.x, behind.y, behind.z, behind.w};
    UNROLL for (u32 k = 0; k < KEYS; k++) {
      const Floats v = told[k * ROWS_FOUR + (tid ^ ROWS_FOUR / 2)], own = parity ? sums_of(1, k) : sums_of(0, k);
      const float both[4] = {v.x + own.x, v.y + own.y, v.z + own.z, v.w + own.w};
      float score[4];
      UNROLL for (u32 m = 0; m < 4; m++) {
        const bool sees = at + k - begins[m] <= behinds[m];
        score[m] = sees ? both[m] * I.scale : -from_bits(0x7f800000);
        // NaN is not found, and makes its row's sum NaN all the same.
        found[m] = larger_float(found[m], score[m]);
      }
      *(Floats*)(place + k * QUERY_STRIDE) = {score[0], score[1], score[2], score[3]};
    }
  }
  UNROLL for (u32 n = 0; n < 4; n++) {
    u32 v = lifted(found[n]);
    UNROLL for (u32 by = 1; by < 8; by *= 2) {
      const u32 other = (u32)shuffle_xor((i32)v, by);
      v = other > v ? other : v;
    }
    if ((lane & 7) == 0) max_shared(mine.most + q_end + n, v);
  }
  // All scores are there, and the queries have been used.
  if (BULK) before_bulk_of_all();
  sync_four(four);
  if (BULK) {
    u64* const arrival = &mine.arrivals[PLACES];
    if (tid == 0) {
      expect(arrival, BLOCK_SCORES * 4);
      copy_bulk(exponentials_of(b0), scores_of(b0), BLOCK_SCORES * 4, arrival);
    }
    await_bulk(arrival, before.tiles & 1);
  } else {
    copy_all(exponentials_of(b0), scores_of(b0), BLOCK_SCORES);
    copies_asked();
    copies_there<0>();
  }
  constexpr u32 VECTORS_EACH = QUERIES / 4, APART_POSITIONS = ROWS_FOUR / VECTORS_EACH;
  const u32 position = tid / VECTORS_EACH, e0 = tid % VECTORS_EACH * 4, d0 = warp * 32 + (lane & 7) * 4;
  float largest[4];
  UNROLL for (u32 n = 0; n < 4; n++) largest[n] = lowered(mine.most[e0 + n]);
  Sums<R> out;
  float total[TOTALS];
  UNROLL for (u32 k = 0; k < TOTALS; k++) total[k] = 0.0f;
  set_all<R>(out, 0.0f);
  ROLLED for (u32 b = b0; b < b1; b++) {
    float* const e = exponentials_of(b);
    const u32 low = first > b * POSITIONS ? first - b * POSITIONS : 0, high = high_of(b);
    Sums<R> x;
    set_all<R>(x, 0.0f);
    ROLLED for (u32 part = 0; part < PARTS; part++, p++) {
      turn_ring(p);
      if (part == 0) {
        // Exponentials where the scores were: those of the positions that nobody sees are never read as such.
        ROLLED for (u32 k = 0; k < EXPONENTS; k++) {
          Floats* const at = (Floats*)(e + (position + APART_POSITIONS * k) * QUERY_STRIDE + e0);
          const Floats w = *at;
          *at = {exp_below(w.x - largest[0]), exp_below(w.y - largest[1]), exp_below(w.z - largest[2]), exp_below(w.w - largest[3])};
        }
        sync_four(four);
        // Their sums: 16 threads a query, counted from the first position that it sees in the block.
        UNROLL for (u32 k = 0; k < TOTALS; k++) {
          const u32 of = tid / 16 + ROWS_FOUR / 16 * k, begin = mine.begin[of], skip = begin > b * POSITIONS ? begin - b * POSITIONS : 0;
          float s = 0.0f;
          UNROLL for (u32 i = 0; i < 4; i++) {
            const u32 at = skip + (tid & 15) + 16 * i;
            if (at < POSITIONS) s = s + e[at * QUERY_STRIDE + of];
          }
          total[k] = total[k] + fold(s);
        }
      }
      if (d0 >= D) continue;
      // A value that not all queries see is finite, or its own row fails: times 0 it changes none of the others' sums.
      const u32 at = part * PIECE_POSITIONS;
      const u32 j0 = low > at ? low - at : 0, j1 = high < at ? 0 : high - at < PIECE_POSITIONS ? high - at : PIECE_POSITIONS;
      if (j0 >= j1) continue;
      const float* values = mine.ring[slot_of(p)] + j0 * D + d0;
      const float* weights = e + (at + j0) * QUERY_STRIDE + q0;
      auto step = [&]() {
        const Factors<R> f = factors_at<R>(weights, values);
        weights += QUERY_STRIDE;
        values += D;
        return f;
      };
      add_steps<R>(x, x, step(), j1 - j0, step);
    }
    add_all<R>(out, x);
  }
  copies_there<0>();
  before.pieces += pieces;
  before.tiles++;
  if ((tid & 15) == 0) {
    UNROLL for (u32 k = 0; k < TOTALS; k++) mine.totals[tid / 16 + ROWS_FOUR / 16 * k] = total[k];
  }
  sync_four(four);
  if (d0 < D) {
    // From shared memory, so that the code of four divisions is fetched and not of 4 R.
    Floats* const results = (Floats*)mine.q + tid;
    UNROLL for (u32 n = 0; n < R; n++) results[n * ROWS_FOUR] = {out[n][0], out[n][1], out[n][2], out[n][3]};
    ROLLED for (u32 n = 0; n < R && q0 + n < queries; n++) {
      const u32 of = q0 + n;
      const float all = mine.totals[of];
      const Floats v = results[n * ROWS_FOUR];
      *(Floats*)((float*)I.out + (u64)(t0 + of / group) * I.out_stride + (kv * group + of % group) * D + d0) = {divide(v.x, all), divide(v.y, all),
                                                                                                             divide(v.z, all), divide(v.w, all)};
    }
  }
  if (BULK) before_bulk();
  sync_four(four);
}

/**
 * Four warps have as many rows as make 4 R queries with one kv head. First all scores, which go to their own scratch (by block of the
 * cache, position, query), and each query's largest; then block after block of values. A thread has R queries and 4 keys, then R
 * queries and 4 dimensions.
 *
 * A laneSum's lanes are gone through so that few are held at a time: a thread has the even ones or the odd ones, of a piece lanes r and
 * r + 8, and the quarters come in the order in which the fold adds them.
 */
template <u32 R, u32 PARTS, u32 PLACES> DEVICE void attend_rows_with(const Instruction& I, const Input& in) {
  using Mine = RowsFour<PARTS, PLACES>;
  const u32 group = I.heads / I.kv_heads, each = 4 * R / group, all = thread(), four = all / ROWS_FOUR, tid = all % ROWS_FOUR;
  const u32 tiles = (I.rows + each - 1) / each, items = tiles * I.kv_heads;
  Mine& mine = ((Mine*)pool())[four];
  u32* const taken = (u32*)((Mine*)pool() + 2);  // rounds; then the fours' own
  float* const scratch = (float*)I.scratch + (u64)(2 * block() + four) * I.splits * block_scores(QUERIES);
  const u32* table_rows = in.at<u32>(in.table_rows);
  Asked asked = {0, 0, false};
  if (all == 0) taken[0] = 0;
  if (tid == 0 && PARTS == 1) {
    UNROLL for (u32 i = 0; i <= PLACES; i++) begin_arrival(&mine.arrivals[i], 1);
  }
  sync();
  for (;;) {
    if (tid == 0) taken[1 + four] = take_shared(taken);
    sync_four(four);
    const u32 round = taken[1 + four];
    if (round * blocks() >= items) break;
    // The last rows, which see the most, first; who had more in one round has less in the next. What a last round has goes to those first
    // whose fours have had about as much as one another.
    u32 item = round & 1 ? blocks() - 1 - block() : block();
    if (round > 1 && items - round * blocks() < blocks()) item = (blocks() * 3 / 4 + blocks() - 1 - block()) % blocks();
    item += round * blocks();
    if (item < items) {
      const u32 kv = item % I.kv_heads, from = (tiles - 1 - item / I.kv_heads) * each;
      const u32 to = from + each < I.rows ? from + each : I.rows;
      for (u32 t0 = from; t0 < to;) {
        u32 t1 = in.sequences == 1 ? to : t0 + 1;
        while (t1 < to && table_rows[t1] == table_rows[t0]) t1++;
        attend_tile<R>(I, in, mine, asked, four, tid, t0, t1 - t0, kv, scratch);
        t0 = t1;
      }
    }
    // All have read what is taken.
    sync_four(four);
  }
  if (!asked.waited) wait_for_earlier();
}

/**
 * Whole blocks of the cache where one thread can ask for them, and there is room. A thread has 8 queries where there are tiles enough for all
 * fours, and 4 of fewer rows: more loads for a product, but nobody is at work on the last rows when all others are done. (Both in a
 * launch took longer than either: they did not fit where code is kept.)
 */
DEVICE void attend_rows(const Instruction& I, const Input& in) {
  const u32 group = I.heads / I.kv_heads;
  const bool few = group <= QUERIES / 2 && I.rows * I.heads <= QUERIES * 2 * blocks();
  if (bulk_copies() && POOL_AT + 2 * sizeof(RowsFour<1, 2>) + 16 <= shared_size()) {
    if (few) attend_rows_with<4, 1, 2>(I, in);
    else attend_rows_with<8, 1, 2>(I, in);
  } else {
    if (few) attend_rows_with<4, 4, 3>(I, in);
    else attend_rows_with<8, 4, 3>(I, in);
  }
}

// ---- a row of each sequence

/** Heads of a kv head that are multiplied together; four warps have a block of the cache. */
constexpr u32 HEADS_AT_ONCE = 4, FOURS = WARPS / 4;
/** Steps of a loop that stand behind one another: code that is fetched for a few rounds is short, or the fetching takes longest. */
constexpr u32 STEPS = 8;
/** Of each four beside its ring. */
struct BatchFour {
  /** Exponentials, and what a thread tells another: [position][head]. */
  float e[POSITIONS * HEADS_AT_ONCE], told[POSITIONS * HEADS_AT_ONCE];
};
/** Of a row and a kv head, whose blocks G fours take in turn. */
template <u32 G> struct BatchRow {
  /** [dimension][head]. */
  float q[TILE_DIM * HEADS_AT_ONCE];
  /** Sums of the fours' blocks, of two rounds: [dimension][head], and of the exponentials. */
  float sums[2][G][TILE_DIM * HEADS_AT_ONCE], totals[2][G][HEADS_AT_ONCE];
  u32 most[G][2][HEADS_AT_ONCE];
  BatchFour fours[G];
};
template <u32 SLOTS, u32 DIMS> constexpr u32 BATCH_BYTES = FOURS / 2 * sizeof(BatchRow<2>) + FOURS * SLOTS * DIMS * POSITIONS * 4;
static_assert(sizeof(BatchRow<FOURS>) <= FOURS / 2 * sizeof(BatchRow<2>), "the other way needs less");

/** A row's own heads: queries to shared memory, key and value to the cache. 16 threads each of a row's; whole warps take part. */
template <u32 N>
APART void ready_own(const Instruction& I, const Input& in, Seen s, u32 t, u32 kv, u32 h0, u32 heads, u32 tid, float* q, bool first) {
  const u32 at = tid / 16, first_head = kv * (I.heads / I.kv_heads) + h0;
  const u32 slot = at < heads ? QUERY : at == heads ? KEY : VALUE;
  const bool works = tid / 32 < (heads + 3) / 2;
  Turn<N> turn;
  if (works) turn = turn_of<N>(I, s.position, I.rotary != 0 && slot != VALUE);
  if (first) wait_for_earlier();
  if (!works) return;
  float v[N];
  ready_head<N>(I, t, slot, slot == QUERY ? first_head + at : kv, turn, v);
  if (at > heads + 1) return;
  if (slot != QUERY) append_head<N>(place_of_head(I, in, s.table_row, slot, kv, s.position), slot, v);
  else UNROLL for (u32 k = 0; k < N; k++) q[((thread() & 15) + 16 * k) * HEADS_AT_ONCE + at] = v[k];
}

/**
 * G fours have a row and a kv head; they take the blocks of the cache in turn, neighbors in a round. First all scores, which go to the
 * row's scratch, then block after block of values, whose sums are added from the lowest on. SLOTS: pieces in a four's ring. Of
 * a FUSED instruction the row is its sequence's only one: the cache is as earlier steps left it.
 */
template <u32 SLOTS, u32 DIMS, u32 G> APART void attend_batch_of(const Instruction& I, const Input& in) {
  constexpr u32 H = HEADS_AT_ONCE, ALL = G * 128, ITEMS = FOURS / G, ROW_PIECE = DIMS * POSITIONS, ROW_POSITIONS = DIMS / 2;
  const u32 D = I.head_dim, group = I.heads / I.kv_heads, sets = (group + H - 1) / H;
  const u32 which = thread() / ALL, all = thread() % ALL, four = all / 128, tid = all % 128, lane = tid & 31, warp = tid / 32;
  const u32 barrier = which * G + four;
  BatchRow<G>& row = ((BatchRow<G>*)pool())[which];
  float* const ring = (float*)((BatchRow<G>*)pool() + ITEMS) + barrier * SLOTS * ROW_PIECE;
  float* const e = row.fours[four].e;
  float* const told = row.fours[four].told;
  float* const scratch = (float*)I.scratch + (u64)(which * blocks() + block()) * I.splits * POSITIONS * H;
  auto sync_row = [&]() {
    if (G == FOURS) sync();
    else sync_half(which);
  };
  const u32 key_pieces_each = (D + DIMS - 1) / DIMS;
  const float nothing = -from_bits(0x7f800000);
  const bool fused = I.fused != 0;
  bool first_item = true;
  for (u32 item = which * blocks() + block(); item < I.rows * I.kv_heads * sets; item += ITEMS * blocks()) {
    const u32 t = item / (I.kv_heads * sets), kv = item / sets % I.kv_heads, h0 = item % sets * H;
    const u32 heads = group - h0 < H ? group - h0 : H;
    const Seen s = seen_by(I, in, t);
    const u32 b0 = s.first / POSITIONS, b1 = (s.end + POSITIONS - 1) / POSITIONS, own0 = b0 + four;
    const Cached cache = cached(I, in, s.table_row, kv);
    // Of the last block no more than there is.
    auto high_of = [&](u32 b) { return s.end - b * POSITIONS < POSITIONS ? s.end - b * POSITIONS : POSITIONS; };
    auto value_pieces = [&](u32 b) { return (high_of(b) + ROW_POSITIONS - 1) / ROW_POSITIONS; };
    // Pieces are asked for one after the other: block and part of the next. One has DIMS dimensions of a block's keys, or half as many
    // positions of its values.
    u32 asked_block = own0, asked_part = 0;
    bool asked_keys = true;
    u64 asked_at = own0 < b1 ? cache.table[own0] : 0;
    auto ask = [&](u32 p) {
      if (asked_block < b1) {
        float* const to = ring + p % SLOTS * ROW_PIECE;
        const float* from = (const float*)(asked_at + (asked_keys ? cache.keys : cache.values)) + asked_part * (asked_keys ? ROW_PIECE : ROW_POSITIONS * D);
        const u32 high = high_of(asked_block), left = asked_keys ? D - asked_part * DIMS : high - asked_part * ROW_POSITIONS;
        const u32 most = asked_keys ? DIMS : ROW_POSITIONS;
        u32 n = (left < most ? left : most) * (asked_keys ? POSITIONS : D) / 4;
        // Positions of keys lie in fours, the same ones of each of a thread's copies.
        if (asked_keys && 4 * (tid % (POSITIONS / 4)) >= high) n = 0;
        ROLLED for (u32 i = tid; i < n; i += 128) copy_ahead(to + 4 * i, from + 4 * i);
        if (++asked_part == (asked_keys ? key_pieces_each : value_pieces(asked_block))) {
          asked_part = 0;
          asked_block += G;
          if (asked_block >= b1 && asked_keys) asked_keys = false, asked_block = own0;
          if (asked_block < b1) asked_at = cache.table[asked_block];
        }
      }
      copies_asked();
    };
    // What earlier steps left in the cache is asked for before this step's keys and values are there: up to the last block.
    u32 asked = 0;
    ROLLED for (u32 ready = 0; ready < 2; ready++) {
      ROLLED while (asked < SLOTS - 1 && (ready || (fused && asked_block + 1 < b1))) ask(asked++);
      if (ready) break;
      if (fused) {
        if (D == 32) ready_own<2>(I, in, s, t, kv, h0, heads, all, row.q, first_item);
        else if (D == 64) ready_own<4>(I, in, s, t, kv, h0, heads, all, row.q, first_item);
        else ready_own<8>(I, in, s, t, kv, h0, heads, all, row.q, first_item);
      } else {
        if (first_item) wait_for_earlier();
        const float* const x = (const float*)I.x + (u64)t * I.x_stride + (kv * group + h0) * D;
        ROLLED for (u32 h = 0; h < heads; h++) {
          ROLLED for (u32 d = all; d < D; d += ALL) row.q[d * H + h] = load(x + h * D + d);
        }
      }
      first_item = false;
      ROLLED for (u32 i = all; i < D * H; i += ALL) {
        if (i % H >= heads) row.q[i] = 0.0f;
      }
      sync_row();
    }
    auto turn_ring = [&](u32 p) {
      copies_there<SLOTS - 2>();
      sync_four(barrier);
      ask(p + SLOTS - 1);
    };
    // Scores: a thread has a key and every second of the 16 lanes.
    const u32 key = tid % POSITIONS, part = tid / POSITIONS;
    u32 found[H];
    UNROLL for (u32 h = 0; h < H; h++) found[h] = 0;
    u32 p = 0;
    ROLLED for (u32 b = own0; b < b1; b += G) {
      float sum[8][H];
      UNROLL for (u32 l = 0; l < 8; l++) {
        UNROLL for (u32 h = 0; h < H; h++) sum[l][h] = 0.0f;
      }
      ROLLED for (u32 k = 0; k < key_pieces_each; k++, p++) {
        turn_ring(p);
        // Keys that nobody sees: all of a warp's.
        if (b * POSITIONS + (key & ~31u) >= s.end) continue;
        ROLLED for (u32 d0 = 0; d0 < DIMS && k * DIMS + d0 < D; d0 += 2 * STEPS) {
          const float* keys = ring + p % SLOTS * ROW_PIECE + (d0 + part) * POSITIONS + key;
          const float* x = row.q + (k * DIMS + d0 + part) * H;
          const u32 left = D - k * DIMS - d0;
          auto step = [&](u32 l, u32 d) {
            const Floats a = *(const Floats*)(x + d * H);
            const float v = keys[d * POSITIONS];
            sum[l][0] = sum[l][0] + a.x * v;
            sum[l][1] = sum[l][1] + a.y * v;
            sum[l][2] = sum[l][2] + a.z * v;
            sum[l][3] = sum[l][3] + a.w * v;
          };
          if (left >= 2 * STEPS) {
            UNROLL for (u32 n = 0; n < STEPS; n++) step(n, 2 * n);
          } else {
            UNROLL for (u32 n = 0; n < STEPS; n++) {
              if (2 * n + part < left) step(n, 2 * n);
            }
          }
        }
      }
      float r[H];
      UNROLL for (u32 h = 0; h < H; h++) r[h] = ((sum[0][h] + sum[4][h]) + (sum[2][h] + sum[6][h])) + ((sum[1][h] + sum[5][h]) + (sum[3][h] + sum[7][h]));
      if (part == 1) *(Floats*)(told + key * H) = {r[0], r[1], r[2], r[3]};
      sync_four(barrier);
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
      if (lane == 0 && part == 0) row.most[four][warp][h] = v;
    }
    sync_four(barrier);
    // Values: a thread has a dimension of all heads; exponentials are two heads' of a position, asked for a block ahead.
    const u32 e0 = part * 2;
    const float* mine = scratch + key * H + e0;
    float score[2];
    auto ask_scores = [&](u32 b) {
      if (b >= b1) return;
      const float* from = mine + (u64)(b - b0) * POSITIONS * H;
      UNROLL for (u32 k = 0; k < 2; k++) score[k] = load(from + k);
    };
    ask_scores(own0);
    sync_row();
    float largest[2];
    UNROLL for (u32 k = 0; k < 2; k++) {
      u32 most = 0;
      UNROLL for (u32 f = 0; f < G; f++) {
        UNROLL for (u32 w = 0; w < 2; w++) most = larger(most, row.most[f][w][e0 + k]);
      }
      largest[k] = lowered(most);
    }
    // A thread adds up dimensions of one head.
    constexpr u32 OUTS = TILE_DIM * H / ALL;
    float out[OUTS], total = 0.0f;
    UNROLL for (u32 k = 0; k < OUTS; k++) out[k] = 0.0f;
    const u32 of = tid / 16;
    for (u32 from = b0, round = 0; from < b1; from += G, round++) {
      const u32 b = from + four;
      float(&sums)[G][TILE_DIM * H] = row.sums[round & 1];
      float(&totals)[G][H] = row.totals[round & 1];
      if (b < b1) {
        const u32 low = s.first > b * POSITIONS ? s.first - b * POSITIONS : 0;
        const u32 high = high_of(b), value_pieces_here = value_pieces(b);
        Pair w = {0.0f, 0.0f};
        if (key >= low && key < high) w = {exp_f32(score[0] - largest[0]), exp_f32(score[1] - largest[1])};
        *(Pair*)(e + key * H + e0) = w;
        ask_scores(b + G);
        float x[H];
        UNROLL for (u32 h = 0; h < H; h++) x[h] = 0.0f;
        ROLLED for (u32 k = 0; k < value_pieces_here; k++, p++) {
          turn_ring(p);
          if (k == 0 && tid < 64) {
            float sum = 0.0f;
            UNROLL for (u32 n = 0; n < 4; n++) {
              const u32 i = low + (tid & 15) + 16 * n;
              if (i < POSITIONS) sum = sum + e[i * H + of];
            }
            sum = fold(sum);
            if ((tid & 15) == 0) totals[four][of] = sum;
          }
          if (tid >= D) continue;
          const float* values = ring + p % SLOTS * ROW_PIECE + tid;
          const u32 from = k * ROW_POSITIONS;
          const float* weights = e + from * H;
          auto step = [&](u32 j) {
            const Floats a = *(const Floats*)(weights + j * H);
            const float v = values[j * D];
            x[0] = x[0] + a.x * v;
            x[1] = x[1] + a.y * v;
            x[2] = x[2] + a.z * v;
            x[3] = x[3] + a.w * v;
          };
          const u32 end = high - from < ROW_POSITIONS ? high - from : ROW_POSITIONS;
          u32 j = low > from ? low - from : 0;
          ROLLED for (; j + STEPS <= end; j += STEPS) {
            UNROLL for (u32 i = 0; i < STEPS; i++) step(j + i);
          }
          ROLLED for (; j < end; j++) step(j);
        }
        if (tid < D) *(Floats*)(sums[four] + tid * H) = {x[0], x[1], x[2], x[3]};
      }
      sync_row();
      const u32 blocks_here = b1 - from < G ? b1 - from : G;
      ROLLED for (u32 f = 0; f < blocks_here; f++) {
        UNROLL for (u32 k = 0; k < OUTS; k++) out[k] = out[k] + sums[f][all + k * ALL];
        total = total + totals[f][all % H];
      }
    }
    copies_there<0>();
    const u32 h = all % H;
    UNROLL for (u32 k = 0; k < OUTS; k++) {
      const u32 d = (all + k * ALL) / H;
      if (d < D && h < heads) ((float*)I.out)[(u64)t * I.out_stride + (kv * group + h0 + h) * D + d] = divide(out[k], total);
    }
    sync_row();
  }
  if (first_item) wait_for_earlier();
}

/** Few rows have all of a block, so that none is left without one; of more two share it. */
template <u32 SLOTS, u32 DIMS> DEVICE void attend_batch_with(const Instruction& I, const Input& in) {
  const u32 sets = (I.heads / I.kv_heads + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE;
  if (I.rows * I.kv_heads * sets <= blocks()) attend_batch_of<SLOTS, DIMS, FOURS>(I, in);
  else attend_batch_of<SLOTS, DIMS, 2>(I, in);
}

DEVICE void attend_batch(const Instruction& I, const Input& in) {
  if (POOL_AT + BATCH_BYTES<3, 64> <= shared_size()) attend_batch_with<3, 64>(I, in);
  else attend_batch_with<2, 32>(I, in);
}
