#include <cmath>
#include <vector>

#include "flowgrad/kernels/functions.h"
#include "flowgrad/kernels/planar_root.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

namespace {

/// s of one element, with the direction's sign, and its derivative by the net's output.
struct LogScale {
  double value, slope;
};

LogScale log_scale_of(const Coupling& c, double scale) {
  const double sign = c.inverse ? -1 : 1;
  if (c.bound == 0) return {sign * scale, sign};
  const double h = std::tanh(scale / c.bound);
  return {sign * c.bound * h, sign * (1 - h * h)};
}

}  // namespace

void ReferenceBackend::coupling(const Coupling& c, View z, View out, View log_det) {
  visit_floating("coupling", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t n = (*z.shape)[0];
    const int64_t d = (*z.shape)[1];
    for (int64_t row = 0; row < n; ++row) {
      double sum = 0;
      for (int64_t j = 0; j < d; ++j) {
        const int64_t i = row * d + j;
        out.as<T>()[i] = z.as<const T>()[i];
        if (c.mask.as<const T>()[j] != T(0)) continue;
        const auto x = static_cast<double>(z.as<const T>()[i]);
        const auto shift = static_cast<double>(c.shift.as<const T>()[i]);
        const double s = log_scale_of(c, static_cast<double>(c.scale.as<const T>()[i])).value;
        out.as<T>()[i] =
            static_cast<T>(c.inverse ? (x - shift) * std::exp(s) : x * std::exp(s) + shift);
        sum += s;
      }
      log_det.as<T>()[row] = static_cast<T>(sum);
    }
  });
}

void ReferenceBackend::coupling_grad(const Coupling& c, View z, View g, View g_log_det, View g_z,
                                     View g_scale, View g_shift) {
  visit_floating("coupling_grad", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t d = (*z.shape)[1];
    for (int64_t i = 0; i < z.numel(); ++i) {
      g_z.as<T>()[i] = g.as<const T>()[i];
      g_scale.as<T>()[i] = g_shift.as<T>()[i] = T(0);
      if (c.mask.as<const T>()[i % d] != T(0)) continue;
      const auto x = static_cast<double>(z.as<const T>()[i]);
      const auto shift = static_cast<double>(c.shift.as<const T>()[i]);
      const LogScale s = log_scale_of(c, static_cast<double>(c.scale.as<const T>()[i]));
      const double to_z = static_cast<double>(g.as<const T>()[i]) * std::exp(s.value);
      const double to_s =
          to_z * (c.inverse ? x - shift : x) + static_cast<double>(g_log_det.as<const T>()[i / d]);
      g_z.as<T>()[i] = static_cast<T>(to_z);
      g_scale.as<T>()[i] = static_cast<T>(to_s * s.slope);
      g_shift.as<T>()[i] = c.inverse ? static_cast<T>(-to_z) : g.as<const T>()[i];
    }
  });
}

namespace {

/// The weights in double.
struct StackedLayers {
  int64_t n, d;
  std::vector<double> w, b, u, margin;

  template <class T>
  StackedLayers(const PlanarStack& p, T) : n((*p.w.shape)[0]), d((*p.w.shape)[1]) {
    w.assign(p.w.as<const T>(), p.w.as<const T>() + n * d);
    b.assign(p.b.as<const T>(), p.b.as<const T>() + n);
    u.assign(p.u.as<const T>(), p.u.as<const T>() + n * d);
    margin.assign(p.margin.as<const T>(), p.margin.as<const T>() + n);
  }
  const double* w_of(int64_t i) const { return w.data() + i * d; }
  const double* u_of(int64_t i) const { return u.data() + i * d; }
};

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void ReferenceBackend::planar(const PlanarStack& stack, View z, View out, View log_det,
                              View heights) {
  visit_floating("planar", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const StackedLayers p(stack, T());
    const int64_t rows = (*z.shape)[0];
    const double sign = stack.inverse ? -1 : 1;
    for (int64_t row = 0; row < rows; ++row) {
      const T* from = z.as<const T>() + row * p.d;
      std::vector<double> x(from, from + p.d);
      double sum = 0;
      for (int64_t step = 0; step < p.n; ++step) {
        const int64_t i = stack.inverse ? p.n - 1 - step : step;
        const double m = p.margin[static_cast<size_t>(i)];
        const double a = p.b[static_cast<size_t>(i)] + dot(p.w_of(i), x.data(), p.d);
        const double h = std::tanh(stack.inverse ? planar_root(a, m - 1) : a);
        for (int64_t j = 0; j < p.d; ++j) x[static_cast<size_t>(j)] += sign * h * p.u_of(i)[j];
        sum += sign * std::log(h * h + (1 - h * h) * m);
        if (heights.defined()) heights.as<T>()[i * rows + row] = static_cast<T>(h);
      }
      for (int64_t j = 0; j < p.d; ++j) {
        out.as<T>()[row * p.d + j] = static_cast<T>(x[static_cast<size_t>(j)]);
      }
      log_det.as<T>()[row] = static_cast<T>(sum);
    }
  });
}

void ReferenceBackend::planar_grad(const PlanarStack& stack, View z, View heights, View g,
                                   View g_log_det, View g_z, View g_weights) {
  visit_floating("planar_grad", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const StackedLayers p(stack, T());
    const int64_t rows = (*z.shape)[0];
    const double sign = stack.inverse ? -1 : 1;
    const auto size = static_cast<size_t>(p.d);
    std::vector<double> sums(static_cast<size_t>(p.n * (2 * p.d + 2)));
    double* const to_b = sums.data() + p.n * p.d;
    double* const to_u = to_b + p.n;
    double* const to_margin = to_u + p.n * p.d;
    for (int64_t row = 0; row < rows; ++row) {
      const auto height = [&](int64_t i) {
        return static_cast<double>(heights.as<const T>()[i * rows + row]);
      };
      const auto layer = [&](int64_t step) { return stack.inverse ? p.n - 1 - step : step; };
      const T* from = z.as<const T>() + row * p.d;
      std::vector<std::vector<double>> x = {std::vector<double>(from, from + p.d)};
      for (int64_t step = 0; step + 1 < p.n; ++step) {
        x.push_back(x.back());
        for (size_t j = 0; j < size; ++j) {
          x.back()[j] += sign * height(layer(step)) * p.u_of(layer(step))[j];
        }
      }
      const T* given = g.as<const T>() + row * p.d;
      std::vector<double> gx(given, given + p.d);
      const auto gl = static_cast<double>(g_log_det.as<const T>()[row]);
      for (int64_t step = p.n - 1; step >= 0; --step) {
        const int64_t i = layer(step);
        const double h = height(i);
        const double q = 1 - h * h;
        const double m = p.margin[static_cast<size_t>(i)];
        const double f = h * h + q * m;  // the layer's determinant
        const double to_h = sign * (dot(p.u_of(i), gx.data(), p.d) + gl * 2 * h * (1 - m) / f);
        // Implicit differentiation of the root s: ds/da = 1 / f, ds/dm = -h / f.
        const double to_a = to_h * q / (stack.inverse ? f : 1);
        to_margin[i] += sign * gl * q / f - (stack.inverse ? to_a * h : 0);
        to_b[i] += to_a;
        for (int64_t j = 0; j < p.d; ++j) {
          const auto at = static_cast<size_t>(j);
          sums[static_cast<size_t>(i * p.d + j)] += to_a * x[static_cast<size_t>(step)][at];
          to_u[i * p.d + j] += sign * h * gx[at];
          gx[at] += to_a * p.w_of(i)[j];
        }
      }
      for (size_t j = 0; j < size; ++j) {
        g_z.as<T>()[row * p.d + static_cast<int64_t>(j)] = static_cast<T>(gx[j]);
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) g_weights.as<T>()[i] = static_cast<T>(sums[i]);
  });
}

}  // namespace flowgrad::kernels
