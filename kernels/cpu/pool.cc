// See pool.h.
#include "../include/pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bitnet {

namespace {

constexpr auto kSpin = std::chrono::microseconds(20);
constexpr int64_t kMostClaims = 65535;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

constexpr uint64_t pack(uint32_t serial, int64_t begin, int64_t end) {
  return (uint64_t)serial << 32 | (uint64_t)begin << 16 | (uint64_t)end;
}

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), ranges_((size_t)threads_) {
  try {
    for (int i = 1; i < threads_; i += 1) workers_.emplace_back([this, i] { worker(i); });
  } catch (...) {
    // The destructor does not run for a half-made object.
    stop_.store(true);
    {
      std::lock_guard<std::mutex> hold(mutex_);
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
    throw;
  }
}

Pool::~Pool() {
  stop_.store(true);
  {
    std::lock_guard<std::mutex> hold(mutex_);
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void Pool::worker(int id) {
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint32_t serial = current_.load(std::memory_order_acquire);
    if (serial == seen || !work(serial, id)) {
      seen = serial;
      wait_while(serial);
    }
  }
}

/** Claims and runs items of stage `serial` until none is left. False when the stage was not or is no longer current. */
bool Pool::work(uint32_t serial, int id) {
  bool any = false;
  for (int k = 0; k < threads_; k += 1) {
    const int victim = id + k < threads_ ? id + k : id + k - threads_;
    std::atomic<uint64_t>& word = ranges_[(size_t)victim].word;
    for (;;) {
      uint64_t seen = word.load(std::memory_order_acquire);
      const int64_t begin = (int64_t)(seen >> 16 & 0xffff), end = (int64_t)(seen & 0xffff);
      if ((uint32_t)(seen >> 32) != serial || begin >= end) break;
      const uint64_t taken = k == 0 ? pack(serial, begin + 1, end) : pack(serial, begin, end - 1);
      if (!word.compare_exchange_weak(seen, taken, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
      // Holding an item of the stage keeps the step alive, so the plain members are stable from here on.
      any = true;
      const int64_t claim = k == 0 ? begin : end - 1;
      const int32_t stage = (int32_t)(serial - base_);
      const int32_t batch = batch_.load(std::memory_order_relaxed);
      const int64_t items = items_.load(std::memory_order_relaxed);
      const int64_t first = claim * batch;
      const int64_t last = first + batch < items ? first + batch : items;
      for (int64_t i = first; i < last; i += 1) engine_run_item(engine_, stage, (int32_t)i, id);
      if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) publish(serial + 1, id);
    }
  }
  return any;
}

/** Makes stage `serial` current; stages without items are passed over. Called by whoever finished the one before. */
void Pool::publish(uint32_t serial, int finisher) {
  int32_t stage = (int32_t)(serial - base_);
  int64_t items = 0;
  while (stage < stages_ && (items = engine_items(engine_, stage)) == 0) stage += 1;
  // After a NaN the remaining stages would compute on garbage: the step ends here.
  if (engine_failed(engine_)) stage = stages_;
  const uint32_t next = base_ + (uint32_t)stage;
  int64_t claims = 0;
  if (stage < stages_) {
    const int64_t batch = (items + kMostClaims - 1) / kMostClaims;
    claims = (items + batch - 1) / batch;
    batch_.store((int32_t)batch, std::memory_order_relaxed);
    items_.store((int32_t)items, std::memory_order_relaxed);
    left_.store((int32_t)claims, std::memory_order_relaxed);
    if (claims == 1) {
      ranges_[(size_t)finisher].word.store(pack(next, 0, 1), std::memory_order_release);
    } else {
      for (int t = 0; t < threads_; t += 1)
        ranges_[(size_t)t].word.store(pack(next, claims * t / threads_, claims * (t + 1) / threads_),
                                      std::memory_order_release);
    }
  }
  const bool over = stage == stages_;
  // From here on the caller of run() may return and begin another step: nothing of this one is read any more.
  current_.store(next, std::memory_order_seq_cst);
  // A lone item is already in the hands of this thread; only the end of the step concerns a sleeper then.
  if (claims > 1 || over) {
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      {
        std::lock_guard<std::mutex> hold(mutex_);
      }
      wake_.notify_all();
    }
  }
}

void Pool::wait_while(uint32_t serial) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; i += 1) {
      if (current_.load(std::memory_order_acquire) != serial) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < until);
  std::unique_lock<std::mutex> hold(mutex_);
  sleeping_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(hold, [&] { return current_.load(std::memory_order_seq_cst) != serial || stop_.load(); });
  sleeping_.fetch_sub(1, std::memory_order_relaxed);
}

void Pool::run(Engine* engine, bool alone) {
  const int32_t stages = engine_stages(engine);
  if (alone || threads_ == 1) {
    for (int32_t s = 0; s < stages && !engine_failed(engine); s += 1) {
      const int32_t items = engine_items(engine, s);
      for (int32_t i = 0; i < items; i += 1) engine_run_item(engine, s, i, 0);
    }
    return;
  }
  engine_ = engine;
  stages_ = stages;
  base_ = current_.load(std::memory_order_relaxed) + 1;
  const uint32_t end = base_ + (uint32_t)stages;
  publish(base_, 0);
  for (;;) {
    const uint32_t serial = current_.load(std::memory_order_acquire);
    if (serial == end) return;
    if (!work(serial, 0)) {
      if (current_.load(std::memory_order_acquire) == serial) wait_while(serial);
    }
  }
}

}  // namespace bitnet
