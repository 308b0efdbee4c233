// Operations on parameters and their gradients: LAMB's update, the global norm, sums.
//
// LAMB (You et al. 2019, arXiv 1904.00962) as MLCommons' BERT reference computes it, for each parameter w with gradient
// g at step t (from 1):
//   m = beta_1 m + (1 - beta_1) g,  v = beta_2 v + (1 - beta_2) g^2
//   u = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay w
//   w = w - rate ratio u,  ratio = |w| / |u|, or 1 where either norm is 0
// Biases and LayerNorm parameters have weight_decay 0 and ratio 1 (`adapt` false). AdamW is PyTorch's own fused kernel.
//
// The ratio needs the norms of whole parameters before any weight can change, hence two passes over memory. The first
// reads g, m, v, w and writes m, v; the second computes u again from m, v and w, which costs less than storing u. Norms
// are summed in double: float32 sums of 31 million squares are off by as much as 1e-3. Sums are gathered for pieces of
// fixed size and added in the order of pieces, so results are the same bits for any number of threads.
#pragma once

#include <vector>

#include "vector.h"

namespace bert_large {

// One parameter's arrays, `count` elements each.
struct LambArrays {
  int64_t count;
  float* weight;
  const float* gradient;
  float* mean;
  float* mean_square;
};

struct LambSettings {
  float rate, beta_1, beta_2, epsilon, weight_decay;
  float gradient_scale;     // factor of gradients as they are read: clipping, and the inverse of a loss scale
  float mean_correction;    // 1 / (1 - beta_1^step)
  float square_correction;  // 1 / (1 - beta_2^step)
  float new_1, new_2;       // 1 - beta_1 and 1 - beta_2, subtracted in double
  bool adapt;               // whether the parameters get weight decay and trust ratio
};

// Updates every parameter and its moments.
void lamb_step(int threads, const std::vector<LambArrays>& parameters, const LambSettings& settings);

// The squared norm of all arrays as one vector.
double squared_norm(int threads, const std::vector<const float*>& arrays, const std::vector<int64_t>& counts);

}  // namespace bert_large
