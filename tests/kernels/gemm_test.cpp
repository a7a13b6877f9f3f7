#include "flowgrad/kernels/cpu/gemm.h"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/table_of.h"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::kernels::cpu;
using namespace flowgrad::testing;

namespace {

/// A matrix somewhere in a larger buffer, by strides of any size and sign.
template <class T>
struct Matrix {
  int64_t rows, columns, row, column, origin = 0;
  std::vector<T> data;

  Matrix(int64_t rows, int64_t columns, int layout, uint64_t seed)
      : rows(rows), columns(columns), row(columns), column(1) {
    switch (layout) {
      case 0: break;                                                // rows contiguous
      case 1: row = 1, column = std::max<int64_t>(rows, 1); break;  // columns contiguous
      case 2: row = columns + 3; break;                             // a gap behind each row
      case 3: row = 2 * columns + 1, column = 2; break;             // neither contiguous
      case 4: row = 2, column = 2 * rows + 1; break;
      default: row = -columns; break;  // rows backwards
    }
    const int64_t span = std::abs(row) * rows + std::abs(column) * columns + 1;
    if (row < 0) origin = -row * std::max<int64_t>(rows - 1, 0);
    data.resize(static_cast<size_t>(span));
    Dice dice(seed);
    for (T& x : data) x = static_cast<T>(dice.real(-1, 1));
  }
  const T* begin() const { return data.data() + origin; }
  T at(int64_t i, int64_t j) const { return begin()[i * row + j * column]; }
};

template <class T>
Gemm<T> product_of(const Matrix<T>& a, const Matrix<T>& b, T* c, int64_t ldc) {
  Gemm<T> g;
  g.m = a.rows, g.n = b.columns, g.k = a.columns;
  g.a = a.begin(), g.a_row = a.row, g.a_col = a.column;
  g.b = b.begin(), g.b_row = b.row, g.b_col = b.column;
  g.c = c, g.ldc = ldc;
  return g;
}

/// Worst |computed - exact| / (|A| |B| + |bias| + |C|) in units of the type's epsilon; also checks
/// that nothing outside C was written.
template <class T>
double error_of(int64_t m, int64_t n, int64_t k, int layout_a, int layout_b, bool bias,
                bool accumulate) {
  const Matrix<T> a(m, k, layout_a, 1), b(k, n, layout_b, 2), c0(m, n, 2, 3), row(1, n, 0, 4);
  std::vector<T> c = c0.data;
  Gemm<T> g = product_of(a, b, c.data(), c0.row);
  g.bias = bias ? row.begin() : nullptr;
  g.accumulate = accumulate;
  gemm(g);
  double worst = 0;
  std::vector<T> expected = c0.data;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      long double sum = bias ? row.at(0, j) : 0, size = std::abs(sum);
      if (accumulate) sum += c0.at(i, j), size += std::abs(c0.at(i, j));
      for (int64_t l = 0; l < k; ++l) {
        const long double p = static_cast<long double>(a.at(i, l)) * b.at(l, j);
        sum += p, size += std::abs(p);
      }
      T& got = c[static_cast<size_t>(i * c0.row + j)];
      const long double error = std::abs(got - sum) / (size + 1e-300L);
      if (!(error <= static_cast<long double>(worst))) worst = static_cast<double>(error);
      got = c0.at(i, j);
    }
  }
  REQUIRE(std::memcmp(c.data(), c0.data.data(), c.size() * sizeof(T)) == 0);
  return worst / static_cast<double>(std::numeric_limits<T>::epsilon());
}

template <class T>
void check_shapes() {
  int turn = 0;
  for (int64_t m : {0, 1, 2, 3, 5, 8, 13, 14, 15, 24, 29, 64}) {
    for (int64_t n : {0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33, 65, 130}) {
      for (int64_t k : {0, 1, 2, 7, 31, 33, 64, 257, 600}) {
        // Every pair of layouts and flags comes up many times over all shapes.
        for (int repeat = 0; repeat < 2; ++repeat, ++turn) {
          const int layout_a = turn % 6, layout_b = turn / 6 % 6;
          const bool bias = turn % 7 < 3, accumulate = turn % 5 < 2;
          const double error = error_of<T>(m, n, k, layout_a, layout_b, bias, accumulate);
          CAPTURE(m, n, k, layout_a, layout_b, bias, accumulate);
          REQUIRE(error <= 3);
        }
      }
    }
  }
}

template <class T>
std::vector<T> result(const Matrix<T>& a, const Matrix<T>& b, bool accumulate = false,
                      const T* bias = nullptr) {
  std::vector<T> c(static_cast<size_t>(a.rows * b.columns), T(0.3));
  Gemm<T> g = product_of(a, b, c.data(), b.columns);
  g.accumulate = accumulate;
  g.bias = bias;
  gemm(g);
  return c;
}

template <class T>
void check_rows() {
  // Narrow, one panel, several panels, several depth blocks; few rows of the larger ones are
  // computed as a transposed product.
  const std::vector<std::pair<int64_t, int64_t>> shapes{
      {1, 300},  {2, 5},    {2, 128}, {3, 2500},  {8, 70},    {16, 33}, {31, 9},
      {32, 256}, {64, 257}, {100, 1}, {130, 520}, {301, 530}, {20, 32}, {4, 1}};
  int turn = 0;
  for (const auto& [n, k] : shapes) {
    const Matrix<T> row(1, n, 0, 7);
    for (int layout_a : {0, 1, 3}) {
      for (int layout_b : {0, 1, 3}) {
        const int64_t m = 67;
        const bool accumulate = turn % 2 == 1;
        const T* const bias = turn++ % 4 < 3 ? row.begin() : nullptr;
        const Matrix<T> a(m, k, layout_a, 5), b(k, n, layout_b, 6);
        const std::vector<T> all = result(a, b, accumulate, bias);
        for (int64_t rows : {1, 2, 3, 5, 6, 8, 13, 14, 15, 17, 22, 30}) {
          for (int64_t first : {int64_t{0}, int64_t{21}, m - rows}) {
            Matrix<T> part = a;
            part.rows = rows;
            part.origin += first * a.row;
            const std::vector<T> some = result(part, b, accumulate, bias);
            CAPTURE(n, k, layout_a, layout_b, rows, first, accumulate, bias != nullptr);
            REQUIRE(std::memcmp(some.data(), all.data() + first * n, some.size() * sizeof(T)) == 0);
          }
        }
      }
    }
  }
}

/// Rows 0 to m of a packed product, [bias +] A B [+ C], against those of the product of nine rows
/// and, where B is not narrow, of the plain product; C's gaps stay as they were.
template <class T>
void check_packed() {
  for (const int64_t n : {1, 8, 16, 31, 64, 65, 128, 141, 256, 270}) {
    for (const int64_t k : {1, 7, 256, 257, 600}) {
      for (const bool accumulate : {false, true}) {
        const Matrix<T> a(9, k, n % 2 == 0 ? 0 : 1, 21), b(k, n, 1, 22), row(1, n, 0, 23),
            c0(9, n, 2, 24);
        std::vector<T> panels(static_cast<size_t>(packed_elements<T>(k, n)));
        pack_matrix(b.begin(), b.row, b.column, k, n, panels.data());
        const auto rows_of_product = [&](int64_t m, bool packed) {
          std::vector<T> c = c0.data;
          Gemm<T> g = product_of(a, b, c.data(), c0.row);
          g.m = m;
          g.bias = row.begin();
          g.accumulate = accumulate;
          packed ? gemm_packed(g, panels.data()) : gemm(g);
          return c;
        };
        const std::vector<T> tall = rows_of_product(9, true);
        CAPTURE(n, k, accumulate);
        if (!is_narrow<T>(k, n)) REQUIRE((tall == rows_of_product(9, false)));
        for (const int64_t m : {1, 2, 3}) {
          std::vector<T> want = c0.data;
          std::copy_n(tall.begin(), m * c0.row, want.begin());
          REQUIRE((rows_of_product(m, true) == want));
        }
      }
    }
  }
}

/// Items of a batch, of which one operand may be shared, against products of their own.
template <class T>
void check_batches() {
  constexpr int64_t kCount = 5;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                {2, 2, 2},
                                {3, 4, 5},
                                {8, 8, 8},
                                {16, 17, 16},
                                {9, 32, 31},
                                {32, 5, 7},
                                {5, 2, 40},
                                {33, 3, 2}}) {
    for (int layout_a : {0, 1, 3, 5}) {
      for (int layout_b : {0, 1, 3, 5}) {
        for (int shared : {0, 1, 2}) {
          const bool accumulate = (layout_a + layout_b + shared) % 2 == 1;
          const Matrix<T> a(kCount * m, k, layout_a, 31), b(kCount * k, n, layout_b, 32),
              row(1, n, 0, 33), c0(kCount * m, n, 2, 34);
          Gemm<T> g = product_of(a, b, static_cast<T*>(nullptr), c0.row);
          g.m = m;
          g.accumulate = accumulate;
          g.bias = shared == 0 ? row.begin() : nullptr;
          g.gate = shared == 1 ? c0.begin() : nullptr;
          const int64_t a_item = shared == 1 ? 0 : m * a.row, b_item = shared == 2 ? 0 : k * b.row,
                        c_item = m * c0.row;
          std::vector<T> got = c0.data, want = c0.data;
          g.c = got.data();
          gemm_batch(g, kCount, a_item, b_item, c_item);
          for (int64_t i = 0; i < kCount; ++i) {
            Gemm<T> one = g;
            one.a += i * a_item;
            one.b += i * b_item;
            one.c = want.data() + i * c_item;
            if (g.gate != nullptr) one.gate += i * c_item;
            gemm(one);
          }
          CAPTURE(m, n, k, layout_a, layout_b, shared, accumulate);
          REQUIRE((got == want));
        }
      }
    }
  }
}

/// A relu in f and a gate, which meet sums in registers, against the kernels after the product.
template <class T>
void check_gates(int64_t m, int64_t n, int64_t k, int layout_a, int layout_b, bool accumulate) {
  Matrix<T> a(m, k, layout_a, 41), b(k, n, layout_b, 42), row(1, n, 0, 43), gate(m, n, 2, 44),
      c0(m, n, 2, 45);
  row.data[0] = T(-0.0);
  const T values[] = {T(0), T(-0.0), std::numeric_limits<T>::quiet_NaN(),
                      std::numeric_limits<T>::infinity()};
  for (size_t i = 0; i < gate.data.size(); i += 3) gate.data[i] = values[i / 3 % 4];
  if (m > 4 && k > 0) {
    a.data[static_cast<size_t>(a.origin)] = values[2];
    for (int64_t i = 0; i < k; ++i)
      a.data[static_cast<size_t>(a.origin + 2 * a.row + i * a.column)] = T(0);
  }
  std::vector<T> panels(static_cast<size_t>(packed_elements<T>(k, n)));
  pack_matrix(b.begin(), b.row, b.column, k, n, panels.data());
  const auto relu = elementwise_table<T>().unary[number::unary_relu];
  const auto relu_grad = elementwise_table<T>().unary_grad[number::unary_relu];
  for (const bool packed : {false, true}) {
    for (const bool is_gated : {false, true}) {
      std::vector<T> got = c0.data, want = c0.data;
      Gemm<T> g = product_of(a, b, want.data(), c0.row);
      g.bias = row.begin();
      g.accumulate = accumulate;
      const auto run = [&] { packed ? gemm_packed(g, panels.data()) : gemm(g); };
      run();
      for (int64_t i = 0; i < m; ++i) {
        T* const at = want.data() + i * c0.row;
        if (is_gated)
          relu_grad(at, gate.begin() + i * gate.row, nullptr, at, n, T(0), T(0));
        else
          relu(at, at, n, T(0), T(0));
      }
      g.c = got.data();
      g.f = is_gated ? nullptr : relu;
      g.gate = is_gated ? gate.begin() : nullptr;
      run();
      CAPTURE(m, n, k, layout_a, layout_b, accumulate, packed, is_gated);
      REQUIRE(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("a batch has the bits of its items", "[gemm_test]") {
  each_instruction_set([&] {
    check_batches<float>();
    check_batches<double>();
  });
}

TEST_CASE("relu and its gradient have their bits within a product", "[gemm_test]") {
  CpuSettings restore;
  set_num_threads(2);
  each_instruction_set([&] {
    int turn = 0;
    for (int64_t m : {1, 3, 5, 9, 40, 67, 300}) {
      for (int64_t n : {1, 3, 16, 31, 64, 130, 300}) {
        for (int64_t k : {0, 7, 40, 257, 600}) {
          const int layout_a = turn % 6, layout_b = turn / 6 % 6;
          check_gates<float>(m, n, k, layout_a, layout_b, turn % 5 < 2);
          check_gates<double>(m, n, k, layout_b, layout_a, turn++ % 3 < 2);
        }
      }
    }
  });
}

TEST_CASE("products of odd shapes in every layout", "[gemm_test]") {
  each_instruction_set([&] {
    check_shapes<float>();
    check_shapes<double>();
  });
}

TEST_CASE("large products, where A is packed and B comes in slabs", "[gemm_test]") {
  each_instruction_set([&] {
    for (int layout : {0, 1, 3}) {
      CHECK(error_of<float>(75, 140, 512, layout, 0, false, false) <= 3);
      CHECK(error_of<double>(75, 140, 512, layout, 1, true, false) <= 3);
      CHECK(error_of<float>(1030, 140, 70, layout, 0, false, true) <= 3);
      CHECK(error_of<double>(521, 70, 66, layout, 0, false, false) <= 3);
    }
  });
  CHECK(error_of<float>(40, 33000, 260, 0, 0, false, false) <= 3);
}

template <class T>
void check_packing(int64_t m, int64_t n, int64_t k) {
  for (int layout_a : {0, 1, 3}) {
    for (int layout_b : {0, 1, 3}) {
      const Matrix<T> a(m, k, layout_a, 5), b(k, n, layout_b, 6), row(1, n, 0, 7);
      const bool accumulate = layout_a == layout_b;
      set_num_threads(3);
      const std::vector<T> ahead = result(a, b, accumulate, row.begin());
      set_num_threads(1);
      CAPTURE(m, n, k, layout_a, layout_b);
      CHECK(ahead == result(a, b, accumulate, row.begin()));
    }
  }
}

TEST_CASE("one thread packs B on its way over it, several before", "[gemm_test]") {
  CpuSettings restore;
  each_instruction_set([&] {
    // More rows than a group of tiles has, panels that end within one, several depth blocks; an A
    // that is packed too.
    check_packing<float>(350, 77, 1030);
    check_packing<double>(350, 45, 530);
    check_packing<float>(400, 140, 1024);
    // With a function rows come in chunks, of which the first packs.
    const Matrix<float> a(700, 540, 0, 5), b(540, 77, 0, 6);
    const auto silu = unary_kernel<float>(UnaryOp::silu);
    std::vector<float> want = result(a, b), got(want.size());
    silu(want.data(), want.data(), static_cast<int64_t>(want.size()), 0, 0);
    Gemm<float> g = product_of(a, b, got.data(), b.columns);
    g.f = silu;
    gemm(g);
    CHECK(got == want);
  });
}

TEST_CASE("depth 1024 stays within two epsilon", "[gemm_test]") {
  each_instruction_set([&] {
    CHECK(error_of<float>(64, 64, 1024, 0, 0, false, false) <= 2);
    CHECK(error_of<float>(64, 2, 1024, 0, 0, false, false) <= 2);
    CHECK(error_of<double>(64, 64, 1024, 0, 1, false, false) <= 2);
  });
}

TEST_CASE("a row does not depend on the rows beside it", "[gemm_test]") {
  each_instruction_set([&] {
    check_rows<float>();
    check_rows<double>();
  });
}

TEST_CASE("a few rows times a packed matrix have the bits of many", "[gemm_test]") {
  each_instruction_set([&] {
    check_packed<float>();
    check_packed<double>();
  });
}

TEST_CASE("the layout of A does not change the order of a sum", "[gemm_test]") {
  each_instruction_set([&] {
    for (int64_t n : {1, 2, 4, 8, 40}) {
      const Matrix<float> a(37, 4300, 0, 11), b(4300, n, 0, 12);
      Matrix<float> turned(37, 4300, 1, 11);
      for (int64_t i = 0; i < 37; ++i)
        for (int64_t k = 0; k < 4300; ++k)
          turned.data[static_cast<size_t>(i * turned.row + k * turned.column)] = a.at(i, k);
      CAPTURE(n);
      CHECK(result(a, b) == result(turned, b));
    }
  });
}

TEST_CASE("same bits at any number of threads", "[gemm_test]") {
  CpuSettings restore;
  const std::vector<std::array<int64_t, 3>> shapes{{257, 200, 300}, {20, 700, 400}, {1, 900, 600},
                                                   {3000, 3, 200},  {70, 33, 5000}, {512, 2, 1024},
                                                   {24, 900, 700}};
  for (const auto& [m, n, k] : shapes) {
    for (int layout_a : {0, 1}) {
      const Matrix<float> a(m, k, layout_a, 7), b(k, n, 1 - layout_a, 8), row(1, n, 0, 9);
      set_num_threads(1);
      const std::vector<float> one = result(a, b, false, row.begin());
      for (int threads : {2, 3, 4, 7}) {
        set_num_threads(threads);
        CAPTURE(m, n, k, threads);
        REQUIRE(one == result(a, b, false, row.begin()));
      }
    }
  }
}

TEST_CASE("NaN and infinity pass through a product", "[gemm_test]") {
  for (int64_t n : {2, 40}) {
    Matrix<float> a(5, 50, 0, 9), b(50, n, 0, 10);
    a.data[2 * 50 + 7] = std::numeric_limits<float>::quiet_NaN();
    a.data[3 * 50 + 49] = std::numeric_limits<float>::infinity();
    const std::vector<float> c = result(a, b);
    for (int64_t j = 0; j < n; ++j) {
      CHECK(std::isfinite(c[static_cast<size_t>(n + j)]));
      CHECK(std::isnan(c[static_cast<size_t>(2 * n + j)]));
      CHECK(std::isinf(c[static_cast<size_t>(3 * n + j)]));
      CHECK(std::isfinite(c[static_cast<size_t>(4 * n + j)]));
    }
  }
}

TEST_CASE("an unknown instruction set is refused by name", "[gemm_test]") {
  CpuSettings restore;
  CHECK_THROWS_AS(set_isa("mmx"), ValueError);
  CHECK_THROWS_WITH(set_isa("mmx"),
                    Catch::Matchers::StartsWith(
                        "FLOWGRAD_ISA: unknown instruction set 'mmx'; this processor accepts: ") &&
                        Catch::Matchers::EndsWith("baseline"));
}
