// Deals items out to threads. Which thread computes which item never matters to the result, so items are taken one by
// one from a counter. Idle threads spin briefly (the next loop of a step follows at once), then sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bitnet_train {

class Pool {
 public:
  /** The caller of run() is one of the threads. May throw std::system_error. */
  explicit Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
    try {
      for (int i = 1; i < threads_; i += 1) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  /** Calls task(item, thread) for every item below `items`; returns when all are done. Tasks must not throw. */
  void run(int64_t items, const std::function<void(int64_t, int)>& task) {
    if (threads_ == 1 || items <= 1) {
      for (int64_t i = 0; i < items; i += 1) task(i, 0);
      return;
    }
    task_ = &task;
    items_ = items;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> hold(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take(0);
    while (busy_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  }

 private:
  void take(int id) {
    for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < items_;
         i = next_.fetch_add(1, std::memory_order_relaxed))
      (*task_)(i, id);
  }

  void work(int id) {
    uint64_t seen = 0;
    for (;;) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
      while (round_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) {
      }
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> hold(mutex_);
        wake_.wait(hold, [&] { return round_.load(std::memory_order_acquire) != seen; });
      }
      seen = round_.load(std::memory_order_acquire);
      if (stopping_.load(std::memory_order_acquire)) return;
      take(id);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  void stop() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      stopping_.store(true, std::memory_order_release);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  const int threads_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t, int)>* task_ = nullptr;
  int64_t items_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace bitnet_train
