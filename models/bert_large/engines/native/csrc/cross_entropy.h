// Softmax cross-entropy over the vocabulary, loss and gradient in one pass over the logits.
//
// For one row of logits x with bias b and label y, let v = x + b, m = max(v) and Z = sum_j exp(v_j - m):
//   loss = log(Z) + m - v_y
//   d loss / d v_j = exp(v_j - m) / Z - [j = y],  which is also the gradient of x_j
// The gradient of b is the sum of these over the rows.
//
// Arithmetic is in float. Z, a sum of up to 30,522 terms, is gathered in lanes of at most 256 terms each, which are
// added up in double; the rows' losses are added in double in the order of rows. Sums over rows are kept per thread and
// added in the order of threads. So results are the same bits in every run with the same number of threads.
#pragma once

#include "vector.h"

namespace bert_large {

struct RowLosses {
  double loss;      // sum over the rows
  int64_t correct;  // rows whose largest logit is the label's; the first of equal ones counts as the largest
};

// `logits` [rows, columns] are without their bias [columns]. Unless `bias_gradient` [columns] is null, the gradients of
// the loss sum overwrite the logits, and their column sums are added to it.
template <typename T>
RowLosses cross_entropy(int threads, int64_t rows, int64_t columns, T* logits, const float* bias, const int64_t* labels,
                        float* bias_gradient);

}  // namespace bert_large
