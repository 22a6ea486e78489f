// Several rows of floats. A block makes one, two or four at a time, each by its own warps, so that the chains of additions of their
// norms run side by side; a row stays in its threads' registers, only the squares go through shared memory. What each step
// computes: rows.cuh.
#pragma once

#include "one-row.cuh"

/** At the start of the pool: by row 1 / rms, by warp sums of codes. */
struct Together {
  float inverse[4];
  i32 sums[WARPS];
};
constexpr u32 TOGETHER_BYTES = 128;
static_assert(sizeof(Together) <= TOGETHER_BYTES, "what follows begins behind it");

DEVICE Floats stream_floats(const float* p) {
  const Words v = stream(p);
  return {from_bits(v.x), from_bits(v.y), from_bits(v.z), from_bits(v.w)};
}

/** Squares of a row lie as those of a step's only row: one-row.cuh. */
DEVICE u32 squares_bytes(const Instruction& I) { return I.norm ? 16 * square_stride(I.width) * 4 : 0; }
/** Elements of a row with what is added behind them. */
DEVICE u32 rows_length(const Instruction& I) { return larger(one_floats(I.width), I.code_stride); }
/** Vectors of four that a thread holds, at most. */
constexpr u32 MOST_HELD = 14;

/**
 * Rows that a block makes at once; 0 where all of it makes one as `run_rows` does. Four floats at a time have to be in one row;
 * rotations and norms of heads are hybrid.cuh's.
 */
DEVICE u32 rows_together(const Instruction& I) {
  if (I.turn || I.heads || (I.width | I.x_stride | I.y_stride | I.out_stride) & 3) return 0;
  const u32 vectors = rows_length(I) / 4;
  auto fits = [&](u32 together, u32 held) {
    return vectors <= held * (THREADS / together) && POOL_AT + TOGETHER_BYTES + together * squares_bytes(I) <= shared_size();
  };
  if (I.rows > blocks() && I.rows <= 2 * blocks() && I.source == PLAIN && fits(2, 4)) return 2;
  if (I.rows > blocks() && fits(4, MOST_HELD)) return 4;
  return fits(1, MOST_HELD) ? 1 : 0;
}

/** The largest of the threads of `warps` warps from `first` on, told through `by_warp`. */
DEVICE u32 largest_of_warps(u32 most, u32* by_warp, u32 first, u32 warps) {
  most = warp_max(most);
  if ((thread() & 31) == 0) by_warp[thread() / 32] = most;
  sync();
  for (u32 w = 0; w < warps; w++) most = larger(most, by_warp[first + w]);
  return most;
}

/**
 * TOGETHER rows at once, H vectors a thread; BARE: of x alone. Nobody has waited for the kernel before. Each apart: where they stand
 * together, registers are spilled.
 */
template <u32 TOGETHER, u32 H, bool BARE> APART void make_rows(const Instruction& I) {
  Shared& s = shared();
  Together& ours = *(Together*)pool();
  constexpr u32 threads = THREADS / TOGETHER, warps = WARPS / TOGETHER;
  const u32 all = thread(), mine = all / threads, tid = all % threads, lane = tid & 31;
  // Fields in registers: the compiler cannot know that what is stored below is none of them.
  const u32 n = I.width, vectors = n / 4, source = I.source, code_stride = I.code_stride, words = code_stride / 4, norm = I.norm, keep = I.keep;
  const u32 rows = I.rows, stride = square_stride(n), squares_end = one_floats(n) / 4;
  float* const squares = (float*)(pool() + TOGETHER_BYTES + mine * squares_bytes(I));
  const float* const weight = (const float*)I.weight;
  // Few vectors' weights wait in registers for the sum; of many they come when it is there.
  constexpr bool EARLY = H <= 4;
  Floats w[EARLY ? H : 1];
  if (EARLY && norm) {
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 v = tid + k * threads;
      if (v < vectors) w[EARLY ? k : 0] = stream_floats(weight + 4 * v);
    }
  }
  wait_for_earlier();
  for (u32 from = block() * TOGETHER; from < rows; from += blocks() * TOGETHER) {
    const bool there = from + mine < rows;
    const u32 t = there ? from + mine : rows - 1;
    float* const row = (float*)I.x + (u64)t * I.x_stride;
    const float* const other = (const float*)I.y + (u64)t * I.y_stride;
    Floats x[H];
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 v = tid + k * threads;
      x[k] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (v < vectors) x[k] = load((const Floats*)row + v);
    }
    if (!BARE) {
      UNROLL for (u32 k = 0; k < H; k++) {
        const u32 v = tid + k * threads;
        if (v >= vectors) continue;
        const Floats y = load((const Floats*)other + v);
        if (source == SUM) {
          x[k] = {x[k].x + y.x, x[k].y + y.y, x[k].z + y.z, x[k].w + y.w};
          if (there) ((Floats*)row)[v] = x[k];
        } else {
          x[k] = {activated(source, I.limit, x[k].x, y.x), activated(source, I.limit, x[k].y, y.y), activated(source, I.limit, x[k].z, y.z),
                  activated(source, I.limit, x[k].w, y.w)};
        }
      }
    }
    if (norm) {
      UNROLL for (u32 k = 0; k < H; k++) {
        const u32 v = tid + k * threads;
        if (v >= squares_end) continue;
        float* const to = squares + 4 * (v & 3) * stride + v / 4;
        to[0] = x[k].x * x[k].x;
        to[stride] = x[k].y * x[k].y;
        to[2 * stride] = x[k].z * x[k].z;
        to[3 * stride] = x[k].w * x[k].w;
      }
      sync();
      // Warps of different schedulers.
      if (tid / 32 == mine % warps) {
        const float sum = sum_of_one(squares, n);
        if (lane == 0) ours.inverse[mine] = inverse_of(sum, n, I.eps);
      }
      sync();
      const float r = ours.inverse[mine];
      UNROLL for (u32 k = 0; k < H; k++) {
        const u32 v = tid + k * threads;
        if (v >= vectors) continue;
        const Floats by = EARLY ? w[EARLY ? k : 0] : *(const Floats*)(weight + 4 * v);
        x[k] = {(x[k].x * r) * by.x, (x[k].y * r) * by.y, (x[k].z * r) * by.z, (x[k].w * r) * by.w};
      }
    }
    u32 most = 0;
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 v = tid + k * threads;
      if (v >= vectors) continue;
      if (keep && there) *(Floats*)((float*)I.out + (u64)t * I.out_stride + 4 * v) = x[k];
      most = larger(magnitude(x[k]), most);
    }
    if (!I.quantize) continue;
    most = largest_of_warps(most, s.largest, mine * warps, warps);
    if (most >= 0x7f800000 && tid == 0 && there) ((u32*)I.failed)[I.status] = 1;
    const float largest = from_bits(most);
    char* const codes = (char*)I.codes + (u64)t * I.splits;
    if (I.quantize == 8) {
      const float scale = scale8(largest);
      i32 sum = 0;
      auto code_of = [&](float v) {
        const i32 code = clamped(v * scale, -128, 127);
        sum += code;
        return code;
      };
      UNROLL for (u32 k = 0; k < H; k++) {
        const u32 v = tid + k * threads;
        // Past the row they are 0.
        if (v < words && there) ((u32*)codes)[v] = packed(code_of(x[k].x), code_of(x[k].y), code_of(x[k].z), code_of(x[k].w));
      }
      sum = warp_sum(sum);
      if (lane == 0) ours.sums[all / 32] = sum;
      sync();
      if (tid == 0 && there) {
        i32 both = 0;
        for (u32 w = 0; w < warps; w++) both += ours.sums[mine * warps + w];
        ((float*)I.scales)[2 * t] = scale;
        ((i32*)I.scales)[2 * t + 1] = both;
      }
      continue;
    }
    const float scale = divide(32639.0f, largest);
    const bool usable = scale < from_bits(0x7f800000);
    const bool by_warps = I.group == 128;
    i32* const sums = (i32*)(codes + 2 * code_stride);
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 v = tid + k * threads;
      const float given[4] = {x[k].x, x[k].y, x[k].z, x[k].w};
      u32 high = 0, low = 0;
      i32 sum = 0;
      UNROLL for (u32 e = 0; e < 4; e++) {
        i32 code = usable ? nearest(given[e] * scale) : 0;
        code = code > 32639 ? 32639 : code < -32639 ? -32639 : code;
        const i32 hi = (code + 128) >> 8;
        high |= ((u32)hi & 255) << (8 * e);
        low |= ((u32)(code - 256 * hi) & 255) << (8 * e);
        sum += code;
      }
      if (v < words && there) {
        ((u32*)codes)[v] = high;
        ((u32*)(codes + code_stride))[v] = low;
      }
      // A warp's vectors are 128 elements next to each other.
      if (by_warps && v - lane < vectors) {
        sum = warp_sum(v < vectors ? sum : 0);
        if (lane == 0 && there) sums[v / 32] = sum;
      }
    }
    if (tid == 0 && there) {
      ((float*)I.scales)[2 * t] = usable ? divide(largest, 32639.0f) : 0.0f;
      ((i32*)I.scales)[2 * t + 1] = 0;
    }
    sync();
    if (by_warps || !there) continue;
    const signed char* hi = (const signed char*)codes;
    for (u32 g = tid / 32; g * I.group < n; g += warps) {
      i32 part = 0;
      for (u32 i = lane; i < I.group; i += 32) part += 256 * hi[g * I.group + i] + hi[code_stride + g * I.group + i];
      part = warp_sum(part);
      if (lane == 0) sums[g] = part;
    }
  }
}

/** Rows and the norm's weights in shared memory, as they lie in memory. */
DEVICE u32 codes_bytes(const Instruction& I) { return TOGETHER_BYTES + 5 * I.width * 4; }
/** Most of a prompt's rows: x, normed, to int8 codes. */
DEVICE bool makes_codes(const Instruction& I) {
  return I.rows > 2 * blocks() && I.source == PLAIN && I.norm && !I.keep && I.quantize == 8 && !I.turn && !I.heads &&
         ((I.width | I.x_stride) & 3) == 0 && POOL_AT + codes_bytes(I) <= shared_size();
}

/**
 * Four rows at a time, each by four warps; a row and the weights wait in shared memory, which short loops go through: of code that runs
 * once it is the fetching that takes the time. Nobody has waited for the kernel before.
 */
APART void make_codes(const Instruction& I) {
  Shared& s = shared();
  Together& ours = *(Together*)pool();
  constexpr u32 threads = THREADS / 4;
  const u32 all = thread(), mine = all / threads, tid = all % threads, lane = tid & 31, warp = all / 32;
  const u32 n = I.width, vectors = n / 4, words = I.code_stride / 4, rows = I.rows, half = n / 256 * 128;
  float* const weights = (float*)(pool() + TOGETHER_BYTES);
  float* const x = weights + (1 + mine) * n;
  ROLLED for (u32 v = all; v < vectors; v += THREADS) copy_ahead(weights + 4 * v, (const float*)I.weight + 4 * v);
  wait_for_earlier();
  bool first = true;
  for (u32 t = block() * 4 + mine; t < rows || first; t += blocks() * 4) {
    const float* const row = (const float*)I.x + (u64)t * I.x_stride;
    // In two halves: the first is added up while the second comes.
    UNROLL for (u32 part = 0; part < 2; part++) {
      const u32 end = part == 0 ? half / 4 : vectors;
      if (t < rows) {
        ROLLED for (u32 v = part * half / 4 + tid; v < end; v += threads) copy_ahead(x + 4 * v, row + 4 * v);
      }
      copies_asked();
    }
    copies_there<1>();
    // All have copied some of the weights.
    if (first) sync();
    else sync_four(mine);
    first = false;
    if (t >= rows) break;
    // Warps of different schedulers. Both halves of a warp alike.
    const bool adds = tid / 32 == mine;
    float squares = 0.0f;
    const float* at = x + (lane & 15);
    auto add_up = [&](u32 left) {
      if (left == 0) return;
      // Eight are loaded while the eight before are added: 4 clocks an addition.
      float v[8];
      auto take = [&]() {
        UNROLL for (u32 k = 0; k < 8; k++) v[k] = at[16 * k];
        at += 8 * 16;
      };
      take();
      UNROLL2 for (; left > 1; left--) {
        float of[8];
        UNROLL for (u32 k = 0; k < 8; k++) of[k] = v[k] * v[k];
        take();
        UNROLL for (u32 k = 0; k < 8; k++) squares = squares + of[k];
      }
      UNROLL for (u32 k = 0; k < 8; k++) squares = squares + v[k] * v[k];
    };
    ROLLED for (u32 part = 0; part < 2; part++) {
      if (adds) add_up(part == 0 ? half / 128 : n / 128 - half / 128);
      if (part == 0) {
        copies_there<0>();
        sync_four(mine);
      }
    }
    if (adds) {
      ROLLED for (; at < x + n; at += 16) squares = squares + *at * *at;
      squares = fold(squares);
      if (lane == 0) ours.inverse[mine] = inverse_of(squares, n, I.eps);
    }
    sync_four(mine);
    const float r = ours.inverse[mine];
    auto normed = [&](u32 v) {
      const Floats a = *(const Floats*)(x + 4 * v), w = *(const Floats*)(weights + 4 * v);
      return Floats{(a.x * r) * w.x, (a.y * r) * w.y, (a.z * r) * w.z, (a.w * r) * w.w};
    };
    u32 most = 0;
    UNROLL2 for (u32 v = tid; v < vectors; v += threads) most = larger(most, magnitude(normed(v)));
    most = warp_max(most);
    if (lane == 0) s.largest[warp] = most;
    sync_four(mine);
    UNROLL for (u32 w = 0; w < 4; w++) most = larger(most, s.largest[mine * 4 + w]);
    if (most >= 0x7f800000 && tid == 0) ((u32*)I.failed)[I.status] = 1;
    const float scale = scale8(from_bits(most));
    u32* const codes = (u32*)((char*)I.codes + (u64)t * I.splits);
    i32 sum = 0;
    UNROLL2 for (u32 v = tid; v < words; v += threads) {
      // Past the row they are 0.
      const Floats y = v < vectors ? normed(v) : Floats{0.0f, 0.0f, 0.0f, 0.0f};
      const i32 a = clamped(y.x * scale, -128, 127), b = clamped(y.y * scale, -128, 127);
      const i32 c = clamped(y.z * scale, -128, 127), d = clamped(y.w * scale, -128, 127);
      sum += (a + b) + (c + d);
      codes[v] = packed(a, b, c, d);
    }
    sum = warp_sum(sum);
    if (lane == 0) ours.sums[warp] = sum;
    sync_four(mine);
    if (tid == 0) {
      const i32* const sums = ours.sums + mine * 4;
      ((float*)I.scales)[2 * t] = scale;
      ((i32*)I.scales)[2 * t + 1] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
  }
}

DEVICE void run_all_rows(const Instruction& I) {
  if (makes_codes(I)) return make_codes(I);
  const u32 together = rows_together(I), vectors = rows_length(I) / 4;
  if (together == 0) {
    wait_for_earlier();
    run_rows(I);
  } else if (I.source != PLAIN) {
    if (together == 4) make_rows<4, MOST_HELD, false>(I);
    else if (vectors <= 4 * THREADS) make_rows<1, 4, false>(I);
    else make_rows<1, MOST_HELD, false>(I);
  } else if (together == 4) {
    if (vectors <= 8 * (THREADS / 4)) make_rows<4, 8, true>(I);
    else make_rows<4, MOST_HELD, true>(I);
  } else if (together == 2) {
    make_rows<2, 4, true>(I);
  } else {
    if (vectors <= 2 * THREADS) make_rows<1, 2, true>(I);
    else if (vectors <= 4 * THREADS) make_rows<1, 4, true>(I);
    else make_rows<1, MOST_HELD, true>(I);
  }
}
