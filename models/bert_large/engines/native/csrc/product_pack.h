// Packing of factors into the steps that products.h defines. A packer writes steps of some panels, `stride` elements
// from panel to panel: `pack(panels, steps, to, stride)`. Steps are read with 32 rows of a matrix, which have no common
// page, so that the rows of the next step are prefetched.
#pragma once

#include "parallel.h"
#include "product_unit.h"
#include "transpose.h"

namespace bert_large {

// A row-major matrix, with rows `stride` elements apart.
struct Matrix {
  const BFloat16* data;
  int64_t rows, columns, stride;
};

// A block of 32 x 32 elements, in rows that are `stride` elements apart.
struct Block {
  const BFloat16* data;
  int64_t stride;
};

// A block of a matrix, or, if it is cut off by the end of rows or columns, a copy with zeros for the missing elements.
inline Block whole_block(const Matrix& from, int64_t row_block, int64_t column_block, BFloat16* copy) {
  const int64_t row = row_block * kBlock, column = column_block * kBlock;
  const int64_t rows = std::min(kBlock, from.rows - row), columns = std::min(kBlock, from.columns - column);
  const BFloat16* data = from.data + row * from.stride + column;
  if (rows == kBlock && columns == kBlock) return {data, from.stride};
  std::memset(copy, 0, kStep * sizeof(BFloat16));
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(copy + r * kBlock, data + r * from.stride, columns * sizeof(BFloat16));
  }
  return {copy, kBlock};
}

// to [16][32][2] = the rows of a block as pairs.
inline void pack_pairs(const Block& rows, BFloat16* to) {
  for (int64_t r = 0; r < kBlock; r += 2) {
    const BFloat16* low = rows.data + r * rows.stride;
    __builtin_prefetch(low + kBlock * rows.stride);
    __builtin_prefetch(low + (kBlock + 1) * rows.stride);
    pair_rows(low, low + rows.stride, kBlock, to + r * kBlock);
  }
}

// A left factor from a matrix [rows, depth].
struct LeftRows {
  Matrix from;

  void pack(Range panels, Range steps, BFloat16* to, int64_t stride) const {
    for (int64_t panel = panels.begin; panel < panels.end; ++panel, to += stride) {
      for (int64_t r = 0; r < kBlock; ++r) {
        const int64_t row = panel * kBlock + r;
        const BFloat16* source = from.data + row * from.stride;
        for (int64_t step = steps.begin; step < steps.end; ++step) {
          __builtin_prefetch(source + from.stride + step * kBlock);  // of the next row
          const int64_t count = row < from.rows ? std::min(kBlock, from.columns - step * kBlock) : 0;
          copy_row(source + step * kBlock, count, to + (step - steps.begin) * kStep + r * kBlock);
        }
      }
    }
  }

 private:
  // The first `count` of 32 elements, and zeros.
  static void copy_row(const BFloat16* from, int64_t count, BFloat16* to) {
    if (count == kBlock) {
      std::memcpy(to, from, kBlock * sizeof(BFloat16));
    } else {
      std::memset(to, 0, kBlock * sizeof(BFloat16));
      std::memcpy(to, from, count * sizeof(BFloat16));
    }
  }
};

// A left factor from its transpose [depth, rows].
struct LeftColumns {
  Matrix from;

  void pack(Range panels, Range steps, BFloat16* to, int64_t stride) const {
    alignas(64) BFloat16 copy[kStep], pairs[kStep];
    for (int64_t step = steps.begin; step < steps.end; ++step, to += kStep) {
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        pack_pairs(whole_block(from, step, panel, copy), pairs);
        transpose_words(pairs, kBlock / 2, kBlock, to + (panel - panels.begin) * stride);
      }
    }
  }
};

// A right factor from a matrix [depth, columns].
struct RightRows {
  Matrix from;

  void pack(Range panels, Range steps, BFloat16* to, int64_t stride) const {
    alignas(64) BFloat16 copy[kStep];
    for (int64_t step = steps.begin; step < steps.end; ++step, to += kStep) {
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        pack_pairs(whole_block(from, step, panel, copy), to + (panel - panels.begin) * stride);
      }
    }
  }
};

// Packs a whole factor on all threads, in chunks of 256 x 256 elements.
template <typename Packer>
void pack_together(int threads, const Packer& packer, int64_t panels, int64_t steps, BFloat16* to) {
  constexpr int64_t kChunk = 8;
  const int64_t across = (panels + kChunk - 1) / kChunk, along = (steps + kChunk - 1) / kChunk;
  parallel_parts(threads, across * along, [&](int, int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t panel = chunk % across * kChunk, step = chunk / across * kChunk;
      packer.pack({panel, std::min(panel + kChunk, panels)}, {step, std::min(step + kChunk, steps)},
                  to + (panel * steps + step) * kStep, steps * kStep);
    }
  });
}

}  // namespace bert_large
