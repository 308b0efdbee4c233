// The units that compute blocks of a product, behind one interface. The layout of steps is defined in products.h.
#pragma once

#include <cstdint>

#include "vector.h"

namespace bert_large {

constexpr int64_t kBlock = 32;              // rows and columns of a block, and depth of a step
constexpr int64_t kStep = kBlock * kBlock;  // elements of a step
constexpr int64_t kMostSteps = 32;          // of the depth at once, 1,024 elements
constexpr int64_t kLine = 64;               // bytes of a cache line

inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
// Blocks of a matrix's rows or columns; the last one need not be whole.
inline int64_t count_blocks(int64_t size) { return divide_up(size, kBlock); }

// What a micro-kernel prefetches while it computes, a few lines per step, because a burst of them would occupy all of
// the core's buffers for cache misses: a share of the next right panel, and rows of the result that the block goes to.
class Ahead {
 public:
  static constexpr int64_t kShare = 2 * kLine;  // bytes of the next right panel per step

  // Nothing yet: an address in the cache, so that micro-kernels need not check whether there is something to prefetch.
  explicit Ahead(const void* cached) : right_(static_cast<const char*>(cached)), result_(right_) {}

  void set_right(const void* share) {
    right_ = static_cast<const char*>(share);
    right_stride_ = kShare;
  }

  // Rows of 32 elements, `stride` elements apart.
  template <typename T>
  void set_result(const T* first, int64_t stride) {
    result_ = reinterpret_cast<const char*>(first);
    result_stride_ = stride * sizeof(T);
    last_byte_ = kBlock * sizeof(T) - 1;
  }

  // Prefetches for one step. Inlined always: GCC takes a function that only prefetches for one without an effect, and
  // removes its calls.
  __attribute__((always_inline)) void fetch() {
    _mm_prefetch(right_, _MM_HINT_T1);
    _mm_prefetch(right_ + kLine, _MM_HINT_T1);
    _mm_prefetch(result_, _MM_HINT_T0);
    _mm_prefetch(result_ + last_byte_, _MM_HINT_T0);
    right_ += right_stride_;
    result_ += result_stride_;
  }

 private:
  const char *right_, *result_;
  int64_t right_stride_ = 0, result_stride_ = 0, last_byte_ = 0;
};

struct ProductUnit {
  // sums [32, 32] = the product of `steps` left and right steps, or += where `add`.
  void (*multiply)(int64_t steps, const BFloat16* left, const BFloat16* right, float* sums, bool add, Ahead ahead);
  // Called by each thread before its first and after its last block.
  void (*start)();
  void (*finish)();
  double packing;        // of a left step, in units of the time of a block's step
  int64_t cached_steps;  // of a right panel, that stay in the first-level cache while left panels are multiplied by them
};

// VDPBF16PS; in a build without it, the same sums from float arithmetic.
extern const ProductUnit kVectorUnit;
// AMX tiles. The process must have asked the system for them (`at::cpu::init_amx`).
extern const ProductUnit kTileUnit;

}  // namespace bert_large
