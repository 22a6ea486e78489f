// Rows of floats: embedding, norms, codes, activations, residual sums, positions, counts.
#pragma once

#include "instruction.cuh"

constexpr u32 THREADS = 512, WARPS = THREADS / 32;
/** Rows up to here have their norm's weights in shared memory beside them; of wider ones they are read when they are used. */
constexpr u32 HELD_WIDTH = 7168;

/** The start of a block's shared memory. */
struct Shared {
  char ring[3][INSTRUCTION_BYTES];
  u32 largest[WARPS];
  float inverse, scale, pad[2];
  i32 code_sum;
  u32 last, pad2[2];
};
constexpr u32 POOL_AT = (sizeof(Shared) + 127) / 128 * 128;

DEVICE Shared& shared() { return *(Shared*)shared_memory(); }
DEVICE char* pool() { return shared_memory() + POOL_AT; }

/** Rows lie in shared memory by lane of their sums: element i at [i % 16][i / 16]. */
DEVICE u32 lane_length(u32 width) { return (width + 63) / 64 * 4; }
DEVICE u32 lane_stride(u32 width) { return lane_length(width) + 4; }
DEVICE u32 lane_place(u32 i, u32 stride) { return (i & 15) * stride + (i >> 4); }
/** Bytes of a row, and of its norm's weights. */
DEVICE u32 row_bytes(u32 width) { return 16 * lane_stride(width) * 4 + (width <= HELD_WIDTH ? (width + 3) / 4 * 16 : 0); }

DEVICE float activated(u32 source, float limit, float gate, float up) {
  if (source == RELU2) {
    // NaN stays, so that the next rounding reports it.
    const float g = gate > 0.0f || gate != gate ? gate : 0.0f;
    return (g * g) * up;
  }
  if (source == CLAMPED) {
    const float g = gate > limit ? limit : gate;
    const float u = up < -limit ? -limit : up;
    return divide(g, 1.0f + exp_f32(-g)) * (u > limit ? limit : u);
  }
  if (source == SIGMOID) return divide(1.0f, 1.0f + exp_f32(-gate)) * up;
  return divide(gate, 1.0f + exp_f32(-gate)) * up;
}

/** The folds of a laneSum whose lanes are 16 neighbouring threads; the result is in the first. */
DEVICE float fold(float s) {
  s = s + shuffle_down(s, 8);
  s = s + shuffle_down(s, 4);
  s = s + shuffle_down(s, 2);
  s = s + shuffle_down(s, 1);
  return s;
}

/** laneSum of the squares of a row in shared memory, by one warp, both halves alike; in its first thread. */
DEVICE float sum_of_squares(const float* xs, u32 width) {
  const u32 n = lane_length(width) / 4;
  const Floats* p = (const Floats*)(xs + (thread() & 15) * lane_stride(width));
  float s = 0.0f;
  // Two vectors are loaded while the two before are added: a chain of additions, 4 clocks each.
  Floats a[2];
  UNROLL for (u32 k = 0; k < 2; k++) a[k] = p[k < n ? k : 0];
  for (u32 i = 0; i < n; i += 2) {
    Floats b[2];
    UNROLL for (u32 k = 0; k < 2; k++) b[k] = p[i + 2 + k < n ? i + 2 + k : 0];
    UNROLL for (u32 k = 0; k < 2; k++) {
      if (i + k < n) {
        s = s + a[k].x * a[k].x;
        s = s + a[k].y * a[k].y;
        s = s + a[k].z * a[k].z;
        s = s + a[k].w * a[k].w;
      }
    }
    UNROLL for (u32 k = 0; k < 2; k++) a[k] = b[k];
  }
  return fold(s);
}

DEVICE float source_element(const Instruction& I, u32 t, u32 i) {
  const float x = load((const float*)I.x + (u64)t * I.x_stride + i);
  if (I.source == PLAIN) return x;
  const float y = load((const float*)I.y + (u64)t * I.y_stride + i);
  return I.source == SUM ? x + y : activated(I.source, I.limit, x, y);
}

/**
 * Row t of an instruction: made, normed, stored, rounded, as far as the instruction says. Codes go to `codes`: int8, or
 * the two planes of int16 (hi, lo, each `code_stride` bytes) and the groups' sums behind them. The row stays in `xs`.
 */
DEVICE void make_row(const Instruction& I, u32 t, float* xs, char* codes, bool writes) {
  Shared& s = shared();
  const u32 tid = thread(), n = I.width, stride = lane_stride(n);
  float* const ws = xs + 16 * stride;
  const bool held = I.norm && n <= HELD_WIDTH;
  for (u32 from = 0; from < n; from += 7 * THREADS) {
    float v[7], w[7];
    UNROLL for (u32 k = 0; k < 7; k++) {
      const u32 i = from + tid + k * THREADS;
      v[k] = i < n ? source_element(I, t, i) : 0.0f;
      w[k] = held && i < n ? stream_float((const float*)I.weight + i) : 0.0f;
    }
    UNROLL for (u32 k = 0; k < 7; k++) {
      const u32 i = from + tid + k * THREADS;
      if (i < n) {
        xs[lane_place(i, stride)] = v[k];
        if (held) ws[i] = w[k];
        if (I.source == SUM && writes) ((float*)I.x)[(u64)t * I.x_stride + i] = v[k];
      }
    }
  }
  for (u32 i = n + tid; i < 16 * lane_length(n); i += THREADS) xs[lane_place(i, stride)] = 0.0f;
  if (tid == 0) s.code_sum = 0;
  sync();
  float r = 1.0f;
  if (I.norm) {
    if (tid < 32) {
      const float sum = sum_of_squares(xs, n);
      if (tid == 0) s.inverse = divide(1.0f, root(divide(sum, (float)n) + I.eps));
    }
    sync();
    r = s.inverse;
  }
  u32 most = 0;
  for (u32 i = tid; i < n; i += THREADS) {
    float v = xs[lane_place(i, stride)];
    if (I.norm) {
      v = (v * r) * (held ? ws[i] : stream_float((const float*)I.weight + i));
      xs[lane_place(i, stride)] = v;
    }
    if (I.keep && writes) ((float*)I.out)[(u64)t * I.out_stride + i] = v;
    const u32 a = bits(v) & 0x7fffffff;
    most = a > most ? a : most;
  }
  if (!I.quantize) {
    sync();
    return;
  }
  most = warp_max(most);
  if ((tid & 31) == 0) s.largest[tid / 32] = most;
  sync();
  most = warp_max(s.largest[tid & 15]);
  // Infinity and NaN are the largest of all bit patterns.
  if (most >= 0x7f800000 && tid == 0 && writes) ((u32*)I.failed)[I.status] = 1;
  const float largest = from_bits(most);
  i32 sum = 0;
  if (I.quantize == 8) {
    const float scale = divide(127.0f, largest > 1e-5f ? largest : 1e-5f);
    for (u32 i = tid; i < I.code_stride; i += THREADS) {
      i32 code = 0;
      if (i < n) {
        code = nearest(xs[lane_place(i, stride)] * scale);
        code = code > 127 ? 127 : code;
        code = code < -128 ? -128 : code;
      }
      ((signed char*)codes)[i] = (signed char)code;
      sum += code;
    }
    sum = warp_sum(sum);
    if ((tid & 31) == 0) add_shared(&s.code_sum, sum);
    if (tid == 0) s.scale = scale;
    sync();
    return;
  }
  const float scale = divide(32639.0f, largest);
  const bool usable = scale < from_bits(0x7f800000);
  if (tid == 0) s.scale = usable ? divide(largest, 32639.0f) : 0.0f;
  for (u32 i = tid; i < I.code_stride; i += THREADS) {
    i32 code = 0;
    if (i < n && usable) {
      code = nearest(xs[lane_place(i, stride)] * scale);
      code = code > 32639 ? 32639 : code;
      code = code < -32639 ? -32639 : code;
    }
    const i32 hi = (code + 128) >> 8;
    codes[i] = (char)hi;
    codes[I.code_stride + i] = (char)(code - 256 * hi);
  }
  sync();
  // The codes may lie in global memory: this block wrote them itself, so the barrier is enough.
  const signed char* hi = (const signed char*)codes;
  const signed char* lo = hi + I.code_stride;
  i32* sums = (i32*)(codes + 2 * I.code_stride);
  for (u32 g = tid / 32; g * I.group < n; g += WARPS) {
    i32 part = 0;
    for (u32 i = tid & 31; i < I.group; i += 32) part += 256 * hi[g * I.group + i] + lo[g * I.group + i];
    part = warp_sum(part);
    if ((tid & 31) == 0) sums[g] = part;
  }
  sync();
}

/** The same, where nothing else is at hand that would have to be saved. */
APART void make_row_apart(const Instruction& I, u32 t, float* xs, char* codes, bool writes) {
  make_row(I, t, xs, codes, writes);
}

APART void run_rows(const Instruction& I) {
  float* xs = (float*)pool();
  for (u32 t = block(); t < I.rows; t += blocks()) {
    // `splits` is the distance between rows of codes here.
    make_row_apart(I, t, xs, (char*)I.codes + (u64)t * I.splits, true);
    if (I.quantize && thread() == 0) {
      ((float*)I.scales)[2 * t] = shared().scale;
      ((i32*)I.scales)[2 * t + 1] = shared().code_sum;
    }
    sync();
  }
}

DEVICE float dense_element(const void* table, u32 type, u64 i) {
  if (type == F32) return ((const float*)table)[i];
  const u32 h = ((const unsigned short*)table)[i];
  return type == BF16 ? from_bits(h << 16) : half_float(h);
}

DEVICE float group_scale(const void* scales, u32 half, u64 i) {
  return half ? half_float(((const unsigned short*)scales)[i]) : ((const float*)scales)[i];
}

APART void run_embed(const Instruction& I, const Input& in) {
  const Matrix& m = I.m[0];
  const u32 parts = (I.width + THREADS - 1) / THREADS;
  for (u32 item = block(); item < I.rows * parts; item += blocks()) {
    const u32 t = item / parts, i = item % parts * THREADS + thread();
    if (i >= I.width) continue;
    const u32 id = ((const u32*)in.ids)[t];
    float v;
    if (I.type == GROUP) {
      const u32 lines = (I.width + 3) / 4, panel = id / 64, row = id % 64, groups = I.width / I.group;
      const unsigned char byte =
          ((const unsigned char*)m.w)[((u64)panel * lines + i / 4) * 64 + 4 * (row & 15) + (i & 3)];
      const i32 code = (i32)(byte >> (2 * (row >> 4)) & 3) - 1;
      v = group_scale((const void*)m.scales, m.half, ((u64)panel * groups + i / I.group) * 64 + row) * (float)code;
    } else {
      v = dense_element((const void*)m.w, I.type, (u64)id * (m.stride / (I.type == F32 ? 4 : 2)) + i);
    }
    ((float*)I.out)[(u64)t * I.out_stride + i] = v;
  }
}

APART void run_select(const Instruction& I, const Input& in) {
  const u32 parts = (I.width + THREADS - 1) / THREADS;
  for (u32 item = block(); item < I.rows * parts; item += blocks()) {
    const u32 o = item / parts, i = item % parts * THREADS + thread();
    if (i >= I.width) continue;
    const u32 t = ((const u32*)in.output_rows)[o];
    ((float*)I.out)[(u64)o * I.out_stride + i] = load((const float*)I.x + (u64)t * I.x_stride + i);
  }
}

/** rmsNorm of each head, 16 threads a head. */
APART void run_heads(const Instruction& I) {
  const u32 lane = thread() & 15, D = I.head_dim, all = I.rows * I.heads;
  for (u32 from = block() * (THREADS / 16); from < all; from += blocks() * (THREADS / 16)) {
    const u32 item = from + thread() / 16;
    const bool there = item < all;
    const u32 t = (there ? item : 0) / I.heads, h = (there ? item : 0) % I.heads;
    const float* x = (const float*)I.x + (u64)t * I.x_stride + h * D;
    float s = 0.0f;
    for (u32 i = lane; i < D; i += 16) {
      const float v = load(x + i);
      s = s + v * v;
    }
    s = fold(s);
    // To all 16: the first one's sum.
    const float sum = from_bits((u32)broadcast16((i32)bits(s)));
    const float r = divide(1.0f, root(divide(sum, (float)D) + I.eps));
    if (!there) continue;
    float* out = (float*)I.out + (u64)t * I.out_stride + h * D;
    for (u32 i = lane; i < D; i += 16) out[i] = (load(x + i) * r) * ((const float*)I.weight)[i];
  }
}

DEVICE float* key_at(const Instruction& I, const Input& in, u32 table_row, u32 kv_head, u32 position) {
  const u64 at = ((const u64*)in.tables)[(u64)table_row * in.table_stride + position / POSITIONS];
  const u64 head = (u64)I.head_dim * POSITIONS;
  return (float*)at + ((u64)I.layer * 2 * I.kv_heads + kv_head) * head + position % POSITIONS;
}
DEVICE float* value_at(const Instruction& I, const Input& in, u32 table_row, u32 kv_head, u32 position) {
  const u64 at = ((const u64*)in.tables)[(u64)table_row * in.table_stride + position / POSITIONS];
  const u64 head = (u64)I.head_dim * POSITIONS;
  return (float*)at + ((u64)I.layer * 2 * I.kv_heads + I.kv_heads + kv_head) * head +
         (u64)(position % POSITIONS) * I.head_dim;
}

/** Elements j and j + N/2 of a head, turned. */
DEVICE void turn(const Instruction& I, u32 position, u32 j, float& a, float& b) {
  const u32 half = I.rotary / 2;
  const float c = ((const float*)I.cosine)[(u64)position * half + j], s = ((const float*)I.sine)[(u64)position * half + j];
  const float u = a, v = b;
  a = u * c - v * s;
  b = v * c + u * s;
}

/** Turns `heads` heads of x in place; where `keep`, stores k (y) and v (weight) in the cache. */
APART void run_rope(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, half = I.rotary / 2;
  for (u32 t = block(); t < I.rows; t += blocks()) {
    const u32 position = ((const u32*)in.positions)[t];
    if (!I.keep) {
      for (u32 i = thread(); i < I.heads * half; i += THREADS) {
        const u32 h = i / half, j = i % half;
        float* x = (float*)I.x + (u64)t * I.x_stride + h * D;
        float a = load(x + j), b = load(x + j + half);
        turn(I, position, j, a, b);
        x[j] = a;
        x[j + half] = b;
      }
      continue;
    }
    const u32 table_row = ((const u32*)in.table_rows)[t];
    for (u32 i = thread(); i < I.kv_heads * D; i += THREADS) {
      const u32 h = i / D, d = i % D;
      key_at(I, in, table_row, h, position)[(u64)d * POSITIONS] = load((const float*)I.y + (u64)t * I.y_stride + i);
      value_at(I, in, table_row, h, position)[d] = load((const float*)I.weight + (u64)t * I.out_stride + i);
    }
  }
}

APART void run_count(const Instruction& I) {
  Shared& s = shared();
  for (u32 t = block(); t < I.rows; t += blocks()) {
    const float* x = (const float*)I.x + (u64)t * I.x_stride;
    i32* counts = (i32*)I.out + (u64)t * I.out_stride;
    if (thread() < 32) {
      float sum = 0.0f;
      for (u32 i = thread() & 15; i < I.width; i += 16) sum = sum + from_bits(bits(load(x + i)) & 0x7fffffff);
      sum = fold(sum);
      if (thread() == 0) {
        const float mean = divide(sum, (float)I.width);
        // NaN stays.
        s.inverse = divide(1.0f, mean > 1e-5f || mean != mean ? mean : 1e-5f);
        s.largest[0] = s.largest[1] = 0;
      }
    }
    sync();
    i32 minus = 0, plus = 0;
    for (u32 i = thread(); i < I.width; i += THREADS) {
      const float v = load(x + i) * s.inverse;
      plus += v > 0.5f;
      minus += v < -0.5f;
    }
    minus = warp_sum(minus);
    plus = warp_sum(plus);
    if ((thread() & 31) == 0) {
      add_shared((i32*)&s.largest[0], minus);
      add_shared((i32*)&s.largest[1], plus);
    }
    sync();
    if (thread() == 0) {
      counts[0] = (i32)s.largest[0];
      counts[1] = (i32)(I.width - s.largest[0] - s.largest[1]);
      counts[2] = (i32)s.largest[1];
    }
    sync();
  }
}
