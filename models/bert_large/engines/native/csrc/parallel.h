// Loops over PyTorch's threads: the kernels are linked against the OpenMP runtime that PyTorch brought, so they run on
// the threads of its pool. Results never depend on which thread computed what.
#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace bert_large {

struct Range {
  int64_t begin, end;

  int64_t count() const { return end - begin; }
  // One of `parts` even, consecutive parts.
  Range part(int64_t index, int64_t parts) const {
    return {begin + count() * index / parts, begin + count() * (index + 1) / parts};
  }
};

// Calls work(thread, begin, end) with even, consecutive parts of `rows`, one per thread.
template <typename Work>
void parallel_parts(int threads, int64_t rows, const Work& work) {
  threads = (int)std::max<int64_t>(1, std::min<int64_t>(threads, rows));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
    work((int)thread, rows * thread / count, rows * (thread + 1) / count);
    _mm_sfence();  // makes what `stream` stored visible before other threads pass the barrier
  }
}

// Calls work(task) for every task; a thread that is free takes the next one.
template <typename Work>
void parallel_tasks(int threads, int64_t tasks, const Work& work) {
  threads = (int)std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    work(task);
    _mm_sfence();
  }
}

// Column sums over rows, such as the gradient of a bias. Each thread has sums of its own, padded to cache lines, and
// `add_to` adds them in the order of threads: atomic additions would make the order, and so the last bits, random.
class ColumnSums {
 public:
  ColumnSums(int threads, int64_t columns)
      : threads_(threads), columns_(columns), stride_((columns + 31) / 32 * 32), sums_(threads * stride_, 0.0f) {}

  float* of_thread(int thread) { return sums_.data() + thread * stride_; }

  // Adds to target [columns].
  void add_to(float* target) const {
    for (int thread = 0; thread < threads_; ++thread) {
      const float* part = sums_.data() + thread * stride_;
      for (int64_t column = 0; column < columns_; ++column) target[column] += part[column];
    }
  }

 private:
  int threads_;
  int64_t columns_, stride_;
  std::vector<float> sums_;
};

}  // namespace bert_large
