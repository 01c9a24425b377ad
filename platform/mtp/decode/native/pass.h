// One decoding pass on the processor: what mtp/model computes, as one call instead of hundreds.
//
// The structures are those of native/layout.py, field by field. Nothing here owns weights or the cache; the buffers of
// a pass are kept per thread of Python that calls, and grow to the largest pass.
#pragma once
#include "feed_forward.h"

namespace mtp {

struct Block {
  Attention attention;
  const float *input_norm, *post_norm;
  SwiGLU dense, shared;
  MoE moe;  // experts 0: none
  float eps;
  float* pages;  // this layer's cache
};

struct Join {  // a sequential module's input: eh_proj [norm(Emb(token)); norm(hidden)]; projection.data null: none
  const float *embedding_norm, *hidden_norm;
  Weight projection;
  float eps;
};

struct Pass {
  const Block* blocks;
  int64_t block_count, hidden_size;
  const float* embedding;   // (V, d); null: x is `hidden`
  const float* final_norm;  // null: none
  float final_eps;
  Join join;
  const int64_t* ids;     // (rows of hidden,) tokens
  const float* hidden;    // (rows, d) or null
  float* output;          // (rows, d)
  const int64_t* places;  // (N,) which rows of ids, hidden and output the pass is about
  Tokens tokens;
  int64_t threads;
};

struct Buffers {
  Buffer x, normed, q_a, query_raw, query, latent, context, head_out, inner, inner_up, joined;
  std::vector<Floats> scores;
  std::vector<Queries> queries;
  std::atomic<long> next_item{0};  // of attention's, for whichever thread is free
  Assignments assignments;
};

static thread_local Buffers buffers;

constexpr long QUERY_ROWS = 16;  // that attention takes together

// Rows n of `of` shifted by `offset` values.
static void shifted(float* const* of, long n, long offset, std::vector<float*>& out) {
  out.resize(n);
  for (long i = 0; i < n; i++) out[i] = of[i] + offset;
}

static void start(const Team& team, const Pass& p, float* const* x, Buffers& b) {
  const long d = p.hidden_size, n = p.tokens.count;
  float* const* joined = b.joined.at.data();
  for (long i = team.id; i < n; i += team.size) {
    const long place = p.places[i];
    const float* from = p.embedding ? p.embedding + p.ids[place] * d : p.hidden + place * d;
    if (!p.join.projection.data) {
      std::memcpy(x[i], from, d * sizeof(float));
      continue;
    }
    rms_norm(from, p.join.embedding_norm, p.join.eps, d, joined[i]);
    rms_norm(p.hidden + place * d, p.join.hidden_norm, p.join.eps, d, joined[i] + d);
  }
  team.meet();
  if (!p.join.projection.data) return;
  long begin, end;
  team.share(d, COLUMN_CHUNK, begin, end);
  linear(p.join.projection, joined, x, (int)n, begin, end);
  team.meet();
}

static void norm_all(const Team& team, float* const* x, const float* weight, float eps, long d, long n,
                     float* const* y) {
  for (long i = team.id; i < n; i += team.size) rms_norm(x[i], weight, eps, d, y[i]);
  team.meet();
}

static void project(const Team& team, const Weight& w, const float* const* x, float* const* y, long n, bool add) {
  long begin, end;
  team.share(w.out, COLUMN_CHUNK, begin, end);
  linear(w, x, y, (int)n, begin, end, 0, nullptr, add);
}

// Queries with W_UK absorbed (heads x (rank + rope)), and this pass's entries of the cache.
static void prepare(const Team& team, const Attention& a, const Tokens& t, float* pages, Buffers& b) {
  const long n = t.count, width = a.rank + a.rope, head = a.nope + a.rope;
  if (team.id == 0) b.next_item.store(0, std::memory_order_relaxed);
  for (long i = team.id; i < n; i += team.size) {
    const int64_t position = t.positions[i];
    const int64_t block = t.tables[t.row_of[i] * t.table_width + position / t.block_size];
    float* entry = pages + (block * t.block_size + position % t.block_size) * width;
    rms_norm(b.latent.at[i], a.kv_a_norm, a.latent_eps, a.rank, entry);
    rotate(b.latent.at[i] + a.rank, t, position, a.rope, entry + a.rank);
    for (long h = 0; h < a.heads; h++)
      rotate(b.query_raw.at[i] + h * head + a.nope, t, position, a.rope, b.query.at[i * a.heads + h] + a.rank);
  }
  long begin, end;
  team.share(a.rank, COLUMN_CHUNK, begin, end);
  std::vector<float*> from, to(n);
  for (long h = 0; h < a.heads; h++) {
    shifted(b.query_raw.at.data(), n, h * head, from);
    for (long i = 0; i < n; i++) to[i] = b.query.at[i * a.heads + h];
    linear(a.up_key, from.data(), to.data(), (int)n, begin, end, h);
  }
  team.meet();
}

// Tokens of one row read its cached entries together, up to QUERY_ROWS queries at a time. Which thread takes which heads
// and tokens is nobody's business: each query's numbers are its own.
static void attend_all(const Team& team, const Attention& a, const Tokens& t, const float* pages, Buffers& b) {
  const long n = t.count, span = t.table_width * t.block_size;
  const long parts = n < 2 * team.size ? std::min<long>(team.size, a.heads) : 1;  // of the heads
  const long together = std::max<long>(1, QUERY_ROWS * parts / a.heads);
  Floats& scores = b.scores[team.id];
  Queries& q = b.queries[team.id];
  if ((long)scores.size() < (a.heads / parts + 1) * together * span)
    scores.resize((a.heads / parts + 1) * together * span);
  long item = 0, mine = b.next_item.fetch_add(1, std::memory_order_relaxed);
  for (long first = 0, last; first < n; first = last) {
    for (last = first + 1; last < n && last < first + together && t.row_of[last] == t.row_of[first]; last++) {}
    for (long part = 0; part < parts; part++, item++) {
      if (item != mine) continue;
      q.clear();
      for (long i = first; i < last; i++)
        for (long h = a.heads * part / parts; h < a.heads * (part + 1) / parts; h++) {
          q.scores.push_back(scores.data() + (long)q.query.size() * span);
          q.query.push_back(b.query.at[i * a.heads + h]), q.context.push_back(b.context.at[i * a.heads + h]);
          q.counts.push_back(t.positions[i] + 1);
        }
      attend(a, t, first, pages, q);
      mine = b.next_item.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

static void attention(const Team& team, const Block& block, const Tokens& t, float* const* x, Buffers& b, long d) {
  const Attention& a = block.attention;
  const long n = t.count;
  norm_all(team, x, block.input_norm, block.eps, d, n, b.normed.at.data());
  const float* const* input = b.normed.at.data();
  project(team, a.kv_a, input, b.latent.at.data(), n, false);
  if (a.q_a.data) {
    project(team, a.q_a, input, b.q_a.at.data(), n, false);
    team.meet();
    norm_all(team, b.q_a.at.data(), a.q_a_norm, a.latent_eps, a.q_a.out, n, b.q_a.at.data());
    input = b.q_a.at.data();
  }
  project(team, a.q, input, b.query_raw.at.data(), n, false);
  team.meet();
  prepare(team, a, t, block.pages, b);
  attend_all(team, a, t, block.pages, b);
  team.meet();
  long begin, end;
  team.share(a.value, 8, begin, end);
  std::vector<float*> from(n), to;
  for (long h = 0; h < a.heads; h++) {
    for (long i = 0; i < n; i++) from[i] = b.context.at[i * a.heads + h];
    shifted(b.head_out.at.data(), n, h * a.value, to);
    linear(a.up_value, from.data(), to.data(), (int)n, begin, end, h);
  }
  team.meet();
  project(team, a.out, b.head_out.at.data(), x, n, true);
  team.meet();
}

static void feed_forward(const Team& team, const Block& block, float* const* x, Buffers& b, long n, long d) {
  norm_all(team, x, block.post_norm, block.eps, d, n, b.normed.at.data());
  const float* const* normed = b.normed.at.data();
  const SwiGLU& plain = block.moe.experts ? block.shared : block.dense;
  if (block.moe.experts) {
    add_experts(team, block.moe, normed, x, n, d, b.assignments);
    team.meet();
  }
  if (plain.gate.data)
    add_swiglu(team, plain, normed, x, b.inner.at.data(), b.inner_up.at.data(), (int)n);
  team.meet();
}

static void reserve(const Pass& p, Buffers& b) {
  const long n = p.tokens.count, d = p.hidden_size;
  b.x.rows(n, d), b.normed.rows(n, d), b.joined.rows(n, 2 * d);
  long q_a = 1, raw = 1, query = 1, heads = 1, latent = 1, context = 1, out = 1, inner = 1;
  for (long i = 0; i < p.block_count; i++) {
    const Block& block = p.blocks[i];
    const Attention& a = block.attention;
    q_a = std::max<long>(q_a, a.q_a.out), raw = std::max<long>(raw, a.q.out), heads = std::max<long>(heads, a.heads);
    latent = std::max<long>(latent, a.rank + a.rope), query = latent, context = std::max<long>(context, a.rank);
    out = std::max<long>(out, a.heads * a.value);
    inner = std::max<long>({inner, block.dense.gate.out, block.shared.gate.out});
  }
  b.q_a.rows(n, q_a), b.query_raw.rows(n, raw), b.query.rows(n * heads, query), b.latent.rows(n, latent);
  b.context.rows(n * heads, context), b.head_out.rows(n, out), b.inner.rows(n, inner), b.inner_up.rows(n, inner);
  if ((long)b.scores.size() < p.threads) b.scores.resize(p.threads), b.queries.resize(p.threads);
}

// The blocks of a pass over its N tokens; fills rows `places` of output.
static void compute(const Pass& p) {
  Buffers& b = buffers;
  reserve(p, b);
  float* const* x = b.x.at.data();
  const long d = p.hidden_size, n = p.tokens.count;
  run((int)p.threads, [&](const Team& team) {
    start(team, p, x, b);
    for (long i = 0; i < p.block_count; i++) {
      attention(team, p.blocks[i], p.tokens, x, b, d);
      feed_forward(team, p.blocks[i], x, b, n, d);
    }
    for (long i = team.id; i < n; i += team.size) {
      float* to = p.output + p.places[i] * d;
      if (p.final_norm)
        rms_norm(x[i], p.final_norm, p.final_eps, d, to);
      else
        std::memcpy(to, x[i], d * sizeof(float));
    }
  });
}

// y (n, out) = x (n, in) W^T
static void multiply(const Weight& weight, const float* x, float* y, long n, int threads) {
  std::vector<const float*> from(n);
  std::vector<float*> to(n);
  for (long i = 0; i < n; i++) from[i] = x + i * weight.in, to[i] = y + i * weight.out;
  run(threads, [&](const Team& team) { project(team, weight, from.data(), to.data(), n, false); });
}

}  // namespace mtp
