// Rows of floats: embedding, norms, codes, activations, residual sums, positions, counts.
#pragma once

#include "instruction.cuh"

constexpr u32 THREADS = 512, WARPS = THREADS / 32;
/** Elements of a row that a thread holds in registers: rows up to 7,168 wide. Wider ones go through shared memory. */
constexpr u32 HELD = 14;

/** A block's share of an instruction ATTEND_SPLIT, and whose rotation `cosine` and `sine` below are: see attend-split.cuh. */
struct Share {
  u32 first, from, tiles, count, runs, run, kv, head, low, n;
  /** What it depends on beside the step. */
  u32 window, heads, kv_heads, turned, unused[2];
};
/** Tiles of a share, and half of a head that turns, at most. */
constexpr u32 SHARE_TILES = 64, SHARE_TURNED = 64;

/** Arrivals from which on tiles' are, and pieces' of a group-scaled product. */
constexpr u32 PLACES_ARRIVE = 2, PIECES_ARRIVE = PLACES_ARRIVE + 4, MOST_PIECES = 4;

/** The start of a block's shared memory. */
struct Shared {
  char ring[3][INSTRUCTION_BYTES];
  u32 largest[WARPS];
  float inverse, scale, pad[2];
  i32 code_sum;
  u32 last;
  /** Of the codes of the only row, by warp. */
  i32 code_sums[WARPS];
  /** How many threads have elements that may be the row's largest. */
  u32 found, unused2;
  /** Of the step's first row, so that a step of one token need not ask for it again and again. */
  u32 position, table_row;
  /** Of the norm's weights, of a product's, of tiles of keys and values, of pieces; how often each was asked for, modulo 2, in bits. */
  u64 arrivals[PIECES_ARRIVE + MOST_PIECES];
  u32 asked, unused;
  Share share;
  u64 share_tiles[SHARE_TILES];
  float cosine[SHARE_TURNED], sine[SHARE_TURNED];
#ifdef BITNET_PROFILE
  u32 marks[6][24], marked, kind;
#endif
};
#ifndef BITNET_PROFILE
static_assert(sizeof(Shared) <= 3072, "as encode.ts has it");
#endif
constexpr u32 POOL_AT = (sizeof(Shared) + 127) / 128 * 128;

DEVICE Shared& shared() { return *(Shared*)shared_memory(); }
#ifdef BITNET_PROFILE
/** Clocks of the first thread from mark to mark, by kind of instruction. */
DEVICE void mark(u32 what) {
  if (thread() != 0) return;
  const u32 now = (u32)clock64();
  shared().marks[shared().kind][what] += now - shared().marked;
  shared().marked = now;
}
#else
DEVICE void mark(u32) {}
#endif
DEVICE char* pool() { return shared_memory() + POOL_AT; }

/** Rows lie in shared memory by lane of their sums: element i at [i % 16][i / 16]. */
DEVICE u32 lane_length(u32 width) { return (width + 127) / 128 * 8; }
DEVICE u32 lane_stride(u32 width) { return lane_length(width) + 4; }
DEVICE u32 lane_place(u32 i, u32 stride) { return (i & 15) * stride + (i >> 4); }

/** NaN stays, so that the next rounding reports it. */
DEVICE float relu2(float gate, float up) {
  const float g = gate > 0.0f || gate != gate ? gate : 0.0f;
  return (g * g) * up;
}
/** Of its own, or the code of its divisions would be everywhere. */
APART float activated(u32 source, float limit, float gate, float up) {
  if (source == RELU2) return relu2(gate, up);
  if (source == CLAMPED) {
    const float g = gate > limit ? limit : gate;
    const float u = up < -limit ? -limit : up;
    return divide(g, 1.0f + exp_f32(-g)) * (u > limit ? limit : u);
  }
  if (source == SIGMOID) return divide(1.0f, 1.0f + exp_f32(-gate)) * up;
  return divide(gate, 1.0f + exp_f32(-gate)) * up;
}

/** 1 / root of the mean of n squares, from their sum. */
DEVICE float inverse_of(float sum, u32 n, float eps) { return divide(1.0f, root(divide(sum, (float)n) + eps)); }

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
  auto add = [&](const Floats& v) {
    s = s + v.x * v.x;
    s = s + v.y * v.y;
    s = s + v.z * v.z;
    s = s + v.w * v.w;
  };
  // Two vectors are loaded while the two before are added: a chain of additions, 4 clocks each.
  Floats a = p[0], b = p[1];
  for (u32 i = 2; i < n; i += 2) {
    const Floats c = p[i], d = p[i + 1];
    add(a);
    add(b);
    a = c;
    b = d;
  }
  add(a);
  add(b);
  return fold(s);
}

/** Finishes the codes of a row: hi and lo planes, and each group's sum behind them. */
DEVICE void sum_groups(char* codes, u32 stride, u32 group, u32 n) {
  // The codes may lie in global memory: this block wrote them itself, so a barrier was enough.
  const signed char* hi = (const signed char*)codes;
  const signed char* lo = hi + stride;
  i32* sums = (i32*)(codes + 2 * stride);
  const u32 lane = thread() & 31;
  for (u32 g = thread() / 32; g * group < n; g += WARPS) {
    i32 part = 0;
    for (u32 i = lane; i < group; i += 32) part += 256 * hi[g * group + i] + lo[g * group + i];
    part = warp_sum(part);
    if (lane == 0) sums[g] = part;
  }
  sync();
}

DEVICE i32 write16(char* codes, u32 stride, u32 i, float v, float scale, bool usable) {
  i32 code = 0;
  if (usable) {
    code = nearest(v * scale);
    code = code > 32639 ? 32639 : code;
    code = code < -32639 ? -32639 : code;
  }
  const i32 hi = (code + 128) >> 8;
  codes[i] = (char)hi;
  codes[stride + i] = (char)(code - 256 * hi);
  return code;
}

DEVICE i32 write8(char* codes, u32 i, float v, float scale) {
  i32 code = nearest(v * scale);
  code = code > 127 ? 127 : code;
  code = code < -128 ? -128 : code;
  ((signed char*)codes)[i] = (signed char)code;
  return code;
}

/** The rounding of a row's largest element; false where that is NaN or infinity, the largest of all bit patterns. */
DEVICE float largest_of(const Instruction& I, u32 most, bool writes) {
  Shared& s = shared();
  most = warp_max(most);
  if ((thread() & 31) == 0) s.largest[thread() / 32] = most;
  sync();
  most = warp_max(s.largest[thread() & 15]);
  if (most >= 0x7f800000 && thread() == 0 && writes) ((u32*)I.failed)[I.status] = 1;
  return from_bits(most);
}

DEVICE float scale8(float largest) { return divide(127.0f, largest > 1e-5f ? largest : 1e-5f); }
DEVICE void keep8(i32 sum, float scale) {
  Shared& s = shared();
  sum = warp_sum(sum);
  if ((thread() & 31) == 0) add_shared(&s.code_sum, sum);
  if (thread() == 0) s.scale = scale;
  sync();
}

/** 1 / sqrt of the mean square, to all threads. */
DEVICE float inverse_rms(const float* xs, u32 n, float eps) {
  Shared& s = shared();
  if (thread() < 32) {
    const float sum = sum_of_squares(xs, n);
    if (thread() == 0) s.inverse = inverse_of(sum, n, eps);
  }
  sync();
  return s.inverse;
}

/** A row of which a thread holds H elements. BARE: x itself, which is not stored again. */
template <u32 H, bool BARE> APART void make_held(const Instruction& I, u32 t, float* xs, char* codes, bool writes) {
  // Fields in registers: the compiler cannot know that what is stored below is none of them.
  const u32 tid = thread(), n = I.width, stride = lane_stride(n), source = I.source, norm = I.norm, quantize = I.quantize;
  const u32 code_stride = I.code_stride, keep = writes ? I.keep : 0;
  const float* const x = (const float*)I.x + (u64)t * I.x_stride;
  float v[H], w[H];
  {
    const float* const weight = (const float*)I.weight;
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 i = tid + k * THREADS;
      v[k] = i < n ? load(x + i) : 0.0f;
      w[k] = norm && i < n ? stream_float(weight + i) : 1.0f;
    }
  }
  if (!BARE && source != PLAIN) {
    const float* const y = (const float*)I.y + (u64)t * I.y_stride;
    float b[H];
    UNROLL for (u32 k = 0; k < H; k++) b[k] = tid + k * THREADS < n ? load(y + tid + k * THREADS) : 0.0f;
    if (source == SUM) {
      UNROLL for (u32 k = 0; k < H; k++) {
        v[k] = v[k] + b[k];
        if (writes && tid + k * THREADS < n) ((float*)x)[tid + k * THREADS] = v[k];
      }
    } else {
      const float limit = I.limit;
      UNROLL for (u32 k = 0; k < H; k++) {
        v[k] = source == RELU2 ? relu2(v[k], b[k]) : activated(source, limit, v[k], b[k]);
      }
    }
  }
  if (norm || !quantize) {
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 i = tid + k * THREADS;
      if (i < n) xs[lane_place(i, stride)] = v[k];
    }
    for (u32 i = n + tid; i < 16 * lane_length(n); i += THREADS) xs[lane_place(i, stride)] = 0.0f;
  }
  if (tid == 0) shared().code_sum = 0;
  sync();
  if (norm) {
    const float r = inverse_rms(xs, n, I.eps);
    UNROLL for (u32 k = 0; k < H; k++) v[k] = (v[k] * r) * w[k];
  }
  u32 most = 0;
  UNROLL for (u32 k = 0; k < H; k++) {
    const u32 i = tid + k * THREADS;
    if (i < n) {
      const u32 b = bits(v[k]) & 0x7fffffff;
      most = b > most ? b : most;
      if (!BARE && keep) ((float*)I.out)[(u64)t * I.out_stride + i] = v[k];
      if (norm && !quantize) xs[lane_place(i, stride)] = v[k];
    }
  }
  if (!quantize) {
    sync();
    return;
  }
  const float largest = largest_of(I, most, writes);
  if (quantize == 8) {
    const float scale = scale8(largest);
    i32 sum = 0;
    UNROLL for (u32 k = 0; k < H; k++) {
      const u32 i = tid + k * THREADS;
      if (i < n) sum += write8(codes, i, v[k], scale);
    }
    for (u32 i = n + tid; i < code_stride; i += THREADS) codes[i] = 0;
    keep8(sum, scale);
    return;
  }
  const float scale = divide(32639.0f, largest);
  const bool usable = scale < from_bits(0x7f800000);
  if (tid == 0) shared().scale = usable ? divide(largest, 32639.0f) : 0.0f;
  UNROLL for (u32 k = 0; k < H; k++) {
    const u32 i = tid + k * THREADS;
    if (i < n) write16(codes, code_stride, i, v[k], scale, usable);
  }
  for (u32 i = n + tid; i < code_stride; i += THREADS) codes[i] = codes[code_stride + i] = 0;
  sync();
  sum_groups(codes, code_stride, I.group, n);
}

/** A row wider than threads hold, or with a rotation behind the norm, or heads normed before they are gated: hybrid.cuh. */
APART void make_wide(const Instruction& I, u32 t, float* xs, char* codes, bool writes);

/**
 * Row t of an instruction: made, normed, stored, rounded, as far as the instruction says. Codes go to `codes`: int8, or
 * the two planes of int16 (hi, lo, each `code_stride` bytes) and the groups' sums behind them. A row that is not rounded is left
 * in `xs`.
 */
DEVICE void make_row(const Instruction& I, u32 t, float* xs, char* codes, bool writes) {
  if (I.width > HELD * THREADS || I.turn || I.heads) make_wide(I, t, xs, codes, writes);
  else if (I.source != PLAIN || I.keep) make_held<HELD, false>(I, t, xs, codes, writes);
  else if (I.width <= 5 * THREADS) make_held<5, true>(I, t, xs, codes, writes);
  else make_held<HELD, true>(I, t, xs, codes, writes);
}

APART void run_rows(const Instruction& I) {
  float* xs = (float*)pool();
  for (u32 t = block(); t < I.rows; t += blocks()) {
    // `splits` is the distance between rows of codes here.
    make_row(I, t, xs, (char*)I.codes + (u64)t * I.splits, true);
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
    const u32 id = in.at<u32>(in.ids)[t];
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
    const u32 t = in.at<u32>(in.output_rows)[o];
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
    const float r = inverse_of(sum, D, I.eps);
    if (!there) continue;
    float* out = (float*)I.out + (u64)t * I.out_stride + h * D;
    for (u32 i = lane; i < D; i += 16) out[i] = (load(x + i) * r) * ((const float*)I.weight)[i];
  }
}

DEVICE float* key_at(const Instruction& I, const Input& in, u32 table_row, u32 kv_head, u32 position) {
  const u64 at = in.at<u64>(in.tables)[(u64)table_row * in.table_stride + position / POSITIONS];
  const u64 head = (u64)I.head_dim * POSITIONS;
  return (float*)at + ((u64)I.layer * 2 * I.kv_heads + kv_head) * head + position % POSITIONS;
}
DEVICE float* value_at(const Instruction& I, const Input& in, u32 table_row, u32 kv_head, u32 position) {
  const u64 at = in.at<u64>(in.tables)[(u64)table_row * in.table_stride + position / POSITIONS];
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
    const u32 position = in.at<u32>(in.positions)[t];
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
    const u32 table_row = in.at<u32>(in.table_rows)[t];
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
