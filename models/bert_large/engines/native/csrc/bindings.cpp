// The kernels as PyTorch operators, `torch.ops.bert_large.*`. The wrappers here check types, shapes and indices, so
// that no kernel reads or writes beyond a tensor, and pass pointers on; the kernels' headers define what is computed.
// Results are written to tensors that the caller made; gradients of parameters are added to.
#include <ATen/cpu/Utils.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "cross_entropy.h"
#include "gelu.h"
#include "memory.h"
#include "norm.h"
#include "parameters.h"
#include "peak.h"
#include "tensors.h"

namespace bert_large {
namespace {

// Dropout is inactive for probability 0. The threshold is as in `bert_large.model.dropout.keep_mask`.
Dropout make_dropout(double probability, int64_t key) {
  TORCH_CHECK(probability >= 0 && probability < 1, "dropout's probability is ", probability, ", expected 0 to below 1");
  const double threshold = std::min(std::nearbyint(probability * 4294967296.0), 4294967295.0) - 2147483648.0;
  return {probability > 0, (uint32_t)key, (int32_t)threshold, (float)(1.0 / (1.0 - probability))};
}

// samples [sequences]; sequence_ids and position_ids [rows].
TokenRows token_rows(const Tensor& samples, const Tensor& sequence_ids, const Tensor& position_ids, int64_t rows) {
  const TokenRows tokens{POINTER(int64_t, samples, {samples.numel()}), POINTER(int64_t, sequence_ids, {rows}),
                         POINTER(int64_t, position_ids, {rows})};
  for (int64_t r = 0; r < rows; ++r) {
    TORCH_CHECK_INDEX(tokens.sequence_ids[r] >= 0 && tokens.sequence_ids[r] < samples.numel(), "sequence id ",
                      tokens.sequence_ids[r], " at ", r, " is outside of the ", samples.numel(), " samples");
  }
  return tokens;
}

NormParameters norm_parameters(const Tensor& weight, const Tensor& bias, double eps, int64_t columns) {
  return {POINTER(float, weight, {columns}), POINTER(float, bias, {columns}), (float)eps};
}

// cu_seqlens int32 [sequences + 1]; samples, keys (int32) [sequences]; `width` columns in `heads` heads.
AttentionShape attention_shape(const Tensor& cu_seqlens, const Tensor& samples, const std::optional<Tensor>& keys,
                               int64_t heads, int64_t rows, int64_t width) {
  const int64_t sequences = samples.numel();
  TORCH_CHECK(heads > 0 && width % heads == 0, "hidden size ", width, " is not a multiple of ", heads, " heads");
  const AttentionShape shape{sequences, heads, width / heads, POINTER(int32_t, cu_seqlens, {sequences + 1}),
                             POINTER(int64_t, samples, {sequences}),
                             keys ? pointer<int32_t>(*keys, {sequences}, "keys") : nullptr};
  const int32_t* ends = shape.cu_seqlens;
  TORCH_CHECK(ends[0] == 0 && ends[sequences] == rows && std::is_sorted(ends, ends + sequences + 1),
              "cu_seqlens does not go up from 0 to the ", rows, " tokens");
  for (int64_t i = 0; keys && i < sequences; ++i) {
    TORCH_CHECK_INDEX(shape.keys[i] > 0 && shape.keys[i] <= ends[i + 1] - ends[i], "keys of sequence ", i, " are ",
                      shape.keys[i], ", expected 1 to its length ", ends[i + 1] - ends[i]);
  }
  return shape;
}

// The attention kernels for a type of activations on this CPU.
template <typename T>
auto forward_kernel() {
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (has_pair_products()) return &attention_forward_pairs;
  }
  return &attention_forward<T>;
}

template <typename T>
auto backward_kernel() {
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (has_pair_products()) return &attention_backward_pairs;
  }
  return &attention_backward<T>;
}

// qkv [rows, 3 * width] without its bias -> context [rows, width] and log_sums [heads, rows].
void attention(const Tensor& qkv, const Tensor& bias, const Tensor& cu_seqlens, const Tensor& samples, int64_t heads,
               double probability, int64_t key, const Tensor& context, const Tensor& log_sums,
               const std::optional<Tensor>& keys) {
  const int64_t rows = context.size(0), width = context.size(1);
  const AttentionShape shape = attention_shape(cu_seqlens, samples, keys, heads, rows, width);
  with_type(qkv, [&](auto element) {
    using T = decltype(element);
    forward_kernel<T>()(threads(), shape, make_dropout(probability, key),
                        {POINTER(T, qkv, {rows, 3 * width}), POINTER(float, bias, {3 * width}),
                         POINTER(T, context, {rows, width}), POINTER(float, log_sums, {heads, rows})});
  });
}

// The inputs and results of `attention` and context's gradient -> qkv is overwritten with its gradient; bias_gradient
// [3 * width] is added to.
void attention_gradient(const Tensor& qkv, const Tensor& bias, const Tensor& cu_seqlens, const Tensor& samples,
                        int64_t heads, double probability, int64_t key, const Tensor& context, const Tensor& log_sums,
                        const Tensor& context_gradient, const Tensor& bias_gradient, const std::optional<Tensor>& keys) {
  const int64_t rows = context.size(0), width = context.size(1);
  const AttentionShape shape = attention_shape(cu_seqlens, samples, keys, heads, rows, width);
  with_type(qkv, [&](auto element) {
    using T = decltype(element);
    backward_kernel<T>()(threads(), shape, make_dropout(probability, key),
                         {POINTER(T, qkv, {rows, 3 * width}), POINTER(float, bias, {3 * width}),
                          POINTER(T, context, {rows, width}), POINTER(float, log_sums, {heads, rows}),
                          POINTER(T, context_gradient, {rows, width}), POINTER(float, bias_gradient, {3 * width})});
  });
}

// dense, residual [rows, columns] -> out and rstds [rows]; dense is overwritten with the normalized rows.
void residual_norm(const Tensor& dense, const Tensor& dense_bias, const Tensor& residual, const Tensor& weight,
                   const Tensor& bias, double eps, const Tensor& samples, const Tensor& sequence_ids,
                   const Tensor& position_ids, double probability, int64_t key, const Tensor& out,
                   const Tensor& rstds) {
  const int64_t rows = dense.size(0), columns = dense.size(1);
  with_type(dense, [&](auto element) {
    using T = decltype(element);
    residual_norm_forward<T>(threads(), rows, columns, POINTER(T, dense, {rows, columns}),
                             POINTER(float, dense_bias, {columns}), POINTER(T, residual, {rows, columns}),
                             norm_parameters(weight, bias, eps, columns), make_dropout(probability, key),
                             token_rows(samples, sequence_ids, position_ids, rows), POINTER(T, out, {rows, columns}),
                             POINTER(float, rstds, {rows}));
  });
}

// out's gradient and the normalized rows -> dense_gradient [rows, columns]; the normalized rows are overwritten with the
// residual's gradient, and the gradients of weight, bias and dense_bias [columns] are added to.
void residual_norm_gradient(const Tensor& out_gradient, const Tensor& normalized, const Tensor& rstds,
                            const Tensor& weight, const Tensor& samples, const Tensor& sequence_ids,
                            const Tensor& position_ids, double probability, int64_t key,
                            const Tensor& dense_gradient, const Tensor& weight_gradient, const Tensor& bias_gradient,
                            const Tensor& dense_bias_gradient) {
  const int64_t rows = normalized.size(0), columns = normalized.size(1);
  with_type(normalized, [&](auto element) {
    using T = decltype(element);
    residual_norm_backward<T>(
        threads(), rows, columns, POINTER(T, out_gradient, {rows, columns}), POINTER(T, normalized, {rows, columns}),
        POINTER(float, rstds, {rows}), POINTER(float, weight, {columns}), make_dropout(probability, key),
        token_rows(samples, sequence_ids, position_ids, rows), POINTER(T, dense_gradient, {rows, columns}),
        {POINTER(float, weight_gradient, {columns}), POINTER(float, bias_gradient, {columns})},
        POINTER(float, dense_bias_gradient, {columns}));
  });
}

// Tables [entries, columns] and the ids [rows] that select from them.
EmbeddingTables embedding_tables(const Tensor& words, const Tensor& positions, const Tensor& token_types,
                                 const Tensor& input_ids, const Tensor& position_ids, const Tensor& token_type_ids,
                                 int64_t rows, int64_t columns) {
  auto in_range = [](const Tensor& ids, const Tensor& table, const char* name) {
    if (ids.numel() == 0) return;
    const int64_t* from = ids.data_ptr<int64_t>();
    for (int64_t i = 0; i < ids.numel(); ++i) {
      TORCH_CHECK_INDEX(from[i] >= 0 && from[i] < table.size(0), name, " ", from[i], " at ", i,
                        " is outside of its table of ", table.size(0));
    }
  };
  EmbeddingTables tables{POINTER(float, words, {words.size(0), columns}),
                         POINTER(float, positions, {positions.size(0), columns}),
                         POINTER(float, token_types, {token_types.size(0), columns}),
                         POINTER(int64_t, input_ids, {rows}),
                         POINTER(int64_t, position_ids, {rows}),
                         POINTER(int64_t, token_type_ids, {rows})};
  in_range(input_ids, words, "token id");
  in_range(position_ids, positions, "position");
  in_range(token_type_ids, token_types, "token type");
  return tables;
}

// Tables and ids -> out [rows, columns], means and rstds [rows].
void embed_norm(const Tensor& words, const Tensor& positions, const Tensor& token_types, const Tensor& input_ids,
                const Tensor& position_ids, const Tensor& token_type_ids, const Tensor& weight, const Tensor& bias,
                double eps, const Tensor& samples, const Tensor& sequence_ids, double probability, int64_t key,
                const Tensor& out, const Tensor& means, const Tensor& rstds) {
  const int64_t rows = out.size(0), columns = out.size(1);
  const EmbeddingTables tables = embedding_tables(words, positions, token_types, input_ids, position_ids,
                                                  token_type_ids, rows, columns);
  with_type(out, [&](auto element) {
    using T = decltype(element);
    embed_norm_forward<T>(threads(), rows, columns, tables, norm_parameters(weight, bias, eps, columns),
                          make_dropout(probability, key), token_rows(samples, sequence_ids, position_ids, rows),
                          POINTER(T, out, {rows, columns}), POINTER(float, means, {rows}),
                          POINTER(float, rstds, {rows}));
  });
}

// out's gradient, and the inputs and statistics of `embed_norm`; the gradients of tables, weight and bias are added to.
void embed_norm_gradient(const Tensor& out_gradient, const Tensor& words, const Tensor& positions,
                         const Tensor& token_types, const Tensor& input_ids, const Tensor& position_ids,
                         const Tensor& token_type_ids, const Tensor& means, const Tensor& rstds, const Tensor& weight,
                         const Tensor& samples, const Tensor& sequence_ids, double probability, int64_t key,
                         const Tensor& words_gradient,
                         const Tensor& positions_gradient, const Tensor& token_types_gradient,
                         const Tensor& weight_gradient, const Tensor& bias_gradient) {
  const int64_t rows = out_gradient.size(0), columns = out_gradient.size(1);
  const EmbeddingTables tables = embedding_tables(words, positions, token_types, input_ids, position_ids,
                                                  token_type_ids, rows, columns);
  const SharedArray<float> scratch(rows * columns);
  with_type(out_gradient, [&](auto element) {
    using T = decltype(element);
    embed_norm_backward<T>(threads(), rows, columns, POINTER(T, out_gradient, {rows, columns}), tables,
                           POINTER(float, means, {rows}), POINTER(float, rstds, {rows}),
                           POINTER(float, weight, {columns}), make_dropout(probability, key),
                           token_rows(samples, sequence_ids, position_ids, rows), scratch,
                           {POINTER(float, words_gradient, words.sizes()),
                            POINTER(float, positions_gradient, positions.sizes()),
                            POINTER(float, token_types_gradient, token_types.sizes()),
                            {POINTER(float, weight_gradient, {columns}), POINTER(float, bias_gradient, {columns})}});
  });
}

// dense [rows, columns] without its bias -> activated; dense is overwritten with the derivative.
void gelu(const Tensor& dense, const Tensor& bias, string_view form, const Tensor& activated) {
  const int64_t rows = dense.size(0), columns = dense.size(1);
  with_type(dense, [&](auto element) {
    using T = decltype(element);
    gelu_forward<T>(threads(), rows, columns, gelu_form(form), POINTER(T, dense, {rows, columns}),
                    POINTER(float, bias, {columns}), POINTER(T, activated, {rows, columns}));
  });
}

// gradient [rows, columns] is multiplied by the derivative; bias_gradient [columns] is added to.
void gelu_gradient(const Tensor& derivative, const Tensor& gradient, const Tensor& bias_gradient) {
  const int64_t rows = gradient.size(0), columns = gradient.size(1);
  with_type(gradient, [&](auto element) {
    using T = decltype(element);
    gelu_backward<T>(threads(), rows, columns, POINTER(T, derivative, {rows, columns}),
                     POINTER(T, gradient, {rows, columns}), POINTER(float, bias_gradient, {columns}));
  });
}

// logits [rows, columns] without their bias, labels [rows] -> summed loss, number of correct predictions. With
// bias_gradient, logits are overwritten with their gradients, and bias_gradient [columns] is added to.
std::tuple<double, int64_t> cross_entropy_sums(const Tensor& logits, const Tensor& bias, const Tensor& labels,
                                               const std::optional<Tensor>& bias_gradient) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  const int64_t* label = POINTER(int64_t, labels, {rows});
  for (int64_t r = 0; r < rows; ++r) {
    TORCH_CHECK_INDEX(label[r] >= 0 && label[r] < columns, "label ", label[r], " is outside of the vocabulary of ",
                      columns);
  }
  RowLosses result{};
  with_type(logits, [&](auto element) {
    using T = decltype(element);
    result = cross_entropy<T>(threads(), rows, columns, POINTER(T, logits, {rows, columns}),
                              POINTER(float, bias, {columns}), label,
                              bias_gradient ? pointer<float>(*bias_gradient, {columns}, "bias_gradient") : nullptr);
  });
  return {result.loss, result.correct};
}

// One step of LAMB on lists of float tensors: weights, means and mean squares are updated.
void lamb(at::TensorList weights, at::TensorList gradients, at::TensorList means, at::TensorList mean_squares,
          double rate, double beta_1, double beta_2, double epsilon, double weight_decay, double gradient_scale,
          int64_t step, bool adapt) {
  TORCH_CHECK(gradients.size() == weights.size() && means.size() == weights.size() &&
                  mean_squares.size() == weights.size(),
              "the lists of weights, gradients and moments differ in length");
  std::vector<LambArrays> arrays;
  for (size_t i = 0; i < weights.size(); ++i) {
    const at::IntArrayRef shape = weights[i].sizes();
    arrays.push_back({weights[i].numel(), POINTER(float, weights[i], shape), POINTER(float, gradients[i], shape),
                      POINTER(float, means[i], shape), POINTER(float, mean_squares[i], shape)});
  }
  lamb_step(threads(), arrays,
            {(float)rate, (float)beta_1, (float)beta_2, (float)epsilon, (float)weight_decay, (float)gradient_scale,
             (float)(1 / (1 - std::pow(beta_1, step))), (float)(1 / (1 - std::pow(beta_2, step))),
             (float)(1 - beta_1), (float)(1 - beta_2), adapt});
}

// The norm of all tensors (float) as one vector.
double global_norm(at::TensorList tensors) {
  std::vector<const float*> arrays;
  std::vector<int64_t> counts;
  for (const Tensor& tensor : tensors) {
    arrays.push_back(POINTER(float, tensor, tensor.sizes()));
    counts.push_back(tensor.numel());
  }
  return std::sqrt(squared_norm(threads(), arrays, counts));
}

double registers_peak(int64_t iterations, bool bfloat16) {
  // The system lets a process use tiles only after it has asked to.
  return multiply_registers(threads(), iterations, bfloat16, amx_is_there() && at::cpu::init_amx());
}

// Bytes of large blocks in use, and kept for later.
std::tuple<int64_t, int64_t> memory() {
  const MemoryUse use = memory_use();
  return {use.in_use, use.kept};
}

}  // namespace

// The schemas: (a!), (b!) ... mark arguments that an operator writes to.
TORCH_LIBRARY(bert_large, library) {
  library.def("keep_large_blocks() -> ()", &keep_large_blocks);
  library.def("memory() -> (int in_use, int kept)", &memory);
  library.def(
      "attention(Tensor qkv, Tensor bias, Tensor cu_seqlens, Tensor samples, int heads, float probability, int key, "
      "Tensor(a!) context, Tensor(b!) log_sums, Tensor? keys=None) -> ()",
      &attention);
  library.def(
      "attention_gradient(Tensor(a!) qkv, Tensor bias, Tensor cu_seqlens, Tensor samples, int heads, float probability, "
      "int key, Tensor context, Tensor log_sums, Tensor context_gradient, Tensor(b!) bias_gradient, Tensor? keys=None) "
      "-> ()",
      &attention_gradient);
  library.def(
      "residual_norm(Tensor(a!) dense, Tensor dense_bias, Tensor residual, Tensor weight, Tensor bias, float eps, "
      "Tensor samples, Tensor sequence_ids, Tensor position_ids, float probability, int key, Tensor(b!) out, "
      "Tensor(c!) rstds) -> ()",
      &residual_norm);
  library.def(
      "residual_norm_gradient(Tensor out_gradient, Tensor(a!) normalized, Tensor rstds, Tensor weight, Tensor samples, "
      "Tensor sequence_ids, Tensor position_ids, float probability, int key, Tensor(b!) dense_gradient, "
      "Tensor(c!) weight_gradient, Tensor(d!) bias_gradient, Tensor(e!) dense_bias_gradient) -> ()",
      &residual_norm_gradient);
  library.def(
      "embed_norm(Tensor words, Tensor positions, Tensor token_types, Tensor input_ids, Tensor position_ids, "
      "Tensor token_type_ids, Tensor weight, Tensor bias, float eps, Tensor samples, Tensor sequence_ids, "
      "float probability, int key, Tensor(a!) out, Tensor(b!) means, Tensor(c!) rstds) -> ()",
      &embed_norm);
  library.def(
      "embed_norm_gradient(Tensor out_gradient, Tensor words, Tensor positions, Tensor token_types, Tensor input_ids, "
      "Tensor position_ids, Tensor token_type_ids, Tensor means, Tensor rstds, Tensor weight, Tensor samples, "
      "Tensor sequence_ids, float probability, int key, Tensor(a!) words_gradient, Tensor(b!) positions_gradient, "
      "Tensor(c!) token_types_gradient, Tensor(d!) weight_gradient, Tensor(e!) bias_gradient) -> ()",
      &embed_norm_gradient);
  library.def("gelu(Tensor(a!) dense, Tensor bias, str form, Tensor(b!) activated) -> ()", &gelu);
  library.def("gelu_gradient(Tensor derivative, Tensor(a!) gradient, Tensor(b!) bias_gradient) -> ()", &gelu_gradient);
  library.def(
      "cross_entropy(Tensor(a!) logits, Tensor bias, Tensor labels, Tensor(b!)? bias_gradient) -> (float loss, "
      "int correct)",
      &cross_entropy_sums);
  library.def(
      "lamb(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] means, Tensor(c!)[] mean_squares, float rate, "
      "float beta_1, float beta_2, float epsilon, float weight_decay, float gradient_scale, int step, bool adapt) "
      "-> ()",
      &lamb);
  library.def("multiply_registers(int iterations, bool bfloat16) -> float operations", &registers_peak);
  library.def("global_norm(Tensor[] tensors) -> float", &global_norm);
}

}  // namespace bert_large
