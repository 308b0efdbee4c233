// Products of small matrices that lie in a core's cache: one thread, float sums, for attention's blocks. The elements
// of the factors are floats, or pairs of bfloat16 numbers: then each has half as many elements as numbers in depth.
//
// C is computed in tiles of kTileRows rows by kTileVectors vectors, whose sums stay in registers over the whole depth.
// Each step of the depth takes kTileVectors loads of B, kTileRows broadcasts of A, and kTileRows * kTileVectors
// multiply-adds. Two multiply-adds can start per cycle and each takes 4 cycles, so at least 8 independent sums keep the
// units busy. More sums per load are better, since two loads can start per cycle: with AVX-512 it is 10 loads for 24
// multiply-adds. The number of registers bounds the tile: the sums, kTileVectors vectors of B and one of A must fit.
#pragma once

#include <algorithm>

#include "pairs.h"

namespace bert_large {

#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVectors = 4;  // 24 of 32 registers are sums
#else
constexpr int kTileRows = 6, kTileVectors = 2;  // 12 of 16 registers are sums
#endif
constexpr int64_t kTileDepth = 128;  // a panel of B of this depth (at most 32 KiB) stays in the first-level cache

inline Floats add_product(Floats sums, Floats left, Floats right) { return sums + left * right; }

// A matrix whose element (row, column) is at data[row * row_stride + column * column_stride].
template <typename Element>
struct Strided {
  const Element* data;
  int64_t row_stride, column_stride;
};

// C [kRows, kVectors * kLanes] += A [kRows, depth] B [depth, kVectors * kLanes], or = where `fresh`. Sizes are template
// parameters, and loops over them unrolled, because `sums` can be in registers only if every index is a constant.
template <int kRows, int kVectors, typename Element>
inline __attribute__((always_inline)) void multiply_tile(int64_t depth, Strided<Element> a, const Element* b,
                                                         int64_t ldb, float* c, int64_t ldc, bool fresh) {
  Floats sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) sums[i][j] = fresh ? Floats{} : load(c + i * ldc + j * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load(b)) row[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) row[j] = load(b + k * ldb + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto factor = broadcast(a.data[i * a.row_stride + k * a.column_stride]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) sums[i][j] = add_product(sums[i][j], factor, row[j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) store(c + i * ldc + j * kLanes, sums[i][j]);
  }
}

// C [rows, kVectors * kLanes] += A [rows, depth] B, or = where `fresh`, in tiles. The switch selects the instance of
// `multiply_tile` for a height that is known only at run time.
template <int kVectors, typename Element>
void multiply_panel(int64_t rows, int64_t depth, Strided<Element> a, const Element* b, int64_t ldb, float* c,
                    int64_t ldc, bool fresh) {
  // Heights as even as possible: 32 rows are 6 + 6 + 5 + 5 + 5 + 5, not 5 times 6 and a slow 2.
  int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    int64_t begin = rows * tile / tiles, height = rows * (tile + 1) / tiles - begin;
    Strided<Element> part{a.data + begin * a.row_stride, a.row_stride, a.column_stride};
    float* target = c + begin * ldc;
    switch (height) {
      case 6: multiply_tile<6, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
      case 5: multiply_tile<5, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
      case 4: multiply_tile<4, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
      case 3: multiply_tile<3, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
      case 2: multiply_tile<2, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
      case 1: multiply_tile<1, kVectors>(depth, part, b, ldb, target, ldc, fresh); break;
    }
  }
}

// A matrix cut into panels of kPanel columns: element (row, column) is at
// data[column / kPanel * panel_stride + row * row_stride + column % kPanel].
constexpr int64_t kPanel = kTileVectors * kLanes;
template <typename Element>
struct Panels {
  const Element* data;
  int64_t row_stride, panel_stride;
};

template <typename Element>
Panels<Element> as_panels(const Element* row_major, int64_t row_stride) {
  return {row_major, row_stride, kPanel};
}

// C [rows, columns] += A [rows, depth] B [depth, columns], or = where `overwrite`. C is row-major with leading
// dimension ldc; `columns` is a multiple of kLanes.
template <typename Element>
void multiply(int64_t rows, int64_t columns, int64_t depth, Strided<Element> a, Panels<Element> b, float* c,
              int64_t ldc, bool overwrite) {
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    int64_t part = std::min(kTileDepth, depth - k);
    Strided<Element> a_part{a.data + k * a.column_stride, a.row_stride, a.column_stride};
    bool fresh = overwrite && k == 0;
    for (int64_t column = 0; column < columns; column += kPanel) {
      const Element* panel = b.data + column / kPanel * b.panel_stride + k * b.row_stride;
      float* target = c + column;
      // The last panel may be narrower. As above, the switch selects an instance by a width known at run time.
      switch (std::min<int64_t>(kTileVectors, (columns - column) / kLanes)) {
#if defined(__AVX512F__)
        case 4: multiply_panel<4>(rows, part, a_part, panel, b.row_stride, target, ldc, fresh); break;
        case 3: multiply_panel<3>(rows, part, a_part, panel, b.row_stride, target, ldc, fresh); break;
#endif
        case 2: multiply_panel<2>(rows, part, a_part, panel, b.row_stride, target, ldc, fresh); break;
        case 1: multiply_panel<1>(rows, part, a_part, panel, b.row_stride, target, ldc, fresh); break;
      }
    }
  }
}

}  // namespace bert_large
