// Which instruction sets this build holds and this CPU runs, best first. BITNET_WITH_* say what the compiler could
// build.
#include "isa.h"

#include <cstring>

namespace bitnet_train {

int usable(const Kernels* tables[kMaxTables]) {
  int n = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(BITNET_WITH_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
    tables[n++] = &kAvx512;
#endif
#if defined(BITNET_WITH_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables[n++] = &kAvx2;
#endif
#elif defined(__aarch64__)
#if defined(BITNET_WITH_NEON)
  tables[n++] = &kNeon;
#endif
#endif
  tables[n++] = &kScalar;
  return n;
}

const Kernels* find(const char* name) {
  const Kernels* tables[kMaxTables];
  const int n = usable(tables);
  if (!*name) return tables[0];
  for (int i = 0; i < n; i += 1)
    if (!strcmp(tables[i]->isa, name)) return tables[i];
  return nullptr;
}

}  // namespace bitnet_train
