#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/axis_last.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Numbers up to which insertion beats counting digits.
constexpr int64_t kShortLane = 48;
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

template <class T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

/// An unsigned number in the order of the values: -0 equals 0, and all NaN are one, the largest.
template <class T>
Key<T> key_of(T value) {
  using K = Key<T>;
  constexpr K sign = K{1} << (8 * sizeof(T) - 1);
  if constexpr (std::is_floating_point_v<T>) {
    if (value != value) return ~K{0};
    const K bits = std::bit_cast<K>(value == 0 ? T(0) : value);
    return bits & sign ? ~bits : bits | sign;
  } else {
    return std::bit_cast<K>(value) ^ sign;
  }
}

template <class T>
struct Entry {
  Key<T> key;
  uint32_t index;
};

template <class T>
void insertion_sort(Entry<T>* entries, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const Entry<T> entry = entries[i];
    int64_t k = i;
    for (; k > 0 && entries[k - 1].key > entry.key; --k) entries[k] = entries[k - 1];
    entries[k] = entry;
  }
}

/// By digits, the lowest first, each pass stable (Knuth vol. 3, 5.2.5). Returns where the result
/// is, `entries` or `other`.
template <class T>
Entry<T>* radix_sort(Entry<T>* entries, Entry<T>* other, int64_t n) {
  constexpr int passes = 8 * static_cast<int>(sizeof(T)) / kDigitBits;
  uint32_t counts[passes][kDigits] = {};
  const auto digit = [](Key<T> key, int pass) {
    return key >> (kDigitBits * pass) & (kDigits - 1);
  };
  for (int64_t i = 0; i < n; ++i)
    for (int pass = 0; pass < passes; ++pass) ++counts[pass][digit(entries[i].key, pass)];
  for (int pass = 0; pass < passes; ++pass) {
    uint32_t* const places = counts[pass];
    // A digit that all have in common orders nothing.
    if (places[digit(entries[0].key, pass)] == n) continue;
    uint32_t next = 0;
    for (int d = 0; d < kDigits; ++d) next += std::exchange(places[d], next);
    for (int64_t i = 0; i < n; ++i) other[places[digit(entries[i].key, pass)]++] = entries[i];
    std::swap(entries, other);
  }
  return entries;
}

/// One row; `entries` has room for twice its numbers.
template <class T>
void sort_row(bool descending, const T* x, int64_t n, Entry<T>* entries, T* values,
              int64_t* indices) {
  const Key<T> turn = descending ? ~Key<T>{0} : Key<T>{0};
  for (int64_t i = 0; i < n; ++i) entries[i] = {key_of(x[i]) ^ turn, static_cast<uint32_t>(i)};
  if (n <= kShortLane)
    insertion_sort<T>(entries, n);
  else
    entries = radix_sort<T>(entries, entries + n, n);
  for (int64_t i = 0; i < n; ++i) {
    indices[i] = entries[i].index;
    values[i] = x[entries[i].index];
  }
}

template <class T>
void sort_rows(bool descending, const View& x, const View& values, const View& indices) {
  const Lanes l(x, x.rank() - 1);
  const auto sort_some = [&](int64_t first, int64_t count) {
    auto* const entries = scratch_of<Entry<T>>(ScratchSlot::operand, 2 * l.n);
    for (int64_t r = first; r < first + count; ++r)
      sort_row(descending, x.as<const T>() + r * l.n, l.n, entries, values.as<T>() + r * l.n,
               indices.as<int64_t>() + r * l.n);
  };
  for_row_groups(l.batches, l.n, sort_some, kChunk / 8);
}

}  // namespace

void CpuBackendFast::sort(View x, int axis, bool descending, View values, View indices) {
  require_dtype("sort", "values", values, x.dtype);
  require_dtype("sort", "indices", indices, DType::int64);
  // Positions and counts have 32 bits here.
  if (x.rank() == 0 || x.numel() == 0 || (*x.shape)[axis] >= (int64_t{1} << 32))
    return ReferenceBackend::sort(x, axis, descending, values, indices);
  if (!are_rows(axis, x, values, indices)) {
    return through_rows(x, axis, values, indices, [&](View rows, View sorted, View places) {
      sort(rows, rows.rank() - 1, descending, sorted, places);
    });
  }
  visit_numeric("sort", x.dtype, [&](auto tag) {
    sort_rows<typename decltype(tag)::type>(descending, x, values, indices);
  });
}

}  // namespace flowgrad::kernels
