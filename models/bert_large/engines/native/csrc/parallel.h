// Loops over PyTorch's threads. Results never depend on which thread did what.
#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace bert_large {

// Calls work(thread, begin, end) with even, consecutive parts of `rows`, one per thread.
template <typename Work>
void parallel_parts(int threads, int64_t rows, const Work& work) {
  threads = (int)std::max<int64_t>(1, std::min<int64_t>(threads, rows));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
    work((int)thread, rows * thread / count, rows * (thread + 1) / count);
    _mm_sfence();  // what `stream` stored is there before other threads go on
  }
}

// Calls work(task) for every task, the next free thread taking the next one.
template <typename Work>
void parallel_tasks(int threads, int64_t tasks, const Work& work) {
  threads = (int)std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    work(task);
    _mm_sfence();
  }
}

// Sums of columns that each thread gathers on its own.
class ColumnSums {
 public:
  ColumnSums(int threads, int64_t columns)
      : threads_(threads), columns_(columns), stride_((columns + 31) / 32 * 32), sums_(threads * stride_, 0.0f) {}

  float* of_thread(int thread) { return sums_.data() + thread * stride_; }

  // Adds the sums of all threads, in their order, to target [columns].
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
