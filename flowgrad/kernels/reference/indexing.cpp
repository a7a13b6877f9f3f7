#include <algorithm>
#include <vector>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

namespace {

template <class T>
void add_to(T& target, T value) {
  if constexpr (std::is_integral_v<T>) {
    target = static_cast<T>(static_cast<uint64_t>(target) + static_cast<uint64_t>(value));
  } else {
    target += value;
  }
}

/// Strides that walk a rank-1 index along `axis` of a larger shape.
Strides index_strides(const View& index, int axis, int rank) {
  Strides s = Dims::filled(rank, 0);
  if (rank > 0) s[axis] = index.rank() == 0 ? 0 : (*index.strides)[0];
  return s;
}

/// out[i] = x[..index[i]..] in row-major order of out, index walked by `walk`.
void pick(const char* op, const View& x, int axis, const View& index, const Strides& walk,
          const View& out) {
  require_dtype(op, "index", index, DType::int64);
  require_dtype(op, "out", out, x.dtype);
  visit(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t step = stride_along(x, axis);
    for_each(
        *out.shape,
        [&](int64_t i, int64_t at, int64_t o) {
          out.as<T>()[o] = x.as<T>()[i + index.as<int64_t>()[at] * step];
        },
        without_axis(x, axis), walk, *out.strides);
  });
}

/// f(out[..index[i]..], source[i]) in row-major order of source, index walked by `walk`.
template <class F>
void scatter(const char* op, const View& index, const Strides& walk, int axis, const View& source,
             const View& out, F&& f) {
  require_dtype(op, "index", index, DType::int64);
  require_dtype(op, "source", source, out.dtype);
  visit_numeric(op, out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t step = stride_along(out, axis);
    for_each(
        *source.shape,
        [&](int64_t at, int64_t s, int64_t o) {
          f(out.as<T>()[o + index.as<int64_t>()[at] * step], source.as<T>()[s]);
        },
        walk, *source.strides, without_axis(out, axis));
  });
}

constexpr auto kAdd = [](auto& target, auto value) { add_to(target, value); };
constexpr auto kMax = [](auto& target, auto value) { target = scalar::max(target, value); };

}  // namespace

void ReferenceBackend::check_index(View index, int64_t size, View out, View found, View any) {
  require_index_check(index, out, found, any);
  const int64_t parts = (*found.shape)[0];
  const int64_t part = (numel(*index.shape) + parts - 1) / parts;
  int64_t element = 0;
  for_each(
      *index.shape,
      [&](int64_t at, int64_t o) {
        const int64_t given = index.as<int64_t>()[at];
        const bool inside = given >= 0 && given < size;
        out.as<int64_t>()[o] = inside ? given : 0;
        int64_t* const first = found.as<int64_t>() + 2 * (element / part);
        if (!inside && first[0] < 0) {
          first[0] = element;
          first[1] = given;
          any.as<int64_t>()[0] = 1;
        }
        ++element;
      },
      *index.strides, *out.strides);
}

void ReferenceBackend::gather(View x, int axis, View index, View out) {
  pick("gather", x, axis, index, *index.strides, out);
}
void ReferenceBackend::index_select(View x, int axis, View index, View out) {
  pick("index_select", x, axis, index, index_strides(index, axis, out.rank()), out);
}
void ReferenceBackend::scatter_add(View index, int axis, View source, View out) {
  scatter("scatter_add", index, *index.strides, axis, source, out, kAdd);
}
void ReferenceBackend::scatter_max(View index, int axis, View source, View out) {
  scatter("scatter_max", index, *index.strides, axis, source, out, kMax);
}
void ReferenceBackend::index_add(View index, int axis, View source, View out) {
  scatter("index_add", index, index_strides(index, axis, source.rank()), axis, source, out, kAdd);
}

void ReferenceBackend::sort(View x, int axis, bool descending, View values, View indices) {
  require_dtype("sort", "values", values, x.dtype);
  require_dtype("sort", "indices", indices, DType::int64);
  visit_numeric("sort", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    struct Entry {
      T value;
      int64_t index;
    };
    const auto less = [](const Entry& a, const Entry& b) {
      const bool nan_a = a.value != a.value;
      const bool nan_b = b.value != b.value;
      return nan_a || nan_b ? !nan_a && nan_b : a.value < b.value;
    };
    std::vector<Entry> lane(static_cast<size_t>(size_along(x, axis)));
    for_each_lane(
        *x.shape, axis,
        [&](int64_t start, int64_t v, int64_t at) {
          for (size_t i = 0; i < lane.size(); ++i) {
            const auto k = static_cast<int64_t>(i);
            lane[i] = {x.as<T>()[start + k * stride_along(x, axis)], k};
          }
          if (descending) {
            std::stable_sort(lane.begin(), lane.end(),
                             [&](const Entry& a, const Entry& b) { return less(b, a); });
          } else {
            std::stable_sort(lane.begin(), lane.end(), less);
          }
          for (int64_t k = 0; k < size_along(values, axis); ++k) {
            const Entry& entry = lane[static_cast<size_t>(k)];
            values.as<T>()[v + k * stride_along(values, axis)] = entry.value;
            indices.as<int64_t>()[at + k * stride_along(indices, axis)] = entry.index;
          }
        },
        *x.strides, *values.strides, *indices.strides);
  });
}

}  // namespace flowgrad::kernels
