#include <cmath>
#include <limits>

#include "autograd/op_table.h"

// Functions of one tensor, from kernels/elementwise.def and beside it.
namespace flowgrad::testing {
namespace {

using Unary = Tensor (*)(const Tensor&);

Op unary(const char* name, MultiFunction f, double low, double high) {
  Op op{name, [f, low, high](const Shape& s) { return Case{{{s, low, high}}, f, {}}; }};
  op.refuses("dtype bfloat16 given", {{{3}, low, high}},
             [f](In x) { return f(Tensors{cast(x[0], DType::bfloat16)}); });
  op.refuses_usual();
  return op;
}

/// A row of the table of functions of one tensor.
Op unary(const char* name, Unary f, double low = -2, double high = 2) {
  return unary(name, FN(f(x[0])), low, high);
}

/// Results without a derivative.
Op predicate(const char* name, Unary f) {
  Op op{name, [f](const Shape& s) { return Case{{{s}}, FN(f(x[0])), {}}; }};
  op.refuses("does not depend on anything", {{{3}}}, [f](In x) {
    const Tensor leaf = x[0].detach().requires_grad_();
    return list(grad(f(leaf), leaf));
  });
  op.refuses("cast it first", {{{3}}}, FN(mean(f(x[0]))));
  op.refuses("only floating", {{{3}}}, FN(f(x[0]).requires_grad_()));
  return op.constant().dtypes("bool refused refused").mixes("bool").hides_nan("the result is bool");
}

}  // namespace

void add_elementwise_rows(std::vector<Op>& t) {
  const char* whole = "int64 int64 refused";
  t.push_back(unary("neg", neg).smooth().dtypes(whole));
  t.push_back(unary("abs", abs).dtypes(whole));
  t.push_back(unary("sign", sign).steps().dtypes(whole));
  t.push_back(unary("floor", floor).steps().dtypes(whole));
  t.push_back(unary("ceil", ceil).steps().dtypes(whole));
  t.push_back(unary("round", round).steps().dtypes(whole));
  t.push_back(unary("exp", exp).smooth());
  t.push_back(unary("expm1", expm1).smooth());
  t.push_back(unary("log", log, 0.5, 4).smooth());
  t.push_back(unary("log1p", log1p, -0.5, 4).smooth());
  t.push_back(unary("sqrt", sqrt, 0.5, 4).smooth());
  t.push_back(unary("rsqrt", rsqrt, 0.5, 4).smooth());
  t.push_back(unary("square", square).smooth().dtypes(whole));
  t.push_back(unary("reciprocal", reciprocal, 0.5, 4).smooth());
  t.push_back(unary("sin", sin).smooth());
  t.push_back(unary("cos", cos).smooth());
  t.push_back(unary("tan", tan, -1, 1).smooth());
  t.push_back(unary("tanh", tanh).smooth());
  t.push_back(unary("sinh", sinh).smooth());
  t.push_back(unary("cosh", cosh).smooth());
  t.push_back(unary("asin", asin, -0.8, 0.8).smooth());
  t.push_back(unary("acos", acos, -0.8, 0.8).smooth());
  t.push_back(unary("atan", atan).smooth());
  t.push_back(unary("asinh", asinh).smooth());
  t.push_back(unary("acosh", acosh, 1.5, 4).smooth());
  t.push_back(unary("atanh", atanh, -0.8, 0.8).smooth());
  t.push_back(unary("erf", erf).smooth());
  t.push_back(unary("erfc", erfc).smooth());
  t.push_back(unary("sigmoid", sigmoid).smooth());
  t.push_back(unary("softplus", softplus).smooth());
  t.push_back(unary("logsigmoid", logsigmoid).smooth());
  t.push_back(unary("relu", relu).dtypes(whole));
  t.push_back(unary("silu", silu).smooth());
  t.push_back(unary("gelu", gelu).smooth());
  t.push_back(unary("mish", mish).smooth());
  t.push_back(unary("leaky_relu", FN(leaky_relu(x[0], 0.2)), -2, 2));
  t.push_back(unary("elu", FN(elu(x[0], 1.7)), -2, 2));
  t.push_back(unary("clamp", FN(clamp(x[0], -0.5, 1)), -2, 2)
                  .dtypes("float32 float32 refused")
                  .refuses("clamp: bounds low = 2 and high = 1", {{{3}}}, FN(clamp(x[0], 2, 1))));
  t.push_back(
      unary("hardtanh", FN(hardtanh(x[0], -1, 0.5)), -2, 2)
          .refuses("hardtanh: bounds low = 2 and high = 1", {{{3}}}, FN(hardtanh(x[0], 2, 1))));
  t.push_back(predicate("isfinite", isfinite));
  t.push_back(predicate("isinf", isinf));
  t.push_back(predicate("isnan", isnan));

  t.push_back(unary("operator-", FN(-x[0]), -2, 2)
                  .smooth()
                  .dtypes(whole)
                  .also({{{2, 3}}}, FN(2.5 - x[0]))
                  .also({{{2, 3}}}, FN(x[0] - 2.5))
                  .also({{{2, 3}}, {{3}}}, FN(x[0] - x[1])));
  t.push_back(unary("operator+", FN(x[0] + 2), -2, 2)
                  .smooth()
                  .dtypes(whole)
                  .also({{{2, 3}}}, FN(2.5 + x[0]))
                  .also({{{2, 3}}, {{3}}}, FN(x[0] + x[1])));
  t.push_back(unary("operator*", FN(x[0] * 3), -2, 2)
                  .smooth()
                  .dtypes(whole)
                  .also({{{2, 3}}}, FN(2.5 * x[0]))
                  .also({{{2, 3}}, {{3}}}, FN(x[0] * x[1])));
  t.push_back(unary("operator/", FN(x[0] / 3), -2, 2)
                  .smooth()
                  .also({{{2, 3}, 0.5, 2}}, FN(2.5 / x[0]))
                  .also({{{2, 3}}, {{3}, 0.5, 2}}, FN(x[0] / x[1])));

  t.push_back(
      Op{"logical_not", AT({flags(s)}, logical_not(x[0]))}
          .constant()
          .dtypes("refused bool refused")
          .mixes("refused")
          .hides_nan("the arguments are bool")
          .refuses("logical_not: a is float64; bool is accepted", {{{3}}}, FN(logical_not(x[0])))
          .refuses("logical_not: a is int64; bool", {index_to({3}, 2)}, FN(logical_not(x[0])))
          .refuses("only floating", {flags({3})}, FN(logical_not(x[0]).requires_grad_())));
  t.push_back(
      Op{"cast", AT({Arg{s}}, cast(x[0], x[0].dtype()))}
          .smooth()
          .aliases()
          .dtypes("int64 bool bfloat16")
          .also({{{2, 3}}}, FN(cast(cast(x[0], DType::float64), x[0].dtype())))
          .refuses("only floating", {{{3}}}, FN(cast(x[0], DType::int64).requires_grad_()))
          .refuses("only floating", {{{3}}}, FN(cast(x[0], DType::boolean).requires_grad_()))
          .refuses("does not depend on anything", {{{3}}}, [](In x) {
            const Tensor leaf = x[0].detach().requires_grad_();
            return list(grad(sum(cast(leaf, DType::int64)), leaf));
          }));
}

}  // namespace flowgrad::testing
