// Self-attention within each sequence of a ragged batch, straight from the packed projections.
#pragma once

#include "dropout.h"

namespace bert_large {

struct AttentionShape {
  int64_t sequences, heads, head_size;
  const int32_t* cu_seqlens;  // [sequences + 1]
  const int64_t* samples;     // [sequences]
  int64_t tokens() const { return cu_seqlens[sequences]; }
  int64_t width() const { return heads * head_size; }
};

// qkv [tokens, 3 * width] holds query, key and value without their biases [3 * width]; context is [tokens, width];
// log_sums [heads, tokens] are the logarithms of softmax's denominators, for the backward pass.
template <typename T>
void attention_forward(int threads, const AttentionShape& shape, const T* qkv, const float* bias,
                       const Dropout& dropout, T* context, float* log_sums);

// The gradient of qkv, given that of context; its column sums are added to bias_gradient [3 * width].
template <typename T>
void attention_backward(int threads, const AttentionShape& shape, const T* qkv, const float* bias,
                        const Dropout& dropout, const T* context, const float* log_sums, const T* context_gradient,
                        T* qkv_gradient, float* bias_gradient);

// The same by bfloat16 matrix products on AMX, where `amx_is_there`; kernels are made for the CPU at run time.
bool amx_is_there();
void attention_forward_amx(int threads, const AttentionShape& shape, const BFloat16* qkv, const float* bias,
                           const Dropout& dropout, BFloat16* context, float* log_sums);
void attention_backward_amx(int threads, const AttentionShape& shape, const BFloat16* qkv, const float* bias,
                            const Dropout& dropout, const BFloat16* context, const float* log_sums,
                            const BFloat16* context_gradient, BFloat16* qkv_gradient, float* bias_gradient);

}  // namespace bert_large
