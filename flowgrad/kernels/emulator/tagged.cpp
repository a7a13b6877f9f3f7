#include "flowgrad/kernels/emulator/tagged.h"

#include "flowgrad/kernels/emulator/checker.h"

namespace flowgrad::gpu::emulator {

void tagged_store(std::uint64_t* box, const std::uint64_t* words, int n_words) {
  check_alignment(box, static_cast<std::size_t>(n_words) * 8, "tagged_store");
  for (int w = 0; w < n_words; ++w) {
    checker::atomic_access(box + w, 8);
    box[w] = words[w];
  }
}

void tagged_wait(const std::uint64_t* box, int n_words, unsigned tag, std::uint64_t* words,
                 const Site& site) {
  check_alignment(box, static_cast<std::size_t>(n_words) * 8, "tagged_wait");
  if (tag == 0) fail("tagged_wait: tag 0, which memory of zeros has");
  struct Wait {
    const std::uint64_t* box;
    int n_words;
    unsigned tag;
  } wait{box, n_words, tag};
  // No access of the thread that happens to run: what waits is announced below.
  wait_until(
      "tagged_wait", site,
      [](void* argument) {
        const auto* w = static_cast<const Wait*>(argument);
        for (int i = 0; i < w->n_words; ++i) {
          if (w->box[i] >> 32 != w->tag) return false;
        }
        return true;
      },
      &wait);
  for (int w = 0; w < n_words; ++w) {
    checker::atomic_access(box + w, 8);
    words[w] = box[w];
  }
}

}  // namespace flowgrad::gpu::emulator
