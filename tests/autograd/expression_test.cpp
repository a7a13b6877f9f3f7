#include "flowgrad/autograd/expression.h"

#include <fstream>
#include <set>
#include <sstream>

#include "catch.hpp"

// What a line of elementwise.def may call, as numbers and over tensors.
namespace flowgrad::testing {
namespace {

using expression::Expr;

double number_in(const Expr& e) { return e.is_number() ? e.c : cast(e.t, DType::float64).item(); }
Expr tensor_of(double x) { return {scalar(x, DType::float64)}; }

struct TableFunction {
  const char* name;
  std::function<double(double, double)> number;
  std::function<Expr(const Expr&, const Expr&)> tensors;
};

#define FLOWGRAD_ONE(f)                                                                             \
  {                                                                                                 \
#f, [](double a, double)                                                                        \
             -> double { return kernels::scalar::f(a); },                                           \
                                                       [](const Expr& a,                            \
                                                          const Expr&) { return expression::f(a); } \
  }
#define FLOWGRAD_TWO(f)                                                                             \
  {                                                                                                 \
#f, [](double a, double b)                                                                      \
             -> double { return kernels::scalar::f(a, b); },                                        \
                                                          [](const Expr& a,                         \
                                                             const Expr&                            \
                                                                 b) { return expression::f(a, b); } \
  }
const std::vector<TableFunction> kTableFunctions{
    FLOWGRAD_ONE(abs),
    FLOWGRAD_ONE(ceil),
    FLOWGRAD_ONE(cos),
    FLOWGRAD_ONE(cosh),
    FLOWGRAD_ONE(erf),
    FLOWGRAD_ONE(erfc),
    FLOWGRAD_ONE(exp),
    FLOWGRAD_ONE(expm1),
    FLOWGRAD_ONE(floor),
    FLOWGRAD_ONE(log),
    FLOWGRAD_ONE(log1p),
    FLOWGRAD_ONE(round),
    FLOWGRAD_ONE(sigmoid),
    FLOWGRAD_ONE(sign),
    FLOWGRAD_ONE(sin),
    FLOWGRAD_ONE(sinh),
    FLOWGRAD_ONE(softplus),
    FLOWGRAD_ONE(sqrt),
    FLOWGRAD_ONE(tan),
    FLOWGRAD_ONE(tanh),
    FLOWGRAD_TWO(atan2),
    FLOWGRAD_TWO(div_zero),
    FLOWGRAD_TWO(logaddexp),
    FLOWGRAD_TWO(max),
    FLOWGRAD_TWO(min),
    FLOWGRAD_TWO(mul_zero),
    FLOWGRAD_TWO(pow),
    FLOWGRAD_TWO(remainder),
    {"select", [](double a, double b) { return kernels::scalar::select(a > b, a, b); },
     [](const Expr& a, const Expr& b) { return select(a > b, a, b); }},
    {"times_slope",
     [](double a, double b) { return kernels::scalar::times_slope(kernels::FLAT, a, b); },
     [](const Expr& a, const Expr& b) { return times_slope(kernels::FLAT, a, b); }},
};
#undef FLOWGRAD_ONE
#undef FLOWGRAD_TWO

}  // namespace

TEST_CASE("a function of the table is the same of numbers, tensors and both", "[expression_test]") {
  for (const TableFunction& f : kTableFunctions) {
    for (const auto& [a, b] : {std::pair{0.7, 0.3}, {0.3, 0.7}, {1.5, 2.5}, {0.0, 0.5}}) {
      INFO(f.name << " at " << a << ", " << b);
      const auto wanted = Catch::Approx(f.number(a, b)).epsilon(1e-14);
      CHECK(number_in(f.tensors(Expr(a), Expr(b))) == wanted);
      CHECK(number_in(f.tensors(tensor_of(a), tensor_of(b))) == wanted);
      CHECK(number_in(f.tensors(tensor_of(a), Expr(b))) == wanted);
      CHECK(number_in(f.tensors(Expr(a), tensor_of(b))) == wanted);
    }
  }
}

TEST_CASE("every function of functions.h that gives its argument's type is there",
          "[expression_test]") {
  std::ifstream file(FLOWGRAD_TEST_DATA "/../flowgrad/kernels/functions.h");
  std::set<std::string> promised, present;
  for (std::string line; std::getline(file, line);) {
    for (const std::string start : {"using std::", "FLOWGRAD_HOST_DEVICE T "}) {
      if (!line.starts_with(start)) continue;
      line.erase(0, start.size());
      promised.insert(line.substr(0, line.find_first_of("(;")));
    }
  }
  for (const TableFunction& f : kTableFunctions) present.insert(f.name);
  CHECK(promised == present);
}

TEST_CASE("comparisons of expressions", "[expression_test]") {
  const auto all_of = [](const Expr& a, const Expr& b) {
    std::string out;
    for (const Expr& e : {a == b, a != b, a<b, a <= b, a> b, a >= b})
      out += number_in(e) != 0 ? '1' : '0';
    return out;
  };
  for (const auto& [a, b, wanted] : {std::tuple{1.0, 2.0, "011100"}, {2.0, 2.0, "100101"}}) {
    CHECK(all_of(Expr(a), Expr(b)) == wanted);
    CHECK(all_of(tensor_of(a), tensor_of(b)) == wanted);
    CHECK(all_of(tensor_of(a), Expr(b)) == wanted);
    CHECK(all_of(Expr(a), tensor_of(b)) == wanted);
  }
}

}  // namespace flowgrad::testing
