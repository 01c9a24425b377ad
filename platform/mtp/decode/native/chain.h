// Greedy drafts of chained modules: every level's pass, its head and the choice of the token, without Python between.
//
// What mtp/decode/module_drafter.py does a level at a time (see there which slots a level computes). Between the levels
// of a small model lay more time than in them.
#pragma once
#include "pass.h"

namespace mtp {

struct Level {
  const Block* blocks;
  int64_t block_count;
  const float* final_norm;
  float final_eps;
  Join join;
  Weight head;
  const float* inputs;  // h^{k-1} of the last `span` slots of every row
  float* outputs;       // h^k likewise; null: no level reads them
};

struct Chain {
  const Level* levels;
  const float* embedding;
  int64_t hidden_size;
  int64_t* tokens;  // (rows, token_width); drafts are written behind each row's own
  int64_t token_width;
  int64_t* filled;  // (rows, depth): slots of each level's cache that are final
  int64_t depth, span;
  const int64_t *rows, *lengths, *counts;  // (R,): row, its tokens, drafts wanted
  int64_t row_count, most;                 // R, the largest of counts
  int64_t* drafts;                         // (R, most)
  Tokens tables;                           // all rows' blocks and the rotation; the rest is filled in here
  int64_t threads;
};

// The slots that level k (from 1) computes: inputs gathered, and where each draft's state is.
struct Slots {
  std::vector<int64_t> ids, positions, rows, places, last;  // `last`: for each draft, its slot
  std::vector<long> drafting;                               // which of the R rows draft
  std::vector<float> hidden, output, states, logits;

  void gather(const Chain& c, const Level& level, long k) {
    ids.clear(), positions.clear(), rows.clear(), places.clear(), last.clear(), drafting.clear();
    for (long r = 0; r < c.row_count; r++) {
      if (c.counts[r] < k) continue;
      int64_t& filled = c.filled[c.rows[r] * c.depth + k - 1];
      for (int64_t slot = filled; slot < c.lengths[r] - 1; slot++) {
        places.push_back((int64_t)ids.size());
        ids.push_back(c.tokens[c.rows[r] * c.token_width + slot + k]);
        positions.push_back(slot), rows.push_back(c.rows[r]);
      }
      filled = std::max<int64_t>(c.lengths[r] - k, 0);  // slots behind it are built on drafts
      last.push_back((int64_t)ids.size() - 1), drafting.push_back(r);
    }
    const long d = c.hidden_size;
    hidden.resize(ids.size() * d), output.resize(ids.size() * d), states.resize(last.size() * d);
    for (size_t i = 0; i < ids.size(); i++) std::memcpy(hidden.data() + i * d, level.inputs + kept(c, i), d * sizeof(float));
  }
  // Where slot i lies in a ring.
  long kept(const Chain& c, size_t i) const { return (rows[i] * c.span + positions[i] % c.span) * c.hidden_size; }
};

static void draft(const Chain& c) {
  static thread_local Slots s;
  const long d = c.hidden_size;
  for (long k = 1; k <= c.most; k++) {
    const Level& level = c.levels[k - 1];
    s.gather(c, level, k);
    Tokens tokens = c.tables;
    tokens.count = (int64_t)s.ids.size(), tokens.positions = s.positions.data(), tokens.row_of = s.rows.data();
    compute(Pass{level.blocks, level.block_count, d, c.embedding, level.final_norm, level.final_eps, level.join,
                 s.ids.data(), s.hidden.data(), s.output.data(), s.places.data(), tokens, c.threads});
    for (size_t i = 0; level.outputs && i < s.ids.size(); i++)
      std::memcpy(level.outputs + s.kept(c, i), s.output.data() + i * d, d * sizeof(float));
    for (size_t i = 0; i < s.last.size(); i++)
      std::memcpy(s.states.data() + i * d, s.output.data() + s.last[i] * d, d * sizeof(float));
    const long vocabulary = level.head.out;
    s.logits.resize(s.last.size() * vocabulary);
    multiply(level.head, s.states.data(), s.logits.data(), (long)s.last.size(), (int)c.threads);
    for (size_t i = 0; i < s.last.size(); i++) {
      const float* logits = s.logits.data() + i * vocabulary;
      const int64_t id = std::max_element(logits, logits + vocabulary) - logits;
      const long r = s.drafting[i];
      c.drafts[r * c.most + k - 1] = c.tokens[c.rows[r] * c.token_width + c.lengths[r] + k - 1] = id;
    }
  }
}

}  // namespace mtp
