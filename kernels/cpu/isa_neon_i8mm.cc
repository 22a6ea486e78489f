// NEON with smmla: Apple M2 and later, Neoverse V1 and later.
#include "float_ops.h"
#include "grouped_rows.h"
#include "grouped_neon.h"
#include "hybrid_ops.h"
#include "matmul_neon.h"
#include "top_logits.h"

namespace bitnet {

extern const Kernels kNeonI8mmKernels;
const Kernels kNeonI8mmKernels = {
    "neon-i8mm", 64, ternary_scratch_none, ternary_neon, int8_neon, dense, kAttention,   embed,      rms_norm,
    quantize, rope, kv_append,        relu2,        silu,      add,   count_trits, read_bytes, peak_macs_neon,
    grouped_scratch_neon, grouped_neon, quantize16, embed_grouped, top_logits, kHybrid,
};

}  // namespace bitnet
