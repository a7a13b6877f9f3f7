#include <algorithm>
#include <cmath>

#include "catch.hpp"
#include "flowgrad/core/normal.h"
#include "kernels/reference_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;
using Catch::Matchers::WithinAbs;

namespace {

V draw(RandomKind kind, const Shape& shape, DType dtype, Params params, uint64_t stream = 3) {
  const Tensor out = Tensor::empty(shape, dtype);
  be.random(kind, 2026, stream, params, out);
  return out.to_vector<double>();
}

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0;
};
Moments moments(const V& v) {
  Moments m;
  const auto n = static_cast<double>(v.size());
  for (double x : v) m.mean += x / n;
  for (double x : v) m.variance += (x - m.mean) * (x - m.mean) / n;
  const double s = std::sqrt(m.variance);
  for (double x : v) m.skew += std::pow((x - m.mean) / s, 3) / n;
  for (double x : v) m.kurtosis += std::pow((x - m.mean) / s, 4) / n;
  return m;
}

/// Largest distance of the empirical distribution from F, times sqrt(n): below 1.95 with p = 0.999.
template <class F>
double kolmogorov(V v, F&& cdf) {
  std::sort(v.begin(), v.end());
  const auto n = static_cast<double>(v.size());
  double most = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const double f = cdf(v[i]);
    most = std::max({most, std::abs(f - static_cast<double>(i) / n),
                     std::abs(f - static_cast<double>(i + 1) / n)});
  }
  return most * std::sqrt(n);
}

constexpr int64_t kMany = 200000;
const std::vector<RandomKind> kKinds{RandomKind::uniform, RandomKind::normal, RandomKind::bernoulli,
                                     RandomKind::rademacher, RandomKind::integer};
const std::vector<DType> kFloating{DType::float32, DType::float64};

}  // namespace

TEST_CASE("normals have the moments and the distribution of a normal", "[reference_random_test]") {
  for (DType dtype : kFloating) {
    const V z = draw(RandomKind::normal, {kMany}, dtype, {0, 1});
    const Moments m = moments(z);
    const double se = 1 / std::sqrt(static_cast<double>(kMany));
    CHECK_THAT(m.mean, WithinAbs(0, 4 * se));
    CHECK_THAT(m.variance, WithinAbs(1, 4 * se * std::sqrt(2.0)));
    CHECK_THAT(m.skew, WithinAbs(0, 4 * se * std::sqrt(6.0)));
    CHECK_THAT(m.kurtosis, WithinAbs(3, 4 * se * std::sqrt(24.0)));
    CHECK(kolmogorov(z, [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }) < 1.95);
    for (size_t lag : {size_t{1}, size_t{2}, size_t{4}}) {
      double products = 0;
      for (size_t i = lag; i < z.size(); ++i) products += z[i] * z[i - lag];
      CHECK_THAT(products / static_cast<double>(kMany), WithinAbs(0, 4 * se));
    }
    const V shifted = draw(RandomKind::normal, {8}, dtype, {10, 0.5});
    for (size_t i = 0; i < shifted.size(); ++i)
      CHECK_THAT(shifted[i], WithinAbs(10 + 0.5 * z[i], 2e-6));
  }
}

TEST_CASE("uniforms stay inside their half-open interval", "[reference_random_test]") {
  for (DType dtype : kFloating) {
    const V u = draw(RandomKind::uniform, {kMany}, dtype, {-3, 5});
    CHECK(kolmogorov(u, [](double x) { return (x + 3) / 8; }) < 1.95);
    CHECK(*std::min_element(u.begin(), u.end()) >= -3);
    CHECK(*std::max_element(u.begin(), u.end()) < 5);
  }
  // The interval holds a single float32 besides its end.
  const double next = 1.0 + std::pow(2.0, -23);
  for (double x : draw(RandomKind::uniform, {1000}, DType::float32, {1, next})) CHECK(x == 1.0);
}

TEST_CASE("discrete draws", "[reference_random_test]") {
  const double n = static_cast<double>(kMany);
  const V coins = draw(RandomKind::bernoulli, {kMany}, DType::float32, {0.3, 0});
  CHECK_THAT(moments(coins).mean, WithinAbs(0.3, 4 * std::sqrt(0.21 / n)));
  CHECK(std::all_of(coins.begin(), coins.end(), [](double x) { return x == 0 || x == 1; }));
  for (DType dtype : {DType::boolean, DType::int64, DType::float64}) {
    CHECK(draw(RandomKind::bernoulli, {kMany}, dtype, {0.3, 0}) == coins);
  }
  CHECK(moments(draw(RandomKind::bernoulli, {1000}, DType::float32, {0, 0})).mean == 0);
  CHECK_THAT(moments(draw(RandomKind::bernoulli, {1000}, DType::float32, {1, 0})).mean,
             WithinAbs(1, 1e-12));

  const V signs = draw(RandomKind::rademacher, {kMany}, DType::float32, {});
  CHECK(std::all_of(signs.begin(), signs.end(), [](double x) { return x == 1 || x == -1; }));
  CHECK_THAT(moments(signs).mean, WithinAbs(0, 4 / std::sqrt(n)));
  CHECK(draw(RandomKind::rademacher, {kMany}, DType::float64, {}) == signs);

  const V dice = draw(RandomKind::integer, {kMany}, DType::int64, {-2, 5});
  std::vector<int> counts(7);
  for (double x : dice) {
    REQUIRE((x >= -2 && x < 5));
    ++counts[static_cast<size_t>(x + 2)];
  }
  for (int c : counts) CHECK_THAT(c / n, WithinAbs(1.0 / 7, 4 * std::sqrt(6.0 / 49 / n)));
}

TEST_CASE("element i depends on i alone", "[reference_random_test]") {
  for (RandomKind kind : kKinds) {
    for (DType dtype : kFloating) {
      const Params params{0.25, 7};
      const V all = draw(kind, {3, 5, 7}, dtype, params);
      const V first = draw(kind, {13}, dtype, params);
      CHECK(std::equal(first.begin(), first.end(), all.begin()));
      const Tensor odd = strided(Tensor::empty({3, 5, 7}, dtype), 11);
      be.random(kind, 2026, 3, params, odd);
      CHECK(odd.to_vector<double>() == all);
      CHECK(draw(kind, {0}, dtype, params).empty());
      CHECK(draw(kind, {3, 5, 7}, dtype, params, 4) != all);
    }
  }
}

TEST_CASE("both CPU backends draw the same bits", "[reference_random_test]") {
  const CpuBackend before = cpu_backend();
  set_cpu_backend(CpuBackend::fast);
  for (RandomKind kind : kKinds) {
    for (DType dtype : kFloating) {
      for (const Shape& shape : {Shape{}, Shape{3}, Shape{17, 1, 61}, Shape{100003}}) {
        const Tensor out = Tensor::empty(shape, dtype);
        backend(Device::cpu()).random(kind, 2026, 3, {0.25, 7}, out);
        CHECK(out.to_vector<double>() == draw(kind, shape, dtype, {0.25, 7}));
      }
    }
  }
  set_cpu_backend(before);
}

TEST_CASE("draws at an index match the tensors", "[reference_random_test]") {
  const V z = draw(RandomKind::normal, {9}, DType::float64, {0, 1});
  const V u = draw(RandomKind::uniform, {9}, DType::float64, {0, 1});
  const V k = draw(RandomKind::integer, {9}, DType::int64, {0, 1000});
  for (size_t i = 0; i < z.size(); ++i) {
    CHECK(normal_at(2026, 3, i) == z[i]);
    CHECK(uniform_at(2026, 3, i) == u[i]);
    CHECK(static_cast<double>(integer_at(2026, 3, i, 1000)) == k[i]);
  }
  // The words of a float32 draw: block i / 4, word i % 4.
  const V f = draw(RandomKind::uniform, {8}, DType::float32, {0, 1});
  for (uint64_t i = 0; i < 8; ++i) {
    CHECK(f[i] == static_cast<double>(uniform24(Philox::block(2026, 3, i / 4)[i % 4])));
  }
}

TEST_CASE("random draws refuse what they cannot fill", "[reference_random_test]") {
  CHECK_THROWS_WITH(draw(RandomKind::normal, {2}, DType::int64, {0, 1}),
                    "randn: dtype int64 given; float32 and float64 are accepted");
  CHECK_THROWS_AS(draw(RandomKind::integer, {2}, DType::boolean, {0, 2}), DTypeError);
  CHECK_THROWS_AS(draw(RandomKind::rademacher, {2}, DType::boolean, {}), DTypeError);
}
