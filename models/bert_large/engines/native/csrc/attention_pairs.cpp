// Attention in bfloat16 with products of pairs: on AMX by oneDNN's small-matrix kernels ("brgemm", through PyTorch),
// which generate tile code for each shape at run time, else on vectors by `multiply` of matmul.h. Sums and softmax are
// in float.
//
// Such a product takes its second factor in pairs of rows ("VNNI" order): element (k, n) at [k / 2][n][k % 2], one
// 32-bit word for two rows. Where rows of the softmax are a second factor, two are computed at a time and written as
// words. dK and dV are computed transposed, as dK^T = Q^T dS and dV^T = dO^T P with the probabilities as the second
// factor, so that the probabilities, which change with every block, need not be transposed.
#include <ATen/native/CPUBlas.h>

#include "attention.h"
#include "attention_task.h"
#include "matmul.h"
#include "transpose.h"

namespace bert_large {

bool amx_is_there() {
  static const bool found = at::native::cpublas::could_pack(at::kBFloat16);
  return found;
}

namespace {

const Pair* as_pairs(const BFloat16* from) { return reinterpret_cast<const Pair*>(from); }
Pair* as_pairs(BFloat16* to) { return reinterpret_cast<Pair*>(to); }

// C [rows, columns] = A [rows, depth] B, or += where `add`; B in pairs of rows with `columns` words per pair.
void multiply(int64_t rows, int64_t columns, int64_t depth, const BFloat16* a, int64_t lda, const BFloat16* b,
              int64_t ldb, float* c, int64_t ldc, bool add) {
  if (amx_is_there()) {
    at::native::cpublas::brgemm(rows, columns, depth, lda, ldb, ldc, add, reinterpret_cast<const at::BFloat16*>(a),
                                reinterpret_cast<const at::BFloat16*>(b), c);
  } else {
    multiply(rows, columns, depth / 2, Strided<Pair>{as_pairs(a), lda / 2, 1}, as_panels(as_pairs(b), ldb), c, ldc,
             !add);
  }
}

Words pair(Floats low, Floats high) { return widen(round_to_bfloat16(low)) | widen(round_to_bfloat16(high)) << 16; }

// What both passes share: packed matrices and the forms of them that products take.
class PairProducts {
 public:
  // On AMX, whole tiles, and few different shapes for which oneDNN must generate code.
  static int64_t length_multiple() { return amx_is_there() ? 32 : kLanes; }
  static constexpr int64_t kHeadMultiple = 32;  // whole vectors of pairs
  // Returns the thread's tile registers to their initial state, which other AMX code in the process expects.
  static void finish() {
    if (amx_is_there()) at::native::cpublas::brgemm_release();
  }

 protected:
  PairProducts(const TaskSizes& sizes, Scratch& scratch) : sizes_(sizes), scratch_(scratch) {}

  BFloat16* take_matrix() { return scratch_.take<BFloat16>(sizes_.padded_length * sizes_.padded_head); }

  // Rows of a query block that products compute: the block's, rounded up.
  int64_t padded_rows(int64_t begin) const { return std::min(kQueryBlock, sizes_.padded_length - begin); }

  // [padded_length, padded_head] = (from + bias) * scale of the head's columns, zero where padded.
  BFloat16* pack(const BFloat16* from, int64_t stride, const float* bias, float scale) {
    const int64_t size = sizes_.head_size, padded = sizes_.padded_head;
    BFloat16* to = take_matrix();
    std::memset(to, 0, sizes_.padded_length * padded * sizeof(BFloat16));
    for (int64_t r = 0; r < sizes_.length; ++r) {
      for (int64_t c = 0; c < size; c += kLanes) {
        const int64_t left = size - c;
        __builtin_prefetch(from + (r + kPrefetchRows) * stride + c);
        Floats value = load_up_to(from + r * stride + c, left);
        if (bias) value = (value + load_up_to(bias + c, left)) * scale;
        store_up_to(to + r * padded + c, value, left);
      }
    }
    return to;
  }

  // Query (0), key (1) or value (2) with its bias.
  BFloat16* pack_projection(const BFloat16* qkv, const float* bias, int64_t which, float scale) {
    const int64_t column = which * sizes_.width + sizes_.column, stride = 3 * sizes_.width;
    return pack(qkv + sizes_.first_token * stride + column, stride, bias + column, scale);
  }

  // A packed matrix as a second factor: [padded_length / 2][padded_head] words.
  BFloat16* row_pairs(const BFloat16* rows) {
    const int64_t padded = sizes_.padded_head;
    BFloat16* to = take_matrix();
    for (int64_t r = 0; r < sizes_.padded_length; r += 2) {
      pair_rows(rows + r * padded, rows + (r + 1) * padded, padded, to + r * padded);
    }
    return to;
  }

  // Its transpose as a second factor: [padded_head / 2][padded_length] words. Two neighbors of a row of the
  // packed matrix are also one element of the result: a transposition of 32-bit words.
  BFloat16* transposed_pairs(const BFloat16* rows) {
    BFloat16* to = take_matrix();
    transpose_words(rows, sizes_.padded_length, sizes_.padded_head / 2, to);
    return to;
  }

  // Its transpose as a first factor, [padded_head, padded_length].
  BFloat16* transposed(const BFloat16* rows) {
    const int64_t length = sizes_.padded_length;
    const BFloat16* pairs = transposed_pairs(rows);
    BFloat16* to = take_matrix();
    for (int64_t d = 0; d < sizes_.padded_head; d += 2) {
      for (int64_t r = 0; r < length; r += kLanes) {
        const Words words = load(as_pairs(pairs + d * length) + r);
        const Halves low = __builtin_convertvector(words & 0xFFFF, Halves);
        const Halves high = __builtin_convertvector(words >> 16, Halves);
        std::memcpy(to + d * length + r, &low, sizeof low);
        std::memcpy(to + (d + 1) * length + r, &high, sizeof high);
      }
    }
    return to;
  }

  // to [padded_rows, padded_length] = rows of `left` from `begin` on times a transpose in pairs.
  void multiply_transpose(int64_t begin, const BFloat16* left, const BFloat16* right, float* to) {
    multiply(padded_rows(begin), sizes_.padded_length, sizes_.padded_head, left + begin * sizes_.padded_head,
             sizes_.padded_head, right, sizes_.padded_length, to, sizes_.score_stride, false);
  }

  const TaskSizes& sizes_;
  Scratch& scratch_;
};

class PairForward : public PairProducts {
 public:
  PairForward(const TaskSizes& sizes, const AttentionForward<BFloat16>& arrays, Scratch& scratch)
      : PairProducts(sizes, scratch),
        query_(pack_projection(arrays.qkv, arrays.bias, 0, sizes.scale)),
        key_pairs_(transposed_pairs(pack_projection(arrays.qkv, arrays.bias, 1, 1.0f))),
        value_pairs_(row_pairs(pack_projection(arrays.qkv, arrays.bias, 2, 1.0f))),
        scores_(scratch.take(kQueryBlock * sizes.score_stride)),
        powers_(scratch.take<BFloat16>(kQueryBlock * sizes.padded_length)),
        output_(scratch.take(kQueryBlock * sizes.padded_head)) {}

  void multiply_keys(int64_t begin, int64_t) {
    block_rows_ = padded_rows(begin);
    multiply_transpose(begin, query_, key_pairs_, scores_);
  }
  const float* scores(int64_t r) { return scores_ + r * sizes_.score_stride; }
  BFloat16* powers(int64_t r) { return powers_ + r * sizes_.padded_length; }
  void multiply_values(int64_t rows) {
    const int64_t length = sizes_.padded_length;
    std::memset(powers_ + rows * length, 0, (block_rows_ - rows) * length * sizeof(BFloat16));
    multiply(block_rows_, sizes_.padded_head, length, powers_, length, value_pairs_, sizes_.padded_head, output_,
             sizes_.padded_head, false);
  }
  const float* output(int64_t r) { return output_ + r * sizes_.padded_head; }
  static void write(BFloat16* to, Floats values, int64_t count) { store_up_to(to, values, count); }

 private:
  BFloat16 *query_, *key_pairs_, *value_pairs_;
  float* scores_;
  BFloat16* powers_;
  float* output_;
  int64_t block_rows_ = 0;
};

class PairBackward : public PairProducts {
 public:
  PairBackward(const TaskSizes& sizes, const AttentionBackward<BFloat16>& arrays, Scratch& scratch)
      : PairProducts(sizes, scratch),
        query_gradient(scratch.take(kQueryBlock * sizes.padded_head)),
        query_(pack_projection(arrays.qkv, arrays.bias, 0, sizes.scale)),
        keys_(pack_projection(arrays.qkv, arrays.bias, 1, 1.0f)),
        out_gradient_(pack(arrays.context_gradient + sizes.first_token * sizes.width + sizes.column, sizes.width,
                           nullptr, 1.0f)),
        key_transposed_pairs_(transposed_pairs(keys_)),
        value_transposed_pairs_(transposed_pairs(pack_projection(arrays.qkv, arrays.bias, 2, 1.0f))),
        key_pairs_(row_pairs(keys_)),
        query_transposed_(transposed(query_)),
        out_transposed_(transposed(out_gradient_)),
        scores_(scratch.take(kQueryBlock * sizes.score_stride)),
        gradients_(scratch.take(kQueryBlock * sizes.score_stride)),
        dropped_pairs_(scratch.take<BFloat16>(kQueryBlock * sizes.padded_length)),
        score_gradients_(scratch.take<BFloat16>(kQueryBlock * sizes.padded_length)),
        score_gradient_pairs_(scratch.take<BFloat16>(kQueryBlock * sizes.padded_length)),
        key_gradient_(scratch.take(sizes.padded_head * sizes.padded_length)),
        value_gradient_(scratch.take(sizes.padded_head * sizes.padded_length)) {}

  void multiply_keys_and_values(int64_t begin, int64_t) {
    block_rows_ = padded_rows(begin);
    multiply_transpose(begin, query_, key_transposed_pairs_, scores_);
    multiply_transpose(begin, out_gradient_, value_transposed_pairs_, gradients_);
  }

  const BFloat16* out_gradient(int64_t row) { return out_gradient_ + row * sizes_.padded_head; }

  // Two rows at a time: dropped probabilities as pairs, dS both as rows and as pairs; zero where padded.
  template <typename RowAt>
  void differentiate_rows(int64_t rows, const Dropout& dropout, const RowAt& row_at) {
    const int64_t length = sizes_.padded_length;
    for (int64_t r = 0; r < block_rows_; r += 2) {
      const BackwardRow low = r < rows ? row_at(r) : BackwardRow{};
      const BackwardRow high = r + 1 < rows ? row_at(r + 1) : BackwardRow{};
      for (int64_t c = 0; c < length; c += kLanes) {
        const ScoreGradient a = score_gradient(r, rows, c, low, dropout);
        const ScoreGradient b = score_gradient(r + 1, rows, c, high, dropout);
        store(as_pairs(dropped_pairs_ + r * length) + c, pair(a.dropped, b.dropped));
        store(as_pairs(score_gradient_pairs_ + r * length) + c, pair(a.gradient, b.gradient));
        store(score_gradients_ + r * length + c, a.gradient);
        store(score_gradients_ + (r + 1) * length + c, b.gradient);
      }
    }
  }

  void add_products(int64_t begin, int64_t) {
    const int64_t length = sizes_.padded_length, padded = sizes_.padded_head;
    const bool add = begin > 0;
    multiply(padded, length, block_rows_, out_transposed_ + begin, length, dropped_pairs_, length, value_gradient_,
             length, add);
    multiply(padded, length, block_rows_, query_transposed_ + begin, length, score_gradient_pairs_, length,
             key_gradient_, length, add);
    multiply(block_rows_, padded, length, score_gradients_, length, key_pairs_, padded, query_gradient, padded, false);
  }

  const float* key_gradient() { return transpose_gradient(key_gradient_); }
  const float* value_gradient() { return transpose_gradient(value_gradient_); }
  float* const query_gradient;  // [rows, padded_head] of the last block

 private:
  ScoreGradient score_gradient(int64_t r, int64_t rows, int64_t c, const BackwardRow& row, const Dropout& dropout) {
    const int64_t left = sizes_.keys - c, at = r * sizes_.score_stride + c;
    if (r >= rows || left <= 0) return {Floats{}, Floats{}};
    const Floats probability = exponential(load(scores_ + at) - row.log_sum);
    const ScoreGradient result = differentiate(probability, load(gradients_ + at), row, dropout, c);
    if (left >= kLanes) return result;
    return {first_lanes(result.dropped, left, 0.0f), first_lanes(result.gradient, left, 0.0f)};
  }

  // [padded_length, padded_head] from [padded_head, padded_length].
  const float* transpose_gradient(const float* from) {
    float* to = scratch_.take(sizes_.padded_length * sizes_.padded_head);
    transpose_words(from, sizes_.padded_head, sizes_.padded_length, to);
    return to;
  }

  BFloat16 *query_, *keys_, *out_gradient_, *key_transposed_pairs_, *value_transposed_pairs_, *key_pairs_,
      *query_transposed_, *out_transposed_;
  float *scores_, *gradients_;
  BFloat16 *dropped_pairs_, *score_gradients_, *score_gradient_pairs_;
  float *key_gradient_, *value_gradient_;
  int64_t block_rows_ = 0;
};

}  // namespace

bool has_pair_products() {
#if defined(__AVX512BF16__)
  return true;
#else
  return amx_is_there();
#endif
}

void attention_forward_pairs(int threads, const AttentionShape& shape, const Dropout& dropout,
                           const AttentionForward<BFloat16>& arrays) {
  forward_tasks<PairForward>(threads, shape, dropout, arrays);
}

void attention_backward_pairs(int threads, const AttentionShape& shape, const Dropout& dropout,
                            const AttentionBackward<BFloat16>& arrays) {
  backward_tasks<PairBackward>(threads, shape, dropout, arrays);
}

}  // namespace bert_large
