// The CUDA sort against the reference loops: values bit for bit, and the same permutation.
#include <cmath>

#include "backend_support.cuh"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

Tensor zeros(const Shape& shape, DType dtype) {
  return Tensor::from(std::vector<int64_t>(static_cast<size_t>(numel(shape))), shape, dtype);
}

/// Many ties, both zeros, infinities and NaN.
Tensor awkward(const Shape& shape, DType dtype, uint64_t seed) {
  Dice dice(seed);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v) {
    switch (dtype == DType::int64 ? 9 : dice.roll(0, 9)) {
      case 0: x = dice.roll(0, 1) == 0 ? 0.0 : -0.0; break;
      case 1: x = dice.roll(0, 1) == 0 ? kInf : -kInf; break;
      case 2: x = kNan; break;
      case 3: x = dice.real(-1e30, 1e30); break;
      case 4: x = dice.real(-1e-40, 1e-40); break;  // subnormal in float32
      default: x = static_cast<double>(dice.roll(-20, 20));
    }
  }
  return Tensor::from(v, shape, dtype);
}

/// `kept`: the first of the order along axis, all by default.
void check_sort(const Tensor& x, int axis, bool descending, bool awkward_layout, uint64_t seed,
                int64_t kept = -1) {
  Shape shape = x.shape();
  if (kept >= 0) shape[axis] = kept;
  Tensor values = zeros(shape, x.dtype());
  Tensor indices = zeros(shape, DType::int64);
  if (awkward_layout) {
    values = strided(values, seed + 1);
    indices = strided(indices, seed + 2);
  }
  const std::string what = std::string(name_of(x.dtype())) + " " + x.shape().to_string() +
                           " axis " + std::to_string(axis) + (descending ? " descending" : "");
  same_as_reference(what, {values, indices, x}, 2,
                    [&](kernels::Backend& backend, const std::vector<kernels::View>& v) {
                      backend.sort(v[2], axis, descending, v[0], v[1]);
                    });
}

const std::vector<DType> kNumeric{DType::int64, DType::float32, DType::float64};

}  // namespace

TEST_CASE("sort: short rows, every length", "[sort_test]") {
  for (DType dtype : kNumeric) {
    for (int64_t n : {0, 1, 2, 3, 5, 31, 32, 33, 64, 100, 255}) {
      const Tensor x = awkward({n == 3 ? 300 : 3, n}, dtype, static_cast<uint64_t>(n));
      check_sort(x, 1, false, false, 1);
      check_sort(x, 1, true, false, 1);
    }
  }
}

TEST_CASE("sort: the largest row of a block, and the first beyond it", "[sort_test]") {
  for (int64_t n : {1024, 2047, 2048, 2049}) {
    for (DType dtype : kNumeric) {
      check_sort(awkward({2, n}, dtype, 5), 1, n % 2 == 0, false, 1);
    }
  }
}

TEST_CASE("sort: any axis of any layout", "[sort_test]") {
  for (DType dtype : kNumeric) {
    for (int axis = 0; axis < 3; ++axis) {
      const Tensor x = awkward({4, 7, 5}, dtype, 11);
      check_sort(x, axis, axis == 1, false, 3);
      check_sort(strided(x, 12), axis, axis == 0, true, 4);
    }
  }
  check_sort(awkward({}, DType::float32, 3), 0, false, false, 1);
  check_sort(awkward({0, 3}, DType::float32, 3), 0, false, false, 1);
  check_sort(awkward({3, 0}, DType::float32, 3), 0, false, false, 1);
  // One row shown many times.
  const Tensor row = awkward({1, 9}, DType::float32, 8);
  check_sort(Tensor::over(row.storage_ref(), expanded("test", row.layout(), {70, 9}), row.dtype()),
             1, false, false, 1);
  const Tensor flat = awkward({2500, 2}, DType::float32, 4);
  check_sort(strided(flat, 5), 0, true, true, 6);
}

TEST_CASE("sort: long rows", "[sort_test]") {
  check_sort(awkward({65537}, DType::float32, 21), 0, false, false, 1);
  check_sort(awkward({3, 5000}, DType::float64, 22), 1, true, false, 1);
  check_sort(values({20000}, DType::float64, 23, -1e9, 1e9), 0, false, false, 1);
  Dice dice(24);
  std::vector<int64_t> wide(6000);
  for (int64_t& v : wide) v = dice.roll(0, 1) == 0 ? INT64_MIN + dice.roll(0, 3) : INT64_MAX - 1;
  check_sort(Tensor::from(wide, {6000}), 0, true, false, 1);
}

TEST_CASE("sort: more long rows than scratch memory holds at once", "[sort_test]") {
  const LittleScratch three(3 * 2500 * 2 * (sizeof(uint32_t) + sizeof(uint32_t)));
  check_sort(awkward({7, 2500}, DType::float32, 25), 1, false, true, 1);
}

TEST_CASE("sort: the first of the order", "[sort_test]") {
  for (const int64_t kept : {0, 1, 3, 33, 100}) {
    check_sort(awkward({5, 100}, DType::float32, 31), 1, kept % 2 == 0, kept == 3, 1, kept);
    check_sort(awkward({3, 2500}, DType::float64, 32), 1, kept % 2 == 1, kept == 3, 2, kept);
  }
  check_sort(awkward({7, 20}, DType::int64, 33), 0, true, true, 3, 4);
}

TEST_CASE("sort: what is refused", "[sort_test]") {
  const Tensor flags = zeros({3}, DType::boolean);
  const Tensor indices = zeros({3}, DType::int64);
  CHECK_THROWS_AS(kernels::cuda_backend().sort(flags, 0, false, flags, indices), DTypeError);
  const Tensor x = zeros({3}, DType::float32);
  CHECK_THROWS_AS(kernels::cuda_backend().sort(x, 0, false, x, x), DTypeError);
}
