// Positions of extremes and running sums of the fast backend against the reference loops.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "kernels/cpu_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

struct ScanCase {
  Shape shape;
  int axis;
  bool awkward;

  std::string text() const {
    return shape.to_string() + " along " + std::to_string(axis) + (awkward ? ", strided" : "");
  }
  Tensor given(const Tensor& t) const { return awkward ? strided(t, 5) : t; }
};

/// Lengths around those of registers, of the parts that a row is read in and of strips of columns.
std::vector<ScanCase> scan_cases() {
  std::vector<Shape> shapes{{3, 0},   {0, 3},       {1, 1},     {2, 3, 4},  {3, 50, 7},  {2, 9, 40},
                            {5, 513}, {300, 65},    {1000, 20}, {3, 2048},  {2, 3, 600}, {4097, 3},
                            {20000},  {70, 20, 17}, {2, 20000}, {20000, 2}, {3, 3071}};
  for (const int64_t n : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65})
    shapes.push_back({n % 7 + 1, n});
  std::vector<ScanCase> cases;
  for (const Shape& shape : shapes)
    for (int axis = 0; axis < shape.rank(); ++axis)
      for (const bool awkward : {false, true})
        if (numel(shape) == 0 || shape[axis] > 0) cases.push_back({shape, axis, awkward});
  return cases;
}

Shape without(Shape shape, int axis) {
  shape[axis] = 1;
  return shape;
}

/// Few different numbers, so that there are ties.
Tensor dice(const Shape& shape, DType dtype, std::vector<double> among) {
  Dice dice(7);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v)
    x = among[static_cast<size_t>(dice.roll(0, static_cast<int64_t>(among.size()) - 1))];
  return Tensor::from(v, shape, dtype);
}

double other(const Tensor& got, const Tensor& want) { return bytes_of(got) != bytes_of(want); }

/// Of every row and every column: `value` at a place, `later` somewhere behind it.
struct Planted {
  int64_t n, at;
  double value, later;
  std::string text() const {
    return std::to_string(value) + " at " + std::to_string(at) + " of " + std::to_string(n);
  }
  Tensor x(bool columns, DType dtype) const {
    constexpr int64_t kBeside = 19;
    std::vector<double> v(static_cast<size_t>(n * kBeside), 1);
    for (int64_t i = 0; i < kBeside; ++i) {
      const auto place = [&](int64_t k) {
        return static_cast<size_t>(columns ? k * kBeside + i : i * n + k);
      };
      if (at + 1 < n) v[place(at + 1 + i % (n - at - 1))] = later;
      v[place(at)] = value;
    }
    return Tensor::from(v, columns ? Shape{n, kBeside} : Shape{kBeside, n}, dtype);
  }
};

std::vector<Tensor> positions(Backend& on, const Tensor& x, int axis) {
  std::vector<Tensor> out;
  for (const bool maximum : {false, true}) {
    out.push_back(Tensor::empty(without(x.shape(), axis), DType::int64));
    on.arg_reduce(maximum, x, axis, out.back());
  }
  return out;
}

std::vector<Tensor> sums(Backend& on, const Tensor& x, int axis, bool awkward) {
  std::vector<Tensor> out;
  for (const bool reverse : {false, true}) {
    const Tensor y = nothing(x.shape(), x.dtype());
    out.push_back(awkward ? strided(y, 9) : y);
    on.scan(ScanOp::sum, x, axis, reverse, out.back());
  }
  return out;
}

}  // namespace

TEST_CASE("fast positions of extremes equal the reference's", "[scan_test]") {
  for (const std::vector<double>& among : {std::vector<double>{0, -0.0, 1, -1, 2},
                                           {-kInf, kInf},
                                           {-kInf},
                                           {kInf},
                                           {-kInf, 0, 1, 2, 3, 4, 5, 6, kNan},
                                           {kNan}}) {
    const auto run = [&](Backend& on, const ScanCase& c, DType dtype) {
      return positions(on, c.given(dice(c.shape, dtype, among)), c.axis);
    };
    fast_equals_reference(scan_cases(), run, other, {.5, .5});
  }
  const auto run = [](Backend& on, const ScanCase& c, DType dtype) {
    return positions(on, c.given(values(c.shape, dtype, 3)), c.axis);
  };
  fast_equals_reference(scan_cases(), run, other, {.5, .5});
}

TEST_CASE("an extreme or a NaN is found wherever it is, the first of two", "[scan_test]") {
  std::vector<Planted> cases;
  for (const double value : {2., 0., kNan, kInf, -kInf}) {
    for (int64_t at = 0; at < 40; ++at)
      for (const double later : {value, kNan, 1.5}) cases.push_back({40, at, value, later});
    for (const int64_t at : {0, 1023, 1024, 1025, 2047, 2048, 2998, 2999})
      cases.push_back({3000, at, value, value});
    for (const int64_t at : {0, 16383, 16384, 33000}) cases.push_back({33001, at, value, kNan});
  }
  const auto run = [](Backend& on, const Planted& c, DType dtype) {
    std::vector<Tensor> out = positions(on, c.x(false, dtype), 1);
    for (const Tensor& t : positions(on, c.x(true, dtype), 0)) out.push_back(t);
    return out;
  };
  fast_equals_reference(cases, run, other, {.5, .5});
}

TEST_CASE("fast running sums equal the reference's", "[scan_test]") {
  const auto run = [](Backend& on, const ScanCase& c, DType dtype) {
    return sums(on, c.given(values(c.shape, dtype, 3)), c.axis, c.awkward);
  };
  // Sums in double, so that float32 differs by its own rounding at most.
  fast_equals_reference(scan_cases(), run, relative_error, {1.3e-7, 1e-11});
  for (const std::vector<double>& among : {std::vector<double>{0, -0.0},
                                           {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, kInf},
                                           {0, 1, 1, 1, 1, 1, 1, 1, kInf, -kInf},
                                           {0, 1, 1, 1, 1, 1, 1, 1, 1, kNan},
                                           {1, 2}}) {
    const auto of_few = [&](Backend& on, const ScanCase& c, DType dtype) {
      return sums(on, c.given(dice(c.shape, dtype, among)), c.axis, c.awkward);
    };
    fast_equals_reference(scan_cases(), of_few, relative_error, {1e-300, 1e-300});
  }
}

TEST_CASE("running sums of float32 lose nothing between registers", "[scan_test]") {
  CpuSettings restore;
  for (const bool columns : {false, true}) {
    for (const std::string& isa : instruction_sets()) {
      cpu::set_isa(isa.c_str());
      std::vector<double> v(40 * 32, 1);
      for (int64_t i = 0; i < 32; ++i) v[static_cast<size_t>(columns ? i : 40 * i)] = 1 << 24;
      const Shape shape = columns ? Shape{40, 32} : Shape{32, 40};
      const Tensor x = Tensor::from(v, shape, DType::float32), y = nothing(shape, DType::float32);
      fast_cpu_backend().scan(ScanOp::sum, x, columns ? 0 : 1, false, y);
      CHECK(y.to_vector<double>().back() == (1 << 24) + 40);  // 2^24 + 39, to even
    }
  }
}

TEST_CASE("bits of positions and running sums do not depend on the threads", "[scan_test]") {
  for (const Shape& shape : {Shape{5000, 20}, {600, 512}, {3, 20000}, {40, 3000}, {7, 40, 300}}) {
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const Tensor x = values(shape, DType::float32, 3);
      same_at_any_threads(shape.to_string() + " along " + std::to_string(axis), [&] {
        std::vector<Tensor> out = positions(fast_cpu_backend(), x, axis);
        for (const Tensor& t : sums(fast_cpu_backend(), x, axis, false)) out.push_back(t);
        return out;
      });
    }
  }
}
