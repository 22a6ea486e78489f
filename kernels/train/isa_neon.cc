#define BITNET_TRAIN_ISA "neon"
#define BITNET_TRAIN_TABLE kNeon
#include "ops.h"
