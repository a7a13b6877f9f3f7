#include <algorithm>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// A contiguous array seen as outer x size x inner around an axis.
struct Around {
  int64_t outer = 1, size = 1, inner = 1;
  Around(const View& v, int axis) {
    for (int d = 0; d < axis; ++d) outer *= (*v.shape)[d];
    size = (*v.shape)[axis];
    for (int d = axis + 1; d < v.rank(); ++d) inner *= (*v.shape)[d];
  }
};

int64_t index_at(const View& index, int64_t i) {
  return index.as<int64_t>()[index.rank() == 0 ? 0 : i * (*index.strides)[0]];
}

/// f(o, begin, end) for every outer entry and strip [begin, end) of the inner axis, `n` numbers of
/// the source at every inner place. Threads share neither, so every sum keeps its order.
template <class F>
void each_strip(const Around& target, int64_t n, F&& f) {
  constexpr int64_t kStrip = 256;
  const int64_t strips = divide_up(target.inner, kStrip);
  const int64_t group = std::max<int64_t>(1, kChunk / (n * target.inner));
  for_tasks(divide_up(target.outer, group) * strips, target.outer * n * target.inner,
            [&](int64_t task) {
              const int64_t begin = task % strips * kStrip, first = task / strips * group;
              for (int64_t o = first; o < std::min(target.outer, first + group); ++o)
                f(o, begin, std::min(target.inner, begin + kStrip));
            });
}

/// out[o, i, j] = x[o, index[o, i, j], j] for rows [begin, end) of o and i. Picked has x's size.
template <class Picked>
void gather_rows(const View& x, const View& index, const View& out, const Around& from, int64_t n,
                 int64_t begin, int64_t end) {
  const int64_t* __restrict at = index.as<const int64_t>();
  Picked* __restrict to = out.as<Picked>();
  for (int64_t r = begin; r < end;) {
    const Picked* const entry = x.as<const Picked>() + r / n * from.size * from.inner;
    const int64_t stop = std::min(end, (r / n + 1) * n);
    if (from.inner == 1) {
      for (; r < stop; ++r) to[r] = entry[at[r]];
      continue;
    }
    for (; r < stop; ++r) {
      for (int64_t j = 0, i = r * from.inner; j < from.inner; ++j, ++i)
        to[i] = entry[at[i] * from.inner + j];
    }
  }
}

/// out[o, index[o, i, j], j] += source[o, i, j].
template <class T>
void scatter_rows(const View& index, const Around& target, int64_t n, const View& source,
                  const View& out) {
  const int64_t* const at = index.as<const int64_t>();
  const T* const from = source.as<const T>();
  each_strip(target, n, [&](int64_t o, int64_t begin, int64_t end) {
    T* const to = out.as<T>() + o * target.size * target.inner;
    if (target.inner == 1) {
      for (int64_t i = o * n; i < (o + 1) * n; ++i) to[at[i]] += from[i];
      return;
    }
    for (int64_t i = o * n; i < (o + 1) * n; ++i) {
      for (int64_t j = begin; j < end; ++j)
        to[at[i * target.inner + j] * target.inner + j] += from[i * target.inner + j];
    }
  });
}

/// Whether x or a target beside an index is what Around sees, and the index and the values lie like
/// each other.
bool picks_plainly(const View& beside, const View& index, const View& values) {
  return index.dtype == DType::int64 && beside.dtype == values.dtype && beside.is_contiguous() &&
         index.is_contiguous() && values.is_contiguous() && values.numel() > 0;
}

template <class T>
void add_rows(const View& index, const Around& target, const View& source, const View& out) {
  const int64_t n = index.numel();
  const auto add = elementwise_table<T>().binary[number::binary_add];
  each_strip(target, n, [&](int64_t o, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < n; ++i) {
      T* const to = out.as<T>() + (o * target.size + index_at(index, i)) * target.inner + begin;
      const T* const from = source.as<T>() + (o * n + i) * target.inner + begin;
      if (end - begin == 1)
        *to += *from;
      else
        add(to, from, to, end - begin);
    }
  });
}

}  // namespace

void CpuBackendFast::gather(View x, int axis, View index, View out) {
  if (!picks_plainly(x, index, out)) return ReferenceBackend::gather(x, axis, index, out);
  const Around from(x, axis);
  const int64_t n = (*index.shape)[axis], rows = from.outer * n;
  const int64_t group = std::max<int64_t>(1, kChunk / from.inner);
  for_tasks(divide_up(rows, group), out.numel(), [&](int64_t i) {
    const int64_t begin = i * group, end = std::min(rows, begin + group);
    switch (size_of(x.dtype)) {
      case 1: return gather_rows<uint8_t>(x, index, out, from, n, begin, end);
      case 2: return gather_rows<uint16_t>(x, index, out, from, n, begin, end);
      case 4: return gather_rows<uint32_t>(x, index, out, from, n, begin, end);
      default: return gather_rows<uint64_t>(x, index, out, from, n, begin, end);
    }
  });
}

void CpuBackendFast::scatter_add(View index, int axis, View source, View out) {
  const bool plain = picks_plainly(out, index, source);
  if (plain && out.dtype == DType::float32)
    scatter_rows<float>(index, Around(out, axis), (*index.shape)[axis], source, out);
  else if (plain && out.dtype == DType::float64)
    scatter_rows<double>(index, Around(out, axis), (*index.shape)[axis], source, out);
  else
    ReferenceBackend::scatter_add(index, axis, source, out);
}

void CpuBackendFast::index_select(View x, int axis, View index, View out) {
  if (x.rank() == 0 || index.dtype != DType::int64 || x.dtype != out.dtype || !x.is_contiguous() ||
      !out.is_contiguous())
    return ReferenceBackend::index_select(x, axis, index, out);
  const Around from(x, axis);
  const int64_t n = index.numel(), rows = from.outer * n;
  const int bytes = static_cast<int>(size_of(x.dtype));
  if (rows * from.inner == 0) return;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t place = (r / n * from.size + index_at(index, r % n)) * from.inner;
      copy_run(x.as<char>() + place * bytes, 1, out.as<char>() + r * from.inner * bytes, 1,
               from.inner, bytes);
    }
  };
  const int64_t group = std::max<int64_t>(1, kChunk / from.inner);
  for_tasks(divide_up(rows, group), rows * from.inner,
            [&](int64_t i) { run(i * group, std::min(rows, (i + 1) * group)); });
}

void CpuBackendFast::index_add(View index, int axis, View source, View out) {
  const bool plain = out.rank() > 0 && index.dtype == DType::int64 && source.dtype == out.dtype &&
                     source.is_contiguous() && out.is_contiguous() && source.numel() > 0;
  if (plain && out.dtype == DType::float32)
    add_rows<float>(index, Around(out, axis), source, out);
  else if (plain && out.dtype == DType::float64)
    add_rows<double>(index, Around(out, axis), source, out);
  else
    ReferenceBackend::index_add(index, axis, source, out);
}

}  // namespace flowgrad::kernels
