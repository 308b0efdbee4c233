// Attention in bfloat16 on AMX: the scheme of attention.cpp with matrix products by oneDNN's small-matrix kernels
// ("brgemm", which PyTorch offers), sums and softmax in float.
//
// These kernels want the second factor in pairs of rows ("VNNI"): element (k, n) at [k / 2][n][k % 2], a 32-bit word for
// two rows. Where the softmax's rows are a second factor, two rows are made at a time. The gradients of key and value
// come out transposed, so that the probabilities need not be.
#include <ATen/native/CPUBlas.h>

#include <cmath>

#include "attention.h"
#include "attention_tasks.h"
#include "parallel.h"
#include "transpose.h"

namespace bert_large {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kTile = 32;  // sizes are padded to it: whole tiles, and few different shapes to make code for

// What every product here is: C [rows, columns] (+)= A [rows, depth] B, B in pairs of rows with `columns` words a pair.
void multiply(int64_t rows, int64_t columns, int64_t depth, const BFloat16* a, int64_t lda, const BFloat16* b,
              int64_t ldb, float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(rows, columns, depth, lda, ldb, ldc, add, reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c);
}

BFloat16* take(Scratch& scratch, int64_t count) {
  return reinterpret_cast<BFloat16*>(scratch.take((count + 1) / 2));
}

Words load_words(const void* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

void store_words(void* to, Words words) { std::memcpy(to, &words, sizeof words); }

Words pair(Floats low, Floats high) {
  return __builtin_convertvector(round_to_bfloat16(low), Words) |
         __builtin_convertvector(round_to_bfloat16(high), Words) << 16;
}

// A head's rows of query, key, value or of the context's gradient, and the forms of them that products want.
struct Operand {
  int64_t length, padded_length, size, padded;

  // to [padded_length, padded] = (from + bias) * scale, zero where padded.
  BFloat16* rows(Scratch& scratch, const BFloat16* from, int64_t stride, const float* bias, float scale) const {
    BFloat16* to = take(scratch, padded_length * padded);
    std::memset(to, 0, padded_length * padded * sizeof(BFloat16));
    for (int64_t r = 0; r < length; ++r) {
      for (int64_t c = 0; c < size; c += kLanes) {
        int64_t left = size - c;
        __builtin_prefetch(from + (r + 8) * stride + c);
        Floats value = load_up_to(from + r * stride + c, left);
        if (bias) value = (value + load_up_to(bias + c, left)) * scale;
        store_up_to(to + r * padded + c, value, left);
      }
    }
    return to;
  }

  // The rows as a second factor: [padded_length / 2][padded] words.
  BFloat16* row_pairs(Scratch& scratch, const BFloat16* rows) const {
    BFloat16* to = take(scratch, padded_length * padded);
    for (int64_t r = 0; r < padded_length; r += 2) {
      for (int64_t c = 0; c < padded; c += kLanes) {
        Halves low, high;
        std::memcpy(&low, rows + r * padded + c, sizeof low);
        std::memcpy(&high, rows + (r + 1) * padded + c, sizeof high);
        store_words(to + (r * padded + 2 * c),
                    __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16);
      }
    }
    return to;
  }

  // The transpose as a second factor: [padded / 2][padded_length] words.
  BFloat16* transposed_pairs(Scratch& scratch, const BFloat16* rows) const {
    BFloat16* to = take(scratch, padded_length * padded);
    transpose_words(reinterpret_cast<const float*>(rows), padded_length, padded / 2, padded / 2,
                    reinterpret_cast<float*>(to), padded_length);
    return to;
  }

  // The transpose as a first factor [padded, padded_length], from `transposed_pairs`.
  BFloat16* transposed(Scratch& scratch, const BFloat16* pairs) const {
    BFloat16* to = take(scratch, padded_length * padded);
    for (int64_t d = 0; d < padded; d += 2) {
      for (int64_t r = 0; r < padded_length; r += kLanes) {
        Words words = load_words(pairs + d * padded_length + 2 * r);
        Halves low = __builtin_convertvector(words & 0xFFFF, Halves);
        Halves high = __builtin_convertvector(words >> 16, Halves);
        std::memcpy(to + d * padded_length + r, &low, sizeof low);
        std::memcpy(to + (d + 1) * padded_length + r, &high, sizeof high);
      }
    }
    return to;
  }
};

// As `softmax_row` of attention.cpp, from float scores to bfloat16 powers; zero from `length` to `padded_length`.
float softmax_row(const float* scores, int64_t length, int64_t padded_length, const Dropout& dropout, uint32_t key,
                  BFloat16* powers, float* inverse) {
  Floats largest_lanes = broadcast(-INFINITY);
  for (int64_t c = 0; c < length; c += kLanes) {
    largest_lanes = maximum(largest_lanes, first_lanes(load(scores + c), length - c, -INFINITY));
  }
  const float largest = maximum(largest_lanes);
  Floats total{};
  for (int64_t c = 0; c < padded_length; c += kLanes) {
    Floats power{};
    if (c < length) power = first_lanes(exponential(load(scores + c) - largest), length - c, 0.0f);
    total += power;
    if (dropout.active) power = keep_lanes(dropout, key, c) ? power : Floats{};
    store(powers + c, power);
  }
  const float denominator = sum(total);
  *inverse = 1.0f / denominator;
  return largest + std::log(denominator);
}

struct Gradients {
  Floats dropped, score;
};

struct Row {
  const float *scores, *gradients;
  float log_sum, projection;
  uint32_t key;
  bool real;  // not padding

  // Dropped probabilities and gradients of scores of the columns from `c` on.
  Gradients at(int64_t c, int64_t length, const Dropout& dropout) const {
    if (!real || c >= length) return {Floats{}, Floats{}};
    Floats probability = first_lanes(exponential(load(scores + c) - log_sum), length - c, 0.0f);
    Floats dropped = probability, gradient = load(gradients + c);
    if (dropout.active) {
      Ints keep = keep_lanes(dropout, key, c);
      dropped = keep ? probability * dropout.scale : Floats{};
      gradient = keep ? gradient * dropout.scale : Floats{};
    }
    return {dropped, first_lanes(probability * (gradient - projection), length - c, 0.0f)};
  }
};

void forward_task(const AttentionShape& shape, const Task& task, const BFloat16* qkv, const float* bias,
                  const Dropout& dropout, BFloat16* context, float* log_sums, Scratch& scratch) {
  const TaskSizes sizes(shape, task, dropout, kTile);
  const auto& [first, length, size, width, column, padded_length, padded, score_stride, key, scale] = sizes;
  const Operand operand{length, padded_length, size, padded};

  scratch.start();
  const BFloat16* from = qkv + first * 3 * width + column;
  BFloat16* query = operand.rows(scratch, from, 3 * width, bias + column, scale);
  BFloat16* keys = operand.rows(scratch, from + width, 3 * width, bias + width + column, 1.0f);
  BFloat16* values = operand.rows(scratch, from + 2 * width, 3 * width, bias + 2 * width + column, 1.0f);
  const BFloat16* key_pairs = operand.transposed_pairs(scratch, keys);
  const BFloat16* value_pairs = operand.row_pairs(scratch, values);
  float* scores = scratch.take(kQueryBlock * score_stride);
  BFloat16* powers = take(scratch, kQueryBlock * padded_length);
  float* out = scratch.take(kQueryBlock * padded);

  for (int64_t begin = 0; begin < length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, length - begin);
    const int64_t padded_rows = std::min(kQueryBlock, padded_length - begin);
    multiply(padded_rows, padded_length, padded, query + begin * padded, padded, key_pairs, padded_length, scores,
             score_stride, false);
    float inverses[kQueryBlock];
    for (int64_t r = 0; r < rows; ++r) {
      log_sums[task.head * shape.tokens() + first + begin + r] =
          softmax_row(scores + r * score_stride, length, padded_length, dropout,
                      attention_row_key(key, task.head, begin + r), powers + r * padded_length, &inverses[r]);
    }
    std::memset(powers + rows * padded_length, 0, (padded_rows - rows) * padded_length * sizeof(BFloat16));
    multiply(padded_rows, padded, padded_length, powers, padded_length, value_pairs, padded, out, padded, false);
    for (int64_t r = 0; r < rows; ++r) {
      BFloat16* to = context + (first + begin + r) * width + column;
      const float factor = inverses[r] * (dropout.active ? dropout.scale : 1.0f);
      for (int64_t c = 0; c < size; c += kLanes) store_up_to(to + c, load(out + r * padded + c) * factor, size - c);
    }
  }
}

// to [length, size] = the transpose of from [padded, padded_length], with the column sums in `sums` [size].
void write_transposed(const Operand& operand, const float* from, Scratch& scratch, BFloat16* to, int64_t stride,
                      float* sums) {
  float* rows = scratch.take(operand.padded_length * operand.padded);
  transpose_words(from, operand.padded, operand.padded_length, operand.padded_length, rows, operand.padded);
  for (int64_t r = 0; r < operand.length; ++r) {
    for (int64_t c = 0; c < operand.size; c += kLanes) {
      int64_t left = operand.size - c;
      Floats value = load(rows + r * operand.padded + c);
      stream_up_to(to + r * stride + c, value, left);
      store_up_to(sums + c, load_up_to(sums + c, left) + value, left);
    }
  }
}

void backward_task(const AttentionShape& shape, const Task& task, const BFloat16* qkv, const float* bias,
                   const Dropout& dropout, const BFloat16* context, const float* log_sums,
                   const BFloat16* context_gradient, BFloat16* qkv_gradient, float* bias_sums, Scratch& scratch) {
  const TaskSizes sizes(shape, task, dropout, kTile);
  const auto& [first, length, size, width, column, padded_length, padded, score_stride, key, scale] = sizes;
  const Operand operand{length, padded_length, size, padded};

  scratch.start();
  const BFloat16* from = qkv + first * 3 * width + column;
  BFloat16* query = operand.rows(scratch, from, 3 * width, bias + column, scale);
  BFloat16* keys = operand.rows(scratch, from + width, 3 * width, bias + width + column, 1.0f);
  BFloat16* values = operand.rows(scratch, from + 2 * width, 3 * width, bias + 2 * width + column, 1.0f);
  BFloat16* out_gradient = operand.rows(scratch, context_gradient + first * width + column, width, nullptr, 1.0f);
  const BFloat16* key_transposed_pairs = operand.transposed_pairs(scratch, keys);
  const BFloat16* value_transposed_pairs = operand.transposed_pairs(scratch, values);
  const BFloat16* key_pairs = operand.row_pairs(scratch, keys);
  const BFloat16* query_transposed = operand.transposed(scratch, operand.transposed_pairs(scratch, query));
  const BFloat16* out_transposed = operand.transposed(scratch, operand.transposed_pairs(scratch, out_gradient));
  float* scores = scratch.take(kQueryBlock * score_stride);
  float* gradients = scratch.take(kQueryBlock * score_stride);
  BFloat16* dropped_pairs = take(scratch, kQueryBlock * padded_length);
  BFloat16* score_gradients = take(scratch, kQueryBlock * padded_length);
  BFloat16* score_gradient_pairs = take(scratch, kQueryBlock * padded_length);
  float* query_gradient = scratch.take(kQueryBlock * padded);
  float* key_gradient = scratch.take(padded * padded_length);    // transposed
  float* value_gradient = scratch.take(padded * padded_length);  // transposed

  BFloat16* to = qkv_gradient + first * 3 * width + column;
  for (int64_t begin = 0; begin < length; begin += kQueryBlock) {
    const int64_t rows = std::min(kQueryBlock, length - begin);
    const int64_t padded_rows = std::min(kQueryBlock, padded_length - begin);
    multiply(padded_rows, padded_length, padded, query + begin * padded, padded, key_transposed_pairs, padded_length,
             scores, score_stride, false);
    multiply(padded_rows, padded_length, padded, out_gradient + begin * padded, padded, value_transposed_pairs,
             padded_length, gradients, score_stride, false);
    auto row_at = [&](int64_t r) {
      Row row{scores + r * score_stride, gradients + r * score_stride, 0, 0, 0, r < rows};
      if (!row.real) return row;
      const int64_t token = first + begin + r;
      Floats products{};
      for (int64_t c = 0; c < size; c += kLanes) {
        products += load_up_to(context + token * width + column + c, size - c) *
                    load(out_gradient + (begin + r) * padded + c);
      }
      row.log_sum = log_sums[task.head * shape.tokens() + token];
      row.projection = sum(products);
      row.key = attention_row_key(key, task.head, begin + r);
      return row;
    };
    for (int64_t r = 0; r < padded_rows; r += 2) {
      const Row low = row_at(r), high = row_at(r + 1);
      for (int64_t c = 0; c < padded_length; c += kLanes) {
        const Gradients a = low.at(c, length, dropout), b = high.at(c, length, dropout);
        store_words(dropped_pairs + r * padded_length + 2 * c, pair(a.dropped, b.dropped));
        store_words(score_gradient_pairs + r * padded_length + 2 * c, pair(a.score, b.score));
        store(score_gradients + r * padded_length + c, a.score);
        store(score_gradients + (r + 1) * padded_length + c, b.score);
      }
    }
    multiply(padded, padded_length, padded_rows, out_transposed + begin, padded_length, dropped_pairs, padded_length,
             value_gradient, padded_length, begin > 0);
    multiply(padded, padded_length, padded_rows, query_transposed + begin, padded_length, score_gradient_pairs,
             padded_length, key_gradient, padded_length, begin > 0);
    multiply(padded_rows, padded, padded_length, score_gradients, padded_length, key_pairs, padded, query_gradient,
             padded, false);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < size; c += kLanes) {
        int64_t left = size - c;
        Floats value = load(query_gradient + r * padded + c) * scale;
        stream_up_to(to + (begin + r) * 3 * width + c, value, left);
        store_up_to(bias_sums + c, load_up_to(bias_sums + c, left) + value, left);
      }
    }
  }
  write_transposed(operand, key_gradient, scratch, to + width, 3 * width, bias_sums + size);
  write_transposed(operand, value_gradient, scratch, to + 2 * width, 3 * width, bias_sums + 2 * size);
}

}  // namespace

bool amx_is_there() { return at::native::cpublas::could_pack(at::kBFloat16); }

void attention_forward_amx(int threads, const AttentionShape& shape, const BFloat16* qkv, const float* bias,
                           const Dropout& dropout, BFloat16* context, float* log_sums) {
  const std::vector<Task> tasks = order_tasks(shape);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    forward_task(shape, tasks[i], qkv, bias, dropout, context, log_sums, thread_scratch());
    at::native::cpublas::brgemm_release();
  });
}

void attention_backward_amx(int threads, const AttentionShape& shape, const BFloat16* qkv, const float* bias,
                            const Dropout& dropout, const BFloat16* context, const float* log_sums,
                            const BFloat16* context_gradient, BFloat16* qkv_gradient, float* bias_gradient) {
  const std::vector<Task> tasks = order_tasks(shape);
  BiasSums bias_sums(shape, tasks);
  parallel_tasks(threads, tasks.size(), [&](int64_t i) {
    backward_task(shape, tasks[i], qkv, bias, dropout, context, log_sums, context_gradient, qkv_gradient,
                  bias_sums.of_task(i), thread_scratch());
    at::native::cpublas::brgemm_release();
  });
  bias_sums.add_to(bias_gradient);
}

}  // namespace bert_large
