// Softmax, log_softmax and their gradients of the CUDA backend against the reference loops.

#include "backend_support.cuh"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

void check_softmax(const Tensor& x, int axis, uint64_t layout = 0) {
  const auto laid = [&](const Tensor& t, uint64_t i) {
    return layout == 0 ? t : strided(t, layout + i);
  };
  for (bool logarithm : {false, true}) {
    const std::string what = std::string(logarithm ? "log_softmax of " : "softmax of ") +
                             name_of(x.dtype()) + " " + x.shape().to_string() + " along " +
                             std::to_string(axis) + ", layout " + std::to_string(layout);
    const Tensor out = laid(Tensor::empty(x.shape(), x.dtype()), 1);
    same_as_reference(what, {out, x}, 1, [&](Backend& be, std::vector<View>& v) {
      be.softmax(logarithm, v[1], axis, v[0]);
    });
    const Tensor y = Tensor::empty(x.shape(), x.dtype());
    reference_backend().softmax(logarithm, x, axis, y);
    const Tensor g = laid(values(x.shape(), x.dtype(), 77), 2);
    same_as_reference("gradient of " + what, {out, g, laid(y, 3)}, 1,
                      [&](Backend& be, std::vector<View>& v) {
                        be.softmax_grad(logarithm, v[1], v[2], axis, v[0]);
                      });
  }
}

std::vector<double> on_device(bool logarithm, const Tensor& x, int axis) {
  const OnDevice in(x);
  const OnDevice out(Tensor::empty(x.shape(), x.dtype()));
  cuda_backend().softmax(logarithm, in.view(), axis, out.view());
  return out.back().to_vector<double>();
}

}  // namespace

TEST_CASE("softmax along every axis, any layout", "[softmax_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    for (const Shape& shape : {Shape{}, Shape{9}, Shape{20, 5}, Shape{3, 40, 4}, Shape{2, 3, 4, 50},
                               Shape{0, 4}, Shape{4, 0}}) {
      for (int axis = 0; axis < std::max(1, shape.rank()); ++axis) {
        const Tensor x = values(shape, dtype, 1, -30, 30);
        check_softmax(x, axis);
        check_softmax(strided(x, 2), axis, 3);
      }
    }
  }
}

TEST_CASE("softmax of rows of every length, along memory and across", "[softmax_test]") {
  for (int64_t n : {1,   2,   3,   7,   16,   17,   31,   32,   33,   127, 128,
                    129, 255, 256, 257, 1023, 1024, 1025, 4096, 4097, 9000}) {
    const DType dtype = n % 2 == 1 ? DType::float32 : DType::float64;
    check_softmax(values({3, n}, dtype, 5, -60, 60), 1);
    check_softmax(values({n, 3}, dtype, 6, -60, 60), 0);
  }
  for (int64_t whole : {128, 256, 1024, 4096}) {  // every thread has all of its elements
    const Tensor x = values({9, whole}, DType::float32, 12, -60, 60);
    check_softmax(x, 1);
    for (uint64_t layout : {1, 2, 3, 4}) check_softmax(x, 1, layout);
    const Tensor wide = values({9, 2 * whole}, DType::float32, 13, -60, 60);
    check_softmax(wide.with_layout(Layout{{9, whole}, {2 * whole, 2}, 0}), 1);
  }
  check_softmax(values({2, 300}, DType::float32, 7), 1);
  check_softmax(values({300, 40}, DType::float32, 8), 0);
  check_softmax(values({65537}, DType::float32, 9), 0);
  check_softmax(values({1248, 3}, DType::float32, 10), 0);  // the streams' last round ends the row
  // Elements that a team lacks must not be the largest.
  for (int64_t n : {3, 20, 100, 200, 1500})
    check_softmax(values({2, n}, DType::float32, 11, -900, -800), 1);
}

TEST_CASE("softmax of broadcast rows, NaN and infinities", "[softmax_test]") {
  const Tensor row = values({1, 40}, DType::float32, 1);
  check_softmax(row.with_layout(expanded("test", row.layout(), {30, 40})), 1);
  check_softmax(row.with_layout(expanded("test", row.layout(), {30, 40})), 0);
  for (int64_t n : {3, 20, 200, 256, 1024, 1500, 4096}) {
    for (double special : {kNan, kInf, -kInf}) {
      std::vector<double> v(static_cast<size_t>(n) * 2, 1);
      v[static_cast<size_t>(n) - 2] = special;
      // The second row is -inf throughout.
      for (size_t i = static_cast<size_t>(n); i < v.size(); ++i) v[i] = -kInf;
      check_softmax(Tensor::from(v, {2, n}, DType::float32), 1);
      check_softmax(Tensor::from(v, {2, n}, DType::float64), 0);
    }
  }
  const std::vector<double> far{10000, 10001, -10000};
  check_softmax(Tensor::from(far, {3}, DType::float32), 0);
}

TEST_CASE("the bits of a softmax depend on its row alone", "[softmax_test]") {
  for (int64_t n : {7, 33, 128, 256, 500, 1024, 1025, 4096, 5000}) {
    for (bool logarithm : {false, true}) {
      CAPTURE(n, logarithm);
      const Tensor x = values({6, n}, DType::float32, 21, -9, 9);
      const std::vector<double> all = on_device(logarithm, x, 1);
      const Tensor across = laid_across(x);
      const std::vector<double> other = on_device(logarithm, across, 0);
      const Tensor one = x.with_layout(sliced("test", x.layout(), 0, 4, 5, 1));
      const std::vector<double> alone = on_device(logarithm, one, 1);
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

TEST_CASE("softmax refuses other dtypes", "[softmax_test]") {
  const Tensor x = values({2}, DType::int64, 1);
  CHECK_THROWS_WITH(cuda_backend().softmax(false, x, 0, x),
                    "softmax: dtype int64 given; float32 and float64 are accepted");
  const Tensor y = values({2}, DType::float32, 1);
  CHECK_THROWS_WITH(cuda_backend().softmax_grad(true, y, x, 0, y),
                    "log_softmax: y is int64; float32 is accepted");
}
