// GELU fused with the bias before it. Matrices are contiguous [rows, columns]; T is float or BFloat16.
//
// Forward, with x = dense + bias and one of two forms (Hendrycks and Gimpel 2016, arXiv 1606.08415):
//   erf:   gelu(x) = x P(x), P the standard normal distribution function
//   tanh:  gelu(x) = x (1 + tanh(u)) / 2,  u = sqrt(2 / pi) (x + 0.044715 x^3)
// Backward: dx = dy gelu'(x), and d bias is the column sums of dx, with
//   erf:   gelu'(x) = P(x) + x p(x),  p(x) = exp(-x^2 / 2) / sqrt(2 pi)
//   tanh:  gelu'(x) = s + x s (1 - s) (2u)',  s = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)) since s' = s (1 - s)
//
// The forward pass computes gelu'(x), which shares the exponential with gelu(x), and saves it in place of x: the
// backward pass is then a product. Arithmetic is in float.
#pragma once

#include "vector.h"

namespace bert_large {

enum class GeluForm { kErf, kTanh };

// activated = gelu(dense + bias); `dense` is overwritten with the derivative gelu'(dense + bias).
template <typename T>
void gelu_forward(int threads, int64_t rows, int64_t columns, GeluForm form, T* dense, const float* bias, T* activated);

// gradient *= derivative; the column sums of the product are added to bias_gradient [columns], in the order of threads.
template <typename T>
void gelu_backward(int threads, int64_t rows, int64_t columns, const T* derivative, T* gradient, float* bias_gradient);

}  // namespace bert_large
