// Scans of the CUDA backend against the reference loops.

#include "backend_support.cuh"
#include "flowgrad/kernels/names.h"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const DType kNumeric[] = {DType::float32, DType::float64, DType::int64};
const ScanOp kOps[] = {ScanOp::sum, ScanOp::prod, ScanOp::logsumexp};
const int64_t kLengths[] = {0,   1,   2,   3,    7,    31,   32,   33,  64,
                            255, 256, 257, 1023, 1024, 1025, 2050, 5000};

std::string text(const char* op, const Tensor& x, int axis, bool reverse) {
  return std::string(op) + " of " + name_of(x.dtype()) + " " + x.shape().to_string() + " along " +
         std::to_string(axis) + (reverse ? ", reverse" : "");
}

void check_scan(ScanOp op, const Tensor& x, int axis, bool reverse, uint64_t layout = 0) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  if (layout != 0) out = strided(out, layout);
  same_as_reference(
      text(name_of(op), x, axis, reverse), {out, x}, 1,
      [&](Backend& be, std::vector<View>& v) { be.scan(op, v[1], axis, reverse, v[0]); });
}

void check_extreme(bool maximum, const Tensor& x, int axis, uint64_t layout = 0) {
  Tensor top = Tensor::empty(x.shape(), x.dtype());
  Tensor at = Tensor::empty(x.shape(), DType::int64);
  if (layout != 0) {
    top = strided(top, layout);
    at = strided(at, layout + 1);
  }
  same_as_reference(
      text(maximum ? "cummax" : "cummin", x, axis, false), {top, at, x}, 2,
      [&](Backend& be, std::vector<View>& v) { be.scan_extreme(maximum, v[2], axis, v[0], v[1]); });
}

void check_linear(const Tensor& a, const Tensor& b, int axis, bool reverse, uint64_t layout = 0) {
  Tensor out = Tensor::empty(a.shape(), a.dtype());
  if (layout != 0) out = strided(out, layout);
  same_as_reference(
      text("linear_scan", a, axis, reverse), {out, a, b}, 1,
      [&](Backend& be, std::vector<View>& v) { be.linear_scan(v[1], v[2], axis, reverse, v[0]); });
}

Tensor sample(const Shape& shape, DType dtype, ScanOp op, uint64_t seed) {
  if (op == ScanOp::prod && dtype != DType::int64) return values(shape, dtype, seed, 0.99, 1.01);
  return values(shape, dtype, seed, -5, 5);
}

/// Few distinct values: many ties.
Tensor ties(const Shape& shape, DType dtype, uint64_t seed) {
  Dice dice(seed);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v) x = static_cast<double>(dice.roll(-3, 3));
  return Tensor::from(v, shape, dtype);
}

}  // namespace

TEST_CASE("scans along every axis, any layout, both directions", "[scan_test]") {
  for (const Shape& shape :
       {Shape{}, Shape{9}, Shape{40, 3}, Shape{3, 0, 2}, Shape{2, 50, 3}, Shape{3, 4, 35, 2}}) {
    for (int axis = 0; axis < std::max(1, shape.rank()); ++axis) {
      for (bool reverse : {false, true}) {
        for (DType dtype : kNumeric) {
          for (ScanOp op : kOps) {
            if (op == ScanOp::logsumexp && dtype == DType::int64) continue;
            const Tensor x = sample(shape, dtype, op, 1);
            check_scan(op, x, axis, reverse);
            check_scan(op, strided(x, 2), axis, reverse, 3);
          }
          if (dtype == DType::int64) continue;
          const Tensor a = values(shape, dtype, 4, -1, 1), b = values(shape, dtype, 5);
          check_linear(a, b, axis, reverse);
          check_linear(strided(a, 6), strided(b, 7), axis, reverse, 8);
        }
      }
      for (DType dtype : kNumeric) {
        for (bool maximum : {false, true}) {
          check_extreme(maximum, ties(shape, dtype, 9), axis);
          check_extreme(maximum, strided(ties(shape, dtype, 9), 1), axis, 2);
        }
      }
    }
  }
}

TEST_CASE("scans of rows of every length, along memory and across", "[scan_test]") {
  for (int64_t n : kLengths) {
    const DType floating = n % 2 == 1 ? DType::float32 : DType::float64;
    const bool reverse = n % 4 == 1;
    for (ScanOp op : kOps) {
      check_scan(op, sample({3, n}, floating, op, 7), 1, reverse);
      check_scan(op, sample({n, 5}, floating, op, 8), 0, reverse);
    }
    check_scan(ScanOp::sum, sample({3, n}, DType::int64, ScanOp::sum, 7), 1, !reverse);
    check_scan(ScanOp::prod, sample({n, 3}, DType::int64, ScanOp::prod, 7), 0, !reverse);
    for (DType dtype : {floating, DType::int64}) {
      check_extreme(true, ties({3, n}, dtype, 9), 1);
      check_extreme(false, ties({n, 3}, dtype, 9), 0);
    }
    check_linear(values({3, n}, floating, 1, -1.01, 1.01), values({3, n}, floating, 2), 1, reverse);
    check_linear(values({n, 40}, floating, 1, -1, 1), values({n, 40}, floating, 2), 0, reverse);
  }
  check_scan(ScanOp::sum, values({65537}, DType::float32, 3), 0, false);
  check_linear(values({65537}, DType::float32, 1, 0, 1), values({65537}, DType::float32, 2), 0,
               true);
  check_extreme(true, ties({65537}, DType::int64, 5), 0);
}

TEST_CASE("a scan of more than a million elements has chunks of chunks", "[scan_test]") {
  constexpr int64_t n = (1 << 20) + 2000;
  const Tensor x = values({n}, DType::float32, 1);
  check_scan(ScanOp::sum, x, 0, false);
}

TEST_CASE("running sums of floats keep their seven digits", "[scan_test]") {
  constexpr int64_t n = 100'000;
  const OnDevice x(values({n}, DType::float32, 1, 0, 1));
  const OnDevice out(Tensor::empty({n}, DType::float32));
  cuda_backend().scan(ScanOp::sum, x.view(), 0, false, out.view());
  const std::vector<double> in = x.back().to_vector<double>(), got = out.back().to_vector<double>();
  double exact = 0, worst = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    exact += in[i];
    worst = std::max(worst, std::abs(got[i] - exact) / exact);
  }
  CHECK(worst <= 1e-7);
}

TEST_CASE("scans of broadcast operands, NaN, infinities and extremes", "[scan_test]") {
  const Tensor row = values({1, 70}, DType::float32, 1);
  const Tensor wide = row.with_layout(expanded("test", row.layout(), {30, 70}));
  check_scan(ScanOp::sum, wide, 0, false);
  check_scan(ScanOp::sum, wide, 1, true);
  check_linear(wide, values({30, 70}, DType::float32, 3), 1, false);
  for (int64_t n : {5, 100, 3000}) {
    for (double special : {kNan, kInf, -kInf}) {
      std::vector<double> v(static_cast<size_t>(n) * 2, 1);
      v[static_cast<size_t>(n) - 3] = v[static_cast<size_t>(n) / 2] = special;
      for (size_t i = 0; i < 3; ++i) v[i] = -kInf;
      for (DType dtype : {DType::float32, DType::float64}) {
        const Tensor x = Tensor::from(v, {2, n}, dtype);
        for (ScanOp op : kOps) check_scan(op, x, 1, false);
        for (ScanOp op : kOps) check_scan(op, x, 0, true);
        check_extreme(true, x, 1);
        check_extreme(false, x, 1);
        check_linear(x, values({2, n}, dtype, 1), 1, false);
        check_linear(values({2, n}, dtype, 1, -1, 1), x, 1, false);
      }
    }
  }
  // A factor that grows beyond all numbers leaves a state of zero alone.
  for (int64_t n : {100, 1500, 4000}) {
    const Tensor two = Tensor::from(std::vector<double>(static_cast<size_t>(n), 2), {1, n});
    std::vector<double> v(static_cast<size_t>(n), 0);
    const Tensor zeros = Tensor::from(v, {1, n});
    check_linear(two, zeros, 1, false);
    v[static_cast<size_t>(n) - 50] = 1;
    check_linear(two, Tensor::from(v, {1, n}), 1, false);
    v[static_cast<size_t>(n) / 2] = kInf;
    check_linear(Tensor::from(v, {1, n}), values({1, n}, DType::float64, 4), 1, false);
    check_linear(Tensor::from(v, {n, 1}),
                 Tensor::from(std::vector<double>(static_cast<size_t>(n)), {n, 1}), 0, false);
  }
}

TEST_CASE("the bits of a scan depend on its row alone", "[scan_test]") {
  for (int64_t n : {20, 33, 1000, 1025, 5000}) {
    for (ScanOp op : kOps) {
      CAPTURE(n, name_of(op));
      const auto run = [&](const Tensor& x, int axis) {
        const OnDevice in(x);
        const OnDevice out(Tensor::empty(x.shape(), x.dtype()));
        cuda_backend().scan(op, in.view(), axis, false, out.view());
        return out.back().to_vector<double>();
      };
      const Tensor x = values({6, n}, DType::float64, 21, 0.9, 1.1);
      const std::vector<double> all = run(x, 1);
      const Tensor across = laid_across(x);
      const std::vector<double> other = run(across, 0);
      const std::vector<double> alone =
          run(x.with_layout(sliced("test", x.layout(), 0, 4, 5, 1)), 1);
      bool same = true;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t r = 0; r < 6; ++r)
          same =
              same && other[static_cast<size_t>(i * 6 + r)] == all[static_cast<size_t>(r * n + i)];
        same = same && alone[static_cast<size_t>(i)] == all[static_cast<size_t>(4 * n + i)];
      }
      CHECK(same);
    }
  }
}

TEST_CASE("scans refuse other dtypes", "[scan_test]") {
  const Tensor x = values({2}, DType::int64, 1), y = values({2}, DType::float32, 1);
  CHECK_THROWS_WITH(cuda_backend().scan(ScanOp::logsumexp, x, 0, false, x),
                    "logcumsumexp: dtype int64 given; float32 and float64 are accepted");
  CHECK_THROWS_WITH(cuda_backend().scan_extreme(true, x, 0, y, x),
                    "cummax: values is float32; int64 is accepted");
  CHECK_THROWS_WITH(cuda_backend().linear_scan(y, x, 0, false, y),
                    "linear_scan: b is int64; float32 is accepted");
}
