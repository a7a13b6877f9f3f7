// Every rung of the matmul ladder against a sum in double.
#include "flowgrad/kernels/cuda/ladder/ladder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "gpu/support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;

namespace {

using Size = std::array<int, 3>;

bool runs_here(const cuda::LadderRung& rung) { return rung.runs_on(gpu::device_info(0)); }

/// c of a rung, between two guard zones that must stay as they were.
std::vector<float> result_of(const cuda::LadderRung& rung, const DeviceArray<float>& a,
                             const DeviceArray<float>& b, const Size& size) {
  const auto [m, n, k] = size;
  constexpr std::size_t kGuard = 64;
  const std::size_t length = static_cast<std::size_t>(m) * static_cast<std::size_t>(n);
  const std::vector<float> before(length + 2 * kGuard, -12345.0f);
  const DeviceArray<float> c(before);
  rung.run(a.get(), b.get(), c.get() + kGuard, m, n, k, gpu::default_stream());
  const std::vector<float> after = c.values();
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (after[i] != before[i] || after[kGuard + length + i] != before[i])
      FAIL("wrote outside of c, " << i << " elements into a guard zone");
  }
  return {after.begin() + kGuard, after.end() - kGuard};
}

/// Worst |c - a b| / (|a| |b|); NaN and elements that nobody wrote included.
double error_of(const std::vector<float>& a, const std::vector<float>& b,
                const std::vector<float>& c, const Size& size) {
  const auto [m, n, k] = size;
  double worst = 0;
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int l = 0; l < k; ++l) {
        const double x = static_cast<double>(a[static_cast<std::size_t>(i * k + l)]) *
                         static_cast<double>(b[static_cast<std::size_t>(l * n + j)]);
        sum += x, magnitude += std::abs(x);
      }
      const double got = static_cast<double>(c[static_cast<std::size_t>(i * n + j)]);
      const double error = std::abs(got - sum) / (magnitude + 1e-300);
      if (!(error <= worst)) worst = error;
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("every rung multiplies, at sizes around each tile edge", "[ladder_test]") {
  const std::vector<Size> sizes{{1, 1, 1},      {7, 9, 5},      {31, 33, 32},   {32, 32, 33},
                                {65, 64, 8},    {63, 65, 31},   {128, 128, 16}, {127, 129, 17},
                                {129, 127, 64}, {4, 260, 12},   {260, 4, 20},   {64, 72, 136},
                                {5, 8, 300},    {130, 136, 40}, {16, 16, 0},    {1, 300, 129},
                                {600, 4, 200}};  // more tiles than the emulator has multiprocessors
  for (const Size& size : sizes) {
    const auto [m, n, k] = size;
    const std::vector<float> a = random_floats(static_cast<std::size_t>(m * k), 1);
    const std::vector<float> b = random_floats(static_cast<std::size_t>(k * n), 2);
    const DeviceArray<float> da(a), db(b);
    for (const cuda::LadderRung& rung : cuda::matmul_ladder()) {
      if (!runs_here(rung)) continue;
      CAPTURE(rung.number, rung.name, m, n, k);
      const std::vector<float> c = result_of(rung, da, db, size);
      REQUIRE(error_of(a, b, c, size) <= rung.tolerance);
      REQUIRE((result_of(rung, da, db, size) == c));
    }
    REQUIRE((da.values() == a));
    REQUIRE((db.values() == b));
  }
}

TEST_CASE("a deep product in two parts of TF32 keeps its digits", "[ladder_test]") {
  // The matrix units cut sums off: of terms of one sign, each step would lose the same way.
  const Size size{2, 4, 1024};
  std::vector<float> a = random_floats(2 * 1024, 1), b = random_floats(1024 * 4, 2);
  for (float& x : a) x = std::abs(x);
  for (float& x : b) x = std::abs(x);
  const DeviceArray<float> da(a), db(b);
  for (const cuda::LadderRung& rung : cuda::matmul_ladder()) {
    if (rung.run != cuda::ladder::tf32_thrice || !runs_here(rung)) continue;
    CHECK(error_of(a, b, result_of(rung, da, db, size), size) <= rung.tolerance);
  }
}

TEST_CASE("the rung that the copy engine feeds sums every chunk by itself", "[ladder_test]") {
  // The second chunk adds up to 2^24, where single ones are lost and a chunk of them is not.
  const Size size{3, 4, 512};
  std::vector<float> b(4 * 512, 1.0f);
  std::fill(b.begin() + 4 * 128, b.begin() + 4 * 256, 0x1p17f);
  const DeviceArray<float> da(std::vector<float>(3 * 512, 1.0f)), db(b);
  const auto rungs = cuda::matmul_ladder();
  const auto rung = std::ranges::find(rungs, &cuda::ladder::tma, &cuda::LadderRung::run);
  REQUIRE(rung != rungs.end());
  if (!runs_here(*rung)) return;
  CHECK(result_of(*rung, da, db, size) == std::vector<float>(3 * 4, 0x1p24f + 384));
}

TEST_CASE("the rungs are numbered and do nothing where there is nothing to do", "[ladder_test]") {
  int number = 0;
  for (const cuda::LadderRung& rung : cuda::matmul_ladder()) {
    CHECK(rung.number == ++number);
    if (!runs_here(rung)) continue;
    const DeviceArray<float> x(std::vector<float>(16, 1.0f));
    rung.run(x.get(), x.get(), x.get(), 0, 4, 4, gpu::default_stream());
    rung.run(x.get(), x.get(), x.get(), 4, 0, 4, gpu::default_stream());
    CHECK(x.values() == std::vector<float>(16, 1.0f));
  }
}

TEST_CASE("NaN and infinity reach their rows and no others", "[ladder_test]") {
  const Size size{6, 40, 36};
  std::vector<float> a = random_floats(6 * 36, 3);
  a[2 * 36 + 7] = std::numeric_limits<float>::quiet_NaN();
  a[4 * 36 + 35] = std::numeric_limits<float>::infinity();
  const DeviceArray<float> da(a), db(random_floats(36 * 40, 4));
  for (const cuda::LadderRung& rung : cuda::matmul_ladder()) {
    if (!runs_here(rung)) continue;
    CAPTURE(rung.number, rung.name);
    const std::vector<float> c = result_of(rung, da, db, size);
    for (std::size_t i = 0; i < c.size(); ++i) {
      const bool special = i / 40 == 2 || i / 40 == 4;
      REQUIRE(std::isfinite(c[i]) == !special);
    }
  }
}
