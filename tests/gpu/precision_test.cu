// float32 products of lower precision: rounded as much as was asked for, and no more.
#include "flowgrad/kernels/precision.h"

#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

/// Sets the process's precision for the time of a test.
class Precision {
 public:
  explicit Precision(MatmulPrecision p) { set_matmul_precision(p); }
  ~Precision() { set_matmul_precision(MatmulPrecision::float32); }
};

/// The mean relative error of a product, squared.
double error_of(const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& old) {
  const bool accumulate = old.defined();
  Shape shape = a.shape();
  shape[a.rank() - 1] = b.size(b.rank() - 1);
  const Tensor start = accumulate ? old : values(shape, a.dtype(), 99);
  const auto copy = Tensor::from(start.to_vector<double>(), shape, a.dtype());
  reference_backend().matmul(a, b, bias, accumulate, copy);
  const OnDevice of_a(a), of_b(b), out(start);
  const OnDevice of_bias(bias.defined() ? bias : values({1}, a.dtype(), 1));
  cuda_backend().matmul(of_a.view(), of_b.view(), bias.defined() ? of_bias.view() : View(),
                        accumulate, out.view());
  gpu::synchronize(gpu::default_stream());
  return normalized_error(out.back(), copy);
}

Tensor transposed_last(const Tensor& t) {
  return t.with_layout(transposed("test", t.layout(), -1, -2));
}

}  // namespace

TEST_CASE("products round their operands as they are told", "[precision_test]") {
  struct Bounds {
    MatmulPrecision precision;
    double low, high;
  };
  for (const Bounds& b :
       {Bounds{MatmulPrecision::float32, 0, 1e-12}, Bounds{MatmulPrecision::tf32, 1e-9, 1e-6},
        Bounds{MatmulPrecision::bf16, 1e-6, 1e-4}}) {
    const Precision on(b.precision);
    CHECK(matmul_precision() == b.precision);
    CHECK(rounds_matmul(Device::cuda()) == (b.precision != MatmulPrecision::float32));
    CHECK_FALSE(rounds_matmul(Device::cpu()));
    const DType f = DType::float32;
    const Tensor x = values({70, 40}, f, 1), w = values({40, 36}, f, 2), bias = values({36}, f, 3),
                 old = values({70, 36}, f, 4);
    const auto within = [&](double error) {
      CHECK(error >= b.low);
      CHECK(error <= b.high);
    };
    within(error_of(x, w, {}, {}));
    within(error_of(x, w, bias, {}));
    within(error_of(x, w, {}, old));
    within(error_of(x, w, bias, old));
    // A linear layer's transposed weight, a view with gaps, batches with and without a shared b.
    within(error_of(x, transposed_last(values({36, 40}, f, 5)), bias, {}));
    within(error_of(strided(x, 6), strided(w, 7), strided(bias, 8), {}));
    const Tensor odd = values({70 * 40 + 1}, f, 1);  // rows of whole vectors, but not aligned
    within(error_of(odd.with_layout(Layout{Shape{70, 40}, Strides{40, 1}, 1}), w, bias, {}));
    within(error_of(values({2, 3, 5, 40}, f, 9), values({2, 3, 40, 33}, f, 10), {}, {}));
    const Tensor shared = w.with_layout(Layout{Shape{3, 40, 36}, Strides{0, 36, 1}, 0});
    within(error_of(values({3, 4, 40}, f, 11), shared, bias, {}));
  }
}

TEST_CASE("what is too narrow, too shallow or float64 stays exact", "[precision_test]") {
  const Precision on(MatmulPrecision::bf16);
  const DType f = DType::float32, d = DType::float64;
  CHECK(error_of(values({70, 40}, f, 1), values({40, 31}, f, 2), {}, {}) <= 1e-12);
  CHECK(error_of(values({70, 31}, f, 1), values({31, 40}, f, 2), {}, {}) <= 1e-12);
  CHECK(error_of(values({70, 40}, d, 1), values({40, 36}, d, 2), {}, {}) <= 1e-26);
}

TEST_CASE("a row of a rounded product does not depend on the rows beside it", "[precision_test]") {
  const Precision on(MatmulPrecision::tf32);
  const Tensor x = values({200, 64}, DType::float32, 1), w = values({64, 64}, DType::float32, 2);
  const auto product = [&](int64_t rows) {
    const Tensor part = x.with_layout(Layout{Shape{rows, 64}, Strides{64, 1}, 0});
    const OnDevice a(part), b(w), out(values({rows, 64}, DType::float32, 3));
    cuda_backend().matmul(a.view(), b.view(), View(), false, out.view());
    gpu::synchronize(gpu::default_stream());
    std::vector<double> all = out.back().to_vector<double>();
    all.resize(64);
    return all;
  };
  const auto one = product(1);
  CHECK(product(65) == one);
  CHECK(product(200) == one);
}
