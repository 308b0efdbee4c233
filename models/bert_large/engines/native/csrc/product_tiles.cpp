// Blocks of products on AMX tiles. Tile registers 0 to 3 hold the sums of a block's quarters, 4 and 5 the upper and
// lower rows of a left step, 6 and 7 the left and right columns of a right step.
// GCC writes the file's name into the assembly beside tile instructions, where a line break in its path is an error.
#line 5 "product_tiles.cpp"
#include "product_unit.h"

namespace bert_large {
namespace {

#define TILES __attribute__((target("amx-tile,amx-bf16")))

constexpr int64_t kTile = 16;                             // rows, and columns of sums
constexpr int64_t kLeftStride = kBlock * sizeof(BFloat16);
constexpr int64_t kRightStride = 2 * kBlock * sizeof(BFloat16);
constexpr int64_t kSumStride = kBlock * sizeof(float);

// Eight tiles of 16 rows of 64 bytes.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Shapes kShapes{};

TILES void start() { _tile_loadconfig(&kShapes); }

// Returns the thread's tile registers to their initial state, which other AMX code in the process expects.
TILES void finish() { _tile_release(); }

TILES void multiply(int64_t steps, const BFloat16* left, const BFloat16* right, float* sums, bool add, Ahead ahead) {
  // GCC does not know what memory tile loads read: where this is inlined, it would drop or delay the stores before them.
  asm volatile("" ::: "memory");
  float* const lower = sums + kTile * kBlock;
  if (add) {
    _tile_loadd(0, sums, kSumStride);
    _tile_loadd(1, sums + kTile, kSumStride);
    _tile_loadd(2, lower, kSumStride);
    _tile_loadd(3, lower + kTile, kSumStride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  // Each load is as late as its first use allows, so that tile products start before all four are there.
#pragma GCC unroll 4
  for (int64_t step = 0; step < steps; ++step, left += kStep, right += kStep) {
    ahead.fetch();
    _tile_loadd(4, left, kLeftStride);
    _tile_loadd(6, right, kRightStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + 2 * kTile, kRightStride);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left + kTile * kBlock, kLeftStride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kSumStride);
  _tile_stored(1, sums + kTile, kSumStride);
  _tile_stored(2, lower, kSumStride);
  _tile_stored(3, lower + kTile, kSumStride);
}

}  // namespace

// With 8 steps, 16 KiB of a right panel and as much of a left one: 11 would begin to displace each other (products.h).
const ProductUnit kTileUnit{&multiply, &start, &finish, 3.0, 8};

}  // namespace bert_large
