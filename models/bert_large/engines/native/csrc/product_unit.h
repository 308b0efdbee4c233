// The units that compute blocks of a product, behind one interface. The layout of steps is defined in products.h.
#pragma once

#include <cstdint>

#include "vector.h"

namespace bert_large {

constexpr int64_t kBlock = 32;              // rows and columns of a block, and depth of a step
constexpr int64_t kStep = kBlock * kBlock;  // elements of a step
constexpr int64_t kLine = 64;               // bytes of a cache line

inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
// Blocks of a matrix's rows or columns; the last one need not be whole.
inline int64_t count_blocks(int64_t size) { return divide_up(size, kBlock); }

// What a micro-kernel prefetches while it computes, some lines per step, because a burst of them would occupy all of
// the core's buffers for cache misses: the next right panel, and the rows of the result that the block goes to.
struct Ahead {
  const char* right = nullptr;
  int64_t right_bytes = 0;  // per step, a multiple of kLine
  const char* result = nullptr;
  int64_t result_rows = 0, result_bytes = 0, result_stride = 0;  // rows per step; bytes of a row and between rows

  // For the steps from `step` on.
  Ahead from(int64_t step) const {
    Ahead rest = *this;
    rest.right += step * right_bytes;
    rest.result += step * result_rows * result_stride;
    return rest;
  }

  // Inlined always: GCC takes a function that only prefetches for one without an effect, and removes its calls.
  __attribute__((always_inline)) void fetch(int64_t step) const {
    for (int64_t byte = 0; byte < right_bytes; byte += kLine) {
      _mm_prefetch(right + step * right_bytes + byte, _MM_HINT_T1);
    }
    for (int64_t row = step * result_rows; row < (step + 1) * result_rows; ++row) {
      for (int64_t byte = 0; byte < result_bytes; byte += kLine) {
        _mm_prefetch(result + row * result_stride + byte, _MM_HINT_T0);
      }
    }
  }
};

struct ProductUnit {
  // sums [32, 32] = the product of `steps` left and right steps, or += where `add`.
  void (*multiply)(int64_t steps, const BFloat16* left, const BFloat16* right, float* sums, bool add,
                   const Ahead& ahead);
  // Called by each thread before its first and after its last block.
  void (*start)();
  void (*finish)();
  double packing;  // of a left step, in units of the time of a block's step
};

// VDPBF16PS; in a build without it, the same sums from float arithmetic, for tests.
extern const ProductUnit kVectorUnit;
// AMX tiles. The process must have asked the system for them (`at::cpu::init_amx`).
extern const ProductUnit kTileUnit;

}  // namespace bert_large
