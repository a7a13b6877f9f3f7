// The cell of an LSTM for one instruction set: a row's gates, and their gradient.

#include "flowgrad/kernels/cpu/isa/math.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using std::int64_t;

template <class T>
void cell(T* gates, const T* c_before, int64_t hidden, T* c, T* h) {
  using V = vec<T>;
  T *const i = gates, *const f = i + hidden, *const g = f + hidden, *const o = g + hidden;
  for_registers<V::size>(
      hidden, [&](int64_t at, auto count) __attribute__((always_inline)) {
        const V in = sigmoid(take(i + at, count)), keep = sigmoid(take(f + at, count)),
                candidate = tanh(take(g + at, count)), out = sigmoid(take(o + at, count));
        const V next = fma(keep, take(c_before + at, count), in * candidate);
        put(in, i + at, count);
        put(keep, f + at, count);
        put(candidate, g + at, count);
        put(out, o + at, count);
        put(next, c + at, count);
        put(out * tanh(next), h + at, count);
      });
}

template <class T>
void cell_grad(const T* gates, const T* c_before, const T* c, const T* g_h, T* g_c, int64_t hidden,
               T* g_gates) {
  using V = vec<T>;
  const T *const i = gates, *const f = i + hidden, *const g = f + hidden, *const o = g + hidden;
  const V one(1);
  for_registers<V::size>(
      hidden, [&](int64_t at, auto count) __attribute__((always_inline)) {
        const V in = take(i + at, count), keep = take(f + at, count),
                candidate = take(g + at, count), out = take(o + at, count),
                given = take(g_h + at, count), squashed = tanh(take(c + at, count));
        const V to_c = fma(given * out, fma(-squashed, squashed, one), take(g_c + at, count));
        T* const to = g_gates + at;
        put(to_c * candidate * in * (one - in), to, count);
        put(to_c * take(c_before + at, count) * keep * (one - keep), to + hidden, count);
        put(to_c * in * fma(-candidate, candidate, one), to + 2 * hidden, count);
        put(given * squashed * out * (one - out), to + 3 * hidden, count);
        put(to_c * keep, g_c + at, count);
      });
}

template <class T>
constexpr cpu::LstmTable<T> table_of() {
  return {&cell<T>, &cell_grad<T>};
}

}  // namespace

extern const cpu::LstmTables lstm_tables;
const cpu::LstmTables lstm_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
