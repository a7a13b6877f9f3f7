#pragma once

#include <cstdint>

namespace flowgrad::kernels::cuda {

/// Two copies of keys and of the numbers that travel with them: a pass reads one, writes the other.
template <class Key>
struct SortBuffers {
  Key* keys[2];
  uint32_t* order[2];
};

/// Bytes that radix_sort needs beside its buffers.
std::size_t radix_sort_bytes(int64_t rows, int64_t n);

/// Stable ascending sort of each of `rows` rows of n keys by their lowest `bits` bits, on the
/// default stream. keys[0] and order[0] are given; the copy that holds the result is returned. At
/// most 65,535 rows, fewer than 2^32 keys a row.
template <class Key>
int radix_sort(const SortBuffers<Key>& buffers, int64_t rows, int64_t n, int bits, void* scratch);

}  // namespace flowgrad::kernels::cuda
