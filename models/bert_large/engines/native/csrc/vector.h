// Vectors of floats, as wide as the registers of this build's instruction set, and the functions that kernels need.
//
// Almost everything is written with GCC's vector extensions (operators on types with `vector_size`, `?:` by lanes,
// __builtin_convertvector), so that one source serves AVX2 and AVX-512. Intrinsics are used for what these cannot
// express: square roots, streaming stores, rounding to bfloat16 in hardware.
//
// Rows need not be multiples of a vector: the functions with `count` take the elements that are left of a row, of
// which there may be more than kLanes, and touch no memory beyond them.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace bert_large {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

// A bfloat16 number: the upper 16 bits of a float.
struct BFloat16 {
  uint16_t bits;
};

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Not `Floats{} + value`: because 0 + -0 is 0, the compiler must keep that addition.
inline Floats broadcast(float value) {
#if defined(__AVX512F__)
  return (Floats)_mm512_set1_ps(value);
#else
  return (Floats)_mm256_set1_ps(value);
#endif
}

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// One instruction, where GCC 12 makes five of __builtin_convertvector.
inline Words widen(Halves halves) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#else
  return (Words)_mm256_cvtepu16_epi32((__m128i)halves);
#endif
}

inline Floats load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Floats)(widen(halves) << 16);
}

// Rounds to bfloat16, to nearest even. Adding 0x7FFF, plus 1 if the lowest kept bit is set, carries into the kept bits
// if the dropped bits are above one half, or are one half and the kept bits odd. NaN, where the carry could give
// infinity, is truncated, with the quiet bit set.
inline Halves round_to_bfloat16(Floats values) {
#if defined(__AVX512BF16__)
  return (Halves)_mm512_cvtneps_pbh((__m512)values);
#else
  Words bits = (Words)values;
  Words rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(values == values ? rounded : (bits >> 16) | 0x40, Halves);
#endif
}

inline void store(BFloat16* to, Floats values) {
  Halves halves = round_to_bfloat16(values);
  std::memcpy(to, &halves, sizeof halves);
}

// The first `count` < kLanes elements; the other lanes are 0.
template <typename T>
inline Floats load_partial(const T* from, int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return load(padded);
}

template <typename T>
inline void store_partial(T* to, Floats values, int64_t count) {
  T padded[kLanes];
  store(padded, values);
  std::memcpy(to, padded, count * sizeof(T));
}

template <typename T>
inline Floats load_up_to(const T* from, int64_t count) {
  return count >= kLanes ? load(from) : load_partial(from, count);
}

template <typename T>
inline void store_up_to(T* to, Floats values, int64_t count) {
  if (count >= kLanes) {
    store(to, values);
  } else {
    store_partial(to, values, count);
  }
}

// Stores without first fetching the cache line from memory (a non-temporal store), where the address is aligned. For
// results that are read again only after megabytes of other data, when they would have left the caches anyway.
inline void stream(float* to, Floats values) {
#if defined(__AVX512F__)
  if (reinterpret_cast<uintptr_t>(to) % 64 == 0) return _mm512_stream_ps(to, (__m512)values);
#else
  if (reinterpret_cast<uintptr_t>(to) % 32 == 0) return _mm256_stream_ps(to, (__m256)values);
#endif
  store(to, values);
}

inline void stream(BFloat16* to, Floats values) {
  Halves halves = round_to_bfloat16(values);
#if defined(__AVX512F__)
  if (reinterpret_cast<uintptr_t>(to) % 32 == 0) return _mm256_stream_si256((__m256i*)to, (__m256i)halves);
#else
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) return _mm_stream_si128((__m128i*)to, (__m128i)halves);
#endif
  std::memcpy(to, &halves, sizeof halves);
}

template <typename T>
inline void stream_up_to(T* to, Floats values, int64_t count) {
  if (count >= kLanes) {
    stream(to, values);
  } else {
    store_partial(to, values, count);
  }
}

inline Ints lane_numbers() {
  Ints lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
  return lanes;
}

// `values` in the first `count` lanes, `otherwise` in the rest.
inline Floats first_lanes(Floats values, int64_t count, float otherwise) {
  return lane_numbers() < (int32_t)(count < kLanes ? count : kLanes) ? values : broadcast(otherwise);
}

// Combines the lanes of the upper with those of the lower half, then their quarters, and so on: few dependent steps.
template <typename Combine>
inline float reduce(Floats values, const Combine& combine) {
#pragma GCC unroll 4
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    values = combine(values, __builtin_shuffle(values, lane_numbers() ^ distance));
  }
  return values[0];
}

inline float sum(Floats values) {
  return reduce(values, [](Floats a, Floats b) { return a + b; });
}

// `b` where either is NaN, as in the instructions; the compiler makes two of a > b ? a : b.
#if defined(__AVX512F__)
inline Floats maximum(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline Floats minimum(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
#else
inline Floats maximum(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
inline Floats minimum(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
#endif

inline float maximum(Floats values) {
  return reduce(values, [](Floats a, Floats b) { return maximum(a, b); });
}

inline Floats square_root(Floats values) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)values);
#else
  return (Floats)_mm256_sqrt_ps((__m256)values);
#endif
}

// e^x within 2 units in the last place for x in [-87, 88]; outside, the value at the nearer end, so that no lane
// becomes subnormal (slow) or infinite. NaN stays NaN, due to the order of operands of `minimum` and `maximum`.
//
// Cody and Waite's method: e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2. ln 2 is split into a part with
// few bits, whose product with n is exact, and a rest, so that r is accurate. Then e^r by its Taylor polynomial to r^7,
// and 2^n by adding n to the exponent bits.
inline Floats exponential(Floats x) {
  x = minimum(broadcast(88.0f), maximum(broadcast(-87.0f), x));
  const Floats magic = broadcast(12582912.0f);  // 1.5 * 2^23: after adding it, the low bits are the rounded integer
  Floats shifted = x * 1.44269504f + magic;
  Floats n = shifted - magic;
  Floats r = x - n * 0.693145752f - n * 1.42860677e-6f;
  Floats p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (Floats)((Words)p + ((Words)shifted << 23));
}

// lowbias32, a 32-bit mixing function from Chris Wellons' hash-prospector (2018), as in `bert_large.model.dropout`.
template <typename Bits>
inline Bits hash32(Bits value) {
  value ^= value >> 16;
  value *= 0x7FEB352Du;
  value ^= value >> 15;
  value *= 0x846CA68Bu;
  value ^= value >> 16;
  return value;
}

}  // namespace bert_large
