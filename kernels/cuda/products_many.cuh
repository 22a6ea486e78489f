// Products with several rows of codes. Some rows (`ternary_some`): a block has 32 rows of a matrix, its warps share the columns and
// the tokens, and weights come to shared memory while the grid waits. Many (`ternary_tiles`): tiles of weights and codes go through
// shared memory, each used by several warps; a warp has 32 tokens and 32 or 64 rows.
#pragma once

#include "products.cuh"

/** Rows up to which a block has all tokens of its rows of the matrix. */
constexpr u32 SOME_ROWS = 64;

// ---- some rows

/** Integers from token to token of a partial result: 32 rows and 16 bytes. */
constexpr u32 PART_STRIDE = 36;
/** A chunk is 32 rows x 64 columns: 16 bytes a lane. Those that are fetched ahead lie at the end of shared memory. */
constexpr u32 CHUNK_BYTES = 512;
DEVICE u32 most_chunks(const Instruction& I) { return I.splits * (STAGED_BYTES / CHUNK_BYTES); }
DEVICE Words* staged_chunks(const Instruction& I) { return (Words*)(shared_memory() + shared_size() - I.splits * STAGED_BYTES); }

/** Before the barrier: the first weights of what this block multiplies, in the order in which it does. */
APART void ternary_some_ahead(const Instruction& I) {
  const u32 chunks = I.code_stride / 64, items = I.items, each = I.ending == GATE ? 2 : 1, warp = thread() / 32;
  if (block() >= items) return;
  const u32 subs = ((items - 1 - block()) / blocks() + 1) * each, all = subs * chunks;
  const u32 n = all < most_chunks(I) ? all : most_chunks(I);
  Words* to = staged_chunks(I) + (thread() & 31);
  u32 sub = 0, c = warp;
  for (u32 i = warp; i < n; i += WARPS, c += WARPS) {
    while (c >= chunks) c -= chunks, sub++;
    u32 tile;
    const Matrix& m = tile_of(I, sub, tile);
    const char* at = quad_at(m, tile, c);
    if (at) copy_ahead(to + i * 32, at);
  }
  copies_asked();
}

/** What a token's results are scaled with. */
struct SomeScale {
  float scale;
  i32 code_sum;
};
/** Steps whose codes are on their way at once: 512 bytes of a warp each, 16 of a lane, which alone reads them. */
constexpr u32 CODES_AHEAD = 8, MOST_SUMS = SOME_ROWS * 32 / THREADS;
struct SomeMemory {
  SomeScale scales[SOME_ROWS];
  /** What is there where results are added. */
  float old[MOST_SUMS][THREADS];
  /** Later partial sums. */
  Words codes[CODES_AHEAD][THREADS];
};
static_assert(2 * WARPS * 8 * PART_STRIDE * 4 <= CODES_AHEAD * THREADS * 16, "partial sums of gate and up lie where codes did");

/**
 * ITEMS tiles of the block's, from `item` on, in one pass over the codes; EACH is 2 for gate and up. Loops are short: code that runs
 * once or twice waits for itself. FIRST: nothing of what was asked for has been waited for.
 */
template <u32 EACH, u32 ITEMS> DEVICE void some_pass(const Instruction& I, u32 item, u32 sub0, bool first) {
  constexpr u32 SUBS = EACH * ITEMS;
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, g = lane / 4, piece = lane & 3;
  const u32 chunks = I.code_stride / 64, rows = I.rows;
  // Eights of tokens, and in how many shares their warps take the columns.
  u32 eights = 1;
  while (eights * 8 < rows) eights *= 2;
  const u32 shares = WARPS / eights, mine = warp / eights, eight = warp % eights, tokens = eights * 8;
  SomeMemory& memory = *(SomeMemory*)pool();
  i32* const parts = (i32*)memory.codes;
  const u32 t = eight * 8 + g, steps = mine < chunks ? (chunks - mine + shares - 1) / shares : 0;
  const char* codes = (const char*)I.codes + (u64)(t < rows ? t : rows - 1) * I.code_stride + piece * 16 + mine * 64;
  auto ask = [&](u32 i) {
    if (i < steps) copy_ahead(&memory.codes[i % CODES_AHEAD][tid], codes + i * shares * 64);
    copies_asked();
  };
  // Partial sums of the pass before lie there.
  if (!first) sync();
  ROLLED for (u32 i = 0; i < CODES_AHEAD; i++) ask(i);
  if (first && tid < rows) memory.scales[tid] = {load((const float*)I.scales + 2 * tid), load((const i32*)I.scales + 2 * tid + 1)};
  // This thread's results: where they go, and what is there.
  const u32 field = lane / 8;
  const bool adds = I.ending == ADD;
  float old[MOST_SUMS];
  auto ask_old = [&](u32 of) {
    u32 tile = of;
    const Matrix& m = I.m[EACH == 2 ? 0 : part_of(I, tile)];
    const u32 quad = tile * 8 + tid % 8, row = quad + field * m.quads;
    UNROLL for (u32 k = 0; k < MOST_SUMS; k++) {
      const u32 token = warp + k * WARPS;
      old[k] = token < rows && quad < m.quads && row < m.rows ? load((const float*)m.out + (u64)token * m.out_stride + row) : 0.0f;
    }
  };
  if (adds) ask_old(item);
  const u32 n = most_chunks(I);
  const Words* staged_here = staged_chunks(I) + (sub0 * chunks + mine) * 32 + lane;
  const char* from[SUBS];
  i32 low[SUBS][4], high[SUBS][4];
  UNROLL for (u32 s = 0; s < SUBS; s++) {
    u32 tile = 0;
    const Matrix& m = tile_of(I, sub0 + s, tile);
    from[s] = quad_at(m, tile, mine);
    UNROLL for (u32 e = 0; e < 4; e++) low[s][e] = high[s][e] = 0;
  }
  if (first) {
    copies_there<CODES_AHEAD - 1>();
    sync();
  }
  ROLLED for (u32 i = 0, at = 0; i < steps; i++, at += shares) {
    copies_there<CODES_AHEAD - 1>();
    const Words code = memory.codes[i % CODES_AHEAD][tid];
    UNROLL for (u32 s = 0; s < SUBS; s++) {
      const bool there = (sub0 + s) * chunks + mine + at < n;
      const Words a = there ? staged_here[(s * chunks + at) * 32] : from[s] ? stream(from[s] + at * 64) : Words{0, 0, 0, 0};
      ternary_step(low[s], high[s], a, code);
    }
    ask(i + CODES_AHEAD);
  }
  UNROLL for (u32 j = 0; j < ITEMS; j++) {
    // All codes have been read, or the results before been made.
    sync();
    UNROLL for (u32 s = 0; s < EACH; s++) {
      i32* part = parts + ((s * shares + mine) * tokens + eight * 8 + 2 * piece) * PART_STRIDE + g;
      UNROLL for (u32 e = 0; e < 2; e++) {
        part[e * PART_STRIDE] = low[j * EACH + s][e];
        part[e * PART_STRIDE + 8] = low[j * EACH + s][2 + e];
        part[e * PART_STRIDE + 16] = high[j * EACH + s][e];
        part[e * PART_STRIDE + 24] = high[j * EACH + s][2 + e];
      }
    }
    if (adds) {
      if (j > 0) ask_old(item + j * blocks());
      UNROLL for (u32 k = 0; k < MOST_SUMS; k++) memory.old[k][tid] = old[k];
    }
    sync();
    u32 tile = item + j * blocks();
    const Matrix& m = I.m[EACH == 2 ? 0 : part_of(I, tile)];
    const u32 quad = tile * 8 + tid % 8, row = quad + field * m.quads;
    if (quad >= m.quads || row >= m.rows) continue;
    const float factor = m.scale, other = I.m[1].scale;
    float* out = (float*)m.out + row;
    ROLLED for (u32 token = warp, k = 0; token < rows; token += WARPS, k++) {
      const SomeScale of = memory.scales[token];
      auto value = [&](u32 s, float scale) {
        const i32* part = parts + (s * shares * tokens + token) * PART_STRIDE + lane;
        i32 sum = 0;
        UNROLL2 for (u32 x = 0; x < shares; x++) sum += part[x * tokens * PART_STRIDE];
        return (float)((sum >> (2 * field)) - of.code_sum) * divide(scale, of.scale);
      };
      const float y = value(0, factor);
      out[(u64)token * m.out_stride] = EACH == 2 ? joined(I, y, value(1, other)) : adds ? memory.old[k][tid] + y : y;
    }
  }
}

template <u32 EACH> DEVICE void some_of(const Instruction& I) {
  const u32 items = I.items;
  bool first = true;
  for (u32 item = block(), sub = 0; item < items; item += 2 * blocks(), sub += 2 * EACH) {
    if (item + blocks() < items) some_pass<EACH, 2>(I, item, sub, first);
    else some_pass<EACH, 1>(I, item, sub, first);
    first = false;
  }
}

DEVICE void ternary_some(const Instruction& I) {
  if (I.ending == GATE) some_of<2>(I);
  else some_of<1>(I);
}

// ---- many rows

/** What a token's sums are multiplied with, of gate and up; its sum of codes. */
struct alignas(16) TokenScale {
  float factor[2];
  i32 code_sum, pad;
};
/** Tokens of a block's tile, columns that are staged at once. */
constexpr u32 TILE_TOKENS = 128, STAGE = 128, TILE_STAGES = 3;
/** Units of 32 rows of a block: 4 warps' of UNITS each. */
template <u32 UNITS> constexpr u32 STAGE_BYTES = (TILE_TOKENS + 4 * UNITS * 8) * STAGE;

/** 16 bytes of a staged row of 128: of two rows next to each other they are in different banks. */
DEVICE u32 staged_at(u32 row, u32 sixteen) { return row * STAGE + ((sixteen ^ (row & 3) << 1) << 4); }
struct alignas(8) Twowords {
  u32 x, y;
};

/** Tiles of a block, as `part_of` counts tiles of 8 quads. */
template <u32 UNITS> DEVICE u32 block_tiles(const Instruction& I, const Matrix& m) {
  return I.ending == GATE ? (m.tiles + 3) / 4 : (m.tiles + 4 * UNITS - 1) / (4 * UNITS);
}

/** A block has 128 UNITS rows (of gate and up 128 each) and 128 tokens, a warp 32 UNITS and 32. */
template <u32 UNITS> DEVICE void ternary_tiles_of(const Instruction& I) {
  constexpr u32 STAGES = TILE_STAGES;
  char* const staged_here = pool();
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, g = lane / 4, piece = lane & 3;
  const u32 row_warp = warp & 3, token_warp = warp / 4, stages = I.code_stride / STAGE;
  const bool gate = I.ending == GATE;
  u32 tiles = 0;
  for (u32 p = 0; p < (gate ? 1 : I.parts); p++) tiles += block_tiles<UNITS>(I, I.m[p]);
  const u32 groups = (I.rows + TILE_TOKENS - 1) / TILE_TOKENS;
  TokenScale* const token_scales = (TokenScale*)(staged_here + STAGES * STAGE_BYTES<UNITS>);
  for (u32 item = block(); item < tiles * groups; item += blocks()) {
    const u32 t0 = item / tiles * TILE_TOKENS;
    u32 large = item % tiles, p = 0;
    if (!gate) {
      while (large >= block_tiles<UNITS>(I, I.m[p])) large -= block_tiles<UNITS>(I, I.m[p++]);
    }
    /** Matrix and tile of 8 quads of a warp's unit. */
    auto matrix_of = [&](u32 unit) -> const Matrix& { return I.m[gate ? unit : p]; };
    auto tile_at = [&](u32 rw, u32 unit) { return gate ? large * 4 + rw : (large * 4 + rw) * UNITS + unit; };
    // What this thread copies of every stage: 16 bytes of two tokens' codes and of one row of weights.
    const u32 copied = tid / 8, sixteen = tid % 8;
    const char* code_from[2];
    UNROLL for (u32 k = 0; k < 2; k++) {
      const u32 t = t0 + copied + 64 * k;
      code_from[k] = (const char*)I.codes + (u64)(t < I.rows ? t : I.rows - 1) * I.code_stride + sixteen * 16;
    }
    const char* weight_from = nullptr;
    if (copied < 32 * UNITS) {
      const u32 unit = copied / 8 % UNITS, quad = tile_at(copied / 8 / UNITS, unit) * 8 + copied % 8;
      const Matrix& m = matrix_of(unit);
      if (quad < m.quads) weight_from = (const char*)m.w + (u64)quad * m.stride + sixteen * 16;
    }
    const u32 code_to = staged_at(copied, sixteen);
    auto ask = [&](u32 stage) {
      if (stage < stages) {
        char* to = staged_here + stage % STAGES * STAGE_BYTES<UNITS> + code_to;
        copy_ahead(to, code_from[0] + stage * STAGE);
        copy_ahead(to + 64 * STAGE, code_from[1] + stage * STAGE);
        if (weight_from) copy_ahead(to + TILE_TOKENS * STAGE, weight_from + stage * STAGE);
      }
      copies_asked();
    };
    i32 low[UNITS][4][4], high[UNITS][4][4];
    UNROLL for (u32 u = 0; u < UNITS; u++) {
      UNROLL for (u32 n = 0; n < 4; n++) {
        UNROLL for (u32 e = 0; e < 4; e++) low[u][n][e] = high[u][n][e] = 0;
      }
    }
    UNROLL for (u32 stage = 0; stage < STAGES - 1; stage++) ask(stage);
    if (tid < TILE_TOKENS) {
      const u32 t = t0 + tid < I.rows ? t0 + tid : I.rows - 1;
      const float scale = load((const float*)I.scales + 2 * t);
      token_scales[tid] = {{divide(matrix_of(0).scale, scale), divide(gate ? I.m[1].scale : 0.0f, scale)}, load((const i32*)I.scales + 2 * t + 1), 0};
    }
    const u32 token_at = (token_warp * 32 + g) * STAGE, quad_row = TILE_TOKENS * STAGE + (row_warp * UNITS * 8 + g) * STAGE;
    for (u32 stage = 0; stage < stages; stage++) {
      copies_there<STAGES - 2>();
      sync();
      ask(stage + STAGES - 1);
      const char* here = staged_here + stage % STAGES * STAGE_BYTES<UNITS>;
      // 32 columns at a time, 8 of a lane, so that few words are held.
      UNROLL for (u32 k = 0; k < STAGE / 32; k++) {
        const u32 at = (k ^ (g & 3)) * 32 + piece * 8;
        Twowords b[4];
        UNROLL for (u32 n = 0; n < 4; n++) b[n] = *(const Twowords*)(here + token_at + n * 8 * STAGE + at);
        UNROLL for (u32 u = 0; u < UNITS; u++) {
          const Twowords a = *(const Twowords*)(here + quad_row + u * 8 * STAGE + at);
          UNROLL for (u32 n = 0; n < 4; n++)
            mma_u8(low[u][n], a.x & mask_of(0), a.x & mask_of(1), a.y & mask_of(0), a.y & mask_of(1), b[n].x, b[n].y);
          UNROLL for (u32 n = 0; n < 4; n++)
            mma_u8(high[u][n], a.x & mask_of(2), a.x & mask_of(3), a.y & mask_of(2), a.y & mask_of(3), b[n].x, b[n].y);
        }
      }
    }
    copies_there<0>();
    auto sum_of = [&](u32 u, u32 n, u32 e, u32 f) { return f == 0 ? low[u][n][e] : f == 1 ? low[u][n][2 + e] : f == 2 ? high[u][n][e] : high[u][n][2 + e]; };
    auto value = [&](u32 u, u32 n, u32 e, u32 f, float factor, i32 code_sum) { return (float)((sum_of(u, n, e, f) >> (2 * f)) - code_sum) * factor; };
    const Matrix& m = I.m[gate ? 0 : p];
    // What is there already: asked for at once, half of the tokens at a time where that is much.
    const bool adds = I.ending == ADD;
    if (UNITS == 2 && gate) {
      const u32 quad = tile_at(row_warp, 0) * 8 + g;
      auto each = [&](auto join) {
        UNROLL for (u32 n = 0; n < 4; n++) {
          UNROLL for (u32 e = 0; e < 2; e++) {
            const u32 token = token_warp * 32 + n * 8 + 2 * piece + e;
            if (t0 + token >= I.rows) continue;
            const TokenScale of = token_scales[token];
            float* out = (float*)m.out + (u64)(t0 + token) * m.out_stride;
            UNROLL for (u32 f = 0; f < 4; f++) {
              const u32 row = quad + f * m.quads;
              if (quad >= m.quads || row >= m.rows) continue;
              out[row] = join(value(0, n, e, f, of.factor[0], of.code_sum), value(UNITS - 1, n, e, f, of.factor[1], of.code_sum));
            }
          }
        }
      };
      if (I.gate == RELU2) {
        each(relu2);
      } else {
        each([&](float a, float b) { return activated(I.gate, I.limit, a, b); });
      }
    } else {
      constexpr u32 TOGETHER = 4 / UNITS;
      float old[TOGETHER][2][UNITS][4];
      UNROLL for (u32 n = 0; n < 4; n++) {
        UNROLL for (u32 k = n; k < n + TOGETHER && n % TOGETHER == 0; k++) {
          UNROLL for (u32 e = 0; e < 2; e++) {
            const u32 t = t0 + token_warp * 32 + k * 8 + 2 * piece + e;
            const float* out = (const float*)m.out + (u64)t * m.out_stride;
            UNROLL for (u32 u = 0; u < UNITS; u++) {
              UNROLL for (u32 f = 0; f < 4; f++) {
                const u32 quad = tile_at(row_warp, u) * 8 + g, row = quad + f * m.quads;
                old[k % TOGETHER][e][u][f] = adds && t < I.rows && quad < m.quads && row < m.rows ? load(out + row) : 0.0f;
              }
            }
          }
        }
        UNROLL for (u32 e = 0; e < 2; e++) {
          const u32 token = token_warp * 32 + n * 8 + 2 * piece + e;
          if (t0 + token >= I.rows) continue;
          const TokenScale of = token_scales[token];
          float* out = (float*)m.out + (u64)(t0 + token) * m.out_stride;
          UNROLL for (u32 u = 0; u < UNITS; u++) {
            UNROLL for (u32 f = 0; f < 4; f++) {
              const u32 quad = tile_at(row_warp, u) * 8 + g, row = quad + f * m.quads;
              const float y = value(u, n, e, f, of.factor[0], of.code_sum);
              if (quad < m.quads && row < m.rows) out[row] = adds ? old[n % TOGETHER][e][u][f] + y : y;
            }
          }
        }
      }
    }
    sync();
  }
}

/** Tiles as large as leave no multiprocessor without one. */
DEVICE void ternary_tiles_of_two(const Instruction& I) {
  u32 tiles = 0;
  for (u32 p = 0; p < I.parts; p++) tiles += block_tiles<2>(I, I.m[p]);
  if (I.ending == GATE || tiles * ((I.rows + TILE_TOKENS - 1) / TILE_TOKENS) >= blocks()) ternary_tiles_of<2>(I);
  else ternary_tiles_of<1>(I);
}

// The same by warps in fours, see mma_four: blocks of 256 threads, whose registers hold twice the results.

constexpr u32 FOUR_THREADS = 256;
template <u32 UNITS, u32 TOKENS> constexpr u32 FOUR_BYTES = (TOKENS + UNITS * 32) * STAGE;
/** Stages in a ring of 122,880 bytes; with more of them the cache is smaller, through which results go. */
template <u32 UNITS, u32 TOKENS> constexpr u32 FOUR_STAGES = 122880 / FOUR_BYTES<UNITS, TOKENS>;
/** 16 bytes of a staged row of 128, as four warps together read them. */
DEVICE u32 four_at(u32 row, u32 sixteen) { return row * STAGE + ((sixteen ^ (row & 7)) << 4); }

/**
 * A block has UNITS times 32 quads of rows (of gate and up 32 each) and N tokens. Of two units each four has one, one they share: then
 * each has half of the columns. A four asks for the next products before it has waited for the last ones. Results go through
 * shared memory, so that what is done with them is a short loop, and whole lines are written.
 */
template <u32 UNITS, u32 N> DEVICE void ternary_fours_of(const Instruction& I) {
  constexpr u32 STAGES = FOUR_STAGES<UNITS, N>, AHEAD = STAGES - 2, BYTES = FOUR_BYTES<UNITS, N>, CODES = N / 32, STEPS_EACH = STAGE / 32 * UNITS / 2;
  // Tokens of a pass over the results, and words from one to the next.
  constexpr u32 PART = N / UNITS, STRIDE = UNITS * 128 + 4;
  static_assert(PART * STRIDE * 4 <= STAGES * BYTES, "results lie where weights and codes did");
  // Behind them, if there is room, what they are added to.
  constexpr u32 OLD_AT = PART * STRIDE * 4;
  constexpr bool OLD_AHEAD = OLD_AT + PART * UNITS * 512 <= STAGES * BYTES;
  static_assert(PART % 16 == 0, "whole rounds of two tokens for each warp");
  char* const staged_here = tile_place(pool());
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, four = tid / 128, g = lane / 4, piece = lane & 3, row_warp = warp & 3;
  const u32 stages = I.code_stride / STAGE, unit = UNITS == 2 ? four : 0, first_step = UNITS == 2 ? 0 : four * STEPS_EACH;
  const bool gate = I.ending == GATE, adds = I.ending == ADD;
  auto tiles_of = [&](const Matrix& m) { return (m.quads + (gate ? 31 : 32 * UNITS - 1)) / (gate ? 32 : 32 * UNITS); };
  u32 tiles = 0;
  ROLLED for (u32 p = 0; p < (gate ? 1 : I.parts); p++) tiles += tiles_of(I.m[p]);
  const u32 groups = (I.rows + N - 1) / N;
  TokenScale* const token_scales = (TokenScale*)(staged_here + STAGES * BYTES);
  bool waited = false;
  for (u32 item = block(); item < tiles * groups; item += blocks()) {
    const u32 t0 = item / tiles * N;
    u32 large = item % tiles, p = 0;
    if (!gate) {
      ROLLED while (large >= tiles_of(I.m[p])) large -= tiles_of(I.m[p++]);
    }
    auto matrix_of = [&](u32 u) -> const Matrix& { return I.m[gate ? u : p]; };
    auto quad_of = [&](u32 u) { return (gate ? large : large * UNITS + u) * 32; };
    // What this thread copies of every stage: 16 bytes of a row of weights of each unit, and of some tokens' codes.
    const u32 copied = tid / 8, sixteen = tid % 8, to = four_at(copied, sixteen);
    const char* weight_from[UNITS];
    UNROLL for (u32 u = 0; u < UNITS; u++) {
      const Matrix& m = matrix_of(u);
      const u32 quad = quad_of(u) + copied;
      weight_from[u] = quad < m.quads ? (const char*)m.w + (u64)quad * m.stride + sixteen * 16 : nullptr;
    }
    const char* code_from[CODES];
    UNROLL for (u32 k = 0; k < CODES; k++) {
      const u32 t = t0 + copied + 32 * k;
      code_from[k] = (const char*)I.codes + (u64)(t < I.rows ? t : I.rows - 1) * I.code_stride + sixteen * 16;
    }
    // The stage that is asked for next, and its place.
    u32 asked = 0;
    char* asked_at = staged_here + to;
    auto ask_weights = [&](u32 stage, char* at) {
      UNROLL for (u32 u = 0; u < UNITS; u++) {
        if (stage < stages && weight_from[u]) copy_ahead(at + (N + u * 32) * STAGE, weight_from[u] + stage * STAGE);
      }
    };
    auto ask_codes = [&]() {
      UNROLL for (u32 k = 0; k < CODES; k++) {
        if (asked < stages) copy_ahead(asked_at + k * 32 * STAGE, code_from[k] + asked * STAGE);
      }
      copies_asked();
      asked++;
      asked_at += BYTES;
      if (asked_at >= staged_here + STAGES * BYTES) asked_at -= STAGES * BYTES;
    };
    // Of the weights no more than one stage's before the codes, or the first products would wait for all of them.
    ask_weights(0, asked_at);
    if (!waited) wait_for_earlier();
    waited = true;
    ask_codes();
    ROLLED while (asked < AHEAD) {
      ask_weights(asked, asked_at);
      ask_codes();
    }
    if (tid < N) {
      const u32 t = t0 + tid < I.rows ? t0 + tid : I.rows - 1;
      const float scale = load((const float*)I.scales + 2 * t);
      const i32 sum = load((const i32*)I.scales + 2 * t + 1);
      token_scales[tid] = {{divide(matrix_of(0).scale, scale), gate ? divide(I.m[1].scale, scale) : 0.0f}, sum, 0};
    }
    i32 low[N / 8][4], high[N / 8][4];
    UNROLL for (u32 n = 0; n < N / 8; n++) {
      UNROLL for (u32 e = 0; e < 4; e++) low[n][e] = high[n][e] = 0;
    }
    const char* codes = staged_here;
    // Of this step and of the one before, which may still be multiplied.
    static_assert(STEPS_EACH % 2 == 0, "they change places, from stage to stage too");
    constexpr u32 SETS = STEPS_EACH;
    u32 fields[SETS][2][4] = {};
    ROLLED for (u32 stage = 0; stage < stages; stage++) {
      copies_there<AHEAD - 1>();
      copies_for_tiles();
      sync();
      const char* const weights = codes + (N + unit * 32 + row_warp * 8 + g) * STAGE + piece * 4;
      u32 a[STEPS_EACH][2];
      UNROLL for (u32 k = 0; k < STEPS_EACH; k++) {
        UNROLL for (u32 h = 0; h < 2; h++) a[k][h] = *(const u32*)(weights + (((2 * (first_step + k) + h) ^ g) << 4));
      }
      // Into the place of the stage before the one before, which all have multiplied.
      ask_weights(asked, asked_at);
      ask_codes();
      UNROLL for (u32 k = 0; k < STEPS_EACH; k++) {
        u32(&now)[2][4] = fields[k % SETS];
        UNROLL for (u32 f = 0; f < 4; f++) {
          UNROLL for (u32 h = 0; h < 2; h++) now[f / 2][2 * h + f % 2] = a[k][h] & mask_of(f);
        }
        mma_begin(now);
        mma_four<N>(low, now[0], codes, first_step + k);
        mma_four<N>(high, now[1], codes, first_step + k);
        mma_asked();
        mma_done<SETS - 1>();
        mma_kept(fields[(k + 1) % SETS]);
      }
      codes += BYTES;
      if (codes >= staged_here + STAGES * BYTES) codes -= STAGES * BYTES;
    }
    mma_done<0>();
    copies_there<0>();
    UNROLL for (u32 k = 0; k < SETS; k++) mma_kept(fields[k]);
    i32* const results = (i32*)staged_here;
    const Matrix& m = I.m[gate ? 0 : p];
    const u32 quads = m.quads, rows = m.rows, out_stride = m.out_stride;
    // Of the results a lane has four rows next to each other of each unit; `left`: of those, what is there.
    const u32 quad_at = lane % 8 * 4, field = lane / 8, gate_of = I.gate;
    auto left_of = [&](u32 u) {
      const u32 quad = quad_of(u) + quad_at, row = quad + field * quads;
      return quad >= quads || row >= rows ? 0 : quads - quad < rows - row ? quads - quad : rows - row;
    };
    const u32 left[2] = {left_of(0), left_of(UNITS - 1)};
    // Nearly always four at a time can be read and written; of the last tokens there may be fewer than a tile has.
    const bool whole = ((quads | out_stride) & 3) == 0 && (m.out & 15) == 0 && left[0] >= 4 && left[1] >= 4;
    const u32 tokens = I.rows - t0 < N ? I.rows - t0 : N;
    // Two at a time: both units of a token, or two tokens.
    constexpr u32 STEP = UNITS == 2 ? 8 : 16;
    auto token_at = [&](u32 i, u32 k) { return UNITS == 2 ? i : i + 8 * k; };
    float* const out_here = (float*)m.out + (u64)t0 * out_stride + quad_at + field * quads;
    auto out_at = [&](u32 token, u32 k) { return out_here + (u64)token * out_stride + quad_of(UNITS == 2 ? k : 0); };
    auto left_at = [&](u32 token, u32 k) { return token < tokens ? left[k] : 0; };
    ROLLED for (u32 pass = 0; pass < UNITS; pass++) {
      const u32 first = pass * PART, part = first >= tokens ? 0 : tokens - first < PART ? tokens - first : PART;
      // Of two tokens the second may be one too many.
      auto there = [&](u32 i, u32 k) { return token_at(i, k) < part; };
      Floats* const old_ahead = (Floats*)(staged_here + OLD_AT) + tid;
      sync();
      if (OLD_AHEAD && whole && adds) {
        ROLLED for (u32 i = warp, at = 0; i < part; i += STEP, at += 2 * FOUR_THREADS) {
          UNROLL for (u32 k = 0; k < 2; k++) {
            if (there(i, k)) copy_ahead(old_ahead + at + k * FOUR_THREADS, out_at(first + token_at(i, k), k));
          }
        }
        copies_asked();
      }
      auto put = [&](auto what) {
        UNROLL for (u32 n = 0; n < N / 8; n++) {
          if (UNITS == 2 && n / (N / 16) != pass) continue;
          UNROLL for (u32 e = 0; e < 2; e++) {
            i32* const at = results + (n % (PART / 8) * 8 + 2 * piece + e) * STRIDE + unit * 128 + row_warp * 8 + g;
            what(at[0], low[n][e]);
            what(at[32], low[n][2 + e]);
            what(at[64], high[n][e]);
            what(at[96], high[n][2 + e]);
          }
        }
      };
      if (UNITS == 2 || four == 0) put([](i32& at, i32 v) { at = v; });
      sync();
      if (UNITS == 1) {
        // The other columns'.
        if (four == 1) put([](i32& at, i32 v) { at += v; });
        sync();
      }
      auto values = [&](Floats (&y)[2], u32 i) {
        UNROLL for (u32 k = 0; k < 2; k++) {
          const u32 at = token_at(i, k);
          const TokenScale of = token_scales[first + at];
          const Words v = *(const Words*)(results + at * STRIDE + (UNITS == 2 ? k * 128 : 0) + field * 32 + quad_at);
          const float factor = of.factor[gate ? k : 0];
          auto value = [&](u32 sum) { return (float)(((i32)sum >> (2 * field)) - of.code_sum) * factor; };
          y[k] = {value(v.x), value(v.y), value(v.z), value(v.w)};
        }
      };
      auto join = [&](Floats& y, const Floats& up, auto one) { y = {one(y.x, up.x), one(y.y, up.y), one(y.z, up.z), one(y.w, up.w)}; };
      if (whole && adds) {
        // What is there already: copied by the thread itself, or asked for a round before it is wanted.
        copies_there<0>();
        Floats next[2];
        auto ask_old = [&](u32 i) {
          UNROLL for (u32 k = 0; k < 2; k++) {
            if (there(i, k)) next[k] = load((const Floats*)out_at(first + token_at(i, k), k));
          }
        };
        if (!OLD_AHEAD) ask_old(warp);
        ROLLED for (u32 i = warp, at = 0; i < part; i += STEP, at += 2 * FOUR_THREADS) {
          Floats old[2];
          UNROLL for (u32 k = 0; k < 2; k++) old[k] = OLD_AHEAD ? old_ahead[at + k * FOUR_THREADS] : next[k];
          if (!OLD_AHEAD) ask_old(i + STEP);
          Floats y[2];
          values(y, i);
          UNROLL for (u32 k = 0; k < 2; k++) {
            if (there(i, k)) *(Floats*)out_at(first + token_at(i, k), k) = {old[k].x + y[k].x, old[k].y + y[k].y, old[k].z + y[k].z, old[k].w + y[k].w};
          }
        }
      } else if (whole && gate && gate_of == RELU2) {
        UNROLL2 for (u32 i = warp; i < part; i += STEP) {
          Floats y[2];
          values(y, i);
          join(y[0], y[1], relu2);
          *(Floats*)out_at(first + i, 0) = y[0];
        }
      } else if (whole && !gate) {
        UNROLL2 for (u32 i = warp; i < part; i += STEP) {
          Floats y[2];
          values(y, i);
          UNROLL for (u32 k = 0; k < 2; k++) {
            if (there(i, k)) *(Floats*)out_at(first + token_at(i, k), k) = y[k];
          }
        }
      } else {
        ROLLED for (u32 i = warp; i < part; i += STEP) {
          Floats y[2];
          values(y, i);
          if (gate) join(y[0], y[1], [&](float a, float b) { return joined(I, a, b); });
          UNROLL for (u32 k = 0; k < (gate ? 1 : 2); k++) {
            const u32 token = first + token_at(i, k), n = left_at(token, k);
            float* const out = out_at(token, k);
            const float each[4] = {y[k].x, y[k].y, y[k].z, y[k].w};
            UNROLL for (u32 e = 0; e < 4; e++) {
              if (e < n) out[e] = adds ? load(out + e) + each[e] : each[e];
            }
          }
        }
      }
    }
    sync();
  }
  if (!waited) wait_for_earlier();
}

/** Tiles of the kind that the instruction says: TILES of encode.ts. */
DEVICE void ternary_tiles(const Instruction& I) {
  if (!four_warps()) {
    wait_for_earlier();
    ternary_tiles_of_two(I);
  } else if (I.cut == 0 || I.ending == GATE) {
    ternary_fours_of<2, 128>(I);
  } else if (I.cut == 1) {
    ternary_fours_of<1, 128>(I);
  } else {
    ternary_fours_of<1, 96>(I);
  }
}

// ---- int8: the head of a batch

/** Bytes from row to row of codes in shared memory: 16 more than they have, for the banks. */
DEVICE u32 head_stride(const Instruction& I) { return I.code_stride + 16; }
/** Pieces of a warp's ring, 16 rows x 128 columns each. */
constexpr u32 HEAD_PLACES = 4, HEAD_PIECE = 2048, HEAD_RINGS = WARPS * HEAD_PLACES * HEAD_PIECE;
/** Eights of tokens whose codes fit, beside the rings or without. */
DEVICE u32 head_eights(const Instruction& I, u32 beside) {
  if (shared_size() < POOL_AT + beside) return 0;
  const u32 fit = (shared_size() - POOL_AT - beside) / (8 * head_stride(I));
  return fit >= 4 ? 4 : fit >= 2 ? 2 : fit;
}

/**
 * 8 N tokens' codes in shared memory; a warp takes tiles of 16 rows, 128 columns a step. RINGS: weights come through the warp's ring, in
 * whole lines and three steps ahead; else two steps are on their way in registers. The first are asked for before the kernel
 * before has ended.
 */
template <u32 N, bool RINGS> DEVICE void int8_of_rows(const Instruction& I) {
  const u32 tid = thread(), lane = tid & 31, g = lane / 4, piece = lane & 3;
  const Matrix& m = I.m[0];
  const u32 chunks = I.code_stride / 128, first = block() * WARPS + tid / 32, step = blocks() * WARPS;
  const u32 mine = first < m.tiles ? (m.tiles - first + step - 1) / step : 0, total = mine * chunks;
  const u32 rows = m.rows, stride = m.stride, words = I.code_stride / 16;
  const char* const base = (const char*)m.w;
  char* const ring = pool() + tid / 32 * (HEAD_PLACES * HEAD_PIECE);
  char* const codes = pool() + (RINGS ? HEAD_RINGS : 0);
  auto row_at = [&](u32 row) { return base + (u64)(row < rows ? row : rows - 1) * stride; };
  for (u32 t0 = 0; t0 < I.rows; t0 += 8 * N) {
    // The step that is asked for next.
    u32 lt = 0, lc = 0, asked = 0;
    auto next_step = [&]() {
      if (++lc == chunks) lc = 0, lt++;
    };
    auto ask = [&]() {
      if (lt < mine) {
        char* const to = ring + asked++ % HEAD_PLACES * HEAD_PIECE;
        UNROLL for (u32 k = 0; k < 4; k++) {
          const u32 row = 4 * k + lane / 8, chunk = lane & 7;
          copy_ahead(to + row * 128 + ((chunk ^ (row & 7)) << 4), row_at((first + lt * step) * 16 + row) + lc * 128 + chunk * 16);
        }
        next_step();
      }
      copies_asked();
    };
    auto fetch_next = [&](Words (&a)[4]) {
      if (lt >= mine) return;
      const u32 row = (first + lt * step) * 16 + g;
      const char* one = row_at(row) + lc * 128 + piece * 32;
      const char* two = row_at(row + 8) + lc * 128 + piece * 32;
      a[0] = stream(one);
      a[1] = stream(one + 16);
      a[2] = stream(two);
      a[3] = stream(two + 16);
      next_step();
    };
    Words ahead[2][4];
    if (RINGS) {
      ROLLED for (u32 k = 0; k < HEAD_PLACES - 1; k++) ask();
    } else {
      UNROLL for (u32 k = 0; k < 2; k++) fetch_next(ahead[k]);
    }
    if (t0 == 0) wait_for_earlier();
    for (u32 i = tid; i < 8 * N * words; i += THREADS) {
      const u32 row = i / words, at = i % words * 16, t = t0 + row < I.rows ? t0 + row : I.rows - 1;
      copy_ahead(codes + row * head_stride(I) + at, (const char*)I.codes + (u64)t * I.code_stride + at);
    }
    copies_asked();
    copies_there<0>();
    sync();
    float scale[N][2];
    UNROLL for (u32 n = 0; n < N; n++) {
      UNROLL for (u32 e = 0; e < 2; e++) {
        const u32 token = t0 + n * 8 + 2 * piece + e;
        scale[n][e] = load((const float*)I.scales + 2 * (token < I.rows ? token : I.rows - 1));
      }
    }
    float row_scale[2];
    auto fetch_scales = [&](u32 tile) {
      UNROLL for (u32 k = 0; k < 2; k++) {
        const u32 row = tile * 16 + g + 8 * k;
        row_scale[k] = stream_float((const float*)m.scales + (row < rows ? row : rows - 1));
      }
    };
    fetch_scales(first < m.tiles ? first : 0);
    const char* b_at = codes + g * head_stride(I) + piece * 32;
    i32 acc[N][4];
    UNROLL for (u32 n = 0; n < N; n++) {
      UNROLL for (u32 e = 0; e < 4; e++) acc[n][e] = 0;
    }
    u32 tile = first, c = 0;
    auto multiply = [&](const Words (&a)[4]) {
      UNROLL for (u32 n = 0; n < N; n++) {
        const Words* b = (const Words*)(b_at + n * 8 * head_stride(I) + c * 128);
        int8_step(acc[n], a[0], a[2], b[0]);
        int8_step(acc[n], a[1], a[3], b[1]);
      }
    };
    auto end_step = [&]() {
      if (++c < chunks) return;
      UNROLL for (u32 n = 0; n < N; n++) {
        UNROLL for (u32 e = 0; e < 4; e++) {
          const u32 token = t0 + n * 8 + 2 * piece + (e & 1), row = tile * 16 + g + (e >> 1) * 8;
          if (row < m.rows && token < I.rows) {
            const float factor = divide(row_scale[e >> 1], scale[n][e & 1]);
            ((float*)m.out)[(u64)token * m.out_stride + row] = (float)acc[n][e] * factor;
          }
          acc[n][e] = 0;
        }
      }
      c = 0;
      tile += step;
      fetch_scales(tile < m.tiles ? tile : 0);
    };
    if (RINGS) {
      ROLLED for (u32 i = 0; i < total; i++) {
        copies_there<HEAD_PLACES - 2>();
        sync_warp();
        // Into the place that all have read in the step before.
        ask();
        const char* const here = ring + i % HEAD_PLACES * HEAD_PIECE + g * 128;
        const u32 one = ((2 * piece) ^ g) << 4, two = ((2 * piece + 1) ^ g) << 4;
        const Words a[4] = {*(const Words*)(here + one), *(const Words*)(here + two), *(const Words*)(here + 1024 + one), *(const Words*)(here + 1024 + two)};
        multiply(a);
        end_step();
      }
    } else {
      for (u32 from = 0; from < total; from += 2) {
        UNROLL for (u32 k = 0; k < 2; k++) {
          if (from + k >= total) continue;
          multiply(ahead[k]);
          fetch_next(ahead[k]);
          end_step();
        }
      }
    }
    sync();
  }
}

template <bool RINGS> DEVICE void int8_of_eights(const Instruction& I, u32 fit) {
  if (I.rows <= 8 || fit == 1) int8_of_rows<1, RINGS>(I);
  else if (I.rows <= 16 || fit == 2) int8_of_rows<2, RINGS>(I);
  else int8_of_rows<4, RINGS>(I);
}

DEVICE void int8_of_rows(const Instruction& I) {
  const u32 fit = head_eights(I, 0), beside = head_eights(I, HEAD_RINGS);
  if (fit == 0) {
    wait_for_earlier();
    int8_rows<4>(I);
  } else if (beside > 0 && (8 * beside >= I.rows || beside == fit)) {
    int8_of_eights<true>(I, beside);
  } else {
    int8_of_eights<false>(I, fit);
  }
}
