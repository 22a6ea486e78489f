// Runs the items of an engine's step on several threads over one shared memory: kernels/cpu/pool.cc without a system
// below it. A stage's items are dealt out as one range per thread; who finishes early steals from the back of another's
// range. A stage is over when its items are done, not when all threads have arrived. Who finishes a stage publishes the
// next one, and runs stages of one item itself, so that nobody is woken for them.
#pragma once

#include "../include/engine.h"

namespace bitnet {

/** Told once a step, by whichever thread did its last item. */
extern "C" __attribute__((import_module("env"), import_name("finished"))) void env_finished();

class Pool {
 public:
  /** src/engine/wasm/backend.ts asks for no more. */
  static constexpr int32_t kMaxThreads = 256;

  void set_threads(int32_t n) { threads_ = n; }

  /** Starts the step that engine_begin prepared, and returns; env_finished follows. No other step may be running. */
  void start(Engine* engine) {
    engine_ = engine;
    stages_ = engine_stages(engine);
    publish(current_ + 1, 0, 0);
  }

  /** The life of thread `id`; it ends with its thread. */
  [[noreturn]] void serve(int32_t id) {
    for (;;) {
      const uint32_t serial = __atomic_load_n(&current_, __ATOMIC_ACQUIRE);
      if (!work(serial, id)) wait_while(serial);
    }
  }

  /** Changes whenever an item was done, for as long as a step runs. */
  uint32_t progress() const {
    return __atomic_load_n(&current_, __ATOMIC_RELAXED) * 65536u - (uint32_t)__atomic_load_n(&left_, __ATOMIC_RELAXED);
  }

 private:
  // Serial number of the stage (32 bits), begin and end (16 bits each). The number makes a late thread's claim fail.
  struct alignas(64) Range {
    uint64_t word;
  };

  static constexpr int64_t kMostClaims = 65535;
  // Loads before a thread sleeps, about 20 us: what the stages of one item between two products take. There is no clock
  // here. A tenth of it costs a tenth of the speed at two threads.
  static constexpr int32_t kSpins = 100000;

  static constexpr uint64_t pack(uint32_t serial, int64_t begin, int64_t end) {
    return (uint64_t)serial << 32 | (uint64_t)begin << 16 | (uint64_t)end;
  }

  /** Claims and runs items of stage `serial` until none is left. False when there was none. */
  bool work(uint32_t serial, int32_t id) {
    bool any = false;
    for (int32_t k = 0; k < threads_; k += 1) {
      const int32_t victim = id + k < threads_ ? id + k : id + k - threads_;
      uint64_t* word = &ranges_[victim].word;
      for (;;) {
        uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        const int64_t begin = (int64_t)(seen >> 16 & 0xffff), end = (int64_t)(seen & 0xffff);
        if ((uint32_t)(seen >> 32) != serial || begin >= end) break;
        const uint64_t taken = k == 0 ? pack(serial, begin + 1, end) : pack(serial, begin, end - 1);
        if (!__atomic_compare_exchange_n(word, &seen, taken, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
        // Holding an item of the stage keeps it alive, so its plain members are stable until left_ is counted down.
        any = true;
        const int32_t stage = stage_;
        const int64_t first = (k == 0 ? begin : end - 1) * batch_;
        const int64_t last = first + batch_ < items_ ? first + batch_ : items_;
        for (int64_t i = first; i < last; i += 1) engine_run_item(engine_, stage, (int32_t)i, id);
        if (__atomic_sub_fetch(&left_, 1, __ATOMIC_ACQ_REL) == 0) publish(serial + 1, stage + 1, id);
      }
    }
    return any;
  }

  /** Makes the next stage with work for several current under the number `serial`, or ends the step. */
  void publish(uint32_t serial, int32_t stage, int32_t id) {
    for (; stage < stages_ && !engine_failed(engine_); stage += 1) {
      const int64_t items = engine_items(engine_, stage);
      if (items == 1) engine_run_item(engine_, stage, 0, id);
      if (items <= 1) continue;
      const int64_t batch = (items + kMostClaims - 1) / kMostClaims, claims = (items + batch - 1) / batch;
      stage_ = stage;
      batch_ = batch;
      items_ = items;
      __atomic_store_n(&left_, (int32_t)claims, __ATOMIC_RELAXED);
      for (int32_t t = 0; t < threads_; t += 1)
        __atomic_store_n(&ranges_[t].word, pack(serial, claims * t / threads_, claims * (t + 1) / threads_), __ATOMIC_RELEASE);
      __atomic_store_n(&current_, serial, __ATOMIC_SEQ_CST);
      if (__atomic_load_n(&sleeping_, __ATOMIC_SEQ_CST) > 0) __builtin_wasm_memory_atomic_notify((int32_t*)&current_, 0xffffffffu);
      return;
    }
    env_finished();
  }

  void wait_while(uint32_t serial) {
    for (int32_t i = 0; i < kSpins; i += 1)
      if (__atomic_load_n(&current_, __ATOMIC_ACQUIRE) != serial) return;
    __atomic_fetch_add(&sleeping_, 1, __ATOMIC_SEQ_CST);
    __builtin_wasm_memory_atomic_wait32((int32_t*)&current_, (int32_t)serial, -1);
    __atomic_fetch_sub(&sleeping_, 1, __ATOMIC_SEQ_CST);
  }

  Range ranges_[kMaxThreads];
  alignas(64) uint32_t current_;
  alignas(64) int32_t left_;
  alignas(64) int32_t sleeping_;
  // Of the running step and stage; read by threads that hold an item, written when there is none.
  alignas(64) Engine* engine_;
  int32_t threads_, stages_, stage_;
  int64_t batch_, items_;
};

}  // namespace bitnet
