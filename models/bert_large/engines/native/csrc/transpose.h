// Transposes of matrices, by blocks in registers.
#pragma once

#include "vector.h"

namespace bert_large {

// A matrix of kLanes x kLanes words in kLanes registers is transposed in log2(kLanes) steps: transpose within 2 x 2
// blocks, then exchange 2 x 2 blocks within 4 x 4 blocks, and so on. Each step takes one shuffle per register, where
// element by element it would take kLanes loads and stores.

// Exchanges the off-diagonal kStep x kStep blocks of every 2 kStep x 2 kStep block of `rows` [kLanes].
template <int kStep>
inline __attribute__((always_inline)) void exchange_blocks(Floats* rows) {
  Ints upper, lower;
  for (int lane = 0; lane < kLanes; ++lane) {
    upper[lane] = lane & kStep ? kLanes + lane - kStep : lane;
    lower[lane] = lane & kStep ? kLanes + lane : lane + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    Floats a = rows[i], b = rows[i | kStep];
    rows[i] = __builtin_shuffle(a, b, upper);
    rows[i | kStep] = __builtin_shuffle(a, b, lower);
  }
}

// Transposes a matrix of kLanes x kLanes 32-bit words.
inline __attribute__((always_inline)) void transpose_registers(Floats* rows) {
  exchange_blocks<1>(rows);
  exchange_blocks<2>(rows);
  exchange_blocks<4>(rows);
  if constexpr (kLanes == 16) exchange_blocks<8>(rows);
}

// to [kLanes, kLanes] = the transpose of from [kLanes, kLanes], rows `from_stride` and `to_stride` floats apart.
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  Floats block[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) block[i] = load(from + i * from_stride);
  transpose_registers(block);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(to + i * to_stride, block[i]);
}

// to [columns, rows] = the transpose of from [rows, columns], in 32-bit words; both are multiples of kLanes.
inline void transpose_words(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      transpose_block(from + r * columns + c, columns, to + c * rows + r, rows);
    }
  }
}

// The same for words of two bfloat16 numbers.
inline void transpose_words(const BFloat16* from, int64_t rows, int64_t columns, BFloat16* to) {
  transpose_words(reinterpret_cast<const float*>(from), rows, columns, reinterpret_cast<float*>(to));
}

// to [columns][2] = two rows of a matrix interleaved, so that a 32-bit word holds two neighbors of a column; `columns`
// is a multiple of kLanes.
inline void pair_rows(const BFloat16* low, const BFloat16* high, int64_t columns, BFloat16* to) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    Halves lower, upper;
    std::memcpy(&lower, low + c, sizeof lower);
    std::memcpy(&upper, high + c, sizeof upper);
    const Words words = widen(lower) | widen(upper) << 16;
    std::memcpy(to + 2 * c, &words, sizeof words);
  }
}

}  // namespace bert_large
