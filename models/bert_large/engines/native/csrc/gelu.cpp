#include "gelu.h"

#include "parallel.h"

namespace bert_large {
namespace {

template <typename T, Activation (*gelu)(Floats)>
void forward(int threads, int64_t rows, int64_t columns, T* dense, const float* bias, T* activated) {
  parallel_parts(threads, rows, [&](int, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c, at = r * columns + c;
        Activation result = gelu(load_up_to(dense + at, left) + load_up_to(bias + c, left));
        store_up_to(activated + at, result.value, left);
        store_up_to(dense + at, result.derivative, left);
      }
    }
  });
}

}  // namespace

template <typename T>
void gelu_forward(int threads, int64_t rows, int64_t columns, GeluForm form, T* dense, const float* bias,
                  T* activated) {
  if (form == GeluForm::kTanh) {
    forward<T, gelu_tanh>(threads, rows, columns, dense, bias, activated);
  } else {
    forward<T, gelu_erf>(threads, rows, columns, dense, bias, activated);
  }
}

template <typename T>
void gelu_backward(int threads, int64_t rows, int64_t columns, const T* derivative, T* gradient,
                   float* bias_gradient) {
  ColumnSums sums(threads, columns);
  parallel_parts(threads, rows, [&](int thread, int64_t begin, int64_t end) {
    float* column_sums = sums.of_thread(thread);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c, at = r * columns + c;
        Floats value = load_up_to(gradient + at, left) * load_up_to(derivative + at, left);
        store_up_to(gradient + at, value, left);
        store_up_to(column_sums + c, load_up_to(column_sums + c, left) + value, left);
      }
    }
  });
  sums.add_to(bias_gradient);
}

template void gelu_forward<float>(int, int64_t, int64_t, GeluForm, float*, const float*, float*);
template void gelu_forward<BFloat16>(int, int64_t, int64_t, GeluForm, BFloat16*, const float*, BFloat16*);
template void gelu_backward<float>(int, int64_t, int64_t, const float*, float*, float*);
template void gelu_backward<BFloat16>(int, int64_t, int64_t, const BFloat16*, BFloat16*, float*);

}  // namespace bert_large
