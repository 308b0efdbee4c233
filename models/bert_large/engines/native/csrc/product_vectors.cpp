// Blocks of products on vectors. A pair of the depth takes a load of its right columns, and for each row a broadcast of
// the left word. As many rows are computed at a time as registers can hold sums: with AVX-512, 11 rows of two vectors,
// 22 independent sums. Two products and two loads can start per cycle: 13 loads for 22 products are few
// enough.
#include "pairs.h"
#include "product_unit.h"

namespace bert_large {
namespace {

constexpr int kVectors = kBlock / kLanes;
constexpr int kRows = kLanes == 16 ? 11 : 3;
// Right steps that are read again for the next rows stay in a first-level cache of 48 KiB: 32 KiB of them.
constexpr int64_t kCachedSteps = 16;

// kHeight rows of a block. Only the first rows of a block prefetch.
template <int kHeight, bool kPrefetches>
inline __attribute__((always_inline)) void multiply_rows(int64_t steps, const BFloat16* left, const BFloat16* right,
                                                         float* sums, bool add, Ahead& ahead) {
  Floats totals[kHeight][kVectors];
  for (int i = 0; i < kHeight; ++i) {
    for (int j = 0; j < kVectors; ++j) totals[i][j] = add ? load(sums + i * kBlock + j * kLanes) : Floats{};
  }
  for (int64_t step = 0; step < steps; ++step, left += kStep, right += kStep) {
    if constexpr (kPrefetches) ahead.fetch();
    for (int64_t k = 0; k < kBlock; k += 2) {
      Words row[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) row[j] = load(reinterpret_cast<const Pair*>(right + k * kBlock) + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kHeight; ++i) {
        const Words factor = broadcast(*reinterpret_cast<const Pair*>(left + i * kBlock + k));
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) totals[i][j] = add_product(totals[i][j], factor, row[j]);
      }
    }
  }
  for (int i = 0; i < kHeight; ++i) {
    for (int j = 0; j < kVectors; ++j) store(sums + i * kBlock + j * kLanes, totals[i][j]);
  }
}

void multiply(int64_t steps, const BFloat16* left, const BFloat16* right, float* sums, bool add, Ahead ahead) {
  for (int64_t step = 0; step < steps; step += kCachedSteps) {
    const int64_t count = steps - step < kCachedSteps ? steps - step : kCachedSteps;
    const bool adds = add || step > 0;
    multiply_rows<kRows, true>(count, left, right, sums, adds, ahead);
    int64_t row = kRows;
    for (; row + kRows <= kBlock; row += kRows) {
      multiply_rows<kRows, false>(count, left + row * kBlock, right, sums + row * kBlock, adds, ahead);
    }
    multiply_rows<kBlock % kRows, false>(count, left + row * kBlock, right, sums + row * kBlock, adds, ahead);
    left += count * kStep;
    right += count * kStep;
  }
}

void nothing() {}

}  // namespace

// It needs no more of its factors than comes from the second-level cache.
const ProductUnit kVectorUnit{&multiply, &nothing, &nothing, 0.4, kMostSteps};

}  // namespace bert_large
