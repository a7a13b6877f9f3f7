// Layer normalisation of contiguous rows for one instruction set. The order of every sum depends on
// the row's length, or on the number of rows, only.

#include "flowgrad/kernels/cpu/isa/fold.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::NormRows;
using std::int64_t;

/// x - mean. The mean is two numbers of T, so that a row far from zero loses nothing to its
/// rounding.
template <class T>
struct Centre {
  vec<T> high, low;
  explicit FG_INLINE Centre(double mean)
      : high(mean), low(mean - static_cast<double>(static_cast<T>(mean))) {}
  FG_INLINE vec<T> operator()(vec<T> x) const { return (x - high) - low; }
};

/// The first `count` lanes, zeros behind them.
template <class T, int W>
FG_INLINE vec<T> keep(vec<T> v, std::integral_constant<int, W>) {
  return v;
}
template <class T>
FG_INLINE vec<T> keep(vec<T> v, int count) {
  T lanes[vec<T>::size];
  v.store(lanes);
  return vec<T>::load(lanes, count);
}

/// totals[k] = what f(i, count, sums) adds to sums[k] over the registers of a row of n. A few
/// registers are added up in T before they are widened.
template <class T, int Sums, class F>
FG_INLINE void add_up(int64_t n, double (&totals)[Sums], F f) {
  using V = vec<T>;
  constexpr std::integral_constant<int, kLanes<T>> W;
  Wide<T> wides[Sums];
  for (auto& w : wides) w = identities<Sum, T>();
  int64_t i = 0;
  const auto widen_all = [&](const V(&sums)[Sums]) __attribute__((always_inline)) {
    for (int k = 0; k < Sums; ++k) join_into<Sum>(wides[k], wide(sums[k]));
  };
  for (; i + 16 * W <= n; i += 16 * W) {
    V sums[4][Sums];
    for (auto& of_stream : sums)
      for (V& s : of_stream) s = V(0);
    for (int k = 0; k < 16; ++k) f(i + k * W, W, sums[k % 4]);
    for (int k = 0; k < Sums; ++k)
      sums[0][k] = join4<Sum, T>(sums[0][k], sums[1][k], sums[2][k], sums[3][k]);
    widen_all(sums[0]);
  }
  for (; i + 4 * W <= n; i += 4 * W) {
    V sums[Sums];
    for (V& s : sums) s = V(0);
    for (int k = 0; k < 4; ++k) f(i + k * W, W, sums);
    widen_all(sums);
  }
  for_registers<W>(
      n - i, [&](int64_t j, auto count) __attribute__((always_inline)) {
        V sums[Sums];
        for (V& s : sums) s = V(0);
        f(i + j, count, sums);
        widen_all(sums);
      });
  for (int k = 0; k < Sums; ++k) totals[k] = total_of(wides[k]);
}

/// A row of float32 whose squares, or differences, are beyond the type.
void layer_norm_in_double(const float* x, int64_t n, const float* weight, const float* bias,
                          double epsilon, float* out, double* statistics) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(n);
  const auto centred = [=](int64_t i) { return static_cast<double>(x[i]) - mean; };
  for (int64_t i = 0; i < n; ++i) squares += centred(i) * centred(i);
  const double scale = 1 / __builtin_sqrt(squares / static_cast<double>(n) + epsilon);
  statistics[0] = mean;
  statistics[1] = scale;
  for (int64_t i = 0; i < n; ++i) {
    const double v = centred(i) * scale * (weight != nullptr ? static_cast<double>(weight[i]) : 1);
    out[i] = static_cast<float>(v + (bias != nullptr ? static_cast<double>(bias[i]) : 0));
  }
}

template <class T>
void layer_norm(const NormRows<T>& r, double epsilon, T* out, double* statistics) {
  using V = vec<T>;
  const int64_t n = r.n;
  const double share = 1 / static_cast<double>(n);
  const T* const weight = r.weight;
  const T* const bias = r.bias;
  const T* x = r.x;
  for (int64_t row = 0; row < r.rows && n > 0; ++row, x += n, out += n, statistics += 2) {
    // From the first number on: what lies far from zero is added up near it.
    const V origin(x[0]);
    double sum[1], squares[1];
    add_up<T>(
        n, sum, [=](int64_t i, auto count, V* to) __attribute__((always_inline)) {
          *to = *to + keep(take(x + i, count) - origin, count);
        });
    const double mean = static_cast<double>(x[0]) + sum[0] * share;
    const Centre<T> centre(mean);
    add_up<T>(
        n, squares, [=](int64_t i, auto count, V* to) __attribute__((always_inline)) {
          const V d = keep(centre(take(x + i, count)), count);
          *to = fma(d, d, *to);
        });
    if constexpr (sizeof(T) == 4) {
      const double variance = squares[0] * share + epsilon;
      if (!(variance > 1e-30 && variance < 1e38)) {
        layer_norm_in_double(x, n, weight, bias, epsilon, out, statistics);
        continue;
      }
    }
    statistics[0] = mean;
    statistics[1] = 1 / __builtin_sqrt(squares[0] * share + epsilon);
    const V scale(statistics[1]);
    T* const to = out;
    for_registers<V::size>(
        n, [=](int64_t i, auto count) __attribute__((always_inline)) {
          V v = centre(take(x + i, count)) * scale;
          if (weight != nullptr) v = v * take(weight + i, count);
          if (bias != nullptr) v = v + take(bias + i, count);
          put(v, to + i, count);
        });
  }
}

/// The cotangent of a row of float32 whose products with the centred row are beyond the type.
void grad_in_double(const float* x, int64_t n, const float* weight, const double* statistics,
                    const float* g, float* g_x) {
  const double mean = statistics[0], scale = statistics[1], share = 1 / static_cast<double>(n);
  const auto given = [=](int64_t i) {
    return static_cast<double>(g[i]) * (weight != nullptr ? static_cast<double>(weight[i]) : 1);
  };
  const auto value = [=](int64_t i) { return (static_cast<double>(x[i]) - mean) * scale; };
  double sum = 0, along = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += given(i);
    along += given(i) * value(i);
  }
  for (int64_t i = 0; i < n; ++i)
    g_x[i] = static_cast<float>(scale * (given(i) - sum * share - value(i) * along * share));
}

/// Rows rows, read from end to end side by side: their cotangents, and what they add to the
/// gradients of weight and bias, see NormTable.
template <int Rows, class T>
FG_INLINE void grad_of_rows(const NormRows<T>& r, int64_t row, const double* statistics, const T* g,
                            T* g_x, T* few, int64_t columns) {
  using V = vec<T>;
  const int64_t n = r.n, at = row * n;
  const double share = 1 / static_cast<double>(n);
  const T* const x = r.x + at;
  const T* const weight = r.weight;
  g += at;
  if (g_x != nullptr) g_x += at;
  V high[Rows], low[Rows], scale[Rows], mean[Rows], along[Rows];
  [[maybe_unused]] bool overflows[Rows] = {};
  for (int k = 0; k < Rows; ++k) {
    const double s = statistics[2 * (row + k) + 1];
    const Centre<T> centre(statistics[2 * (row + k)]);
    high[k] = centre.high;
    low[k] = centre.low;
    scale[k] = V(s);
    if (g_x == nullptr) continue;
    const T* const from = x + k * n;
    const T* const given = g + k * n;
    double total[2];  // of the weighted cotangent, and of it times the centred row
    add_up<T>(
        n, total, [=](int64_t i, auto count, V* to) __attribute__((always_inline)) {
          V h = take(given + i, count);
          if (weight != nullptr) h = h * take(weight + i, count);
          to[0] = to[0] + h;
          to[1] = fma(h, centre(take(from + i, count)), to[1]);
        });
    overflows[k] = !(total[0] - total[0] == 0 && total[1] - total[1] == 0);
    mean[k] = V(total[0] * share);
    along[k] = V(total[1] * share * s * s);
  }
  for_registers<V::size>(
      n, [&](int64_t i, auto count) __attribute__((always_inline)) {
        V to_weight(0), to_bias(0);
        const V w = weight == nullptr ? V(1) : take(weight + i, count);
        for (int k = 0; k < Rows; ++k) {
          const V given = take(g + k * n + i, count);
          const V d = (take(x + k * n + i, count) - high[k]) - low[k];
          to_weight = fma(given * scale[k], d, to_weight);
          to_bias = to_bias + given;
          if (g_x != nullptr)
            put(fma(-d, along[k], given * w - mean[k]) * scale[k], g_x + k * n + i, count);
        }
        if (few == nullptr) return;
        (V::load(few + i) + to_weight).store(few + i);
        (V::load(few + columns + i) + to_bias).store(few + columns + i);
      });
  if constexpr (sizeof(T) == 4) {
    for (int k = 0; k < Rows; ++k)
      if (overflows[k])
        grad_in_double(x + k * n, n, weight, statistics + 2 * (row + k), g + k * n, g_x + k * n);
  }
}

template <class T>
void layer_norm_grad(const NormRows<T>& r, const double* statistics, const T* g, T* g_x,
                     double* sums, T* few, int64_t columns) {
  // More rows at once of 4096 bytes would be in each other's way in the first-level cache.
  constexpr int64_t kBesides = 2, kFew = 8;
  for (int64_t row = 0; row < r.rows; row += kFew) {
    const int64_t end = row + kFew < r.rows ? row + kFew : r.rows;
    for (int64_t i = 0; i < 2 * columns && few != nullptr; ++i) few[i] = T(0);
    int64_t k = row;
    for (; k + kBesides <= end; k += kBesides)
      grad_of_rows<kBesides>(r, k, statistics, g, g_x, few, columns);
    for (; k < end; ++k) grad_of_rows<1>(r, k, statistics, g, g_x, few, columns);
    for (int64_t i = 0; i < 2 * columns && few != nullptr; i += kLanes<T>)
      join_onto<Sum>(sums + i, wide(vec<T>::load(few + i)));
  }
}

template <class T>
constexpr cpu::NormTable<T> table_of() {
  return {&layer_norm<T>, &layer_norm_grad<T>};
}

}  // namespace

extern const cpu::NormTables norm_tables;
const cpu::NormTables norm_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
