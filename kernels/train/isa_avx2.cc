#define BITNET_TRAIN_ISA "avx2"
#define BITNET_TRAIN_TABLE kAvx2
#include "ops.h"
