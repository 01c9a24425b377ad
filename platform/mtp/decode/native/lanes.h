// Values side by side in the widest registers that the processor multiplies with, and what is done with them.
//
// Every sum is taken lane by lane and then over the lanes, in one order for one width; so numbers differ by their last
// bits between processors of different width, and never within one.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace mtp {

#ifdef __AVX512F__
constexpr int LANES = 16, REGISTERS = 32;
#else
constexpr int LANES = 8, REGISTERS = 16;
#endif

typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

static inline vec load(const float* p) { return *(const vec_unaligned*)p; }
static inline vec load(const int8_t* p) {
#if defined(__AVX512F__)  // compilers take the portable line apart, byte by byte
  return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  return __builtin_convertvector(__builtin_convertvector(*(const bytes*)p, whole), vec);
#endif
}
// The first `count` values, and zeros behind them.
template <class T>
static inline vec load_some(const T* p, long count) {
  vec x = {};
  for (long lane = 0; lane < count; lane++) x[lane] = (float)p[lane];
  return x;
}
static inline void store(float* p, vec x) { *(vec_unaligned*)p = x; }

// a * b + c in one rounding where the processor can. Spelled out everywhere, and the compiler is told to fuse nothing by
// itself (-ffp-contract=off): it would in one tile and not in another, and a token's last bit would depend on its batch.
static inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
static inline vec fused(vec a, vec b, vec c) {
#if defined(__AVX512F__)
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  for (int lane = 0; lane < LANES; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return c;
#else
  return a * b + c;
#endif
}

// The sum of all lanes: half on half, until four are left.
static inline v4 quarter(vec x) {
#ifdef __AVX512F__
  const v8 eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const v8 eight = x;
#endif
  return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
}
static inline float sum(vec x) {
  const v4 four = quarter(x);
  return (four[0] + four[1]) + (four[2] + four[3]);
}
// sum() of four at once, each taken in the same order.
static inline v4 sum4(vec a, vec b, vec c, vec d) {
#ifdef __AVX2__
  const __m128 ab = _mm_hadd_ps((__m128)quarter(a), (__m128)quarter(b));
  return (v4)_mm_hadd_ps(ab, _mm_hadd_ps((__m128)quarter(c), (__m128)quarter(d)));
#else
  return v4{sum(a), sum(b), sum(c), sum(d)};
#endif
}

// e^x, lane by lane, for x held to [-87, 87]: Cephes' polynomial, within 2 units of the last place.
static inline vec exponential(vec x) {
  const vec limit = vec{} + 87.0f;
  x = x < -limit ? -limit : x;
  x = x > limit ? limit : x;
  const vec shifted = fused(x, vec{} + 1.44269504088896341f, vec{} + 12582912.0f);  // rounds to a whole number
  const vec n = shifted - 12582912.0f;
  const vec f = fused(n, vec{} + 2.12194440e-4f, fused(n, vec{} - 0.693359375f, x));
  vec p = vec{} + 1.9875691500e-4f;
  p = fused(p, f, vec{} + 1.3981999507e-3f);
  p = fused(p, f, vec{} + 8.3334519073e-3f);
  p = fused(p, f, vec{} + 4.1665795894e-2f);
  p = fused(p, f, vec{} + 1.6666665459e-1f);
  p = fused(p, f, vec{} + 5.0000001201e-1f);
  p = fused(p, f * f, f + 1.0f);
  const whole power = (__builtin_convertvector(n, whole) + 127) << 23;
  vec scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

}  // namespace mtp
