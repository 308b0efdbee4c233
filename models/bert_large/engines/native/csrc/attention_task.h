// The skeleton of the attention kernels: tasks, and both passes over the blocks of a task.
//
// A task is one head of one sequence. Both passes take kQueryBlock query rows at a time against all keys. What differs
// between products of floats and of pairs is how matrices are laid out and multiplied: `forward_tasks` and
// `backward_tasks` take that as a template parameter, a "Products" type. Its constructor packs a task's matrices into
// the thread's scratch memory; the members that it must have are listed above the two functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "attention.h"
#include "parallel.h"
#include "scratch.h"

namespace bert_large {

constexpr int64_t kQueryBlock = 64;   // rows of scores that fit into a second-level cache at 512 tokens
constexpr int64_t kPrefetchRows = 32;  // a row of qkv is KiBs from the next, beyond the reach of hardware prefetchers

struct Task {
  int64_t sequence, head;
};

// All tasks, the costliest first, so that short ones even out the threads' work at the end.
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

// The sizes and offsets that a task works with; its matrices are padded to the multiples.
struct TaskSizes {
  TaskSizes(const AttentionShape& shape, const Task& task, const Dropout& dropout, int64_t length_multiple,
            int64_t head_multiple)
      : head(task.head),
        first_token(shape.cu_seqlens[task.sequence]),
        length(shape.cu_seqlens[task.sequence + 1] - first_token),
        keys(shape.keys ? shape.keys[task.sequence] : length),
        head_size(shape.head_size),
        width(shape.width()),
        column(head * head_size),
        padded_length(round_up(length, length_multiple)),
        padded_head(round_up(head_size, head_multiple)),
        score_stride(padded_length + kLanes),
        first_log_sum(head * shape.tokens() + first_token),
        sample_key(dropout.active ? bert_large::sample_key(dropout, shape.samples[task.sequence]) : 0),
        scale(1 / std::sqrt((float)head_size)) {}

  const int64_t head, first_token, length;   // the sequence is tokens first_token .. first_token + length - 1
  const int64_t keys;                        // of which so many are attended to
  const int64_t head_size, width, column;    // columns of a head and of all heads; this head's first column
  const int64_t padded_length, padded_head;  // `length` and `head_size`, rounded up
  const int64_t score_stride;                // not a power of two: rows would compete for the same cache sets
  const int64_t first_log_sum;               // index of the first token's element of log_sums
  const uint32_t sample_key;                 // of the sequence's dropout
  const float scale;                         // of scores: 1 / sqrt(head_size)
};

// Column sums of dQ, dK and dV of each task. They are added up in the order of tasks, not in the order in which threads
// finish them: floating-point addition is not associative, and results must be the same bits in every run.
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

// Writes exp(score - largest) to `powers` for the row's first `length` scores, after dropout but without the factors
// 1 / (1 - p) and 1 / denominator, which are applied to the far smaller output; zeros up to `padded_length`. `powers`
// may be `scores`. Returns the logarithm of the denominator, and 1 / denominator in `inverse`.
template <typename T>
float softmax_row(const float* scores, int64_t length, int64_t padded_length, const Dropout& dropout, uint32_t row_key,
                  T* powers, float* inverse) {
  const int64_t last = (length - 1) / kLanes * kLanes;  // where the last vector begins, which may be partly filled
  Floats largest_lanes = first_lanes(load(scores + last), length - last, -INFINITY);
  for (int64_t c = 0; c < last; c += kLanes) largest_lanes = maximum(largest_lanes, load(scores + c));
  const float largest = maximum(largest_lanes);
  Floats total{};
  const auto put = [&](int64_t c, Floats power) {
    total += power;
    if (dropout.active) power = keep_lanes(dropout, row_key, c) ? power : Floats{};
    store(powers + c, power);
  };
  for (int64_t c = 0; c < last; c += kLanes) put(c, exponential(load(scores + c) - largest));
  put(last, first_lanes(exponential(load(scores + last) - largest), length - last, 0.0f));
  for (int64_t c = last + kLanes; c < padded_length; c += kLanes) store(powers + c, Floats{});
  const float denominator = sum(total);
  *inverse = 1.0f / denominator;
  return largest + std::log(denominator);
}

// What the backward pass needs of a query row besides its scores and gradients.
struct BackwardRow {
  float log_sum, projection;  // L_i and D_i
  uint32_t key;               // of the row's dropout
};

struct ScoreGradient {
  Floats dropped, gradient;  // of the lanes: probabilities after dropout, and dS
};

// dS and the dropped probabilities of some lanes, from their probabilities P and from dO V^T.
inline ScoreGradient differentiate(Floats probability, Floats gradient, const BackwardRow& row, const Dropout& dropout,
                                   int64_t column) {
  Floats dropped = probability;
  if (dropout.active) {
    const Ints keep = keep_lanes(dropout, row.key, column);
    dropped = keep ? probability * dropout.scale : Floats{};
    gradient = keep ? gradient * dropout.scale : Floats{};
  }
  return {dropped, probability * (gradient - row.projection)};
}

// to [rows, columns] = from * scale, where rows of `from` are `from_stride` apart; adds the column sums to `sums`.
template <typename T>
void write_gradient(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float scale, T* to,
                    int64_t to_stride, float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Floats value = load(from + r * from_stride + c) * scale;
      stream_up_to(to + r * to_stride + c, value, columns - c);
      store_up_to(sums + c, load_up_to(sums + c, columns - c) + value, columns - c);
    }
  }
}

// A task's forward pass. Products(sizes, arrays, scratch) packs Q (scaled), K and V; then for each block of `rows`
// query rows from `begin` on:
//   multiply_keys(begin, rows)    scores = Q K^T
//   scores(r), powers(r)          row r of the block's scores, and where its softmax goes
//   multiply_values(rows)         output = powers V
//   output(r)                     row r of it, [head_size]
template <typename Products, typename T>
void forward_task(const TaskSizes& sizes, const Dropout& dropout, const AttentionForward<T>& arrays, Scratch& scratch) {
  scratch.start();
  Products products(sizes, arrays, scratch);
  for (int64_t begin = 0; begin < sizes.length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, sizes.length - begin);
    products.multiply_keys(begin, rows);
    float inverses[kQueryBlock];
    for (int64_t r = 0; r < rows; ++r) {
      arrays.log_sums[sizes.first_log_sum + begin + r] =
          softmax_row(products.scores(r), sizes.keys, sizes.padded_length, dropout,
                      attention_row_key(sizes.sample_key, sizes.head, begin + r), products.powers(r), &inverses[r]);
    }
    products.multiply_values(rows);
    for (int64_t r = 0; r < rows; ++r) {
      T* to = arrays.context + (sizes.first_token + begin + r) * sizes.width + sizes.column;
      const float factor = inverses[r] * (dropout.active ? dropout.scale : 1.0f);
      for (int64_t c = 0; c < sizes.head_size; c += kLanes) {
        Products::write(to + c, load(products.output(r) + c) * factor, sizes.head_size - c);
      }
    }
  }
}

// A task's backward pass. Products(sizes, arrays, scratch) packs Q (scaled), K, V and dO, so that the gradients can take
// the place of the first three; then for each block of `rows` query rows from `begin` on:
//   multiply_keys_and_values(begin, rows)   scores = Q K^T and gradients = dO V^T
//   out_gradient(row)                       row `row` of dO, zero from head_size up to padded_head
//   differentiate_rows(rows, row_at)        dropped probabilities and dS of the block; row_at(r) is a BackwardRow
//   add_products(begin, rows)               dV += dropped^T dO, dK += dS^T Q, query_gradient = dS K
// and at the end key_gradient(), value_gradient(): dK and dV, rows padded_head apart.
template <typename Products, typename T>
void backward_task(const TaskSizes& sizes, const Dropout& dropout, const AttentionBackward<T>& arrays,
                   float* bias_sums, Scratch& scratch) {
  scratch.start();
  Products products(sizes, arrays, scratch);
  const int64_t size = sizes.head_size, stride = 3 * sizes.width;
  T* to = arrays.qkv + sizes.first_token * stride + sizes.column;
  for (int64_t begin = 0; begin < sizes.length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, sizes.length - begin);
    products.multiply_keys_and_values(begin, rows);
    products.differentiate_rows(rows, dropout, [&](int64_t r) {
      const T* out = arrays.context + (sizes.first_token + begin + r) * sizes.width + sizes.column;
      const auto* out_gradient = products.out_gradient(begin + r);
      Floats terms{};
      for (int64_t c = 0; c < size; c += kLanes) {
        __builtin_prefetch(out + kPrefetchRows * sizes.width + c);
        terms += load_up_to(out + c, size - c) * load(out_gradient + c);
      }
      return BackwardRow{arrays.log_sums[sizes.first_log_sum + begin + r], sum(terms),
                         attention_row_key(sizes.sample_key, sizes.head, begin + r)};
    });
    products.add_products(begin, rows);
    write_gradient(products.query_gradient, sizes.padded_head, rows, size, sizes.scale, to + begin * stride, stride,
                   bias_sums);
  }
  // Q was packed with its scale, which dK = s dS^T Q therefore has already.
  write_gradient(products.key_gradient(), sizes.padded_head, sizes.length, size, 1.0f, to + sizes.width, stride,
                 bias_sums + size);
  write_gradient(products.value_gradient(), sizes.padded_head, sizes.length, size, 1.0f, to + 2 * sizes.width, stride,
                 bias_sums + 2 * size);
}

template <typename Products>
TaskSizes sizes_of(const AttentionShape& shape, const Task& task, const Dropout& dropout) {
  return TaskSizes(shape, task, dropout, Products::length_multiple(), Products::kHeadMultiple);
}

// Products::finish() is called after each task.
template <typename Products, typename T>
void forward_tasks(int threads, const AttentionShape& shape, const Dropout& dropout,
                   const AttentionForward<T>& arrays) {
  const std::vector<Task> tasks = order_tasks(shape);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    forward_task<Products>(sizes_of<Products>(shape, tasks[i], dropout), dropout, arrays, thread_scratch());
    Products::finish();
  });
}

template <typename Products, typename T>
void backward_tasks(int threads, const AttentionShape& shape, const Dropout& dropout,
                    const AttentionBackward<T>& arrays) {
  const std::vector<Task> tasks = order_tasks(shape);
  BiasSums bias_sums(shape, tasks);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    backward_task<Products>(sizes_of<Products>(shape, tasks[i], dropout), dropout, arrays, bias_sums.of_task(i),
                            thread_scratch());
    Products::finish();
  });
  bias_sums.add_to(arrays.bias_gradient);
}

}  // namespace bert_large
