// Fibers, schedules and the collision rules of the grid emulator. The translated kernels are compiled as a file of their
// own (see scripts/metal-tools.mjs).
#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <numeric>
#include <random>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

uint64_t switches = 0;
uint64_t idle_groups = 0;
bool stored = false;
int current_line = 0;
uint planted_fault = 0;

namespace {

constexpr size_t STACK = 256 << 10;
enum class State { ready, simd, barrier, done, failed };

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  char* stack;
  State state;
  Thread thread;
  int line;
  int kind;
  void* payload;
  void (*resolve)(void**, uint);
};

std::vector<Fiber> fibers;
Fiber* current = nullptr;
const Kernel* kernel = nullptr;
const Binding* bindings = nullptr;
std::string fault;
uint32_t dispatch_number = 0;
/** Of this threadgroup, and of each of its simdgroups: raised by barriers. */
uint32_t epoch = 1;
std::vector<uint32_t> simd_epochs;

std::vector<ThreadgroupArray*>& arrays() {
  static std::vector<ThreadgroupArray*> all;
  return all;
}

#if defined(__x86_64__)
void* main_pointer;
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
emulator_switch:
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
void to_scheduler() { emulator_switch(&current->stack_pointer, main_pointer); }
void to_fiber(Fiber& f) { emulator_switch(&main_pointer, f.stack_pointer); }
#else
ucontext_t main_context;
void to_scheduler() { swapcontext(&current->context, &main_context); }
void to_fiber(Fiber& f) { swapcontext(&main_context, &f.context); }
#endif

void fiber_main() {
  kernel->call(bindings, current->thread);
  current->state = State::done;
  to_scheduler();
  abort();
}

void prepare(Fiber& f) {
  f.state = State::ready;
  f.line = 0;
#if defined(__x86_64__)
  // Not all at the same place of a page: they would share a few lines of the caches.
  const size_t aside = f.thread.thread_index % 61 * 64;
  void** sp = (void**)(((uintptr_t)f.stack + STACK - aside) & ~uintptr_t(15));
  *--sp = nullptr;
  *--sp = (void*)fiber_main;
  for (int i = 0; i < 6; ++i) *--sp = nullptr;
  f.stack_pointer = sp;
#else
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
#endif
}

void run_fiber(Fiber& f) {
  current = &f;
  current_line = f.line;
  ++switches;
  to_fiber(f);
  f.line = current_line;
}

uint32_t group_number = 0;
uint32_t thread_id() { return group_number * 1024 + current->thread.thread_index + 1; }

std::string where(int line) {
  const auto& t = current->thread;
  const std::string at = line == 0 ? "" : ", line " + std::to_string(line);
  return std::string(kernel->name) + at + ", threadgroup (" + std::to_string(t.group.x) + ", " +
         std::to_string(t.group.y) + ", " + std::to_string(t.group.z) + "), thread " + std::to_string(t.thread_index);
}

/** The scheduler's own faults, found between fibers. */
struct SchedulerFault { std::string what; };

bool resolve_simdgroup(Fiber* lanes, uint schedule) {
  uint waiting = 0, over = 0, at_barrier = 0;
  for (uint i = 0; i < 32; ++i) {
    waiting += lanes[i].state == State::simd;
    over += lanes[i].state == State::done;
    at_barrier += lanes[i].state == State::barrier;
  }
  if (waiting == 0) return false;
  if (waiting + over + at_barrier < 32) return false;  // some still run
  current = &lanes[0];
  for (uint i = 0; i < 32; ++i) if (lanes[i].state == State::simd) { current = &lanes[i]; break; }
  if (over + at_barrier > 0) throw SchedulerFault{"simdgroup operation that only " + std::to_string(waiting) + " of 32 lanes reach"};
  void* payloads[32];
  for (uint i = 0; i < 32; ++i) {
    if (lanes[i].kind != lanes[0].kind || lanes[i].line != lanes[0].line) {
      throw SchedulerFault{"lanes of a simdgroup meet in different operations (lines " + std::to_string(lanes[0].line) + " and " +
                           std::to_string(lanes[i].line) + ")"};
    }
    payloads[i] = lanes[i].payload;
  }
  lanes[0].resolve(payloads, schedule);
  if (lanes[0].kind == 5) ++simd_epochs[lanes[0].thread.simdgroup_index];
  for (uint i = 0; i < 32; ++i) lanes[i].state = State::ready;
  return true;
}

void run_threadgroup(uint threads, std::vector<uint>& order, uint schedule) {
  const bool greedy = schedule & 1;
  for (;;) {
    bool progress = false;
    uint chosen = 0;
    // Odd schedules are greedy: one simdgroup runs to a barrier or its end before the next one starts. Even ones
    // advance every thread to its next meeting point in turn.
    for (uint i : order) {
      Fiber& f = fibers[i];
      if (f.state != State::ready) continue;
      if (greedy && progress && f.thread.simdgroup_index != chosen) continue;
      chosen = f.thread.simdgroup_index;
      run_fiber(f);
      if (f.state == State::failed) return;
      progress = true;
    }
    for (uint s = 0; s < threads / 32; ++s) {
      if (greedy && progress && s != chosen) continue;
      progress |= resolve_simdgroup(&fibers[s * 32], schedule);
    }
    uint done = 0, waiting = 0;
    int line = 0;
    for (uint i = 0; i < threads; ++i) {
      done += fibers[i].state == State::done;
      if (fibers[i].state != State::barrier) continue;
      current = &fibers[i];
      if (waiting++ == 0) line = fibers[i].line;
      else if (fibers[i].line != line) {
        throw SchedulerFault{"threads wait at different barriers (lines " + std::to_string(line) + " and " +
                             std::to_string(fibers[i].line) + ")"};
      }
    }
    if (done == threads) return;
    if (waiting > 0 && waiting + done == threads) {
      if (done > 0) throw SchedulerFault{"barrier that only " + std::to_string(waiting) + " of " + std::to_string(threads) + " threads reach"};
      ++epoch;
      for (uint i = 0; i < threads; ++i) fibers[i].state = State::ready;
      progress = true;
    }
    if (!progress) throw SchedulerFault{"deadlock: a barrier inside divergent control flow"};
  }
}

}  // namespace

void fail(const std::string& what, int line) {
  if (fault.empty()) fault = what + " (" + where(line) + ")";
  current->state = State::failed;
  to_scheduler();
  abort();
}

ThreadgroupArray::ThreadgroupArray(const char* n, size_t count) : name(n), traces(count) { arrays().push_back(this); }

void meet(int kind, int line, void* payload, void (*resolve)(void**, uint)) {
  current->kind = kind;
  current_line = line;
  current->payload = payload;
  current->resolve = resolve;
  current->state = State::simd;
  to_scheduler();
}

void threadgroup_barrier(int line) {
  current_line = line;
  current->state = State::barrier;
  to_scheduler();
}

void touch_tracked(Memory* memory, size_t offset, size_t size, bool write, int line) {
  const uint32_t id = thread_id();
  for (size_t cell = offset / 2; cell < (offset + size + 1) / 2; ++cell) {
    Trace& t = memory->traces[cell];
    const bool other_wrote = t.write_dispatch == dispatch_number && t.writer != id;
    const bool other_read = t.read_dispatch == dispatch_number && t.reader != id;
    if (other_wrote || (write && other_read)) {
      fail("two threads use byte " + std::to_string(cell * 2) + " of " + memory->name + " in one dispatch, one of them writes it", line);
    }
    if (write) {
      t.write_dispatch = dispatch_number;
      t.writer = id;
    } else {
      t.reader = t.read_dispatch == dispatch_number && t.reader != id ? MANY : id;
      t.read_dispatch = dispatch_number;
    }
  }
}

void touch_threadgroup(ThreadgroupArray& array, bool write, size_t index, int line) {
  Trace& t = array.traces[index];
  array.touched = true;
  // `write_dispatch` and `read_dispatch` are mere flags here: the traces are cleared for every threadgroup.
  const uint32_t me = current->thread.thread_index + 1;
  const uint32_t simd = current->thread.simdgroup_index;
  const auto name = [&] { return "element " + std::to_string(index) + " of threadgroup array " + array.name; };
  const auto ordered = [&](uint32_t who, uint32_t when, uint32_t simd_when) {
    if (who == me || when < epoch) return true;
    if (who == MANY) return false;
    const uint32_t their_simd = who & LANES ? who & ~LANES : (who - 1) / 32;
    return their_simd == simd && simd_when < simd_epochs[simd];
  };
  if (!write && t.write_dispatch == 0) fail(name() + " is read before anything was written to it", line);
  if (t.write_dispatch && !ordered(t.writer, t.write_epoch, t.write_simd_epoch)) {
    fail(name() + " is written by thread " + std::to_string(t.writer - 1) + " and used without a barrier between", line);
  }
  if (write && t.read_dispatch && !ordered(t.reader, t.read_epoch, t.read_simd_epoch)) {
    fail(name() + " is overwritten without a barrier after a read", line);
  }
  if (write) {
    t.write_dispatch = 1;
    t.writer = me;
    t.write_epoch = epoch;
    t.write_simd_epoch = simd_epochs[simd];
    return;
  }
  if (t.read_dispatch == 0 || t.read_epoch < epoch || t.reader == me) {
    t.reader = me;
  } else if (t.reader != MANY) {
    const uint32_t their_simd = t.reader & LANES ? t.reader & ~LANES : (t.reader - 1) / 32;
    t.reader = their_simd == simd ? LANES | simd : MANY;
  }
  t.read_dispatch = 1;
  t.read_epoch = epoch;
  t.read_simd_epoch = simd_epochs[simd];
}

std::string dispatch(const Kernel& k, const Binding* b, metal::uint3 groups, uint threads, uint schedule) {
  kernel = &k;
  bindings = b;
  fault.clear();
  const char* planted = getenv("FAKE_METAL_FAULT");
  planted_fault = planted == nullptr ? 0 : uint(atoi(planted));
  ++dispatch_number;
  if (fibers.size() < threads) {
    const size_t had = fibers.size();
    fibers.resize(threads);
    for (size_t i = had; i < threads; ++i) {
      fibers[i].stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
  }
  simd_epochs.assign(threads / 32, 1);
  std::mt19937 random(schedule);
  std::vector<uint> order(threads), grid(groups.x * groups.y * groups.z);
  std::iota(order.begin(), order.end(), 0u);
  std::iota(grid.begin(), grid.end(), 0u);
  if (schedule == 1) {
    std::reverse(order.begin(), order.end());
    std::reverse(grid.begin(), grid.end());
  }
  if (schedule > 1) std::shuffle(grid.begin(), grid.end(), random);
  for (uint group : grid) {
    for (ThreadgroupArray* array : arrays()) {
      if (array->touched) std::fill(array->traces.begin(), array->traces.end(), Trace{});
      array->touched = false;
    }
    if (schedule > 1) std::shuffle(order.begin(), order.end(), random);
    group_number = group;
    const metal::uint3 at(group % groups.x, group / groups.x % groups.y, group / groups.x / groups.y);
    for (uint i = 0; i < threads; ++i) {
      fibers[i].thread = Thread{at, i, i % 32, i / 32, threads / 32};
      prepare(fibers[i]);
    }
    stored = false;
    try {
      run_threadgroup(threads, order, schedule);
    } catch (const SchedulerFault& f) {
      if (fault.empty()) fault = f.what + " (" + where(current->line) + ")";
    }
    if (!fault.empty()) return fault;
    idle_groups += !stored;
  }
  return "";
}

}  // namespace emu

namespace metal {

uint lane_now() { return emu::current->thread.lane; }

void multiply_lanes(void** lanes, uint) {
  float a[64], b[64];
  for (uint i = 0; i < 64; ++i) {
    const auto* m = (const Multiply*)lanes[i / 2];
    a[i] = float(m->a[i % 2]);
    b[i] = float(m->b[i % 2]);
  }
  for (uint i = 0; i < 64; ++i) {
    auto* m = (Multiply*)lanes[i / 2];
    float sum = m->c[i % 2];
    for (uint k = 0; k < 8; ++k) sum += a[i / 8 * 8 + k] * b[k * 8 + i % 8];
    m->d[i % 2] = sum;
  }
}

}  // namespace metal
