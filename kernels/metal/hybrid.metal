// Operations of hybrid and mixture models, to the bit of the reference (src/engine/js/hybrid-ops.ts): rotations that stand
// alone, heads, recurrent states, routing. Sums keep the reference's order; see exact.metal.
//
// Recurrent states of all sequences are one buffer of slots, a slot per sequence: [state][its floats], `state_at` floats from
// the slot's start. `runs` has, for each sequence of the step, (its first row, the row past its last, its slot's first
// float, 0). Rows of a run are in the order of their positions, and a state is moved on row after row.

struct RotateArgs {
    uint width;
    uint stride;      // elements of a row of x and out
    uint block;       // elements that are transformed together: a power of two
    uint tile;        // elements of a threadgroup: whole blocks
    uint inverse;     // 1: out = signs * H(x); 0: out = H(signs * P(x))
    uint head_dim;    // P moves heads of so many elements; 0: it does not
    uint key_heads;
    uint repeats;
    float factor;
};

// May be in place where no heads move: a threadgroup reads its blocks before it writes them. grid: (tiles, rows).
kernel void hadamard_rows(
    device const float* x     [[buffer(0)]],
    device const float* signs [[buffer(1)]],
    device float*       out   [[buffer(2)]],
    constant RotateArgs& a    [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, tile, 4096);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint first = group.x * a.tile;
    const uint count = min(a.tile, a.width - first);
    const uint row = group.y * a.stride;
    for (uint i = thread_index; i < count; i += p.threads) {
        const uint to = first + i;
        uint from = to;
        if (a.head_dim != 0u) {
            const uint place = to / a.head_dim;
            from = ((place % a.repeats) * a.key_heads + place / a.repeats) * a.head_dim + to % a.head_dim;
        }
        float v = x[row + from];
        if (a.inverse == 0u) {
            const float sign = signs[to];
            v = v * sign;
        }
        tile[i] = v;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    butterflies(tile, count, a.block, p);
    for (uint i = thread_index; i < count; i += p.threads) {
        float v = tile[i];
        v = v * a.factor;
        if (a.inverse != 0u) {
            const float sign = signs[first + i];
            v = v * sign;
        }
        out[row + first + i] = v;
    }
}

struct SplitArgs {
    uint width;       // of a row of x: heads * 2 * head_dim
    uint head_dim;
    uint x_stride;
    uint first_stride;
    uint second_stride;
};

// Heads of (first, second) to two buffers. grid: (elements of x, rows).
kernel void split_heads(
    device const float* x      [[buffer(0)]],
    device float*       first  [[buffer(1)]],
    device float*       second [[buffer(2)]],
    constant SplitArgs& a      [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint i = group.x * simdgroups * 32u + thread_index;
    if (i >= a.width) { return; }
    const uint half_head = i / a.head_dim;
    const uint to = half_head / 2u * a.head_dim + i % a.head_dim;
    const float v = x[group.y * a.x_stride + i];
    if (half_head % 2u == 0u) {
        first[group.y * a.first_stride + to] = v;
    } else {
        second[group.y * a.second_stride + to] = v;
    }
}

struct LengthArgs {
    uint stride;
    uint head_dim;
    float eps;
    uint heads0;      // of the first range of columns
    uint heads;       // of both
    uint offset0;     // first column of each
    uint offset1;
    float scale0;
    float scale1;
};

// In place: heads of two ranges of columns become of length `scale`. 16 lanes take a head. grid: (heads, rows).
kernel void l2_norm_heads(
    device float*        x [[buffer(0)]],
    constant LengthArgs& a [[buffer(1)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group.x * simdgroups * 2u + thread_index / FOLD_LANES;
    const uint i = thread_index % FOLD_LANES;
    const bool first = head < a.heads0;
    const bool there = head < a.heads;
    const uint column = first ? a.offset0 + head * a.head_dim : a.offset1 + (head - a.heads0) * a.head_dim;
    const float scale = first ? a.scale0 : a.scale1;
    const uint at = group.y * a.stride + column;
    float sum = 0.0f;
    if (there) {
        for (uint e = i; e < a.head_dim; e += FOLD_LANES) {
            const float v = x[at + e];
            sum += v * v;
        }
    }
    sum = fold_lanes(sum);
    const float r = 1.0f / sqrt(sum + a.eps);
    if (there) {
        for (uint e = i; e < a.head_dim; e += FOLD_LANES) {
            const float v = x[at + e];
            x[at + e] = (v * r) * scale;
        }
    }
}

struct ConvArgs {
    uint channels;
    uint taps;
    uint x_stride;
    uint out_stride;
    uint state_at;
};

// silu of a causal convolution along each sequence, a thread per channel. The state holds the taps - 1 inputs before the
// run, oldest first, [input][channel], and then those before the next one. grid: (channels, sequences).
kernel void causal_conv(
    device const float* x      [[buffer(0)]],
    device const float* weight [[buffer(1)]],
    device const uint4* runs   [[buffer(2)]],
    device float*       state  [[buffer(3)]],
    device float*       out    [[buffer(4)]],
    constant ConvArgs&  a      [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint channel = group.x * simdgroups * 32u + thread_index;
    if (channel >= a.channels) { return; }
    const uint4 run = runs[group.y];
    const uint past = a.taps - 1u;
    const uint state_at = run.z + a.state_at + channel;
    // Rows of the state and then of the run are counted on: input n is state row n, or run row n - past.
    const uint rows = run.y - run.x;
    for (uint t = 0u; t < rows; ++t) {
        float u = 0.0f;
        for (uint j = 0u; j < a.taps; ++j) {
            const uint n = t + j;
            float v = 0.0f;
            if (n < past) {
                v = state[state_at + n * a.channels];
            } else {
                v = x[(run.x + n - past) * a.x_stride + channel];
            }
            const float w = weight[j * a.channels + channel];
            u += w * v;
        }
        out[(run.x + t) * a.out_stride + channel] = u / (1.0f + exp_f32(-u));
    }
    // Upward, so that a short run reads every row of the state before it is overwritten.
    for (uint i = 0u; i < past; ++i) {
        const uint n = rows + i;
        float v = 0.0f;
        if (n < past) {
            v = state[state_at + n * a.channels];
        } else {
            v = x[(run.x + n - past) * a.x_stride + channel];
        }
        state[state_at + i * a.channels] = v;
    }
}

struct DeltaArgs {
    uint key_heads;
    uint value_heads;
    uint head_dim;
    uint tiled;       // 1: value head h reads key head h mod key_heads; 0: h / (value_heads / key_heads)
    uint x_stride;
    uint gate_stride; // of beta and alpha
    uint out_stride;
    uint state_at;
};

// Elements that a thread loads before it uses the first: a simdgroup is alone on its core more often than not.
#define DELTA_STEP 8u

/** The reference's log(1 + exp(x)): log(1 + u) = 2 artanh(u / (2 + u)) as a polynomial. */
METAL_FUNC float softplus_f32(float x) {
    const float u = exp_f32(-fabs(x));
    const float s = u / (2.0f + u);
    const float z = s * s;
    float p = 0.0588235294f;
    p = p * z + 0.0666666667f;
    p = p * z + 0.0769230769f;
    p = p * z + 0.0909090909f;
    p = p * z + 0.111111111f;
    p = p * z + 0.142857143f;
    p = p * z + 0.2f;
    p = p * z + 0.333333333f;
    p = p * z + 1.0f;
    return at_least(x, 0.0f) + (s + s) * p;
}

// The gated delta rule, a thread per value dimension: its column of the state is its own, so threads never meet. Both sums
// over the key dimension run from 0 upward. grid: (value dimensions, value heads, sequences).
kernel void gated_delta(
    device const float* x     [[buffer(0)]],
    device const float* beta  [[buffer(1)]],
    device const float* alpha [[buffer(2)]],
    device const float* decay [[buffer(3)]],
    device const float* bias  [[buffer(4)]],
    device const uint4* runs  [[buffer(5)]],
    device float*       state [[buffer(6)]],
    device float*       out   [[buffer(7)]],
    constant DeltaArgs& a     [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint j = group.x * simdgroups * 32u + thread_index;
    if (j >= a.head_dim) { return; }
    const uint head = group.y;
    const uint4 run = runs[group.z];
    const uint key_head = a.tiled != 0u ? head % a.key_heads : head / (a.value_heads / a.key_heads);
    const uint state_at = run.z + a.state_at + head * a.head_dim * a.head_dim + j;
    const float head_decay = decay[head];
    const float head_bias = bias[head];
    for (uint t = run.x; t < run.y; ++t) {
        const uint q = t * a.x_stride + key_head * a.head_dim;
        const uint k = q + a.key_heads * a.head_dim;
        const float value = x[t * a.x_stride + (2u * a.key_heads + head) * a.head_dim + j];
        const float raw_beta = beta[t * a.gate_stride + head];
        const float raw_alpha = alpha[t * a.gate_stride + head];
        const float b = sigmoid_f32(raw_beta);
        const float g = exp_f32(head_decay * softplus_f32(raw_alpha + head_bias));
        float s[DELTA_STEP];
        float key[DELTA_STEP];
        float query[DELTA_STEP];
        float known = 0.0f;
        for (uint first = 0u; first < a.head_dim; first += DELTA_STEP) {
            MSL_UNROLL for (uint u = 0u; u < DELTA_STEP; ++u) {
                // One past the last repeats it, and is not used.
                const uint i = min(first + u, a.head_dim - 1u);
                s[u] = state[state_at + i * a.head_dim];
                key[u] = x[k + i];
            }
            MSL_UNROLL for (uint u = 0u; u < DELTA_STEP; ++u) {
                if (first + u < a.head_dim) { known += (g * s[u]) * key[u]; }
            }
        }
        const float delta = b * (value - known);
        float result = 0.0f;
        for (uint first = 0u; first < a.head_dim; first += DELTA_STEP) {
            MSL_UNROLL for (uint u = 0u; u < DELTA_STEP; ++u) {
                const uint i = min(first + u, a.head_dim - 1u);
                s[u] = state[state_at + i * a.head_dim];
                key[u] = x[k + i];
                query[u] = x[q + i];
            }
            MSL_UNROLL for (uint u = 0u; u < DELTA_STEP; ++u) {
                if (first + u < a.head_dim) {
                    // g * s again rather than stored: the same product has the same bits.
                    const float updated = g * s[u] + key[u] * delta;
                    state[state_at + (first + u) * a.head_dim] = updated;
                    result += updated * query[u];
                }
            }
        }
        out[t * a.out_stride + head * a.head_dim + j] = result;
    }
}

struct RouteArgs {
    uint width;           // experts
    uint stride;
    uint choices;
    uint experts_stride;
    uint shares_stride;
    float least;
    uint status_at;       // of this operation's first row in `status`
};

// The `choices` largest logits of a row in falling order, equal ones by rising index, and their softmax over all, shared out
// among them. One simdgroup per row. A row that is not finite gets expert 0, so that no product reads what is not there.
kernel void route_experts(
    device const float* x       [[buffer(0)]],
    device uint*        experts [[buffer(1)]],
    device float*       shares  [[buffer(2)]],
    device uint*        status  [[buffer(3)]],
    constant RouteArgs& a       [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint row = group.x * a.stride;
    uint bits = 0u;
    float largest = MINUS_INFINITY;
    for (uint i = lane; i < a.width; i += 32u) {
        const float logit = x[row + i];
        bits = max(bits, as_type<uint>(fabs(logit)));
        largest = max(largest, logit);
    }
    const bool finite = simd_max(bits) < 0x7f800000u;
    largest = simd_max(largest);
    float total = 0.0f;
    for (uint i = lane % FOLD_LANES; i < a.width; i += FOLD_LANES) {
        const float logit = x[row + i];
        total += exp_f32(logit - largest);
    }
    total = fold_lanes(total);

    // Each turn takes the best of those that come after the last one taken.
    float last = 0.0f;
    uint last_index = 0u;
    float sum = 0.0f;
    for (uint n = 0u; n < a.choices; ++n) {
        float best = MINUS_INFINITY;
        uint best_index = 0xffffffffu;
        for (uint i = lane; i < a.width; i += 32u) {
            const float logit = x[row + i];
            const bool left = n == 0u || logit < last || (logit == last && i > last_index);
            if (left && logit > best) {
                best = logit;
                best_index = i;
            }
        }
        const float winner = simd_max(best);
        // The largest complement is that of the least index.
        const uint complement = simd_max(best == winner ? 0xffffffffu - best_index : 0u);
        last = winner;
        last_index = 0xffffffffu - complement;
        const float share = exp_f32(winner - largest) / total;
        sum += share;
        if (lane == 0u) {
            experts[group.x * a.experts_stride + n] = finite ? last_index : 0u;
            shares[group.x * a.shares_stride + n] = share;
        }
    }
    // The lane that wrote them.
    if (lane == 0u) {
        const float divisor = max(sum, a.least);
        for (uint n = 0u; n < a.choices; ++n) {
            const float share = shares[group.x * a.shares_stride + n];
            shares[group.x * a.shares_stride + n] = share / divisor;
        }
        status[a.status_at + group.x] = finite ? 0u : 1u;
    }
}
