// Operations whose results equal the reference's bit for bit, for programs of group-scaled matrices: those are to give the
// same logits on every backend. Every float operation rounds once (no fused multiply-add, see common.metal), and every
// sum keeps the reference's order: a laneSum runs in 16 lanes, lane i adds elements i, i + 16, ... in order from +0, then
// the lanes are folded 8, 4, 2, 1. The folding is an exchange with xor: a + b = b + a, so every lane gets the same bits.

#define FOLD_LANES 16u

/** Folds 16 lanes; lanes 0..15 and 16..31 of a simdgroup on their own. */
METAL_FUNC float fold_lanes(float v) {
    v += simd_shuffle_xor(v, ushort(8));
    v += simd_shuffle_xor(v, ushort(4));
    v += simd_shuffle_xor(v, ushort(2));
    v += simd_shuffle_xor(v, ushort(1));
    return v;
}

/** The reference's exp: the same polynomial in multiply and add everywhere (src/engine/js/math.ts says why). */
METAL_FUNC float exp_f32(float x) {
    if (!(x <= 88.72283f)) { return x > 88.72283f ? as_type<float>(0x7f800000u) : x; }
    if (x < -87.33654f) { return 0.0f; }
    const float n = rint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    // n reaches 128, which is no exponent of a finite float: scaled in two steps.
    const int whole = int(n);
    const int part = whole >> 1;
    const float y = p * as_type<float>(uint(part + 127) << 23);
    return y * as_type<float>(uint(whole - part + 127) << 23);
}

METAL_FUNC float silu_f32(float g) { return g / (1.0f + exp_f32(-g)); }

METAL_FUNC float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// A NaN fails both comparisons and stays one, where min and max would drop it.
METAL_FUNC float at_most(float v, float limit) { return v > limit ? limit : v; }
METAL_FUNC float at_least(float v, float limit) { return v < limit ? limit : v; }

METAL_FUNC float clamped_silu_f32(float g, float u, float limit) {
    return silu_f32(at_most(g, limit)) * at_most(at_least(u, -limit), limit);
}

// ---- rotations

// Elements that threadgroup memory holds at a time; no block of a rotation is longer.
#define TILE_ELEMENTS 4096u

// The Walsh-Hadamard transform of every `block` (a power of two that divides `count`) elements of v[0 .. count), without its
// factor: strides 1, 2, 4, ..., two of them from barrier to barrier. All threads come here; a barrier stands at its end.
METAL_FUNC void butterflies(threadgroup float* v, uint count, uint block, Place p) {
    uint stride = 1u;
    for (; 4u * stride <= block; stride *= 4u) {
        for (uint i = p.thread_index; i < count / 4u; i += p.threads) {
            const uint inner = i & (stride - 1u);
            const uint at = 4u * (i - inner) + inner;
            const float v0 = v[at];
            const float v1 = v[at + stride];
            const float v2 = v[at + 2u * stride];
            const float v3 = v[at + 3u * stride];
            const float low_sum = v0 + v1;
            const float low_difference = v0 - v1;
            const float high_sum = v2 + v3;
            const float high_difference = v2 - v3;
            v[at] = low_sum + high_sum;
            v[at + stride] = low_difference + high_difference;
            v[at + 2u * stride] = low_sum - high_sum;
            v[at + 3u * stride] = low_difference - high_difference;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (stride < block) {
        for (uint i = p.thread_index; i < count / 2u; i += p.threads) {
            const uint inner = i & (stride - 1u);
            const uint at = 2u * (i - inner) + inner;
            const float low = v[at];
            const float high = v[at + stride];
            v[at] = low + high;
            v[at + stride] = low - high;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// ---- rows

#define FROM_X 0u
#define FROM_SUM 1u
#define FROM_RELU2 2u
#define FROM_SILU 3u
#define FROM_SIGMOID 4u
#define FROM_CLAMPED_SILU 5u
#define FROM_EXPERTS 6u

struct ChainArgs {
    uint stride4;     // float4 elements of a row of x, y, out, weight, signs and codes
    float width;      // elements that count in the mean
    float eps;
    uint source;      // FROM_*: what the row is made of
    float limit;      // of FROM_CLAMPED_SILU
    uint choices;     // of FROM_EXPERTS: rows of y for one of x,
    uint mix_stride;  // and elements of a row of their weights
    uint norm;        // then RMSNorm
    uint keep;        // then store the row to `out`
    uint block;       // then rotate blocks of so many elements; 0: do not
    float factor;     // of the rotation
    uint head4;       // rotated heads move: float4 elements of a head; 0: they stay
    uint key_heads;
    uint repeats;
    uint quantize;    // then round to int16
    uint status_at;   // of this operation's first row in `status`
};

/** Where the vector that a rotation takes at place i lies in the row: heads stand [repeat][key head], their places [key head][repeat]. */
METAL_FUNC uint chain_from(uint i, constant ChainArgs& a) {
    if (a.head4 == 0u) { return i; }
    const uint place = i / a.head4;
    return ((place % a.repeats) * a.key_heads + place / a.repeats) * a.head4 + i % a.head4;
}

/** Vector i of row `row`; sums are stored where x was. */
METAL_FUNC float4 chain_vector(
    device float4* x, device const float4* y, device const float* mix, uint row, uint i, constant ChainArgs& a)
{
    const uint at = row * a.stride4 + i;
    const float4 g = x[at];
    if (a.source == FROM_X) { return g; }
    if (a.source == FROM_EXPERTS) {
        float4 sum = float4(0.0f);
        for (uint n = 0u; n < a.choices; ++n) {
            const float share = mix[row * a.mix_stride + n];
            const float4 part = y[(row * a.choices + n) * a.stride4 + i];
            sum = sum + part * share;
        }
        const float4 all = g + sum;
        x[at] = all;
        return all;
    }
    const float4 u = y[at];
    if (a.source == FROM_SUM) {
        const float4 sum = g + u;
        x[at] = sum;
        return sum;
    }
    if (a.source == FROM_RELU2) { return float4(relu2(g.x), relu2(g.y), relu2(g.z), relu2(g.w)) * u; }
    if (a.source == FROM_SILU) { return float4(silu_f32(g.x), silu_f32(g.y), silu_f32(g.z), silu_f32(g.w)) * u; }
    if (a.source == FROM_SIGMOID) {
        return float4(sigmoid_f32(g.x), sigmoid_f32(g.y), sigmoid_f32(g.z), sigmoid_f32(g.w)) * u;
    }
    return float4(
        clamped_silu_f32(g.x, u.x, a.limit), clamped_silu_f32(g.y, u.y, a.limit), clamped_silu_f32(g.z, u.z, a.limit),
        clamped_silu_f32(g.w, u.w, a.limit));
}

/** laneSum of squares of a row held in slices: slice by slice through threadgroup memory, lane i of the first simdgroup adds. */
METAL_FUNC float sum_of_squares(
    thread const float4* v, uint stride4, threadgroup float* squares, threadgroup float* result, Place p)
{
    float sum = 0.0f;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint first = k * p.threads;
        if (first < stride4) {
            const uint i = first + p.thread_index;
            if (i < stride4) {
                const uint at = 4u * p.thread_index;
                squares[at] = v[k].x * v[k].x;
                squares[at + 1u] = v[k].y * v[k].y;
                squares[at + 2u] = v[k].z * v[k].z;
                squares[at + 3u] = v[k].w * v[k].w;
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (p.thread_index < FOLD_LANES) {
                // Zeros past the row's end change no sum of squares.
                const uint count = 4u * min(p.threads, stride4 - first);
                for (uint e = p.thread_index; e < count; e += FOLD_LANES) {
                    const float square = squares[e];
                    sum += square;
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
    if (p.simdgroup_index == 0u) {
        sum = fold_lanes(sum);
        if (p.lane == 0u) { result[0] = sum; }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return result[0];
}

/** v = H(signs * v), as many blocks at a time as the tile holds. */
METAL_FUNC void rotate_row(
    thread float4* v, device const float4* signs, threadgroup float* tile, constant ChainArgs& a, Place p)
{
    for (uint first = 0u; first < a.stride4; first += TILE_ELEMENTS / 4u) {
        const uint end = min(first + TILE_ELEMENTS / 4u, a.stride4);
        MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
            const uint i = p.thread_index + k * p.threads;
            if (i >= first && i < end) {
                const float4 sign = signs[i];
                const float4 signed_v = v[k] * sign;
                const uint at = 4u * (i - first);
                tile[at] = signed_v.x;
                tile[at + 1u] = signed_v.y;
                tile[at + 2u] = signed_v.z;
                tile[at + 3u] = signed_v.w;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        butterflies(tile, min(TILE_ELEMENTS, uint(a.width) - 4u * first), a.block, p);
        MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
            const uint i = p.thread_index + k * p.threads;
            if (i >= first && i < end) {
                const uint at = 4u * (i - first);
                const float e0 = tile[at];
                const float e1 = tile[at + 1u];
                const float e2 = tile[at + 2u];
                const float e3 = tile[at + 3u];
                v[k] = float4(e0, e1, e2, e3) * a.factor;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

METAL_FUNC short code16(float v, float s) { return short(clamp(rint(v * s), -32639.0f, 32639.0f)); }

// [x | x += y | x += sum of experts | a gate(x) * y], then [RMSNorm], then [store], then [rotate], then [round to int16]:
// whatever stands between two matrix products, one threadgroup per row. codes = clamp(rint(v * s), -32639, 32639),
// s = 32639 / max |v|, scales[row] = max |v| / 32639; a row without a finite s gets zeros.
kernel void chain_rows(
    device float4*       x      [[buffer(0)]],
    device const float4* y      [[buffer(1)]],
    device const float*  mix    [[buffer(2)]],
    device const float4* weight [[buffer(3)]],
    device const float4* signs  [[buffer(4)]],
    device float4*       out    [[buffer(5)]],
    device short4*       codes  [[buffer(6)]],
    device float*        scales [[buffer(7)]],
    device uint*         status [[buffer(8)]],
    constant ChainArgs&  a      [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, tile, 4096);  // squares of what 1024 threads hold in one slice; then blocks to rotate
    THREADGROUP_ARRAY(float, sum, 1);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint from = group.x * a.stride4;
    float4 v[ROW_SLICES];
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        v[k] = float4(0.0f);
        if (i < a.stride4) { v[k] = chain_vector(x, y, mix, group.x, chain_from(i, a), a); }
    }
    if (a.norm != 0u) {
        const float r = 1.0f / sqrt(sum_of_squares(v, a.stride4, tile, sum, p) / a.width + a.eps);
        MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
            const uint i = p.thread_index + k * p.threads;
            if (i < a.stride4) {
                const float4 w = weight[i];
                v[k] = (v[k] * r) * w;
            }
        }
    }
    if (a.keep != 0u) {
        MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
            const uint i = p.thread_index + k * p.threads;
            if (i < a.stride4) { out[from + chain_from(i, a)] = v[k]; }
        }
    }
    if (a.quantize == 0u) { return; }
    if (a.block != 0u) { rotate_row(v, signs, tile, a, p); }
    uint bits = 0u;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) { bits = max(bits, magnitude_bits(v[k])); }
    bits = threadgroup_max(bits, maxima, p);
    const float largest = as_type<float>(bits);
    const float s = 32639.0f / largest;
    const bool finite = bits < 0x7f800000u;
    const bool flat = !finite || as_type<uint>(s) >= 0x7f800000u;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        if (i < a.stride4) {
            short4 q = short4(0, 0, 0, 0);
            if (!flat) { q = short4(code16(v[k].x, s), code16(v[k].y, s), code16(v[k].z, s), code16(v[k].w, s)); }
            codes[from + i] = q;
        }
    }
    if (p.thread_index == 0u) {
        scales[group.x] = flat ? 0.0f : largest / 32639.0f;
        status[a.status_at + group.x] = finite ? 0u : 1u;
    }
}

// ---- heads

struct HeadsArgs {
    uint heads0;      // of the first buffer
    uint heads;       // of both
    uint head_dim;
    uint stride0;     // elements of a row of each buffer
    uint stride1;
    float eps;
};

// RMSNorm of every head of q and of k, each with its own weight; may be in place. 16 lanes take a head.
// grid: (heads, tokens).
kernel void norm_heads(
    device const float* x0      [[buffer(0)]],
    device const float* x1      [[buffer(1)]],
    device const float* weight0 [[buffer(2)]],
    device const float* weight1 [[buffer(3)]],
    device float*       out0    [[buffer(4)]],
    device float*       out1    [[buffer(5)]],
    constant HeadsArgs& a       [[buffer(6)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group.x * simdgroups * 2u + thread_index / FOLD_LANES;
    const uint i = thread_index % FOLD_LANES;
    const bool first = head < a.heads0;
    const bool there = head < a.heads;
    device const float* x = first ? x0 : x1;
    device float* out = first ? out0 : out1;
    device const float* weight = first ? weight0 : weight1;
    const uint at = first ? group.y * a.stride0 + head * a.head_dim
                          : group.y * a.stride1 + (head - a.heads0) * a.head_dim;
    float sum = 0.0f;
    if (there) {
        for (uint e = i; e < a.head_dim; e += FOLD_LANES) {
            const float v = x[at + e];
            sum += v * v;
        }
    }
    sum = fold_lanes(sum);
    const float r = 1.0f / sqrt(sum / float(a.head_dim) + a.eps);
    if (there) {
        for (uint e = i; e < a.head_dim; e += FOLD_LANES) {
            const float v = x[at + e];
            const float w = weight[e];
            out[at + e] = (v * r) * w;
        }
    }
}

// ---- attention

struct ExactAttentionArgs {
    uint group_heads;   // query heads of a kv head
    float scale;
    uint q_stride;
    uint out_stride;
    uint held;          // positions whose scores are held at a time: 2048 at most, whole blocks
    uint window;        // positions that a row sees, its own included; 0: all of them
    uint splits;        // of the longest row of the step, SPLIT_POSITIONS each; 1 in attention_exact
};

// Positions whose exponentials and values are summed before they join the rest: absolute ones, 0 .. 63, 64 .. 127, ...
#define ATTENTION_BLOCK 64u
// Elements of q per lane: 256 / 16.
#define EXACT_SLICES 16u
#define MINUS_INFINITY as_type<float>(0xff800000u)

// Positions of a threadgroup where a row is shared out: attention_exact_scores, _blocks, _join.
#define SPLIT_POSITIONS 256u
#define SPLIT_BLOCKS 4u
// Floats of a split in `stats`: its largest score, then the sums of its blocks' exponentials.
#define SPLIT_STATS 8u

/** Scores of positions first .. end - 1 into scores[position - base]; returns the largest that this thread's 16 lanes saw. */
METAL_FUNC float exact_scores(
    thread const float* q, device const float* cache, device const uint* table, uint2 place, uint kv_head, uint base,
    uint first, uint end, constant ExactAttentionArgs& a, constant CacheArgs& c, threadgroup float* scores, Place p)
{
    const uint i = p.lane % FOLD_LANES;
    float largest = MINUS_INFINITY;
    // All lanes of a simdgroup make the same number of turns: two keys each.
    for (uint pair = first + 2u * p.simdgroup_index; pair < end; pair += 2u * p.simdgroups) {
        const uint position = pair + p.lane / FOLD_LANES;
        float sum = 0.0f;
        if (position < end) {
            const uint at = cache_at(table, place, position, kv_head, c);
            MSL_UNROLL for (uint n = 0u; n < EXACT_SLICES; ++n) {
                const uint e = i + n * FOLD_LANES;
                if (e < c.head_dim) {
                    const float key = cache[at + e];
                    sum += q[n] * key;
                }
            }
        }
        const float score = fold_lanes(sum) * a.scale;
        if (position < end) {
            largest = max(largest, score);
            if (i == 0u) { scores[position - base] = score; }
        }
    }
    return largest;
}

// One threadgroup per query head and token: the largest score, then exp; of each block the laneSum of its exponentials and
// its weighted values, one position after the other; then the blocks in order. As many blocks side by side as there are
// threads for, one per dimension. The scores of a context longer than `held` are computed twice rather than kept.
kernel void attention_exact(
    device const float*  q       [[buffer(0)]],
    device const float*  cache   [[buffer(1)]],
    device const uint2*  places  [[buffer(2)]],
    device const uint*   table   [[buffer(3)]],
    device float*        out     [[buffer(4)]],
    constant ExactAttentionArgs& a [[buffer(5)]],
    constant CacheArgs&  c       [[buffer(6)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, scores, 2048);
    THREADGROUP_ARRAY(float, maxima, 32);
    THREADGROUP_ARRAY(float, sums, 32);     // of a block's exponentials each
    THREADGROUP_ARRAY(float, parts, 1024);  // [block][dimension]: weighted values
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint head = group.x;
    const uint token = group.y;
    const uint kv_head = head / a.group_heads;
    const uint2 place = places[token];
    const uint count = place.x + 1u;
    const uint seen = first_seen(count, a.window);
    // Chunks begin with a block.
    const uint chunks_from = seen - seen % ATTENTION_BLOCK;
    const uint i = lane % FOLD_LANES;
    float mine[EXACT_SLICES];
    MSL_UNROLL for (uint n = 0u; n < EXACT_SLICES; ++n) {
        const uint e = i + n * FOLD_LANES;
        mine[n] = 0.0f;
        if (e < c.head_dim) { mine[n] = q[token * a.q_stride + head * c.head_dim + e]; }
    }

    float largest = MINUS_INFINITY;
    for (uint base = chunks_from; base < count; base += a.held) {
        const uint end = min(base + a.held, count);
        if (base > chunks_from) { threadgroup_barrier(mem_flags::mem_threadgroup); }
        const float found =
            exact_scores(mine, cache, table, place, kv_head, base, max(base, seen), end, a, c, scores, p);
        largest = max(largest, found);
    }
    largest = simd_max(largest);
    if (lane == 0u) { maxima[simdgroup_index] = largest; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float part = MINUS_INFINITY;
    if (lane < simdgroups) { part = maxima[lane]; }
    largest = simd_max(part);

    float total = 0.0f;
    float values = 0.0f;
    const uint v_at = c.kv_heads * KV_BLOCK * c.head_stride;
    const uint slots = p.threads / c.head_dim;
    const uint slot = thread_index / c.head_dim;
    const uint d = thread_index % c.head_dim;
    for (uint base = chunks_from; base < count; base += a.held) {
        const uint end = min(base + a.held, count);
        const uint first = max(base, seen);
        if (count - chunks_from > a.held) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            exact_scores(mine, cache, table, place, kv_head, base, first, end, a, c, scores, p);
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (uint position = first + thread_index; position < end; position += p.threads) {
            const float score = scores[position - base];
            scores[position - base] = exp_f32(score - largest);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint blocks = (end - base + ATTENTION_BLOCK - 1u) / ATTENTION_BLOCK;
        // Two blocks a simdgroup.
        for (uint pair = 2u * simdgroup_index; pair < blocks; pair += 2u * simdgroups) {
            const uint block = pair + lane / FOLD_LANES;
            float sum = 0.0f;
            if (block < blocks) {
                const uint start = max(base + block * ATTENTION_BLOCK, first);
                const uint stop = min(base + (block + 1u) * ATTENTION_BLOCK, end);
                for (uint position = start + i; position < stop; position += FOLD_LANES) {
                    const float e = scores[position - base];
                    sum += e;
                }
            }
            sum = fold_lanes(sum);
            if (block < blocks && i == 0u) { sums[block] = sum; }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint from = 0u; from < blocks; from += slots) {
            const uint block = from + slot;
            float weighted = 0.0f;
            if (slot < slots && block < blocks) {
                const uint start = max(base + block * ATTENTION_BLOCK, first);
                const uint stop = min(base + (block + 1u) * ATTENTION_BLOCK, end);
                for (uint position = start; position < stop; ++position) {
                    const float value = cache[cache_at(table, place, position, kv_head, c) + v_at + d];
                    const float e = scores[position - base];
                    weighted += e * value;
                }
            }
            if (slot < slots) { parts[thread_index] = weighted; }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (slot == 0u) {
                for (uint s = 0u; s < min(slots, blocks - from); ++s) {
                    const float of_block = parts[s * c.head_dim + d];
                    const float exponentials = sums[from + s];
                    values += of_block;
                    total += exponentials;
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
    if (slot == 0u) { out[token * a.out_stride + head * c.head_dim + d] = values / total; }
}

// The same in three dispatches, for a few rows over a long context, in which a threadgroup per head would leave most of a GPU
// idle: scores and their largest, split by split; the blocks of each split; the blocks in order. A row takes part in the
// splits that it sees.

// grid: (splits, heads, tokens).
kernel void attention_exact_scores(
    device const float*  q       [[buffer(0)]],
    device const float*  cache   [[buffer(1)]],
    device const uint2*  places  [[buffer(2)]],
    device const uint*   table   [[buffer(3)]],
    device float*        scores  [[buffer(4)]],
    device float*        stats   [[buffer(5)]],
    constant ExactAttentionArgs& a [[buffer(6)]],
    constant CacheArgs&  c       [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, found, 256);
    THREADGROUP_ARRAY(float, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint head = group.y;
    const uint2 place = places[group.z];
    const uint base = group.x * SPLIT_POSITIONS;
    const uint first = max(base, first_seen(place.x + 1u, a.window));
    const uint end = min(base + SPLIT_POSITIONS, place.x + 1u);
    if (first >= end) { return; }
    const uint heads = c.kv_heads * a.group_heads;
    const uint split = (group.z * heads + head) * a.splits + group.x;
    float mine[EXACT_SLICES];
    MSL_UNROLL for (uint n = 0u; n < EXACT_SLICES; ++n) {
        const uint e = lane % FOLD_LANES + n * FOLD_LANES;
        mine[n] = 0.0f;
        if (e < c.head_dim) { mine[n] = q[group.z * a.q_stride + head * c.head_dim + e]; }
    }
    float largest =
        exact_scores(mine, cache, table, place, head / a.group_heads, base, first, end, a, c, found, p);
    largest = simd_max(largest);
    if (lane == 0u) { maxima[simdgroup_index] = largest; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint position = first + thread_index; position < end; position += p.threads) {
        const float score = found[position - base];
        scores[split * SPLIT_POSITIONS + position - base] = score;
    }
    float part = MINUS_INFINITY;
    if (lane < simdgroups) { part = maxima[lane]; }
    largest = simd_max(part);
    if (thread_index == 0u) { stats[split * SPLIT_STATS] = largest; }
}

// grid: (splits, heads, tokens).
kernel void attention_exact_blocks(
    device const float*  scores  [[buffer(0)]],
    device float*        stats   [[buffer(1)]],
    device const float*  cache   [[buffer(2)]],
    device const uint2*  places  [[buffer(3)]],
    device const uint*   table   [[buffer(4)]],
    device float*        parts   [[buffer(5)]],
    constant ExactAttentionArgs& a [[buffer(6)]],
    constant CacheArgs&  c       [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, exponentials, 256);
    const uint threads = simdgroups * 32u;
    const uint head = group.y;
    const uint kv_head = head / a.group_heads;
    const uint2 place = places[group.z];
    const uint count = place.x + 1u;
    const uint seen = first_seen(count, a.window);
    const uint base = group.x * SPLIT_POSITIONS;
    const uint first = max(base, seen);
    const uint end = min(base + SPLIT_POSITIONS, count);
    if (first >= end) { return; }
    const uint heads = c.kv_heads * a.group_heads;
    const uint row = (group.z * heads + head) * a.splits;
    const uint split = row + group.x;
    // Every simdgroup finds the largest of all on its own.
    float largest = MINUS_INFINITY;
    for (uint s = seen / SPLIT_POSITIONS + lane; s * SPLIT_POSITIONS < count; s += 32u) {
        const float of_split = stats[(row + s) * SPLIT_STATS];
        largest = max(largest, of_split);
    }
    largest = simd_max(largest);
    for (uint position = first + thread_index; position < end; position += threads) {
        const float score = scores[split * SPLIT_POSITIONS + position - base];
        exponentials[position - base] = exp_f32(score - largest);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint blocks = (end - base + ATTENTION_BLOCK - 1u) / ATTENTION_BLOCK;
    for (uint pair = 2u * simdgroup_index; pair < blocks; pair += 2u * simdgroups) {
        const uint block = pair + lane / FOLD_LANES;
        float sum = 0.0f;
        if (block < blocks) {
            const uint start = max(base + block * ATTENTION_BLOCK, first);
            const uint stop = min(base + (block + 1u) * ATTENTION_BLOCK, end);
            for (uint position = start + lane % FOLD_LANES; position < stop; position += FOLD_LANES) {
                const float e = exponentials[position - base];
                sum += e;
            }
        }
        sum = fold_lanes(sum);
        if (block < blocks && lane % FOLD_LANES == 0u) { stats[split * SPLIT_STATS + 1u + block] = sum; }
    }
    const uint v_at = c.kv_heads * KV_BLOCK * c.head_stride;
    for (uint i = thread_index; i < blocks * c.head_dim; i += threads) {
        const uint block = i / c.head_dim;
        const uint d = i % c.head_dim;
        const uint start = max(base + block * ATTENTION_BLOCK, first);
        const uint stop = min(base + (block + 1u) * ATTENTION_BLOCK, end);
        float weighted = 0.0f;
        for (uint position = start; position < stop; ++position) {
            const float value = cache[cache_at(table, place, position, kv_head, c) + v_at + d];
            const float e = exponentials[position - base];
            weighted += e * value;
        }
        parts[split * SPLIT_BLOCKS * c.head_dim + i] = weighted;
    }
}

// A thread per dimension. grid: (heads, tokens).
kernel void attention_exact_join(
    device const float*  parts   [[buffer(0)]],
    device const float*  stats   [[buffer(1)]],
    device const uint2*  places  [[buffer(2)]],
    device float*        out     [[buffer(3)]],
    constant ExactAttentionArgs& a [[buffer(4)]],
    constant CacheArgs&  c       [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group.x;
    const uint heads = c.kv_heads * a.group_heads;
    const uint row = (group.y * heads + head) * a.splits;
    const uint2 place = places[group.y];
    const uint count = place.x + 1u;
    const uint from = first_seen(count, a.window) / ATTENTION_BLOCK;
    for (uint d = thread_index; d < c.head_dim; d += simdgroups * 32u) {
        float total = 0.0f;
        float values = 0.0f;
        // Block b is the one of this number in the row's parts: splits have whole blocks.
        for (uint b = from; b * ATTENTION_BLOCK < count; ++b) {
            const float of_block = parts[(row * SPLIT_BLOCKS + b) * c.head_dim + d];
            const float exponentials = stats[(row + b / SPLIT_BLOCKS) * SPLIT_STATS + 1u + b % SPLIT_BLOCKS];
            values += of_block;
            total += exponentials;
        }
        out[group.y * a.out_stride + head * c.head_dim + d] = values / total;
    }
}

// ---- a dense head

struct ExactDenseArgs {
    uint rows;
    uint columns;
    uint stride;      // elements of a matrix row
    uint type;        // DENSE_*
    uint x_stride;
    uint out_stride;
};

// out[t, r] = laneSum(x[t] * w[r]); 16 lanes take a row. grid: (rows, tokens).
kernel void dense_exact(
    device const uint*  w   [[buffer(0)]],
    device const float* x   [[buffer(1)]],
    device float*       out [[buffer(2)]],
    constant ExactDenseArgs& a [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint row = group.x * simdgroups * 2u + thread_index / FOLD_LANES;
    const uint i = thread_index % FOLD_LANES;
    float sum = 0.0f;
    if (row < a.rows) {
        for (uint c = i; c < a.columns; c += FOLD_LANES) {
            const uint at = row * a.stride + c;
            float v = 0.0f;
            if (a.type == DENSE_F32) {
                v = as_type<float>(w[at]);
            } else {
                const uint word = w[at / 2u];
                if (a.type == DENSE_F16) {
                    const half2 both = as_type<half2>(word);
                    v = at % 2u == 0u ? float(both.x) : float(both.y);
                } else {
                    v = as_type<float>(at % 2u == 0u ? word << 16 : word & 0xffff0000u);
                }
            }
            const float activation = x[group.y * a.x_stride + c];
            sum += activation * v;
        }
    }
    sum = fold_lanes(sum);
    if (row < a.rows && i == 0u) { out[group.y * a.out_stride + row] = sum; }
}
