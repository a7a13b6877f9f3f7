// Products in a BLAS library's words, spoken to a plain kernel: views, batches, bias, sums.
#include "backend_support.cuh"
#include "flowgrad/kernels/cuda/matmul_blas.h"
#include "flowgrad/kernels/precision.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;
using kernels::cuda::BlasProduct;

namespace {

struct Strided {
  const void* data;
  bool transposed;
  int64_t ld, step;
};

/// xGEMM_STRIDED_BATCHED from its definition: column-major, an element a thread.
template <class T>
__global__ void gemm(Strided left, Strided right, T* out, int64_t m, int64_t n, int64_t k,
                     int64_t batch, int64_t out_step, double keep) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= m * n * batch) return;
  const int64_t row = i % m, column = i / m % n, entry = i / (m * n);
  const auto at = [&](const Strided& x, int64_t r, int64_t c) {
    const T* data = static_cast<const T*>(x.data) + entry * x.step;
    return static_cast<double>(x.transposed ? data[c + r * x.ld] : data[r + c * x.ld]);
  };
  double sum = 0;
  for (int64_t d = 0; d < k; ++d) sum += at(left, row, d) * at(right, d, column);
  T& to = out[entry * out_step + column * m + row];
  to = static_cast<T>(keep == 0 ? sum : sum + keep * static_cast<double>(to));
}

/// As a BLAS does, refuses leading dimensions that its documentation forbids.
void check_ld(const BlasProduct::Operand& o, int64_t rows, int64_t columns) {
  CHECK(o.ld >= std::max<int64_t>(1, o.transposed ? columns : rows));
  CHECK(o.step >= 0);
}

int n_calls = 0;

void run(const BlasProduct& p) {
  ++n_calls;
  check_ld(p.left, p.m, p.k);
  check_ld(p.right, p.k, p.n);
  CHECK((p.m > 0 && p.n > 0 && p.k > 0 && p.batch > 0));
  const auto strided = [](const BlasProduct::Operand& o) {
    return Strided{o.data, o.transposed, o.ld, o.step};
  };
  const auto blocks = static_cast<unsigned>((p.m * p.n * p.batch + 127) / 128);
  const auto launch = [&](auto type) {
    using T = decltype(type);
    gpu::launch(gemm<T>, dim3(blocks), dim3(128), 0, gpu::default_stream(), strided(p.left),
                strided(p.right), static_cast<T*>(p.out), p.m, p.n, p.k, p.batch, p.out_step,
                p.keep);
  };
  p.dtype == DType::float32 ? launch(float{}) : launch(double{});
}

/// Calls that the product took.
int check_product(const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  Shape shape = a.shape();
  shape[a.rank() - 1] = b.size(b.rank() - 1);
  const Tensor out = values(shape, a.dtype(), 99);
  n_calls = 0;
  std::vector<Tensor> operands{out, a, b};
  if (bias.defined()) operands.push_back(bias);
  same_as_reference(a.shape().to_string() + " " + b.shape().to_string(), operands, 1,
                    [&](Backend& backend, const std::vector<View>& v) {
                      const View of_bias = bias.defined() ? v[3] : View();
                      if (&backend == &reference_backend())
                        backend.matmul(v[1], v[2], of_bias, accumulate, v[0]);
                      else
                        cuda::multiply_by_blas(run, v[1], v[2], of_bias, accumulate, v[0]);
                    });
  return n_calls / 2;  // it runs twice
}

Tensor turned(const Tensor& t) { return t.with_layout(transposed("test", t.layout(), -1, -2)); }

/// Every second column of a wider matrix.
Tensor spread(const Tensor& t) {
  Layout l = t.layout();
  l.shape[t.rank() - 1] /= 2;
  l.strides[t.rank() - 1] *= 2;
  return t.with_layout(l);
}

/// Elements of a tensor's memory under other strides, also where they overlap.
Tensor strided(const Tensor& t, const Shape& shape, const Strides& strides) {
  return t.with_layout({shape, strides, t.layout().offset});
}

/// The same matrix n times, by a stride of 0.
Tensor repeated(const Tensor& t, int64_t n) {
  Shape shape{n};
  Strides strides{0};
  for (int d = 0; d < t.rank(); ++d) {
    shape.push_back(t.size(d));
    strides.push_back(t.strides()[d]);
  }
  return t.with_layout({shape, strides, t.layout().offset});
}

}  // namespace

TEST_CASE("every view of a matrix reaches a BLAS", "[blas_test]") {
  for (const DType f : {DType::float32, DType::float64}) {
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{5, 7, 3},
                                  {1, 7, 3},
                                  {5, 1, 3},
                                  {5, 7, 1},
                                  {1, 1, 1},
                                  {33, 34, 35}}) {
      const Tensor a = values({m, k}, f, 1), b = values({k, n}, f, 2), bias = values({n}, f, 3);
      const Tensor a_t = turned(values({k, m}, f, 4)), b_t = turned(values({n, k}, f, 5));
      for (const Tensor& x : {a, a_t, spread(values({m, 2 * k}, f, 6))}) {
        for (const Tensor& y : {b, b_t, spread(values({k, 2 * n}, f, 7))}) {
          CHECK(check_product(x, y, {}, false) == 1);
          CHECK(check_product(x, y, bias, true) == 1);
        }
      }
      check_product(a, b, bias, false);
      check_product(a_t, b_t, {}, true);
      check_product(a, b, spread(values({2 * n}, f, 8)), false);
      check_product(a, b, strided(bias, {n}, {0}), false);
    }
  }
}

TEST_CASE("rows and columns that overlap are copied for a BLAS", "[blas_test]") {
  const DType f = DType::float64;
  const Tensor a = values({5, 3}, f, 1), b = values({3, 4}, f, 2), line = values({40}, f, 3);
  // One row for all, one column for all, windows along a line in either direction.
  for (const Strides& strides : {Strides{0, 1}, Strides{1, 0}, Strides{1, 1}, Strides{0, 0},
                                 Strides{2, 1}, Strides{1, 2}, Strides{1, 4}}) {
    CHECK(check_product(strided(line, {5, 3}, strides), b, {}, false) == 1);
    CHECK(check_product(a, strided(line, {3, 4}, strides), {}, false) == 1);
  }
  for (const Strides& strides : {Strides{1, 3}, Strides{1, 5}, Strides{3, 1}, Strides{4, 1}}) {
    check_product(strided(line, {5, 3}, strides), strided(line, {3, 4}, strides), {}, true);
  }
}

TEST_CASE("batches: strides, broadcasts, several axes", "[blas_test]") {
  const DType f = DType::float64;
  const Tensor bias = values({4}, f, 9);
  const Tensor a = values({6, 5, 3}, f, 1), b = values({6, 3, 4}, f, 2), one = values({3, 4}, f, 3);
  CHECK(check_product(a, b, bias, false) == 1);
  CHECK(check_product(turned(values({6, 3, 5}, f, 4)), b, {}, true) == 1);
  CHECK(check_product(a, repeated(one, 6), bias, true) == 1);  // a single product of 30 rows
  CHECK(check_product(turned(values({6, 3, 5}, f, 4)), repeated(one, 6), {}, false) == 1);
  CHECK(check_product(repeated(values({5, 3}, f, 5), 6), b, {}, false) == 1);
  CHECK(check_product(spread(values({6, 5, 6}, f, 6)), repeated(spread(values({3, 8}, f, 7)), 6),
                      {}, false) == 1);
  // The entries of a lie apart, so their rows are no single sequence.
  const Tensor taller = values({6, 8, 3}, f, 8);
  Layout apart = taller.layout();
  apart.shape[1] = 5;
  CHECK(check_product(taller.with_layout(apart), repeated(one, 6), bias, false) == 1);
  // So do those of entries of one row each.
  CHECK(check_product(strided(values({6, 1, 8}, f, 13), {6, 1, 3}, {8, 8, 1}), repeated(one, 6),
                      bias, false) == 1);
  CHECK(check_product(values({6, 1, 3}, f, 14), repeated(one, 6), bias, false) == 1);
  // Transposed entries whose rows number as many as their columns, and entries that overlap.
  CHECK(check_product(turned(values({6, 3, 3}, f, 15)), repeated(one, 6), {}, false) == 1);
  CHECK(check_product(strided(values({60}, f, 16), {6, 5, 3}, {5, 1, 5}), repeated(one, 6), {},
                      false) == 1);
  // Two axes that no single stride describes: a call for each entry of the outer one.
  const Tensor deep = values({2, 3, 5, 3}, f, 10);
  CHECK(check_product(deep, repeated(values({3, 3, 4}, f, 11), 2), {}, false) == 2);
  CHECK(check_product(deep, values({2, 3, 3, 4}, f, 12), {}, false) == 1);
  // Two outer axes of one size.
  CHECK(check_product(values({2, 2, 3, 5, 3}, f, 17),
                      strided(values({2, 3, 4}, f, 18), {2, 2, 3, 3, 4}, {0, 12, 0, 4, 1}), {},
                      false) == 4);
}

TEST_CASE("no depth, no elements", "[blas_test]") {
  const DType f = DType::float32;
  CHECK(check_product(values({4, 0}, f, 1), values({0, 3}, f, 2), values({3}, f, 3), false) == 0);
  CHECK(check_product(values({4, 0}, f, 1), values({0, 3}, f, 2), {}, true) == 0);
  CHECK(check_product(values({0, 2}, f, 1), values({2, 3}, f, 2), {}, false) == 0);
}

TEST_CASE("a build without cuBLAS refuses it and says what has it", "[blas_test]") {
  CHECK(matmul_library() == MatmulLibrary::own);
  if (built_with_cublas()) return;
  std::string text;
  try {
    set_matmul_library(MatmulLibrary::cublas);
  } catch (const DeviceError& e) {
    text = e.what();
  }
  CHECK(text.find("-DFLOWGRAD_CUBLAS=ON") != std::string::npos);
  CHECK(matmul_library() == MatmulLibrary::own);
  set_matmul_library(MatmulLibrary::own);
}

TEST_CASE("cuBLAS agrees with our kernels", "[blas_test]") {
  if (!built_with_cublas()) return;
  struct Chosen {
    Chosen() { set_matmul_library(MatmulLibrary::cublas); }
    ~Chosen() { set_matmul_library(MatmulLibrary::own); }
  } const chosen;
  for (const DType f : {DType::float32, DType::float64}) {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{1, 1, 1}, {5, 7, 3}, {33, 130, 65}, {256, 256, 256}}) {
      const std::vector<Tensor> operands{values({m, n}, f, 4), values({m, k}, f, 1),
                                         turned(values({n, k}, f, 2)), values({n}, f, 3)};
      for (const bool accumulate : {false, true}) {
        same_as_reference("cuBLAS", operands, 1, [&](Backend& backend, const std::vector<View>& v) {
          backend.matmul(v[1], v[2], v[3], accumulate, v[0]);
        });
      }
    }
  }
}
