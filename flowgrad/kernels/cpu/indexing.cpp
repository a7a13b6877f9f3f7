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

template <class T>
void add_rows(const View& index, const Around& target, const View& source, const View& out) {
  const int64_t n = index.numel();
  const auto add = elementwise_table<T>().binary[number::binary_add];
  const auto strip = [&](int64_t o, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < n; ++i) {
      T* const to = out.as<T>() + (o * target.size + index_at(index, i)) * target.inner + begin;
      const T* const from = source.as<T>() + (o * n + i) * target.inner + begin;
      if (end - begin == 1)
        *to += *from;
      else
        add(to, from, to, end - begin);
    }
  };
  // Threads share neither an outer entry nor a strip of the inner axis, so every sum keeps its
  // order.
  constexpr int64_t width = 256;
  const int64_t strips = (target.inner + width - 1) / width;
  const auto task = [&](int64_t t) {
    const int64_t begin = t % strips * width;
    strip(t / strips, begin, std::min(target.inner, begin + width));
  };
  if (target.outer * n * target.inner < 2 * kChunk) {
    for (int64_t o = 0; o < target.outer; ++o) strip(o, 0, target.inner);
  } else {
    parallel_for(target.outer * strips, task);
  }
}

}  // namespace

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
  if (rows * from.inner < 2 * kChunk) return run(0, rows);
  const int64_t group = std::max<int64_t>(1, kChunk / from.inner);
  parallel_for((rows + group - 1) / group,
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
