// Products of matrices with rows of codes, on int8 tensor cores: mma m16n8k32, 8 columns of which are tokens. A lane is
// 4 g + t: g counts rows of the matrix (and tokens of the codes), t pieces of columns. The order of columns is free, since
// integer sums are exact, so weights are used in the layout of the file: a lane takes 16 bytes of it at a time.
//
// `rowquad`: a word is 4 columns of 4 rows, two bits each. A field is masked, not shifted: its codes are then 1, 4, 16 or
// 64 times as large, and so are its sums (below 2^31 for 131,071 columns); the shift comes once, at the end.
#pragma once

#include "one-row.cuh"

DEVICE constexpr u32 mask_of(u32 f) { return 0x03030303u << (2 * f); }
/** Weights that are fetched before the grid's barrier lie at the end of shared memory; of `splits` such pieces of a product. */
constexpr u32 STAGED_BYTES = THREADS * 16;

/** Which matrix and which of its tiles an item is; not of GATE. */
DEVICE u32 part_of(const Instruction& I, u32& tile) {
  static_assert(sizeof I.m == 4 * sizeof(Matrix), "as it is written out here");
  const u32 p = (tile >= I.m[1].first) + (tile >= I.m[2].first) + (tile >= I.m[3].first);
  tile -= I.m[p].first;
  return p;
}

/** Gate and up. The commonest here, so that no call stands in a step's way. */
DEVICE float joined(const Instruction& I, float gate, float up) {
  return I.gate == RELU2 ? relu2(gate, up) : activated(I.gate, I.limit, gate, up);
}

/** A result in its place. `both`: of GATE, the up projection beside the gate. */
DEVICE void finish(const Instruction& I, const Matrix& m, u32 t, u32 row, float y, float both) {
  float* out = (float*)m.out + (u64)t * m.out_stride + row;
  if (I.ending == GATE) y = activated(I.gate, I.limit, y, both);
  // x + y, as the operation has it.
  *out = I.ending == ADD ? load(out) + y : y;
}

// ---- ternary

/** The tile of a sub-item: of GATE gate and up in turn. */
DEVICE const Matrix& tile_of(const Instruction& I, u32 sub, u32& tile) {
  const bool gate = I.ending == GATE;
  tile = block() + blocks() * (gate ? sub / 2 : sub);
  return I.m[gate ? sub & 1 : part_of(I, tile)];
}
/** Where this lane's 16 bytes of the chunk are; null past the last quad. */
DEVICE const char* quad_at(const Matrix& m, u32 tile, u32 chunk) {
  const u32 lane = thread() & 31, quad = tile * 8 + lane / 4;
  return quad < m.quads ? (const char*)m.w + (u64)quad * m.stride + chunk * 64 + (lane & 3) * 16 : nullptr;
}

/** 32 rows x 64 columns x 8 tokens: fields 0 and 1 into low, 2 and 3 into high. */
DEVICE void ternary_step(i32 (&low)[4], i32 (&high)[4], const Words& a, const Words& b) {
  mma_u8(low, a.x & mask_of(0), a.x & mask_of(1), a.y & mask_of(0), a.y & mask_of(1), b.x, b.y);
  mma_u8(high, a.x & mask_of(2), a.x & mask_of(3), a.y & mask_of(2), a.y & mask_of(3), b.x, b.y);
  mma_u8(low, a.z & mask_of(0), a.z & mask_of(1), a.w & mask_of(0), a.w & mask_of(1), b.z, b.w);
  mma_u8(high, a.z & mask_of(2), a.z & mask_of(3), a.w & mask_of(2), a.w & mask_of(3), b.z, b.w);
}

/** Of one row `splits` of the block's tiles are staged as they lie in memory: quad after quad, `code_stride` bytes each. */
DEVICE char* staged_tiles(const Instruction& I) { return shared_memory() + shared_size() - I.splits * 8 * I.code_stride; }

/** A result of the only row: where it goes, or null; its factors, of gate and up. */
struct OneResult {
  float* to;
  float factor, other;
};
/** Of an item's 32 results a lane's. */
DEVICE OneResult result_of(const Instruction& I, u32 item) {
  OneResult r = {nullptr, 0.0f, 0.0f};
  if (item >= I.items) return r;
  const u32 lane = thread_anew() & 31;
  u32 tile = item;
  const Matrix& m = I.m[I.ending == GATE ? 0 : part_of(I, tile)];
  const u32 quad = tile * 8 + lane % 8, row = quad + lane / 8 * m.quads;
  if (quad < m.quads && row < m.rows) r = {(float*)m.out + row, m.scale, I.m[1].scale};
  return r;
}

/** Calls `take` with place and bytes of each tile that is staged. */
template <class Take> DEVICE void each_tile(const Instruction& I, const Take& take) {
  const u32 bytes = I.code_stride, splits = I.splits;
  const bool both = I.ending == GATE;
  ROLLED for (u32 sub = 0; sub < splits; sub++) {
    u32 tile = block() + (both ? sub / 2 : sub) * blocks();
    if (tile >= I.items) break;
    const Matrix& m = I.m[both ? sub & 1 : part_of(I, tile)];
    const u32 left = m.quads - tile * 8;
    take((const char*)m.w + (u64)tile * (8 * bytes), (left < 8 ? left : 8) * bytes);
  }
}
DEVICE void fetch_grouped(const Instruction& I);
/** Bytes of a norm's weights that a block brings to L2. */
constexpr u32 NORM_SHARE = 256;
DEVICE void fetch_weights(const Instruction& I) {
  if (!I.fused) return;
  if (I.op == GROUPED) fetch_grouped(I);
  if (I.op != TERNARY) return;
  each_tile(I, [](const char* from, u32 n) { fetch_bulk(from, n); });
  // Each block some of what all need.
  const u32 all = I.norm ? I.width * 4 : 0;
  ROLLED for (u32 at = block() * NORM_SHARE; at < all; at += blocks() * NORM_SHARE) {
    fetch_bulk((const char*)I.weight + at, all - at < NORM_SHARE ? all - at : NORM_SHARE);
  }
}

/** Before the barrier: the block's first tiles. */
DEVICE void ask_tiles(const Instruction& I) {
  const u32 lane = thread_anew() & 31, warp = thread_anew() / 32, bytes = I.code_stride, splits = I.splits;
  const bool both = I.ending == GATE;
  const u32 each = both ? 2 : 1;
  if (bulk_copies()) {
    if (thread_anew() != ASKER) return;
    u64* const arrival = &shared().arrivals[1];
    char* to = staged_tiles(I);
    u32 all = 0;
    each_tile(I, [&](const char* from, u32 n) {
      copy_bulk(to, from, n, arrival);
      to += 8 * bytes;
      all += n;
    });
    expect(arrival, all);
    return;
  }
  // Quad after quad, all lanes of a warp.
  if (thread_anew() < SPEAKER) {
    ROLLED for (u32 q = warp; q < splits * 8; q += WARPS - 1) {
      u32 tile = block() + q / 8 / each * blocks();
      if (tile >= I.items) break;
      const Matrix& m = I.m[both ? q / 8 & 1 : part_of(I, tile)];
      const u32 quad = tile * 8 + q % 8;
      if (quad >= m.quads) continue;
      const char* const from = (const char*)m.w + (u64)quad * bytes;
      char* const to = staged_tiles(I) + q * bytes;
      ROLLED for (u32 at = lane * 16; at < bytes; at += 512) copy_ahead(to + at, from + at);
    }
  }
  copies_asked();
}

/**
 * Of the only row, without tensor cores, seven of whose eight columns would be nobody's. Two warps have the same columns, 128 at a time, one of
 * them the first four quads of a tile, the other the last; of each eight lanes have one quad, 16 columns each.
 */
constexpr u32 SHARES_OF_ONE = WARPS / 2, COLUMNS_OF_ONE = 128;

/** Sums of a quad's rows and these columns, of fields as they lie in the words: of the first, of the first two, three, all. */
DEVICE void quad_step(i32 (&sum)[4], const Words& w, const Words& codes) {
  auto word = [&](u32 w, u32 codes) {
    sum[0] = dot4_u8(w & 0x03030303, codes, sum[0]);
    sum[1] = dot4_u8(w & 0x0f0f0f0f, codes, sum[1]);
    sum[2] = dot4_u8(w & 0x3f3f3f3f, codes, sum[2]);
    sum[3] = dot4_u8(w, codes, sum[3]);
  };
  word(w.x, codes.x);
  word(w.y, codes.y);
  word(w.z, codes.z);
  word(w.w, codes.w);
}
/** To `place`, 32 sums of this warp's columns for a tile: those of row 8 f + q of field f and quad q, 4^f times too large. */
DEVICE void keep_quads(const i32 (&sum)[4], i32* place) {
  const u32 lane = thread_anew() & 31, part = lane & 7, quad = (thread_anew() / 32 & 1) * 4 + lane / 8;
  const i32 of[4] = {sum[0], sum[1] - sum[0], sum[2] - sum[1], sum[3] - sum[2]};
  // Each of four lanes takes a row, whose sums the others have.
  const bool odd = part & 1, high = part & 2;
  const i32 low_half = (odd ? of[1] : of[0]) + shuffle_xor(odd ? of[0] : of[1], 1);
  const i32 high_half = (odd ? of[3] : of[2]) + shuffle_xor(odd ? of[2] : of[3], 1);
  i32 mine = (high ? high_half : low_half) + shuffle_xor(high ? low_half : high_half, 2);
  mine += shuffle_xor(mine, 4);
  if (part < 4) place[part * 8 + quad] = mine;
}

/** The warp that has a block's first result: the last ones speak and ask, the first ones have most of the columns. */
constexpr u32 FIRST_RESULT = WARPS - 3;

/** The only row of a step. */
DEVICE Told ternary_one(const Instruction& I, const Gate& gate) {
  Shared& s = shared();
  const u32 asked = s.asked;
  const bool both = I.ending == GATE, adds = I.ending == ADD;
  if (block() < I.items) {
    one_ahead(I);
    ask_tiles(I);
  }
  mark(18);
  gate.pass();
  mark(19);
  if (block() >= I.items) return UNTOLD;
  count_asked(asked, WEIGHTS_ASKED | (I.norm ? NORM_ASKED : 0));
  // This thread's result, and what is there already.
  OneResult mine;
  float old;
  auto item_of = [](u32 warp) { return block() + (FIRST_RESULT + WARPS - warp) % WARPS * blocks(); };
  mark(0);
  make_bytes(I, 1, asked, gate, [&] {
    mine = result_of(I, item_of(thread_anew() / 32));
    old = adds && mine.to != nullptr ? load(mine.to) : 0.0f;
  });
  const u32 tid = thread_anew(), lane = tid & 31, warp = tid / 32, items = I.items, each = both ? 2 : 1;
  u32 tiles = 0;
  ROLLED for (u32 next = block(); next < items; next += blocks()) tiles += each;
  if (mine.to != nullptr) {
    mine.factor = divide(mine.factor, s.scale);
    if (both) mine.other = divide(mine.other, s.scale);
  }
  if (bulk_copies()) await_bulk(&s.arrivals[1], asked / WEIGHTS_ASKED & 1);
  const char* const codes = codes_place(I);
  i32* const acc = (i32*)after_codes<8>(I);  // [tile of the block][share of the columns][row]
  const u32 end = I.code_stride, there = I.splits < tiles ? I.splits : tiles;
  const u32 quad = (warp & 1) * 4 + lane / 8, first = warp / 2 * COLUMNS_OF_ONE + (lane & 7) * 16;
  constexpr u32 STEP = SHARES_OF_ONE * COLUMNS_OF_ONE;
  i32* place = acc + warp / 2 * 32;
  mark(7);
  // Past the last quad nothing was fetched, and its rows are nobody's.
  const char* staged = staged_tiles(I) + quad * end;
  ROLLED for (u32 tile = 0; tile < there; tile++, staged += 8 * end, place += SHARES_OF_ONE * 32) {
    i32 sum[4] = {0, 0, 0, 0};
    // Two at a time: the second's bytes come while the first is multiplied.
    u32 at = first;
    ROLLED for (; at + STEP < end; at += 2 * STEP) {
      const Words a = *(const Words*)(staged + at), b = *(const Words*)(codes + at);
      const Words c = *(const Words*)(staged + at + STEP), d = *(const Words*)(codes + at + STEP);
      quad_step(sum, a, b);
      quad_step(sum, c, d);
    }
    if (at < end) quad_step(sum, *(const Words*)(staged + at), *(const Words*)(codes + at));
    keep_quads(sum, place);
  }
  // Those that had no room.
  ROLLED for (u32 k = there; k < tiles; k++, place += SHARES_OF_ONE * 32) {
    i32 sum[4] = {0, 0, 0, 0};
    u32 tile;
    const Matrix& m = tile_of(I, k, tile);
    const bool some = tile * 8 + quad < m.quads;
    const char* const from = (const char*)m.w + (u64)(tile * 8 + quad) * m.stride;
    ROLLED for (u32 at = first; at < end; at += 4 * STEP) {
      Words v[4];
      UNROLL for (u32 x = 0; x < 4; x++) v[x] = some && at + x * STEP < end ? stream(from + at + x * STEP) : Words{0, 0, 0, 0};
      UNROLL for (u32 x = 0; x < 4; x++) {
        if (at + x * STEP < end) quad_step(sum, v[x], *(const Words*)(codes + at + x * STEP));
      }
    }
    keep_quads(sum, place);
  }
  mark(8);
  sync();
  mark(9);
  const u32 results = tiles / each < WARPS ? tiles / each : WARPS, turn = (FIRST_RESULT + WARPS - warp) % WARPS;
  if (turn >= results) return OTHERS;
  i32 code_sum = 0;
  UNROLL for (u32 x = 0; x < WARPS; x++) code_sum += s.code_sums[x];
  auto value = [&](const i32* from, float factor) {
    i32 sum = 0;
    UNROLL for (u32 x = 0; x < SHARES_OF_ONE; x++) sum += from[x * 32];
    return (float)((sum >> (2 * (lane / 8))) - code_sum) * factor;
  };
  u32 item = item_of(warp), sub = turn * each;
  // One turn, but on cards with few multiprocessors.
  ROLLED while (item < items) {
    if (mine.to != nullptr) {
      const i32* const from = acc + sub * (SHARES_OF_ONE * 32) + lane;
      float y = value(from, mine.factor);
      if (both) y = joined(I, y, value(from + SHARES_OF_ONE * 32, mine.other));
      *mine.to = adds ? old + y : y;
    }
    item += WARPS * blocks();
    sub += WARPS * each;
    if (item >= items) break;
    mine = result_of(I, item);
    if (mine.to == nullptr) continue;
    mine.factor = divide(mine.factor, s.scale);
    if (both) mine.other = divide(mine.other, s.scale);
    if (adds) old = load(mine.to);
  }
  gate.ends();
  if (results > 1) meet<RESULTS>(results * 32);
  else sync_warp();
  if (turn == 0) gate.done(lane == 0);
  return SELF;
}

// ---- int8

/** 16 rows x 64 columns x 8 tokens: a of rows g, c of rows g + 8. */
DEVICE void int8_step(i32 (&d)[4], const Words& a, const Words& c, const Words& b) {
  mma_s8(d, a.x, c.x, a.y, c.y, b.x, b.y);
  mma_s8(d, a.z, c.z, a.w, c.w, b.z, b.w);
}

/** A warp takes tiles of 16 rows, whole, 128 columns a step; two steps are on their way. */
template <u32 N> APART void int8_rows(const Instruction& I) {
  const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3;
  const Matrix& m = I.m[0];
  const u32 chunks = I.code_stride / 128, first = block() * WARPS + thread() / 32, step = blocks() * WARPS;
  const u32 mine = first < m.tiles ? (m.tiles - first + step - 1) / step : 0, total = mine * chunks;
  u32 lt = 0, lc = 0;
  const u32 rows = m.rows, stride = m.stride;
  const char* const base = (const char*)m.w + piece * 32;
  auto fetch_next = [&](Words& a, Words& b, Words& c, Words& d) {
    if (lt >= mine) return;
    const u32 row = (first + lt * step) * 16 + g;
    const char* one = base + (u64)(row < rows ? row : rows - 1) * stride + lc * 128;
    const char* two = base + (u64)(row + 8 < rows ? row + 8 : rows - 1) * stride + lc * 128;
    a = stream(one);
    b = stream(one + 16);
    c = stream(two);
    d = stream(two + 16);
    if (++lc == chunks) lc = 0, lt++;
  };
  // On their way while the row is made.
  Words ahead[8];
  UNROLL for (u32 k = 0; k < 2; k++) fetch_next(ahead[4 * k], ahead[4 * k + 1], ahead[4 * k + 2], ahead[4 * k + 3]);
  i32 acc[N][4];
  UNROLL for (u32 n = 0; n < N; n++) {
    UNROLL for (u32 e = 0; e < 4; e++) acc[n][e] = 0;
  }
  for (u32 t0 = 0; t0 < I.rows; t0 += 8 * N) {
    if (t0 > 0) {
      lt = lc = 0;
      UNROLL for (u32 k = 0; k < 2; k++) fetch_next(ahead[4 * k], ahead[4 * k + 1], ahead[4 * k + 2], ahead[4 * k + 3]);
    }
    u32 tile = first, c = 0;
    for (u32 from = 0; from < total; from += 2) {
      UNROLL for (u32 k = 0; k < 2; k++) {
        if (from + k < total) {
          UNROLL for (u32 n = 0; n < N; n++) {
            u32 t = t0 + n * 8 + g;
            t = t < I.rows ? t : I.rows - 1;
            const Words* at = (const Words*)((const char*)I.codes + (u64)t * I.code_stride + c * 128 + piece * 32);
            const Words b = load(at), b2 = load(at + 1);
            int8_step(acc[n], ahead[4 * k], ahead[4 * k + 2], b);
            int8_step(acc[n], ahead[4 * k + 1], ahead[4 * k + 3], b2);
          }
          fetch_next(ahead[4 * k], ahead[4 * k + 1], ahead[4 * k + 2], ahead[4 * k + 3]);
          if (++c == chunks) {
            UNROLL for (u32 n = 0; n < N; n++) {
              UNROLL for (u32 e = 0; e < 4; e++) {
                const u32 token = t0 + n * 8 + 2 * piece + (e & 1), row = tile * 16 + g + (e >> 1) * 8;
                if (row < m.rows && token < I.rows) {
                  const float scale = load((const float*)I.scales + 2 * token);
                  const float factor = divide(((const float*)m.scales)[row], scale);
                  ((float*)m.out)[(u64)token * m.out_stride + row] = (float)acc[n][e] * factor;
                }
                acc[n][e] = 0;
              }
            }
            c = 0;
            tile += step;
          }
        }
      }
    }
  }
}

// ---- dense: laneSums, 16 threads a row

APART void dense_rows(const Instruction& I) {
  float* xs = (float*)pool();
  const Matrix& m = I.m[0];
  const u32 lane = thread() & 15, stride = lane_stride(I.width), elements = m.stride / (I.type == F32 ? 4 : 2);
  const u32 whole = I.width / 16, each = THREADS / 16;
  for (u32 t = 0; t < I.rows; t++) {
    make_row(I, t, xs, nullptr, block() == 0);
    for (u32 from = block() * each; from < m.rows; from += blocks() * each) {
      const u32 row = from + thread() / 16;
      const u64 at = (u64)(row < m.rows ? row : m.rows - 1) * elements + lane;
      const float* x = xs + lane * stride;
      float s = 0.0f;
      u32 e = 0;
      for (; e + 16 <= whole; e += 16) {
        float v[16];
        UNROLL for (u32 k = 0; k < 16; k++) v[k] = dense_element((const void*)m.w, I.type, at + (e + k) * 16);
        UNROLL for (u32 k = 0; k < 16; k++) s = s + x[e + k] * v[k];
      }
      for (; e < whole; e++) s = s + x[e] * dense_element((const void*)m.w, I.type, at + e * 16);
      if (whole * 16 + lane < I.width) s = s + x[whole] * dense_element((const void*)m.w, I.type, at + whole * 16);
      s = fold(s);
      if (lane == 0 && row < m.rows) finish(I, m, t, row, s, 0.0f);
    }
    sync();
  }
}

// ---- grouped: panel64 and two planes of codes

/** One group's products of a panel's 64 rows: hi and lo, field by field. Groups of whole 32 columns. */
DEVICE void group_step(const Instruction& I, const char* w, const char* codes, u32 group, i32 (&hi)[4][4], i32 (&lo)[4][4]) {
  const u32 lane = thread() & 31, g = lane / 4, piece = lane & 3, steps = I.group / 32;
  UNROLL for (u32 f = 0; f < 4; f++) {
    UNROLL for (u32 e = 0; e < 4; e++) hi[f][e] = lo[f][e] = 0;
  }
  const char* from = w + (u64)group * steps * 512 + piece * 64 + g * 8;
  const char* b = codes + group * I.group + piece * 4;
  for (u32 first = 0; first < steps; first += 4) {
    u64 a[4][2];
    UNROLL for (u32 k = 0; k < 4; k++) {
      if (first + k < steps) {
        a[k][0] = stream8(from + (first + k) * 512);
        a[k][1] = stream8(from + (first + k) * 512 + 256);
      }
    }
    UNROLL for (u32 k = 0; k < 4; k++) {
      if (first + k < steps) {
        const char* at = b + (first + k) * 32;
        const u32 h0 = load((const u32*)at), h1 = load((const u32*)(at + 16));
        const u32 l0 = load((const u32*)(at + I.code_stride)), l1 = load((const u32*)(at + I.code_stride + 16));
        UNROLL for (u32 f = 0; f < 4; f++) {
          const u32 a0 = (u32)a[k][0] & mask_of(f), a1 = (u32)(a[k][0] >> 32) & mask_of(f);
          const u32 a2 = (u32)a[k][1] & mask_of(f), a3 = (u32)(a[k][1] >> 32) & mask_of(f);
          mma_u8(hi[f], a0, a1, a2, a3, h0, h1);
          mma_u8(lo[f], a0, a1, a2, a3, l0, l1);
        }
      }
    }
  }
}

/** Distance between two rows of planes in memory. */
DEVICE u64 planes_stride(const Instruction& I) { return I.splits; }

/**
 * A block has a panel at a time; a warp one group of it, so that 16 groups are multiplied at once. A thread has a row (and a
 * token) and adds its groups in order.
 */
APART void grouped_rows(const Instruction& I) {
  constexpr u32 N = 8;
  const u32 lane = thread() & 31, warp = thread() / 32, g = lane / 4, piece = lane & 3;
  const u32 items = I.items, each = I.ending == GATE ? 2 : 1, groups = I.width / I.group;
  const u32 slices = (groups + WARPS - 1) / WARPS, rounds = (I.rows + 7) / 8;
  if (block() >= items * rounds) return;
  float* const parts = (float*)pool();
  u32 parity = 0;
  for (u32 item = block(); item < items * rounds; item += blocks()) {
    const u32 t0 = item / items * 8, mine = t0 + thread() % 8, row_in_panel = thread() / 8;
    float total[2] = {0.0f, 0.0f};
    for (u32 sub = 0; sub < each; sub++) {
      u32 panel = item % items;
      const Matrix& m = I.m[each == 2 ? sub : part_of(I, panel)];
      const char* w = (const char*)m.w + (u64)panel * ((I.width + 3) / 4) * 64;
      for (u32 slice = 0; slice < slices; slice++) {
        float* part = parts + parity * WARPS * 64 * N;
        parity ^= 1;
        const u32 group = slice * WARPS + warp;
        if (group < groups) {
          u32 t = t0 + g;
          t = t < I.rows ? t : I.rows - 1;
          const char* from = (const char*)I.codes + t * planes_stride(I);
          i32 hi[4][4], lo[4][4];
          group_step(I, w, from, group, hi, lo);
          UNROLL for (u32 f = 0; f < 4; f++) {
            UNROLL for (u32 e = 0; e < 4; e++) {
              const u32 token = 2 * piece + (e & 1), row = f * 16 + 2 * g + (e >> 1);
              u32 tt = t0 + token;
              tt = tt < I.rows ? tt : I.rows - 1;
              const char* sums = (const char*)I.codes + tt * planes_stride(I) + 2 * I.code_stride;
              const i32 of_codes = load((const i32*)sums + group);
              const i32 sum = 256 * (hi[f][e] >> (2 * f)) + (lo[f][e] >> (2 * f)) - of_codes;
              const float scale = group_scale((const void*)m.scales, m.half, ((u64)panel * groups + group) * 64 + row);
              part[(warp * 64 + row) * N + token] = (float)sum * scale;
            }
          }
        }
        sync();
        if (thread() < 64 * N) {
          const u32 here = groups - slice * WARPS < WARPS ? groups - slice * WARPS : WARPS;
          float sum = total[sub];
          for (u32 k = 0; k < here; k++) sum = sum + part[(k * 64) * N + thread()];
          total[sub] = sum;
        }
      }
    }
    u32 panel = item % items;
    const Matrix& m = I.m[each == 2 ? 0 : part_of(I, panel)];
    const u32 row = panel * 64 + row_in_panel;
    if (thread() < 64 * N && row < m.rows && mine < I.rows) {
      const float scale = load((const float*)I.scales + 2 * mine);
      finish(I, m, mine, row, total[0] * scale, total[1] * scale);
    }
  }
}

/** Groups of any length, without tensor cores: a thread has a row and a token. */
APART void grouped_plain(const Instruction& I) {
  const u32 each = I.ending == GATE ? 2 : 1, groups = I.width / I.group, lines = (I.width + 3) / 4;
  u32 rows = 0;
  for (u32 p = 0; p < (each == 2 ? 1 : I.parts); p++) rows += I.m[p].rows;
  for (u64 item = (u64)block() * THREADS + thread(); item < (u64)rows * I.rows; item += (u64)blocks() * THREADS) {
    const u32 t = (u32)(item / rows);
    u32 row = (u32)(item % rows), p = 0;
    if (each == 1) {
      while (row >= I.m[p].rows) row -= I.m[p++].rows;
    }
    const signed char* hi = (const signed char*)I.codes + t * planes_stride(I);
    float total[2] = {0.0f, 0.0f};
    for (u32 sub = 0; sub < each; sub++) {
      const Matrix& m = I.m[each == 2 ? sub : p];
      const u32 panel = row / 64, in = row % 64;
      const unsigned char* w = (const unsigned char*)m.w + (u64)panel * lines * 64 + 4 * (in & 15);
      for (u32 g = 0; g < groups; g++) {
        i32 sum = 0;
        for (u32 c = g * I.group; c < (g + 1) * I.group; c++) {
          const i32 code = 256 * load(hi + c) + (i32)load((const signed char*)hi + I.code_stride + c);
          sum += ((i32)(w[(u64)(c / 4) * 64 + (c & 3)] >> (2 * (in >> 4)) & 3) - 1) * code;
        }
        total[sub] = total[sub] + (float)sum * group_scale((const void*)m.scales, m.half, ((u64)panel * groups + g) * 64 + in);
      }
    }
    const float scale = load((const float*)I.scales + 2 * t);
    finish(I, I.m[each == 2 ? 0 : p], t, row, total[0] * scale, total[1] * scale);
  }
}
