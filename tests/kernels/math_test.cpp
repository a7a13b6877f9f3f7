#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "catch.hpp"
#include "kernels/cpu_support.h"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

using Real = long double;

template <class R>
R exact_sigmoid(R x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
template <class R>
R exact_softplus(R x) {
  return x != x ? x : std::fmax(x, R(0)) + std::log1p(std::exp(-std::fabs(x)));
}
// The truth in long double for doubles, and in double, ten times faster, for floats.
#define EXACT(expression) \
  [](Real x) -> Real { return expression; }, [](double x) -> double { return expression; }

struct Function {
  const char* name;
  UnaryOp op;
  double p;
  Real (*exact)(Real);
  double (*exact_for_float)(double);
  /// Arguments outside are left out: there the result is not determined to 2.5 ulp by the argument.
  double low, high;
  double ulp;
};

const std::vector<Function> kFunctions{
    {"exp", UnaryOp::exp, 0, EXACT(std::exp(x)), -kInf, kInf, 2.5},
    {"expm1", UnaryOp::expm1, 0, EXACT(std::expm1(x)), -kInf, kInf, 2.5},
    {"log", UnaryOp::log, 0, EXACT(std::log(x)), -kInf, kInf, 2.5},
    {"log1p", UnaryOp::log1p, 0, EXACT(std::log1p(x)), -kInf, kInf, 2.5},
    {"sqrt", UnaryOp::sqrt, 0, EXACT(std::sqrt(x)), -kInf, kInf, 0.5001},
    {"rsqrt", UnaryOp::rsqrt, 0, EXACT(1 / std::sqrt(x)), -kInf, kInf, 2.5},
    {"sin", UnaryOp::sin, 0, EXACT(std::sin(x)), -kInf, kInf, 2.5},
    {"cos", UnaryOp::cos, 0, EXACT(std::cos(x)), -kInf, kInf, 2.5},
    {"tan", UnaryOp::tan, 0, EXACT(std::tan(x)), -kInf, kInf, 2.5},
    {"tanh", UnaryOp::tanh, 0, EXACT(std::tanh(x)), -kInf, kInf, 2.5},
    {"sinh", UnaryOp::sinh, 0, EXACT(std::sinh(x)), -kInf, kInf, 2.5},
    {"cosh", UnaryOp::cosh, 0, EXACT(std::cosh(x)), -kInf, kInf, 2.5},
    {"asin", UnaryOp::asin, 0, EXACT(std::asin(x)), -kInf, kInf, 4},
    {"acos", UnaryOp::acos, 0, EXACT(std::acos(x)), -kInf, kInf, 4},
    {"atan", UnaryOp::atan, 0, EXACT(std::atan(x)), -kInf, kInf, 4},
    {"asinh", UnaryOp::asinh, 0, EXACT(std::asinh(x)), -kInf, kInf, 4},
    {"acosh", UnaryOp::acosh, 0, EXACT(std::acosh(x)), -kInf, kInf, 4},
    {"atanh", UnaryOp::atanh, 0, EXACT(std::atanh(x)), -kInf, kInf, 4},
    {"sigmoid", UnaryOp::sigmoid, 0, EXACT(exact_sigmoid(x)), -kInf, kInf, 2.5},
    {"softplus", UnaryOp::softplus, 0, EXACT(exact_softplus(x)), -kInf, kInf, 2.5},
    {"logsigmoid", UnaryOp::logsigmoid, 0, EXACT(-exact_softplus(-x)), -kInf, kInf, 2.5},
    {"erf", UnaryOp::erf, 0, EXACT(std::erf(x)), -kInf, kInf, 2.5},
    {"erfc", UnaryOp::erfc, 0, EXACT(std::erfc(x)), -kInf, kInf, 2.5},
    // Below -87 the sigmoid is subnormal, and the product repeats its rounding magnified.
    {"silu", UnaryOp::silu, 0, EXACT(x* exact_sigmoid(x)), -87, kInf, 2.5},
    {"gelu", UnaryOp::gelu, 0, EXACT(x / 2 * std::erfc(-x * std::sqrt(decltype(x)(0.5)))), -13, 13,
     8},
    {"pow 2.5", UnaryOp::pow_scalar, 2.5, EXACT(std::pow(x, decltype(x)(2.5))), -kInf, kInf, 2.5},
    {"pow 3", UnaryOp::pow_scalar, 3, EXACT(x* x* x), -kInf, kInf, 2.5},
    {"pow -3", UnaryOp::pow_scalar, -3, EXACT(std::pow(x, decltype(x)(-3))), -kInf, kInf, 2.5},
};

/// |got - exact| in units of the last place of T at `exact`, an infinity being the number past the
/// largest. R has more digits than T.
template <class T, class R>
double ulps(T got, R exact) {
  constexpr double wrong = 1e9;
  const T rounded = static_cast<T>(exact);
  if (got == rounded) return std::signbit(got) == std::signbit(rounded) ? 0 : wrong;
  if (std::isnan(exact) || std::isnan(got)) return std::isnan(exact) && std::isnan(got) ? 0 : wrong;
  if (std::isinf(exact)) return wrong;
  using Limits = std::numeric_limits<T>;
  const R finite = std::isinf(got)
                       ? std::copysign(std::ldexp(R(1), Limits::max_exponent), static_cast<R>(got))
                       : static_cast<R>(got);
  int exponent = 0;
  std::frexp(exact, &exponent);
  exponent = std::max(exponent, Limits::min_exponent);
  return static_cast<double>(std::fabs(finite - exact) /
                             std::ldexp(R(1), exponent - Limits::digits));
}

template <class T>
struct Worst {
  double ulp = 0;
  T at = 0;
  void join(const Worst& other) {
    if (other.ulp > ulp) *this = other;
  }
};

template <class T>
Worst<T> worst_error(const Function& f, const std::vector<T>& arguments) {
  const Tensor x = Tensor::from(arguments, {static_cast<int64_t>(arguments.size())});
  const Tensor y = Tensor::empty(x.shape(), x.dtype());
  backend(Device::cpu()).unary(f.op, {f.p, 0}, x, y);
  Worst<T> worst;
  const T* const got = y.data<T>();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const T v = arguments[i];
    if (static_cast<double>(v) < f.low || static_cast<double>(v) > f.high) continue;
    if constexpr (sizeof(T) == 4)
      worst.join({ulps(got[i], f.exact_for_float(static_cast<double>(v))), v});
    else
      worst.join({ulps(got[i], f.exact(static_cast<Real>(v))), v});
  }
  return worst;
}

/// Floats by their bits: every `step`-th from `first`, at most `count`.
std::vector<float> floats(uint64_t first, uint64_t step, size_t count) {
  const uint64_t left = (uint64_t{1} << 32) - first;
  std::vector<float> v(std::min(count, (left + step - 1) / step));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = std::bit_cast<float>(static_cast<uint32_t>(first + i * step));
  return v;
}

Worst<float> worst_over_all_floats(const Function& f) {
  constexpr uint64_t kParts = 1 << 10, kFloats = (uint64_t{1} << 32) / kParts;
  std::vector<Worst<float>> worst(std::max(1u, std::thread::hardware_concurrency()));
  std::atomic<uint64_t> next = 0;
  std::vector<std::thread> threads;
  for (Worst<float>& own : worst)
    threads.emplace_back([&own, &next, &f] {
      for (uint64_t part = 0; (part = next++) < kParts;)
        own.join(worst_error(f, floats(part * kFloats, 1, kFloats)));
    });
  for (std::thread& t : threads) t.join();
  for (const Worst<float>& one : worst) worst[0].join(one);
  return worst[0];
}

template <class T>
void check(const Function& f, const Worst<T>& worst) {
  INFO(f.name << ": " << worst.ulp << " ulp at " << worst.at);
  CHECK(worst.ulp <= f.ulp);
}
template <class T>
void check(const Function& f, const std::vector<T>& arguments) {
  check(f, worst_error(f, arguments));
}

/// Doubles spread over all exponents and, more densely, over [-40, 40].
std::vector<double> doubles(size_t count) {
  std::vector<double> v;
  for (uint64_t i = 0; v.size() < count; ++i) {
    const auto w = Philox::block(11, 0, i);
    const uint64_t bits = (uint64_t{w[0]} << 32) | w[1];
    v.push_back(std::bit_cast<double>(bits));
    v.push_back((uniform53(w[2], w[3]) - 0.5) * 80);
    v.push_back(std::ldexp(uniform53(w[2], w[3]) - 0.5, -static_cast<int>(w[0] % 60)));
  }
  return v;
}

template <class T>
std::vector<T> special_values() {
  using L = std::numeric_limits<T>;
  std::vector<T> v{T(0), L::infinity(), L::quiet_NaN(), L::denorm_min(), L::min(), L::max(), T(1)};
  const size_t n = v.size();
  for (size_t i = 0; i < n; ++i) v.push_back(-v[i]);
  return v;
}

}  // namespace

TEST_CASE("float32 functions over a sparse sweep of all floats", "[math_test]") {
  CpuSettings restore;
  const std::vector<float> arguments = floats(3, 65537 * 2 + 1, 1u << 20);
  each_instruction_set([&] {
    for (const Function& f : kFunctions) {
      check(f, arguments);
      check(f, special_values<float>());
    }
  });
}

TEST_CASE("float64 functions over a sparse sweep", "[math_test]") {
  CpuSettings restore;
  const std::vector<double> arguments = doubles(20000);
  each_instruction_set([&] {
    for (const Function& f : kFunctions) {
      Function wide = f;
      // The smallest normal double is 2^-1022.
      if (f.op == UnaryOp::silu) wide.low = -708;
      check(wide, arguments);
      check(wide, special_values<double>());
    }
  });
}

TEST_CASE("float32 functions over all floats", "[math_test][nightly]") {
  // A section each, so that one function can be asked for: -c tanh.
  for (const Function& f : kFunctions) {
    DYNAMIC_SECTION(f.name) { check(f, worst_over_all_floats(f)); }
  }
}

TEST_CASE("AVX2 and AVX-512 give the same bits", "[math_test]") {
  if (!cpu::has_isa("avx512")) return;
  CpuSettings restore;
  const auto bits = [](const char* isa, const Function& f, const Tensor& x) {
    cpu::set_isa(isa);
    const Tensor y = Tensor::empty(x.shape(), x.dtype());
    backend(Device::cpu()).unary(f.op, {f.p, 0}, x, y);
    std::vector<double> v = y.to_vector<double>();
    for (double& d : v) d = std::isnan(d) ? 1e300 : d;
    return v;
  };
  const std::vector<float> narrow = floats(5, 65537 * 2 + 1, 1u << 15);
  const std::vector<double> wide = doubles(20000);
  const Tensor x32 = Tensor::from(narrow, {static_cast<int64_t>(narrow.size())});
  const Tensor x64 = Tensor::from(wide, {static_cast<int64_t>(wide.size())});
  for (const Function& f : kFunctions) {
    INFO(f.name);
    CHECK(bits("avx2", f, x32) == bits("avx512", f, x32));
    CHECK(bits("avx2", f, x64) == bits("avx512", f, x64));
  }
}

TEST_CASE("the slope of GELU at every instruction set", "[math_test]") {
  CpuSettings restore;
  std::vector<double> v{0, -0.0, 38, -38, 1e30, -1e30, -0.7517915246935645};
  for (int i = -2000; i <= 2000; ++i) v.push_back(i / 130.0);
  const int64_t n = static_cast<int64_t>(v.size());
  each_instruction_set([&] {
    for (const DType dtype : {DType::float32, DType::float64}) {
      const Tensor x = Tensor::from(v, {n}, dtype), one = Tensor::empty({n}, dtype);
      backend(Device::cpu()).fill(one, 1);
      const Tensor got = Tensor::empty({n}, dtype);
      backend(Device::cpu()).unary_grad(UnaryOp::gelu, {}, one, x, x, got);
      const double epsilon = dtype == DType::float32 ? 0x1p-24 : 0x1p-53;
      for (int64_t i = 0; i < n; ++i) {
        const Real a = static_cast<Real>(x.at({i}));
        const Real density = std::exp(-a * a / 2) * 0.398942280401432677939946L;
        const Real want =
            std::erfc(-a * std::sqrt(Real(0.5))) / 2 + (density == 0 ? 0 : a * density);
        CAPTURE(static_cast<double>(a));
        CHECK(std::fabs(static_cast<double>(got.at({i}) - want)) <= 4 * epsilon);
      }
    }
  });
}

TEST_CASE("a value does not depend on its place", "[math_test]") {
  each_instruction_set([&] {
    for (const Function& f : kFunctions) {
      const float value = f.op == UnaryOp::acosh ? 1.7f : 0.7f;
      for (int64_t n = 1; n <= 70; n += 3) {
        const Tensor x = Tensor::from(std::vector<float>(static_cast<size_t>(n), value), {n});
        const Tensor y = Tensor::empty({n});
        backend(Device::cpu()).unary(f.op, {f.p, 0}, x, y);
        for (int64_t i = 1; i < n; ++i) REQUIRE(y.data<float>()[i] == y.data<float>()[0]);
      }
    }
  });
}

TEST_CASE("remainder is exact at every instruction set, and atan2 of doubles close",
          "[math_test]") {
  CpuSettings restore;
  // Near each other, far apart, whole multiples, subnormal, and what has no remainder.
  std::vector<double> a = doubles(6000), b = doubles(9000);
  b.erase(b.begin(), b.begin() + 3000);
  for (int i = -40; i <= 40; ++i) a.push_back(i * 0.75), b.push_back(i % 7 * 0.25);
  for (double x : special_values<double>())
    for (double y : special_values<double>()) a.push_back(x), b.push_back(y);
  for (int i = 1; i < 40; ++i) a.push_back(i * 0x1p-1074), b.push_back((40 - i) * -0x1p-1074);
  const int64_t n = static_cast<int64_t>(a.size());
  const auto check_type = [&]<class T>(T) {
    const DType dtype = sizeof(T) == 4 ? DType::float32 : DType::float64;
    const Tensor ta = Tensor::from(a, {n}, dtype), tb = Tensor::from(b, {n}, dtype);
    const Tensor out = Tensor::empty({n}, dtype);
    const T *pa = ta.data<T>(), *pb = tb.data<T>(), *got = out.data<T>();
    backend(Device::cpu()).binary(BinaryOp::remainder, ta, tb, out);
    for (int64_t i = 0; i < n; ++i) {
      T want = std::fmod(pa[i], pb[i]);
      if (want != 0 && (want < 0) != (pb[i] < 0)) want += pb[i];
      CAPTURE(pa[i], pb[i]);
      CHECK(ulps(got[i], static_cast<Real>(want)) == 0);
    }
    backend(Device::cpu()).binary(BinaryOp::atan2, ta, tb, out);
    for (int64_t i = 0; i < n; ++i) {
      CAPTURE(pa[i], pb[i]);
      CHECK(ulps(got[i], std::atan2(static_cast<Real>(pa[i]), static_cast<Real>(pb[i]))) <= 2.5);
    }
  };
  each_instruction_set([&] {
    check_type(0.0f);
    check_type(0.0);
  });
}

TEST_CASE("atan2 and pow of two arguments", "[math_test]") {
  CpuSettings restore;
  const std::vector<float> some{0.0f,
                                -0.0f,
                                1.0f,
                                -1.0f,
                                2.0f,
                                -2.0f,
                                0.5f,
                                -3.0f,
                                1e-40f,
                                -1e-40f,
                                3e38f,
                                -3e38f,
                                7.0f,
                                -7.5f,
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN(),
                                1.7f,
                                88.0f,
                                -0.01f};
  std::vector<float> a, b;
  for (float x : some)
    for (float y : some) a.push_back(x), b.push_back(y);
  const int64_t n = static_cast<int64_t>(a.size());
  const Tensor ta = Tensor::from(a, {n}), tb = Tensor::from(b, {n}), out = Tensor::empty({n});
  each_instruction_set([&] {
    backend(Device::cpu()).binary(BinaryOp::atan2, ta, tb, out);
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(a[i], b[i]);
      CHECK(ulps(out.data<float>()[i], std::atan2(Real(a[i]), Real(b[i]))) <= 2.5);
    }
    backend(Device::cpu()).binary(BinaryOp::pow, ta, tb, out);
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(a[i], b[i]);
      CHECK(ulps(out.data<float>()[i], std::pow(Real(a[i]), Real(b[i]))) <= 2.5);
    }
  });
}
