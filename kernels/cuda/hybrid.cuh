// The operations of hybrid and mixture models: rotated rows, convolutions and delta rules along a sequence, the router and its
// experts, small dense matrices. Orders of sums as src/engine/program.ts has them.
#pragma once

#include "products.cuh"

DEVICE float silu_f32(float x) { return divide(x, 1.0f + exp_f32(-x)); }
DEVICE float sigmoid_f32(float x) { return divide(1.0f, 1.0f + exp_f32(-x)); }
/** log(1 + exp(x)) as engine/js/math.ts has it. */
DEVICE float softplus_f32(float x) {
  const float u = exp_f32(from_bits(bits(x) | 0x80000000u));
  const float s = divide(u, 2.0f + u), z = s * s;
  float p = (float)(1.0 / 17);
  p = p * z + (float)(1.0 / 15);
  p = p * z + (float)(1.0 / 13);
  p = p * z + (float)(1.0 / 11);
  p = p * z + (float)(1.0 / 9);
  p = p * z + (float)(1.0 / 7);
  p = p * z + (float)(1.0 / 5);
  p = p * z + (float)(1.0 / 3);
  p = p * z + 1.0f;
  return (x > 0.0f || x != x ? x : 0.0f) + (s + s) * p;
}

// ---- rows that are rotated, or whose heads are normed before they are gated

/** Strides 1, 2, 4, .. of R elements that a thread has. */
template <u32 R> DEVICE void butterflies(float (&v)[R], u32 block) {
  UNROLL for (u32 s = 1; s < R; s *= 2) {
    if (block > s) {
      UNROLL for (u32 i = 0; i < R; i++) {
        if ((i & s) == 0) {
          const float a = v[i], b = v[i + s];
          v[i] = a + b;
          v[i + s] = a - b;
        }
      }
    }
  }
}

/** Strides 16 s to 8 R s of a row, which lies by lanes: there they are s to R s / 2. */
template <u32 R> DEVICE void turn_pass(float* xs, u32 stride, u32 chunks, u32 s) {
  const u32 items = 16 * (chunks / R);
  for (u32 item = thread(); item < items; item += THREADS) {
    float v[R];
    if constexpr (R >= 4) {
      if (s == 1) {
        Floats* p = (Floats*)(xs + (item & 15) * stride + (item >> 4) * R);
        UNROLL for (u32 k = 0; k < R / 4; k++) {
          const Floats f = p[k];
          v[4 * k] = f.x, v[4 * k + 1] = f.y, v[4 * k + 2] = f.z, v[4 * k + 3] = f.w;
        }
        butterflies(v, R);
        UNROLL for (u32 k = 0; k < R / 4; k++) p[k] = {v[4 * k], v[4 * k + 1], v[4 * k + 2], v[4 * k + 3]};
        continue;
      }
    }
    // Four neighbours of a lane and eight lanes are 32 banks.
    const bool fours = s >= 4;
    const u32 lane = fours ? item >> 2 & 15 : item & 15, j = fours ? (item >> 6) * 4 + (item & 3) : item >> 4;
    float* p = xs + lane * stride + j / s * s * R + j % s;
    UNROLL for (u32 k = 0; k < R; k++) v[k] = p[k * s];
    butterflies(v, R);
    UNROLL for (u32 k = 0; k < R; k++) p[k * s] = v[k];
  }
  sync();
}

/** The strides from 16 on of n elements that lie by lanes. */
DEVICE void turn_rest(float* xs, u32 stride, u32 n, u32 block) {
  for (u32 s = 1, left = block / 16; left > 1;) {
    if (left >= 8) turn_pass<8>(xs, stride, n / 16, s), s *= 8, left /= 8;
    else if (left == 4) turn_pass<4>(xs, stride, n / 16, s), left = 1;
    else turn_pass<2>(xs, stride, n / 16, s), left = 1;
  }
}

/** Where the element comes from that a rotation has at place i: place k * repeats + r has head r * keyHeads + k. */
DEVICE u32 moved_from(const Instruction& I, u32 i) {
  const u32 D = I.head_dim, repeats = I.width / (I.key_heads * D);
  return (i / D % repeats * I.key_heads + i / D / repeats) * D + i % D;
}

/** The rotation of a row in xs, but for its last factor; where it is then. Heads that move go to a second row behind the first. */
DEVICE float* turn_row(const Instruction& I, float* xs) {
  const u32 n = I.width, stride = lane_stride(n), chunks = (n + 15) / 16, block = I.turn;
  const float* const signs = (const float*)I.weight2;
  float* const to = I.key_heads ? xs + 16 * stride : xs;
  for (u32 c = thread(); c < chunks; c += THREADS) {
    float v[16], sign[16];
    UNROLL for (u32 l = 0; l < 16; l++) sign[l] = !I.back && 16 * c + l < n ? stream_float(signs + 16 * c + l) : 1.0f;
    UNROLL for (u32 l = 0; l < 16; l++) {
      const u32 i = 16 * c + l;
      v[l] = i < n ? xs[lane_place(I.key_heads ? moved_from(I, i) : i, stride)] * sign[l] : 0.0f;
    }
    butterflies(v, block);
    UNROLL for (u32 l = 0; l < 16; l++) to[l * stride + c] = v[l];
  }
  sync();
  turn_rest(to, stride, n, block);
  return to;
}

/** What a row is made of in rounds: elements that a thread loads before it uses the first. */
constexpr u32 AT_ONCE = 8;

/**
 * As make_row of rows.cuh, for rows wider than threads hold, and for these: `heads`: y has so many of `head_dim`, each normed with
 * `weight` and `eps` before it meets x. `turn`: block of a rotation behind the norm, with `weight2` its signs, `scale` its last
 * factor, `back` where it is the inverse; the row before it goes to `out` where `keep`, the row behind it to `cosine` unless 0.
 */
APART void make_wide(const Instruction& I, u32 t, float* xs, char* codes, bool writes) {
  Shared& s = shared();
  const u32 tid = thread(), n = I.width, stride = lane_stride(n), source = I.source, D = I.head_dim, heads = I.heads;
  float* const x = (float*)I.x + (u64)t * I.x_stride;
  const float* const y = (const float*)I.y + (u64)t * I.y_stride;
  const float* const weight = (const float*)I.weight;
  float* const kept = (float*)I.out + (u64)t * I.out_stride;
  float* const inverse = xs + 16 * stride;
  const bool keep = I.keep && writes, norm = I.norm;
  if (heads) {
    for (u32 base = tid; base < n; base += AT_ONCE * THREADS) {
      float b[AT_ONCE];
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) b[k] = base + k * THREADS < n ? load(y + base + k * THREADS) : 0.0f;
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        if (base + k * THREADS < n) xs[lane_place(base + k * THREADS, stride)] = b[k];
      }
    }
    sync();
    for (u32 base = 0; base < heads; base += THREADS / 16) {
      const u32 h = base + tid / 16;
      float sum = 0.0f;
      for (u32 i = tid & 15; h < heads && i < D; i += 16) {
        const float v = xs[lane_place(h * D + i, stride)];
        sum = sum + v * v;
      }
      sum = fold(sum);
      if ((tid & 15) == 0 && h < heads) inverse[h] = inverse_of(sum, D, I.eps);
    }
    sync();
  }
  for (u32 base = tid; base < n; base += AT_ONCE * THREADS) {
    float a[AT_ONCE], b[AT_ONCE];
    UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
      const u32 i = base + k * THREADS;
      a[k] = i < n ? load((const float*)x + i) : 0.0f;
      b[k] = source == PLAIN || i >= n ? 0.0f : heads ? stream_float(weight + i % D) : load(y + i);
    }
    UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
      const u32 i = base + k * THREADS;
      if (i < n) {
        float v = a[k];
        if (source != PLAIN) {
          const float w = heads ? (xs[lane_place(i, stride)] * inverse[i / D]) * b[k] : b[k];
          v = source == SUM ? v + w : activated(source, I.limit, v, w);
        }
        xs[lane_place(i, stride)] = v;
        if (source == SUM && writes) x[i] = v;
        if (keep && !norm) kept[i] = v;
      }
    }
  }
  for (u32 i = n + tid; i < 16 * lane_length(n); i += THREADS) xs[lane_place(i, stride)] = 0.0f;
  if (tid == 0) s.code_sum = 0;
  sync();
  if (norm) {
    const float r = inverse_rms(xs, n, I.eps);
    for (u32 base = tid; base < n; base += AT_ONCE * THREADS) {
      float w[AT_ONCE];
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) w[k] = base + k * THREADS < n ? stream_float(weight + base + k * THREADS) : 0.0f;
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        const u32 i = base + k * THREADS;
        if (i < n) {
          const float v = (xs[lane_place(i, stride)] * r) * w[k];
          xs[lane_place(i, stride)] = v;
          if (keep) kept[i] = v;
        }
      }
    }
    sync();
  }
  const u32 turn = I.turn, back = I.back;
  const float* const from = turn ? turn_row(I, xs) : xs;
  float* const turned = (float*)I.cosine + (u64)t * n;
  const bool stores = turn && I.cosine && writes;
  const float factor = I.scale;
  u32 most = 0;
  UNROLL4 for (u32 i = tid; i < n; i += THREADS) {
    float a = from[lane_place(i, stride)];
    if (turn) {
      a = a * factor;
      if (back) a = a * ((const float*)I.weight2)[i];
      xs[lane_place(i, stride)] = a;
      if (stores) turned[i] = a;
    }
    const u32 b = bits(a) & 0x7fffffff;
    most = b > most ? b : most;
  }
  if (!I.quantize) {
    sync();
    return;
  }
  const float largest = largest_of(I, most, writes);
  const u32 code_stride = I.code_stride;
  if (I.quantize == 8) {
    const float scale = scale8(largest);
    i32 sum = 0;
    for (u32 i = tid; i < n; i += THREADS) sum += write8(codes, i, xs[lane_place(i, stride)], scale);
    for (u32 i = n + tid; i < code_stride; i += THREADS) codes[i] = 0;
    keep8(sum, scale);
    return;
  }
  const float scale = divide(32639.0f, largest);
  const bool usable = scale < from_bits(0x7f800000);
  const u32 group = I.group, groups = n / group;
  if (tid == 0) s.scale = usable ? divide(largest, 32639.0f) : 0.0f;
  for (u32 i = n + tid; i < code_stride; i += THREADS) codes[i] = codes[code_stride + i] = 0;
  if (group % 32 != 0) {
    for (u32 i = tid; i < n; i += THREADS) write16(codes, code_stride, i, xs[lane_place(i, stride)], scale, usable);
    sync();
    sum_groups(codes, code_stride, group, n);
    return;
  }
  // A warp's 32 elements are of one group. Its sums lie behind the row, or the second one.
  i32* const sums = (i32*)(xs + (I.key_heads ? 32 : 16) * stride);
  for (u32 g = tid; g < groups; g += THREADS) sums[g] = 0;
  sync();
  UNROLL4 for (u32 i = tid; i < n; i += THREADS) {
    const i32 sum = warp_sum(write16(codes, code_stride, i, xs[lane_place(i, stride)], scale, usable));
    if ((tid & 31) == 0) add_shared(sums + i / group, sum);
  }
  sync();
  for (u32 g = tid; g < groups; g += THREADS) ((i32*)(codes + 2 * code_stride))[g] = sums[g];
  sync();
}

/** To all threads: the largest bits of theirs. */
DEVICE u32 most_bits(u32 most) {
  Shared& s = shared();
  most = warp_max(most);
  sync();
  if ((thread() & 31) == 0) s.largest[thread() / 32] = most;
  sync();
  return warp_max(s.largest[thread() & 15]);
}

/**
 * Few rows, as make_wide makes them, but each by many blocks, `window` elements each: a rotation's block, or whole heads. They go
 * to `cosine`; the largest bits of each to `scratch`.
 */
APART void run_segments(const Instruction& I) {
  const u32 tid = thread(), n = I.width, size = I.window, segments = (n + size - 1) / size, source = I.source, D = I.head_dim;
  float* const xs = (float*)pool();
  for (u32 item = block(); item < I.rows * segments; item += blocks()) {
    const u32 t = item / segments, first = item % segments * size, here = n - first < size ? n - first : size;
    const float* const x = (const float*)I.x + (u64)t * I.x_stride;
    const float* const y = (const float*)I.y + (u64)t * I.y_stride;
    const float* const weight = (const float*)I.weight;
    const u32 stride = lane_stride(size);
    float* const inverse = xs + 16 * stride;
    auto from = [&](u32 i) { return I.key_heads ? moved_from(I, i) : i; };
    float r = 1.0f;
    if (I.norm) {
      // All of the row, for its sum.
      for (u32 base = tid; base < 16 * lane_length(n); base += AT_ONCE * THREADS) {
        float a[AT_ONCE];
        UNROLL for (u32 k = 0; k < AT_ONCE; k++) a[k] = base + k * THREADS < n ? load(x + base + k * THREADS) : 0.0f;
        UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
          if (base + k * THREADS < 16 * lane_length(n)) xs[lane_place(base + k * THREADS, lane_stride(n))] = a[k];
        }
      }
      sync();
      r = inverse_rms(xs, n, I.eps);
    }
    if (I.heads) {
      // The heads of this piece, wherever they come from.
      for (u32 base = 0; base * D < here; base += THREADS / 16) {
        const u32 h = base + tid / 16;
        float sum = 0.0f;
        if (h * D < here) {
          const float* const head = y + from(first + h * D);
          UNROLL4 for (u32 i = tid & 15; i < D; i += 16) {
            const float v = load(head + i);
            sum = sum + v * v;
          }
        }
        sum = fold(sum);
        if ((tid & 15) == 0 && h * D < here) inverse[h] = inverse_of(sum, D, I.eps);
      }
      sync();
    }
    for (u32 i = tid; i < here; i += THREADS) {
      const u32 at = from(first + i);
      float v = load(x + at);
      if (source != PLAIN) {
        const float b = load(y + at);
        v = activated(source, I.limit, v, I.heads ? (b * inverse[i / D]) * weight[i % D] : b);
      }
      if (I.norm) v = (v * r) * weight[at];
      if (I.keep) ((float*)I.out)[(u64)t * I.out_stride + at] = v;
      if (I.turn && !I.back) v = v * ((const float*)I.weight2)[first + i];
      xs[lane_place(i, stride)] = v;
    }
    sync();
    if (I.turn) {
      for (u32 c = tid; c < (here + 15) / 16; c += THREADS) {
        float v[16];
        UNROLL for (u32 l = 0; l < 16; l++) v[l] = 16 * c + l < here ? xs[l * stride + c] : 0.0f;
        butterflies(v, I.turn);
        UNROLL for (u32 l = 0; l < 16; l++) xs[l * stride + c] = v[l];
      }
      sync();
      turn_rest(xs, stride, here, I.turn);
    }
    u32 most = 0;
    for (u32 i = tid; i < here; i += THREADS) {
      float v = xs[lane_place(i, stride)];
      if (I.turn) v = v * I.scale;
      if (I.turn && I.back) v = v * ((const float*)I.weight2)[first + i];
      ((float*)I.cosine)[(u64)t * n + first + i] = v;
      const u32 b = bits(v) & 0x7fffffff;
      most = b > most ? b : most;
    }
    most = most_bits(most);
    if (tid == 0) ((u32*)I.scratch)[item] = most;
    sync();
  }
}

/**
 * Rounds few rows to int16, `window` columns (whole groups of 32 and more) a block. `parts`: as many pieces of a row have left their
 * largest bits in `scratch`; 0: the block looks for itself.
 */
APART void run_round(const Instruction& I) {
  const u32 tid = thread(), n = I.width, size = I.window, chunks = (n + size - 1) / size, group = I.group, code_stride = I.code_stride;
  i32* const sums = (i32*)pool();
  for (u32 item = block(); item < I.rows * chunks; item += blocks()) {
    const u32 t = item / chunks, first = item % chunks * size, here = n - first < size ? n - first : size;
    const float* const x = (const float*)I.x + (u64)t * I.x_stride;
    u32 most = 0;
    if (I.parts) {
      for (u32 i = tid; i < I.parts; i += THREADS) most = load((const u32*)I.scratch + t * I.parts + i);
    } else {
      for (u32 base = tid; base < n; base += AT_ONCE * THREADS) {
        u32 a[AT_ONCE];
        UNROLL for (u32 k = 0; k < AT_ONCE; k++) a[k] = base + k * THREADS < n ? load((const u32*)x + base + k * THREADS) & 0x7fffffff : 0;
        UNROLL for (u32 k = 0; k < AT_ONCE; k++) most = a[k] > most ? a[k] : most;
      }
    }
    for (u32 g = tid; g < here / group; g += THREADS) sums[g] = 0;
    most = most_bits(most);
    if (most >= 0x7f800000 && tid == 0) ((u32*)I.failed)[I.status] = 1;
    const float largest = from_bits(most), scale = divide(32639.0f, largest);
    const bool usable = scale < from_bits(0x7f800000);
    char* const codes = (char*)I.codes + (u64)t * I.splits;
    for (u32 i = tid; i < here; i += THREADS) {
      const i32 sum = warp_sum(write16(codes, code_stride, first + i, load(x + first + i), scale, usable));
      if ((tid & 31) == 0) add_shared(sums + i / group, sum);
    }
    if (first + here == n) {
      for (u32 i = n + tid; i < code_stride; i += THREADS) codes[i] = codes[code_stride + i] = 0;
      if (tid == 0) {
        ((float*)I.scales)[2 * t] = usable ? divide(largest, 32639.0f) : 0.0f;
        ((i32*)I.scales)[2 * t + 1] = 0;
      }
    }
    sync();
    for (u32 g = tid; g < here / group; g += THREADS) ((i32*)(codes + 2 * code_stride))[first / group + g] = sums[g];
    sync();
  }
}

/** Columns of a row that a warp rounds. */
constexpr u32 NARROW = 1024;

/** Many rows of up to 1,024 columns, gated perhaps and rounded to int16: a warp a row. Groups are of whole 32s. */
APART void run_narrow(const Instruction& I) {
  const u32 n = I.width, lane = thread() & 31, rounds = n / 32, each = I.group / 32, code_stride = I.code_stride, source = I.source;
  float* const row = (float*)pool() + thread() / 32 * NARROW;
  for (u32 t = block() + blocks() * (thread() / 32); t < I.rows; t += blocks() * WARPS) {
    const float* const x = (const float*)I.x + (u64)t * I.x_stride + lane;
    const float* const y = (const float*)I.y + (u64)t * I.y_stride + lane;
    u32 most = 0;
    for (u32 from = 0; from < rounds; from += AT_ONCE) {
      float a[AT_ONCE], b[AT_ONCE];
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        a[k] = from + k < rounds ? load(x + (from + k) * 32) : 0.0f;
        b[k] = from + k < rounds && source != PLAIN ? load(y + (from + k) * 32) : 0.0f;
      }
      UNROLL for (u32 k = 0; k < AT_ONCE; k++) {
        if (from + k < rounds) {
          const float v = source == PLAIN ? a[k] : activated(source, I.limit, a[k], b[k]);
          row[(from + k) * 32 + lane] = v;
          if (I.keep) ((float*)I.out)[(u64)t * I.out_stride + (from + k) * 32 + lane] = v;
          const u32 w = bits(v) & 0x7fffffff;
          most = w > most ? w : most;
        }
      }
    }
    most = warp_max(most);
    if (most >= 0x7f800000 && lane == 0) ((u32*)I.failed)[I.status] = 1;
    const float largest = from_bits(most), scale = divide(32639.0f, largest);
    const bool usable = scale < from_bits(0x7f800000);
    char* const codes = (char*)I.codes + (u64)t * I.splits;
    i32 sum = 0;
    for (u32 k = 0; k < rounds; k++) {
      sum += write16(codes, code_stride, k * 32 + lane, row[k * 32 + lane], scale, usable);
      if ((k + 1) % each == 0) {
        sum = warp_sum(sum);
        if (lane == 0) ((i32*)(codes + 2 * code_stride))[k / each] = sum;
        sum = 0;
      }
    }
    for (u32 i = n + lane; i < code_stride; i += 32) codes[i] = codes[code_stride + i] = 0;
    if (lane == 0) {
      ((float*)I.scales)[2 * t] = usable ? divide(largest, 32639.0f) : 0.0f;
      ((i32*)I.scales)[2 * t + 1] = 0;
    }
  }
}

/** x holds for each head `head_dim` elements of one buffer (y), then as many of another (out). */
APART void run_split(const Instruction& I) {
  const u32 D = I.head_dim, width = I.heads * D, parts = (2 * width + THREADS - 1) / THREADS;
  for (u32 item = block(); item < I.rows * parts; item += blocks()) {
    const u32 t = item / parts, i = item % parts * THREADS + thread();
    if (i >= 2 * width) continue;
    const u32 head = i / (2 * D), in = i % (2 * D);
    const float v = load((const float*)I.x + (u64)t * 2 * width + i);
    ((float*)(in < D ? I.y : I.out))[(u64)t * width + head * D + in % D] = v;
  }
}

// ---- along a sequence

/** The rows of a sequence in this step, and where its recurrent states are. */
struct Run {
  u32 from, to;
  /** It begins here: its states are zeros, whatever lies there. */
  bool fresh;
  u64 states;
  u32 copy;
};
DEVICE Run run_of(const Input& in, u32 sequence) {
  Run r;
  r.from = sequence_rows(in)[sequence];
  r.to = sequence_rows(in)[sequence + 1];
  r.fresh = in.at<u32>(in.positions)[r.from] == 0;
  r.states = in.at<u64>(in.states)[2 * sequence];
  r.copy = (u32)in.at<u64>(in.states)[2 * sequence + 1];
  return r;
}

/** To all lanes: laneSum of the squares of what a warp has in shared memory. */
DEVICE float warp_square_sum(const float* x, u32 n) {
  float s = 0.0f;
  for (u32 i = thread() & 15; i < n; i += 16) s = s + x[i] * x[i];
  s = fold(s);
  return from_bits((u32)broadcast16((i32)bits(s)));
}

/**
 * Convolution, silu, and of the first `heads` pieces of `head_dim` channels (and `kv_heads` behind them) the length: a warp has a
 * row's piece. The state is written where it is not read: it has two copies, `counters` bytes apart.
 */
APART void run_conv(const Instruction& I, const Input& in) {
  const u32 C = I.width, D = I.head_dim, pieces = (C + D - 1) / D, taps = I.parts, past = taps - 1, lane = thread() & 31;
  const float* const weight = (const float*)I.weight;
  float* const mine = (float*)pool() + thread() / 32 * D;
  for (u32 item = block() + blocks() * (thread() / 32); item < I.rows * pieces; item += blocks() * WARPS) {
    const u32 t = item / pieces, piece = item % pieces;
    const Run r = run_of(in, in.at<u32>(in.table_rows)[t]);
    const float* const old = (const float*)(r.states + I.scratch + r.copy * I.counters);
    float* const next = (float*)(r.states + I.scratch + (1 - r.copy) * I.counters);
    const u32 n = piece * D + D < C ? D : C - piece * D;
    /** Of channel c, row `at` of the state and the sequence's rows behind it. */
    auto input = [&](u32 at, u32 c) {
      if (at >= past) return load((const float*)I.x + (u64)(r.from + at - past) * I.x_stride + c);
      return r.fresh ? 0.0f : load(old + (u64)at * C + c);
    };
    const bool last = t + 1 == r.to;
    // A row's inputs but the oldest are the state behind it.
    if (taps == 4) {
      for (u32 d0 = lane; d0 < n; d0 += 128) {
        float w[4][4], v[4][4];
        UNROLL for (u32 k = 0; k < 4; k++) {
          const u32 c = piece * D + (d0 + 32 * k < n ? d0 + 32 * k : d0);
          UNROLL for (u32 j = 0; j < 4; j++) {
            w[k][j] = stream_float(weight + (u64)j * C + c);
            v[k][j] = input(t - r.from + j, c);
          }
        }
        UNROLL for (u32 k = 0; k < 4; k++) {
          const u32 d = d0 + 32 * k;
          if (d >= n) break;
          float u = 0.0f;
          UNROLL for (u32 j = 0; j < 4; j++) u = u + w[k][j] * v[k][j];
          mine[d] = silu_f32(u);
          UNROLL for (u32 j = 1; j < 4; j++) {
            if (last) next[(u64)(j - 1) * C + piece * D + d] = v[k][j];
          }
        }
      }
    } else {
      for (u32 d = lane; d < n; d += 32) {
        const u32 c = piece * D + d;
        float u = 0.0f;
        for (u32 j = 0; j < taps; j++) {
          const float v = input(t - r.from + j, c);
          u = u + stream_float(weight + (u64)j * C + c) * v;
          if (last && j > 0) next[(u64)(j - 1) * C + c] = v;
        }
        mine[d] = silu_f32(u);
      }
    }
    sync_warp();
    float* const out = (float*)I.out + (u64)t * I.out_stride + piece * D;
    if (piece < I.heads + I.kv_heads) {
      const float l = divide(1.0f, root(warp_square_sum(mine, D) + I.eps)), scale = piece < I.heads ? I.scale : I.limit;
      for (u32 d = lane; d < D; d += 32) out[d] = (mine[d] * l) * scale;
    } else {
      for (u32 d = lane; d < n; d += 32) out[d] = mine[d];
    }
    sync_warp();
  }
}

/** In place: heads to one length, 16 threads a head. */
APART void run_lengths(const Instruction& I) {
  const u32 lane = thread() & 15, D = I.head_dim, all = I.rows * I.heads;
  for (u32 from = block() * (THREADS / 16); from < all; from += blocks() * (THREADS / 16)) {
    const u32 item = from + thread() / 16;
    const bool there = item < all;
    float* const x = (float*)I.x + (u64)((there ? item : 0) / I.heads) * I.x_stride + I.window + (there ? item : 0) % I.heads * D;
    float s = 0.0f;
    for (u32 i = lane; i < D; i += 16) {
      const float v = load((const float*)x + i);
      s = s + v * v;
    }
    s = fold(s);
    const float r = divide(1.0f, root(from_bits((u32)broadcast16((i32)bits(s))) + I.eps));
    if (!there) continue;
    for (u32 i = lane; i < D; i += 16) x[i] = (load((const float*)x + i) * r) * I.scale;
  }
}

/**
 * The delta rule. A warp has 32 value dimensions of a head, whose state [key dimension][32] stays in shared memory for all rows of
 * its sequence; in memory a state is [head][slice of 32][key dimension][32]. Beside it lie q and k of three rows and the gates of 64.
 */
constexpr u32 DELTA_GATES = 64;
/** Keys that are loaded ahead. */
constexpr u32 DELTA_KEYS = 8;
DEVICE u32 delta_floats(u32 D) { return 38 * D + 2 * DELTA_GATES; }
DEVICE u32 delta_warps(const Instruction& I) {
  const u32 n = (shared_size() - POOL_AT) / ((delta_floats(I.head_dim) + 3) / 4 * 16);
  return n < WARPS ? n : WARPS;
}
DEVICE float* delta_memory(const Instruction& I) { return (float*)pool() + thread() / 32 * ((delta_floats(I.head_dim) + 3) / 4 * 4); }

struct DeltaItem {
  Run run;
  u32 head, slice;
  u64 state;
};
DEVICE u32 delta_items(const Instruction& I, const Input& in) { return in.sequences * I.heads * ((I.head_dim + 31) / 32); }
DEVICE DeltaItem delta_item(const Instruction& I, const Input& in, u32 item) {
  const u32 slices = (I.head_dim + 31) / 32, each = I.heads * slices;
  DeltaItem d;
  d.run = run_of(in, item / each);
  d.head = item % each / slices;
  d.slice = item % slices;
  d.state = d.run.states + I.scratch + (u64)(item % each) * I.head_dim * 128;
  return d;
}
DEVICE void ask_state(const Instruction& I, const DeltaItem& d, float* to) {
  const u32 n = I.head_dim * 8;
  if (d.run.fresh) {
    for (u32 i = thread() & 31; i < n; i += 32) ((Floats*)to)[i] = {0.0f, 0.0f, 0.0f, 0.0f};
  } else {
    for (u32 i = thread() & 31; i < n; i += 32) copy_ahead(to + 4 * i, (const char*)d.state + 16 * i);
  }
}

/** Before the grid's barrier: the first states, which an earlier step left. */
APART void delta_ahead(const Instruction& I, const Input& in) {
  const u32 warp = thread() / 32, item = block() + blocks() * warp;
  if (in.tokens != in.sequences || warp >= delta_warps(I) || item >= delta_items(I, in)) return;
  ask_state(I, delta_item(I, in, item), delta_memory(I));
  copies_asked();
}

/** One row of each sequence. Twice over a state, which is written once. */
APART void delta_one(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, lane = thread() & 31, warp = thread() / 32, warps = delta_warps(I), items = delta_items(I, in);
  if (warp >= warps) return;
  const float* const own = delta_memory(I) + lane;
  float* const q = delta_memory(I) + 32 * D;
  float* const k = q + D;
  for (u32 item = block() + blocks() * warp; item < items; item += blocks() * warps) {
    const DeltaItem it = delta_item(I, in, item);
    if (item >= blocks() * warps) {
      ask_state(I, it, delta_memory(I));
      copies_asked();
    }
    const u32 h = it.head, key = I.type ? h / (I.heads / I.key_heads) : h % I.key_heads, c = it.slice * 32 + lane;
    const float* const x = (const float*)I.x + (u64)it.run.from * I.x_stride;
    const u64 at = (u64)it.run.from * I.heads + h;
    const float beta = load((const float*)I.y + at), alpha = load((const float*)I.codes + at);
    const float v = load(x + (2 * I.key_heads + h) * D + (c < D ? c : D - 1));
    UNROLL4 for (u32 i = lane; i < D; i += 32) {
      const float a = load(x + key * D + i), b = load(x + (I.key_heads + key) * D + i);
      q[i] = a;
      k[i] = b;
    }
    const float b = sigmoid_f32(beta);
    const float g = exp_f32(((const float*)I.weight)[h] * softplus_f32(alpha + ((const float*)I.weight2)[h]));
    copies_there<0>();
    sync_warp();
    float d = 0.0f, o = 0.0f;
    u32 i = 0;
    ROLLED for (; i + 8 <= D; i += 8) {
      float s[8];
      UNROLL for (u32 e = 0; e < 8; e++) s[e] = (g * own[32 * (i + e)]) * k[i + e];
      UNROLL for (u32 e = 0; e < 8; e++) d = d + s[e];
    }
    ROLLED for (; i < D; i++) d = d + (g * own[32 * i]) * k[i];
    const float delta = b * (v - d);
    float* const state = (float*)it.state + lane;
    i = 0;
    ROLLED for (; i + 8 <= D; i += 8) {
      float s[8], p[8];
      UNROLL for (u32 e = 0; e < 8; e++) s[e] = g * own[32 * (i + e)] + k[i + e] * delta;
      UNROLL for (u32 e = 0; e < 8; e++) p[e] = s[e] * q[i + e];
      UNROLL for (u32 e = 0; e < 8; e++) state[32 * (i + e)] = s[e];
      UNROLL for (u32 e = 0; e < 8; e++) o = o + p[e];
    }
    ROLLED for (; i < D; i++) {
      const float s = g * own[32 * i] + k[i] * delta;
      state[32 * i] = s;
      o = o + s * q[i];
    }
    if (c < D) ((float*)I.out)[(u64)it.run.from * I.out_stride + h * D + c] = o;
    sync_warp();
  }
}

/** b and g of a head, of 32 rows of a run from t on into place row % 64: a row by each lane. */
DEVICE void make_gates(const Instruction& I, const Run& run, u32 rows, u32 h, u32 t, u32 lane, float decay, float bias, float* gates) {
  if (t + lane >= rows) return;
  const u64 at = (u64)(run.from + t + lane) * I.heads + h;
  gates[(t + lane) % DELTA_GATES] = sigmoid_f32(load((const float*)I.y + at));
  gates[DELTA_GATES + (t + lane) % DELTA_GATES] = exp_f32(decay * softplus_f32(load((const float*)I.codes + at) + bias));
}

/** Several rows, heads of any size. */
APART void delta_rows(const Instruction& I, const Input& in) {
  const u32 D = I.head_dim, lane = thread() & 31, warp = thread() / 32, warps = delta_warps(I), items = delta_items(I, in);
  if (warp >= warps) return;
  float* const own = delta_memory(I) + lane;
  float* const vectors = delta_memory(I) + 32 * D;
  float* const gates = vectors + 6 * D;
  for (u32 item = block() + blocks() * warp; item < items; item += blocks() * warps) {
    const DeltaItem it = delta_item(I, in, item);
    const u32 h = it.head, key = I.type ? h / (I.heads / I.key_heads) : h % I.key_heads, rows = it.run.to - it.run.from;
    const u32 c = it.slice * 32 + lane, column = c < D ? c : D - 1;
    const float* const x = (const float*)I.x + (u64)it.run.from * I.x_stride;
    const float* const v_at = x + (2 * I.key_heads + h) * D + column;
    const float decay = ((const float*)I.weight)[h], bias = ((const float*)I.weight2)[h];
    ask_state(I, it, delta_memory(I));
    copies_asked();
    /** q and k of a row into place row % 3. */
    auto ask_row = [&](u32 t) {
      float* const to = vectors + t % 3 * 2 * D;
      const float* const q = x + (u64)t * I.x_stride + key * D;
      const float* const k = q + I.key_heads * D;
      if (D % 4 == 0) {
        for (u32 i = lane; i < D / 4; i += 32) {
          copy_ahead(to + 4 * i, q + 4 * i);
          copy_ahead(to + D + 4 * i, k + 4 * i);
        }
      } else {
        for (u32 i = lane; i < D; i += 32) {
          to[i] = load(q + i);
          to[D + i] = load(k + i);
        }
      }
      copies_asked();
    };
    auto gates_from = [&](u32 t) { make_gates(I, it.run, rows, h, t, lane, decay, bias, gates); };
    ask_row(0);
    if (rows > 1) ask_row(1);
    float v = load(v_at);
    gates_from(0);
    if (rows > 1) copies_there<1>();
    else copies_there<0>();
    sync_warp();
    float d = 0.0f;
    {
      const float g = gates[DELTA_GATES];
      const float* const k = vectors + D;
      UNROLL4 for (u32 i = 0; i < D; i++) {
        const float s = g * own[32 * i];
        own[32 * i] = s;
        d = d + s * k[i];
      }
    }
    for (u32 t = 0; t + 1 < rows; t++) {
      // The next row's state and sums are made in the same pass as this one's output.
      if (t % 32 == 0) gates_from(t + 32);
      if (t + 2 < rows) {
        ask_row(t + 2);
        copies_there<1>();
      } else {
        copies_there<0>();
      }
      const float next_v = load(v_at + (u64)(t + 1) * I.x_stride);
      sync_warp();
      const float delta = gates[t % DELTA_GATES] * (v - d), g = gates[DELTA_GATES + (t + 1) % DELTA_GATES];
      const float* const q = vectors + t % 3 * 2 * D;
      const float* const k = q + D;
      const float* const next_k = vectors + (t + 1) % 3 * 2 * D + D;
      float o = 0.0f;
      d = 0.0f;
      auto one = [&](float& s, float kk, float qq, float nn) {
        const float updated = s + kk * delta;
        o = o + updated * qq;
        s = g * updated;
        d = d + s * nn;
      };
      u32 i = 0;
      // Keys a few at a time, the next ones loaded before these are stored.
      constexpr u32 KEYS = DELTA_KEYS;
      struct Some {
        float s[KEYS];
        Floats k[KEYS / 4], q[KEYS / 4], n[KEYS / 4];
      };
      auto get = [&](Some& a, u32 from) {
        UNROLL for (u32 e = 0; e < KEYS / 4; e++) {
          a.k[e] = *(const Floats*)(k + from + 4 * e);
          a.q[e] = *(const Floats*)(q + from + 4 * e);
          a.n[e] = *(const Floats*)(next_k + from + 4 * e);
        }
        UNROLL for (u32 e = 0; e < KEYS; e++) a.s[e] = own[32 * (from + e)];
      };
      if (D % KEYS == 0) {
        Some a;
        get(a, 0);
        ROLLED for (; i < D; i += KEYS) {
          Some b;
          get(b, i + KEYS < D ? i + KEYS : i);
          UNROLL for (u32 e = 0; e < KEYS / 4; e++) {
            one(a.s[4 * e], a.k[e].x, a.q[e].x, a.n[e].x);
            one(a.s[4 * e + 1], a.k[e].y, a.q[e].y, a.n[e].y);
            one(a.s[4 * e + 2], a.k[e].z, a.q[e].z, a.n[e].z);
            one(a.s[4 * e + 3], a.k[e].w, a.q[e].w, a.n[e].w);
          }
          UNROLL for (u32 e = 0; e < KEYS; e++) own[32 * (i + e)] = a.s[e];
          a = b;
        }
      }
      for (; i < D; i++) {
        float s = own[32 * i];
        one(s, k[i], q[i], next_k[i]);
        own[32 * i] = s;
      }
      if (c < D) ((float*)I.out)[(u64)(it.run.from + t) * I.out_stride + h * D + c] = o;
      v = next_v;
      // Nobody writes what another lane still reads.
      sync_warp();
    }
    const u32 last = rows - 1;
    const float delta = gates[last % DELTA_GATES] * (v - d);
    const float* const q = vectors + last % 3 * 2 * D;
    float* const state = (float*)it.state + lane;
    float o = 0.0f;
    UNROLL4 for (u32 i = 0; i < D; i++) {
      const float updated = own[32 * i] + q[D + i] * delta;
      state[32 * i] = updated;
      o = o + updated * q[i];
    }
    if (c < D) ((float*)I.out)[(u64)(it.run.from + last) * I.out_stride + h * D + c] = o;
    sync_warp();
  }
}

/** Elements of a quarter of a head of 128, and from quarter to quarter in shared memory; floats of a row's q and k there. */
constexpr u32 QUARTER = 32, QUARTER_STRIDE = QUARTER + 4, QUARTER_ROW = 8 * QUARTER_STRIDE;

/**
 * Several rows, heads of 128: four lanes have a column of the state, in registers, 32 keys each, the last quarter in the first lane.
 * A sum over the keys goes from lane to lane: all lanes add, and after as many turns as quarters the first has the right sum.
 */
APART void delta_quarters(const Instruction& I, const Input& in) {
  constexpr u32 D = 4 * QUARTER;
  const u32 lane = thread() & 31, quarter = 3 - (lane & 3), each = I.heads * (D / 8), items = in.sequences * each;
  float* const vectors = (float*)pool() + thread() / 32 * (3 * QUARTER_ROW + 2 * DELTA_GATES);
  float* const gates = vectors + 3 * QUARTER_ROW;
  for (u32 item = block() + blocks() * (thread() / 32); item < items; item += blocks() * WARPS) {
    const Run run = run_of(in, item / each);
    const u32 h = item % each / (D / 8), c = item % (D / 8) * 8 + lane / 4, rows = run.to - run.from;
    const u32 key = I.type ? h / (I.heads / I.key_heads) : h % I.key_heads, x_stride = I.x_stride;
    const float* const x = (const float*)I.x + (u64)run.from * x_stride;
    const float* const v_at = x + (2 * I.key_heads + h) * D + c;
    float* const state = (float*)(run.states + I.scratch) + ((u64)(h * 4 + c / 32) * D + quarter * QUARTER) * 32 + c % 32;
    float* const out = (float*)I.out + (u64)run.from * I.out_stride + h * D + c;
    const u32 out_stride = I.out_stride;
    const float decay = ((const float*)I.weight)[h], bias = ((const float*)I.weight2)[h];
    const float *const q_at = x + key * D + 4 * lane, *const k_at = q_at + I.key_heads * D;
    const u32 place = lane / 8 * QUARTER_STRIDE + lane % 8 * 4;
    auto ask_row = [&](u32 t) {
      float* const to = vectors + t % 3 * QUARTER_ROW + place;
      copy_ahead(to, q_at + (u64)t * x_stride);
      copy_ahead(to + 4 * QUARTER_STRIDE, k_at + (u64)t * x_stride);
      copies_asked();
    };
    auto gates_from = [&](u32 t) { make_gates(I, run, rows, h, t, lane, decay, bias, gates); };
    auto sums = [&](const float (&a)[QUARTER], const float (&b)[QUARTER], float& of_a, float& of_b) {
      of_a = of_b = 0.0f;
      ROLLED for (u32 turn = 0; turn < 4; turn++) {
        if (turn > 0) {
          of_a = shuffle_down(of_a, 1);
          of_b = shuffle_down(of_b, 1);
        }
        UNROLL for (u32 e = 0; e < QUARTER; e++) {
          of_a = of_a + a[e];
          of_b = of_b + b[e];
        }
      }
    };
    /** The first lane's of four, to all of them. */
    auto to_all = [&](float v) {
      const float one = from_bits((u32)shuffle_xor((i32)bits(v), 1));
      v = lane & 1 ? one : v;
      const float two = from_bits((u32)shuffle_xor((i32)bits(v), 2));
      return lane & 2 ? two : v;
    };
    ask_row(0);
    if (rows > 1) ask_row(1);
    float S[QUARTER], p[QUARTER], n[QUARTER], d, o;
    UNROLL for (u32 e = 0; e < QUARTER; e++) S[e] = run.fresh ? 0.0f : load(state + 32 * e);
    float v = load(v_at);
    gates_from(0);
    if (rows > 1) copies_there<1>();
    else copies_there<0>();
    sync_warp();
    {
      const float g = gates[DELTA_GATES];
      const float* const k = vectors + (4 + quarter) * QUARTER_STRIDE;
      UNROLL for (u32 e = 0; e < QUARTER; e++) {
        S[e] = g * S[e];
        n[e] = S[e] * k[e];
      }
    }
    sums(n, n, o, d);
    d = to_all(d);
    for (u32 t = 0; t + 1 < rows; t++) {
      // The next row's state and sums are made in the same pass as this one's output.
      if (t % 32 == 0) gates_from(t + 32);
      if (t + 2 < rows) {
        ask_row(t + 2);
        copies_there<1>();
      } else {
        copies_there<0>();
      }
      const float next_v = load(v_at + (u64)(t + 1) * x_stride);
      sync_warp();
      const float delta = gates[t % DELTA_GATES] * (v - d), g = gates[DELTA_GATES + (t + 1) % DELTA_GATES];
      const Floats* const q = (const Floats*)(vectors + t % 3 * QUARTER_ROW + quarter * QUARTER_STRIDE);
      const Floats* const k = q + QUARTER_STRIDE;
      const Floats* const next_k = (const Floats*)(vectors + (t + 1) % 3 * QUARTER_ROW + (4 + quarter) * QUARTER_STRIDE);
      UNROLL for (u32 e = 0; e < QUARTER; e += 4) {
        const Floats kk = k[e / 4], qq = q[e / 4], nn = next_k[e / 4];
        auto one = [&](u32 i, float of_k, float of_q, float of_n) {
          const float updated = S[i] + of_k * delta;
          p[i] = updated * of_q;
          S[i] = g * updated;
          n[i] = S[i] * of_n;
        };
        one(e, kk.x, qq.x, nn.x);
        one(e + 1, kk.y, qq.y, nn.y);
        one(e + 2, kk.z, qq.z, nn.z);
        one(e + 3, kk.w, qq.w, nn.w);
      }
      sums(p, n, o, d);
      d = to_all(d);
      if ((lane & 3) == 0) out[(u64)t * out_stride] = o;
      v = next_v;
      // Nobody writes what another lane still reads.
      sync_warp();
    }
    const u32 last = rows - 1;
    const float delta = gates[last % DELTA_GATES] * (v - d);
    const float* const q = vectors + last % 3 * QUARTER_ROW + quarter * QUARTER_STRIDE;
    UNROLL for (u32 e = 0; e < QUARTER; e++) {
      const float updated = S[e] + q[4 * QUARTER_STRIDE + e] * delta;
      state[32 * e] = updated;
      p[e] = updated * q[e];
    }
    sums(p, p, o, d);
    if ((lane & 3) == 0) out[(u64)last * out_stride] = o;
    sync_warp();
  }
}

DEVICE void run_delta(const Instruction& I, const Input& in) {
  if (in.tokens == in.sequences) delta_one(I, in);
  else if (I.head_dim == 4 * QUARTER) delta_quarters(I, in);
  else delta_rows(I, in);
}

// ---- experts

/** A warp a token: `width` logits, the `choices` largest, their shares. */
APART void run_route(const Instruction& I) {
  const u32 E = I.width, K = I.choices, lane = thread() & 31;
  u32* const keys = (u32*)pool() + thread() / 32 * (E + K);
  float* const e = (float*)keys;
  u32* const chosen = keys + E;
  for (u32 t = block() + blocks() * (thread() / 32); t < I.rows; t += blocks() * WARPS) {
    const float* const x = (const float*)I.x + (u64)t * I.x_stride;
    u32 most = 0;
    for (u32 i = lane; i < E; i += 32) {
      const float v = load(x + i);
      const u32 b = bits(v) & 0x7fffffff;
      most = b > most ? b : most;
      // -0 is as large as 0.
      const u32 w = bits(v + 0.0f);
      keys[i] = w >> 31 ? ~w : w | 0x80000000u;
    }
    if (warp_max(most) >= 0x7f800000 && lane == 0) ((u32*)I.failed)[I.status] = 1;
    sync_warp();
    for (u32 k = 0; k < K; k++) {
      u32 best = 0, at = E - 1;
      for (u32 i = lane; i < E; i += 32) {
        if (keys[i] > best) best = keys[i], at = i;
      }
      const u32 largest = warp_max(best);
      u32 id = ~warp_max(best == largest ? ~at : 0);
      // Of NaNs anything may come, but no expert that is not there.
      id = id < E ? id : E - 1;
      if (lane == 0) {
        ((u32*)I.out)[(u64)t * K + k] = id;
        chosen[k] = id;
      }
      sync_warp();
      if (id % 32 == lane) keys[id] = 0;
      sync_warp();
    }
    const float largest = load(x + chosen[0]);
    for (u32 i = lane; i < E; i += 32) e[i] = exp_f32(load(x + i) - largest);
    sync_warp();
    float total = 0.0f;
    for (u32 i = lane & 15; i < E; i += 16) total = total + e[i];
    total = fold(total);
    total = from_bits((u32)broadcast16((i32)bits(total)));
    float sum = 0.0f;
    for (u32 k = 0; k < K; k++) sum = sum + divide(e[chosen[k]], total);
    const float divisor = sum > I.limit ? sum : I.limit;
    for (u32 k = lane; k < K; k += 32) ((float*)I.y)[(u64)t * K + k] = divide(divide(e[chosen[k]], total), divisor);
    sync_warp();
  }
}

/** Choices of a tile of an expert: the columns of a product of the tensor cores. */
constexpr u32 EXPERT_TILE = 8;
/** Tiles of all experts, and choices sorted by expert. */
struct Sorted {
  const u32 *tiles, *order;
};
DEVICE Sorted sorted_of(u64 memory, u32 n, u32 experts) {
  const u32* p = (const u32*)memory;
  return {p, p + 4 + 3 * (experts + n / EXPERT_TILE)};
}

/** Choices by expert, cut into tiles (expert, first of `order`, how many): one block. */
APART void run_sort(const Instruction& I) {
  if (block() != 0) return;
  const u32 n = I.rows * I.choices, E = I.heads, tid = thread();
  const u32* const experts = (const u32*)I.x;
  i32* const counts = (i32*)pool();
  u32* const next = (u32*)(counts + E);
  u32* const tiles = (u32*)I.out;
  u32* const order = (u32*)sorted_of(I.out, n, E).order;
  for (u32 e = tid; e < E; e += THREADS) counts[e] = 0;
  sync();
  for (u32 i = tid; i < n; i += THREADS) add_shared(counts + load(experts + i), 1);
  sync();
  for (u32 e = tid; e < E; e += THREADS) {
    u32 from = 0, tile = 0;
    for (u32 k = 0; k < e; k++) {
      from += (u32)counts[k];
      tile += ((u32)counts[k] + EXPERT_TILE - 1) / EXPERT_TILE;
    }
    next[e] = from;
    const u32 count = (u32)counts[e];
    for (u32 at = 0; at < count; at += EXPERT_TILE, tile++) {
      tiles[4 + 3 * tile] = e;
      tiles[4 + 3 * tile + 1] = from + at;
      tiles[4 + 3 * tile + 2] = count - at < EXPERT_TILE ? count - at : EXPERT_TILE;
    }
    if (e + 1 == E) tiles[0] = tile;
  }
  sync();
  for (u32 i = tid; i < n; i += THREADS) order[add_global(next + load(experts + i), 1)] = i;
}

/** The matrix of an expert. */
struct Panel {
  const char* w;
  u64 scales;
};
DEVICE Panel panel_of(const Instruction& I, const Matrix& m, u32 expert, u32 panel) {
  const u64 bytes = (u64)((I.width + 3) / 4) * 64;
  return {(const char*)m.w + (u64)expert * m.stride + panel * bytes, ((u64)expert * m.tiles + panel) * (I.width / I.group) * 64};
}
/** Row of codes of a choice. */
DEVICE const char* codes_of(const Instruction& I, u32 choice) {
  return (const char*)I.codes + (u64)(I.kv_heads ? choice : choice / I.choices) * I.splits;
}
DEVICE float scale_of(const Instruction& I, u32 choice) {
  return load((const float*)I.scales + 2 * (I.kv_heads ? choice : choice / I.choices));
}

/** Vectors of weights of up to 128 columns of a panel: 32 columns are 512 bytes. */
struct Weights {
  u64 a[4][2];
};
DEVICE void get_weights(Weights& w, const char* from, u32 steps) {
  const u32 lane = thread() & 31;
  from += (lane & 3) * 64 + lane / 4 * 8;
  UNROLL for (u32 k = 0; k < 4; k++) {
    w.a[k][0] = w.a[k][1] = 0;
    if (k < steps) {
      w.a[k][0] = stream8(from + k * 512);
      w.a[k][1] = stream8(from + k * 512 + 256);
    }
  }
}
/** Adds up to 128 columns: 256 hi + lo of 64 rows and 8 rows of codes; `b`: this lane's place in the hi plane, `plane` behind it lo. */
template <bool STAGED> DEVICE void add_columns(i32 (&sum)[4][4], const Weights& w, const char* b, u32 plane, u32 steps) {
  i32 acc[4][4];
  UNROLL for (u32 f = 0; f < 4; f++) {
    UNROLL for (u32 e = 0; e < 4; e++) acc[f][e] = 0;
  }
  // 256 times a field of up to 192 times 127 times 128 columns is below 2^30.
  UNROLL for (u32 half = 0; half < 2; half++) {
    UNROLL for (u32 k = 0; k < 4; k++) {
      if (k < steps) {
        const u32* const at = (const u32*)(b + half * plane + k * 32);
        const u32 b0 = STAGED ? at[0] : load(at), b1 = STAGED ? at[4] : load(at + 4);
        UNROLL for (u32 f = 0; f < 4; f++) {
          mma_u8(acc[f], (u32)w.a[k][0] & mask_of(f), (u32)(w.a[k][0] >> 32) & mask_of(f), (u32)w.a[k][1] & mask_of(f),
                 (u32)(w.a[k][1] >> 32) & mask_of(f), b0, b1);
        }
      }
    }
    if (half == 0) {
      UNROLL for (u32 f = 0; f < 4; f++) {
        UNROLL for (u32 e = 0; e < 4; e++) acc[f][e] = (i32)((u32)acc[f][e] << 8);
      }
    }
  }
  UNROLL for (u32 f = 0; f < 4; f++) {
    UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] += acc[f][e] >> (2 * f);
  }
}

/** Few tokens: a block has a choice and a panel (or several, where groups are few), a warp a group. */
APART void experts_few(const Instruction& I) {
  const u32 tid = thread(), lane = tid & 31, warp = tid / 32, g = lane / 4, piece = lane & 3;
  const u32 groups = I.width / I.group, chunks = (I.group + 127) / 128, each = I.ending == GATE ? 2 : 1;
  // No more panels than there are threads for their rows.
  const u32 slots = groups < WARPS ? groups : WARPS, at_once = WARPS / slots < THREADS / 64 ? WARPS / slots : THREADS / 64;
  const u32 panels = I.items, sets = (panels + at_once - 1) / at_once, slices = (groups + WARPS - 1) / WARPS;
  float* const parts = (float*)pool();
  u32 parity = 0;
  for (u32 item = block(); item < I.rows * sets; item += blocks()) {
    const u32 choice = item / sets, expert = load((const u32*)I.x + choice);
    const char* const codes = codes_of(I, choice);
    float total[2] = {0.0f, 0.0f};
    for (u32 sub = 0; sub < each; sub++) {
      u32 panel = item % sets * at_once + warp / slots;
      const bool there = warp / slots < at_once && panel < panels;
      const Matrix& m = I.m[each == 2 ? sub : there ? part_of(I, panel) : 0];
      const Panel p = panel_of(I, m, expert, there ? panel : 0);
      for (u32 slice = 0; slice < slices; slice++) {
        float* const part = parts + parity * WARPS * 64;
        parity ^= 1;
        const u32 group = slice * WARPS + warp % slots;
        if (there && group < groups) {
          i32 sum[4][4];
          UNROLL for (u32 f = 0; f < 4; f++) {
            UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] = 0;
          }
          for (u32 chunk = 0; chunk < chunks; chunk++) {
            const u32 left = I.group - chunk * 128, steps = (left < 128 ? left : 128) / 32;
            Weights w;
            get_weights(w, p.w + ((u64)group * I.group + chunk * 128) * 16, steps);
            add_columns<false>(sum, w, codes + group * I.group + chunk * 128 + piece * 4, I.code_stride, steps);
          }
          // Every column of the product is this one row of codes.
          if (piece == 0) {
            const i32 of_codes = load((const i32*)(codes + 2 * I.code_stride) + group);
            UNROLL for (u32 f = 0; f < 4; f++) {
              UNROLL for (u32 e = 0; e < 2; e++) {
                const u32 row = f * 16 + 2 * g + e;
                const float scale = group_scale((const void*)m.scales, m.half, p.scales + group * 64 + row);
                part[warp * 64 + row] = (float)(sum[f][2 * e] - of_codes) * scale;
              }
            }
          }
        }
        sync();
        if (tid < at_once * 64) {
          const u32 here = groups - slice * WARPS < WARPS ? groups - slice * WARPS : WARPS;
          float sum = total[sub];
          for (u32 k = 0; k < here; k++) sum = sum + part[(tid / 64 * slots + k) * 64 + tid % 64];
          total[sub] = sum;
        }
      }
    }
    u32 panel = item % sets * at_once + tid / 64;
    if (tid < at_once * 64 && panel < panels) {
      const Matrix& m = I.m[each == 2 ? 0 : part_of(I, panel)];
      const u32 row = panel * 64 + tid % 64;
      const float scale = scale_of(I, choice);
      if (row < m.rows) finish(I, m, choice, row, total[0] * scale, total[1] * scale);
    }
  }
}

/** Bytes of a row of codes in shared memory: rows 16 bytes further on in the banks. */
DEVICE u32 staged_codes(const Instruction& I) { return (2 * I.code_stride + 4 * (I.width / I.group) + 127) / 128 * 128 + 16; }

/** Many tokens: a block has a tile of an expert's choices and 16 panels, a warp one of them; a lane adds its groups itself. */
APART void experts_many(const Instruction& I) {
  const u32 tid = thread(), lane = tid & 31, g = lane / 4, piece = lane & 3;
  const u32 groups = I.width / I.group, chunks = (I.group + 127) / 128, panels = I.items, sets = (panels + WARPS - 1) / WARPS;
  const u32 row_bytes_ = staged_codes(I), words = (2 * I.code_stride + 4 * groups + 15) / 16;
  const Sorted sorted = sorted_of(I.counters, I.rows, I.heads);
  const u32 tiles = load(sorted.tiles);
  for (u32 item = block(); item < tiles * sets; item += blocks()) {
    const u32* const tile = sorted.tiles + 4 + 3 * (item / sets);
    const u32 expert = load(tile), first = load(tile + 1), count = load(tile + 2);
    for (u32 i = tid; i < EXPERT_TILE * words; i += THREADS) {
      const u32 token = i / words, at = i % words * 16;
      const u32 choice = load(sorted.order + first + (token < count ? token : count - 1));
      copy_ahead(pool() + token * row_bytes_ + at, codes_of(I, choice) + at);
    }
    copies_asked();
    u32 panel = item % sets * WARPS + tid / 32;
    const bool there = panel < panels;
    const Matrix& m = I.m[there ? part_of(I, panel) : 0];
    const Panel p = panel_of(I, m, expert, there ? panel : 0);
    const u32 first_steps = (I.group < 128 ? I.group : 128) / 32;
    // Asked for a chunk ahead.
    Weights next;
    if (there) get_weights(next, p.w, first_steps);
    copies_there<0>();
    sync();
    if (there) {
      float total[4][4];
      UNROLL for (u32 f = 0; f < 4; f++) {
        UNROLL for (u32 e = 0; e < 4; e++) total[f][e] = 0.0f;
      }
      const char* const b = pool() + g * row_bytes_ + piece * 4;
      const char* const sums = pool() + 2 * piece * row_bytes_ + 2 * I.code_stride;
      for (u32 group = 0; group < groups; group++) {
        i32 sum[4][4];
        UNROLL for (u32 f = 0; f < 4; f++) {
          UNROLL for (u32 e = 0; e < 4; e++) sum[f][e] = 0;
        }
        float scale[4][2];
        UNROLL for (u32 f = 0; f < 4; f++) {
          UNROLL for (u32 e = 0; e < 2; e++)
            scale[f][e] = group_scale((const void*)m.scales, m.half, p.scales + group * 64 + f * 16 + 2 * g + e);
        }
        for (u32 chunk = 0; chunk < chunks; chunk++) {
          const u32 left = I.group - chunk * 128, steps = (left < 128 ? left : 128) / 32;
          const Weights w = next;
          u32 column = group * I.group + chunk * 128;
          const char* const at = b + column;
          column += steps * 32;
          if (column < I.width) {
            const u32 behind = I.group - column % I.group;
            get_weights(next, p.w + (u64)column * 16, (behind < 128 ? behind : 128) / 32);
          }
          add_columns<true>(sum, w, at, I.code_stride, steps);
        }
        UNROLL for (u32 e = 0; e < 2; e++) {
          const i32 of_codes = ((const i32*)(sums + e * row_bytes_))[group];
          UNROLL for (u32 f = 0; f < 4; f++) {
            total[f][e] = total[f][e] + (float)(sum[f][e] - of_codes) * scale[f][0];
            total[f][2 + e] = total[f][2 + e] + (float)(sum[f][2 + e] - of_codes) * scale[f][1];
          }
        }
      }
      UNROLL for (u32 e = 0; e < 2; e++) {
        if (2 * piece + e < count) {
          const u32 choice = load(sorted.order + first + 2 * piece + e);
          const float by = scale_of(I, choice);
          UNROLL for (u32 f = 0; f < 4; f++) {
            UNROLL for (u32 k = 0; k < 2; k++) {
              const u32 row = panel * 64 + f * 16 + 2 * g + k;
              if (row < m.rows) finish(I, m, choice, row, total[f][2 * k + e] * by, 0.0f);
            }
          }
        }
      }
    }
    sync();
  }
}

/** Groups of any length, without tensor cores: a thread has a row of a choice. */
APART void experts_plain(const Instruction& I) {
  const u32 each = I.ending == GATE ? 2 : 1, groups = I.width / I.group;
  u32 rows = 0;
  for (u32 p = 0; p < (each == 2 ? 1 : I.parts); p++) rows += I.m[p].rows;
  for (u64 item = (u64)block() * THREADS + thread(); item < (u64)rows * I.rows; item += (u64)blocks() * THREADS) {
    const u32 choice = (u32)(item / rows), expert = load((const u32*)I.x + choice);
    u32 row = (u32)(item % rows), part = 0;
    if (each == 1) {
      while (row >= I.m[part].rows) row -= I.m[part++].rows;
    }
    const signed char* const hi = (const signed char*)codes_of(I, choice);
    float total[2] = {0.0f, 0.0f};
    for (u32 sub = 0; sub < each; sub++) {
      const Matrix& m = I.m[each == 2 ? sub : part];
      const Panel p = panel_of(I, m, expert, row / 64);
      const u32 in = row % 64;
      const unsigned char* const w = (const unsigned char*)p.w + 4 * (in & 15);
      for (u32 g = 0; g < groups; g++) {
        i32 sum = 0;
        for (u32 c = g * I.group; c < (g + 1) * I.group; c++) {
          const i32 code = 256 * load(hi + c) + (i32)load(hi + I.code_stride + c);
          sum += ((i32)(w[(u64)(c / 4) * 64 + (c & 3)] >> (2 * (in >> 4)) & 3) - 1) * code;
        }
        total[sub] = total[sub] + (float)sum * group_scale((const void*)m.scales, m.half, p.scales + g * 64 + in);
      }
    }
    const float scale = scale_of(I, choice);
    finish(I, I.m[each == 2 ? 0 : part], choice, row, total[0] * scale, total[1] * scale);
  }
}

/**
 * Products of choices (`rows` of them, `choices` a token) with their experts' (`x`) matrices; `kv_heads`: codes have a row for each
 * choice; `counters`: the choices as run_sort has left them, where tokens are many.
 */
DEVICE void run_experts(const Instruction& I) {
  if (I.group % 32 != 0) experts_plain(I);
  else if (I.counters) experts_many(I);
  else experts_few(I);
}

APART void run_add_experts(const Instruction& I) {
  const u32 parts = (I.width + THREADS - 1) / THREADS, K = I.choices;
  for (u32 item = block(); item < I.rows * parts; item += blocks()) {
    const u32 t = item / parts, i = item % parts * THREADS + thread();
    if (i >= I.width) continue;
    const float* const y = (const float*)I.y + (u64)t * K * I.width + i;
    const float* const weights = (const float*)I.weight + (u64)t * K;
    float sum = 0.0f;
    for (u32 k = 0; k < K; k++) sum = sum + load(weights + k) * load(y + (u64)k * I.width);
    float* const x = (float*)I.x + (u64)t * I.width + i;
    *x = load((const float*)x) + sum;
  }
}

// ---- dense matrices of few rows

/** laneSum of a row in shared memory, by one warp, both halves alike; in its first thread. */
DEVICE float sum_of_row(const float* xs, u32 width) {
  const u32 n = lane_length(width) / 4;
  const Floats* p = (const Floats*)(xs + (thread() & 15) * lane_stride(width));
  float s = 0.0f;
  UNROLL4 for (u32 i = 0; i < n; i++) {
    const Floats v = p[i];
    s = s + v.x;
    s = s + v.y;
    s = s + v.z;
    s = s + v.w;
  }
  return fold(s);
}

/** Few tokens: a block has two rows of a matrix; products by all threads, then a warp adds each row's. */
APART void dense_few(const Instruction& I) {
  const u32 n = I.width, stride = lane_stride(n), tid = thread();
  float* const xs = (float*)pool();
  float* const products = xs + 16 * stride;
  u32 all = 0;
  for (u32 p = 0; p < I.parts; p++) all += I.m[p].rows;
  const u32 pairs = (all + 1) / 2;
  for (u32 item = block(); item < pairs * I.rows; item += blocks()) {
    const u32 t = item / pairs;
    // Of a fused instruction there is one row, made once.
    if (I.fused && item == block()) make_row(I, t, xs, nullptr, block() == 0);
    const float* const x = (const float*)I.x + (u64)t * I.x_stride;
    const Matrix* m[2] = {nullptr, nullptr};
    u32 row[2] = {0, 0};
    UNROLL for (u32 k = 0; k < 2; k++) {
      u32 r = item % pairs * 2 + k, p = 0;
      if (r >= all) continue;
      while (r >= I.m[p].rows) r -= I.m[p++].rows;
      m[k] = &I.m[p];
      row[k] = r;
    }
    for (u32 base = tid; base < 16 * lane_length(n); base += AT_ONCE * THREADS) {
      float v[AT_ONCE], w[AT_ONCE][2];
      UNROLL for (u32 e = 0; e < AT_ONCE; e++) {
        const u32 i = base + e * THREADS;
        v[e] = i >= n || I.fused ? 0.0f : load(x + i);
        UNROLL for (u32 k = 0; k < 2; k++) w[e][k] = i < n && m[k] ? dense_element((const void*)m[k]->w, I.type, (u64)row[k] * n + i) : 0.0f;
      }
      UNROLL for (u32 e = 0; e < AT_ONCE; e++) {
        const u32 i = base + e * THREADS, place = lane_place(i, stride);
        if (i >= 16 * lane_length(n)) continue;
        if (I.fused) v[e] = xs[place];
        UNROLL for (u32 k = 0; k < 2; k++) products[k * 16 * stride + place] = i < n ? v[e] * w[e][k] : 0.0f;
      }
    }
    sync();
    const u32 mine = tid / 32;
    if (mine < 2) {
      const Matrix* const of = mine ? m[1] : m[0];
      const float sum = sum_of_row(products + mine * 16 * stride, n);
      if (of && (tid & 31) == 0) finish(I, *of, t, mine ? row[1] : row[0], sum, 0.0f);
    }
    sync();
  }
}

/** Tokens and rows of a block's tile, columns that are staged at once, and from row to row there. */
constexpr u32 DENSE_TOKENS = 16, DENSE_ROWS = 32, DENSE_COLUMNS = 128, DENSE_STRIDE = DENSE_COLUMNS + 4;

/** Many tokens: a thread has four of the 16 lanes of a token's sums with 4 rows. */
APART void dense_many(const Instruction& I) {
  const u32 n = I.width, tid = thread(), quad = tid & 3, rows_at = tid >> 2 & 7, tokens_at = tid >> 5;
  float* const xs = (float*)pool();
  float* const ws = xs + DENSE_TOKENS * DENSE_STRIDE;
  u32 tiles = 0;
  for (u32 p = 0; p < I.parts; p++) tiles += (I.m[p].rows + DENSE_ROWS - 1) / DENSE_ROWS;
  const u32 token_tiles = (I.rows + DENSE_TOKENS - 1) / DENSE_TOKENS;
  for (u32 item = block(); item < tiles * token_tiles; item += blocks()) {
    u32 tile = item % tiles, part = 0;
    while (tile >= (I.m[part].rows + DENSE_ROWS - 1) / DENSE_ROWS) tile -= (I.m[part++].rows + DENSE_ROWS - 1) / DENSE_ROWS;
    const Matrix& m = I.m[part];
    const u32 t0 = item / tiles * DENSE_TOKENS, r0 = tile * DENSE_ROWS;
    float s[4][4];
    UNROLL for (u32 b = 0; b < 4; b++) {
      UNROLL for (u32 l = 0; l < 4; l++) s[b][l] = 0.0f;
    }
    constexpr u32 X = DENSE_TOKENS * DENSE_COLUMNS / THREADS, W = DENSE_ROWS * DENSE_COLUMNS / THREADS;
    const u32 rows = I.rows, matrix_rows = m.rows, type = I.type;
    const float* const x_at = (const float*)I.x;
    const void* const w_at = (const void*)m.w;
    const u64 x_stride = I.x_stride;
    float x[X], w[W];
    auto ask = [&](u32 from) {
      UNROLL for (u32 k = 0; k < X; k++) {
        const u32 i = tid + k * THREADS, row = t0 + i / DENSE_COLUMNS, c = from + i % DENSE_COLUMNS;
        x[k] = row < rows && c < n ? load(x_at + row * x_stride + c) : 0.0f;
      }
      UNROLL for (u32 k = 0; k < W; k++) {
        const u32 i = tid + k * THREADS, row = r0 + i / DENSE_COLUMNS, c = from + i % DENSE_COLUMNS;
        w[k] = row < matrix_rows && c < n ? dense_element(w_at, type, (u64)row * n + c) : 0.0f;
      }
    };
    auto put = [&](float* to, u32 k, float v) {
      const u32 i = tid + k * THREADS;
      to[i / DENSE_COLUMNS * DENSE_STRIDE + i % DENSE_COLUMNS] = v;
    };
    ask(0);
    for (u32 from = 0; from < n; from += DENSE_COLUMNS) {
      UNROLL for (u32 k = 0; k < X; k++) put(xs, k, x[k]);
      UNROLL for (u32 k = 0; k < W; k++) put(ws, k, w[k]);
      sync();
      if (from + DENSE_COLUMNS < n) ask(from + DENSE_COLUMNS);
      UNROLL for (u32 c = 0; c < DENSE_COLUMNS; c += 16) {
        const Floats a = *(const Floats*)(xs + tokens_at * DENSE_STRIDE + c + 4 * quad);
        Floats b[4];
        UNROLL for (u32 k = 0; k < 4; k++) b[k] = *(const Floats*)(ws + (4 * rows_at + k) * DENSE_STRIDE + c + 4 * quad);
        UNROLL for (u32 k = 0; k < 4; k++) {
          s[k][0] = s[k][0] + a.x * b[k].x;
          s[k][1] = s[k][1] + a.y * b[k].y;
          s[k][2] = s[k][2] + a.z * b[k].z;
          s[k][3] = s[k][3] + a.w * b[k].w;
        }
      }
      sync();
    }
    // Lanes 8 to 15 are in quads 2 and 3.
    UNROLL for (u32 k = 0; k < 4; k++) {
      UNROLL for (u32 l = 0; l < 4; l++) {
        float v = s[k][l];
        v = v + from_bits((u32)shuffle_xor((i32)bits(v), 2));
        s[k][l] = v + from_bits((u32)shuffle_xor((i32)bits(v), 1));
      }
      const float sum = (s[k][0] + s[k][2]) + (s[k][1] + s[k][3]);
      const u32 t = t0 + tokens_at, row = r0 + 4 * rows_at + k;
      if (quad == 0 && t < rows && row < matrix_rows) finish(I, m, t, row, sum, 0.0f);
    }
  }
}

/** `splits`: many tokens. */
DEVICE void run_dense_small(const Instruction& I) {
  if (I.splits) dense_many(I);
  else dense_few(I);
}
