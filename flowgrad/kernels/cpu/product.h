#pragma once

#include <utility>

#include "flowgrad/kernels/cpu/gemm.h"

namespace flowgrad::kernels::cpu {

/// An operand of a product: element (i, j) at data[i * row + j * column].
template <class T>
struct Matrix {
  const T* data;
  std::int64_t row, column;
};
template <class T>
Matrix<T> rows_of(const T* data, std::int64_t width) {
  return {data, width, 1};
}
template <class T>
Matrix<T> transposed(const T* data, std::int64_t width) {
  return {data, 1, width};
}

/// c (m, n), contiguous, = [c +] a (m, k) b (k, n) [+ bias].
template <class T>
Gemm<T> product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c,
                bool accumulate = false, const T* bias = nullptr) {
  Gemm<T> g;
  g.m = m, g.n = n, g.k = k;
  g.a = a.data, g.a_row = a.row, g.a_col = a.column;
  g.b = b.data, g.b_row = b.row, g.b_col = b.column;
  g.c = c, g.ldc = n;
  g.bias = bias;
  g.accumulate = accumulate;
  return g;
}
template <class T>
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c,
              bool accumulate = false, const T* bias = nullptr, const T* ahead = nullptr) {
  Gemm<T> g = product(m, n, k, a, b, c, accumulate, bias);
  g.ahead = ahead;
  gemm(g);
}

/// The B (k, n) of several products, read where it lies or packed in memory that the caller lends.
/// Element (i, j) is b[i * row + j * column].
template <class T>
struct Factor {
  const T* b;
  std::int64_t row, column, k, n;
  const T* panels = nullptr;

  /// Packs to `memory`, which moves on by packed_elements.
  Factor& pack(T*& memory) {
    T* const to = std::exchange(memory, memory + packed_elements<T>(k, n));
    pack_matrix(b, row, column, k, n, to);
    panels = to;
    return *this;
  }
  /// c (m, n) = f(a (m, k) B [+ bias] [+ c]), all contiguous.
  void multiply(std::int64_t m, const T* a, T* c, const T* bias, bool accumulate = false) const {
    run(product_with(m, a, c, accumulate, bias));
  }
  void multiply(std::int64_t m, const T* a, T* c, const T* bias, UnaryKernel<T> f,
                const T* ahead = nullptr) const {
    Gemm<T> g = product_with(m, a, c, false, bias);
    g.f = f;
    g.ahead = ahead;
    run(g);
  }
  /// c = a B, 0 where gate (m, n) is at most 0; `ahead` (m, n) is fetched meanwhile.
  void multiply_gated(std::int64_t m, const T* a, const T* gate, T* c,
                      const T* ahead = nullptr) const {
    Gemm<T> g = product_with(m, a, c, false, nullptr);
    g.gate = gate;
    g.ahead = ahead;
    run(g);
  }

 private:
  Gemm<T> product_with(std::int64_t m, const T* a, T* c, bool accumulate, const T* bias) const {
    return product<T>(m, n, k, rows_of(a, k), {b, row, column}, c, accumulate, bias);
  }
  void run(const Gemm<T>& g) const { panels != nullptr ? gemm_packed(g, panels) : gemm(g); }
};

}  // namespace flowgrad::kernels::cpu
