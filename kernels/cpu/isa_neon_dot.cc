// NEON with sdot: Arm CPUs from about 2018 on, all of Apple's M series.
#include "float_ops.h"
#include "grouped_rows.h"
#include "grouped_neon.h"
#include "hybrid_ops.h"
#include "matmul_neon.h"
#include "top_logits.h"

namespace bitnet {

extern const Kernels kNeonDotKernels;
const Kernels kNeonDotKernels = {
    "neon-dot", 64, ternary_scratch_none, ternary_neon, int8_neon, dense, kAttention,   embed,      rms_norm,
    quantize, rope, kv_append,        relu2,        silu,      add,   count_trits, read_bytes, peak_macs_neon,
    grouped_scratch_neon, grouped_neon, quantize16, embed_grouped, top_logits, kHybrid,
};

}  // namespace bitnet
