#pragma once
// A small thread pool for kernels: a share of the chunks for every thread, and what is left of a
// slow thread's share for whoever is done.
//
// Work is a number of chunks chosen by the caller without looking at the thread count, so that
// results never depend on how many threads run. One caller at a time owns the pool; a second
// concurrent caller, and any nested call, runs its chunks serially in its own thread.

#include <cstdint>
#include <type_traits>

namespace flowgrad::kernels {

/// Chunks of b that cover a.
constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Threads used by kernels, the calling thread included. The first call reads the environment
/// variable FLOWGRAD_NUM_THREADS (ValueError when it is malformed); without it, the number of cores
/// this process may run on.
int num_threads();

/// Sets the number of threads, 1 to 1024. Waits for a running parallel region to finish.
/// Raises ValueError when `n` is outside that range or the caller is inside a region.
void set_num_threads(int n);

/// True inside a chunk: a further parallel region would run serially.
bool in_parallel_region();

/// Runs chunks [begin, end) of a region; `context` is passed through.
using RangeFunction = void (*)(void* context, std::int64_t begin, std::int64_t end);

/// Splits [0, n_chunks) evenly over the threads and returns when all are done; `function` is called
/// for a piece of chunks at a time. Where chunks throw, the exception of the lowest one is rethrown
/// here; chunks above it may not have run.
void parallel_run(std::int64_t n_chunks, RangeFunction function, void* context);

/// Calls `fn(chunk)` for every chunk in [0, n_chunks), see parallel_run.
template <class F>
void parallel_for(std::int64_t n_chunks, F&& fn) {
  using Fn = std::remove_reference_t<F>;
  if (n_chunks <= 0) return;
  if (n_chunks == 1) {
    fn(std::int64_t{0});
    return;
  }
  parallel_run(
      n_chunks,
      [](void* context, std::int64_t begin, std::int64_t end) {
        Fn& body = *static_cast<Fn*>(context);
        for (std::int64_t i = begin; i < end; ++i) body(i);
      },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

/// parallel_for where the work is `worth` it, and otherwise a plain loop: below a few microseconds
/// a second thread costs more than it brings. The bits are the same.
template <class F>
void parallel_for_if(bool worth, std::int64_t n_chunks, F&& fn) {
  if (worth) return parallel_for(n_chunks, fn);
  for (std::int64_t i = 0; i < n_chunks; ++i) fn(i);
}

/// Multiplications from which products, convolutions and recurrences are worth several threads.
constexpr std::int64_t kParallelWork = 1 << 18;

}  // namespace flowgrad::kernels
