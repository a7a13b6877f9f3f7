#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

namespace {

/// f(element of the small images, the elements of the large ones that its window holds, count) for
/// every window.
template <class F>
void for_each_window(const Pooling& p, const Shape& small, const Shape& large, F&& f) {
  int64_t o = 0;
  std::vector<size_t> seen;
  for (int64_t plane = 0; plane < small[0] * small[1]; ++plane)
    for (int64_t y = 0; y < small[2]; ++y)
      for (int64_t x = 0; x < small[3]; ++x, ++o) {
        const PoolSpan rows = pool_span(p, 0, y, large[2], small[2]);
        const PoolSpan columns = pool_span(p, 1, x, large[3], small[3]);
        seen.clear();
        for (int64_t i = rows.begin; i < rows.end; ++i)
          for (int64_t j = columns.begin; j < columns.end; ++j)
            seen.push_back(static_cast<size_t>((plane * large[2] + i) * large[3] + j));
        f(static_cast<size_t>(o), seen, static_cast<double>(rows.count * columns.count));
      }
}

}  // namespace

void ReferenceBackend::avg_pool2d(const Pooling& p, View x, View out) {
  visit_floating("avg_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_each_window(p, *out.shape, *x.shape, [&](size_t o, const auto& seen, double count) {
      double sum = 0;
      for (const size_t i : seen) sum += static_cast<double>(x.as<const T>()[i]);
      out.as<T>()[o] = static_cast<T>(sum / count);
    });
  });
}

void ReferenceBackend::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  visit_floating("avg_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> sums(static_cast<size_t>(g_x.numel()));
    for_each_window(p, *g.shape, *g_x.shape, [&](size_t o, const auto& seen, double count) {
      const double share = static_cast<double>(g.as<const T>()[o]) / count;
      for (const size_t i : seen) sums[i] += share;
    });
    for (size_t i = 0; i < sums.size(); ++i) g_x.as<T>()[i] = static_cast<T>(sums[i]);
  });
}

void ReferenceBackend::max_pool2d(const Pooling& p, View x, View out, View index) {
  visit_floating("max_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t plane = (*x.shape)[2] * (*x.shape)[3];
    for_each_window(p, *index.shape, *x.shape, [&](size_t o, const auto& seen, double) {
      size_t best = seen[0];
      for (const size_t i : seen) {
        const T value = x.as<const T>()[i], largest = x.as<const T>()[best];
        if (largest == largest && !(value <= largest)) best = i;
      }
      out.as<T>()[o] = x.as<const T>()[best];
      index.as<int64_t>()[o] = static_cast<int64_t>(best) % plane;
    });
  });
}

void ReferenceBackend::max_pool2d_grad(const Pooling& p, View g, View index, View g_x) {
  visit_floating("max_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t plane = (*g_x.shape)[2] * (*g_x.shape)[3];
    std::vector<double> sums(static_cast<size_t>(g_x.numel()));
    for_each_window(p, *g.shape, *g_x.shape, [&](size_t o, const auto& seen, double) {
      const size_t first = seen[0] - seen[0] % static_cast<size_t>(plane);
      sums[first + static_cast<size_t>(index.as<const int64_t>()[o])] +=
          static_cast<double>(g.as<const T>()[o]);
    });
    for (size_t i = 0; i < sums.size(); ++i) g_x.as<T>()[i] = static_cast<T>(sums[i]);
  });
}

}  // namespace flowgrad::kernels
