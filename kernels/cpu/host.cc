// Memory for the engine in native builds: zeroed, aligned to 64 bytes, large pieces on huge pages where the system
// offers them (a KV cache and the activations of a long prompt are read end to end).
#include <stdlib.h>
#include <string.h>

#include "../include/engine.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace bitnet {

namespace {
constexpr uint64_t kMapFrom = 1 << 20;
constexpr uintptr_t kHuge = 2 << 20;

/** Whole huge pages where that wastes little: the last part of a block of the KV cache is read as often as the first. */
uint64_t mapped_bytes(uint64_t bytes) {
  const uint64_t whole = (bytes + kHuge - 1) / kHuge * kHuge;
  return whole - bytes <= bytes / 16 ? whole : bytes;
}
}  // namespace

void* host_alloc(uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  if (bytes >= kMapFrom) {
    bytes = mapped_bytes(bytes);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
  }
#endif
  const uint64_t size = (bytes + 63) / 64 * 64;
#if defined(_WIN32)
  void* p = _aligned_malloc(size ? size : 64, 64);
#else
  void* p = aligned_alloc(64, size ? size : 64);
#endif
  if (p) memset(p, 0, size);
  return p;
}

void host_free(void* p, uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  if (bytes >= kMapFrom) {
    munmap(p, mapped_bytes(bytes));
    return;
  }
  free(p);
#elif defined(_WIN32)
  (void)bytes;
  _aligned_free(p);
#else
  (void)bytes;
  free(p);
#endif
}

#if defined(__linux__) && defined(MADV_HUGEPAGE)
uint64_t host_prefer_huge_pages(const void* p, uint64_t bytes) {
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1; older ones refuse it and their daemon follows the advice
  if (bytes < kHuge / 4) return 0;
  // Rounded outward: buffers lie side by side in one mapping, and what else is in it loses nothing.
  uintptr_t at = (uintptr_t)p / kHuge * kHuge;
  const uintptr_t end = ((uintptr_t)p + bytes + kHuge - 1) / kHuge * kHuge;
  uint64_t done = 0;
  for (; at < end; at += kHuge) {
    if (madvise((void*)at, kHuge, MADV_HUGEPAGE) == 0 && madvise((void*)at, kHuge, kCollapse) == 0) done += kHuge;
  }
  return done;
}

uint64_t host_expect_huge_pages(void* p, uint64_t bytes) {
  const uintptr_t at = ((uintptr_t)p + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = ((uintptr_t)p + bytes) / kHuge * kHuge;
  // Refused by a kernel built without huge pages: the memory is as good as any.
  if (at < end) madvise((void*)at, end - at, MADV_HUGEPAGE);
  return at - (uintptr_t)p;
}
#else
uint64_t host_prefer_huge_pages(const void*, uint64_t) { return 0; }
uint64_t host_expect_huge_pages(void*, uint64_t) { return 0; }
#endif

}  // namespace bitnet
