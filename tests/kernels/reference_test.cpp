#include <cmath>
#include <limits>

#include "catch.hpp"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/kernels/names.h"
#include "kernels/reference_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

namespace {

using B = std::vector<bool>;

struct Known {
  UnaryOp op;
  double p, q, x0, y0, x1, y1;
};
// Values computed with Python's math module.
const std::vector<Known> kKnown{
    {UnaryOp::neg, 0.25, 0.7, -1.3, 1.3, 0.6, -0.6},
    {UnaryOp::abs, 0.25, 0.7, -1.3, 1.3, 0.6, 0.6},
    {UnaryOp::sign, 0.25, 0.7, -1.3, -1.0, 0.6, 1.0},
    {UnaryOp::floor, 0.25, 0.7, -1.3, -2.0, 0.6, 0.0},
    {UnaryOp::ceil, 0.25, 0.7, -1.3, -1.0, 0.6, 1.0},
    {UnaryOp::round, 0.25, 0.7, 2.5, 2.0, -3.5, -4.0},
    {UnaryOp::exp, 0.25, 0.7, -1.3, 0.2725317930340126, 0.6, 1.8221188003905089},
    {UnaryOp::expm1, 0.25, 0.7, -1.3, -0.7274682069659875, 0.6, 0.8221188003905089},
    {UnaryOp::log, 0.25, 0.7, 0.3, -1.2039728043259361, 1.7, 0.5306282510621704},
    {UnaryOp::log1p, 0.25, 0.7, 0.3, 0.26236426446749106, 1.7, 0.9932517730102834},
    {UnaryOp::sqrt, 0.25, 0.7, 0.3, 0.5477225575051661, 1.7, 1.3038404810405297},
    {UnaryOp::rsqrt, 0.25, 0.7, 0.3, 1.8257418583505538, 1.7, 0.7669649888473704},
    {UnaryOp::square, 0.25, 0.7, -1.3, 1.6900000000000002, 0.6, 0.36},
    {UnaryOp::reciprocal, 0.25, 0.7, -1.3, -0.7692307692307692, 0.6, 1.6666666666666667},
    {UnaryOp::sin, 0.25, 0.7, -1.3, -0.963558185417193, 0.6, 0.5646424733950354},
    {UnaryOp::cos, 0.25, 0.7, -1.3, 0.26749882862458735, 0.6, 0.8253356149096783},
    {UnaryOp::tan, 0.25, 0.7, -1.3, -3.6021024479679786, 0.6, 0.6841368083416923},
    {UnaryOp::tanh, 0.25, 0.7, -1.3, -0.8617231593133063, 0.6, 0.5370495669980353},
    {UnaryOp::sinh, 0.25, 0.7, -1.3, -1.698382437292616, 0.6, 0.6366535821482412},
    {UnaryOp::cosh, 0.25, 0.7, -1.3, 1.9709142303266285, 0.6, 1.1854652182422676},
    {UnaryOp::asin, 0.25, 0.7, -0.3, -0.3046926540153975, 0.6, 0.6435011087932844},
    {UnaryOp::acos, 0.25, 0.7, -0.3, 1.8754889808102941, 0.6, 0.9272952180016123},
    {UnaryOp::atan, 0.25, 0.7, -1.3, -0.9151007005533605, 0.6, 0.5404195002705842},
    {UnaryOp::asinh, 0.25, 0.7, -1.3, -1.078451058954897, 0.6, 0.5688248987322475},
    {UnaryOp::acosh, 0.25, 0.7, 1.3, 0.7564329108569596, 2.6, 1.6094379124341003},
    {UnaryOp::atanh, 0.25, 0.7, -0.3, -0.30951960420311175, 0.6, 0.6931471805599453},
    {UnaryOp::erf, 0.25, 0.7, -1.3, -0.9340079449406524, 0.6, 0.6038560908479259},
    {UnaryOp::erfc, 0.25, 0.7, -1.3, 1.9340079449406524, 0.6, 0.3961439091520741},
    {UnaryOp::sigmoid, 0.25, 0.7, -1.3, 0.2141650169574414, 0.6, 0.6456563062257954},
    {UnaryOp::softplus, 0.25, 0.7, -1.3, 0.2410084538329922, 0.6, 1.0374879504858856},
    {UnaryOp::logsigmoid, 0.25, 0.7, -1.3, -1.5410084538329922, 0.6, -0.4374879504858856},
    {UnaryOp::relu, 0.25, 0.7, -1.3, 0.0, 0.6, 0.6},
    {UnaryOp::leaky_relu, 0.25, 0.7, -1.3, -0.325, 0.6, 0.6},
    {UnaryOp::elu, 0.25, 0.7, -1.3, -0.18186705174149687, 0.6, 0.6},
    {UnaryOp::silu, 0.25, 0.7, -1.3, -0.2784145220446738, 0.6, 0.3873937837354772},
    {UnaryOp::gelu, 0.25, 0.7, -1.3, -0.12584062996129344, 0.6, 0.43544812934995586},
    {UnaryOp::mish, 0.25, 0.7, -1.3, -0.3073824647494959, 0.6, 0.466136485694329},
    {UnaryOp::clamp, -0.5, 0.4, -1.3, -0.5, 0.6, 0.4},
    {UnaryOp::hardtanh, -0.5, 0.4, -1.3, -0.5, 0.6, 0.4},
    {UnaryOp::add_scalar, 0.25, 0.7, -1.3, -1.05, 0.6, 0.85},
    {UnaryOp::mul_scalar, 0.25, 0.7, -1.3, -0.325, 0.6, 0.15},
    {UnaryOp::div_scalar, 0.25, 0.7, -1.3, -5.2, 0.6, 2.4},
    {UnaryOp::rsub_scalar, 0.25, 0.7, -1.3, 1.55, 0.6, -0.35},
    {UnaryOp::rdiv_scalar, 0.25, 0.7, -1.3, -0.1923076923076923, 0.6, 0.4166666666666667},
    {UnaryOp::pow_scalar, 2.5, 0.7, 0.3, 0.049295030175464945, 1.7, 3.7680989902071307},
};

/// What each table line saves: the derivative gets nothing else.
const std::vector<std::string> kSaves{
#define UNARY(name, saves, zero, value, derivative) #saves,
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
};

V run_unary(UnaryOp op, Params params, const Tensor& x) {
  const Tensor out = Tensor::empty(x.shape(), x.dtype());
  be.unary(op, params, x, out);
  return out.to_vector<double>();
}

V run_binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  const Tensor out = Tensor::empty(a.shape(), a.dtype());
  be.binary(op, a, b, out);
  return out.to_vector<double>();
}

}  // namespace

TEST_CASE("every unary operation has its known values in both dtypes", "[reference_test]") {
  for (const Known& k : kKnown) {
    for (DType dtype : {DType::float32, DType::float64}) {
      CAPTURE(name_of(k.op), name_of(dtype));
      const double tolerance = dtype == DType::float32 ? 1e-6 : 1e-14;
      const V y = run_unary(k.op, {k.p, k.q}, vec({k.x0, k.x1}, dtype));
      CHECK_THAT(y[0], WithinAbs(k.y0, tolerance * (1 + std::abs(k.y0))));
      CHECK_THAT(y[1], WithinAbs(k.y1, tolerance * (1 + std::abs(k.y1))));
    }
  }
  CHECK(kKnown.size() == static_cast<size_t>(UnaryOp::pow_scalar) + 1);
}

TEST_CASE("unary derivatives agree with central differences", "[reference_test]") {
  for (const Known& k : kKnown) {
    CAPTURE(name_of(k.op));
    if (k.op == UnaryOp::round) continue;  // its points are the ties
    const double h = 1e-6;
    for (double at : {k.x0, k.x1}) {
      const Params params{k.p, k.q};
      const V y = run_unary(k.op, params, vec({at - h, at, at + h}));
      const Tensor out = vec({0});
      const std::string& saves = kSaves[static_cast<size_t>(k.op)];
      const Tensor x = saves == "X" || saves == "XY" ? vec({at}) : Tensor();
      const Tensor value = saves == "Y" || saves == "XY" ? vec({y[1]}) : Tensor();
      be.unary_grad(k.op, params, vec({3}), x, value, out);
      const double expected = 3 * (y[2] - y[0]) / (2 * h);
      CHECK_THAT(out.item(), WithinAbs(expected, 1e-8 * (1 + std::abs(expected))));
    }
  }
}

TEST_CASE("a zero cotangent wins over an infinite derivative where the table says so",
          "[reference_test]") {
  const Tensor out = vec({7, 7});
  be.unary_grad(UnaryOp::sqrt, {}, vec({0, 1}), View(), vec({0, 0}), out);
  CHECK(same(out.to_vector<double>(), {0, kInf}));
  be.unary_grad(UnaryOp::log, {}, vec({0, -1}), vec({0, 0}), View(), out);
  CHECK(same(out.to_vector<double>(), {0, -kInf}));
  be.unary_grad(UnaryOp::reciprocal, {}, vec({0, 1}), vec({0, .5}), vec({kInf, 2}), out);
  CHECK(same(out.to_vector<double>(), {0, -4}));
  be.unary_grad(UnaryOp::tan, {}, vec({0, 1}), View(), vec({kInf, 2}), out);
  CHECK(same(out.to_vector<double>(), {kNan, 5}));
  be.binary_grad(BinaryOp::div, 0, vec({0, 1}), View(), vec({0, 0}), vec({kInf, kInf}), out);
  CHECK(same(out.to_vector<double>(), {0, kInf}));
  be.binary_grad(BinaryOp::pow, 1, vec({0, 1}), vec({-1, 2}), vec({2, 3}), vec({1, 8}), out);
  CHECK(out.at({0}) == 0);
  CHECK_THAT(out.at({1}), WithinRel(8 * std::log(2.0), 1e-14));
}

TEST_CASE("special values of unary operations", "[reference_test]") {
  CHECK(same(run_unary(UnaryOp::sign, {}, vec({kNan, -0.0, kInf})), {kNan, 0, 1}));
  CHECK(same(run_unary(UnaryOp::relu, {}, vec({kNan, -kInf, kInf})), {kNan, 0, kInf}));
  CHECK(same(run_unary(UnaryOp::clamp, {-kInf, 1}, vec({kNan, -kInf, 5})), {kNan, -kInf, 1}));
  CHECK(same(run_unary(UnaryOp::sigmoid, {}, vec({-1000, 1000, kNan})), {0, 1, kNan}));
  CHECK(same(run_unary(UnaryOp::softplus, {}, vec({-1000, 1000, kInf})), {0, 1000, kInf}));
  CHECK(same(run_unary(UnaryOp::logsigmoid, {}, vec({-1000, 1000})), {-1000, 0}));
  CHECK(same(run_unary(UnaryOp::round, {}, vec({0.5, 1.5, 2.5, -0.5})), {0, 2, 2, 0}));
}

TEST_CASE("binary operations and their derivatives", "[reference_test]") {
  const V a{0.7, 2.5, 3.0, -1.5};
  const V b{1.3, -0.8, 3.0, 2.25};
  struct Row {
    BinaryOp op;
    double (*f)(double, double);
  };
  const std::vector<Row> rows{
      {BinaryOp::add, [](double x, double y) { return x + y; }},
      {BinaryOp::sub, [](double x, double y) { return x - y; }},
      {BinaryOp::mul, [](double x, double y) { return x * y; }},
      {BinaryOp::mul_zero, [](double x, double y) { return x * y; }},
      {BinaryOp::div, [](double x, double y) { return x / y; }},
      {BinaryOp::pow, [](double x, double y) { return std::pow(std::abs(x), y); }},
      {BinaryOp::maximum, [](double x, double y) { return std::fmax(x, y); }},
      {BinaryOp::minimum, [](double x, double y) { return std::fmin(x, y); }},
      {BinaryOp::atan2, [](double x, double y) { return std::atan2(x, y); }},
      {BinaryOp::remainder, [](double x, double y) { return x - y * std::floor(x / y); }},
      {BinaryOp::logaddexp, [](double x, double y) { return std::log(std::exp(x) + std::exp(y)); }},
  };
  CHECK(rows.size() == static_cast<size_t>(BinaryOp::logaddexp) + 1);
  for (const Row& row : rows) {
    for (size_t i = 0; i < a.size(); ++i) {
      CAPTURE(name_of(row.op), i);
      const double x = row.op == BinaryOp::pow ? std::abs(a[i]) : a[i];
      const double y = b[i];
      const double z = run_binary(row.op, vec({x}), vec({y}))[0];
      CHECK_THAT(z, WithinAbs(row.f(x, y), 1e-13));
      const double z32 = run_binary(row.op, vec({x}, DType::float32), vec({y}, DType::float32))[0];
      if (row.op != BinaryOp::remainder) CHECK_THAT(z32, WithinAbs(z, 1e-5));
      if (i == 2 && row.op == BinaryOp::remainder) continue;  // a jump of the function
      const double h = 1e-6;
      const double by_a = (row.f(x + h, y) - row.f(x - h, y)) / (2 * h);
      const double by_b = (row.f(x, y + h) - row.f(x, y - h)) / (2 * h);
      const Tensor out = vec({0});
      be.binary_grad(row.op, 0, vec({2}), vec({x}), vec({y}), vec({z}), out);
      CHECK_THAT(out.item(), WithinAbs(2 * by_a, 1e-7));
      be.binary_grad(row.op, 1, vec({2}), vec({x}), vec({y}), vec({z}), out);
      CHECK_THAT(out.item(), WithinAbs(2 * by_b, 1e-7));
    }
  }
  CHECK(same(run_binary(BinaryOp::maximum, vec({kNan, 1, 2}), vec({1, kNan, 3})), {kNan, kNan, 3}));
  CHECK(same(run_binary(BinaryOp::minimum, vec({kNan, 1, 2}), vec({1, kNan, 3})), {kNan, kNan, 2}));
  CHECK(same(run_binary(BinaryOp::mul_zero, vec({0, 2}), vec({kNan, kInf})), {0, kInf}));
  CHECK(same(run_binary(BinaryOp::logaddexp, vec({-kInf, 1000}), vec({-kInf, -1000})),
             {-kInf, 1000}));
  CHECK(same(run_binary(BinaryOp::remainder, vec({-7, 7}), vec({3, -3})), {2, -2}));
}

TEST_CASE("int64 arithmetic is exact and wraps around", "[reference_test]") {
  constexpr int64_t top = std::numeric_limits<int64_t>::max();
  constexpr int64_t bottom = std::numeric_limits<int64_t>::min();
  const auto ints = [](const I& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); };
  const Tensor out = ints({0, 0, 0});
  be.binary(BinaryOp::add, ints({top, 3, -5}), ints({1, 4, 2}), out);
  CHECK(out.to_vector<int64_t>() == I{bottom, 7, -3});
  be.binary(BinaryOp::mul, ints({1LL << 62, 3, -5}), ints({4, 4, 2}), out);
  CHECK(out.to_vector<int64_t>() == I{0, 12, -10});
  be.binary(BinaryOp::remainder, ints({bottom, -7, 7}), ints({-1, 3, -3}), out);
  CHECK(out.to_vector<int64_t>() == I{0, 2, -2});
  be.unary(UnaryOp::neg, {}, ints({bottom, 2, -2}), out);
  CHECK(out.to_vector<int64_t>() == I{bottom, -2, 2});
  be.unary(UnaryOp::clamp, {-kInf, 4}, ints({bottom, 2, 9}), out);
  CHECK(out.to_vector<int64_t>() == I{bottom, 2, 4});
  be.unary(UnaryOp::rsub_scalar, {10, 0}, ints({1, 2, 30}), out);
  CHECK(out.to_vector<int64_t>() == I{9, 8, -20});
  be.unary(UnaryOp::sign, {}, ints({bottom, 0, 9}), out);
  CHECK(out.to_vector<int64_t>() == I{-1, 0, 1});
  for (const UnaryOp op : {UnaryOp::floor, UnaryOp::ceil, UnaryOp::round}) {
    be.unary(op, {}, ints({bottom, top, 3}), out);
    CHECK(out.to_vector<int64_t>() == I{bottom, top, 3});
  }
  be.unary(UnaryOp::relu, {}, ints({bottom, top, 0}), out);
  CHECK(out.to_vector<int64_t>() == I{0, top, 0});
  be.unary(UnaryOp::pow_scalar, {3, 0}, ints({-3, (1LL << 20) + 1, 1LL << 32}), out);
  CHECK(out.to_vector<int64_t>() == I{-27, 1152924803144876033, 0});
  be.unary(UnaryOp::pow_scalar, {0, 0}, ints({-3, 0, top}), out);
  CHECK(out.to_vector<int64_t>() == I{1, 1, 1});
  CHECK_THROWS_AS(be.binary(BinaryOp::remainder, ints({1, 1, 1}), ints({1, 0, 1}), out),
                  ValueError);
  CHECK_THROWS_AS(be.unary(UnaryOp::add_scalar, {0.5, 0}, out, out), ValueError);
  CHECK_THROWS_AS(be.unary(UnaryOp::exp, {}, out, out), DTypeError);
  CHECK_THROWS_AS(be.binary(BinaryOp::div, out, out, out), DTypeError);
}

TEST_CASE("comparisons, predicates and logic", "[reference_test]") {
  const Tensor out = Tensor::empty({3}, DType::boolean);
  const auto compare = [&](CompareOp op) {
    be.compare(op, vec({1, 2, kNan}), vec({2, 2, kNan}), out);
    return out.to_vector<bool>();
  };
  CHECK(compare(CompareOp::equal) == B{false, true, false});
  CHECK(compare(CompareOp::not_equal) == B{true, false, true});
  CHECK(compare(CompareOp::less) == B{true, false, false});
  CHECK(compare(CompareOp::less_equal) == B{true, true, false});
  CHECK(compare(CompareOp::greater) == B{false, false, false});
  CHECK(compare(CompareOp::greater_equal) == B{false, true, false});
  be.predicate(PredicateOp::isfinite, vec({1, kInf, kNan}), out);
  CHECK(out.to_vector<bool>() == B{true, false, false});
  be.predicate(PredicateOp::isinf, vec({1, -kInf, kNan}), out);
  CHECK(out.to_vector<bool>() == B{false, true, false});
  be.predicate(PredicateOp::isnan, vec({1, kInf, kNan}, DType::float32), out);
  CHECK(out.to_vector<bool>() == B{false, false, true});
  const Tensor p = Tensor::from(B{true, true, false}, {3});
  const Tensor q = Tensor::from(B{true, false, false}, {3});
  be.logical(LogicalOp::logical_and, p, q, out);
  CHECK(out.to_vector<bool>() == B{true, false, false});
  be.logical(LogicalOp::logical_or, p, q, out);
  CHECK(out.to_vector<bool>() == B{true, true, false});
  be.logical(LogicalOp::logical_xor, p, q, out);
  CHECK(out.to_vector<bool>() == B{false, true, false});
  be.compare(CompareOp::equal, p, q, out);
  CHECK(out.to_vector<bool>() == B{true, false, true});
  const Tensor chosen = vec({0, 0, 0});
  be.where(p, vec({1, 2, 3}), vec({-1, -2, -3}), chosen);
  CHECK(same(chosen.to_vector<double>(), {1, 2, -3}));
  CHECK_THROWS_AS(be.logical(LogicalOp::logical_and, p, chosen, out), DTypeError);
  CHECK_THROWS_AS(be.where(chosen, chosen, chosen, chosen), DTypeError);
}

TEST_CASE("elementwise kernels give the same bits under any layout", "[reference_test]") {
  const std::vector<Shape> shapes{{},     {1},       {5},          {0},
                                  {3, 4}, {2, 0, 3}, {2, 3, 1, 5}, {1, 2, 1, 3, 2, 1, 2, 1}};
  for (size_t s = 0; s < shapes.size(); ++s) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      CAPTURE(shapes[s].to_string(), seed);
      const Tensor a = values(shapes[s], DType::float32, 10 + seed);
      const Tensor b = values(shapes[s], DType::float32, 20 + seed);
      const Tensor plain = Tensor::empty(shapes[s]);
      be.binary(BinaryOp::atan2, a, b, plain);
      const Tensor out = strided(plain, seed + 4);
      be.fill(out, 99);
      be.binary(BinaryOp::atan2, strided(a, seed), strided(b, seed + 50), out);
      CHECK(out.to_vector<float>() == plain.to_vector<float>());
      be.unary(UnaryOp::gelu, {}, a, plain);
      be.unary(UnaryOp::gelu, {}, strided(a, seed + 9), out);
      CHECK(out.to_vector<float>() == plain.to_vector<float>());
    }
  }
}

TEST_CASE("expanded operands and repeated targets", "[reference_test]") {
  const Tensor row = vec({1, 2, 3});
  const Tensor wide = row.with_layout(expanded("test", row.layout(), {2, 3}));
  const Tensor column = Tensor::from(V{10, 20}, {2, 1});
  const Tensor tall = column.with_layout(expanded("test", column.layout(), {2, 3}));
  const Tensor out = Tensor::empty({2, 3}, DType::float64);
  be.binary(BinaryOp::add, wide, tall, out);
  CHECK(same(out.to_vector<double>(), {11, 12, 13, 21, 22, 23}));
  be.fill(row, 0);
  be.add_into(out, wide);
  CHECK(same(row.to_vector<double>(), {32, 34, 36}));
}

TEST_CASE("copy converts between all dtypes", "[reference_test]") {
  const std::vector<DType> all{DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                               DType::float64};
  for (DType from : all) {
    for (DType to : all) {
      CAPTURE(name_of(from), name_of(to));
      const bool has_bool = from == DType::boolean || to == DType::boolean;
      const Tensor in = vec({0, 1, -3, 7}, from);
      const Tensor out = strided(vec({9, 9, 9, 9}, to), 3);
      be.copy(strided(in, 1), out);
      CHECK(same(out.to_vector<double>(), has_bool ? V{0, 1, 1, 1} : V{0, 1, -3, 7}));
    }
  }
  const Tensor ints = Tensor::from(I{5, 5, 5, 5}, {4});
  be.copy(vec({2.9, -2.9, kNan, 1e300}), ints);
  CHECK(ints.to_vector<int64_t>() == I{2, -2, 0, std::numeric_limits<int64_t>::max()});
  const Tensor half = Tensor::empty({3}, DType::bfloat16);
  be.copy(vec({1.00390625, 1.01171875, kNan}), half);  // ties go to the even neighbour
  CHECK(same(half.to_vector<double>(), {1.0, 1.015625, kNan}));
}

TEST_CASE("fill and arange", "[reference_test]") {
  const Tensor out = strided(vec({0, 0, 0, 0}), 2);
  be.arange(out, 2, -0.5);
  CHECK(same(out.to_vector<double>(), {2, 1.5, 1, 0.5}));
  be.fill(out, kInf);
  CHECK(same(out.to_vector<double>(), {kInf, kInf, kInf, kInf}));
  const Tensor flags = Tensor::empty({2}, DType::boolean);
  be.fill(flags, 2);
  CHECK(flags.to_vector<bool>() == B{true, true});
  const Tensor none = Tensor::empty({0}, DType::int64);
  be.arange(none, 0, 1);
  CHECK_THROWS_AS(be.arange(flags, 0, 1), DTypeError);
}

TEST_CASE("a dtype without arithmetic is refused by name", "[reference_test]") {
  const Tensor h = Tensor::empty({2}, DType::bfloat16);
  CHECK_THROWS_WITH(be.unary(UnaryOp::tanh, {}, h, h),
                    "tanh: dtype bfloat16 given; float32 and float64 are accepted");
  CHECK_THROWS_WITH(be.binary(BinaryOp::add, vec({1, 2}), h, h),
                    "add: b is bfloat16; float64 is accepted");
}

TEST_CASE("the backend can be chosen", "[reference_test]") {
  const CpuBackend before = cpu_backend();
  set_cpu_backend(CpuBackend::reference);
  CHECK(std::string(backend(Device::cpu()).name()) == "reference");
  set_cpu_backend(before);
  Device elsewhere;
  elsewhere.kind = Device::Kind::cuda;
  if (!has_cuda()) CHECK_THROWS_AS(backend(elsewhere), DeviceError);
}
