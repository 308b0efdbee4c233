// What is done to parameters and their gradients: LAMB in two passes over memory, norms, sums.
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
  float gradient_scale;     // gradients are multiplied by it as they are read
  float mean_correction;    // 1 / (1 - beta_1^step)
  float square_correction;  // 1 / (1 - beta_2^step)
  float new_1, new_2;       // 1 - beta_1 and 1 - beta_2, subtracted in double
  bool adapt;               // weight decay and trust ratio, or neither
};

// Updates every parameter: moments and norms in the first pass, weights in the second.
void lamb_step(int threads, const std::vector<LambArrays>& parameters, const LambSettings& settings);

// The square of the norm of all arrays together, summed in double.
double squared_norm(int threads, const std::vector<const float*>& arrays, const std::vector<int64_t>& counts);

// target [count] += source, for weight gradients that a product gave in a type of lower precision.
void add_to(int threads, int64_t count, const BFloat16* source, float* target);

}  // namespace bert_large
