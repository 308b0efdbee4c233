// The products as C functions for ctypes, on emulated tiles or on the vectors of this file's instruction set.
#include "products.h"

using namespace bert_large;

namespace {

const ProductUnit& unit(bool tiles) { return tiles ? kTileUnit : kVectorUnit; }

}  // namespace

extern "C" {

void pack(int threads, int64_t first, int64_t outputs, int64_t inputs, const float* weight, BFloat16* panels) {
  pack_weight(threads, first, outputs, inputs, weight, panels);
}

void transpose(int threads, int64_t panels, int64_t steps, const BFloat16* from, BFloat16* to) {
  transpose_panels(threads, panels, steps, from, to);
}

void product(bool tiles, int threads, const int64_t* sizes, const BFloat16* left, const BFloat16* right,
             BFloat16* result, bool add) {
  multiply_packed(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, left, right, result, add);
}

void product_gelu(bool tiles, int threads, const int64_t* sizes, const BFloat16* left, const BFloat16* right,
                  const float* bias, BFloat16* derivative, BFloat16* activated) {
  multiply_packed_gelu(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, left, right,
                       {GeluForm::kErf, bias, derivative, activated});
}

void product_gelu_gradient(bool tiles, int threads, const int64_t* sizes, const BFloat16* left, const BFloat16* right,
                           const BFloat16* derivative, BFloat16* gradient, float* bias_gradient) {
  multiply_packed_gelu_gradient(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, left, right,
                                {derivative, gradient, bias_gradient});
}

void weight_gradient(bool tiles, int threads, const int64_t* sizes, const BFloat16* out_gradient,
                     const BFloat16* inputs, float* gradient) {
  add_weight_gradient(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, out_gradient, inputs, gradient);
}
}
