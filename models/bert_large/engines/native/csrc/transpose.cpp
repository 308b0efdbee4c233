#include "transpose.h"

#include <algorithm>

#include "parallel.h"

namespace bert_large {
namespace {

constexpr int64_t kBlockRows = 2 * kLanes, kBlockColumns = 2 * kLanes;

// A 32-bit word holds columns 2i and 2i + 1 of a row. After a transposition of words, row i of the result holds such
// words for all rows of the block: their lower halves are column 2i of the source, their upper halves column 2i + 1.
void transpose_full_block(const BFloat16* from, int64_t from_stride, BFloat16* to, int64_t to_stride) {
  alignas(64) float words[kLanes * kLanes];
  for (int64_t r = 0; r < kBlockRows; r += kLanes) {
    Floats block[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) std::memcpy(&block[i], from + (r + i) * from_stride, sizeof(Floats));
    transpose_registers(block);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(words + i * kLanes, block[i]);
    for (int i = 0; i < kLanes; ++i) {
      Words pairs = (Words)load(words + i * kLanes);
      Halves low = __builtin_convertvector(pairs & 0xFFFF, Halves), high = __builtin_convertvector(pairs >> 16, Halves);
      std::memcpy(to + 2 * i * to_stride + r, &low, sizeof low);
      std::memcpy(to + (2 * i + 1) * to_stride + r, &high, sizeof high);
    }
  }
}

}  // namespace

void transpose_halves(int threads, int64_t rows, int64_t columns, const BFloat16* from, BFloat16* to) {
  const int64_t strips = (columns + kBlockColumns - 1) / kBlockColumns;
  parallel_parts(threads, strips, [&](int, int64_t first, int64_t last) {
    for (int64_t strip = first; strip < last; ++strip) {
      const int64_t c = strip * kBlockColumns, width = std::min(kBlockColumns, columns - c);
      for (int64_t r = 0; r < rows; r += kBlockRows) {
        const int64_t height = std::min(kBlockRows, rows - r);
        if (width == kBlockColumns && height == kBlockRows) {
          transpose_full_block(from + r * columns + c, columns, to + c * rows + r, rows);
          continue;
        }
        for (int64_t i = 0; i < height; ++i) {
          for (int64_t j = 0; j < width; ++j) to[(c + j) * rows + r + i] = from[(r + i) * columns + c + j];
        }
      }
    }
  });
}

}  // namespace bert_large
