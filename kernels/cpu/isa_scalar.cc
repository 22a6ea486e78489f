// What any CPU of the target can run.
#include "float_ops.h"
#include "grouped_rows.h"
#include "grouped_scalar.h"
#include "hybrid_ops.h"
#include "matmul_scalar.h"
#include "top_logits.h"

namespace bitnet {

extern const Kernels kScalarKernels;
const Kernels kScalarKernels = {
    "scalar",    64,       ternary_scratch_none, ternary_scalar, int8_scalar, dense, kAttention,   embed,      rms_norm,
    quantize,    rope,     kv_append,            relu2,          silu,        add,   count_trits, read_bytes, peak_macs_scalar,
    grouped_scratch_none, grouped_scalar, quantize16, embed_grouped, top_logits, kHybrid,
};

}  // namespace bitnet
