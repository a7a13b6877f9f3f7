#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

namespace {

/// f(element of the small images, of the large ones) for every element that a window holds.
template <class F>
void for_each_seen(const Pooling& p, const Shape& small, const Shape& large, F&& f) {
  int64_t o = 0;
  for (int64_t plane = 0; plane < small[0] * small[1]; ++plane)
    for (int64_t y = 0; y < small[2]; ++y)
      for (int64_t x = 0; x < small[3]; ++x, ++o)
        for (int64_t i = 0; i < p.kernel[0]; ++i)
          for (int64_t j = 0; j < p.kernel[1]; ++j) {
            const int64_t at_y = y * p.stride[0] + i - p.padding[0];
            const int64_t at_x = x * p.stride[1] + j - p.padding[1];
            if (at_y < 0 || at_y >= large[2] || at_x < 0 || at_x >= large[3]) continue;
            f(o, (plane * large[2] + at_y) * large[3] + at_x);
          }
}

template <class T>
void write_means(const Pooling& p, const std::vector<double>& sums, const View& out) {
  const auto count = static_cast<double>(p.kernel[0] * p.kernel[1]);
  for (size_t i = 0; i < sums.size(); ++i) out.as<T>()[i] = static_cast<T>(sums[i] / count);
}

}  // namespace

void ReferenceBackend::avg_pool2d(const Pooling& p, View x, View out) {
  visit_floating("avg_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> sums(static_cast<size_t>(out.numel()));
    for_each_seen(p, *out.shape, *x.shape, [&](int64_t o, int64_t i) {
      sums[static_cast<size_t>(o)] += static_cast<double>(x.as<const T>()[i]);
    });
    write_means<T>(p, sums, out);
  });
}

void ReferenceBackend::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  visit_floating("avg_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> sums(static_cast<size_t>(g_x.numel()));
    for_each_seen(p, *g.shape, *g_x.shape, [&](int64_t o, int64_t i) {
      sums[static_cast<size_t>(i)] += static_cast<double>(g.as<const T>()[o]);
    });
    write_means<T>(p, sums, g_x);
  });
}

}  // namespace flowgrad::kernels
