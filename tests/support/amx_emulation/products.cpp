// The products as C functions for ctypes, on tiles or on the vectors of this file's instruction set.
#include <cstdlib>

#include "memory.h"
#include "products.h"

namespace bert_large {

// In place of PyTorch's allocator.
void* take_block(size_t bytes) { return std::aligned_alloc(64, round_up(bytes, 64)); }
void give_back_block(void* block) { std::free(block); }

}  // namespace bert_large

using namespace bert_large;

namespace {

const ProductUnit& unit(bool tiles) { return tiles ? kTileUnit : kVectorUnit; }

}  // namespace

extern "C" {

void pack(int threads, int64_t first, int64_t outputs, int64_t inputs, const float* weight, BFloat16* panels) {
  pack_weight(threads, first, outputs, inputs, weight, panels);
}

void product(bool tiles, int threads, const int64_t* sizes, const BFloat16* x, const BFloat16* weight, BFloat16* y) {
  multiply_packed(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, x, weight, y);
}

void product_gelu(bool tiles, int threads, const int64_t* sizes, const BFloat16* x, const BFloat16* weight,
                  const float* bias, BFloat16* derivative, BFloat16* activated) {
  multiply_packed_gelu(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, x, weight,
                       {GeluForm::kErf, bias, derivative, activated});
}

void input_gradient(bool tiles, int threads, const int64_t* sizes, const BFloat16* dy, const BFloat16* weight,
                    BFloat16* dx, bool add) {
  packed_input_gradient(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, dy, weight, dx, add);
}

void input_gradient_gelu(bool tiles, int threads, const int64_t* sizes, const BFloat16* dy, const BFloat16* weight,
                         const BFloat16* derivative, BFloat16* gradient, float* bias_gradient) {
  packed_input_gradient_gelu(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, dy, weight,
                             {derivative, gradient, bias_gradient});
}

void weight_gradient(bool tiles, int threads, const int64_t* sizes, const BFloat16* dy, const BFloat16* x,
                     float* gradient, bool add) {
  packed_weight_gradient(threads, unit(tiles), {sizes[0], sizes[1], sizes[2]}, dy, x, gradient, add);
}
}
