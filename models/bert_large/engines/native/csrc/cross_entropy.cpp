#include "cross_entropy.h"

#include <cmath>

#include "parallel.h"

namespace bert_large {

template <typename T>
RowLosses cross_entropy(int threads, int64_t rows, int64_t columns, T* logits, const float* bias, const int64_t* labels,
                        float* bias_gradient) {
  ColumnSums sums(bias_gradient ? threads : 0, columns);
  std::vector<double> losses(rows);
  std::vector<char> correct(rows);
  parallel_parts(threads, rows, [&](int thread, int64_t begin, int64_t end) {
    std::vector<float> values(columns);
    for (int64_t r = begin; r < end; ++r) {
      T* row = logits + r * columns;
      Floats running_maximum = broadcast(-INFINITY);
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        Floats value = load_up_to(row + c, left) + load_up_to(bias + c, left);
        store_up_to(values.data() + c, value, left);
        running_maximum = maximum(running_maximum, first_lanes(value, left, -INFINITY));
      }
      float largest = maximum(running_maximum), of_label = values[labels[r]];
      correct[r] =
          of_label == largest && std::find(values.begin(), values.end(), largest) - values.begin() == labels[r];
      Floats partial{};
      double total = 0;
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        Floats power = first_lanes(exponential(load_up_to(values.data() + c, left) - largest), left, 0.0f);
        store_up_to(values.data() + c, power, left);
        partial += power;
        if (c / kLanes % 256 == 255) {
          total += sum(partial);
          partial = Floats{};
        }
      }
      total += sum(partial);
      losses[r] = (double)largest - of_label + std::log(total);
      if (!bias_gradient) continue;
      float scale = (float)(1.0 / total);
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        store_up_to(values.data() + c, load_up_to(values.data() + c, left) * scale, left);
      }
      values[labels[r]] -= 1.0f;
      float* column_sums = sums.of_thread(thread);
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        Floats value = load_up_to(values.data() + c, left);
        store_up_to(row + c, value, left);
        store_up_to(column_sums + c, load_up_to(column_sums + c, left) + value, left);
      }
    }
  });
  if (bias_gradient) sums.add_to(bias_gradient);
  RowLosses result{0, 0};
  for (int64_t r = 0; r < rows; ++r) {
    result.loss += losses[r];
    result.correct += correct[r];
  }
  return result;
}

template RowLosses cross_entropy<float>(int, int64_t, int64_t, float*, const float*, const int64_t*, float*);
template RowLosses cross_entropy<BFloat16>(int, int64_t, int64_t, BFloat16*, const float*, const int64_t*, float*);

}  // namespace bert_large
