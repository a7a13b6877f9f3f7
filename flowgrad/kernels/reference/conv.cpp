#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

namespace {

/// f(element of out, of x, of weight) for every product of a convolution, channels innermost.
template <class F>
void for_each_product(const Convolution& c, const View& x, const View& weight, const View& out,
                      F&& f) {
  const Shape &sx = *x.shape, &sw = *weight.shape, &so = *out.shape;
  const int64_t outputs = sw[0] / c.groups;
  int64_t o = 0;
  for (int64_t n = 0; n < so[0]; ++n)
    for (int64_t filter = 0; filter < so[1]; ++filter)
      for (int64_t y = 0; y < so[2]; ++y)
        for (int64_t column = 0; column < so[3]; ++column, ++o)
          for (int64_t i = 0; i < sw[2]; ++i)
            for (int64_t j = 0; j < sw[3]; ++j) {
              const int64_t at_y = y * c.stride.rows + i * c.dilation.rows - c.padding.rows;
              const int64_t at_x =
                  column * c.stride.columns + j * c.dilation.columns - c.padding.columns;
              if (at_y < 0 || at_y >= sx[2] || at_x < 0 || at_x >= sx[3]) continue;
              for (int64_t k = 0; k < sw[1]; ++k) {
                const int64_t channel = filter / outputs * sw[1] + k;
                f(o, ((n * sx[1] + channel) * sx[2] + at_y) * sx[3] + at_x,
                  ((filter * sw[1] + k) * sw[2] + i) * sw[3] + j);
              }
            }
}

template <class T>
void round_to(const std::vector<double>& sums, const View& to) {
  for (size_t i = 0; i < sums.size(); ++i) to.as<T>()[i] = static_cast<T>(sums[i]);
}

}  // namespace

void ReferenceBackend::conv2d(const Convolution& c, View x, View weight, View bias, View out) {
  visit_floating("conv2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Shape& so = *out.shape;
    std::vector<double> sums(static_cast<size_t>(out.numel()));
    for (size_t i = 0; i < sums.size() && bias.defined(); ++i) {
      const int64_t filter = static_cast<int64_t>(i) / (so[2] * so[3]) % so[1];
      sums[i] = static_cast<double>(bias.as<const T>()[filter]);
    }
    for_each_product(c, x, weight, out, [&](int64_t o, int64_t i, int64_t w) {
      sums[static_cast<size_t>(o)] +=
          static_cast<double>(x.as<const T>()[i]) * static_cast<double>(weight.as<const T>()[w]);
    });
    round_to<T>(sums, out);
  });
}

void ReferenceBackend::conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x,
                                   View g_weight, View g_bias) {
  visit_floating("conv2d_grad", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> to_x(g_x.defined() ? static_cast<size_t>(g_x.numel()) : 0);
    std::vector<double> to_weight(g_weight.defined() ? static_cast<size_t>(g_weight.numel()) : 0);
    for_each_product(c, x, weight, g, [&](int64_t o, int64_t i, int64_t w) {
      const auto given = static_cast<double>(g.as<const T>()[o]);
      if (g_x.defined())
        to_x[static_cast<size_t>(i)] += given * static_cast<double>(weight.as<const T>()[w]);
      if (g_weight.defined())
        to_weight[static_cast<size_t>(w)] += given * static_cast<double>(x.as<const T>()[i]);
    });
    if (g_x.defined()) round_to<T>(to_x, g_x);
    if (g_weight.defined()) round_to<T>(to_weight, g_weight);
    if (!g_bias.defined()) return;
    const Shape& sg = *g.shape;
    std::vector<double> to_bias(static_cast<size_t>(sg[1]));
    for (int64_t o = 0; o < g.numel(); ++o)
      to_bias[static_cast<size_t>(o / (sg[2] * sg[3]) % sg[1])] +=
          static_cast<double>(g.as<const T>()[o]);
    round_to<T>(to_bias, g_bias);
  });
}

}  // namespace flowgrad::kernels
