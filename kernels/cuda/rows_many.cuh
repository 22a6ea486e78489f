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
static_assert(sizeof(Together) <= TOGETHER_BYTES, "what follows begins behind it");

/** The weights of the norm, which all rows share. */
DEVICE u32 shared_weights_bytes(const Instruction& I) { return I.norm ? (I.width * 4 + 15) / 16 * 16 : 0; }

/**
 * Rows that a block makes at once: 4, 2, or 0 where one at a time is better. Four floats at a time have to be in one row; rotations
 * and norms of heads are hybrid.cuh's.
 */
DEVICE u32 rows_together(const Instruction& I) {
  if (I.turn || I.heads) return 0;
  const u32 fit = (shared_size() - POOL_AT - TOGETHER_BYTES - shared_weights_bytes(I)) / row_bytes(I.width);
  if (I.rows <= blocks() || (I.width | I.x_stride | I.y_stride | I.out_stride) & 3) return 0;
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 0;
}

DEVICE void run_many_rows(const Instruction& I, u32 together) {
  // Nothing is asked for that nobody would wait for.
  if (block() * together >= I.rows) return;
  Shared& s = shared();
  Together& ours = *(Together*)pool();
  const u32 threads = THREADS / together, warps = WARPS / together, all = thread(), mine = all / threads, tid = all % threads, lane = tid & 31;
  // Fields in registers: the compiler cannot know that what is stored below is none of them.
  const u32 n = I.width, stride = lane_stride(n), source = I.source, code_stride = I.code_stride, norm = I.norm, keep = I.keep, rows = I.rows;
  float* const weights = (float*)(pool() + TOGETHER_BYTES);
  float* const xs = (float*)(pool() + TOGETHER_BYTES + shared_weights_bytes(I) + mine * row_bytes(n));
  if (norm) {
    for (u32 i = all; i < n / 4; i += THREADS) copy_ahead(weights + 4 * i, (const float*)I.weight + 4 * i);
    copies_asked();
  }
  constexpr u32 AT_ONCE = 4;
  // Element i of a row and the three behind it: lanes next to each other.
  auto place = [&](u32 i) { return xs + (i & 15) * stride + (i >> 4); };
  auto get = [&](u32 i) {
    const float* p = place(i);
    return Floats{p[0], p[stride], p[2 * stride], p[3 * stride]};
  };
  auto put = [&](u32 i, const Floats& v) {
    float* p = place(i);
    p[0] = v.x;
    p[stride] = v.y;
    p[2 * stride] = v.z;
    p[3 * stride] = v.w;
  };
  for (u32 from = block() * together; from < rows; from += blocks() * together) {
    const u32 t = from + mine < rows ? from + mine : rows - 1;
    const bool there = from + mine < rows;
    float* const x = (float*)I.x + (u64)t * I.x_stride;
    const float* const y = (const float*)I.y + (u64)t * I.y_stride;
    for (u32 i0 = 4 * tid; i0 < n; i0 += 4 * AT_ONCE * threads) {
      Floats a[AT_ONCE], b[AT_ONCE];
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        const u32 i = i0 + 4 * k * threads;
        a[k] = b[k] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (i < n) a[k] = load((const Floats*)(x + i));
        if (i < n && source != PLAIN) b[k] = load((const Floats*)(y + i));
      }
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        const u32 i = i0 + 4 * k * threads;
        if (i >= n) continue;
        if (source == SUM) {
          a[k] = {a[k].x + b[k].x, a[k].y + b[k].y, a[k].z + b[k].z, a[k].w + b[k].w};
          if (there) *(Floats*)(x + i) = a[k];
        } else if (source != PLAIN) {
          a[k] = {activated(source, I.limit, a[k].x, b[k].x), activated(source, I.limit, a[k].y, b[k].y),
                  activated(source, I.limit, a[k].z, b[k].z), activated(source, I.limit, a[k].w, b[k].w)};
        }
        put(i, a[k]);
      }
    }
    for (u32 i = n + tid; i < 16 * lane_length(n); i += threads) xs[lane_place(i, stride)] = 0.0f;
    copies_there<0>();
    sync();
    float r = 1.0f;
    if (norm) {
      // Warps of different schedulers.
      if (tid / 32 == mine % warps) {
        const float sum = sum_of_squares(xs, n);
        if (lane == 0) ours.inverse[mine] = divide(1.0f, root(divide(sum, (float)n) + I.eps));
      }
      sync();
      r = ours.inverse[mine];
    }
    u32 most = 0;
    auto larger = [&](float v) {
      const u32 b = bits(v) & 0x7fffffff;
      most = b > most ? b : most;
    };
    UNROLL4 for (u32 i = 4 * tid; i < n; i += 4 * threads) {
      Floats a = get(i);
      if (norm) {
        const Floats w = *(const Floats*)(weights + i);
        a = {(a.x * r) * w.x, (a.y * r) * w.y, (a.z * r) * w.z, (a.w * r) * w.w};
        put(i, a);
      }
      if (keep && there) *(Floats*)((float*)I.out + (u64)t * I.out_stride + i) = a;
      larger(a.x);
      larger(a.y);
      larger(a.z);
      larger(a.w);
    }
    if (I.quantize) {
      most = warp_max(most);
      if (lane == 0) s.largest[all / 32] = most;
      sync();
      for (u32 w = 0; w < warps; w++) most = s.largest[mine * warps + w] > most ? s.largest[mine * warps + w] : most;
      if (most >= 0x7f800000 && tid == 0 && there) ((u32*)I.failed)[I.status] = 1;
      const float largest = from_bits(most);
      char* const codes = (char*)I.codes + (u64)t * I.splits;
      if (I.quantize == 8) {
        const float scale = scale8(largest);
        i32 sum = 0;
        auto code_of = [&](float v) {
          i32 code = nearest(v * scale);
          code = code > 127 ? 127 : code;
          code = code < -128 ? -128 : code;
          sum += code;
          return (u32)code & 255;
        };
        UNROLL4 for (u32 i = 4 * tid; i < n; i += 4 * threads) {
          const Floats a = get(i);
          const u32 word = code_of(a.x) | code_of(a.y) << 8 | code_of(a.z) << 16 | code_of(a.w) << 24;
          if (there) *(u32*)(codes + i) = word;
        }
        for (u32 i = n + 4 * tid; i < code_stride && there; i += 4 * threads) *(u32*)(codes + i) = 0;
        sum = warp_sum(sum);
        if (lane == 0) ours.sums[all / 32] = sum;
        sync();
        if (tid == 0 && there) {
          i32 both = 0;
          for (u32 w = 0; w < warps; w++) both += ours.sums[mine * warps + w];
          ((float*)I.scales)[2 * t] = scale;
          ((i32*)I.scales)[2 * t + 1] = both;
        }
      } else {
        const float scale = divide(32639.0f, largest);
        const bool usable = scale < from_bits(0x7f800000);
        auto code_of = [&](float v) {
          if (!usable) return 0;
          const i32 code = nearest(v * scale);
          return code > 32639 ? 32639 : code < -32639 ? -32639 : code;
        };
        if (there) {
          for (u32 i = 4 * tid; i < n; i += 4 * threads) {
            const Floats a = get(i);
            const i32 code[4] = {code_of(a.x), code_of(a.y), code_of(a.z), code_of(a.w)};
            u32 high = 0, low = 0;
            UNROLL for (u32 k = 0; k < 4; k++) {
              const i32 hi = (code[k] + 128) >> 8;
              high |= ((u32)hi & 255) << (8 * k);
              low |= ((u32)(code[k] - 256 * hi) & 255) << (8 * k);
            }
            *(u32*)(codes + i) = high;
            *(u32*)(codes + code_stride + i) = low;
          }
          for (u32 i = n + 4 * tid; i < code_stride; i += 4 * threads) *(u32*)(codes + i) = *(u32*)(codes + code_stride + i) = 0;
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
  const u32 together = rows_together(I);
  if (together) run_many_rows(I, together);
  else run_rows(I);
}
