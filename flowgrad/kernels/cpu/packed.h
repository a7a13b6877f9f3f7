#pragma once

#include <utility>

#include "flowgrad/kernels/cpu/gemm.h"

namespace flowgrad::kernels::cpu {

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
  /// c (m, n) = a (m, k) B [+ bias] [+ c], all contiguous.
  void multiply(std::int64_t m, const T* a, T* c, const T* bias, bool accumulate = false) const {
    Gemm<T> g;
    g.m = m, g.n = n, g.k = k;
    g.a = a, g.a_row = k, g.a_col = 1;
    g.b = b, g.b_row = row, g.b_col = column;
    g.c = c, g.ldc = n;
    g.bias = bias;
    g.accumulate = accumulate;
    panels != nullptr ? gemm_packed(g, panels) : gemm(g);
  }
};

}  // namespace flowgrad::kernels::cpu
