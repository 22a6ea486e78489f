// See isa.h. BITNET_WITH_* say which isa_*.cc the compiler could build.
#include "../include/isa.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace bitnet {

extern const Kernels kScalarKernels, kAvx2Kernels, kAvxVnniKernels, kAvx512Kernels, kAmxKernels, kNeonKernels,
    kNeonDotKernels, kNeonI8mmKernels;

namespace {

#if defined(__x86_64__)

struct X86 {
  bool avx2 = false, avxvnni = false, avx512 = false, amx = false;
};

uint64_t enabled_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

X86 detect() {
  X86 found;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return found;  // OSXSAVE
  const bool f16c = c & (1u << 29);
  const uint64_t state = enabled_state();
  if ((state & 6) != 6) return found;  // the system saves ymm
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned leaves = a;
  found.avx2 = f16c && (b & (1u << 5));
  const bool zmm = (state & 0xe6) == 0xe6;
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31), vnni = c & (1u << 11);
  found.avx512 = found.avx2 && zmm && f && dq && bw && vl && vnni;
  const bool tiles = (d & (1u << 24)) && (d & (1u << 25)) && (state & (3u << 17)) == (3u << 17);
  if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avxvnni = found.avx2 && (a & (1u << 4));
#if defined(BITNET_AMX_EMULATED)
  found.amx = found.avx512;
  (void)tiles;
#elif defined(__linux__)
  // Tile registers must be asked for, once a process.
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  found.amx = found.avx512 && tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  (void)tiles;
#endif
  return found;
}

#elif defined(__aarch64__)

struct Arm {
  bool dot = false, i8mm = false;
};
Arm detect() {
  Arm found;
#if defined(__linux__)
  found.dot = getauxval(AT_HWCAP) & (1ul << 20);
  found.i8mm = found.dot && (getauxval(AT_HWCAP2) & (1ul << 13));
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  found.dot = sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value;
  value = 0;
  size = sizeof value;
  found.i8mm = found.dot && sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, nullptr, 0) == 0 && value;
#endif
  return found;
}

#endif

}  // namespace

int usable_isas(const Kernels* tables[kMaxIsas]) {
  int n = 0;
#if defined(__x86_64__)
  static const X86 cpu = detect();
  (void)cpu;
#if defined(BITNET_WITH_AMX)
  if (cpu.amx) tables[n++] = &kAmxKernels;
#endif
#if defined(BITNET_WITH_AVX512)
  if (cpu.avx512) tables[n++] = &kAvx512Kernels;
#endif
#if defined(BITNET_WITH_AVXVNNI)
  if (cpu.avxvnni) tables[n++] = &kAvxVnniKernels;
#endif
#if defined(BITNET_WITH_AVX2)
  if (cpu.avx2) tables[n++] = &kAvx2Kernels;
#endif
#elif defined(__aarch64__)
  static const Arm cpu = detect();
  (void)cpu;
#if defined(BITNET_WITH_NEON_I8MM)
  if (cpu.i8mm) tables[n++] = &kNeonI8mmKernels;
#endif
#if defined(BITNET_WITH_NEON_DOT)
  if (cpu.dot) tables[n++] = &kNeonDotKernels;
#endif
#if defined(BITNET_WITH_NEON)
  tables[n++] = &kNeonKernels;
#endif
#endif
  tables[n++] = &kScalarKernels;
  return n;
}

const Kernels* find_isa(const char* name) {
  const Kernels* tables[kMaxIsas];
  const int n = usable_isas(tables);
  if (!name || !*name) return tables[0];
  // On Arm the one name covers its three steps; the best of them that runs is meant.
  for (int i = 0; i < n; i += 1) {
    if (!strcmp(tables[i]->isa, name)) return tables[i];
    if (!strcmp(name, "neon") && !strncmp(tables[i]->isa, "neon", 4)) return tables[i];
  }
  return nullptr;
}

const char* const* built_isas() {
  static const char* const names[] = {
#if defined(BITNET_WITH_AMX)
      "amx",
#endif
#if defined(BITNET_WITH_AVX512)
      "avx512",
#endif
#if defined(BITNET_WITH_AVXVNNI)
      "avxvnni",
#endif
#if defined(BITNET_WITH_AVX2)
      "avx2",
#endif
#if defined(BITNET_WITH_NEON_I8MM)
      "neon-i8mm",
#endif
#if defined(BITNET_WITH_NEON_DOT)
      "neon-dot",
#endif
#if defined(BITNET_WITH_NEON)
      "neon",
#endif
      "scalar", nullptr};
  return names;
}

}  // namespace bitnet
