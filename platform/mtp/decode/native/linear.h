// Matrix products for few rows: y[r] = W x[r], each weight read once from memory and once from the cache for six rows.
//
// Every product x[r].w[o] is summed in one order, lane by lane along the row and then the lanes, whatever the number of
// rows beside it and whatever the tile. So a token's numbers do not depend on its batch, to the last bit.
#pragma once
#include <new>
#include <vector>

#include "lanes.h"

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

// A linear layer's weight: (out, in), fp32, or int8 with one scale a row (then `scale` is not null).
struct Weight {
  const void* data;
  const float* scale;
  int64_t out, in;
};

constexpr long AHEAD = 512;  // bytes of each row of w between what is asked for and what is used

// total[r][c] += x[r][k..) * w[c][k..), of so many values as `take` loads
template <class T, int R, int C, class Take>
static inline void multiply_lanes(const float* const* x, const T* w, long in, long k, vec total[R][C], Take take) {
  vec weights[C];
  for (int c = 0; c < C; c++) weights[c] = take(w + c * in + k);
  for (int r = 0; r < R; r++) {
    const vec row = take(x[r] + k);
    for (int c = 0; c < C; c++) total[r][c] = fused(row, weights[c], total[r][c]);
  }
}

// R rows of x times C rows of w. Asks for what it reads next, at its end for the next tile's rows, where w is read for
// the first time (`fresh`): the processor's own look-ahead begins anew at each row, which in short rows is most of them.
template <class T, int R, int C>
static inline void tile(const float* const* x, const T* w, long in, float total[R][C], bool fresh) {
  constexpr long SIZE = sizeof(T), STEP = LINE / SIZE;
  const long ahead = AHEAD / SIZE < in ? AHEAD / SIZE : in;
  const auto all = [](const auto* p) { return load(p); };
  vec lanes[R][C] = {};
  long k = 0;
  if (fresh)
    for (; k + STEP <= in; k += STEP) {
      const T* next = w + k + ahead + (k + ahead < in ? 0 : (C - 1) * in);
      for (int c = 0; c < C; c++) __builtin_prefetch(next + c * in);
      for (long j = 0; j < STEP; j += LANES) multiply_lanes<T, R, C>(x, w, in, k + j, lanes, all);
    }
  for (; k + LANES <= in; k += LANES) multiply_lanes<T, R, C>(x, w, in, k, lanes, all);
  if (k < in) multiply_lanes<T, R, C>(x, w, in, k, lanes, [&](const auto* p) { return load_some(p, in - k); });
  const vec* flat = &lanes[0][0];
  float* out = &total[0][0];
  int i = 0;
  for (; i + 4 <= R * C; i += 4) {
    const v4 four = sum4(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]);
    std::memcpy(out + i, &four, sizeof four);
  }
  for (; i < R * C; i++) out[i] = sum(flat[i]);
}

// How a product lands: y = value * scale[o] * factor[r], written or added.
struct Landing {
  const float* scale;
  const float* factor;
  bool add;
  void put(float* y, long o, int r, float value) const {
    const float times = (scale ? scale[o] : 1.0f) * (factor ? factor[r] : 1.0f);
    y[o] = fused(value, times, add ? y[o] : 0.0f);
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

// Columns of a tile of so many rows: the registers hold its sums and what is loaded for them, nothing of it twice.
constexpr int columns_for(int rows) {
  constexpr int FEW[] = {0, 8, 6, 4, 3, 2, 2}, MANY[] = {0, 8, 8, 8, 6, 4, 4};
  return (REGISTERS >= 32 ? MANY : FEW)[rows];
}

template <class T, int R>
static inline void tiles(const float* const* x, float* const* y, int row, const T* w, long in, long o, long end,
                         const Landing& landing, bool fresh) {
  o = columns<T, R, columns_for(R)>(x, y, row, w, in, o, end, landing, fresh);
  o = columns<T, R, 2>(x, y, row, w, in, o, end, landing, fresh);
  columns<T, R, 1>(x, y, row, w, in, o, end, landing, fresh);
}

constexpr int ROW_CHUNK = 36;      // rows of x that stay in the second-level cache
constexpr long COLUMN_CHUNK = 24;  // rows of w that stay in the first-level cache; every tile's width divides it
constexpr int TILE_ROWS = 6;

template <class T>
static void product(const float* const* x, float* const* y, int n, const T* w, long in, long begin, long end,
                    const Landing& landing) {
  for (int first = 0; first < n; first += ROW_CHUNK) {
    const int last = first + ROW_CHUNK < n ? first + ROW_CHUNK : n;
    for (long o = begin; o < end; o += COLUMN_CHUNK) {
      const long stop = o + COLUMN_CHUNK < end ? o + COLUMN_CHUNK : end;
      int r = first;
      for (; r + TILE_ROWS <= last; r += TILE_ROWS)
        tiles<T, TILE_ROWS>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 5) tiles<T, 5>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 4) tiles<T, 4>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 3) tiles<T, 3>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 2) tiles<T, 2>(x + r, y + r, r, w, in, o, stop, landing, r == first);
      if (last - r == 1) tiles<T, 1>(x + r, y + r, r, w, in, o, stop, landing, r == first);
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
  vec lanes = {};
  long k = 0;
  for (; k + LANES <= size; k += LANES) lanes = fused(load(x + k), load(x + k), lanes);
  float squares = sum(lanes);
  for (long j = k; j < size; j++) squares = fused(x[j], x[j], squares);
  const float factor = 1.0f / std::sqrt(squares / (float)size + eps);
  for (long j = 0; j < size; j++) y[j] = x[j] * factor * weight[j];
}

// gate[j] = silu(gate[j]) * up[j]
static inline void swiglu(float* gate, const float* up, long begin, long end) {
  long j = begin;
  for (; j + LANES <= end; j += LANES) {
    const vec x = load(gate + j);
    store(gate + j, x / (1.0f + exponential(-x)) * load(up + j));
  }
  for (; j < end; j++) gate[j] = gate[j] / (1.0f + exponential(vec{} - gate[j])[0]) * up[j];
}

}  // namespace mtp
