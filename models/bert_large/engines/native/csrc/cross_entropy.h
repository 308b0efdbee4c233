// Softmax cross-entropy over the vocabulary.
#pragma once

#include "vector.h"

namespace bert_large {

struct RowLosses {
  double loss;      // sum over the rows
  int64_t correct;  // rows whose largest logit is the label's; of equal ones the first counts
};

// For rows of `logits` [rows, columns] without their bias. With `bias_gradient` not null, the gradients of the loss sum
// replace the logits and their column sums are added to bias_gradient [columns].
template <typename T>
RowLosses cross_entropy(int threads, int64_t rows, int64_t columns, T* logits, const float* bias, const int64_t* labels,
                        float* bias_gradient);

}  // namespace bert_large
