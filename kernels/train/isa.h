#pragma once

#include "kernels.h"

namespace bitnet_train {

constexpr int kMaxTables = 4;
/** Fills `tables`, best first; returns how many. */
int usable(const Kernels* tables[kMaxTables]);
/** By name; the best for ""; null when this CPU or build lacks it. */
const Kernels* find(const char* name);

}  // namespace bitnet_train
