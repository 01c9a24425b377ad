// Matrix products for few rows: y[r] = W x[r], each weight read once from memory and once from the cache for six rows.
//
// Every product x[r].w[o] is summed in one order, eight lanes along the row and then the lanes, whatever the number of
// rows beside it and whatever the tile. So a token's numbers do not depend on its batch, to the last bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace mtp {

constexpr long LINE = 64;  // bytes of a cache line

// Values that begin with a line: a load of eight that crosses one takes as long as two.
template <class T>
struct LineAllocator {
  typedef T value_type;
  T* allocate(size_t n) { return (T*)::operator new(n * sizeof(T), std::align_val_t(LINE)); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(LINE)); }
  bool operator==(const LineAllocator&) const = default;
};
typedef std::vector<float, LineAllocator<float>> Floats;

typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v8_unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef int8_t bytes8 __attribute__((vector_size(8), aligned(1), may_alias));

static inline v8 load8(const float* p) { return *(const v8_unaligned*)p; }
static inline v8 load8(const int8_t* p) {
#ifdef __AVX2__  // compilers take the portable line apart, byte by byte
  return (v8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  return __builtin_convertvector(__builtin_convertvector(*(const bytes8*)p, i8), v8);
#endif
}
// a * b + c in one rounding where the processor can. Spelled out everywhere, and the compiler is told to fuse nothing by
// itself (-ffp-contract=off): it would in one tile and not in another, and a token's last bit would depend on its batch.
static inline float fma1(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
static inline v8 fma8(v8 a, v8 b, v8 c) {
#if defined(__FMA__)
  return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  for (int lane = 0; lane < 8; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return c;
#else
  return a * b + c;
#endif
}
static inline void store8(float* p, v8 x) { *(v8_unaligned*)p = x; }
static inline float lanes(v8 s) {
  v4 half[2];
  std::memcpy(half, &s, sizeof half);
  const v4 sum = half[0] + half[1];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// lanes() of four at once, each summed in the same order.
static inline v4 lanes4(v8 a, v8 b, v8 c, v8 d) {
#ifdef __AVX2__
  const auto half = [](v8 s) {
    return _mm_add_ps(_mm256_castps256_ps128((__m256)s), _mm256_extractf128_ps((__m256)s, 1));
  };
  return (v4)_mm_hadd_ps(_mm_hadd_ps(half(a), half(b)), _mm_hadd_ps(half(c), half(d)));
#else
  return v4{lanes(a), lanes(b), lanes(c), lanes(d)};
#endif
}

// A linear layer's weight: (out, in), fp32, or int8 with one scale a row (then `scale` is not null).
struct Weight {
  const void* data;
  const float* scale;
  int64_t out, in;
};

constexpr long AHEAD = 512;  // bytes of each row of w between what is asked for and what is used

// sum[r][c] += x[r][k..k+8) * w[c][k..k+8)
template <class T, int R, int C>
static inline void multiply8(const float* const* x, const T* w, long in, long k, v8 sum[R][C]) {
  v8 weights[C];
  for (int c = 0; c < C; c++) weights[c] = load8(w + c * in + k);
  for (int r = 0; r < R; r++) {
    const v8 row = load8(x[r] + k);
    for (int c = 0; c < C; c++) sum[r][c] = fma8(row, weights[c], sum[r][c]);
  }
}

// R rows of x times C rows of w. Asks for what it reads next, at its end for the next tile's rows, where w is read for
// the first time (`fresh`): the processor's own look-ahead begins anew at each row, which in short rows is most of them.
template <class T, int R, int C>
static inline void tile(const float* const* x, const T* w, long in, float total[R][C], bool fresh) {
  constexpr long SIZE = sizeof(T), STEP = LINE / SIZE;
  const long ahead = AHEAD / SIZE < in ? AHEAD / SIZE : in;
  v8 sum[R][C] = {};
  long k = 0;
  if (fresh)
    for (; k + STEP <= in; k += STEP) {
      const T* next = w + k + ahead + (k + ahead < in ? 0 : (C - 1) * in);
      for (int c = 0; c < C; c++) __builtin_prefetch(next + c * in);
      for (long j = 0; j < STEP; j += 8) multiply8<T, R, C>(x, w, in, k + j, sum);
    }
  for (; k + 8 <= in; k += 8) multiply8<T, R, C>(x, w, in, k, sum);
  const v8* flat = &sum[0][0];
  float* out = &total[0][0];
  int i = 0;
  for (; i + 4 <= R * C; i += 4) {
    const v4 four = lanes4(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]);
    std::memcpy(out + i, &four, sizeof four);
  }
  for (; i < R * C; i++) out[i] = lanes(flat[i]);
  for (; k < in; k++)
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) total[r][c] = fma1(x[r][k], (float)w[c * in + k], total[r][c]);
}

// How a product lands: y = value * scale[o] * factor[r], written or added.
struct Landing {
  const float* scale;
  const float* factor;
  bool add;
  void put(float* y, long o, int r, float value) const {
    const float times = (scale ? scale[o] : 1.0f) * (factor ? factor[r] : 1.0f);
    y[o] = fma1(value, times, add ? y[o] : 0.0f);
  }
};

template <class T, int R, int C>
static inline long columns(const float* const* x, float* const* y, int row, const T* w, long in, long o, long end,
                           const Landing& landing, bool fresh) {
  float total[R][C];
  for (; o + C <= end; o += C) {
    tile<T, R, C>(x, w + o * in, in, total, fresh);
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) landing.put(y[r], o + c, row + r, total[r][c]);
  }
  return o;
}

template <class T, int R, int C>
static inline void rows(const float* const* x, float* const* y, int row, const T* w, long in, long o, long end,
                        const Landing& landing, bool fresh) {
  o = columns<T, R, C>(x, y, row, w, in, o, end, landing, fresh);
  o = columns<T, R, 2>(x, y, row, w, in, o, end, landing, fresh);
  columns<T, R, 1>(x, y, row, w, in, o, end, landing, fresh);
}

constexpr int ROW_CHUNK = 36;      // rows of x that stay in the second-level cache
constexpr long COLUMN_CHUNK = 24;  // rows of w that stay in the first-level cache; every tile's width divides it

// Sixteen registers hold twelve sums, and what is loaded for them without loading anything twice.
template <class T>
static void product(const float* const* x, float* const* y, int n, const T* w, long in, long begin, long end,
                    const Landing& landing) {
  for (int first = 0; first < n; first += ROW_CHUNK) {
    const int last = first + ROW_CHUNK < n ? first + ROW_CHUNK : n;
    for (long o = begin; o < end; o += COLUMN_CHUNK) {
      const long stop = o + COLUMN_CHUNK < end ? o + COLUMN_CHUNK : end;
      int r = first;
      for (; r + 6 <= last; r += 6) rows<T, 6, 2>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 5) rows<T, 5, 2>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 4) rows<T, 4, 3>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 3) rows<T, 3, 4>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 2) rows<T, 2, 6>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 1) rows<T, 1, 8>(x + r, y + r, r, w, in, o, stop, landing, r == first);
    }
  }
}

// y[r][begin..end) of n rows; `matrix` picks one of several weights stacked in `w` (experts, heads).
static void linear(const Weight& w, const float* const* x, float* const* y, int n, long begin, long end,
                   long matrix = 0, const float* factor = nullptr, bool add = false) {
  const long offset = matrix * w.out * w.in;
  const Landing landing{w.scale ? w.scale + matrix * w.out : nullptr, factor, add};
  if (w.scale)
    product((const float* const*)x, y, n, (const int8_t*)w.data + offset, w.in, begin, end, landing);
  else
    product((const float* const*)x, y, n, (const float*)w.data + offset, w.in, begin, end, landing);
}

static void rms_norm(const float* x, const float* weight, float eps, long size, float* y) {
  v8 sum = {};
  long k = 0;
  for (; k + 8 <= size; k += 8) sum = fma8(load8(x + k), load8(x + k), sum);
  float squares = lanes(sum);
  for (long j = k; j < size; j++) squares = fma1(x[j], x[j], squares);
  const float factor = 1.0f / std::sqrt(squares / (float)size + eps);
  for (long j = 0; j < size; j++) y[j] = x[j] * factor * weight[j];
}

// e^x, eight at a time, for x held to [-87, 87]: Cephes' polynomial, within 2 units of the last place.
static inline v8 exp8(v8 x) {
  const v8 limit = v8{} + 87.0f;
  x = x < -limit ? -limit : x;
  x = x > limit ? limit : x;
  const v8 shifted = fma8(x, v8{} + 1.44269504088896341f, v8{} + 12582912.0f);  // rounds to a whole number
  const v8 n = shifted - 12582912.0f;
  const v8 f = fma8(n, v8{} + 2.12194440e-4f, fma8(n, v8{} - 0.693359375f, x));
  v8 p = v8{} + 1.9875691500e-4f;
  p = fma8(p, f, v8{} + 1.3981999507e-3f);
  p = fma8(p, f, v8{} + 8.3334519073e-3f);
  p = fma8(p, f, v8{} + 4.1665795894e-2f);
  p = fma8(p, f, v8{} + 1.6666665459e-1f);
  p = fma8(p, f, v8{} + 5.0000001201e-1f);
  p = fma8(p, f * f, f + 1.0f);
  const i8 power = (__builtin_convertvector(n, i8) + 127) << 23;
  v8 scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

// gate[j] = silu(gate[j]) * up[j]
static inline void swiglu(float* gate, const float* up, long begin, long end) {
  long j = begin;
  for (; j + 8 <= end; j += 8) {
    const v8 x = load8(gate + j);
    store8(gate + j, x / (1.0f + exp8(-x)) * load8(up + j));
  }
  for (; j < end; j++) gate[j] = gate[j] / (1.0f + exp8(v8{} - gate[j])[0]) * up[j];
}

}  // namespace mtp
