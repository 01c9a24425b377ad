// SwiGLU and DeepSeekMoE for few tokens: each chosen expert's weights are read once for all its tokens.
#pragma once
#include <algorithm>
#include <vector>

#include "attention.h"

namespace mtp {

struct SwiGLU {
  Weight gate, up, down;  // gate.data null: there is none
};

struct MoE {
  const float *router, *bias;  // (E, d), (E,)
  Weight gate_up, down;        // E x (2 ff, d), E x (d, ff)
  int64_t experts, top_k, groups, top_groups, ff, normalise;
  float scale;
};

// The k experts of one token and their weights; selection on s + bias within the best groups, weights from s.
static void route(const MoE& m, const float* x, long d, int64_t* chosen, float* weights) {
  std::vector<float> score(m.experts), biased(m.experts);
  std::vector<float*> y{score.data()};
  const Weight router{m.router, nullptr, m.experts, d};
  linear(router, &x, y.data(), 1, 0, m.experts);
  for (long e = 0; e < m.experts; e++) {
    score[e] = 1.0f / (1.0f + std::exp(-score[e]));
    biased[e] = score[e] + m.bias[e];
  }
  if (m.groups > 1) {
    const long size = m.experts / m.groups;
    std::vector<std::pair<float, long>> best(m.groups);
    for (long g = 0; g < m.groups; g++) {
      std::vector<float> group(biased.begin() + g * size, biased.begin() + (g + 1) * size);
      std::partial_sort(group.begin(), group.begin() + std::min(2L, size), group.end(), std::greater<float>());
      best[g] = {-(group[0] + (size > 1 ? group[1] : 0.0f)), g};
    }
    std::sort(best.begin(), best.end());
    for (long i = m.top_groups; i < m.groups; i++)
      std::fill_n(biased.begin() + best[i].second * size, size, -INFINITY);
  }
  float total = 0;
  for (long k = 0; k < m.top_k; k++) {
    long top = 0;
    for (long e = 1; e < m.experts; e++)
      if (biased[e] > biased[top]) top = e;
    chosen[k] = top;
    weights[k] = score[top];
    total += score[top];
    biased[top] = -INFINITY;
  }
  for (long k = 0; k < m.top_k; k++) weights[k] = (m.normalise ? weights[k] / (total + 1e-20f) : weights[k]) * m.scale;
}

// x[n] += SwiGLU(normed[n]) for n tokens; `inner` holds 2 ff values a token. Ends without a barrier.
static void add_swiglu(const Team& team, const SwiGLU& f, const float* const* normed, float* const* x,
                       float* const* inner, float* const* inner_up, int n) {
  long begin, end;
  team.share(f.gate.out, COLUMN_CHUNK, begin, end);
  linear(f.gate, normed, inner, n, begin, end);
  linear(f.up, normed, inner_up, n, begin, end);
  for (int r = 0; r < n; r++) swiglu(inner[r], inner_up[r], begin, end);
  team.meet();
  team.share(f.down.out, COLUMN_CHUNK, begin, end);
  linear(f.down, inner, x, n, begin, end, 0, nullptr, true);
}

// The assignments of a pass, expert by expert in ascending order: so each token adds its experts in that order too.
struct Assignments {
  std::vector<int64_t> chosen;
  std::vector<float> weights, factor;
  std::vector<long> first;           // (E + 1): where each expert's tokens begin
  std::vector<const float*> from;    // (N k) rows of normed
  std::vector<float*> to;            // (N k) rows of x
  Buffer gate, up;

  void sort(const MoE& m, long n, const float* const* normed, float* const* x) {
    first.assign(m.experts + 1, 0);
    for (long i = 0; i < n * m.top_k; i++) first[chosen[i] + 1]++;
    for (long e = 0; e < m.experts; e++) first[e + 1] += first[e];
    std::vector<long> next(first.begin(), first.end() - 1);
    from.resize(n * m.top_k), to.resize(n * m.top_k), factor.resize(n * m.top_k);
    for (long i = 0; i < n * m.top_k; i++) {
      const long place = next[chosen[i]]++;
      from[place] = normed[i / m.top_k];
      to[place] = x[i / m.top_k];
      factor[place] = weights[i];
    }
    gate.rows(n * m.top_k, m.ff), up.rows(n * m.top_k, m.ff);
  }
};

// x[n] += sum of the chosen experts. Begins after a barrier; ends without one.
static void add_experts(const Team& team, const MoE& m, const float* const* normed, float* const* x, long n, long d,
                        Assignments& a) {
  if (team.id == 0) a.chosen.resize(n * m.top_k), a.weights.resize(n * m.top_k);
  team.meet();
  for (long i = team.id; i < n; i += team.size)
    route(m, normed[i], d, a.chosen.data() + i * m.top_k, a.weights.data() + i * m.top_k);
  team.meet();
  if (team.id == 0) a.sort(m, n, normed, x);
  team.meet();
  long begin, end;
  team.share(m.ff, COLUMN_CHUNK, begin, end);
  const Weight half{m.gate_up.data, m.gate_up.scale, m.ff, d};  // expert e: halves 2 e (gate) and 2 e + 1 (up)
  for (long e = 0; e < m.experts; e++) {
    const long at = a.first[e], count = a.first[e + 1] - at;
    if (!count) continue;
    linear(half, a.from.data() + at, a.gate.at.data() + at, (int)count, begin, end, 2 * e);
    linear(half, a.from.data() + at, a.up.at.data() + at, (int)count, begin, end, 2 * e + 1);
    for (long r = at; r < at + count; r++) swiglu(a.gate.at[r], a.up.at[r], begin, end);
  }
  team.meet();
  team.share(d, COLUMN_CHUNK, begin, end);
  for (long e = 0; e < m.experts; e++) {
    const long at = a.first[e], count = a.first[e + 1] - at;
    if (count)
      linear(m.down, a.gate.at.data() + at, a.to.data() + at, (int)count, begin, end, e, a.factor.data() + at, true);
  }
}

}  // namespace mtp
