// The threads of one pass: they share the rows of every weight out among themselves and meet at barriers.
#pragma once
#include <omp.h>

namespace mtp {

struct Team {
  int id, size;
  void meet() const {
    if (size > 1) {
#pragma omp barrier
    }
  }
  // This thread's part of 0..count, cut at multiples of `step`.
  void share(long count, long step, long& begin, long& end) const {
    const long pieces = (count + step - 1) / step;
    begin = pieces * id / size * step;
    end = pieces * (id + 1) / size * step;
    if (begin > count) begin = count;
    if (end > count) end = count;
  }
};

template <class Work>
static void run(int threads, Work work) {
  if (threads <= 1) {
    work(Team{0, 1});
    return;
  }
#pragma omp parallel num_threads(threads)
  work(Team{omp_get_thread_num(), omp_get_num_threads()});
}

}  // namespace mtp
