// AMX's tile instructions in plain C++, for a CPU without AMX: to be included before everything else, with -include. It
// replaces the intrinsics of the compiler's headers, with the same numbers of tiles as template arguments. A tile that
// is stored before the shapes are loaded, or after the release, is NaN.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace amx_emulation {

constexpr int kNaNByte = 0xFF;  // a float of four such bytes is NaN

struct Tile {
  uint16_t halves[16][32];
};

struct Tiles {
  bool is_configured = false;
  Tile tiles[8];
};

inline Tiles& state() {
  static thread_local Tiles tiles;
  return tiles;
}

// Expects eight tiles of 16 rows of 64 bytes.
inline void load_config(const void* from) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  bool expected = bytes[0] == 1 && bytes[1] == 0;
  for (int tile = 0; tile < 8; ++tile) {
    expected = expected && bytes[16 + 2 * tile] == 64 && bytes[17 + 2 * tile] == 0 && bytes[48 + tile] == 16;
  }
  state().is_configured = expected;
}

inline void release() { state().is_configured = false; }

template <int kTile>
void zero() {
  std::memset(&state().tiles[kTile], 0, sizeof(Tile));
}

template <int kTile>
void load(const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(state().tiles[kTile].halves[row], static_cast<const char*>(from) + row * stride, 64);
  }
}

template <int kTile>
void store(void* to, int64_t stride) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, state().tiles[kTile].halves[row], 64);
    if (!state().is_configured) std::memset(static_cast<char*>(to) + row * stride, kNaNByte, 64);
  }
}

inline float widen(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Sums [16, 16] += left [16, 32] times right, whose element (k, n) is at [k / 2][n][k % 2].
template <int kSums, int kLeft, int kRight>
void multiply() {
  float sums[16][16];
  std::memcpy(sums, &state().tiles[kSums], sizeof sums);
  const Tile &left = state().tiles[kLeft], &right = state().tiles[kRight];
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 32; ++k) {
      const float factor = widen(left.halves[row][k]);
      for (int column = 0; column < 16; ++column) {
        sums[row][column] += factor * widen(right.halves[k / 2][2 * column + k % 2]);
      }
    }
  }
  std::memcpy(&state().tiles[kSums], sums, sizeof sums);
}

}  // namespace amx_emulation

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) amx_emulation::load_config(from)
#define _tile_release() amx_emulation::release()
#define _tile_zero(tile) amx_emulation::zero<tile>()
#define _tile_loadd(tile, from, stride) amx_emulation::load<tile>(from, stride)
#define _tile_stored(tile, to, stride) amx_emulation::store<tile>(to, stride)
#define _tile_dpbf16ps(sums, left, right) amx_emulation::multiply<sums, left, right>()
