// Every usable instruction set against "scalar", bit for bit, on random data of awkward sizes: run once in a child
// process before a binary is trusted, by the addon's users and by scripts/kernel-selftest.
#pragma once

#include "kernels.h"

namespace bitnet {

/** Null when `table` computes what "scalar" does, else a sentence that says what differs. */
const char* selftest(const Kernels& table, uint32_t seed);

}  // namespace bitnet
