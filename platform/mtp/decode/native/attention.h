// Multi-head latent attention in its absorbed order, over paged latents; see mtp/model/attention.py for the formulas.
#pragma once
#include <algorithm>
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

// The queries of some heads and some tokens of one row, which see different numbers of cached entries.
struct alignas(LINE) Queries {
  std::vector<const float*> query;  // (rank + rope) each
  std::vector<float*> scores, context, landing;
  std::vector<long> counts;
  long fewest, most;  // of counts

  void clear() { query.clear(), scores.clear(), context.clear(), counts.clear(); }
};

// context[h][k..k+W LANES) = sum_s weights[h][s] latent_s[k..) for s < counts[h], block after block.
template <int H, int W>
static void weighted_columns(const Queries& q, long first, const float* pages, const int64_t* table, long block_size,
                             long width, long k) {
  const float* weights[H];
  for (int h = 0; h < H; h++) weights[h] = q.scores[first + h];
  vec total[H][W] = {};
  for (long begin = 0; begin < q.fewest; begin += block_size) {
    const float* entry = pages + table[begin / block_size] * block_size * width + k;
    const long end = begin + block_size < q.fewest ? begin + block_size : q.fewest;
    for (long s = begin; s < end; s++, entry += width) {
      vec values[W];
      for (int w = 0; w < W; w++) values[w] = load(entry + w * LANES);
      for (int h = 0; h < H; h++)
        for (int w = 0; w < W; w++) total[h][w] = fused(values[w], vec{} + weights[h][s], total[h][w]);
    }
  }
  for (int h = 0; h < H; h++)
    for (int w = 0; w < W; w++) store(q.context[first + h] + k + w * LANES, total[h][w]);
  if (q.most == q.fewest) return;
  for (int h = 0; h < H; h++)  // what later tokens alone see
    for (long s = q.fewest; s < q.counts[first + h]; s++) {
      const float* entry = pages + (table[s / block_size] * block_size + s % block_size) * width + k;
      float* context = q.context[first + h] + k;
      for (int w = 0; w < W; w++)
        store(context + w * LANES, fused(load(entry + w * LANES), vec{} + weights[h][s], load(context + w * LANES)));
    }
}

template <int H>
static void weighted_sum(const Queries& q, long first, const float* pages, const int64_t* table, long block_size,
                         long width, long rank) {
  long k = 0;
  for (; k + 2 * LANES <= rank; k += 2 * LANES)
    weighted_columns<H, 2>(q, first, pages, table, block_size, width, k);
  for (; k + LANES <= rank; k += LANES) weighted_columns<H, 1>(q, first, pages, table, block_size, width, k);
  for (; k < rank; k++)
    for (long h = first; h < first + H; h++) {
      float total = 0;
      for (long s = 0; s < q.counts[h]; s++)
        total = fused(q.scores[h][s], pages[(table[s / block_size] * block_size + s % block_size) * width + k], total);
      q.context[h][k] = total;
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

// query (rank + rope) -> context (rank) of all `q`, which belong to the row of token n.
static void attend(const Attention& a, const Tokens& t, long n, const float* pages, Queries& q) {
  const long width = a.rank + a.rope, rows = (long)q.query.size();
  const int64_t* table = t.tables + t.row_of[n] * t.table_width;
  q.fewest = *std::min_element(q.counts.begin(), q.counts.end());
  q.most = *std::max_element(q.counts.begin(), q.counts.end());
  q.landing.resize(rows);
  for (long begin = 0; begin < q.most; begin += t.block_size) {
    const long some = q.most - begin < t.block_size ? q.most - begin : t.block_size;
    for (long r = 0; r < rows; r++) q.landing[r] = q.scores[r] + begin;
    const Weight keys{pages + table[begin / t.block_size] * t.block_size * width, nullptr, some, width};
    linear(keys, q.query.data(), q.landing.data(), (int)rows, 0, some);
  }
  for (long r = 0; r < rows; r++) softmax(q.scores[r], q.counts[r], a.scale);
  long r = 0;
  if (REGISTERS >= 32)
    for (; r + 8 <= rows; r += 8) weighted_sum<8>(q, r, pages, table, t.block_size, width, a.rank);
  for (; r + 4 <= rows; r += 4) weighted_sum<4>(q, r, pages, table, t.block_size, width, a.rank);
  for (; r < rows; r++) weighted_sum<1>(q, r, pages, table, t.block_size, width, a.rank);
}

}  // namespace mtp
