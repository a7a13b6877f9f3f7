#include <cmath>
#include <vector>

#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

void ReferenceBackend::layer_norm(const LayerNorm& norm, View x, View out, View statistics) {
  visit_floating("layer_norm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t rows = (*x.shape)[0], n = (*x.shape)[1];
    for (int64_t r = 0; r < rows; ++r) {
      const T* const row = x.as<const T>() + r * n;
      double sum = 0, squares = 0;
      for (int64_t j = 0; j < n; ++j) sum += static_cast<double>(row[j]);
      const double mean = sum / static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j) squares += std::pow(static_cast<double>(row[j]) - mean, 2);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + norm.epsilon);
      statistics.as<double>()[2 * r] = mean;
      statistics.as<double>()[2 * r + 1] = scale;
      for (int64_t j = 0; j < n; ++j) {
        double value = (static_cast<double>(row[j]) - mean) * scale;
        if (norm.weight.defined()) value *= static_cast<double>(norm.weight.as<const T>()[j]);
        if (norm.bias.defined()) value += static_cast<double>(norm.bias.as<const T>()[j]);
        out.as<T>()[r * n + j] = static_cast<T>(value);
      }
    }
  });
}

void ReferenceBackend::layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g,
                                       View g_x, View g_weight, View g_bias) {
  visit_floating("layer_norm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t rows = (*x.shape)[0], n = (*x.shape)[1];
    const auto width = static_cast<size_t>(n);
    std::vector<double> to_weight(width), to_bias(width), h(width), value(width);
    for (int64_t r = 0; r < rows; ++r) {
      const double mean = statistics.as<const double>()[2 * r];
      const double scale = statistics.as<const double>()[2 * r + 1];
      double sum = 0, along = 0;
      for (size_t j = 0; j < width; ++j) {
        const int64_t i = r * n + static_cast<int64_t>(j);
        const auto given = static_cast<double>(g.as<const T>()[i]);
        value[j] = (static_cast<double>(x.as<const T>()[i]) - mean) * scale;
        h[j] = norm.weight.defined() ? given * static_cast<double>(norm.weight.as<const T>()[j])
                                     : given;
        to_weight[j] += given * value[j];
        to_bias[j] += given;
        sum += h[j];
        along += h[j] * value[j];
      }
      for (size_t j = 0; j < width && g_x.defined(); ++j) {
        g_x.as<T>()[r * n + static_cast<int64_t>(j)] =
            static_cast<T>(scale * (h[j] - sum / static_cast<double>(n) -
                                    value[j] * along / static_cast<double>(n)));
      }
    }
    for (size_t j = 0; j < width; ++j) {
      if (g_weight.defined()) g_weight.as<T>()[j] = static_cast<T>(to_weight[j]);
      if (g_bias.defined()) g_bias.as<T>()[j] = static_cast<T>(to_bias[j]);
    }
  });
}

}  // namespace flowgrad::kernels
