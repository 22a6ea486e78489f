// The best logits of a row and the sum that makes probabilities of logits, so that a step brings back a few numbers instead
// of the vocabulary: what src/engine/top-logits.ts specifies, to the bit. Every threadgroup finds the best `count` of its
// chunk, one threadgroup per row joins the chunks, and then every one adds up the weights of its chunk. Equal logits: the
// lower id first, as in a scan from id 0.

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

// One candidate: (bits of the value, id). grid: (chunks, rows).
kernel void top_chunk(
    device const float*  logits     [[buffer(0)]],
    device uint2*        candidates [[buffer(1)]],
    constant TopArgs&    a          [[buffer(2)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, values, 4096);
    THREADGROUP_ARRAY(float, best_values, 32);
    THREADGROUP_ARRAY(uint, best_ids, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const uint first = group.x * a.chunk;
    const uint size = min(a.chunk, a.width - first);
    const uint slot = group.y * a.chunks + group.x;
    for (uint i = thread_index; i < size; i += p.threads) {
        const float v = logits[group.y * a.stride + first + i];
        values[i] = v;
    }
    // Each thread scans the elements that it stored itself, so the values need no barrier.
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
        if (thread_index == 0u) {
            candidates[slot * a.count + n] = uint2(as_type<uint>(v), id == TOP_NONE ? TOP_NONE : first + id);
        }
        // Taken: NaN never wins again. Its owner alone reads it.
        if (id != TOP_NONE && id % p.threads == thread_index) { values[id] = NAN; }
    }
}

// The candidates of a row to its best `count`, values and ids apart. grid: (1, rows).
kernel void top_merge(
    device uint2*        candidates [[buffer(0)]],
    device float*        out_values [[buffer(1)]],
    device uint*         out_ids    [[buffer(2)]],
    constant TopArgs&    a          [[buffer(3)]],
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
}

// The weights exp(logit - largest) of a chunk, each rounded to a multiple of 2^-32: the sum of integers is exact in any
// order. Their upper and lower 16 bits are added apart, 4096 of them below 2^29 each. Both are all ones where a weight is
// NaN: a logit is NaN or +infinity, or none is finite. grid: (chunks, rows).
kernel void top_mass(
    device const float*  logits     [[buffer(0)]],
    device const float*  best       [[buffer(1)]],
    device uint2*        masses     [[buffer(2)]],
    constant TopArgs&    a          [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(uint, uppers, 32);
    THREADGROUP_ARRAY(uint, lowers, 32);
    THREADGROUP_ARRAY(uint, broken, 32);
    const uint threads = simdgroups * 32u;
    const uint first = group.x * a.chunk;
    const uint size = min(a.chunk, a.width - first);
    const float largest = best[group.y * a.count];
    uint upper_sum = 0u;
    uint lower_sum = 0u;
    uint is_broken = 0u;
    for (uint i = thread_index; i < size; i += threads) {
        const float weight = exp_f32(logits[group.y * a.stride + first + i] - largest);
        if (!(weight <= 1.0f)) {
            is_broken = 1u;
            continue;
        }
        // Exact but for the one rounding: 24 bits, moved by powers of two.
        const float whole = rint(weight * 4294967296.0f);
        const uint upper = uint(whole * 1.52587890625e-5f);
        upper_sum += upper;
        lower_sum += uint(whole - float(upper) * 65536.0f);
    }
    for (ushort step = 16; step > 0; step /= 2) {
        upper_sum += simd_shuffle_xor(upper_sum, step);
        lower_sum += simd_shuffle_xor(lower_sum, step);
        is_broken |= simd_shuffle_xor(is_broken, step);
    }
    if (lane == 0u) {
        uppers[simdgroup_index] = upper_sum;
        lowers[simdgroup_index] = lower_sum;
        broken[simdgroup_index] = is_broken;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0u) {
        for (uint i = 1u; i < simdgroups; ++i) {
            upper_sum += uppers[i];
            lower_sum += lowers[i];
            is_broken |= broken[i];
        }
        masses[group.y * a.chunks + group.x] = is_broken == 0u ? uint2(upper_sum, lower_sum) : uint2(0xffffffffu, 0xffffffffu);
    }
}
