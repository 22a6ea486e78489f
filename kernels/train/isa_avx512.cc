#define BITNET_TRAIN_ISA "avx512"
#define BITNET_TRAIN_TABLE kAvx512
#include "ops.h"
