// Every rung of the CPU's matmul ladder against a sum in double, at each instruction set.
#include "flowgrad/kernels/cpu/ladder.h"

#include <array>
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels::cpu;
using namespace flowgrad::testing;

namespace {

using Size = std::array<int64_t, 3>;

std::vector<float> random_floats(int64_t n, uint64_t seed) {
  Dice dice(seed);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = static_cast<float>(dice.real(-1, 1));
  return out;
}

/// Worst |c - a b| / (|a| |b|) of a rung; infinite where it writes outside of c or not at all.
double error_of(const LadderRung& rung, const Size& size) {
  const auto [m, n, k] = size;
  const std::vector<float> a = random_floats(m * k, 1), b = random_floats(k * n, 2);
  constexpr int64_t kGuard = 64;
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  std::vector<float> c(static_cast<size_t>(m * n + 2 * kGuard), NAN);
  rung.run(a.data(), b.data(), c.data() + kGuard, m, n, k);
  double worst = 0;
  for (int64_t i = 0; i < kGuard; ++i) {
    if (!std::isnan(c[static_cast<size_t>(i)])) return kWrong;
    if (!std::isnan(c[static_cast<size_t>(kGuard + m * n + i)])) return kWrong;
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double x =
            double{a[static_cast<size_t>(i * k + l)]} * double{b[static_cast<size_t>(l * n + j)]};
        sum += x, magnitude += std::abs(x);
      }
      const double error =
          std::abs(double{c[static_cast<size_t>(kGuard + i * n + j)]} - sum) / (magnitude + 1e-300);
      if (!(error <= worst)) worst = std::isnan(error) ? kWrong : error;
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("every rung multiplies, at sizes around each tile's edge", "[ladder_test]") {
  const Size sizes[] = {{0, 3, 4},     {3, 0, 4},     {2, 3, 0},     {1, 1, 1},
                        {5, 31, 7},    {6, 32, 16},   {12, 33, 129}, {13, 16, 257},
                        {11, 17, 300}, {25, 64, 512}, {3, 513, 64},  {40, 520, 130}};
  const CpuSettings settings;
  for (const std::string& name : instruction_sets()) {
    set_isa(name.c_str());
    for (const LadderRung& rung : matmul_ladder()) {
      for (const Size& size : sizes) {
        INFO(name << ", rung " << rung.number << " " << rung.name << ", (m, n, k) = " << size[0]
                  << ", " << size[1] << ", " << size[2]);
        CHECK(error_of(rung, size) <= 1e-6);
      }
    }
  }
}
