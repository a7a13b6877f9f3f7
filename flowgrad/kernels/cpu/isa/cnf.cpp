// The elementwise parts of a continuous flow's solve and of its adjoint, over tiles of rows.

#include "flowgrad/kernels/cpu/isa/math.h"
#include "flowgrad/kernels/cpu/isa/shuffle.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::CnfTable;
using cpu::CnfTables;
using cpu::FewInputs;
using std::int64_t;

template <class T>
FG_INLINE vec<T> slope_of(vec<T> h) {
  return fma(-h, h, vec<T>(1));
}

/// Calls f(j, registers, count) for columns of `units`: four registers side by side, then one.
template <class T, class F>
FG_INLINE void for_columns(int64_t units, F f) {
  constexpr int W = vec<T>::size, kSideBySide = 4;
  using One = std::integral_constant<int, 1>;
  int64_t j = 0;
  for (; j + kSideBySide * W <= units; j += kSideBySide * W)
    f(j, std::integral_constant<int, kSideBySide>{}, std::integral_constant<int, W>{});
  for_registers<W>(
      units - j, [&](int64_t i, auto count)
                     __attribute__((always_inline)) { f(j + i, One{}, count); });
}

/// Columns of a row of the product, summed as gemm sums, or what lies at `there`.
template <class T, int C>
FG_INLINE void take_row(const FewInputs<T>& in, const T* there, int64_t row, int64_t units,
                        int64_t j, auto count, vec<T> (&sum)[C]) {
  if (in.rows == nullptr) {
    unroll<C>([&](auto c) __attribute__((always_inline)) {
      sum[c] = take(there + row * units + j + c * vec<T>::size, count);
    });
    return;
  }
  for (vec<T>& x : sum) x = vec<T>(0);
  for (int64_t i = 0; i < in.count; ++i) {
    const vec<T> a(in.rows[row * in.count + i]);
    const T* const b = in.weights + i * units + j;
    unroll<C>([&](auto c) __attribute__((always_inline)) {
      sum[c] = fma(a, take(b + c * vec<T>::size, count), sum[c]);
    });
  }
}

template <class T>
void first(const FewInputs<T>& in, const T* right, int64_t rows, int64_t units, T* one,
           T* tangent) {
  using V = vec<T>;
  for_columns<T>(
      units, [&](int64_t j, auto registers, auto count) __attribute__((always_inline)) {
        for (int64_t r = 0; r < rows; ++r) {
          V sum[registers];
          take_row(in, one, r, units, j, count, sum);
          unroll<registers>([&](auto c) __attribute__((always_inline)) {
            const int64_t i = r * units + j + c * V::size;
            const V h = tanh(sum[c]);
            put(h, one + i, count);
            if (tangent == nullptr) return;
            const V slope = slope_of(h);
            put(right != nullptr ? slope * take(right + i, count) : slope, tangent + i, count);
          });
        }
      });
}

template <class T>
void second(const T* bias, const T* left, const T* along, int64_t rows, int64_t units, T* two,
            T* trace) {
  using V = vec<T>;
  constexpr int W = V::size;
  for (int64_t r0 = 0; r0 < rows; r0 += W) {
    const int block = rows - r0 < W ? static_cast<int>(rows - r0) : W;
    V sums[W];
    unroll<W>([&](auto r) __attribute__((always_inline)) { sums[r] = V(0); });
    for (int r = 0; r < block; ++r) {
      const int64_t at = (r0 + r) * units;
      V sum(0);
      for_registers<W>(
          units, [&](int64_t i, auto count) __attribute__((always_inline)) {
            const V h = tanh(take(two + at + i, count) + take(bias + i, count));
            put(h, two + at + i, count);
            if (along == nullptr) return;
            // Lanes past the end hold zeros of `along`.
            V term = slope_of(h) * take(along + at + i, count);
            if (left != nullptr) term = term * take(left + at + i, count);
            sum = sum + term;
          });
      sums[r] = sum;
    }
    if (along == nullptr) continue;
    const V total = horizontal_sums(sums);
    if (block == W)
      total.store(trace + r0);
    else
      total.store(trace + r0, block);
  }
}

template <class T>
void second_grad(const FewInputs<T>& in, const T* two, const T* left, const T* g_trace,
                 const T* along, int64_t rows, int64_t units, T* g_along, T* g, T* g_bias,
                 T* g_left) {
  using V = vec<T>;
  for_columns<T>(
      units, [&](int64_t j, auto registers, auto count) __attribute__((always_inline)) {
        V total[registers];
        for (V& sum : total) sum = V(0);
        for (int64_t r = 0; r < rows; ++r) {
          V sum[registers];
          take_row(in, g, r, units, j, count, sum);
          unroll<registers>([&](auto c) __attribute__((always_inline)) {
            const int64_t i = r * units + j + c * V::size;
            const V h = take(two + i, count), slope = slope_of(h), product = take(along + i, count);
            V trace(g_trace[r]);
            if (left != nullptr) {
              put(fma(trace * slope, product, take(g_left + i, count)), g_left + i, count);
              trace = trace * take(left + i, count);
            }
            put(trace * slope, g_along + i, count);
            const V before = fma(V(-2) * h * trace, product, sum[c]) * slope;
            put(before, g + i, count);
            total[c] = total[c] + before;
          });
        }
        unroll<registers>([&](auto c) __attribute__((always_inline)) {
          T* const to = g_bias + j + c * V::size;
          put(take(to, count) + total[c], to, count);
        });
      });
}

template <class T>
void first_grad(const T* one, const T* right, const T* g_tangent, int64_t n, T* g, T* g_right) {
  using V = vec<T>;
  for_registers<V::size>(
      n, [&](int64_t i, auto count) __attribute__((always_inline)) {
        const V h = take(one + i, count), slope = slope_of(h);
        V along = take(g_tangent + i, count);
        if (right != nullptr) {
          put(fma(along, slope, take(g_right + i, count)), g_right + i, count);
          along = along * take(right + i, count);
        }
        put(fma(V(-2) * h, along, take(g + i, count)) * slope, g + i, count);
      });
}

template <class T>
constexpr CnfTable<T> table_of() {
  return {&first<T>, &second<T>, &second_grad<T>, &first_grad<T>};
}

}  // namespace

extern const CnfTables cnf_tables;
const CnfTables cnf_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
