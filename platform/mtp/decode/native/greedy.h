// A greedy step without Python between its parts: drafts of chained modules, and their verification.
//
// `draft` does at one go what mtp/decode/module_drafter.py does a level at a time (see there which slots a level
// computes), `verify` what engine.py and verification.py do. Around the passes of a small model Python takes as long as
// they do themselves, more so after a pass that has filled the caches with weights.
#pragma once
#include <chrono>

#include "pass.h"

namespace mtp {

// Some of the engine's rows, and where their tokens and caches are.
struct Batch {
  const float* embedding;
  int64_t hidden_size;
  int64_t* tokens;  // (all rows, token_width)
  int64_t token_width;
  int64_t span;         // of the rings: slots of each row that they keep
  const int64_t* rows;  // (R,)
  int64_t count;        // R
  Tokens tables;        // all rows' blocks and the rotation; the rest is filled in here
  int64_t threads;
};

// The backbone or a module, and the head behind it.
struct Level {
  const Block* blocks;
  int64_t block_count;
  const float* final_norm;
  float final_eps;
  Join join;
  Weight head;
  const float* inputs;  // ring of h^{k-1}; null for the backbone
  float* outputs;       // ring of h^k; null: nobody reads it
};

// The slots of one pass, and what comes of them.
struct Slots {
  std::vector<int64_t> ids, positions, rows, places;
  Floats hidden, output, states, logits;

  void clear() { ids.clear(), positions.clear(), rows.clear(), places.clear(); }
  void add(const Batch& b, int64_t row, int64_t slot, int64_t token_at) {
    places.push_back((int64_t)ids.size());
    ids.push_back(b.tokens[row * b.token_width + token_at]);
    positions.push_back(slot), rows.push_back(row);
  }
  // Where slot i lies in a ring.
  long kept(const Batch& b, size_t i) const { return (rows[i] * b.span + positions[i] % b.span) * b.hidden_size; }

  void run(const Batch& b, const Level& level) {
    const long d = b.hidden_size, bytes = d * (long)sizeof(float);
    hidden.resize(ids.size() * d), output.resize(ids.size() * d);
    for (size_t i = 0; level.inputs && i < ids.size(); i++)
      std::memcpy(hidden.data() + i * d, level.inputs + kept(b, i), bytes);
    Tokens tokens = b.tables;
    tokens.count = (int64_t)ids.size(), tokens.positions = positions.data(), tokens.row_of = rows.data();
    compute(Pass{level.blocks, level.block_count, d, b.embedding, level.final_norm, level.final_eps, level.join,
                 ids.data(), hidden.data(), output.data(), places.data(), tokens, b.threads});
    for (size_t i = 0; level.outputs && i < ids.size(); i++)
      std::memcpy(level.outputs + kept(b, i), output.data() + i * d, bytes);
  }
};

static thread_local Slots slots;

struct Chain {
  Batch batch;
  const Level* levels;
  int64_t* filled;  // (all rows, depth): slots of each level's cache that are final
  int64_t depth;
  const int64_t *lengths, *counts;  // (R,): tokens, and drafts wanted, which are put behind them
};

static void draft(const Chain& c) {
  const Batch& b = c.batch;
  const long d = b.hidden_size;
  Slots& s = slots;
  std::vector<long> drafting, last;  // which of the R rows draft, and the slot of each one's draft
  for (long k = 1;; k++) {
    s.clear(), drafting.clear(), last.clear();
    for (long r = 0; r < b.count; r++) {
      if (c.counts[r] < k) continue;
      int64_t& filled = c.filled[b.rows[r] * c.depth + k - 1];
      for (int64_t slot = filled; slot < c.lengths[r] - 1; slot++) s.add(b, b.rows[r], slot, slot + k);
      filled = std::max<int64_t>(c.lengths[r] - k, 0);  // slots behind it are built on drafts
      drafting.push_back(r), last.push_back((long)s.ids.size() - 1);
    }
    if (drafting.empty()) return;
    const Level& level = c.levels[k - 1];
    s.run(b, level);
    s.states.resize(last.size() * d), s.logits.resize(last.size() * level.head.out);
    for (size_t i = 0; i < last.size(); i++)
      std::memcpy(s.states.data() + i * d, s.output.data() + last[i] * d, d * sizeof(float));
    multiply(level.head, s.states.data(), s.logits.data(), (long)last.size(), (int)b.threads);
    for (size_t i = 0; i < last.size(); i++) {
      const float* logits = s.logits.data() + (long)i * level.head.out;
      const long r = drafting[i];
      b.tokens[b.rows[r] * b.token_width + c.lengths[r] + k - 1] =
          std::max_element(logits, logits + level.head.out) - logits;
    }
  }
}

struct Verification {
  Batch batch;
  Level backbone;
  const int64_t *starts, *counts;  // (R,): the row's last token, and how many tokens from there on: it and its drafts
  int64_t width;                   // of choices, at least the largest of counts
  int64_t *choices, *accepted;     // (R, width): the target's own token behind each; (R,): drafts that are equal to it
  int64_t* finite;                 // (R,): 0 where logits up to the first draft that fell are not all numbers
};

// The first of the largest values; false where one of them is NaN or infinite (-inf among larger ones is none).
static bool peak(const float* values, long count, int64_t& at) {
  float top = -INFINITY;
  bool number = true;
  for (long j = 0; j < count; j++) number &= values[j] == values[j], top = values[j] > top ? values[j] : top;
  at = std::find(values, values + count, top) - values;
  if (at == count) at = 0;  // nothing but NaN
  return number && std::isfinite(top);
}

static void verify(const Verification& v) {
  const Batch& b = v.batch;
  Slots& s = slots;
  s.clear();
  for (long r = 0; r < b.count; r++)
    for (int64_t j = 0; j < v.counts[r]; j++) s.add(b, b.rows[r], v.starts[r] + j, v.starts[r] + j);
  s.run(b, v.backbone);
  const long vocabulary = v.backbone.head.out, count = (long)s.ids.size();
  s.logits.resize(count * vocabulary);
  multiply(v.backbone.head, s.output.data(), s.logits.data(), count, (int)b.threads);
  std::vector<int64_t> choice(count);
  std::vector<char> good(count);
  run((int)b.threads, [&](const Team& team) {
    for (long i = team.id; i < count; i += team.size) good[i] = peak(s.logits.data() + i * vocabulary, vocabulary, choice[i]);
  });
  long i = 0;
  for (long r = 0; r < b.count; r++) {
    int64_t* row = b.tokens + b.rows[r] * b.token_width + v.starts[r] + 1;
    int64_t stand = 0;
    while (stand + 1 < v.counts[r] && row[stand] == choice[i + stand]) stand++;
    v.accepted[r] = stand, v.finite[r] = 1;
    for (int64_t j = 0; j <= stand; j++) {
      v.finite[r] &= (int64_t)good[i + j];
      v.choices[r * v.width + j] = row[j] = choice[i + j];
    }
    i += v.counts[r];
  }
}

// Seconds that the drafts took of both.
static double step(const Chain& c, const Verification& v) {
  const auto began = std::chrono::steady_clock::now();
  draft(c);
  const std::chrono::duration<double> drafting = std::chrono::steady_clock::now() - began;
  verify(v);
  return drafting.count();
}

}  // namespace mtp
