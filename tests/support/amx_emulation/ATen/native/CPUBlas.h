// PyTorch's interface to oneDNN's small-matrix products on AMX, emulated in plain C++: exact products of bfloat16, sums
// in float. So the attention kernels can use them on a CPU without AMX, if
// EMULATE_TILES is 1.
#pragma once

#include <cstdint>
#include <cstring>

namespace at {
struct BFloat16 {
  uint16_t bits;
};
enum ScalarType { kBFloat16 };

namespace native::cpublas {

inline float widen(BFloat16 value) {
  const uint32_t bits = (uint32_t)value.bits << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// C [M, N] (+)= A [M, K] B, where B has element (k, n) at [k / 2][n][k % 2].
inline void brgemm(int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc, bool add, const BFloat16* A,
                   const BFloat16* B, float* C) {
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t j = 0; j < N; ++j) {
      float sum = add ? C[i * ldc + j] : 0.0f;
      for (int64_t k = 0; k < K; ++k) sum += widen(A[i * lda + k]) * widen(B[k / 2 * ldb * 2 + j * 2 + k % 2]);
      C[i * ldc + j] = sum;
    }
  }
}

inline void brgemm_release() {}
inline bool could_pack(ScalarType) { return EMULATE_TILES; }

}  // namespace native::cpublas
}  // namespace at
