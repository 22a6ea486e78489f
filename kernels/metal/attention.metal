// RoPE, the KV cache, and attention over it.
//
// The cache of all sequences is one buffer of blocks of KV_BLOCK positions, so that sequences grow, fork and share a step
// without copies. Inside a block: [layer][k or v][kv head][position][head_stride], so that attention streams one head's
// keys and values contiguously; head_stride is D rounded up to 4, and the elements past D stay zero. `table` has one row
// of block numbers per sequence of the step; `places` gives each token's position and its row of the table.

#define KV_BLOCK 32u

struct CacheArgs {
    uint block_stride;   // floats of a block
    uint layer_at;       // floats from the block's start to this layer's keys; its values follow
    uint kv_heads;
    uint head_dim;
    uint head_stride;    // head_dim rounded up to whole vectors
    uint table_stride;
};

METAL_FUNC uint cache_at(device const uint* table, uint2 place, uint position, uint kv_head, constant CacheArgs& c) {
    const uint block = table[place.y * c.table_stride + position / KV_BLOCK];
    return block * c.block_stride + c.layer_at + (kv_head * KV_BLOCK + position % KV_BLOCK) * c.head_stride;
}

/** The first of `count` positions that the last of them sees through a window; 0: no window. */
METAL_FUNC uint first_seen(uint count, uint window) { return window == 0u || window >= count ? 0u : count - window; }

struct RopeArgs {
    uint heads;      // of q to rotate; 0 when there is no q
    uint k_heads;    // of k to rotate
    uint append;     // store k and v in the cache
    uint head_dim;
    uint rotary_dim; // elements of a head that turn, the first ones
    uint q_stride;
    uint k_stride;   // of k and v
};

/** The lower element of pair j of a head; the other is `pair_step` on. Past the elements that turn, neighbours are a pair. */
METAL_FUNC uint pair_at(uint j, constant RopeArgs& a) { return 2u * j < a.rotary_dim ? j : 2u * j; }
METAL_FUNC uint pair_step(uint j, constant RopeArgs& a) { return 2u * j < a.rotary_dim ? a.rotary_dim / 2u : 1u; }

// Rotates q and k in place (of N elements that turn, j pairs with j + N/2) and appends k and v to the cache.
// grid: (pairs, tokens); one thread per pair: first those of q that turn, then those of k, then those of v.
kernel void rope_append(
    device float*       q      [[buffer(0)]],
    device float*       k      [[buffer(1)]],
    device const float* v      [[buffer(2)]],
    device const float* cosine [[buffer(3)]],
    device const float* sine   [[buffer(4)]],
    device const uint2* places [[buffer(5)]],
    device const uint*  table  [[buffer(6)]],
    device float*       cache  [[buffer(7)]],
    constant RopeArgs&  a      [[buffer(8)]],
    constant CacheArgs& c      [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint turning = a.rotary_dim / 2u;
    const uint pairs = a.head_dim / 2u;
    const uint q_pairs = a.heads * turning;
    const uint kv_pairs = a.append != 0u ? c.kv_heads * pairs : 0u;
    const uint token = group.y;
    const uint2 place = places[token];
    uint i = group.x * simdgroups * 32u + thread_index;
    if (i < q_pairs) {
        const uint j = i % turning;
        const uint at = token * a.q_stride + (i / turning) * a.head_dim + j;
        const float cs = cosine[place.x * turning + j];
        const float sn = sine[place.x * turning + j];
        const float x = q[at];
        const float y = q[at + turning];
        q[at] = x * cs - y * sn;
        q[at + turning] = y * cs + x * sn;
        return;
    }
    i -= q_pairs;
    const bool is_value = i >= kv_pairs;
    if (is_value) { i -= kv_pairs; }
    if (i >= kv_pairs) { return; }
    const uint j = i % pairs;
    const uint head = i / pairs;
    const uint in_head = pair_at(j, a);
    const uint step = pair_step(j, a);
    const uint at = token * a.k_stride + head * a.head_dim + in_head;
    uint to = cache_at(table, place, place.x, head, c) + in_head;
    if (is_value) {
        to += c.kv_heads * KV_BLOCK * c.head_stride;
        const float x = v[at];
        const float y = v[at + step];
        cache[to] = x;
        cache[to + step] = y;
        return;
    }
    float x = k[at];
    float y = k[at + step];
    if (head < a.k_heads && j < turning) {
        const float cs = cosine[place.x * turning + j];
        const float sn = sine[place.x * turning + j];
        const float rotated = x * cs - y * sn;
        y = y * cs + x * sn;
        x = rotated;
        k[at] = x;
        k[at + step] = y;
    }
    cache[to] = x;
    cache[to + step] = y;
}

struct AttentionArgs {
    uint group_heads;   // query heads of a kv head
    uint split;         // positions per threadgroup
    uint splits;        // of the longest row of the step
    uint lanes;         // that share a key: a power of two, at least head_stride / 4 or 32
    float scale;
    uint q_stride;
    uint out_stride;
    uint window;        // positions that a row sees, its own included; 0: all of them
};

// The running state of an online softmax (arXiv:1805.02867) has a largest score that starts here, not at -infinity, so
// that an empty state merges with weight 0 and no infinity is subtracted from another.
#define NO_SCORE -3.0e38f

// Heads of q and of the result lie side by side, so the vectors of a head whose length is no multiple of 4 are not aligned.

METAL_FUNC float4 load_vector(device const float* x, uint at, uint length) {
    float4 v = float4(0.0f);
    v.x = x[at];
    if (length > 1u) { v.y = x[at + 1u]; }
    if (length > 2u) { v.z = x[at + 2u]; }
    if (length > 3u) { v.w = x[at + 3u]; }
    return v;
}

METAL_FUNC void store_vector(device float* x, uint at, uint length, float4 v) {
    x[at] = v.x;
    if (length > 1u) { x[at + 1u] = v.y; }
    if (length > 2u) { x[at + 2u] = v.z; }
    if (length > 3u) { x[at + 3u] = v.w; }
}

// HEADS query heads of one kv head share every key and value they load. A key is held by `lanes` lanes, 4 * CHUNKS of its
// elements each; narrow heads thus take several keys per step. The range of positions is cut every `split` positions
// whatever the step looks like, so a row's result depends on nothing but the row.
// grid: (splits, kv heads * tiles of HEADS heads, tokens).
template <uint HEADS, uint CHUNKS>
METAL_FUNC void attend(
    device const float* q, device const float4* cache, device const uint2* places, device const uint* table,
    device float* out, device float4* partials, device float2* partial_stats, threadgroup float4* merge,
    threadgroup float2* stats, constant AttentionArgs& a, constant CacheArgs& c, uint3 group, uint lane, uint simdgroup_index,
    uint simdgroups)
{
    const uint token = group.z;
    const uint2 place = places[token];
    const uint start = max(group.x * a.split, first_seen(place.x + 1u, a.window));
    const uint end = min((group.x + 1u) * a.split, place.x + 1u);
    if (start >= end) { return; }
    const uint tiles = a.group_heads / HEADS;
    const uint kv_head = group.y / tiles;
    const uint head = kv_head * a.group_heads + (group.y % tiles) * HEADS;
    const uint dim4 = c.head_stride / 4u;
    const uint key_lane = lane % a.lanes;
    const uint keys = 32u / a.lanes;  // per simdgroup and step
    const uint values_at = c.kv_heads * KV_BLOCK * dim4;

    float4 query[HEADS * CHUNKS];
    float4 sums[HEADS * CHUNKS];
    float largest[HEADS];
    float total[HEADS];
    MSL_UNROLL for (uint h = 0u; h < HEADS; ++h) {
        largest[h] = NO_SCORE;
        total[h] = 0.0f;
        MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) {
            const uint d = key_lane + k * 32u;
            query[h * CHUNKS + k] = float4(0.0f);
            sums[h * CHUNKS + k] = float4(0.0f);
            if (d < dim4) {
                const uint at = token * a.q_stride + (head + h) * c.head_dim + 4u * d;
                query[h * CHUNKS + k] = load_vector(q, at, c.head_dim - 4u * d);
            }
        }
    }

    for (uint first = start + simdgroup_index * keys; first < end; first += simdgroups * keys) {
        const uint position = first + lane / a.lanes;
        const bool valid = position < end;
        const uint at = cache_at(table, place, min(position, end - 1u), kv_head, c) / 4u;
        float4 key[CHUNKS];
        float4 value[CHUNKS];
        MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) {
            const uint d = key_lane + k * 32u;
            key[k] = float4(0.0f);
            value[k] = float4(0.0f);
            if (d < dim4) {
                key[k] = cache[at + d];
                value[k] = cache[at + values_at + d];
            }
        }
        MSL_UNROLL for (uint h = 0u; h < HEADS; ++h) {
            float score = 0.0f;
            MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) { score += dot(query[h * CHUNKS + k], key[k]); }
            for (ushort step = ushort(a.lanes / 2u); step > 0; step /= 2) { score += simd_shuffle_xor(score, step); }
            score *= a.scale;
            const float next = valid ? max(largest[h], score) : largest[h];
            const float fade = exp(largest[h] - next);
            const float weight = valid ? exp(score - next) : 0.0f;
            largest[h] = next;
            total[h] = total[h] * fade + weight;
            MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) {
                sums[h * CHUNKS + k] = sums[h * CHUNKS + k] * fade + value[k] * weight;
            }
        }
    }

    MSL_UNROLL for (uint h = 0u; h < HEADS; ++h) {
        // The keys of one simdgroup ...
        for (ushort step = ushort(a.lanes); step < 32; step *= 2) {
            const float other = simd_shuffle_xor(largest[h], step);
            const float next = max(largest[h], other);
            const float fade = exp(largest[h] - next);
            const float rise = exp(other - next);
            largest[h] = next;
            total[h] = total[h] * fade + simd_shuffle_xor(total[h], step) * rise;
            MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) {
                const float4 sum = sums[h * CHUNKS + k];
                const float4 moved = float4(
                    simd_shuffle_xor(sum.x, step), simd_shuffle_xor(sum.y, step), simd_shuffle_xor(sum.z, step),
                    simd_shuffle_xor(sum.w, step));
                sums[h * CHUNKS + k] = sum * fade + moved * rise;
            }
        }
        // ... then the simdgroups.
        if (lane == 0u) { stats[simdgroup_index * HEADS + h] = float2(largest[h], total[h]); }
        MSL_UNROLL for (uint k = 0u; k < CHUNKS; ++k) {
            const uint d = lane + k * 32u;
            if (lane < a.lanes && d < dim4) { merge[(simdgroup_index * HEADS + h) * dim4 + d] = sums[h * CHUNKS + k]; }
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = simdgroup_index * 32u + lane; i < HEADS * dim4; i += simdgroups * 32u) {
        const uint h = i / dim4;
        float best = NO_SCORE;
        for (uint s = 0u; s < simdgroups; ++s) {
            const float2 stat = stats[s * HEADS + h];
            best = max(best, stat.x);
        }
        float sum_weights = 0.0f;
        float4 sum = float4(0.0f);
        for (uint s = 0u; s < simdgroups; ++s) {
            const float2 stat = stats[s * HEADS + h];
            const float4 part = merge[s * HEADS * dim4 + i];
            const float rise = exp(stat.x - best);
            sum_weights += stat.y * rise;
            sum = sum + part * rise;
        }
        if (a.splits == 1u) {
            const uint d = i % dim4 * 4u;
            const uint at = token * a.out_stride + (head + h) * c.head_dim + d;
            store_vector(out, at, c.head_dim - d, sum / float4(sum_weights));
        } else {
            const uint heads = c.kv_heads * a.group_heads;
            const uint row = (token * heads + head + h) * a.splits + group.x;
            partials[row * dim4 + i % dim4] = sum;
            if (i % dim4 == 0u) { partial_stats[row] = float2(best, sum_weights); }
        }
    }
}

// 8 simdgroups x HEADS x 32 lanes x CHUNKS vectors in `merge`: at most 16 KiB (CHUNKS = 2 runs with 4 simdgroups).

kernel void attention_h1(
    device const float*     q             [[buffer(0)]],
    device const float4*    cache         [[buffer(1)]],
    device const uint2*     places        [[buffer(2)]],
    device const uint*      table         [[buffer(3)]],
    device float*           out           [[buffer(4)]],
    device float4*          partials      [[buffer(5)]],
    device float2*          partial_stats [[buffer(6)]],
    constant AttentionArgs& a             [[buffer(7)]],
    constant CacheArgs&     c             [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float4, merge, 8 * 1 * 32);
    THREADGROUP_ARRAY(float2, stats, 8 * 1);
    attend<1, 1>(
        q, cache, places, table, out, partials, partial_stats, merge, stats, a, c, group, lane, simdgroup_index, simdgroups);
}

kernel void attention_h2(
    device const float*     q             [[buffer(0)]],
    device const float4*    cache         [[buffer(1)]],
    device const uint2*     places        [[buffer(2)]],
    device const uint*      table         [[buffer(3)]],
    device float*           out           [[buffer(4)]],
    device float4*          partials      [[buffer(5)]],
    device float2*          partial_stats [[buffer(6)]],
    constant AttentionArgs& a             [[buffer(7)]],
    constant CacheArgs&     c             [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float4, merge, 8 * 2 * 32);
    THREADGROUP_ARRAY(float2, stats, 8 * 2);
    attend<2, 1>(
        q, cache, places, table, out, partials, partial_stats, merge, stats, a, c, group, lane, simdgroup_index, simdgroups);
}

kernel void attention_h4(
    device const float*     q             [[buffer(0)]],
    device const float4*    cache         [[buffer(1)]],
    device const uint2*     places        [[buffer(2)]],
    device const uint*      table         [[buffer(3)]],
    device float*           out           [[buffer(4)]],
    device float4*          partials      [[buffer(5)]],
    device float2*          partial_stats [[buffer(6)]],
    constant AttentionArgs& a             [[buffer(7)]],
    constant CacheArgs&     c             [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float4, merge, 8 * 4 * 32);
    THREADGROUP_ARRAY(float2, stats, 8 * 4);
    attend<4, 1>(
        q, cache, places, table, out, partials, partial_stats, merge, stats, a, c, group, lane, simdgroup_index, simdgroups);
}

// Heads of more than 128 elements, up to 256.
kernel void attention_wide(
    device const float*     q             [[buffer(0)]],
    device const float4*    cache         [[buffer(1)]],
    device const uint2*     places        [[buffer(2)]],
    device const uint*      table         [[buffer(3)]],
    device float*           out           [[buffer(4)]],
    device float4*          partials      [[buffer(5)]],
    device float2*          partial_stats [[buffer(6)]],
    constant AttentionArgs& a             [[buffer(7)]],
    constant CacheArgs&     c             [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float4, merge, 4 * 1 * 64);
    THREADGROUP_ARRAY(float2, stats, 4 * 1);
    attend<1, 2>(
        q, cache, places, table, out, partials, partial_stats, merge, stats, a, c, group, lane, simdgroup_index, simdgroups);
}

// Joins the splits of a row. grid: (heads, tokens).
kernel void attention_merge(
    device const float4*    partials      [[buffer(0)]],
    device const float2*    partial_stats [[buffer(1)]],
    device const uint2*     places        [[buffer(2)]],
    device float*           out           [[buffer(3)]],
    constant AttentionArgs& a             [[buffer(4)]],
    constant CacheArgs&     c             [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint head = group.x;
    const uint token = group.y;
    const uint heads = c.kv_heads * a.group_heads;
    const uint dim4 = c.head_stride / 4u;
    const uint2 place = places[token];
    const uint count = place.x / a.split + 1u;
    const uint first = first_seen(place.x + 1u, a.window) / a.split;
    const uint row = (token * heads + head) * a.splits;
    float best = NO_SCORE;
    for (uint s = first; s < count; ++s) {
        const float2 stat = partial_stats[row + s];
        best = max(best, stat.x);
    }
    for (uint i = thread_index; i < dim4; i += simdgroups * 32u) {
        float sum_weights = 0.0f;
        float4 sum = float4(0.0f);
        for (uint s = first; s < count; ++s) {
            const float2 stat = partial_stats[row + s];
            const float4 part = partials[(row + s) * dim4 + i];
            const float rise = exp(stat.x - best);
            sum_weights += stat.y * rise;
            sum = sum + part * rise;
        }
        const uint at = token * a.out_stride + head * c.head_dim + 4u * i;
        store_vector(out, at, c.head_dim - 4u * i, sum / float4(sum_weights));
    }
}
