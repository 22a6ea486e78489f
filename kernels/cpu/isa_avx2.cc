// AVX2 with F16C: x86-64 CPUs from about 2013 on.
#include "float_ops.h"
#include "grouped_rows.h"
#include "grouped_x86_256.h"
#include "hybrid_ops.h"
#include "matmul_x86_256.h"
#include "top_logits.h"

namespace bitnet {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = {
    "avx2",   kTokenBlock256, ternary_scratch_256, ternary_256, int8_256, dense, kAttention,   embed,      rms_norm,
    quantize, rope,           kv_append,           relu2,       silu,     add,   count_trits, read_bytes, peak_macs_256,
    grouped_scratch_256, grouped_256, quantize16, embed_grouped, top_logits, kHybrid,
};

}  // namespace bitnet
