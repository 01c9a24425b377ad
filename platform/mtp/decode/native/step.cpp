// What Python calls; see native/layout.py for the structures.
#include "greedy.h"

extern "C" void mtp_pass(const mtp::Pass* pass) { mtp::compute(*pass); }

extern "C" void mtp_linear(const mtp::Weight* weight, const float* x, float* y, int64_t n, int64_t threads) {
  mtp::multiply(*weight, x, y, n, (int)threads);
}

extern "C" void mtp_draft(const mtp::Chain* chain) { mtp::draft(*chain); }

extern "C" double mtp_step(const mtp::Chain* chain, const mtp::Verification* verification) {
  return mtp::step(*chain, *verification);
}
