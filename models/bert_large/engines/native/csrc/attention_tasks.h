// What the attention kernels share: the list of tasks, a thread's memory, and sums per task.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "attention.h"

namespace bert_large {

struct Task {
  int64_t sequence, head;
};

// All tasks, the costliest first, so that the cheap ones even out the threads at the end.
inline std::vector<Task> order_tasks(const AttentionShape& shape) {
  std::vector<int64_t> sequences(shape.sequences);
  std::iota(sequences.begin(), sequences.end(), 0);
  std::stable_sort(sequences.begin(), sequences.end(), [&](int64_t a, int64_t b) {
    return shape.cu_seqlens[a + 1] - shape.cu_seqlens[a] > shape.cu_seqlens[b + 1] - shape.cu_seqlens[b];
  });
  std::vector<Task> tasks;
  for (int64_t sequence : sequences) {
    for (int64_t head = 0; head < shape.heads; ++head) tasks.push_back({sequence, head});
  }
  return tasks;
}

// The sizes that a task works with; `multiple` is what its matrices are padded to.
struct TaskSizes {
  TaskSizes(const AttentionShape& shape, const Task& task, const Dropout& dropout, int64_t multiple)
      : first(shape.cu_seqlens[task.sequence]),
        length(shape.cu_seqlens[task.sequence + 1] - first),
        size(shape.head_size),
        width(shape.width()),
        column(task.head * size),
        padded_length(round_up(length, multiple)),
        padded(round_up(size, multiple)),
        score_stride(padded_length + kLanes),
        key(dropout.active ? sample_key(dropout, shape.samples[task.sequence]) : 0),
        scale(1 / std::sqrt((float)size)) {}

  const int64_t first, length;           // the sequence's tokens
  const int64_t size, width, column;     // of a head, of all heads, where this head begins
  const int64_t padded_length, padded;   // `length` and `size`
  const int64_t score_stride;            // not a power of two, which would collide in the cache
  const uint32_t key;                    // of the sequence's dropout
  const float scale;                     // of scores
};

// Memory of one thread, taken piece by piece and all given back by `start`. Kept from task to task: fresh pages are
// slow.
class Scratch {
 public:
  void start() {
    piece_ = 0;
  }

  // `count` uninitialised floats at the start of a cache line.
  float* take(int64_t count) {
    if (piece_ == pieces_.size()) pieces_.emplace_back();
    Piece& piece = pieces_[piece_++];
    if (piece.capacity < count) {
      piece.floats.reset(static_cast<float*>(std::aligned_alloc(64, round_up(count * sizeof(float), 4096))));
      piece.capacity = count;
    }
    return piece.floats.get();
  }

 private:
  struct Free {
    void operator()(float* floats) const { std::free(floats); }
  };
  struct Piece {
    std::unique_ptr<float, Free> floats;
    int64_t capacity = 0;
  };
  std::vector<Piece> pieces_;
  size_t piece_ = 0;
};

inline Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// Column sums of the gradients of query, key and value of each task. They are added up in an order that does not depend
// on which thread did which task, so that results are the same bits every time.
class BiasSums {
 public:
  BiasSums(const AttentionShape& shape, const std::vector<Task>& tasks)
      : shape_(shape), tasks_(tasks), sums_(tasks.size() * 3 * shape.head_size, 0.0f) {}

  float* of_task(int64_t task) { return sums_.data() + task * 3 * shape_.head_size; }

  // Adds to target [3 * width].
  void add_to(float* target) {
    for (size_t task = 0; task < tasks_.size(); ++task) {
      const float* part = of_task(task);
      for (int64_t which = 0; which < 3; ++which) {
        float* columns = target + which * shape_.width() + tasks_[task].head * shape_.head_size;
        for (int64_t c = 0; c < shape_.head_size; ++c) columns[c] += part[which * shape_.head_size + c];
      }
    }
  }

 private:
  const AttentionShape& shape_;
  const std::vector<Task>& tasks_;
  std::vector<float> sums_;
};

}  // namespace bert_large
