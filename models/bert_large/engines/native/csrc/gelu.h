// GELU fused with the bias before it. Matrices are contiguous [rows, columns]; T is float or BFloat16.
#pragma once

#include "vector.h"

namespace bert_large {

enum class GeluForm { kErf, kTanh };

// activated = gelu(dense + bias); `dense` is left holding gelu's derivative there.
template <typename T>
void gelu_forward(int threads, int64_t rows, int64_t columns, GeluForm form, T* dense, const float* bias, T* activated);

// gradient *= derivative, and its column sums are added to bias_gradient [columns].
template <typename T>
void gelu_backward(int threads, int64_t rows, int64_t columns, const T* derivative, T* gradient, float* bias_gradient);

}  // namespace bert_large
