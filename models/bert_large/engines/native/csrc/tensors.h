// PyTorch's tensors as arguments of kernels, with checks of types and shapes, so that no kernel reads or writes beyond
// them.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "gelu.h"
#include "vector.h"

namespace bert_large {

using at::Tensor;
using c10::string_view;

inline int threads() { return at::get_num_threads(); }

// PyTorch's name of a C++ type.
template <typename T>
constexpr at::ScalarType kType = at::kFloat;
template <>
constexpr at::ScalarType kType<int64_t> = at::kLong;
template <>
constexpr at::ScalarType kType<int32_t> = at::kInt;
template <>
constexpr at::ScalarType kType<BFloat16> = at::kBFloat16;

// The elements of a contiguous tensor of this type and shape; an error names the tensor.
template <typename T>
T* pointer(const Tensor& tensor, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == kType<T>, name, " is of type ", tensor.scalar_type(), ", expected ", kType<T>);
  TORCH_CHECK(tensor.sizes() == shape, name, " has shape ", tensor.sizes(), ", expected ", shape);
  TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
  return static_cast<T*>(tensor.data_ptr());
}
// A macro, so that the message has the argument's name.
#define POINTER(T, tensor, ...) pointer<T>(tensor, __VA_ARGS__, #tensor)

// Calls work(T{}) with the C++ type T of the activations `tensor`: the caller takes the type with decltype.
template <typename Work>
void with_type(const Tensor& tensor, const Work& work) {
  if (tensor.scalar_type() == at::kFloat) {
    work(float{});
  } else {
    TORCH_CHECK(tensor.scalar_type() == at::kBFloat16, "activations are of type ", tensor.scalar_type(),
                ", expected float32 or bfloat16");
    work(BFloat16{});
  }
}

inline GeluForm gelu_form(string_view name) {
  TORCH_CHECK(name == "none" || name == "tanh", "GELU's form is ", name, ", expected none or tanh");
  return name == "tanh" ? GeluForm::kTanh : GeluForm::kErf;
}

}  // namespace bert_large
