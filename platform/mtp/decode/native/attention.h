// Multi-head latent attention in its absorbed order, over paged latents; see mtp/model/attention.py for the formulas.
#pragma once
#include <vector>

#include "linear.h"
#include "team.h"

namespace mtp {

struct Attention {
  Weight q_a;  // data null: queries come straight from q
  Weight q, kv_a, up_key, up_value, out;  // up_key: heads x (rank, nope); up_value: heads x (value, rank)
  const float *q_a_norm, *kv_a_norm;
  int64_t heads, nope, rope, value, rank;
  float scale, latent_eps;
};

// The tokens of one pass: token n stands at positions[n] of row row_of[n], whose blocks are listed in tables.
struct Tokens {
  int64_t count;
  const int64_t *positions, *row_of, *tables;
  int64_t table_width, block_size;
  const float *cos, *sin;  // (positions, rope / 2)
};

// Buffers of N rows each, as pointers to rows, which begin with a line.
struct Buffer {
  Floats values;
  std::vector<float*> at;
  float* const* rows(long count, long width) {
    constexpr long FLOATS = LINE / sizeof(float);
    width = (width + FLOATS - 1) / FLOATS * FLOATS;
    if ((long)values.size() < count * width) values.resize(count * width);
    if ((long)at.size() < count) at.resize(count);
    for (long n = 0; n < count; n++) at[n] = values.data() + n * width;
    return at.data();
  }
};

// Interleaved pairs to two halves, rotated by the position's angles.
static inline void rotate(const float* x, const Tokens& t, long position, long rope, float* y) {
  const long half = rope / 2;
  const float *cos = t.cos + position * half, *sin = t.sin + position * half;
  for (long j = 0; j < half; j++) {
    const float a = x[2 * j], b = x[2 * j + 1];
    y[j] = a * cos[j] - b * sin[j];
    y[half + j] = b * cos[j] + a * sin[j];
  }
}

// context[h][k..k+W LANES) = sum_s weights[h][s] latent_s[k..), over `count` cached entries, block after block.
template <int H, int W>
static void weighted_columns(const float* const* weights, const float* pages, const int64_t* table, long block_size,
                             long width, long k, long count, float* const* context) {
  vec total[H][W] = {};
  for (long begin = 0; begin < count; begin += block_size) {
    const float* entry = pages + table[begin / block_size] * block_size * width + k;
    const long end = begin + block_size < count ? begin + block_size : count;
    for (long s = begin; s < end; s++, entry += width) {
      vec values[W];
      for (int w = 0; w < W; w++) values[w] = load(entry + w * LANES);
      for (int h = 0; h < H; h++)
        for (int w = 0; w < W; w++) total[h][w] = fused(values[w], vec{} + weights[h][s], total[h][w]);
    }
  }
  for (int h = 0; h < H; h++)
    for (int w = 0; w < W; w++) store(context[h] + k + w * LANES, total[h][w]);
}

template <int H>
static void weighted_sum(const float* const* weights, const float* pages, const int64_t* table, long block_size,
                         long width, long rank, long count, float* const* context) {
  long k = 0;
  for (; k + 2 * LANES <= rank; k += 2 * LANES)
    weighted_columns<H, 2>(weights, pages, table, block_size, width, k, count, context);
  for (; k + LANES <= rank; k += LANES)
    weighted_columns<H, 1>(weights, pages, table, block_size, width, k, count, context);
  for (; k < rank; k++)
    for (int h = 0; h < H; h++) {
      float total = 0;
      for (long s = 0; s < count; s++)
        total = fused(weights[h][s], pages[(table[s / block_size] * block_size + s % block_size) * width + k], total);
      context[h][k] = total;
    }
}

// scores[0..count) -> softmax(scale * scores)
static void softmax(float* scores, long count, float scale) {
  float peak = -INFINITY;
  for (long s = 0; s < count; s++) peak = scores[s] * scale > peak ? scores[s] * scale : peak;
  vec sums = {};
  long s = 0;
  for (; s + LANES <= count; s += LANES) {
    const vec weights = exponential(load(scores + s) * scale - peak);
    store(scores + s, weights);
    sums += weights;
  }
  float total = sum(sums);
  for (; s < count; s++) total += scores[s] = exponential(vec{} + (scores[s] * scale - peak))[0];
  for (long j = 0; j < count; j++) scores[j] /= total;
}

// Heads [first, last) of one token: query (heads, rank + rope) -> context (heads, rank).
static void attend(const Attention& a, const Tokens& t, long n, const float* pages, const float* const* query,
                   float* const* scores, float* const* context, long first, long last) {
  const long width = a.rank + a.rope, count = t.positions[n] + 1;
  const int64_t* table = t.tables + t.row_of[n] * t.table_width;
  std::vector<float*> landing(last - first);
  for (long begin = 0; begin < count; begin += t.block_size) {
    const long some = count - begin < t.block_size ? count - begin : t.block_size;
    for (long h = first; h < last; h++) landing[h - first] = scores[h] + begin;
    const Weight keys{pages + table[begin / t.block_size] * t.block_size * width, nullptr, some, width};
    linear(keys, query + first, landing.data(), (int)(last - first), 0, some);
  }
  for (long h = first; h < last; h++) softmax(scores[h], count, a.scale);
  long h = first;
  if (REGISTERS >= 32)
    for (; h + 8 <= last; h += 8)
      weighted_sum<8>(scores + h, pages, table, t.block_size, width, a.rank, count, context + h);
  for (; h + 4 <= last; h += 4)
    weighted_sum<4>(scores + h, pages, table, t.block_size, width, a.rank, count, context + h);
  for (; h < last; h++) weighted_sum<1>(scores + h, pages, table, t.block_size, width, a.rank, count, context + h);
}

}  // namespace mtp
