// Many rows of floats: a block makes four at a time (or two wide ones), each by its own warps, so that the four chains of additions
// of their norms run side by side. What each step computes: rows.cuh.
#pragma once

#include "rows.cuh"

/** At the start of the pool: by row 1 / rms, by warp sums of codes. */
struct Together {
  float inverse[4];
  i32 sums[WARPS];
};
constexpr u32 TOGETHER_BYTES = 128;
static_assert(sizeof(Together) <= TOGETHER_BYTES, "the rows begin behind it");

/** Rows that a block makes at once: 4, 2 or 1. */
DEVICE u32 rows_together(const Instruction& I) {
  const u32 fit = (shared_size() - POOL_AT - TOGETHER_BYTES) / row_bytes(I.width);
  const u32 wanted = (I.rows + blocks() - 1) / blocks(), most = wanted < fit ? wanted : fit;
  return most >= 3 && fit >= 4 ? 4 : most >= 2 ? 2 : 1;
}

APART void run_many_rows(const Instruction& I, u32 together) {
  Shared& s = shared();
  Together& ours = *(Together*)pool();
  const u32 threads = THREADS / together, warps = WARPS / together, mine = thread() / threads, tid = thread() % threads;
  const u32 n = I.width, stride = lane_stride(n), source = I.source, code_stride = I.code_stride, lane = tid & 31;
  float* const xs = (float*)(pool() + TOGETHER_BYTES + mine * row_bytes(n));
  constexpr u32 AT_ONCE = 8;
  for (u32 from = block() * together; from < I.rows; from += blocks() * together) {
    const u32 t = from + mine;
    const bool there = t < I.rows;
    float* const x = (float*)I.x + (u64)(there ? t : from) * I.x_stride;
    const float* const y = (const float*)I.y + (u64)(there ? t : from) * I.y_stride;
    for (u32 i0 = tid; i0 < n; i0 += AT_ONCE * threads) {
      float a[AT_ONCE], b[AT_ONCE];
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        const u32 i = i0 + k * threads;
        a[k] = i < n ? load((const float*)x + i) : 0.0f;
        b[k] = source != PLAIN && i < n ? load(y + i) : 0.0f;
      }
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        const u32 i = i0 + k * threads;
        if (i >= n) continue;
        float v = a[k];
        if (source == SUM) {
          v = v + b[k];
          if (there) x[i] = v;
        } else if (source == RELU2) {
          const float g = v > 0.0f || v != v ? v : 0.0f;
          v = (g * g) * b[k];
        } else if (source != PLAIN) {
          v = activated(source, I.limit, v, b[k]);
        }
        xs[lane_place(i, stride)] = v;
      }
    }
    for (u32 i = n + tid; i < 16 * lane_length(n); i += threads) xs[lane_place(i, stride)] = 0.0f;
    sync();
    if (I.norm) {
      // Warps of different schedulers.
      if (tid / 32 == mine % warps) {
        const float sum = sum_of_squares(xs, n);
        if (lane == 0) ours.inverse[mine] = divide(1.0f, root(divide(sum, (float)n) + I.eps));
      }
      sync();
    }
    const float r = I.norm ? ours.inverse[mine] : 1.0f;
    u32 most = 0;
    for (u32 i = tid; i < n; i += threads) {
      float a = xs[lane_place(i, stride)];
      if (I.norm) {
        a = (a * r) * stream_float((const float*)I.weight + i);
        xs[lane_place(i, stride)] = a;
      }
      if (I.keep && there) ((float*)I.out)[(u64)t * I.out_stride + i] = a;
      const u32 b = bits(a) & 0x7fffffff;
      most = b > most ? b : most;
    }
    if (I.quantize) {
      most = warp_max(most);
      if (lane == 0) s.largest[thread() / 32] = most;
      sync();
      for (u32 w = 0; w < warps; w++) most = s.largest[mine * warps + w] > most ? s.largest[mine * warps + w] : most;
      if (most >= 0x7f800000 && tid == 0 && there) ((u32*)I.failed)[I.status] = 1;
      const float largest = from_bits(most);
      char* const codes = (char*)I.codes + (u64)(there ? t : 0) * I.splits;
      if (I.quantize == 8) {
        const float scale = scale8(largest);
        i32 sum = 0;
        for (u32 i = tid; i < n; i += threads) {
          i32 code = nearest(xs[lane_place(i, stride)] * scale);
          code = code > 127 ? 127 : code;
          code = code < -128 ? -128 : code;
          sum += code;
          if (there) ((signed char*)codes)[i] = (signed char)code;
        }
        for (u32 i = n + tid; i < code_stride && there; i += threads) codes[i] = 0;
        sum = warp_sum(sum);
        if (lane == 0) ours.sums[thread() / 32] = sum;
        sync();
        if (tid == 0 && there) {
          i32 all = 0;
          for (u32 w = 0; w < warps; w++) all += ours.sums[mine * warps + w];
          ((float*)I.scales)[2 * t] = scale;
          ((i32*)I.scales)[2 * t + 1] = all;
        }
      } else {
        const float scale = divide(32639.0f, largest);
        const bool usable = scale < from_bits(0x7f800000);
        if (there) {
          for (u32 i = tid; i < n; i += threads) write16(codes, code_stride, i, xs[lane_place(i, stride)], scale, usable);
          for (u32 i = n + tid; i < code_stride; i += threads) codes[i] = codes[code_stride + i] = 0;
          if (tid == 0) {
            ((float*)I.scales)[2 * t] = usable ? divide(largest, 32639.0f) : 0.0f;
            ((i32*)I.scales)[2 * t + 1] = 0;
          }
        }
        sync();
        if (there) {
          const signed char* hi = (const signed char*)codes;
          i32* sums = (i32*)(codes + 2 * code_stride);
          for (u32 g = tid / 32; g * I.group < n; g += warps) {
            i32 part = 0;
            for (u32 i = lane; i < I.group; i += 32) part += 256 * hi[g * I.group + i] + hi[code_stride + g * I.group + i];
            part = warp_sum(part);
            if (lane == 0) sums[g] = part;
          }
        }
      }
    }
    sync();
  }
}

DEVICE void run_all_rows(const Instruction& I) {
  const u32 together = I.rows > blocks() ? rows_together(I) : 1;
  if (together > 1) run_many_rows(I, together);
  else run_rows(I);
}
