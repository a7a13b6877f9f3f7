// Affine couplings and planar stacks of the fast backend against the reference loops, and those
// against the textbook's formulas.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/planar_root.h"
#include "flowgrad/kernels/reference/reference.h"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

Tensor array(const std::vector<double>& v, const Shape& shape, DType dtype) {
  return Tensor::from(v, shape, dtype);
}

Tensor alternating(int64_t d, DType dtype) {
  std::vector<double> mask;
  for (int64_t j = 0; j < d; ++j) mask.push_back(j % 2 == 0 ? 1 : 0);
  return Tensor::from(mask, {d}, dtype);
}

/// {out, log_det, g_z, g_scale, g_shift} of a coupling of seeded values.
std::vector<Tensor> coupled(Backend& on, int64_t n, int64_t d, double bound, bool inverse,
                            DType dtype) {
  const Tensor z = values({n, d}, dtype, 1), scale = values({n, d}, dtype, 2),
               shift = values({n, d}, dtype, 3), mask = alternating(d, dtype),
               g = values({n, d}, dtype, 4), g_log_det = values({n}, dtype, 5);
  const Coupling c{scale, shift, mask, bound, inverse};
  std::vector<Tensor> r = {nothing({n, d}, dtype), nothing({n}, dtype), nothing({n, d}, dtype),
                           nothing({n, d}, dtype), nothing({n, d}, dtype)};
  on.coupling(c, z, r[0], r[1]);
  on.coupling_grad(c, z, g, g_log_det, r[2], r[3], r[4]);
  return r;
}

/// 1 + w.u of every layer.
Tensor margin_of(const Tensor& w, const Tensor& u) {
  const std::vector<double> a = w.to_vector<double>(), b = u.to_vector<double>();
  std::vector<double> margin(static_cast<size_t>(w.size(0)), 1.0);
  for (size_t i = 0; i < a.size(); ++i) margin[i / static_cast<size_t>(w.size(1))] += a[i] * b[i];
  return array(margin, {w.size(0)}, w.dtype());
}

/// {out, log_det, heights, g_z, g_weights} of a stack of seeded values, w.u > -1.
std::vector<Tensor> stacked(Backend& on, int64_t n, int64_t d, int64_t k, bool inverse,
                            DType dtype) {
  const double size = 1 / std::sqrt(static_cast<double>(d));
  const Tensor w = values({k, d}, dtype, 1, -size, size), b = values({k}, dtype, 2),
               u = values({k, d}, dtype, 3, -size, size), z = values({n, d}, dtype, 4),
               g = values({n, d}, dtype, 5), g_log_det = values({n}, dtype, 6);
  const Tensor margin = margin_of(w, u);
  const PlanarStack p{w, b, u, margin, inverse};
  std::vector<Tensor> r = {nothing({n, d}, dtype), nothing({n}, dtype), nothing({k, n}, dtype),
                           nothing({n, d}, dtype), nothing({2 * k * (d + 1)}, dtype)};
  on.planar(p, z, r[0], r[1], r[2]);
  on.planar_grad(p, z, r[2], g, g_log_det, r[3], r[4]);
  return r;
}

/// Largest difference over the largest element; infinite for NaN.
double scaled_error(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double error = 0, size = 1;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) || std::isnan(y[i])) return HUGE_VAL;
    error = std::max(error, std::abs(x[i] - y[i]));
    size = std::max(size, std::abs(y[i]));
  }
  return error / size;
}

void agree(const std::vector<Tensor>& got, const std::vector<Tensor>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    INFO("result " << i);
    CHECK(scaled_error(got[i], want[i]) < (got[i].dtype() == DType::float32 ? 4e-6 : 2e-14));
  }
}

template <class F>
void on_every_instruction_set(F&& f) {
  each_instruction_set([&] { f(); });
}

}  // namespace

TEST_CASE("fast couplings equal the reference loops", "[flow_test]") {
  on_every_instruction_set([] {
    for (const DType dtype : {DType::float32, DType::float64}) {
      for (const auto& [n, d] : std::vector<std::pair<int64_t, int64_t>>{
               {0, 2}, {1, 1}, {3, 2}, {17, 3}, {5, 16}, {33, 64}, {2, 5000}, {3000, 7}, {4, 0}}) {
        for (const double bound : {0.0, 3.0}) {
          for (const bool inverse : {false, true}) {
            INFO(name_of(dtype) << " " << n << " x " << d << " bound " << bound << " " << inverse);
            agree(coupled(fast_cpu_backend(), n, d, bound, inverse, dtype),
                  coupled(reference_backend(), n, d, bound, inverse, dtype));
          }
        }
      }
    }
  });
}

TEST_CASE("fast planar stacks equal the reference loops", "[flow_test]") {
  on_every_instruction_set([] {
    for (const DType dtype : {DType::float32, DType::float64}) {
      for (const auto& [n, d, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
               {0, 2, 3}, {1, 1, 1}, {3, 2, 10}, {17, 3, 2}, {33, 64, 3}, {1300, 5, 4}}) {
        for (const bool inverse : {false, true}) {
          INFO(name_of(dtype) << " " << n << " x " << d << ", " << k << " layers " << inverse);
          agree(stacked(fast_cpu_backend(), n, d, k, inverse, dtype),
                stacked(reference_backend(), n, d, k, inverse, dtype));
        }
      }
    }
  });
}

TEST_CASE("a planar stack with w.u = -1 and fewer rows than lanes", "[flow_test]") {
  // Its determinant is 0 where h is: so it must not be in the lanes without a row.
  on_every_instruction_set([] {
    const DType f = DType::float32;
    const Tensor w = array({1, 0}, {1, 2}, f), b = array({0.2}, {1}, f),
                 u = array({-1, 2}, {1, 2}, f), z = array({0.3, 0.1}, {1, 2}, f),
                 heights = array({0.4}, {1, 1}, f), g = array({1, 2}, {1, 2}, f),
                 g_log_det = array({0.5}, {1}, f), margin = array({0}, {1}, f);
    const auto run = [&](Backend& on) {
      std::vector<Tensor> r = {nothing({1, 2}, f), nothing({6}, f)};
      on.planar_grad({w, b, u, margin, false}, z, heights, g, g_log_det, r[0], r[1]);
      return r;
    };
    agree(run(fast_cpu_backend()), run(reference_backend()));
  });
}

TEST_CASE("flow layers have the same bits at any number of threads", "[flow_test]") {
  CpuSettings restore;
  const auto bits = [](int threads) {
    set_num_threads(threads);
    std::string all;
    for (const bool inverse : {false, true}) {
      for (const auto& t : coupled(fast_cpu_backend(), 5000, 5, 3, inverse, DType::float32))
        all += bytes_of(t);
      for (const auto& t : stacked(fast_cpu_backend(), 3000, 3, 4, inverse, DType::float32))
        all += bytes_of(t);
    }
    return all;
  };
  const std::string one = bits(1);
  CHECK(bits(2) == one);
  CHECK(bits(5) == one);
}

TEST_CASE("a row of a flow layer does not depend on its batch", "[flow_test]") {
  // Slow and fast roots side by side: k = -0.95 with rows near and far from the flat place.
  const DType dtype = GENERATE(DType::float32, DType::float64);
  const Tensor w = array({0.95, 0.0}, {1, 2}, dtype), b = array({0.0}, {1}, dtype),
               u = array({-1.0, 2.0}, {1, 2}, dtype), margin = margin_of(w, u);
  const auto row = [&](const Tensor& z) {
    const Tensor out = nothing(z.shape(), dtype), log_det = nothing({z.shape()[0]}, dtype);
    fast_cpu_backend().planar({w, b, u, margin, true}, z, out, log_det, View());
    return std::pair(out.to_vector<double>()[0], log_det.to_vector<double>()[0]);
  };
  std::vector<double> many = {1e-3, 0.5};
  for (int i = 0; i < 40; ++i) many.push_back(i * 0.7 - 9);
  CHECK(row(Tensor::from(many, {21, 2}, dtype)) == row(array({1e-3, 0.5}, {1, 2}, dtype)));
}

TEST_CASE("the reference planar stack inverts itself", "[flow_test]") {
  const Tensor w = values({3, 2}, DType::float64, 1, -0.6, 0.6), b = values({3}, DType::float64, 2),
               u = values({3, 2}, DType::float64, 3, -0.6, 0.6),
               z = values({20, 2}, DType::float64, 4), margin = margin_of(w, u);
  const Tensor x = nothing({20, 2}, DType::float64), back = nothing({20, 2}, DType::float64);
  const Tensor there = nothing({20}, DType::float64), here = nothing({20}, DType::float64);
  reference_backend().planar({w, b, u, margin, false}, z, x, there, View());
  reference_backend().planar({w, b, u, margin, true}, x, back, here, View());
  CHECK(scaled_error(back, z) < 1e-13);
  const auto a = there.to_vector<double>(), c = here.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] + c[i]) < 1e-13);
}

TEST_CASE("a planar layer whose margin is far below its dtype's rounding", "[flow_test]") {
  // w.u rounds to -1: the determinant and its derivatives come from the margin alone.
  on_every_instruction_set([] {
    for (const DType dtype : {DType::float32, DType::float64}) {
      for (const double m : {1e-3, 1e-9, 1e-20}) {
        for (const bool inverse : {false, true}) {
          INFO(name_of(dtype) << " margin " << m << " " << inverse);
          const Tensor w = array({1, 0}, {1, 2}, dtype), b = array({0}, {1}, dtype),
                       u = array({-1, 2}, {1, 2}, dtype), margin = array({m}, {1}, dtype);
          const Tensor z = array({0, 0.1, 1e-4, 0.2, -0.5, 3}, {3, 2}, dtype);
          const auto run = [&](Backend& on) {
            std::vector<Tensor> r = {nothing({3, 2}, dtype), nothing({3}, dtype),
                                     nothing({1, 3}, dtype)};
            on.planar({w, b, u, margin, inverse}, z, r[0], r[1], r[2]);
            return r;
          };
          const std::vector<Tensor> got = run(fast_cpu_backend()), want = run(reference_backend());
          agree(got, want);
          CHECK(got[1].at({0}) == Catch::Approx((inverse ? -1 : 1) * std::log(m)).epsilon(1e-6));
        }
      }
    }
  });
}

TEST_CASE("planar roots at the edges of their equation", "[flow_test]") {
  for (const double k : {-0.999999, -0.5, 0.0, 2.0, 300.0}) {
    for (const double c : {-700.0, -1.0, -1e-9, 0.0, 0.3, 40.0}) {
      const double s = planar_root(c, k);
      CHECK(std::abs(s + k * std::tanh(s) - c) <= 1e-15 * (std::abs(s) + std::abs(k) + 1));
    }
    CHECK(planar_root(HUGE_VAL, k) == HUGE_VAL);
    CHECK(std::isnan(planar_root(NAN, k)));
  }
}

TEST_CASE("what a coupling's mask hides never shows", "[flow_test]") {
  for (Backend* on : {&reference_backend(), &fast_cpu_backend()}) {
    for (const double bound : {0.0, 2.0}) {
      for (const double bad : {-HUGE_VAL, HUGE_VAL, std::nan("")}) {
        INFO(on->name() << " " << bad);
        const DType f = DType::float64;
        const Tensor scale = array({bad, 0.5}, {1, 2}, f), shift = array({bad, 1.0}, {1, 2}, f),
                     mask = alternating(2, f), z = array({3.0, 2.0}, {1, 2}, f);
        std::vector<Tensor> r;
        for (int i = 0; i < 4; ++i) r.push_back(nothing({1, 2}, f));
        const Tensor log_det = nothing({1}, f);
        const Coupling c{scale, shift, mask, bound, false};
        on->coupling(c, z, r[0], log_det);
        on->coupling_grad(c, z, array({1.5, 1.0}, {1, 2}, f), array({1.0}, {1}, f), r[1], r[2],
                          r[3]);
        CHECK(r[0].to_vector<double>()[0] == 3.0);
        CHECK(r[1].to_vector<double>()[0] == 1.5);
        CHECK(r[2].to_vector<double>()[0] == 0.0);
        CHECK(r[3].to_vector<double>()[0] == 0.0);
        for (const Tensor& t : r) CHECK(std::isfinite(t.to_vector<double>()[1]));
        CHECK(std::isfinite(log_det.to_vector<double>()[0]));
      }
    }
  }
}
