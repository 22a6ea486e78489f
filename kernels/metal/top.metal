// The best logits of a row, so that a greedy or top-k step brings back a few numbers instead of the vocabulary. Two
// stages: every threadgroup finds the best `count` of its chunk, then one threadgroup per row joins the chunks. Equal
// logits: the lower id first, as in a scan from id 0. Also the chunk's log-sum-exp, for exact log-probabilities.

#define TOP_CHUNK 4096u
#define TOP_NONE 0xffffffffu

struct TopArgs {
    uint width;        // logits of a row, or candidates of a row in the second stage
    uint stride;       // elements from row to row
    uint count;        // how many to find, at most 64
    uint chunks;       // per row
    uint chunk;        // elements per chunk, at most TOP_CHUNK
};

METAL_FUNC bool better(float v, uint id, float than, uint than_id) { return v > than || (v == than && id < than_id); }

/** The best of a simdgroup, in all its lanes. */
METAL_FUNC void simd_best(thread float& v, thread uint& id) {
    for (ushort step = 16; step > 0; step /= 2) {
        const float other = simd_shuffle_xor(v, step);
        const uint other_id = simd_shuffle_xor(id, step);
        if (better(other, other_id, v, id)) { v = other; id = other_id; }
    }
}

// One candidate: (bits of the value, id). One statistic per chunk: (largest, sum of exp(v - largest)).
// grid: (chunks, rows).
kernel void top_chunk(
    device const float*  logits     [[buffer(0)]],
    device uint2*        candidates [[buffer(1)]],
    device float2*       statistics [[buffer(2)]],
    constant TopArgs&    a          [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, values, 4096);
    THREADGROUP_ARRAY(float, best_values, 32);
    THREADGROUP_ARRAY(uint, best_ids, 32);
    THREADGROUP_ARRAY(float, sums, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint first = group.x * a.chunk;
    const uint size = min(a.chunk, a.width - first);
    const uint slot = group.y * a.chunks + group.x;
    for (uint i = thread_index; i < size; i += p.threads) {
        const float v = logits[group.y * a.stride + first + i];
        values[i] = v;
    }
    // Each thread scans the elements that it stored itself, so the values need no barrier.
    float largest = 0.0f;
    for (uint n = 0u; n < a.count; ++n) {
        float v = -INFINITY;
        uint id = TOP_NONE;
        for (uint i = thread_index; i < size; i += p.threads) {
            const float candidate = values[i];
            if (candidate == candidate && better(candidate, i, v, id)) { v = candidate; id = i; }
        }
        simd_best(v, id);
        if (lane == 0u) { best_values[simdgroup_index] = v; best_ids[simdgroup_index] = id; }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        v = -INFINITY;
        id = TOP_NONE;
        if (lane < simdgroups) { v = best_values[lane]; id = best_ids[lane]; }
        simd_best(v, id);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (n == 0u) {
            largest = v;
            float sum = 0.0f;
            for (uint i = thread_index; i < size; i += p.threads) {
                const float value = values[i];
                sum += exp(value - largest);
            }
            sum = threadgroup_sum(sum, sums, p);
            if (thread_index == 0u) { statistics[slot] = float2(largest, sum); }
        }
        if (thread_index == 0u) {
            candidates[slot * a.count + n] = uint2(as_type<uint>(v), id == TOP_NONE ? TOP_NONE : first + id);
        }
        // Taken: NaN never wins again. Its owner alone reads it.
        if (id != TOP_NONE && id % p.threads == thread_index) { values[id] = NAN; }
    }
}

// The candidates of a row to its best `count`, values and ids apart, and the row's log-sum-exp. grid: (1, rows).
kernel void top_merge(
    device uint2*        candidates [[buffer(0)]],
    device const float2* statistics [[buffer(1)]],
    device float*        out_values [[buffer(2)]],
    device uint*         out_ids    [[buffer(3)]],
    device float*        log_sums   [[buffer(4)]],
    constant TopArgs&    a          [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, best_values, 32);
    THREADGROUP_ARRAY(uint, best_ids, 32);
    const uint threads = simdgroups * 32u;
    const uint from = group.y * a.chunks * a.count;
    for (uint n = 0u; n < a.count; ++n) {
        float v = -INFINITY;
        uint id = TOP_NONE;
        uint mine = TOP_NONE;
        for (uint i = thread_index; i < a.chunks * a.count; i += threads) {
            const uint2 candidate = candidates[from + i];
            const float value = as_type<float>(candidate.x);
            if (candidate.y != TOP_NONE && better(value, candidate.y, v, id)) {
                v = value;
                id = candidate.y;
                mine = i;
            }
        }
        const uint own = id;
        simd_best(v, id);
        if (lane == 0u) { best_values[simdgroup_index] = v; best_ids[simdgroup_index] = id; }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        v = -INFINITY;
        id = TOP_NONE;
        if (lane < simdgroups) { v = best_values[lane]; id = best_ids[lane]; }
        simd_best(v, id);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index == 0u) {
            out_values[group.y * a.count + n] = v;
            out_ids[group.y * a.count + n] = id;
        }
        if (id != TOP_NONE && own == id) { candidates[from + mine] = uint2(0u, TOP_NONE); }
    }
    if (simdgroup_index == 0u) {
        float largest = -INFINITY;
        for (uint i = lane; i < a.chunks; i += 32u) {
            const float2 s = statistics[group.y * a.chunks + i];
            largest = max(largest, s.x);
        }
        largest = simd_max(largest);
        float sum = 0.0f;
        for (uint i = lane; i < a.chunks; i += 32u) {
            const float2 s = statistics[group.y * a.chunks + i];
            sum += s.y * exp(s.x - largest);
        }
        sum = simd_sum(sum);
        if (lane == 0u) { log_sums[group.y] = largest + log(sum); }
    }
}
