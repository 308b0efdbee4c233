// Pairs of bfloat16 numbers, the form in which AMX tiles and AVX-512 BF16 vectors take the factors of a product.
#pragma once

#include "vector.h"

namespace bert_large {

// Two neighbors in depth: a 32-bit word with the first in its lower half.
struct Pair {
  BFloat16 first, second;
};

inline Words load(const Pair* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

inline void store(Pair* to, Words words) { std::memcpy(to, &words, sizeof words); }

inline Words broadcast(const Pair& pair) {
  int32_t word;
  std::memcpy(&word, &pair, sizeof word);
#if defined(__AVX512F__)
  return (Words)_mm512_set1_epi32(word);
#else
  return (Words)_mm256_set1_epi32(word);
#endif
}

// sums + the products of the first numbers + those of the second ones.
inline Floats add_product(Floats sums, Words left, Words right) {
#if defined(__AVX512BF16__)
  return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)left, (__m512bh)right);
#else
  sums += (Floats)(left & 0xFFFF0000) * (Floats)(right & 0xFFFF0000);
  return sums + (Floats)(left << 16) * (Floats)(right << 16);
#endif
}

}  // namespace bert_large
