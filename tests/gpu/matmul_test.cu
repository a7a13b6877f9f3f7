// The matmul kernels against the reference loops, and against each other: all of them must give the
// same bits.
#include "flowgrad/kernels/cuda/matmul.h"

#include <cmath>
#include <limits>

#include "gpu/backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;
using cuda::MatmulKernel;
using cuda::MatmulPlan;

namespace {

using V = std::vector<double>;

constexpr MatmulKernel kKernels[] = {MatmulKernel::element, MatmulKernel::narrow,
                                     MatmulKernel::wide, MatmulKernel::medium, MatmulKernel::large};

Tensor transposed_last(const Tensor& t) {
  return t.with_layout(transposed("test", t.layout(), -1, -2));
}

/// A matrix under one of six layouts: rows contiguous, columns contiguous, a gap of four or of one
/// behind each row, a base that is no multiple of 16 bytes, anything.
Tensor matrix(int64_t rows, int64_t columns, DType dtype, int layout, uint64_t seed) {
  const Tensor plain = values({rows, columns}, dtype, seed);
  if (layout == 0) return plain;
  if (layout == 1) return transposed_last(values({columns, rows}, dtype, seed));
  if (layout == 5) return strided(plain, seed);
  const int64_t pitch = columns + (layout == 2 ? 4 : layout == 3 ? 1 : 0);
  const Tensor roomy = values({rows + 1, pitch}, dtype, seed);
  return roomy.with_layout(
      Layout{Shape{rows, columns}, Strides{pitch, 1}, layout == 4 ? 1 : int64_t{0}});
}

struct Product {
  Tensor a, b, bias, out;
  bool accumulate = false;

  /// Values of out on the device after one call; plan nullptr: the backend chooses.
  std::vector<char> on_device(const MatmulPlan* plan) const {
    const OnDevice da(a), db(b), dc(out);
    std::unique_ptr<OnDevice> row;
    if (bias.defined()) row = std::make_unique<OnDevice>(bias);
    cuda::matmul(plan, da.view(), db.view(), row ? row->view() : View(), accumulate, dc.view());
    gpu::synchronize(gpu::default_stream());
    CHECK(da.is_untouched());
    CHECK(db.is_untouched());
    const Tensor got = dc.back();
    const char* data = static_cast<const char*>(got.storage().data());
    return std::vector<char>(data, data + got.storage().bytes());
  }
};

/// Worst |got - exact| / (|a| |b| + |bias| + |old|) over a matrix, in units of epsilon.
template <class T>
double error_of(const Product& p, const std::vector<char>& got) {
  const int64_t m = p.out.shape()[0], n = p.out.shape()[1], k = p.a.shape()[1];
  const V a = p.a.to_vector<double>(), b = p.b.to_vector<double>(), old = p.out.to_vector<double>();
  const V bias = p.bias.defined() ? p.bias.to_vector<double>() : V(static_cast<size_t>(n));
  double worst = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(i * n + j);
      long double sum = bias[static_cast<size_t>(j)], size = std::abs(sum);
      if (p.accumulate) sum += old[at], size += std::abs(old[at]);
      for (int64_t l = 0; l < k; ++l) {
        const long double x = static_cast<long double>(a[static_cast<size_t>(i * k + l)]) *
                              b[static_cast<size_t>(l * n + j)];
        sum += x, size += std::abs(x);
      }
      T value;
      std::memcpy(&value, got.data() + at * sizeof(T), sizeof(T));
      const auto error =
          static_cast<double>(std::abs(static_cast<long double>(value) - sum) / (size + 1e-300L));
      if (!(error <= worst)) worst = error;  // NaN included
    }
  }
  return worst / static_cast<double>(std::numeric_limits<T>::epsilon());
}

Product product(int64_t m, int64_t n, int64_t k, DType dtype, int layout_a, int layout_b, bool bias,
                bool accumulate) {
  Product p{matrix(m, k, dtype, layout_a, 1), matrix(k, n, dtype, layout_b, 2), Tensor(),
            values({m, n}, dtype, 3), accumulate};
  if (bias) p.bias = strided(values({n}, dtype, 4), 8);
  return p;
}

template <class T>
void check_kernels(int64_t m, int64_t n, int64_t k, int layout_a, int layout_b, bool bias,
                   bool accumulate) {
  CAPTURE(m, n, k, layout_a, layout_b, bias, accumulate);
  const Product p = product(m, n, k, dtype_of<T>(), layout_a, layout_b, bias, accumulate);
  const MatmulPlan simple{MatmulKernel::element};
  const std::vector<char> want = p.on_device(&simple);
  // Within one chunk a sum of float32 wanders: the worst of thousands of elements passes 2.
  REQUIRE(error_of<T>(p, want) <= (k > 256 ? 2 : 3));
  for (const MatmulKernel kernel : kKernels) {
    for (const bool split : {false, true}) {
      if (split && k <= cuda::matmul_chunk(k)) continue;
      const MatmulPlan plan{kernel, split, 65535};
      CAPTURE(static_cast<int>(kernel), split);
      REQUIRE((p.on_device(&plan) == want));  // in brackets: no dump of bytes
    }
  }
  REQUIRE((p.on_device(nullptr) == want));
}

}  // namespace

TEST_CASE("every kernel gives the same bits, at sizes around each tile edge", "[matmul_test]") {
  const std::vector<std::array<int64_t, 3>> shapes{
      {1, 1, 1},     {1, 16, 8},     {2, 17, 7},    {15, 15, 9},   {16, 129, 16}, {17, 1, 17},
      {31, 33, 128}, {33, 65, 129},  {64, 64, 136}, {63, 2, 256},  {65, 63, 257}, {127, 128, 15},
      {128, 16, 64}, {129, 127, 31}, {5, 257, 130}, {257, 5, 136}, {128, 128, 8}, {132, 68, 300}};
  int turn = 0;
  for (const auto& [m, n, k] : shapes) {
    for (int repeat = 0; repeat < 3; ++repeat, ++turn) {
      const int layout_a = turn % 6, layout_b = (turn / 6 + turn) % 6;
      check_kernels<float>(m, n, k, layout_a, layout_b, turn % 5 < 2, turn % 7 < 3);
    }
    check_kernels<double>(m, n, k, turn % 6, turn / 6 % 6, turn % 5 < 2, turn % 7 < 3);
  }
}

TEST_CASE("the four transposes in vectors, aligned and not", "[matmul_test]") {
  for (const int layout_a : {0, 1, 2, 4}) {
    for (const int layout_b : {0, 1, 2, 4}) {
      check_kernels<float>(68, 132, 140, layout_a, layout_b, true, false);
      check_kernels<double>(66, 70, 26, layout_a, layout_b, false, true);
    }
  }
}

TEST_CASE("deep products: long chunks, split or not", "[matmul_test]") {
  CHECK(cuda::matmul_chunk(0) == 128);
  CHECK(cuda::matmul_chunk(4096) == 128);
  CHECK(cuda::matmul_chunk(4097) == 256);
  CHECK(cuda::matmul_chunk(1 << 20) == 32768);
  check_kernels<float>(5, 6, 4099, 0, 1, true, true);
  check_kernels<float>(20, 24, 1024, 1, 0, false, false);
  check_kernels<double>(3, 18, 8200, 1, 1, false, true);
  // Values of one sign, whose sums grow: here short chunks matter.
  const Product p{values({4, 4000}, DType::float32, 1, 0.5, 1.5),
                  values({4000, 20}, DType::float32, 2, 0.5, 1.5), Tensor(),
                  Tensor::empty({4, 20}, DType::float32)};
  CHECK(error_of<float>(p, p.on_device(nullptr)) <= 2);
}

TEST_CASE("batches: broadcast, strided, merged", "[matmul_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const auto check = [&](const Tensor& a, const Tensor& b, const Shape& batch, int64_t m,
                           int64_t n, int64_t k) {
      Shape shape = batch;
      shape.push_back(m);
      shape.push_back(n);
      Shape shape_a = batch, shape_b = batch;
      shape_a.push_back(m), shape_a.push_back(k);
      shape_b.push_back(k), shape_b.push_back(n);
      const Tensor wide_a = a.with_layout(expanded("test", a.layout(), shape_a));
      const Tensor wide_b = b.with_layout(expanded("test", b.layout(), shape_b));
      const Tensor bias = values({n}, dtype, 9);
      for (const bool accumulate : {false, true}) {
        same_as_reference("matmul", {values(shape, dtype, 8), wide_a, wide_b, bias}, 1,
                          [&](Backend& be, const std::vector<View>& v) {
                            be.matmul(v[1], v[2], accumulate ? View() : v[3], accumulate, v[0]);
                          });
      }
    };
    const auto of = [&](const Shape& shape, uint64_t seed) { return values(shape, dtype, seed); };
    check(of({2, 1, 3, 4}, 1), of({5, 4, 2}, 2), {2, 5}, 3, 2, 4);
    check(strided(of({2, 1, 3, 4}, 1), 3), strided(of({5, 4, 2}, 2), 4), {2, 5}, 3, 2, 4);
    check(of({4, 20, 36}, 1), of({36, 24}, 2), {4}, 20, 24, 36);  // the rows of one product
    check(of({20, 36}, 1), of({4, 36, 24}, 2), {4}, 20, 24, 36);
    check(of({3, 7, 18, 33}, 1), of({7, 33, 40}, 2), {3, 7}, 18, 40, 33);
    check(of({6, 1, 20}, 1), of({6, 20, 30}, 2), {6}, 1, 30, 20);
    check(of({6, 33, 20}, 1), of({6, 20, 1}, 2), {6}, 33, 1, 20);
    check(strided(of({2, 2, 2, 2, 2, 17, 5}, 1), 7), strided(of({2, 1, 2, 1, 2, 5, 19}, 2), 8),
          {2, 2, 2, 2, 2}, 17, 19, 5);
    check(of({2, 18, 260}, 1), of({2, 260, 18}, 2), {2}, 18, 18, 260);  // split, in batches
  }
}

TEST_CASE("a batch of vectors keeps to aligned entries", "[matmul_test]") {
  // Entries of 3 x 20 are aligned, entries of 3 x 5 elements are not: the second falls back.
  for (const int64_t rows : {20, 21}) {
    const Tensor a = values({3, rows, 20}, DType::float32, 1);
    const Tensor b = values({3, rows, 20}, DType::float32, 2);
    const MatmulPlan plan{MatmulKernel::medium};
    same_as_reference("a b^T",
                      {Tensor::empty({3, rows, rows}, DType::float32), a, transposed_last(b)}, 1,
                      [&](Backend& be, const std::vector<View>& v) {
                        if (&be == &cuda_backend())
                          cuda::matmul(&plan, v[1], v[2], View(), false, v[0]);
                        else
                          be.matmul(v[1], v[2], View(), false, v[0]);
                      });
  }
}

TEST_CASE("an output that begins at an odd place", "[matmul_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const auto& [m, n] :
         std::vector<std::pair<int64_t, int64_t>>{{68, 132}, {40, 8}, {5, 36}}) {
      const Tensor out =
          values({m * n + 1}, dtype, 3).with_layout(Layout{Shape{m, n}, Strides{n, 1}, 1});
      same_as_reference("matmul", {out, values({m, 20}, dtype, 1), values({20, n}, dtype, 2)}, 1,
                        [](Backend& be, const std::vector<View>& v) {
                          be.matmul(v[1], v[2], View(), true, v[0]);
                        });
    }
  }
}

TEST_CASE("more entries of a batch than one launch takes", "[matmul_test]") {
  const Tensor a = values({7, 17, 5}, DType::float32, 1);
  const Tensor b = strided(values({7, 5, 3}, DType::float32, 2), 2);
  for (const MatmulKernel kernel : {MatmulKernel::narrow, MatmulKernel::large}) {
    const MatmulPlan plan{kernel, false, 3};
    same_as_reference("matmul", {Tensor::empty({7, 17, 3}, DType::float32), a, b}, 1,
                      [&](Backend& be, const std::vector<View>& v) {
                        if (&be == &cuda_backend())
                          cuda::matmul(&plan, v[1], v[2], View(), false, v[0]);
                        else
                          be.matmul(v[1], v[2], View(), false, v[0]);
                      });
  }
}

TEST_CASE("empty sizes", "[matmul_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const auto& [m, n] :
         std::vector<std::pair<int64_t, int64_t>>{{2, 3}, {130, 140}, {40, 2}}) {
      const Tensor a = Tensor::empty({m, 0}, dtype), b = Tensor::empty({0, n}, dtype);
      for (const bool bias : {false, true}) {
        for (const bool accumulate : {false, true}) {
          same_as_reference("K = 0", {values({m, n}, dtype, 1), a, b, values({n}, dtype, 2)}, 1,
                            [&](Backend& be, const std::vector<View>& v) {
                              be.matmul(v[1], v[2], bias ? v[3] : View(), accumulate, v[0]);
                            });
        }
      }
    }
    const auto nothing = [&](const Shape& a, const Shape& b, const Shape& out) {
      same_as_reference(
          "no output",
          {Tensor::empty(out, dtype), Tensor::empty(a, dtype), Tensor::empty(b, dtype)}, 1,
          [](Backend& be, const std::vector<View>& v) {
            be.matmul(v[1], v[2], View(), false, v[0]);
          });
    };
    nothing({0, 3}, {3, 2}, {0, 2});
    nothing({4, 2, 3}, {4, 3, 0}, {4, 2, 0});
    nothing({0, 2, 3}, {0, 3, 2}, {0, 2, 2});
  }
}

TEST_CASE("a row's bits do not depend on the rows beside it", "[matmul_test]") {
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
           {2, 300}, {16, 40}, {40, 5}, {70, 200}, {130, 33}}) {
    for (const int layout : {0, 1, 5}) {
      const int64_t m = 150;
      const Product all = product(m, n, k, DType::float32, layout, layout, true, true);
      const std::vector<char> want = all.on_device(nullptr);
      const auto width = static_cast<size_t>(n) * sizeof(float);
      for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{
               {0, 1}, {149, 1}, {37, 5}, {60, 16}, {3, 17}, {50, 64}, {11, 130}}) {
        Product some = all;
        Layout a = all.a.layout(), out = all.out.layout();
        a.offset += first * a.strides[0], out.offset += first * out.strides[0];
        a.shape[0] = out.shape[0] = rows;
        some.a = all.a.with_layout(a);
        some.out = Tensor::from(all.out.with_layout(out).to_vector<float>(), {rows, n});
        CAPTURE(n, k, layout, first, rows);
        const std::vector<char> got = some.on_device(nullptr);
        REQUIRE(std::memcmp(got.data(), want.data() + static_cast<size_t>(first) * width,
                            got.size()) == 0);
      }
    }
  }
}

TEST_CASE("NaN and infinity stay in their rows", "[matmul_test]") {
  for (const MatmulKernel kernel : kKernels) {
    std::vector<float> a = random_floats(5 * 50, 1);
    a[2 * 50 + 7] = std::numeric_limits<float>::quiet_NaN();
    a[3 * 50 + 49] = std::numeric_limits<float>::infinity();
    const Product p{Tensor::from(a, {5, 50}), Tensor::from(random_floats(50 * 20, 2), {50, 20}),
                    Tensor(), Tensor::empty({5, 20}, DType::float32)};
    const MatmulPlan plan{kernel};
    const std::vector<char> got = p.on_device(&plan);
    for (size_t row = 0; row < 5; ++row) {
      for (size_t column = 0; column < 20; ++column) {
        float value;
        std::memcpy(&value, got.data() + (row * 20 + column) * sizeof(float), sizeof(float));
        CHECK(std::isnan(value) == (row == 2));
        CHECK(std::isinf(value) == (row == 3));
      }
    }
  }
}

TEST_CASE("which kernel runs", "[matmul_test]") {
  const auto kernel = [](DType dtype, int64_t batch, int64_t m, int64_t n, int64_t k) {
    return cuda::plan_matmul(dtype, batch, m, n, k).kernel;
  };
  CHECK(kernel(DType::float32, 1, 4096, 4096, 4096) == MatmulKernel::large);
  CHECK(kernel(DType::float64, 1, 4096, 4096, 4096) == MatmulKernel::medium);
  CHECK(kernel(DType::float32, 1, 512, 512, 512) == MatmulKernel::medium);
  CHECK(kernel(DType::float32, 64, 512, 512, 512) == MatmulKernel::large);
  CHECK(kernel(DType::float32, 1, 1, 512, 512) == MatmulKernel::wide);
  CHECK(kernel(DType::float32, 1, 8192, 2, 64) == MatmulKernel::narrow);
  CHECK(kernel(DType::float32, 1000, 4, 4, 4) == MatmulKernel::element);
  CHECK(cuda::plan_matmul(DType::float32, 1, 64, 64, 8192).split);
  CHECK_FALSE(cuda::plan_matmul(DType::float32, 1, 64, 64, 128).split);
  CHECK_FALSE(cuda::plan_matmul(DType::float32, 1, 4096, 4096, 8192).split);
}

TEST_CASE("refused operands", "[matmul_test]") {
  Backend& be = cuda_backend();
  const Tensor i = Tensor::empty({1, 1}, DType::int64), f = Tensor::empty({2, 2}, DType::float32),
               d = Tensor::empty({2, 2}, DType::float64);
  CHECK_THROWS_WITH(be.matmul(i, i, View(), false, i),
                    "matmul: dtype int64 given; float32 and float64 are accepted");
  CHECK_THROWS_WITH(be.matmul(f, d, View(), false, f), "matmul: b is float64; float32 is accepted");
  CHECK_THROWS_WITH(be.matmul(f, f, d, false, f), "matmul: bias is float64; float32 is accepted");
  CHECK_THROWS_WITH(be.matmul(f, f, View(), false, transposed_last(f)),
                    "matmul: out is not contiguous");
}
