// The products of products.h as PyTorch operators, `torch.ops.bert_large.*`.
#include <ATen/cpu/Utils.h>
#include <torch/library.h>

#include "attention.h"
#include "products.h"
#include "tensors.h"

namespace bert_large {
namespace {

// The fastest unit of this CPU.
const ProductUnit& product_unit() {
  // The system lets a process use tiles only after it has asked to.
  static const bool has_tiles = amx_is_there() && at::cpu::init_amx();
  return has_tiles ? kTileUnit : kVectorUnit;
}

bool uses_tiles() { return &product_unit() == &kTileUnit; }

// A packed factor [depth, columns] in panels, [columns / 32, depth / 2, 32, 2] with both rounded up to multiples of 32.
BFloat16* panels_pointer(const Tensor& panels, int64_t columns, int64_t depth, const char* name) {
  return pointer<BFloat16>(panels, {count_blocks(columns), count_blocks(depth) * kBlock / 2, kBlock, 2}, name);
}

// Weights [outputs, inputs], one below the other -> the transpose of all of them in panels.
void pack_weights(at::TensorList weights, const Tensor& panels) {
  TORCH_CHECK(!weights.empty(), "there are no weights to pack");
  const int64_t inputs = weights[0].size(1);
  int64_t total = 0, first = 0;
  for (const Tensor& weight : weights) {
    TORCH_CHECK(total % kBlock == 0, "a weight begins at output ", total, ", expected a multiple of ", kBlock);
    total += weight.size(0);
  }
  BFloat16* const to = panels_pointer(panels, total, inputs, "panels");
  for (const Tensor& weight : weights) {
    const int64_t outputs = weight.size(0);
    pack_weight(threads(), first, outputs, inputs, POINTER(float, weight, {outputs, inputs}), to);
    first += outputs;
  }
}

// Whether `count` elements spread over each weight equal those of `panels`, into which `pack_weights` copied them.
bool samples_match(at::TensorList weights, const Tensor& panels, int64_t count) {
  const int64_t pairs = panels.size(1), inputs = weights[0].size(1);
  int64_t first = 0;
  for (const Tensor& weight : weights) first += weight.size(0);
  const BFloat16* copied = panels_pointer(panels, first, inputs, "panels");
  first = 0;
  for (const Tensor& weight : weights) {
    const float* values = POINTER(float, weight, {weight.size(0), inputs});
    const int64_t size = weight.numel(), distance = std::max<int64_t>(1, size / count);
    for (int64_t i = distance / 2; i < size; i += distance) {
      const int64_t output = first + i / inputs, input = i % inputs;
      const int64_t word = (output / kBlock * pairs + input / 2) * kBlock + output % kBlock;
      if (round_to_bfloat16(broadcast(values[i]))[0] != copied[2 * word + input % 2].bits) return false;
    }
    first += weight.size(0);
  }
  return true;
}

// y [rows, outputs] = x [rows, inputs] times a packed weight.
void packed_product(const Tensor& x, const Tensor& weight, const Tensor& y) {
  const ProductSizes sizes{x.size(0), y.size(1), x.size(1)};
  multiply_packed(threads(), product_unit(), sizes, POINTER(BFloat16, x, {sizes.rows, sizes.depth}),
                  panels_pointer(weight, sizes.columns, sizes.depth, "weight"),
                  POINTER(BFloat16, y, {sizes.rows, sizes.columns}));
}

// gelu(y + bias) -> activated, and its derivative.
void packed_product_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias, string_view form,
                         const Tensor& derivative, const Tensor& activated) {
  const ProductSizes sizes{x.size(0), activated.size(1), x.size(1)};
  multiply_packed_gelu(threads(), product_unit(), sizes, POINTER(BFloat16, x, {sizes.rows, sizes.depth}),
                       panels_pointer(weight, sizes.columns, sizes.depth, "weight"),
                       {gelu_form(form), POINTER(float, bias, {sizes.columns}),
                        POINTER(BFloat16, derivative, {sizes.rows, sizes.columns}),
                        POINTER(BFloat16, activated, {sizes.rows, sizes.columns})});
}

// dx [rows, inputs] = dy [rows, outputs] times the transpose of a packed weight, or += with `add`.
void input_gradient(const Tensor& dy, const Tensor& weight, const Tensor& dx, bool add) {
  const ProductSizes sizes{dy.size(0), dx.size(1), dy.size(1)};
  packed_input_gradient(threads(), product_unit(), sizes, POINTER(BFloat16, dy, {sizes.rows, sizes.depth}),
                        panels_pointer(weight, sizes.depth, sizes.columns, "weight"),
                        POINTER(BFloat16, dx, {sizes.rows, sizes.columns}), add);
}

// gradient = dx * derivative; bias_gradient [inputs] is added to.
void input_gradient_gelu(const Tensor& dy, const Tensor& weight, const Tensor& derivative, const Tensor& gradient,
                         const Tensor& bias_gradient) {
  const ProductSizes sizes{dy.size(0), gradient.size(1), dy.size(1)};
  packed_input_gradient_gelu(threads(), product_unit(), sizes, POINTER(BFloat16, dy, {sizes.rows, sizes.depth}),
                             panels_pointer(weight, sizes.depth, sizes.columns, "weight"),
                             {POINTER(BFloat16, derivative, {sizes.rows, sizes.columns}),
                              POINTER(BFloat16, gradient, {sizes.rows, sizes.columns}),
                              POINTER(float, bias_gradient, {sizes.columns})});
}

// gradient [outputs, inputs] = the transpose of dy [tokens, outputs], times x [tokens, inputs], or += with `add`.
void weight_gradient(const Tensor& dy, const Tensor& x, const Tensor& gradient, bool add) {
  const ProductSizes sizes{dy.size(1), x.size(1), x.size(0)};
  packed_weight_gradient(threads(), product_unit(), sizes, POINTER(BFloat16, dy, {sizes.depth, sizes.rows}),
                         POINTER(BFloat16, x, {sizes.depth, sizes.columns}),
                         POINTER(float, gradient, {sizes.rows, sizes.columns}), add);
}

// Per thread with work: the blocks that it computes and the left panels that it packs, a fraction if all share them.
std::vector<double> product_work(int64_t thread_count, int64_t row_blocks, int64_t column_blocks, double packing) {
  const Split split = split_product((int)thread_count, row_blocks, column_blocks, packing);
  std::vector<double> work;
  for (int64_t part = 0; part < split.parts(); ++part) {
    const Rectangle own = split.rectangle(part);
    work.push_back((double)(own.rows.count() * own.columns.count()));
    work.push_back(split.shares_left ? (double)row_blocks / (double)thread_count : (double)own.rows.count());
  }
  return work;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(bert_large, library) {
  library.def("uses_tiles() -> bool", &uses_tiles);
  library.def("pack_weights(Tensor[] weights, Tensor(a!) panels) -> ()", &pack_weights);
  library.def("samples_match(Tensor[] weights, Tensor panels, int count) -> bool", &samples_match);
  library.def("packed_product(Tensor x, Tensor weight, Tensor(a!) y) -> ()", &packed_product);
  library.def(
      "packed_product_gelu(Tensor x, Tensor weight, Tensor bias, str form, Tensor(a!) derivative, "
      "Tensor(b!) activated) -> ()",
      &packed_product_gelu);
  library.def("packed_input_gradient(Tensor dy, Tensor weight, Tensor(a!) dx, bool add=False) -> ()", &input_gradient);
  library.def(
      "packed_input_gradient_gelu(Tensor dy, Tensor weight, Tensor derivative, Tensor(a!) gradient, "
      "Tensor(b!) bias_gradient) -> ()",
      &input_gradient_gelu);
  library.def("weight_gradient(Tensor dy, Tensor x, Tensor(a!) gradient, bool add) -> ()", &weight_gradient);
  library.def("product_work(int threads, int row_blocks, int column_blocks, float packing) -> float[]", &product_work);
}

}  // namespace bert_large
