#include "flowgrad/tasks/toy_densities.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/core/normal.h"

namespace flowgrad::toy {
namespace {

constexpr double kPi = 3.14159265358979323846;

struct Point {
  double x, y;
};

/// The random numbers of one point. Each point owns four counters of the stream, whatever it uses.
class Source {
 public:
  Source(uint64_t seed, uint64_t stream, uint64_t point)
      : seed_(seed), stream_(stream), first_(4 * point) {}

  /// Two uniforms in [0, 1); k is 0 or 1.
  Point uniforms(uint64_t k) const {
    const Philox::Block w = Philox::block(seed_, stream_, first_ + k);
    return {uniform53(w[0], w[1]), uniform53(w[2], w[3])};
  }
  /// Two standard normals.
  Point normals() const {
    const Philox::Block w = Philox::block(seed_, stream_, first_ + 2);
    const auto z = normal::box_muller64<double>(normal::join(w[0], w[1]), normal::join(w[2], w[3]));
    return {z.first, z.second};
  }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t first_;
};

/// Uniform integer in [0, count) from a uniform in [0, 1).
int pick(double u, int count) { return static_cast<int>(u * count); }

Point moons(const Source& source) {
  const auto [u, half] = source.uniforms(0);
  const auto [n0, n1] = source.normals();
  const double angle = kPi * u;
  const bool outer = half < 0.5;
  const double x = outer ? std::cos(angle) : 1.0 - std::cos(angle);
  const double y = outer ? std::sin(angle) : 0.5 - std::sin(angle);
  return {2.0 * (x + 0.1 * n0) - 1.0, 2.0 * (y + 0.1 * n1) - 0.2};
}

Point circles(const Source& source) {
  const auto [u, half] = source.uniforms(0);
  const auto [n0, n1] = source.normals();
  const double angle = 2.0 * kPi * u;
  const double radius = half < 0.5 ? 1.0 : 0.5;
  return {3.0 * (radius * std::cos(angle) + 0.08 * n0),
          3.0 * (radius * std::sin(angle) + 0.08 * n1)};
}

Point rings(const Source& source) {
  const auto [u, ring] = source.uniforms(0);
  const auto [n0, n1] = source.normals();
  const double angle = 2.0 * kPi * u;
  const double radius = 3.0 * 0.25 * (1 + pick(ring, 4));
  return {radius * std::cos(angle) + 0.08 * n0, radius * std::sin(angle) + 0.08 * n1};
}

Point swissroll(const Source& source) {
  const auto [n0, n1] = source.normals();
  const double t = 1.5 * kPi * (1.0 + 2.0 * source.uniforms(0).x);
  return {(t * std::cos(t) + n0) / 5.0, (t * std::sin(t) + n1) / 5.0};
}

Point eight_gaussians(const Source& source) {
  const auto [n0, n1] = source.normals();
  const double angle = 0.25 * kPi * pick(source.uniforms(0).x, 8);
  // 1.414 and not the square root of 2, as in the original.
  return {(4.0 * std::cos(angle) + 0.5 * n0) / 1.414, (4.0 * std::sin(angle) + 0.5 * n1) / 1.414};
}

Point pinwheel(const Source& source) {
  const auto [n0, n1] = source.normals();
  const double along = 1.0 + 0.3 * n0;
  const double across = 0.1 * n1;
  const double angle = 2.0 * kPi / 5.0 * pick(source.uniforms(0).x, 5) + 0.25 * std::exp(along);
  return {2.0 * (along * std::cos(angle) + across * std::sin(angle)),
          2.0 * (-along * std::sin(angle) + across * std::cos(angle))};
}

Point two_spirals(const Source& source) {
  const auto [u, arm] = source.uniforms(0);
  const auto [v0, v1] = source.uniforms(1);
  const auto [n0, n1] = source.normals();
  const double n = std::sqrt(u) * 3.0 * kPi;
  const double sign = arm < 0.5 ? 1.0 : -1.0;
  return {sign * (-std::cos(n) * n + 0.5 * v0) / 3.0 + 0.1 * n0,
          sign * (std::sin(n) * n + 0.5 * v1) / 3.0 + 0.1 * n1};
}

Point checkerboard(const Source& source) {
  const auto [u0, u1] = source.uniforms(0);
  const double x = 4.0 * u0 - 2.0;
  const double row = pick(source.uniforms(1).x, 2) * 2.0;
  const double column = std::floor(x);
  const double shift = column - 2.0 * std::floor(column / 2.0);
  return {2.0 * x, 2.0 * (u1 - row + shift)};
}

/// sqrt of the variance 0.1 passed as a covariance: the standard deviation is 0.1^(1/4).
Point torchcfm_eight_gaussians(const Source& source) {
  const auto [n0, n1] = source.normals();
  const double angle = 0.25 * kPi * pick(source.uniforms(0).x, 8);
  const double std = std::sqrt(std::sqrt(0.1));
  return {5.0 * std::cos(angle) + std * n0, 5.0 * std::sin(angle) + std * n1};
}

/// The noise is uniform and the same for both coordinates: a shift along the diagonal.
Point torchcfm_moons(const Source& source) {
  const auto [u, half] = source.uniforms(0);
  const double shift = 0.2 * source.uniforms(1).x;
  const double angle = kPi * u;
  const bool outer = half < 0.5;
  const double x = outer ? std::cos(angle) : 1.0 - std::cos(angle);
  const double y = outer ? std::sin(angle) : 0.5 - std::sin(angle);
  return {3.0 * (x + shift) - 1.0, 3.0 * (y + shift) - 1.0};
}

struct Density {
  const char* name;
  Point (*draw)(const Source&);
  double entropy;
};

// Entropies by quadrature of the exact densities, as tests/tasks repeats it on a coarser grid.
constexpr Density kDensities[] = {
    {"moons", moons, 2.39393},
    {"circles", circles, 3.26814},
    {"rings", rings, 2.62318},
    {"swissroll", swissroll, 2.66973},
    {"8gaussians", eight_gaussians, 2.83188},
    {"pinwheel", pinwheel, 2.31779},
    {"2spirals", two_spirals, 2.64547},
    {"checkerboard", checkerboard, 3.46574},  // ln 32
    {"torchcfm-8gaussians", torchcfm_eight_gaussians, 3.76409},
    {"torchcfm-moons", torchcfm_moons, 2.04783},
};

const Density& find(const char* op, const std::string& name) {
  for (const Density& density : kDensities) {
    if (name == density.name) return density;
  }
  throw ValueError(
      fmt::format("{}: name is '{}'; accepted are {}", op, name, fmt::join(names(), ", ")));
}

}  // namespace

const std::vector<std::string>& names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> out;
    for (const Density& density : kDensities) out.emplace_back(density.name);
    return out;
  }();
  return all;
}

Tensor sample(const std::string& name, int64_t n, Generator& generator, DType dtype) {
  const Density& density = find("toy::sample", name);
  if (n < 0) throw ValueError(fmt::format("toy::sample: n is {}; accepted is n >= 0", n));
  return visit_floating("toy::sample", dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Tensor out = Tensor::empty({n, 2}, dtype);
    T* data = out.data<T>();
    const uint64_t stream = generator.next_stream();
    for (int64_t i = 0; i < n; ++i) {
      const Point p = density.draw(Source(generator.seed(), stream, static_cast<uint64_t>(i)));
      data[2 * i] = static_cast<T>(p.x);
      data[2 * i + 1] = static_cast<T>(p.y);
    }
    return out;
  });
}

double entropy_floor(const std::string& name) { return find("toy::entropy_floor", name).entropy; }

}  // namespace flowgrad::toy
