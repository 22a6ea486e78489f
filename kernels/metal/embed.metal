// Rows of a dense table by token id, and rows of a step by index.

struct EmbedArgs {
    uint width;
    uint table_stride;  // elements of a table row
    uint out_stride;    // elements of an out row; the ones past `width` become zero
};

// One threadgroup per token.
kernel void embed_f32(
    device const float*  table  [[buffer(0)]],
    device const uint*   tokens [[buffer(1)]],
    device float*        out    [[buffer(2)]],
    constant EmbedArgs&  a      [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint from = tokens[group.x] * a.table_stride;
    for (uint i = thread_index; i < a.out_stride; i += simdgroups * 32u) {
        float v = 0.0f;
        if (i < a.width) { v = table[from + i]; }
        out[group.x * a.out_stride + i] = v;
    }
}

kernel void embed_f16(
    device const half*   table  [[buffer(0)]],
    device const uint*   tokens [[buffer(1)]],
    device float*        out    [[buffer(2)]],
    constant EmbedArgs&  a      [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint from = tokens[group.x] * a.table_stride;
    for (uint i = thread_index; i < a.out_stride; i += simdgroups * 32u) {
        float v = 0.0f;
        if (i < a.width) { v = float(table[from + i]); }
        out[group.x * a.out_stride + i] = v;
    }
}

// bfloat16 as bits, because Metal's own bfloat type needs macOS 14.
kernel void embed_bf16(
    device const ushort* table  [[buffer(0)]],
    device const uint*   tokens [[buffer(1)]],
    device float*        out    [[buffer(2)]],
    constant EmbedArgs&  a      [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint from = tokens[group.x] * a.table_stride;
    for (uint i = thread_index; i < a.out_stride; i += simdgroups * 32u) {
        float v = 0.0f;
        if (i < a.width) { v = as_type<float>(uint(table[from + i]) << 16); }
        out[group.x * a.out_stride + i] = v;
    }
}

struct SelectArgs {
    uint stride4;
};

// out row i = x row rows[i]. One threadgroup per output row.
kernel void select_rows(
    device const float4* x    [[buffer(0)]],
    device const uint*   rows [[buffer(1)]],
    device float4*       out  [[buffer(2)]],
    constant SelectArgs& a    [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint from = rows[group.x] * a.stride4;
    for (uint i = thread_index; i < a.stride4; i += simdgroups * 32u) {
        const float4 v = x[from + i];
        out[group.x * a.stride4 + i] = v;
    }
}

// The last residual addition, done for the rows whose logits are wanted only: out row i = x row + y row.
kernel void select_sum(
    device const float4* x    [[buffer(0)]],
    device const float4* y    [[buffer(1)]],
    device const uint*   rows [[buffer(2)]],
    device float4*       out  [[buffer(3)]],
    constant SelectArgs& a    [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint from = rows[group.x] * a.stride4;
    for (uint i = thread_index; i < a.stride4; i += simdgroups * 32u) {
        const float4 v = x[from + i];
        const float4 w = y[from + i];
        out[group.x * a.stride4 + i] = v + w;
    }
}
