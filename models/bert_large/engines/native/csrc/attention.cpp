// A task is one head of one sequence. It takes blocks of query rows against all keys: a block's scores stay in the
// second-level cache, so the softmax needs no running rescaling, and no score matrix is ever in memory. The backward
// pass makes scores and masks anew from the saved logarithms of softmax's denominators, as FlashAttention-2 does (Dao
// 2023).
#include "attention.h"

#include <cmath>

#include "attention_tasks.h"
#include "matmul.h"
#include "parallel.h"
#include "transpose.h"

namespace bert_large {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kPrefetchRows = 8;  // rows lie on pages of their own, where the hardware does not look ahead

// to [rows, padded] = (from + bias) * scale, zero beyond `columns` and in the rows from `rows` to `padded_rows`.
template <typename T>
void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t padded_rows, int64_t columns, const float* bias,
               float scale, float* to, int64_t padded) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      int64_t left = columns - c;
      __builtin_prefetch(from + (r + kPrefetchRows) * stride + c);
      Floats value = load_up_to(from + r * stride + c, left);
      if (bias) value = (value + load_up_to(bias + c, left)) * scale;
      store(to + r * padded + c, value);
    }
  }
  std::memset(to + rows * padded, 0, (padded_rows - rows) * padded * sizeof(float));
}

// Panels of the transpose [columns, rows] of a row-major matrix [rows, columns]; both are multiples of kLanes.
Panels pack_transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  const int64_t panel_stride = columns * kPanel;
  for (int64_t r = 0; r < rows; r += kLanes) {
    float* panel = to + r / kPanel * panel_stride + r % kPanel;
    for (int64_t c = 0; c < columns; c += kLanes) {
      transpose_block(from + r * columns + c, columns, panel + c * kPanel, kPanel);
    }
  }
  return {to, kPanel, panel_stride};
}

// exp(score - largest) for the row's `length` scores, dropout applied but neither its scale nor the softmax's
// denominator; returns the logarithm of the denominator, and 1 / denominator in `inverse`.
float softmax_row(float* scores, int64_t length, const Dropout& dropout, uint32_t key, float* inverse) {
  const int64_t last = (length - 1) / kLanes * kLanes;  // where the last vector begins; it may be a part of one
  Floats largest_lanes = first_lanes(load(scores + last), length - last, -INFINITY);
  for (int64_t c = 0; c < last; c += kLanes) largest_lanes = maximum(largest_lanes, load(scores + c));
  const float largest = maximum(largest_lanes);
  Floats total{};
  for (int64_t c = 0; c < length; c += kLanes) {
    Floats power = exponential(load(scores + c) - largest);
    total += first_lanes(power, length - c, 0.0f);
    if (dropout.active) power = keep_lanes(dropout, key, c) ? power : Floats{};
    store(scores + c, power);
  }
  float denominator = sum(total);
  *inverse = 1.0f / denominator;
  return largest + std::log(denominator);
}

template <typename T>
void forward_task(const AttentionShape& shape, const Task& task, const T* qkv, const float* bias,
                  const Dropout& dropout, T* context, float* log_sums, Scratch& scratch) {
  const TaskSizes sizes(shape, task, dropout, kLanes);
  const auto& [first, length, size, width, column, padded_length, padded, score_stride, key, scale] = sizes;

  scratch.start();
  float* query = scratch.take(padded_length * padded);
  float* keys = scratch.take(padded_length * padded);
  float* values = scratch.take(padded_length * padded);
  float* keys_transposed = scratch.take(round_up(padded_length, kPanel) * padded);
  float* scores = scratch.take(kQueryBlock * score_stride);
  float* out = scratch.take(kQueryBlock * padded);

  const T* from = qkv + first * 3 * width + column;
  pack_rows(from, 3 * width, length, padded_length, size, bias + column, scale, query, padded);
  pack_rows(from + width, 3 * width, length, padded_length, size, bias + width + column, 1.0f, keys, padded);
  pack_rows(from + 2 * width, 3 * width, length, padded_length, size, bias + 2 * width + column, 1.0f, values, padded);
  const Panels key_panels = pack_transpose(keys, padded_length, padded, keys_transposed);

  for (int64_t begin = 0; begin < length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, length - begin);
    multiply(rows, padded_length, size, {query + begin * padded, padded, 1}, key_panels, scores, score_stride, true);
    float inverses[kQueryBlock];
    for (int64_t r = 0; r < rows; ++r) {
      log_sums[task.head * shape.tokens() + first + begin + r] =
          softmax_row(scores + r * score_stride, length, dropout, attention_row_key(key, task.head, begin + r),
                      &inverses[r]);
    }
    multiply(rows, padded, length, {scores, score_stride, 1}, as_panels(values, padded), out, padded, true);
    for (int64_t r = 0; r < rows; ++r) {
      T* to = context + (first + begin + r) * width + column;
      const float scale = inverses[r] * (dropout.active ? dropout.scale : 1.0f);
      for (int64_t c = 0; c < size; c += kLanes) stream_up_to(to + c, load(out + r * padded + c) * scale, size - c);
    }
  }
}

// From scores and gradients of dropped probabilities to dropped probabilities and gradients of scores, in place.
void softmax_backward_row(float* scores, float* gradients, int64_t length, float log_sum, float projection,
                          const Dropout& dropout, uint32_t key) {
  for (int64_t c = 0; c < length; c += kLanes) {
    Floats probability = exponential(load(scores + c) - log_sum);
    Floats dropped = probability, gradient = load(gradients + c);
    if (dropout.active) {
      Ints keep = keep_lanes(dropout, key, c);
      dropped = keep ? probability * dropout.scale : Floats{};
      gradient = keep ? gradient * dropout.scale : Floats{};
    }
    store(scores + c, dropped);
    store(gradients + c, probability * (gradient - projection));
  }
}

// to [rows, size] = from * scale, with the column sums in `sums` [size].
template <typename T>
void write_gradient(const float* from, int64_t padded, int64_t rows, int64_t size, float scale, T* to, int64_t stride,
                    float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < size; c += kLanes) {
      Floats value = load(from + r * padded + c) * scale;
      stream_up_to(to + r * stride + c, value, size - c);
      store_up_to(sums + c, load_up_to(sums + c, size - c) + value, size - c);
    }
  }
}

template <typename T>
void backward_task(const AttentionShape& shape, const Task& task, const T* qkv, const float* bias,
                   const Dropout& dropout, const T* context, const float* log_sums, const T* context_gradient,
                   T* qkv_gradient, float* bias_sums, Scratch& scratch) {
  const TaskSizes sizes(shape, task, dropout, kLanes);
  const auto& [first, length, size, width, column, padded_length, padded, score_stride, key, scale] = sizes;

  scratch.start();
  float* query = scratch.take(padded_length * padded);
  float* keys = scratch.take(padded_length * padded);
  float* values = scratch.take(padded_length * padded);
  float* out_gradient = scratch.take(padded_length * padded);
  float* keys_transposed = scratch.take(round_up(padded_length, kPanel) * padded);
  float* values_transposed = scratch.take(round_up(padded_length, kPanel) * padded);
  float* key_gradient = scratch.take(padded_length * padded);
  float* value_gradient = scratch.take(padded_length * padded);
  float* query_gradient = scratch.take(kQueryBlock * padded);
  float* scores = scratch.take(kQueryBlock * score_stride);
  float* gradients = scratch.take(kQueryBlock * score_stride);

  const T* from = qkv + first * 3 * width + column;
  pack_rows(from, 3 * width, length, padded_length, size, bias + column, scale, query, padded);
  pack_rows(from + width, 3 * width, length, padded_length, size, bias + width + column, 1.0f, keys, padded);
  pack_rows(from + 2 * width, 3 * width, length, padded_length, size, bias + 2 * width + column, 1.0f, values, padded);
  pack_rows<T>(context_gradient + first * width + column, width, length, padded_length, size, nullptr, 1.0f,
               out_gradient, padded);
  const Panels key_panels = pack_transpose(keys, padded_length, padded, keys_transposed);
  const Panels value_panels = pack_transpose(values, padded_length, padded, values_transposed);

  T* to = qkv_gradient + first * 3 * width + column;
  for (int64_t begin = 0; begin < length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, length - begin);
    const float *block_query = query + begin * padded, *block_gradient = out_gradient + begin * padded;
    multiply(rows, padded_length, size, {block_query, padded, 1}, key_panels, scores, score_stride, true);
    multiply(rows, padded_length, size, {block_gradient, padded, 1}, value_panels, gradients, score_stride, true);
    for (int64_t r = 0; r < rows; ++r) {
      const T* out = context + (first + begin + r) * width + column;
      Floats products{};
      for (int64_t c = 0; c < size; c += kLanes) {
        __builtin_prefetch(out + kPrefetchRows * width + c);
        products += load_up_to(out + c, size - c) * load(block_gradient + r * padded + c);
      }
      softmax_backward_row(scores + r * score_stride, gradients + r * score_stride, length,
                           log_sums[task.head * shape.tokens() + first + begin + r], sum(products), dropout,
                           attention_row_key(key, task.head, begin + r));
    }
    const bool is_first = begin == 0;
    multiply(length, padded, rows, {scores, 1, score_stride}, as_panels(block_gradient, padded), value_gradient, padded,
             is_first);
    multiply(length, padded, rows, {gradients, 1, score_stride}, as_panels(block_query, padded), key_gradient, padded,
             is_first);
    multiply(rows, padded, length, {gradients, score_stride, 1}, as_panels(keys, padded), query_gradient, padded, true);
    write_gradient(query_gradient, padded, rows, size, scale, to + begin * 3 * width, 3 * width, bias_sums);
  }
  write_gradient(key_gradient, padded, length, size, 1.0f, to + width, 3 * width, bias_sums + size);
  write_gradient(value_gradient, padded, length, size, 1.0f, to + 2 * width, 3 * width, bias_sums + 2 * size);
}

}  // namespace

template <typename T>
void attention_forward(int threads, const AttentionShape& shape, const T* qkv, const float* bias,
                       const Dropout& dropout, T* context, float* log_sums) {
  const std::vector<Task> tasks = order_tasks(shape);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    forward_task(shape, tasks[i], qkv, bias, dropout, context, log_sums, thread_scratch());
  });
}

template <typename T>
void attention_backward(int threads, const AttentionShape& shape, const T* qkv, const float* bias,
                        const Dropout& dropout, const T* context, const float* log_sums, const T* context_gradient,
                        T* qkv_gradient, float* bias_gradient) {
  const std::vector<Task> tasks = order_tasks(shape);
  BiasSums bias_sums(shape, tasks);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    backward_task(shape, tasks[i], qkv, bias, dropout, context, log_sums, context_gradient, qkv_gradient,
                  bias_sums.of_task(i), thread_scratch());
  });
  bias_sums.add_to(bias_gradient);
}

#define INSTANTIATE(T)                                                                                            \
  template void attention_forward<T>(int, const AttentionShape&, const T*, const float*, const Dropout&, T*, float*); \
  template void attention_backward<T>(int, const AttentionShape&, const T*, const float*, const Dropout&, const T*, \
                                      const float*, const T*, T*, float*);
INSTANTIATE(float)
INSTANTIATE(BFloat16)

}  // namespace bert_large
