// The lines of elementwise.def on vec, over contiguous elements. The last elements of a run go
// through the same instructions as the rest, so a value never depends on its place.

#include "flowgrad/kernels/cpu/isa/math.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

using cpu::ElementwiseTable;
using cpu::ElementwiseTables;
using std::int64_t;
using std::uint8_t;

/// Whether a list of saved names holds a letter; "NONE" holds none.
constexpr bool saves_letter(const char* saves, char letter) {
  if (saves[0] == 'N') return false;
  for (; *saves != '\0'; ++saves)
    if (*saves == letter) return true;
  return false;
}

#define UNARY(op, saves, zero, value_expression, derivative_expression) \
  struct unary_##op {                                                   \
    static constexpr Zero wins = zero;                                  \
    static constexpr bool saves_x = saves_letter(#saves, 'X'),          \
                          saves_y = saves_letter(#saves, 'Y');          \
    template <class T>                                                  \
    static FG_INLINE T value(T x, T p, T q) {                           \
      (void)p, (void)q;                                                 \
      return value_expression;                                          \
    }                                                                   \
    template <class T>                                                  \
    static FG_INLINE T derivative(T x, T y, T p, T q) {                 \
      (void)x, (void)y, (void)p, (void)q;                               \
      return derivative_expression;                                     \
    }                                                                   \
  };
#define BINARY(op, saves, how, value_expression, grad_a, grad_b) \
  struct binary_##op {                                           \
    static constexpr bool saves_a = saves_letter(#saves, 'A'),   \
                          saves_b = saves_letter(#saves, 'B'),   \
                          saves_y = saves_letter(#saves, 'Y');   \
    template <class T>                                           \
    static FG_INLINE T value(T a, T b) {                         \
      return value_expression;                                   \
    }                                                            \
    template <int Wrt, class T>                                  \
    static FG_INLINE T gradient(T g, T a, T b, T y) {            \
      (void)a, (void)b, (void)y;                                 \
      if constexpr (Wrt == 0)                                    \
        return grad_a;                                           \
      else                                                       \
        return grad_b;                                           \
    }                                                            \
  };
#define COMPARE(op, expression)             \
  struct compare_##op {                     \
    template <class T>                      \
    static FG_INLINE auto value(T a, T b) { \
      return expression;                    \
    }                                       \
  };
#define PREDICATE(op, expression)      \
  struct predicate_##op {              \
    template <class T>                 \
    static FG_INLINE auto value(T x) { \
      return expression;               \
    }                                  \
  };
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
#undef BINARY
#undef COMPARE
#undef PREDICATE

/// GELU and SiLU have functions of their own, see math.h; the table's lines define them but would
/// round more often, and divide twice in SiLU's slope.
struct unary_accurate_gelu : unary_gelu {
  template <class T>
  static FG_INLINE T value(T x, T, T) {
    return gelu(x);
  }
  template <class T>
  static FG_INLINE T derivative(T x, T, T, T) {
    return gelu_slope(x);
  }
};
struct unary_accurate_silu : unary_silu {
  template <class T>
  static FG_INLINE T value(T x, T, T) {
    return silu(x);
  }
  template <class T>
  static FG_INLINE T derivative(T x, T, T, T) {
    const T s = sigmoid(x);
    return s * fma(x, T(1) - s, T(1));
  }
};

/// Powers that are a product or two.
template <int Exponent>
struct unary_whole_power {
  static constexpr Zero wins = STRONG;
  static constexpr bool saves_x = true, saves_y = false;
  template <class T>
  static FG_INLINE T value(T x, T, T) {
    return Exponent == 2 ? x * x : x * x * x;
  }
  template <class T>
  static FG_INLINE T derivative(T x, T, T, T) {
    return Exponent == 2 ? T(2) * x : T(3) * (x * x);
  }
};

/// Elements to fetch ahead: where a register takes long to compute, the processor's own fetching
/// waits with it.
constexpr int64_t kAhead = 512;

template <class Op, class T>
void run_unary(const T* x, T* out, int64_t n, T p, T q) {
  using V = vec<T>;
  const V vp(p), vq(q);
  for_registers<V::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        __builtin_prefetch(x + i + kAhead);
        put(Op::value(take(x + i, count), vp, vq), out + i, count);
      });
}

template <class Op, class T>
void run_unary_grad(const T* g, const T* x, const T* y, T* out, int64_t n, T p, T q) {
  using V = vec<T>;
  const V vp(p), vq(q);
  for_registers<V::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        V vx(0), vy(0);
        if constexpr (Op::saves_x) vx = take(x + i, count);
        if constexpr (Op::saves_y) vy = take(y + i, count);
        const V vg = take(g + i, count), d = Op::derivative(vx, vy, vp, vq);
        put(times_slope(Op::wins, vg, d), out + i, count);
      });
}

template <class T>
void run_pow_scalar(const T* x, T* out, int64_t n, T p, T q) {
  if (p == T(2)) return run_unary<unary_whole_power<2>>(x, out, n, p, q);
  if (p == T(3)) return run_unary<unary_whole_power<3>>(x, out, n, p, q);
  run_unary<unary_pow_scalar>(x, out, n, p, q);
}
template <class T>
void run_pow_scalar_grad(const T* g, const T* x, const T* y, T* out, int64_t n, T p, T q) {
  if (p == T(2)) return run_unary_grad<unary_whole_power<2>>(g, x, y, out, n, p, q);
  if (p == T(3)) return run_unary_grad<unary_whole_power<3>>(g, x, y, out, n, p, q);
  run_unary_grad<unary_pow_scalar>(g, x, y, out, n, p, q);
}

template <class Op, class T>
void run_binary(const T* a, const T* b, T* out, int64_t n) {
  for_registers<vec<T>::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        put(Op::value(take(a + i, count), take(b + i, count)), out + i, count);
      });
}

template <class Op, int Wrt, class T>
void run_binary_grad(const T* g, const T* a, const T* b, const T* y, T* out, int64_t n) {
  using V = vec<T>;
  for_registers<V::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        V va(0), vb(0), vy(0);
        if constexpr (Op::saves_a) va = take(a + i, count);
        if constexpr (Op::saves_b) vb = take(b + i, count);
        if constexpr (Op::saves_y) vy = take(y + i, count);
        put(Op::template gradient<Wrt>(take(g + i, count), va, vb, vy), out + i, count);
      });
}

template <class T, int N>
FG_INLINE void put_bools(mask<T, N> m, uint8_t* out, int count) {
  const Raw<uint8_t, N> bytes = __builtin_convertvector(m.m, Raw<uint8_t, N>) & 1;
  if (count == N)
    __builtin_memcpy(out, &bytes, N);
  else
    __builtin_memcpy(out, &bytes, static_cast<std::size_t>(count));
}

template <class Op, class T>
void run_compare(const T* a, const T* b, uint8_t* out, int64_t n) {
  for_registers<vec<T>::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        put_bools(Op::value(take(a + i, count), take(b + i, count)), out + i, count);
      });
}

template <class Op, class T>
void run_predicate(const T* x, uint8_t* out, int64_t n) {
  for_registers<vec<T>::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        put_bools(Op::value(take(x + i, count)), out + i, count);
      });
}

template <class T>
void run_where(const uint8_t* condition, const T* a, const T* b, T* out, int64_t n) {
  constexpr int W = vec<T>::size;
  for_registers<W>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        Raw<uint8_t, W> bytes = {};
        __builtin_memcpy(&bytes, condition + i, static_cast<std::size_t>(static_cast<int>(count)));
        const mask<T, W> m{__builtin_convertvector(bytes, decltype(mask<T, W>::m)) != 0};
        put(select(m, take(a + i, count), take(b + i, count)), out + i, count);
      });
}

template <class T>
void run_fill(T value, T* out, int64_t n) {
  const vec<T> v(value);
  for_registers<vec<T>::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) { put(v, out + i, count); });
}

template <class T>
void run_multiply_add(const T* a, const T* b, const T* c, T* out, int64_t n) {
  for_registers<vec<T>::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        put(take(a + i, count) * take(b + i, count) + take(c + i, count), out + i, count);
      });
}

template <class T>
void run_lerp(const T* value, T* out, int64_t n, T decay) {
  using V = vec<T>;
  const V keep(decay), rest(T(1) - decay);
  for_registers<V::size>(
      n, [=](int64_t i, auto count) __attribute__((always_inline)) {
        put(fma(keep, take(out + i, count), rest * take(value + i, count)), out + i, count);
      });
}

template <class T>
constexpr ElementwiseTable<T> table_of() {
  ElementwiseTable<T> t{};
#define UNARY(op, saves, zero, value, derivative)               \
  t.unary[cpu::number::unary_##op] = &run_unary<unary_##op, T>; \
  t.unary_grad[cpu::number::unary_##op] = &run_unary_grad<unary_##op, T>;
#define BINARY(op, saves, how, value, grad_a, grad_b)                               \
  t.binary[cpu::number::binary_##op] = &run_binary<binary_##op, T>;                 \
  t.binary_grad[cpu::number::binary_##op][0] = &run_binary_grad<binary_##op, 0, T>; \
  t.binary_grad[cpu::number::binary_##op][1] = &run_binary_grad<binary_##op, 1, T>;
#define COMPARE(op, value) t.compare[cpu::number::compare_##op] = &run_compare<compare_##op, T>;
#define PREDICATE(op, value) \
  t.predicate[cpu::number::predicate_##op] = &run_predicate<predicate_##op, T>;
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
#undef BINARY
#undef COMPARE
#undef PREDICATE
  t.unary[cpu::number::unary_gelu] = &run_unary<unary_accurate_gelu, T>;
  t.unary_grad[cpu::number::unary_gelu] = &run_unary_grad<unary_accurate_gelu, T>;
  t.unary[cpu::number::unary_pow_scalar] = &run_pow_scalar<T>;
  t.unary_grad[cpu::number::unary_pow_scalar] = &run_pow_scalar_grad<T>;
  t.unary[cpu::number::unary_silu] = &run_unary<unary_accurate_silu, T>;
  t.unary_grad[cpu::number::unary_silu] = &run_unary_grad<unary_accurate_silu, T>;
  t.where = &run_where<T>;
  t.fill = &run_fill<T>;
  t.multiply_add = &run_multiply_add<T>;
  t.lerp = &run_lerp<T>;
  return t;
}

template <class From, class To>
void run_cast(const From* in, To* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<To>(in[i]);
}
void run_bool_to_f32(const uint8_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = in[i] != 0 ? 1.0f : 0.0f;
}
void run_bool_to_f64(const uint8_t* in, double* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = in[i] != 0 ? 1.0 : 0.0;
}
void run_f32_to_bf16(const float* in, std::uint16_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto u = bit_cast<std::uint32_t>(in[i]);
    const std::uint32_t nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    out[i] = static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}
void run_bf16_to_f32(const std::uint16_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bit_cast<float>(std::uint32_t{in[i]} << 16);
}

}  // namespace

extern const ElementwiseTables elementwise_tables;
const ElementwiseTables elementwise_tables = {
    table_of<float>(),          table_of<double>(), &run_cast<float, double>,
    &run_cast<double, float>,   &run_f32_to_bf16,   &run_bf16_to_f32,
    &run_bool_to_f32,           &run_bool_to_f64,   &run_cast<int64_t, float>,
    &run_cast<int64_t, double>,
};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
