// Memory for the engine in native builds: zeroed, aligned to 64 bytes, large pieces on huge pages where the system
// offers them (a KV cache and the activations of a long prompt are read end to end).
#include <stdlib.h>
#include <string.h>

#include "../include/engine.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace bitnet {

namespace {
constexpr uint64_t kMapFrom = 1 << 20;
}

void* host_alloc(uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  if (bytes >= kMapFrom) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
  }
#endif
  const uint64_t size = (bytes + 63) / 64 * 64;
  void* p = aligned_alloc(64, size ? size : 64);
  if (p) memset(p, 0, size);
  return p;
}

void host_free(void* p, uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  if (bytes >= kMapFrom) {
    munmap(p, bytes);
    return;
  }
#endif
  free(p);
}

}  // namespace bitnet
