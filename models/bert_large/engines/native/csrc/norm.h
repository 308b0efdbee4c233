// LayerNorm fused with what stands before it. All matrices are contiguous [rows, columns]; T is float or BFloat16;
// parameters, statistics and the gradients of parameters are float. Gradients of parameters are added to.
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

// out = norm(residual + drop(dense + dense_bias)); `dense` is left holding the normalised sum's input.
template <typename T>
void residual_norm_forward(int threads, int64_t rows, int64_t columns, T* dense, const float* dense_bias,
                           const T* residual, const NormParameters& norm, const Dropout& dropout,
                           const TokenRows& tokens, T* out, float* means, float* rstds);

// The gradients of `residual` and `dense`, given that of `out` and what `dense` was left holding (`sums`).
template <typename T>
void residual_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient, const T* sums,
                            const float* means, const float* rstds, const NormParameters& norm, const Dropout& dropout,
                            const TokenRows& tokens, T* residual_gradient, T* dense_gradient,
                            const NormGradients& gradients, float* dense_bias_gradient);

// out = drop(norm(words[...] + positions[...] + token_types[...])).
template <typename T>
void embed_norm_forward(int threads, int64_t rows, int64_t columns, const EmbeddingTables& tables,
                        const NormParameters& norm, const Dropout& dropout, const TokenRows& tokens, T* out,
                        float* means, float* rstds);

// `scratch` [rows, columns] is overwritten.
template <typename T>
void embed_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient,
                         const EmbeddingTables& tables, const float* means, const float* rstds,
                         const NormParameters& norm, const Dropout& dropout, const TokenRows& tokens, float* scratch,
                         const EmbeddingGradients& gradients);

}  // namespace bert_large
