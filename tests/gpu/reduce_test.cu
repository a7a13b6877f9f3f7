// Reductions of the CUDA backend against the reference loops.
#include <limits>

#include "backend_support.cuh"
#include "flowgrad/kernels/cuda/team.cuh"
#include "flowgrad/kernels/names.h"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const DType kNumeric[] = {DType::float32, DType::float64, DType::int64};
const int64_t kLengths[] = {0, 1, 2, 3, 7, 16, 17, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025};

Shape without(Shape shape, int axes) {
  for (int d = 0; d < shape.rank(); ++d)
    if ((axes >> d) & 1) shape[d] = 1;
  return shape;
}

/// Values that a product of many does not drive out of range.
Tensor sample(const Shape& shape, DType dtype, ReduceOp op, uint64_t seed) {
  if (dtype == DType::boolean) {
    Dice dice(seed);
    std::vector<double> v(static_cast<size_t>(numel(shape)));
    for (double& x : v) x = dice.roll(0, 9) == 0 ? 1 : 0;
    return Tensor::from(v, shape, dtype);
  }
  if (op == ReduceOp::prod && dtype != DType::int64) return values(shape, dtype, seed, 0.99, 1.01);
  return values(shape, dtype, seed, -5, 5);
}

void check_reduce(ReduceOp op, const Tensor& x, const Shape& to) {
  const Tensor out = strided(Tensor::empty(to, x.dtype()), 3);
  same_as_reference(std::string(name_of(op)) + " of " + name_of(x.dtype()) + " " +
                        x.shape().to_string() + " to " + to.to_string(),
                    {out, x}, 1,
                    [&](Backend& be, std::vector<View>& v) { be.reduce(op, v[1], v[0]); });
}

void check_arg(bool maximum, const Tensor& x, int axis) {
  const Shape to = without(x.shape(), x.rank() == 0 ? 0 : 1 << axis);
  const Tensor out = strided(Tensor::empty(to, DType::int64), 4);
  same_as_reference("arg_reduce of " + std::string(name_of(x.dtype())) + " " +
                        x.shape().to_string() + " along " + std::to_string(axis),
                    {out, x}, 1, [&](Backend& be, std::vector<View>& v) {
                      be.arg_reduce(maximum, v[1], axis, v[0]);
                    });
}

/// reduce on the device; the result's bytes.
std::vector<double> on_device(ReduceOp op, const Tensor& x, const Shape& to) {
  const OnDevice in(x);
  const OnDevice out(Tensor::empty(to, x.dtype()));
  cuda_backend().reduce(op, in.view(), out.view());
  return out.back().to_vector<double>();
}

__global__ void places(cuda::RowAxes axes, const int64_t* at, int64_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = axes.place(at[i]);
}

}  // namespace

TEST_CASE("elements of large rows are found without division", "[reduce_test]") {
  for (int64_t inner : {int64_t{2}, int64_t{3}, int64_t{1000}, (int64_t{1} << 31) - 1,
                        (int64_t{1} << 33) + 7, (int64_t{1} << 40) + 1}) {
    Axes axes;
    axes.rank = 2;
    axes.size[0] = (int64_t{1} << 60) / inner;
    axes.size[1] = inner;
    axes.stride[0][0] = 7;
    axes.stride[0][1] = 1000003;
    std::vector<int64_t> at, want;
    for (int64_t q : {int64_t{0}, int64_t{1}, axes.size[0] / 2, axes.size[0] - 1}) {
      for (int64_t r : {int64_t{0}, int64_t{1}, inner / 2, inner - 1}) {
        at.push_back(q * inner + r);
        want.push_back(static_cast<int64_t>(static_cast<uint64_t>(q) * 7 +
                                            static_cast<uint64_t>(r) * 1000003));
      }
    }
    const DeviceArray<int64_t> in(at);
    const DeviceArray<int64_t> out(at.size());
    gpu::launch(places, dim3(1), dim3(1), 0, gpu::default_stream(), cuda::RowAxes(axes), in.get(),
                out.get(), static_cast<int>(at.size()));
    CAPTURE(inner);
    CHECK(out.values() == want);
  }
}

TEST_CASE("reduce over every set of axes, any layout", "[reduce_test]") {
  const std::vector<Shape> shapes{{}, {9}, {5, 3}, {3, 0, 2}, {2, 50, 3}, {3, 4, 5, 6}};
  for (const Shape& shape : shapes) {
    for (int axes = 0; axes < (1 << shape.rank()); ++axes) {
      const Shape to = without(shape, axes);
      for (ReduceOp op :
           {ReduceOp::sum, ReduceOp::prod, ReduceOp::sum_squares, ReduceOp::min, ReduceOp::max}) {
        for (DType dtype : kNumeric) {
          const Tensor x = sample(shape, dtype, op, 1);
          if (numel(shape) == 0 && (op == ReduceOp::min || op == ReduceOp::max)) continue;
          check_reduce(op, x, to);
          check_reduce(op, strided(x, 5 + static_cast<uint64_t>(axes)), to);
        }
      }
      for (ReduceOp op : {ReduceOp::any, ReduceOp::all}) {
        const Tensor x = sample(shape, DType::boolean, op, 2);
        check_reduce(op, x, to);
        check_reduce(op, strided(x, 6), to);
      }
    }
  }
}

TEST_CASE("reduce of rows of every length, along memory and across", "[reduce_test]") {
  for (int64_t n : kLengths) {
    for (ReduceOp op :
         {ReduceOp::sum, ReduceOp::prod, ReduceOp::sum_squares, ReduceOp::min, ReduceOp::max}) {
      if (n == 0 && (op == ReduceOp::min || op == ReduceOp::max)) continue;
      for (DType dtype : {DType::float32, DType::int64}) {
        check_reduce(op, sample({3, n}, dtype, op, 7), {3, 1});
        check_reduce(op, sample({n, 5}, dtype, op, 8), {1, 5});
      }
    }
    check_reduce(ReduceOp::sum, values({2, n}, DType::float64, 9), {2, 1});
    check_reduce(ReduceOp::sum, values({n, 40}, DType::float64, 9), {1, 40});
    check_reduce(ReduceOp::any, sample({n, 3}, DType::boolean, ReduceOp::any, 10), {1, 3});
    check_reduce(ReduceOp::all, sample({3, n}, DType::boolean, ReduceOp::all, 11), {3, 1});
  }
}

TEST_CASE("reduce of long rows in chunks", "[reduce_test]") {
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
    check_reduce(op, values({65537}, DType::float32, 1), {1});
    check_reduce(op, values({2, 20000}, DType::float64, 2), {2, 1});
    check_reduce(op, values({20000, 3}, DType::float32, 3), {1, 3});
    check_reduce(op, values({70, 2, 80}, DType::float32, 4), {1, 2, 1});
    check_reduce(op, values({3, 1100, 2}, DType::float32, 6), {3, 1, 2});
  }
  // Beyond 2^20 a chunk is a block's.
  Tensor x = values({1 << 16, 33}, DType::float32, 5);
  check_reduce(ReduceOp::sum, x, {1, 1});
  x = x.with_layout(Layout{{(1 << 20) + 5, 2}, {2, 1}, 0});
  check_reduce(ReduceOp::sum, x, {1, 2});
}

TEST_CASE("sums of floats keep what cancels on the device", "[reduce_test]") {
  for (int64_t n : {5, 100, 2000, 5000}) {
    std::vector<double> v(static_cast<size_t>(2 * n), 1);
    for (int64_t row = 0; row < 2; ++row) {
      v[static_cast<size_t>(row * n)] = 1e9;
      v[static_cast<size_t>(row * n + n - 1)] = -1e9;
    }
    const std::vector<double> wanted(2, static_cast<double>(n - 2));
    const Tensor rows = Tensor::from(v, {2, n}, DType::float32);
    CHECK(on_device(ReduceOp::sum, rows, {2, 1}) == wanted);
    CHECK(on_device(ReduceOp::sum, laid_across(rows), {1, 2}) == wanted);
  }
}

TEST_CASE("ten million floats add up to 1e-7 on the device", "[reduce_test]") {
  constexpr int64_t n = 10'000'000;
  const Tensor x = Tensor::empty({n});
  double exact = 0;
  for (int64_t i = 0; i < n; ++i) {
    x.data<float>()[i] = uniform24(static_cast<uint32_t>(i) * 2654435761u);
    exact += static_cast<double>(x.data<float>()[i]);
  }
  CHECK(std::abs(on_device(ReduceOp::sum, x, {1})[0] - exact) <= 1e-7 * exact);
}

TEST_CASE("reduce of broadcast operands and of NaN and infinities", "[reduce_test]") {
  const Tensor row = values({1, 40}, DType::float32, 1);
  const Tensor wide = row.with_layout(expanded("test", row.layout(), {30, 40}));
  for (const Shape& to : {Shape{1, 40}, Shape{30, 1}, Shape{1, 1}}) {
    check_reduce(ReduceOp::sum, wide, to);
    check_reduce(ReduceOp::max, wide, to);
  }
  for (int64_t n : {5, 100, 2000}) {
    for (double special : {kNan, kInf, -kInf}) {
      std::vector<double> v(static_cast<size_t>(n) * 2, 1);
      v[static_cast<size_t>(n) - 2] = special;
      const Tensor x = Tensor::from(v, {2, n}, DType::float32);
      for (ReduceOp op :
           {ReduceOp::sum, ReduceOp::prod, ReduceOp::sum_squares, ReduceOp::min, ReduceOp::max}) {
        check_reduce(op, x, {2, 1});
        check_reduce(op, x, {1, 1});
      }
      check_arg(true, x, 1);
      check_arg(false, x, 1);
      const Tensor same =
          Tensor::from(std::vector<double>(static_cast<size_t>(n), special), {n}, DType::float32);
      for (ReduceOp op : {ReduceOp::min, ReduceOp::max}) check_reduce(op, same, {1});
    }
  }
  // Wrapping integers.
  const auto big = std::numeric_limits<int64_t>::max();
  check_reduce(ReduceOp::sum, Tensor::from(std::vector<int64_t>{big, 5, 7}, {3}), {1});
  check_reduce(ReduceOp::prod, Tensor::from(std::vector<int64_t>{big, 5, 7}, {3}), {1});
}

TEST_CASE("the bits of a sum depend on its row alone", "[reduce_test]") {
  for (int64_t n : {7, 16, 17, 33, 500, 1024, 1025, 5000}) {
    const Tensor x = values({6, n}, DType::float64, 21);
    const std::vector<double> all = on_device(ReduceOp::sum, x, {6, 1});
    const Tensor across = laid_across(x);
    CAPTURE(n);
    CHECK(on_device(ReduceOp::sum, across, {1, 6}) == all);
    for (int64_t r : {0, 5}) {
      const Tensor one = x.with_layout(sliced("test", x.layout(), 0, r, r + 1, 1));
      CHECK(on_device(ReduceOp::sum, one, {1, 1})[0] == all[static_cast<size_t>(r)]);
    }
  }
}

TEST_CASE("arg_reduce finds the first extreme of the device", "[reduce_test]") {
  for (DType dtype : kNumeric) {
    for (bool maximum : {false, true}) {
      check_arg(maximum, Tensor::from(std::vector<double>{4}, {}, dtype), 0);
      for (int64_t n : kLengths) {
        if (n == 0) continue;
        // Few distinct values: many ties.
        Dice dice(static_cast<uint64_t>(n));
        std::vector<double> v(static_cast<size_t>(3 * n));
        for (double& x : v) x = static_cast<double>(dice.roll(-3, 3));
        check_arg(maximum, Tensor::from(v, {3, n}, dtype), 1);
        check_arg(maximum, Tensor::from(v, {n, 3}, dtype), 0);
        check_arg(maximum, strided(Tensor::from(v, {n, 3}, dtype), 3), 0);
        // Elements that a team lacks must not win.
        check_arg(maximum, values({3, n}, dtype, 5, maximum ? -9 : 1, maximum ? -1 : 9), 1);
      }
      const Tensor x = values({3, 4, 5}, dtype, 9);
      for (int axis = 0; axis < 3; ++axis) check_arg(maximum, strided(x, 2), axis);
    }
  }
  std::vector<double> v(20000, 1);
  v[12345] = v[777] = v[19999] = kNan;
  check_arg(true, Tensor::from(v, {20000}, DType::float32), 0);
  check_arg(false, Tensor::from(v, {2, 10000}, DType::float64), 1);
}

TEST_CASE("reduce refuses dtypes that it has no kernel for", "[reduce_test]") {
  const Tensor flags = Tensor::from(std::vector<bool>{true, false}, {2});
  const Tensor x = values({2}, DType::float32, 1);
  CHECK_THROWS_AS(cuda_backend().reduce(ReduceOp::any, x, x), DTypeError);
  CHECK_THROWS_WITH(cuda_backend().reduce(ReduceOp::sum, flags, flags),
                    "sum: dtype bool given; float32, float64 and int64 are accepted");
  CHECK_THROWS_WITH(cuda_backend().arg_reduce(true, x, 0, x),
                    "argmax: out is float32; int64 is accepted");
}
