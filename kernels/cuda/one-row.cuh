// The only row of a step, which every block makes for itself before its product: normed and rounded, its codes in shared
// memory. All blocks wait for this, and each of its instructions is fetched anew a layer later: little code, and none that
// needs local memory, which next to so much shared memory is as far away as L2.
//
// Shared memory from `pool()`: where there is a norm, squares by lane of their sum and the norm's weights; the codes; behind
// them what the product needs. Four elements a thread and turn, so the width is a multiple of 4 (encode.ts sees to it).
#pragma once

#include "rows.cuh"

/**
 * The last warp speaks for its block at the grid's barrier, and has no part in what other warps do meanwhile: to tell the others
 * takes as long as the rest.
 */
constexpr u32 SPEAKER = THREADS - 32;

/** Barriers of some warps: of those with results; the last of an instruction, where those do not wait for the others. */
constexpr u32 RESULTS = 0, END = 3;
/**
 * Of the warp that has told the grid and the one that asks: to tell waits for all that the multiprocessor has on its way, so that what is asked for
 * comes behind it.
 */
constexpr u32 TOLD = 4;
/** Who has told the grid that this block is done with an instruction: nobody yet; other threads; this one's warps, who need not wait for others. */
enum Told : u32 { UNTOLD, OTHERS, SELF };

/** The grid's barrier behind the instruction before: what needs nothing of its results comes first. */
struct Gate {
  /** Null where launches are the barrier. */
  u32* count;
  /** What it is once all are there; which place of `ring` the instruction behind has. */
  u32 target, following;
  /** The first instruction waits for nobody, behind the last is nothing. */
  enum { FIRST = 4, LAST = 8 };
  DEVICE_MEMBER void pass() const {
    if (count != nullptr && (following & FIRST) == 0 && thread_anew() == SPEAKER) await(count, target);
    sync();
  }
  /** The instruction behind, or null. */
  DEVICE_MEMBER const Instruction* next() const {
    return count == nullptr || following & LAST ? nullptr : (const Instruction*)shared().ring[following & 3];
  }
  /** By the threads with results, who need nothing of shared memory any more, and will not wait for the others. */
  DEVICE_MEMBER void ends() const {
    if (count != nullptr) tell<END>(THREADS);
  }
  /**
   * By a warp, one thread of which tells the grid that this block is done: that this thread, and those that it has met, have written all its results, and
   * read no others' any more. This takes long.
   */
  DEVICE_MEMBER void done(bool by_this_thread) const {
    if (count == nullptr) return;
    if (by_this_thread && (following & LAST) == 0) arrive(count);
    sync_warp();
    tell<TOLD>(64);
  }
};

/** Floats of a row with zeros behind it, so that its sum goes in whole rounds of 16 lanes. */
DEVICE u32 one_floats(u32 width) { return (width + 255) / 256 * 256; }
/** A lane's squares lie in one piece; four floats between two lanes, against meetings in a bank. */
DEVICE u32 square_stride(u32 width) { return one_floats(width) / 16 + 4; }
DEVICE float* norm_place(const Instruction& I) { return (float*)pool() + 16 * square_stride(I.width); }
DEVICE char* codes_place(u32 norm, u32 width) { return pool() + (norm ? 4 * (16 * square_stride(width) + one_floats(width)) : 0); }
DEVICE char* codes_place(const Instruction& I) { return codes_place(I.norm, I.width); }
/** From the hi plane of codes of 16 bits to the lo plane: so far that a group's hi and lo lie in banks of their own. */
DEVICE u32 plane_stride(const Instruction& I) { return I.code_stride + 32; }
/** How many codes have a sum of their own behind the planes, where all groups are whole. */
DEVICE u32 summed(const Instruction& I) { return I.group == 128 ? 128 : 32; }
template <u32 BITS> DEVICE char* after_codes(const Instruction& I) {
  const u32 bytes = BITS == 16 ? 2 * plane_stride(I) + I.width / 8 : I.code_stride;
  return codes_place(I) + (bytes + 127) / 128 * 128;
}

DEVICE void begin_arrivals() {
  Shared& s = shared();
  UNROLL for (u32 k = 0; k < sizeof s.arrivals / sizeof s.arrivals[0]; k++) begin_arrival(&s.arrivals[k], 1);
  s.asked = 0;
}
constexpr u32 NORM_ASKED = 1, WEIGHTS_ASKED = 2;
/** Behind the grid's barrier, where everybody knows how it was: what this instruction asked for. */
DEVICE void count_asked(u32 asked, u32 what) {
  if (bulk_copies() && thread_anew() == 0) shared().asked = asked ^ what;
}

/** Who asks for stretches: of a warp that has little else to do before the barrier. */
constexpr u32 ASKER = SPEAKER - 32;

/** Before the barrier: the norm's weights, as a stretch or a group of copies of their own. */
DEVICE void one_ahead(const Instruction& I) {
  if (bulk_copies()) {
    if (I.norm && thread_anew() == ASKER) {
      u64* const arrival = &shared().arrivals[0];
      expect(arrival, I.width * 4);
      copy_bulk(norm_place(I), (const void*)I.weight, I.width * 4, arrival);
    }
    return;
  }
  if (I.norm) {
    const u32 vectors = I.width / 4;
    float* const to = norm_place(I);
    const float* const from = (const float*)I.weight;
    if (thread_anew() < SPEAKER) {
      ROLLED for (u32 v = thread_anew(); v < vectors; v += SPEAKER) copy_ahead(to + 4 * v, from + 4 * v);
    }
  }
  copies_asked();
}

/** fold, but in all threads: an addition's sides may change places. */
DEVICE float fold_for_all(float s) {
  UNROLL for (u32 by = 8; by > 0; by /= 2) s = s + from_bits((u32)shuffle_xor((i32)bits(s), by));
  return s;
}

/** laneSum of the row from its squares, or SQUARED from itself, by one warp, both halves alike. */
template <bool SQUARED = false> DEVICE float sum_of_one(const float* squares, u32 width) {
  auto of = [](float v) { return SQUARED ? v * v : v; };
  const Floats* p = (const Floats*)(squares + (thread_anew() & 15) * square_stride(width));
  const Floats* const end = p + one_floats(width) / 64;
  float s = 0.0f;
  Floats v[4];
  UNROLL for (u32 k = 0; k < 4; k++) v[k] = p[k];
  // Sixteen are loaded while the sixteen before are added: 4 clocks an addition.
  UNROLL2 for (p += 4; p < end; p += 4) {
    Floats next[4];
    UNROLL for (u32 k = 0; k < 4; k++) next[k] = p[k];
    UNROLL for (u32 k = 0; k < 4; k++) s = (((s + of(v[k].x)) + of(v[k].y)) + of(v[k].z)) + of(v[k].w);
    UNROLL for (u32 k = 0; k < 4; k++) v[k] = next[k];
  }
  UNROLL for (u32 k = 0; k < 4; k++) s = (((s + of(v[k].x)) + of(v[k].y)) + of(v[k].z)) + of(v[k].w);
  return fold_for_all(s);
}
/** 1 / root of the mean square. */
DEVICE float inverse_of_one(float sum, u32 n, float eps) {
  // By a power of two it is the same.
  const float mean = (n & (n - 1)) == 0 ? sum * from_bits(0x7f000000 - bits((float)n)) : divide(sum, (float)n);
  return divide(1.0f, root(mean + eps));
}

DEVICE i32 clamped(float x, i32 low, i32 high) {
  const i32 code = nearest(x);
  return code > high ? high : code < low ? low : code;
}
DEVICE u32 packed(i32 a, i32 b, i32 c, i32 d) { return (u32)(a & 255) | (u32)(b & 255) << 8 | (u32)(c & 255) << 16 | (u32)d << 24; }
DEVICE u32 magnitude(float x) { return bits(x) & 0x7fffffff; }
DEVICE u32 larger(u32 a, u32 b) { return a > b ? a : b; }
DEVICE u32 magnitude(const Floats& x) { return larger(larger(magnitude(x.x), magnitude(x.y)), larger(magnitude(x.z), magnitude(x.w))); }

/** Of an instruction's weights those that this block will ask for, to L2. */
DEVICE void fetch_weights(const Instruction& I);
DEVICE void fetch_next(const Gate& gate) {
  const Instruction* const next = gate.next();
  if (next != nullptr) fetch_weights(*next);
}

/** 1.5 * 2^23, from where on floats are whole, and codes of 8 bits the lowest byte; and 128 more. */
constexpr float WHOLE = 12582912.0f, WHOLE_AND_128 = 12583040.0f;

/**
 * Who has the elements of a row whose codes are bytes. The last warp makes the sum of their squares, and meanwhile they look for the largest; the
 * one before asks for the next instruction's weights.
 */
constexpr u32 HOLDERS = ASKER;
/** Barriers of holders, and of those with the last warp. */
constexpr u32 HELD_LARGEST = 1, CANDIDATES_FOUND = 2;
/** Threads that may have the largest element, at most. */
constexpr u32 CANDIDATES = 8;

/** Vectors that a thread keeps, and looks for the largest in: the widest rows, for which there are no registers, lie in shared memory. */
constexpr u32 MOST_KEPT = 4;
/** What sets a row's largest element apart before its norm is known: see `make_bytes_one`. */
constexpr u32 NEAR = 16;
DEVICE constexpr u32 power(i32 exponent) { return (u32)(exponent + 127) << 23; }
DEVICE bool between(u32 magnitude, u32 low, u32 high) { return magnitude - low < high - low; }

DEVICE void multiply(Floats& x, const Floats& w) { x = {x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w}; }

/**
 * Codes of 8 bits from H vectors a holder. `idle`: what every thread does on the way, when there is nothing to wait for.
 *
 * The scale wants the largest element, |(x r) w| for the inverse r of the norm. It is where |x w| is largest, or so near to that that two
 * roundings may change places: each moves a float by 2^-24 of it at most, so that |x w| as it is rounded, times r, is within 3.1 x 2^-24 of the
 * element, and whose |x w| is 16 units in the last place below the largest (16 x 2^-24 of it or more) cannot be the row's largest. That holds for floats that
 * are not subnormal, and tells of no infinity and NaN. So weights above 2^20, and a largest |x w| or an r out of the ordinary, leave it to
 * all elements, as do wide rows and more candidates than there is room for. (|x r| is below the root of the row's length; what is rounded
 * below 2^-126 adds 2^-150 x 2^20 at most to an element, and the largest is above 2^-81.)
 */
template <u32 H, class Idle> DEVICE void make_bytes_one(const Instruction& I, u32 newer, u32 asked, const Gate& gate, const Idle& idle) {
  Shared& s = shared();
  const u32 tid = thread_anew(), lane = tid & 31, n = I.width, vectors = n / 4, words = I.code_stride / 4, norm = I.norm;
  constexpr bool KEPT = H <= MOST_KEPT;
  const bool holds = tid < HOLDERS;
  auto there = [&](u32 k) { return holds && tid + k * HOLDERS < vectors; };
  auto load_of = [&](u32 k) {
    const Words v = there(k) ? load((const Words*)I.x + tid + k * HOLDERS) : Words{0, 0, 0, 0};
    return Floats{from_bits(v.x), from_bits(v.y), from_bits(v.z), from_bits(v.w)};
  };
  Floats x[KEPT ? H : 1];
  UNROLL for (u32 k = 0; k < H && KEPT; k++) x[k] = load_of(k);
  const u32 stride = square_stride(n);
  // Where an element of a vector lies for the sum, its others so far behind one another.
  auto place_of = [&](u32 k) {
    const u32 v = tid + k * HOLDERS;
    return (float*)pool() + 4 * (v & 3) * stride + v / 4;
  };
  const Floats* const weight = (const Floats*)norm_place(I) + tid;
  auto weight_of = [&](u32 k) { return there(k) ? weight[k * HOLDERS] : Floats{0.0f, 0.0f, 0.0f, 0.0f}; };
  float r = 1.0f;
  // An element as it is rounded.
  auto element = [&](u32 k) {
    if (KEPT) return x[k];
    if (!norm) return load_of(k);
    const float* const at = place_of(k);
    Floats y = there(k) ? Floats{at[0], at[stride], at[2 * stride], at[3 * stride]} : Floats{0.0f, 0.0f, 0.0f, 0.0f};
    multiply(y, {r, r, r, r});
    multiply(y, weight_of(k));
    return y;
  };
  // 0: not known.
  float scale = 0.0f;
  if (norm) {
    if (holds) {
      auto put = [&](u32 k) {
        if (tid + k * HOLDERS >= one_floats(n) / 4) return;
        float* const to = place_of(k);
        const Floats v = KEPT ? x[k] : load_of(k);
        to[0] = KEPT ? v.x * v.x : v.x;
        to[stride] = KEPT ? v.y * v.y : v.y;
        to[2 * stride] = KEPT ? v.z * v.z : v.z;
        to[3 * stride] = KEPT ? v.w * v.w : v.w;
      };
      if (KEPT) {
        UNROLL for (u32 k = 0; k < H; k++) put(k);
      } else {
        UNROLL4 for (u32 k = 0; k < H; k++) put(k);
      }
    }
    if (tid == SPEAKER) s.found = 0;
    if (bulk_copies()) await_bulk(&s.arrivals[0], asked & NORM_ASKED);
    else copies_there_but(newer);
    mark(1);
    sync();
    mark(2);
    // Of each thread that may have the largest element, all of its own: vectors of the row, each before its weights, where codes will be.
    auto found_at = [&] { return (Floats*)codes_place(I); };
    auto room = [&] { return I.code_stride / (32 * H) < CANDIDATES ? I.code_stride / (32 * H) : CANDIDATES; };
    if (tid >= SPEAKER) {
      const float sum = sum_of_one<!KEPT>((const float*)pool(), n), eps = I.eps;
      meet<CANDIDATES_FOUND>(HOLDERS + 32);
      const u32 found = s.found, elements = found <= room() ? found * (4 * H) : 0;
      const float* at = (const float*)found_at() + lane / 4 * 8 + lane % 4;
      float one = lane < elements ? at[0] : 0.0f, its_weight = lane < elements ? at[4] : 0.0f;
      r = inverse_of_one(sum, n, eps);
      u32 most = magnitude((one * r) * its_weight);
      ROLLED for (u32 k = lane + 32; k < elements; k += 32) {
        at += 64;
        most = larger(most, magnitude((at[0] * r) * at[4]));
      }
      most = warp_max(most);
      const bool known = elements > 0 && between(bits(r), power(-40), power(40));
      if (lane == 0) *(Pair*)&s.inverse = {r, known ? scale8(from_bits(most)) : 0.0f};
    } else if (holds) {
      float most = 0.0f, most_weight = 0.0f;
      UNROLL for (u32 k = 0; k < H && KEPT; k++) {
        const Floats w = weight_of(k);
        auto look = [&](float x, float w) {
          most = larger_or_nan(most, absolute(x * w));
          most_weight = larger_or_nan(most_weight, absolute(w));
        };
        look(x[k].x, w.x);
        look(x[k].y, w.y);
        look(x[k].z, w.z);
        look(x[k].w, w.w);
      }
      const u32 mine = bits(most_weight) <= power(20) ? bits(most) : ~0u, of_warp = warp_max(mine);
      if (lane == 0) s.largest[tid / 32] = of_warp;
      meet<HELD_LARGEST>(HOLDERS);
      const u32 largest = warp_max(s.largest[lane < HOLDERS / 32 ? lane : 0]);
      if (!between(largest, power(-40), power(60))) {
        if (tid == 0) s.found = ~0u;
      } else if (mine >= largest - NEAR) {
        const u32 place = take_shared(&s.found);
        if (place < room()) {
          Floats* const to = found_at() + place * (2 * H);
          UNROLL for (u32 k = 0; k < H && KEPT; k++) {
            to[2 * k] = x[k];
            to[2 * k + 1] = weight_of(k);
          }
        }
      }
      tell<CANDIDATES_FOUND>(HOLDERS + 32);
      idle();
    } else {
      if (bulk_copies() && tid == ASKER) fetch_next(gate);
      idle();
    }
    mark(3);
    sync();
    if (tid >= SPEAKER) idle();
    const Pair of_row = *(const Pair*)&s.inverse;
    r = of_row.x;
    scale = of_row.y;
    UNROLL for (u32 k = 0; k < H && KEPT; k++) {
      multiply(x[k], {r, r, r, r});
      multiply(x[k], weight_of(k));
    }
  } else {
    idle();
  }
  mark(4);
  if (scale == 0.0f) {
    u32 most = 0;
    if (KEPT) {
      UNROLL for (u32 k = 0; k < H; k++) most = larger(most, magnitude(element(k)));
    } else {
      UNROLL2 for (u32 k = 0; k < H; k++) most = larger(most, magnitude(element(k)));
    }
    scale = scale8(largest_of(I, most, block() == 0));
    if (tid == 0) s.scale = scale;
  }
  mark(5);
  i32 sum = 0;
  if (holds) {
    u32* const codes = (u32*)codes_place(norm, n);
    auto round = [&](u32 k) {
      const u32 v = tid + k * HOLDERS;
      const Floats y = element(k);
      // No code is beyond 127. Of a row that is not finite, and reported, they are what they may be.
      const u32 a = bits(y.x * scale + WHOLE), b = bits(y.y * scale + WHOLE);
      const u32 c = bits(y.z * scale + WHOLE), d = bits(y.w * scale + WHOLE);
      // Past the row they are 0.
      sum += (i32)(a + b + c + d - 4 * bits(WHOLE));
      if (v < words) codes[v] = bytes_of(bytes_of(a, b, 0x40), bytes_of(c, d, 0x40), 0x5410);
    };
    if (KEPT) {
      UNROLL for (u32 k = 0; k < H; k++) round(k);
    } else {
      UNROLL2 for (u32 k = 0; k < H; k++) round(k);
    }
  }
  // What other warps asked for, too.
  copies_there<0>();
  sync();
  mark(6);
  // Wanted behind the product's barrier.
  sum = warp_sum(sum);
  if (lane == 0) s.code_sums[tid / 32] = sum;
}

/** Codes of 16 bits from H vectors a thread. */
template <u32 H> DEVICE void make_words_one(const Instruction& I, char* codes, u32 newer, u32 asked, const Gate& gate) {
  Shared& s = shared();
  const u32 tid = thread(), n = I.width, vectors = n / 4, norm = I.norm, code_stride = I.code_stride, words = code_stride / 4;
  Floats x[H];
  {
    const Words* const from = (const Words*)I.x + tid;
    Words v[H];
    UNROLL for (u32 k = 0; k < H; k++) v[k] = tid + k * THREADS < vectors ? load(from + k * THREADS) : Words{0, 0, 0, 0};
    UNROLL for (u32 k = 0; k < H; k++) x[k] = {from_bits(v[k].x), from_bits(v[k].y), from_bits(v[k].z), from_bits(v[k].w)};
  }
  if (norm) {
    const u32 stride = square_stride(n), all = one_floats(n) / 4;
    float* const squares = (float*)pool();
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 v = tid + k * THREADS;
      if (v < all) {
        float* const to = squares + 4 * (v & 3) * stride + v / 4;
        to[0] = x[k].x * x[k].x;
        to[stride] = x[k].y * x[k].y;
        to[2 * stride] = x[k].z * x[k].z;
        to[3 * stride] = x[k].w * x[k].w;
      }
    }
    if (bulk_copies()) await_bulk(&s.arrivals[0], asked & NORM_ASKED);
    else copies_there_but(newer);
    mark(1);
    sync();
    mark(2);
    if (tid < 32) {
      const float sum = sum_of_one(squares, n);
      if (tid == 0) s.inverse = inverse_of_one(sum, n, I.eps);
    } else if (bulk_copies() && tid == ASKER) {
      // While the others wait.
      fetch_next(gate);
    }
    mark(3);
    sync();
    const float r = s.inverse;
    const Floats* const weight = (const Floats*)norm_place(I) + tid;
    UNROLL for (u32 k = 0; k < H; k++) {
      if (tid + k * THREADS < vectors) {
        const Floats w = weight[k * THREADS];
        x[k] = {(x[k].x * r) * w.x, (x[k].y * r) * w.y, (x[k].z * r) * w.z, (x[k].w * r) * w.w};
      }
    }
  }
  u32 most = 0;
  UNROLL for (u32 k = 0; k < H; k++) {
    most = larger(most, magnitude(x[k]));
  }
  mark(4);
  const float largest = largest_of(I, most, block() == 0);
  mark(5);
  const float wanted = divide(32639.0f, largest);
  const bool usable = wanted < from_bits(0x7f800000);
  const float scale = usable ? wanted : 0.0f;
  const u32 stride = plane_stride(I);
  i32* const sums = (i32*)(codes + 2 * stride);
  const bool wide = summed(I) == 128;
  UNROLL for (u32 k = 0; k < H; k++) {
    // Whole warps take part: eight neighbours, or all, have the elements of a sum, which the product adds to their group's.
    const u32 v = tid + k * THREADS;
    if (k * THREADS >= words) continue;
    // No code is beyond 32639. From 2^23 on floats are whole: these end in 128 + the code, whose bytes are hi and lo ^ 128. Of a row
    // that is not finite, and reported, they are what they may be.
    const u32 a = bits(x[k].x * scale + WHOLE_AND_128), b = bits(x[k].y * scale + WHOLE_AND_128);
    const u32 c = bits(x[k].z * scale + WHOLE_AND_128), d = bits(x[k].w * scale + WHOLE_AND_128);
    const u32 low = bytes_of(a, b, 0x5140), high = bytes_of(c, d, 0x5140);
    const u32 hi = bytes_of(low, high, 0x7632), lo = bytes_of(low, high, 0x5410) ^ 0x80808080;
    i32 sum = (i32)(a + b + c + d - 4 * bits(WHOLE_AND_128));
    if (v < words) {
      // A lane of the product takes vectors i and i + 4 of eight: neighbours here.
      u32* const to = (u32*)codes + ((v & ~7u) | (v & 3) * 2 | (v >> 2 & 1));
      to[0] = hi;
      to[stride / 4] = lo;
    }
    if (wide) {
      sum = warp_sum(sum);
      if ((tid & 31) == 0 && v < vectors) sums[v / 32] = sum;
      continue;
    }
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    sum += shuffle_xor(sum, 4);
    if ((tid & 7) == 0 && v < vectors) sums[v / 8] = sum;
  }
  if (!bulk_copies()) copies_there<0>();
  else if (tid == ASKER) await_bulk(&s.arrivals[PIECES_ARRIVE], asked >> PIECES_ARRIVE & 1);
  sync();
  mark(6);
  // Wanted behind the product's barrier.
  if (tid == SPEAKER) s.scale = usable ? divide(largest, 32639.0f) : 0.0f;
}

/**
 * Codes of the row in shared memory; its scale, and of 8 bits the codes' sums, in `shared()`. All copies have come. `newer`: groups of copies after the
 * norm's. `asked`: of `shared()`, before this instruction. Meanwhile the next instruction's weights are fetched.
 */
template <class Idle> DEVICE void make_bytes(const Instruction& I, u32 newer, u32 asked, const Gate& gate, const Idle& idle) {
  const u32 each = I.code_stride;
  if (each <= 2 * 4 * HOLDERS) make_bytes_one<2>(I, newer, asked, gate, idle);
  else if (each <= 4 * 4 * HOLDERS) make_bytes_one<4>(I, newer, asked, gate, idle);
  else make_bytes_one<10>(I, newer, asked, gate, idle);
}
/** Of 16 bits; behind them the sums of every 32 or 128. */
DEVICE void make_words(const Instruction& I, char* codes, u32 newer, u32 asked, const Gate& gate) {
  const u32 each = I.code_stride;
  if (each <= 4 * THREADS) make_words_one<1>(I, codes, newer, asked, gate);
  else if (each <= 3 * 4 * THREADS) make_words_one<3>(I, codes, newer, asked, gate);
  else make_words_one<6>(I, codes, newer, asked, gate);
}
