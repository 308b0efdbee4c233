// Products of the matrices of linear layers in bfloat16, with sums in float. With inputs x [T, K], a weight W [N, K]
// and the gradient dy [T, N] of the result:
//   y = x W^T,  dx = dy W   results in bfloat16; dx may be added to a matrix (of the residual's gradient)
//   dW += dy^T x            added to a float matrix, without rounding
// Each is a product C = L R of a left factor [rows, depth] and a right factor [depth, columns]. Sizes need not be
// multiples of 32: missing elements are zeros in packed factors and are not stored. No code is generated for a size.
//
// Layout. Both units, AMX tiles and vectors, read factors in steps of 32 x 32 elements (2 KiB, contiguous):
//   left step    [32 rows][32 of the depth]             two tiles of 16 rows of 64 bytes
//   right step   [16 pairs of the depth][32 columns][2] two tiles of 16 rows of 64 bytes, 128 bytes apart
// so that a 32-bit word holds two neighbors in depth, as TDPBF16PS and VDPBF16PS take them. The steps of 32 rows or
// columns in the order of depth are a panel. After an update, W is packed as the right factor of y, and for
// the next backward pass that copy as the right factor of dx. The products pack activations themselves.
//
// Blocking. A micro-kernel computes 32 x 32 sums: four tile registers, with two for each factor. A step is four tile
// products of 16 cycles; loading its 4 KiB from the second-level cache (48 bytes per cycle) would take longer, 85
// cycles. So tiles multiply all left panels of a part by 8 steps of a right panel, which stay in the first-level cache
// (16 KiB), then by the next 8: a simulation of the caches of Sapphire Rapids finds 672 bytes per tile product from the
// second level, in place of 1,056, and 128 written back. Others measured 75% of the AMX peak with packed factors in the
// first-level cache, and 66% where one is read from rows that are far apart (github.com/usstq/mm_amx); 65% is published
// for large products on one core (doi:10.1145/3773656.3773660). The depth is cut into parts of at most 1,024 elements,
// the rows into parts of 256 to 512: the packed left part then takes half of a second-level cache of 1 or 2 MiB. Each
// right panel (64 KiB) is read from a farther cache once per part, at 4 or 2 bytes per cycle of the AMX peak, and half
// or all of it is prefetched ahead of its use. Sums that are not complete are kept in float (4 KiB per block,
// contiguous).
//
// Threads. `split_product` cuts the blocks of C into a grid with one rectangle per thread. A thread packs its rows of
// the left factor in its own cache. Where a row of the grid has many threads, which would pack the same rows, all
// threads pack the left factor together first. x as the right factor of dW is always packed together.
//
// Determinism. The sums of a block are added up in an order that depends on the depth alone, so results have the same
// bits for any number of threads and for any split.
#pragma once

#include <cstdint>

#include "gelu.h"
#include "parallel.h"
#include "product_unit.h"
#include "vector.h"

namespace bert_large {

// A product's rows, columns and depth, in elements.
struct ProductSizes {
  int64_t rows, columns, depth;
};

// A thread's rectangle of the grid, in blocks.
struct Rectangle {
  Range rows, columns;
};

// How a product of row_blocks x column_blocks is cut into a grid.
struct Split {
  int64_t row_blocks, column_blocks, row_parts, column_parts;
  bool shares_left;  // all threads pack the left factor together

  int64_t parts() const { return row_parts * column_parts; }
  Rectangle rectangle(int64_t part) const;
};

// The split with the least work for the busiest thread: its blocks, the left panels that it packs, each of which takes
// as long as `packing` blocks, and a wait for the others if they pack together. There are at most `threads` parts.
Split split_product(int threads, int64_t row_blocks, int64_t column_blocks, double packing);

// Packs a weight [outputs, inputs] as rows `first` and following, a multiple of 32, of a weight W [N, K] into the right
// factor of y = x W^T: panels [N / 32][K / 2][32][2], with sizes rounded up to multiples of 32.
void pack_weight(int threads, int64_t first, int64_t outputs, int64_t inputs, const float* weight, BFloat16* panels);

// y [rows, columns] = x [rows, depth] times a packed weight.
void multiply_packed(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* x,
                     const BFloat16* weight, BFloat16* y);

// With that y and a bias [columns]: activated = gelu(y + bias), derivative = gelu'(y + bias), [rows, columns].
struct GeluResult {
  GeluForm form;
  const float* bias;
  BFloat16 *derivative, *activated;
};
void multiply_packed_gelu(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* x,
                          const BFloat16* weight, const GeluResult& result);

// dx [rows, columns] = dy [rows, depth] times the transpose of a packed weight, or += where `add`.
void packed_input_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* dy,
                           const BFloat16* weight, BFloat16* dx, bool add);

// gradient [rows, columns] = that dx * derivative, where gelu'(x) was stored; its column sums are added to
// bias_gradient [columns].
struct GeluGradient {
  const BFloat16* derivative;
  BFloat16* gradient;
  float* bias_gradient;
};
void packed_input_gradient_gelu(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* dy,
                                const BFloat16* weight, const GeluGradient& result);

// gradient [rows, columns] = the transpose of out_gradient [depth, rows], times inputs [depth, columns], or += where
// `add`.
void packed_weight_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes,
                            const BFloat16* out_gradient, const BFloat16* inputs, float* gradient, bool add);

}  // namespace bert_large
