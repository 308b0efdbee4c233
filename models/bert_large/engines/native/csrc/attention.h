// Multi-head self-attention within each sequence of a ragged batch, computed from the packed projections.
//
// For one head of one sequence of n tokens let Q, K, V [n, d] be the projections with their biases, s = 1 / sqrt(d),
// M the 0/1 dropout mask [n, n] and p dropout's probability. * is the elementwise product.
//
// Forward:
//   S = s Q K^T                          scores
//   L_i = log sum_j exp(S_ij)            logarithm of softmax's denominator, saved as `log_sums`
//   P_ij = exp(S_ij - L_i)               probabilities
//   O = (M * P / (1 - p)) V              context
//
// Backward, from dO. Neither P nor M is saved: both are computed again from S, L and dropout's hash.
//   dV = (M * P / (1 - p))^T dO
//   dP = M * (dO V^T) / (1 - p)
//   dS_ij = P_ij (dP_ij - D_i),  where D_i = sum_k P_ik dP_ik
//   dQ = s dS K,  dK = s dS^T Q
// dS is softmax's Jacobian, diag(P_i) - P_i P_i^T, applied to row i of dP. Moving the factor M / (1 - p) from dP to P
// gives D_i = sum_k (M * P / (1 - p))_ik (dO V^T)_ik = dO_i . O_i: a product of two rows of the context's size, not of
// the scores'. The biases' gradients are the column sums of dQ, dK and dV.
//
// With `keys` below n, columns of S from there on are left out: their P is 0, and so are those rows of dK and dV.
//
// This is the scheme of FlashAttention-2 (Dao 2023, arXiv 2307.08691) with one difference: a block of 64 rows of scores
// over all keys of a sequence fits into a core's second-level cache (512 tokens: 128 KiB), so that a row's softmax is
// computed in one piece, without FlashAttention's running maximum and rescaling.
#pragma once

#include "dropout.h"

namespace bert_large {

struct AttentionShape {
  int64_t sequences, heads, head_size;
  const int32_t* cu_seqlens;  // [sequences + 1]
  const int64_t* samples;     // [sequences]
  const int32_t* keys;        // [sequences]: only so many first rows of a sequence are attended to; nullptr: all
  int64_t tokens() const { return cu_seqlens[sequences]; }
  int64_t width() const { return heads * head_size; }
};

// `qkv` [tokens, 3 * width] holds query, key and value without their biases `bias` [3 * width]; `context` is
// [tokens, width] and `log_sums` [heads, tokens].
template <typename T>
struct AttentionForward {
  const T* qkv;
  const float* bias;
  T* context;
  float* log_sums;
};

// The forward pass's arrays, and the gradient of `context`. `qkv` is overwritten with its gradient, whose column sums are
// added to `bias_gradient` [3 * width].
template <typename T>
struct AttentionBackward {
  T* qkv;
  const float* bias;
  const T* context;
  const float* log_sums;
  const T* context_gradient;
  float* bias_gradient;
};

// T is float or BFloat16; all arithmetic is in float.
template <typename T>
void attention_forward(int threads, const AttentionShape& shape, const Dropout& dropout,
                       const AttentionForward<T>& arrays);
template <typename T>
void attention_backward(int threads, const AttentionShape& shape, const Dropout& dropout,
                        const AttentionBackward<T>& arrays);

// The same with products of bfloat16 factors, for CPUs where `has_pair_products`: on AMX tiles where `amx_is_there`
// (oneDNN generates their machine code at run time, so one build serves CPUs with and without AMX), else on AVX-512
// BF16 vectors.
bool amx_is_there();
bool has_pair_products();
void attention_forward_pairs(int threads, const AttentionShape& shape, const Dropout& dropout,
                             const AttentionForward<BFloat16>& arrays);
void attention_backward_pairs(int threads, const AttentionShape& shape, const Dropout& dropout,
                              const AttentionBackward<BFloat16>& arrays);

}  // namespace bert_large
