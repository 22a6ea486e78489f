// Which kernel tables this build holds and this CPU can run, best first.
#pragma once

#include "kernels.h"

namespace bitnet {

constexpr int kMaxIsas = 8;

/** Fills tables with what can run here, best first; returns how many. "scalar" is always the last. */
int usable_isas(const Kernels* tables[kMaxIsas]);
/** Null when `name` was not built or cannot run here; "" and null pointer give the best. */
const Kernels* find_isa(const char* name);
/** Names of everything that was built, best first, null-terminated. */
const char* const* built_isas();

}  // namespace bitnet
