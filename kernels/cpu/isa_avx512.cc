// AVX-512 with VNNI: server CPUs from Cascade Lake on, Zen 4.
#include "float_ops.h"
#include "grouped_rows.h"
#include "grouped_x86_512.h"
#include "hybrid_ops.h"
#include "matmul_x86_512.h"
#include "top_logits.h"

namespace bitnet {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = {
    "avx512", kTokenBlock512, ternary_scratch_512, ternary_512, int8_512, dense, kAttention,   embed,      rms_norm,
    quantize, rope,           kv_append,           relu2,       silu,     add,   count_trits, read_bytes, peak_macs_512,
    grouped_scratch_512, grouped_512, quantize16, embed_grouped, top_logits, kHybrid,
    kPanelRows, kTokenBytes,
};

}  // namespace bitnet
