// Which instruction sets this build holds and this CPU runs, best first. BITNET_WITH_* say what the compiler could
// build.
#include "isa.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bitnet_train {

#if defined(__x86_64__)
namespace {

struct X86 {
  bool avx2 = false, avx512 = false;
};

/** As kernels/cpu/isa.cc asks. `__builtin_cpu_supports` needs a symbol of libgcc's that not every compiler brings. */
X86 detect() {
  X86 found;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return found;  // OSXSAVE
  const bool fma = c & (1u << 12);
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;  // the system saves ymm
  found.avx2 = fma && (b & (1u << 5));
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
  found.avx512 = found.avx2 && (low & 0xe6) == 0xe6 && f && dq && bw && vl;
  return found;
}

}  // namespace
#endif

int usable(const Kernels* tables[kMaxTables]) {
  int n = 0;
#if defined(__x86_64__)
  static const X86 cpu = detect();
  (void)cpu;
#if defined(BITNET_WITH_AVX512)
  if (cpu.avx512) tables[n++] = &kAvx512;
#endif
#if defined(BITNET_WITH_AVX2)
  if (cpu.avx2) tables[n++] = &kAvx2;
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
