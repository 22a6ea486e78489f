#define BITNET_TRAIN_ISA "scalar"
#define BITNET_TRAIN_TABLE kScalar
#include "ops.h"
