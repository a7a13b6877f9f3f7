#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/axis_last.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Numbers up to which insertion beats counting digits, and how many are found so among many.
constexpr int64_t kShortLane = 48, kFew = 128;
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

/// The order of a row.
template <class T>
struct Order {
  const T* x;
  bool descending;

  Entry<T> entry(int64_t i) const {
    const Key<T> key = key_of(x[i]);
    return {descending ? ~key : key, static_cast<uint32_t>(i)};
  }
  /// False for a NaN on either side: its entry decides.
  bool is_no_earlier(T value, T than) const { return descending ? value <= than : value >= than; }
};

/// The first `kept` of the order of n numbers, each of which finds its place or is dropped.
template <class T>
void insert_in_order(const Order<T>& order, int64_t n, int64_t kept, Entry<T>* entries) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (count == kept && order.is_no_earlier(order.x[i], order.x[entries[count - 1].index]))
      continue;
    const Entry<T> entry = order.entry(i);
    if (count == kept && entry.key >= entries[count - 1].key) continue;
    int64_t k = count < kept ? count++ : kept - 1;
    for (; k > 0 && entries[k - 1].key > entry.key; --k) entries[k] = entries[k - 1];
    entries[k] = entry;
  }
}

/// The first `kept` of the order of one row; `entries` has room for twice its numbers.
template <class T>
void sort_row(const Order<T>& order, int64_t n, Entry<T>* entries, int64_t kept, T* values,
              int64_t* indices) {
  if (n <= kShortLane || kept <= std::min(kFew, n / 16)) {
    insert_in_order(order, n, kept, entries);
  } else {
    for (int64_t i = 0; i < n; ++i) entries[i] = order.entry(i);
    if (kept <= n / 16) {
      const auto before = [](const Entry<T>& a, const Entry<T>& b) {
        return a.key != b.key ? a.key < b.key : a.index < b.index;
      };
      std::partial_sort(entries, entries + kept, entries + n, before);
    } else {
      entries = radix_sort<T>(entries, entries + n, n);
    }
  }
  for (int64_t i = 0; i < kept; ++i) {
    indices[i] = entries[i].index;
    values[i] = order.x[entries[i].index];
  }
}

template <class T>
void sort_rows(bool descending, const View& x, const View& values, const View& indices) {
  const Lanes l(x, x.rank() - 1);
  const int64_t kept = values.shape->back();
  const auto sort_some = [&](int64_t first, int64_t count) {
    auto* const entries = scratch_of<Entry<T>>(ScratchSlot::operand, 2 * l.n);
    for (int64_t r = first; r < first + count; ++r)
      sort_row<T>({x.as<const T>() + r * l.n, descending}, l.n, entries, kept,
                  values.as<T>() + r * kept, indices.as<int64_t>() + r * kept);
  };
  for_row_groups(l.batches, l.n, sort_some, kChunk / 8);
}

}  // namespace

void CpuBackendFast::sort(View x, int axis, bool descending, View values, View indices) {
  require_dtype("sort", "values", values, x.dtype);
  require_dtype("sort", "indices", indices, DType::int64);
  // Positions and counts have 32 bits here.
  if (x.rank() == 0 || values.numel() == 0 || (*x.shape)[axis] >= (int64_t{1} << 32))
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
