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

struct Activation {
  Floats value, derivative;
};

// `gate` is s = 1 / (1 + exp(-2u)): for large negative u it is 0 without the cancellation of 1 + tanh(u).
inline Activation gelu_tanh(Floats x) {
  const float two_root = 1.5957691216f, cubic = 0.044715f;  // 2 sqrt(2/pi)
  Floats square = x * x;
  Floats twice_u = two_root * x * (1.0f + cubic * square);
  Floats gate = 1.0f / (1.0f + exponential(-twice_u));
  Floats slope = two_root * (1.0f + 3 * cubic * square);
  return {x * gate, gate + x * gate * (1.0f - gate) * slope};
}

// P(-|x|) = exp(-x^2 / 2) t (a1 + t (a2 + ...)) / 2 by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
inline Activation gelu_erf(Floats x) {
  Floats magnitude = maximum(x, -x) * 0.70710678f;
  Floats t = 1.0f / (1.0f + 0.3275911f * magnitude);
  Floats density = exponential(-0.5f * x * x);
  Floats tail = 1.061405429f * t - 1.453152027f;
  tail = tail * t + 1.421413741f;
  tail = tail * t - 0.284496736f;
  tail = tail * t + 0.254829592f;
  tail = 0.5f * tail * t * density;  // P(-|x|)
  Floats below = x < 0.0f ? tail : 1.0f - tail;
  return {x * below, below + x * density * 0.39894228f};
}

// activated = gelu(dense + bias); `dense` is overwritten with the derivative gelu'(dense + bias).
template <typename T>
void gelu_forward(int threads, int64_t rows, int64_t columns, GeluForm form, T* dense, const float* bias, T* activated);

// gradient *= derivative; the column sums of the product are added to bias_gradient [columns], in the order of threads.
template <typename T>
void gelu_backward(int threads, int64_t rows, int64_t columns, const T* derivative, T* gradient, float* bias_gradient);

}  // namespace bert_large
