// GCC writes the file's name into the assembly beside tile instructions, where a line break in its path is an error.
#line 3 "peak.cpp"
#include "peak.h"

#include <omp.h>

#include "product_unit.h"
#include "vector.h"

namespace bert_large {
namespace {

// Two vector units with a latency of up to 6 cycles (of VDPBF16PS) need 12 independent sums. As in a product, most of
// the 32 or 16 registers hold sums; the others hold the factors.
constexpr int kSums = kLanes == 16 ? 24 : 12;

// Makes the compiler treat a vector as changed, so that it computes what no result depends on.
inline void keep(Floats& value) { asm volatile("" : "+v"(value)); }

int64_t multiply_floats(int64_t iterations) {
  Floats sums[kSums] = {}, factor = broadcast(0.5f), term = broadcast(1.0f);
  keep(factor);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kSums; ++s) {
      sums[s] = sums[s] * factor + term;
      keep(sums[s]);
    }
  }
  return iterations * kSums * kLanes * 2;
}

#if defined(__AVX512BF16__)
int64_t multiply_pairs(int64_t iterations) {
  Floats sums[kSums] = {}, zeros = {};
  keep(zeros);
  const __m512bh factor = (__m512bh)zeros;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < kSums; ++s) {
      sums[s] = (Floats)_mm512_dpbf16_ps((__m512)sums[s], factor, factor);
      keep(sums[s]);
    }
  }
  return iterations * kSums * kLanes * 2 * 2;  // each lane adds the products of two pairs
}

// Tile registers 0 to 3 hold sums, 4 to 7 factors, as in a product of 2 by 2 tiles.
__attribute__((target("amx-tile,amx-bf16"))) int64_t multiply_tiles(int64_t iterations) {
  kTileUnit.start();  // sets all tiles to zero
  for (int64_t i = 0; i < iterations; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  kTileUnit.finish();
  return iterations * 4 * (16 * 16 * 32) * 2;
}
#endif

int64_t multiply(int64_t iterations, bool bfloat16, bool amx) {
#if defined(__AVX512BF16__)
  if (bfloat16) return amx ? multiply_tiles(iterations / 16) : multiply_pairs(iterations);
#endif
  return multiply_floats(iterations);
}

}  // namespace

double multiply_registers(int threads, int64_t iterations, bool bfloat16, bool amx) {
  int64_t operations = 0;
#pragma omp parallel num_threads(threads) reduction(+ : operations)
  operations += multiply(iterations, bfloat16, amx);
  return (double)operations;
}

}  // namespace bert_large
