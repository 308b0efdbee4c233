// Attention with products of floats, whatever the type of the activations.
#include "attention.h"

#include "attention_task.h"
#include "matmul.h"
#include "transpose.h"

namespace bert_large {
namespace {

// What both passes share: packed matrices [padded_length, padded_head], row-major or in panels.
class VectorProducts {
 public:
  static int64_t length_multiple() { return kLanes; }
  static constexpr int64_t kHeadMultiple = kLanes;
  static void finish() {}

 protected:
  VectorProducts(const TaskSizes& sizes, Scratch& scratch) : sizes_(sizes), scratch_(scratch) {}

  float* take_matrix() { return scratch_.take(sizes_.padded_length * sizes_.padded_head); }

  // Packs the head's columns of `from`; with a bias, (from + bias) * scale. Zero where padded; rows of `from` are
  // `stride` apart.
  template <typename T>
  float* pack(const T* from, int64_t stride, const float* bias, float scale) {
    const int64_t padded = sizes_.padded_head;
    float* to = take_matrix();
    for (int64_t r = 0; r < sizes_.length; ++r) {
      for (int64_t c = 0; c < padded; c += kLanes) {
        const int64_t left = sizes_.head_size - c;
        __builtin_prefetch(from + (r + kPrefetchRows) * stride + c);
        Floats value = load_up_to(from + r * stride + c, left);
        if (bias) value = (value + load_up_to(bias + c, left)) * scale;
        store(to + r * padded + c, value);
      }
    }
    std::fill(to + sizes_.length * padded, to + sizes_.padded_length * padded, 0.0f);
    return to;
  }

  // Query (0), key (1) or value (2) with its bias.
  template <typename T>
  float* pack_projection(const T* qkv, const float* bias, int64_t which, float scale) {
    const int64_t column = which * sizes_.width + sizes_.column, stride = 3 * sizes_.width;
    return pack(qkv + sizes_.first_token * stride + column, stride, bias + column, scale);
  }

  // Panels of the transpose [padded_head, padded_length] of a packed matrix.
  Panels<float> pack_transpose(const float* from) {
    const int64_t rows = sizes_.padded_length, columns = sizes_.padded_head, panel_stride = columns * kPanel;
    float* to = scratch_.take(round_up(rows, kPanel) * columns);
    for (int64_t r = 0; r < rows; r += kLanes) {
      float* panel = to + r / kPanel * panel_stride + r % kPanel;
      for (int64_t c = 0; c < columns; c += kLanes) {
        transpose_block(from + r * columns + c, columns, panel + c * kPanel, kPanel);
      }
    }
    return {to, kPanel, panel_stride};
  }

  // to [rows, padded_length] = the `rows` rows of `left` starting at `begin`, times a transposed matrix stored in
  // panels.
  void multiply_transpose(int64_t begin, int64_t rows, const float* left, const Panels<float>& right, float* to) {
    const Strided<float> block{left + begin * sizes_.padded_head, sizes_.padded_head, 1};
    multiply(rows, sizes_.padded_length, sizes_.head_size, block, right, to, sizes_.score_stride, true);
  }

  const TaskSizes& sizes_;
  Scratch& scratch_;
};

class VectorForward : public VectorProducts {
 public:
  template <typename T>
  VectorForward(const TaskSizes& sizes, const AttentionForward<T>& arrays, Scratch& scratch)
      : VectorProducts(sizes, scratch),
        query_(pack_projection(arrays.qkv, arrays.bias, 0, sizes.scale)),
        key_panels_(pack_transpose(pack_projection(arrays.qkv, arrays.bias, 1, 1.0f))),
        values_(pack_projection(arrays.qkv, arrays.bias, 2, 1.0f)),
        scores_(scratch.take(kQueryBlock * sizes.score_stride)),
        output_(scratch.take(kQueryBlock * sizes.padded_head)) {}

  void multiply_keys(int64_t begin, int64_t rows) { multiply_transpose(begin, rows, query_, key_panels_, scores_); }
  float* scores(int64_t r) { return scores_ + r * sizes_.score_stride; }
  float* powers(int64_t r) { return scores(r); }
  void multiply_values(int64_t rows) {
    multiply(rows, sizes_.padded_head, sizes_.length, Strided<float>{scores_, sizes_.score_stride, 1},
             as_panels(values_, sizes_.padded_head), output_, sizes_.padded_head, true);
  }
  const float* output(int64_t r) { return output_ + r * sizes_.padded_head; }

  template <typename T>
  static void write(T* to, Floats values, int64_t count) {
    stream_up_to(to, values, count);
  }

 private:
  float* query_;
  Panels<float> key_panels_;
  float *values_, *scores_, *output_;
};

class VectorBackward : public VectorProducts {
 public:
  template <typename T>
  VectorBackward(const TaskSizes& sizes, const AttentionBackward<T>& arrays, Scratch& scratch)
      : VectorProducts(sizes, scratch),
        query_gradient(scratch.take(kQueryBlock * sizes.padded_head)),
        query_(pack_projection(arrays.qkv, arrays.bias, 0, sizes.scale)),
        keys_(pack_projection(arrays.qkv, arrays.bias, 1, 1.0f)),
        out_gradient_(pack(arrays.context_gradient + sizes.first_token * sizes.width + sizes.column, sizes.width,
                           nullptr, 1.0f)),
        key_panels_(pack_transpose(keys_)),
        value_panels_(pack_transpose(pack_projection(arrays.qkv, arrays.bias, 2, 1.0f))),
        key_gradient_(take_matrix()),
        value_gradient_(take_matrix()),
        scores_(scratch.take(kQueryBlock * sizes.score_stride)),
        gradients_(scratch.take(kQueryBlock * sizes.score_stride)) {}

  void multiply_keys_and_values(int64_t begin, int64_t rows) {
    multiply_transpose(begin, rows, query_, key_panels_, scores_);
    multiply_transpose(begin, rows, out_gradient_, value_panels_, gradients_);
  }

  const float* out_gradient(int64_t row) { return out_gradient_ + row * sizes_.padded_head; }

  // In place: scores are replaced by the probabilities after dropout; gradients by dS, the gradient of the scores.
  template <typename RowAt>
  void differentiate_rows(int64_t rows, const Dropout& dropout, const RowAt& row_at) {
    for (int64_t r = 0; r < rows; ++r) {
      const BackwardRow row = row_at(r);
      float *scores = scores_ + r * sizes_.score_stride, *gradients = gradients_ + r * sizes_.score_stride;
      for (int64_t c = 0; c < sizes_.length; c += kLanes) {
        Floats probability = exponential(load(scores + c) - row.log_sum);
        // Products leave out what is beyond the sequence, but not what is beyond its keys.
        if (sizes_.keys < sizes_.length) probability = first_lanes(probability, sizes_.keys - c, 0.0f);
        const ScoreGradient result = differentiate(probability, load(gradients + c), row, dropout, c);
        store(scores + c, result.dropped);
        store(gradients + c, result.gradient);
      }
    }
  }

  void add_products(int64_t begin, int64_t rows) {
    const int64_t length = sizes_.length, padded = sizes_.padded_head, stride = sizes_.score_stride;
    const bool overwrite = begin == 0;
    const Strided<float> dropped{scores_, 1, stride}, transposed{gradients_, 1, stride}, rowwise{gradients_, stride, 1};
    multiply(length, padded, rows, dropped, as_panels(out_gradient_ + begin * padded, padded), value_gradient_, padded,
             overwrite);
    multiply(length, padded, rows, transposed, as_panels(query_ + begin * padded, padded), key_gradient_, padded,
             overwrite);
    multiply(rows, padded, length, rowwise, as_panels(keys_, padded), query_gradient, padded, true);
  }

  const float* key_gradient() { return key_gradient_; }
  const float* value_gradient() { return value_gradient_; }
  float* const query_gradient;  // [rows, padded_head] of the last block

 private:
  float *query_, *keys_, *out_gradient_;
  Panels<float> key_panels_, value_panels_;
  float *key_gradient_, *value_gradient_, *scores_, *gradients_;
};

}  // namespace

template <typename T>
void attention_forward(int threads, const AttentionShape& shape, const Dropout& dropout,
                       const AttentionForward<T>& arrays) {
  forward_tasks<VectorForward>(threads, shape, dropout, arrays);
}

template <typename T>
void attention_backward(int threads, const AttentionShape& shape, const Dropout& dropout,
                        const AttentionBackward<T>& arrays) {
  backward_tasks<VectorBackward>(threads, shape, dropout, arrays);
}

template void attention_forward(int, const AttentionShape&, const Dropout&, const AttentionForward<float>&);
template void attention_forward(int, const AttentionShape&, const Dropout&, const AttentionForward<BFloat16>&);
template void attention_backward(int, const AttentionShape&, const Dropout&, const AttentionBackward<float>&);
template void attention_backward(int, const AttentionShape&, const Dropout&, const AttentionBackward<BFloat16>&);

}  // namespace bert_large
