// A CUDA driver for tests: the functions that kernels/cuda/addon.cc asks for, over the emulator. Memory ends at a page that
// nobody may touch, so that a kernel that reads past it dies there. Settings, read at each use:
//   FAKE_CUDA_SCHEDULE  0 in order, 1 from the last thread, 2 shuffled; from 1 on copies into shared memory come as late as they may
//   FAKE_CUDA_FAIL      a function's name: it returns error 700 (or, for memory, 2) from then on
//   FAKE_CUDA_HANGS     set: no work is ever done
//   FAKE_CUDA_FAULT     the number of a fault that planted-faults.ts put into the kernels: it is there
//   FAKE_CUDA_FAULTY    set: in machine code alone, not in what was compiled from PTX text
//   FAKE_CUDA_SMS, FAKE_CUDA_SHARED, FAKE_CUDA_DRIVER, FAKE_CUDA_CAPABILITY (80 for 8.0), FAKE_CUDA_COUNT
#include "emulator.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#ifdef __x86_64__
// Saves what a call keeps, changes stacks, takes it back.
extern "C" void fiber_switch(void** from, void* to);
asm(R"(
.text
.globl fiber_switch
.type fiber_switch,@function
fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#error "the emulator's fibers are written for x86-64"
#endif

namespace emulator {
Fiber* now = nullptr;
u32 grid = 1, shared_bytes = 0, fault = 0;
bool late = false, bulk = true, misused = false, early = false, fours = false;
static void* scheduler = nullptr;

void wait() { fiber_switch(&now->stack_pointer, scheduler); }

static void (*entry)(void**) = nullptr;
static void** arguments = nullptr;
static void begin() {
  entry(arguments);
  now->done = true;
  wait();
}

static bool ready(Fiber& f) {
  if (f.word != nullptr) {
    if (*f.word == f.value) return false;
    f.word = nullptr;
  }
  if (f.count != nullptr) {
    if ((i32)(*f.count - f.target) < 0) return false;
    f.count = nullptr;
  }
  return true;
}

/** No power of two: tops of stacks that far apart would share a few lines of the caches. */
constexpr size_t STACK = (64 << 10) + 1088;

/** A block's shared memory, which ends at a page that nobody may touch; used again by later launches. */
static char* shared_memory(size_t i, size_t bytes) {
  static std::vector<std::pair<char*, size_t>> all;
  constexpr size_t page = 4096;
  const size_t size = (bytes + page - 1) / page * page;
  if (i >= all.size()) all.resize(i + 1);
  auto& [at, have] = all[i];
  if (have != size) {
    if (at) munmap(at, have + page);
    at = (char*)mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(at + size, page, PROT_NONE);
    have = size;
  }
  std::memset(at, 0xab, size);
  return at + size - (bytes + 127) / 128 * 128;
}

/** Runs `blocks` blocks at once. False: they wait for one another for ever. */
static bool run(std::vector<Block>& all, size_t shared) {
  const u32 threads = all[0].threads, n = (u32)all.size() * threads;
  static char* stacks = nullptr;
  static size_t have = 0;
  if (have < n) {
    if (stacks) munmap(stacks, have * STACK);
    stacks = (char*)mmap(nullptr, n * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    have = n;
  }
  std::vector<Fiber> fibers(n);
  for (size_t b = 0; b < all.size(); b++) all[b].memory = shared_memory(b, shared);
  for (u32 i = 0; i < n; i++) {
    Fiber& f = fibers[i];
    f.block = &all[i / threads];
    f.thread = i % threads;
    void** top = (void**)(stacks + (i + 1) * STACK) - 2;
    *--top = nullptr;
    *--top = (void*)begin;
    for (int k = 0; k < 6; k++) *--top = nullptr;
    f.stack_pointer = top;
  }
  const char* setting = std::getenv("FAKE_CUDA_SCHEDULE");
  const int schedule = setting ? std::atoi(setting) : 0;
  late = schedule > 0;
  const char* capability = std::getenv("FAKE_CUDA_CAPABILITY");
  bulk = !capability || std::atoi(capability) >= 90;
  std::vector<u32> order(n);
  for (u32 i = 0; i < n; i++) order[i] = schedule == 1 ? n - 1 - i : i;
  if (schedule == 2) {
    u64 state = 88172645463325252ull;
    for (u32 i = n; i > 1; i--) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      std::swap(order[i - 1], order[state % i]);
    }
  }
  u32 left = n;
  misused = false;
  while (left > 0) {
    bool moved = false;
    for (u32 k = 0; k < n; k++) {
      // Soon to run: its fields, then what it has on its stack.
      if (k + 12 < n) __builtin_prefetch(&fibers[order[k + 12]]);
      if (k + 4 < n) __builtin_prefetch(fibers[order[k + 4]].stack_pointer);
      Fiber& f = fibers[order[k]];
      if (f.done || !ready(f)) continue;
      moved = true;
      now = &f;
      fiber_switch(&scheduler, f.stack_pointer);
      if (f.done) left--;
    }
    if (!moved) return false;
  }
  return !misused;
}
}  // namespace emulator

#include "kernels.cu"

namespace {
using Result = int;
constexpr Result OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719;

/** Was machine code loaded last? */
bool machine_code = false;

u64 number(const char* name, u64 otherwise) {
  const char* v = std::getenv(name);
  return v ? std::strtoull(v, nullptr, 10) : otherwise;
}
bool fails(const char* name) {
  const char* v = std::getenv("FAKE_CUDA_FAIL");
  return v && std::string(v) == name;
}

std::map<char*, std::pair<void*, size_t>> places;
u64 in_use = 0;

void call_step(void** a) { bitnet_step(*(u64*)a[0], *(u32*)a[1], *(u32*)a[2], *(u64*)a[3], *(u64*)a[4]); }
template <void (*KERNEL_OF)(InlineInput, u64, u32, u32, u64, u64, u32)> void call_one(void** a) {
  KERNEL_OF(*(const InlineInput*)a[0], *(u64*)a[1], *(u32*)a[2], *(u32*)a[3], *(u64*)a[4], *(u64*)a[5], *(u32*)a[6]);
}
template <void (*KERNEL_OF)(Instruction, u64, u64, u32)> void call_phase(void** a) { KERNEL_OF(*(const Instruction*)a[0], *(u64*)a[1], *(u64*)a[2], *(u32*)a[3]); }
const std::map<std::string, void (*)(void**)> kernels = {
    {"bitnet_step", call_step},
    {"bitnet_one", call_one<bitnet_one>},
    {"bitnet_one_grouped", call_one<bitnet_one_grouped>},
    {"bitnet_one_any", call_one<bitnet_one_any>},
    {"bitnet_phase", call_phase<bitnet_phase>},
    {"bitnet_rows", call_phase<bitnet_rows>},
    {"bitnet_some", call_phase<bitnet_some>},
    {"bitnet_tiles", call_phase<bitnet_tiles>},
    {"bitnet_head", call_phase<bitnet_head>},
    {"bitnet_ready", call_phase<bitnet_ready>},
    {"bitnet_attend_rows", call_phase<bitnet_attend_rows>},
    {"bitnet_attend_batch", call_phase<bitnet_attend_batch>},
};

/** One of a module: with the shared memory that its blocks may have. */
struct Function {
  void (*entry)(void**);
  /** Blocks wait for one another. */
  bool together;
  u32 most_shared = 48 << 10;
  /** Of machine code for 9.0, whose cards have much memory: warps multiply in fours. */
  bool fours = number("FAKE_CUDA_CAPABILITY", 90) == 90 && number("FAKE_CUDA_SHARED", 101376) >= 131072;
  /** Threads of a block: it is written for so many, and no launch may have another number. */
  u32 threads() const {
    if (entry == (void (*)(void**))call_phase<bitnet_attend_rows>) return 256;
    return entry == (void (*)(void**))call_phase<bitnet_tiles> && fours ? 256 : 512;
  }
};

Result launch(void* handle, u32 blocks, u32 threads, u32 shared, void** arguments, bool early = false) {
  if (fails("cuLaunchKernel")) return ILLEGAL_ADDRESS;
  emulator::early = early;
  const auto* given = (const Function*)handle;
  emulator::fours = given->fours;
  if (shared > given->most_shared || threads != given->threads()) return INVALID_VALUE;
  emulator::entry = given->entry;
  emulator::arguments = arguments;
  emulator::grid = blocks;
  emulator::shared_bytes = shared;
  emulator::fault = machine_code || std::getenv("FAKE_CUDA_FAULTY") == nullptr ? (u32)number("FAKE_CUDA_FAULT", 0) : 0;
  if (given->together) {
    std::vector<emulator::Block> all(blocks);
    for (u32 b = 0; b < blocks; b++) all[b].index = b, all[b].threads = threads;
    return emulator::run(all, shared) ? OK : LAUNCH_FAILED;
  }
  for (u32 b = 0; b < blocks; b++) {
    std::vector<emulator::Block> one(1);
    one[0].index = b;
    one[0].threads = threads;
    if (!emulator::run(one, shared)) return LAUNCH_FAILED;
  }
  return OK;
}
}  // namespace

#define DRIVER extern "C" __attribute__((visibility("default"))) Result

DRIVER cuInit(unsigned) { return fails("cuInit") ? 100 : OK; }
DRIVER cuDriverGetVersion(int* v) { return *v = (int)number("FAKE_CUDA_DRIVER", 12080), OK; }
DRIVER cuDeviceGetCount(int* n) { return *n = (int)number("FAKE_CUDA_COUNT", 1), OK; }
DRIVER cuDeviceGet(int* d, int i) { return *d = i, OK; }
DRIVER cuDeviceGetName(char* name, int n, int) { return std::snprintf(name, (size_t)n, "Emulator"), OK; }
DRIVER cuDeviceGetAttribute(int* v, int attribute, int) {
  const int capability = (int)number("FAKE_CUDA_CAPABILITY", 90);
  *v = attribute == 16 ? (int)number("FAKE_CUDA_SMS", 3)
       : attribute == 75 ? capability / 10
       : attribute == 76 ? capability % 10
       : attribute == 97 ? (int)number("FAKE_CUDA_SHARED", 101376)
       : attribute == 95 ? 1
                         : 0;
  return OK;
}
DRIVER cuDeviceTotalMem_v2(size_t* n, int) { return *n = number("FAKE_CUDA_MEMORY", 1ull << 32), OK; }
DRIVER cuMemGetInfo_v2(size_t* left, size_t* all) {
  *all = number("FAKE_CUDA_MEMORY", 1ull << 32);
  *left = *all > in_use ? *all - in_use : 0;
  return OK;
}
DRIVER cuDevicePrimaryCtxRetain(void** c, int) { return *c = (void*)1, OK; }
DRIVER cuCtxSetCurrent(void*) { return OK; }
DRIVER cuModuleLoadData(void** m, const void* image) {
  if (fails("cuModuleLoadData")) return 222;
  machine_code = std::memcmp(image, "\177ELF", 4) == 0;
  return *m = (void*)1, machine_code || std::memcmp(image, "//", 2) == 0 ? OK : 200;
}
DRIVER cuModuleGetFunction(void** f, void*, const char* name) {
  const auto found = kernels.find(name);
  if (found == kernels.end()) return NOT_FOUND;
  const bool together = found->first == "bitnet_step" || found->first.rfind("bitnet_one", 0) == 0;
  return *f = new Function{found->second, together}, OK;
}
DRIVER cuFuncSetAttribute(void* f, int, int bytes) {
  if ((u64)bytes > number("FAKE_CUDA_SHARED", 101376)) return INVALID_VALUE;
  return ((Function*)f)->most_shared = (u32)bytes, OK;
}
DRIVER cuFuncGetAttribute(int* v, int attribute, void* f) {
  *v = attribute == 0 ? (int)((Function*)f)->threads() : (int)number("FAKE_CUDA_CAPABILITY", 90);
  return OK;
}
DRIVER cuMemAlloc_v2(u64* p, size_t n) {
  if (fails("cuMemAlloc") || in_use + n > number("FAKE_CUDA_MEMORY", 1ull << 32)) return OUT_OF_MEMORY;
  const size_t page = 4096, padded = (n + 63) / 64 * 64, all = (padded + page - 1) / page * page;
  char* at = (char*)mmap(nullptr, all + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(at + all, page, PROT_NONE);
  char* given = at + all - padded;
  std::memset(given, 0xcd, padded);
  places[given] = {at, all + page};
  in_use += n;
  return *p = (u64)given, OK;
}
DRIVER cuMemFree_v2(u64 p) {
  auto found = places.find((char*)p);
  if (found == places.end()) return 1;
  munmap(found->second.first, found->second.second);
  in_use -= found->second.second < in_use ? found->second.second : in_use;
  places.erase(found);
  return OK;
}
DRIVER cuMemHostAlloc(void** p, size_t n, unsigned) { return *p = std::aligned_alloc(4096, (n + 4095) / 4096 * 4096), OK; }
DRIVER cuMemFreeHost(void* p) { return std::free(p), OK; }
DRIVER cuMemcpyHtoD_v2(u64 to, const void* from, size_t n) { return std::memcpy((void*)to, from, n), OK; }
DRIVER cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t n, void*) { return std::memcpy((void*)to, from, n), OK; }
DRIVER cuMemcpyDtoH_v2(void* to, u64 from, size_t n) { return std::memcpy(to, (void*)from, n), OK; }
DRIVER cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t n, void*) { return std::memcpy((void*)to, (void*)from, n), OK; }
DRIVER cuMemsetD8Async(u64 to, unsigned char v, size_t n, void*) { return std::memset((void*)to, v, n), OK; }
DRIVER cuStreamCreate(void** s, unsigned) { return *s = (void*)1, OK; }
DRIVER cuStreamQuery(void*) { return std::getenv("FAKE_CUDA_HANGS") ? NOT_READY : fails("cuStreamQuery") ? ILLEGAL_ADDRESS : OK; }
DRIVER cuStreamSynchronize(void*) { return fails("cuStreamSynchronize") ? ILLEGAL_ADDRESS : OK; }
DRIVER cuLaunchKernel(void* f, u32 x, u32, u32, u32 threads, u32, u32, u32 shared, void*, void** arguments, void**) {
  return launch(f, x, threads, shared, arguments);
}
struct LaunchAttribute {
  int id, pad;
  int allowed[16];
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  void* stream;
  LaunchAttribute* attributes;
  unsigned count;
};
DRIVER cuLaunchKernelEx(const LaunchConfig* c, void* f, void** arguments, void**) {
  if (fails("cuLaunchKernelEx")) return INVALID_VALUE;
  bool early = false;
  for (unsigned i = 0; i < c->count; i++) early = early || (c->attributes[i].id == 6 && c->attributes[i].allowed[0] != 0);
  return launch(f, c->grid[0], c->block[0], c->shared, arguments, early);
}
DRIVER cuLaunchCooperativeKernel(void* f, u32 x, u32, u32, u32 threads, u32, u32, u32 shared, void*, void** arguments) {
  if (fails("cuLaunchCooperativeKernel")) return 720;
  return launch(f, x, threads, shared, arguments);
}
DRIVER cuGetErrorName(Result r, const char** name) {
  *name = r == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : r == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : r == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : r == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR";
  return OK;
}
