// LayerNorm fused with what precedes it: bias, dropout and residual, or the sum of the three embeddings.
//
// For a row x of n columns, with weight w and bias b:
//   mean = sum(x) / n,  rstd = 1 / sqrt(sum((x - mean)^2) / n + eps)
//   z = (x - mean) rstd,  y = w z + b
// Backward, from dy, with g = w dy:
//   dw = sum over rows of dy z,  db = sum over rows of dy
//   dx = rstd (g - mean(g) - z mean(g z))
// The last line follows from dz/dx: the mean takes away the part of g along (1, ..., 1), and the scaling by rstd takes
// away its part along z (both have no influence on y).
//
// All matrices are contiguous [rows, columns]; T is float or BFloat16; parameters, statistics and gradients of
// parameters are float, and rows are normalized in float. Gradients of parameters are added to. The variance is summed
// from centered values in a second pass over the row, which is in the first-level cache: E[x^2] - mean^2 would cancel.
//
// Sums over rows are kept per thread and added in the order of threads, so that results are the same bits in every run
// with the same number of threads.
#pragma once

#include "dropout.h"

namespace bert_large {

struct NormParameters {
  const float* weight;  // [columns]
  const float* bias;    // [columns]
  float eps;
};

struct NormGradients {
  float* weight;
  float* bias;
};

struct EmbeddingTables {
  const float* words;             // [vocabulary, columns]
  const float* positions;         // [positions, columns]
  const float* token_types;       // [types, columns]
  const int64_t* input_ids;       // [rows]
  const int64_t* position_ids;    // [rows]
  const int64_t* token_type_ids;  // [rows]
};

struct EmbeddingGradients {
  float* words;
  float* positions;
  float* token_types;
  NormGradients norm;
};

// out = norm(residual + drop(dense + dense_bias)). `dense` is overwritten with z for the backward pass. z rather than
// the sum x: a bfloat16 of x is off by up to 2^-9 |x|, which is many times the spread of a row whose mean is large, and
// (x - mean) rstd of it would be far from the z of the forward pass; a bfloat16 of z is off by 2^-9 |z|.
template <typename T>
void residual_norm_forward(int threads, int64_t rows, int64_t columns, T* dense, const float* dense_bias,
                           const T* residual, const NormParameters& norm, const Dropout& dropout,
                           const TokenRows& tokens, T* out, float* rstds);

// The gradients of `residual`, `dense` and the parameters, given the gradient of `out` and z, which the forward pass left
// in `dense`. With x = residual + drop(dense + dense_bias): d residual = dx, which overwrites z; d dense = drop(dx), and
// d dense_bias is the column sums of d dense.
template <typename T>
void residual_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient, T* normalized,
                            const float* rstds, const float* weight, const Dropout& dropout, const TokenRows& tokens,
                            T* dense_gradient, const NormGradients& gradients, float* dense_bias_gradient);

// out = drop(norm(words[...] + positions[...] + token_types[...])).
template <typename T>
void embed_norm_forward(int threads, int64_t rows, int64_t columns, const EmbeddingTables& tables,
                        const NormParameters& norm, const Dropout& dropout, const TokenRows& tokens, T* out,
                        float* means, float* rstds);

// The rows of the tables are read and normalized again, which takes less memory traffic than saving z. `scratch`
// [rows, columns] is overwritten with dx, which is then added to the rows of the tables.
template <typename T>
void embed_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient,
                         const EmbeddingTables& tables, const float* means, const float* rstds, const float* weight,
                         const Dropout& dropout, const TokenRows& tokens, float* scratch,
                         const EmbeddingGradients& gradients);

}  // namespace bert_large
