#include "autograd/op_table.h"

// Functions of two tensors that broadcast, and where.
namespace flowgrad::testing {
namespace {

using Binary = Tensor (*)(const Tensor&, const Tensor&);

struct Domain {
  double a_low = -2, a_high = 2, b_low = -2, b_high = 2;
};

Op binary(const char* name, Binary f, const Domain& d = {}) {
  Op op{name, [f, d](const Shape& s) {
          return Case{{{s, d.a_low, d.a_high}, {s, d.b_low, d.b_high}}, FN(f(x[0], x[1])), {}};
        }};
  const std::string shapes =
      std::string(name) +
      ": shapes (3, 4) and (5,) do not broadcast: axis 1 of a (4) and axis 0 of b (5)";
  op.refuses(shapes.c_str(), {{{3, 4}}, {{5}}}, FN(f(x[0], x[1])));
  op.refuses("dtype bfloat16 given", {{{3}}, {{3}}},
             FN(f(cast(x[0], DType::bfloat16), cast(x[1], DType::bfloat16))));
  op.also({{{2, 1, 3}, d.a_low, d.a_high}, {{2, 1}, d.b_low, d.b_high}}, FN(f(x[0], x[1])));
  op.refuses_usual();
  return op.broadcasts();
}

Op comparison(const char* name, Binary f, Tensor (*with_number)(const Tensor&, double)) {
  Op op{name, [f](const Shape& s) { return Case{{{s}, {s}}, FN(f(x[0], x[1])), {}}; }};
  const std::string shapes = std::string(name) + ": shapes (3, 4) and (5,) do not broadcast";
  op.refuses(shapes.c_str(), {{{3, 4}}, {{5}}}, FN(f(x[0], x[1])));
  op.refuses("does not depend on anything", {{{3}}, {{3}}}, [f](In x) {
    const Tensor leaf = x[0].detach().requires_grad_();
    return list(grad(f(leaf, x[1]), leaf));
  });
  op.refuses("only floating", {{{3}}, {{3}}}, FN(f(x[0], x[1]).requires_grad_()));
  op.also({{{2, 3}}}, FN(with_number(x[0], 0.25)));
  op.also({index_to({2, 3}, 4)}, FN(with_number(x[0], 1.5)));
  op.also({index_to({2, 3}, 3), index_to({3}, 3)}, FN(f(x[0], x[1])));
  return op.constant()
      .broadcasts()
      .dtypes("bool bool refused")
      .mixes("bool")
      .hides_nan("the result is bool");
}

Op logical(const char* name, Binary f) {
  Op op{name, [f](const Shape& s) { return Case{{flags(s), flags(s)}, FN(f(x[0], x[1])), {}}; }};
  const std::string n = name;
  op.refuses((n + ": a is float64; bool is accepted").c_str(), {{{3}}, {{3}}}, FN(f(x[0], x[1])));
  op.refuses((n + ": b is int64; bool is accepted").c_str(), {flags({3}), index_to({3}, 2)},
             FN(f(x[0], x[1])));
  op.refuses((n + ": shapes (3,) and (4,) do not broadcast").c_str(), {flags({3}), flags({4})},
             FN(f(x[0], x[1])));
  op.also({flags({2, 3}), flags({3})}, FN(f(x[0], x[1])));
  return op.constant()
      .broadcasts()
      .dtypes("refused bool refused")
      .mixes("refused")
      .hides_nan("the arguments are bool");
}

}  // namespace

void add_binary_rows(std::vector<Op>& t) {
  const char* whole = "int64 int64 refused";
  t.push_back(binary("add", add).smooth().dtypes(whole));
  t.push_back(binary("sub", sub).smooth().dtypes(whole));
  t.push_back(binary("mul", mul).smooth().dtypes(whole));
  t.push_back(binary("mul_zero", mul_zero).smooth().dtypes(whole));
  t.push_back(binary("div", div, {-2, 2, 0.5, 2}).smooth());
  t.push_back(binary("pow", static_cast<Binary>(pow), {0.5, 2, -2, 2})
                  .smooth()
                  .dtypes("refused refused refused")
                  .also({{{2, 3}, 0.5, 2}}, FN(pow(x[0], -1.5)))
                  .also({{{2, 3}}}, FN(pow(x[0], 3))));
  t.push_back(binary("maximum", maximum).dtypes(whole));
  t.push_back(binary("minimum", minimum).dtypes(whole));
  t.push_back(binary("atan2", atan2, {0.5, 2, -2, 2}).smooth());
  t.push_back(binary("remainder", remainder, {-4, 4, 4.5, 8})
                  .dtypes(whole)
                  .also({{{2, 3}, 7, 8}, {{2, 3}, 3, 3.5}}, FN(remainder(x[0], x[1]))));
  t.push_back(binary("logaddexp", logaddexp).smooth());

  t.push_back(comparison("equal", equal, equal));
  t.push_back(comparison("not_equal", not_equal, not_equal));
  t.push_back(comparison("less", less, less));
  t.push_back(comparison("less_equal", less_equal, less_equal));
  t.push_back(comparison("greater", greater, greater));
  t.push_back(comparison("greater_equal", greater_equal, greater_equal));

  t.push_back(logical("logical_and", logical_and));
  t.push_back(logical("logical_or", logical_or));
  t.push_back(logical("logical_xor", logical_xor));

  t.push_back(
      Op{"where", AT((std::vector<Arg>{flags(s), {s}, {s}}), where(x[0], x[1], x[2]))}
          .broadcasts(1, 2)
          .smooth()
          .dtypes("int64 bool bfloat16")
          .hides_nan("the other argument may be chosen")
          .also({flags({3}), {{2, 1}}, {{2, 3}}}, FN(where(x[0], x[1], x[2])))
          .refuses("where: condition is float64; bool is accepted", {{{3}}, {{3}}, {{3}}},
                   FN(where(x[0], x[1], x[2])))
          .refuses("where: shapes (3,) and (4,) do not broadcast", {flags({3}), {{3}}, {{4}}},
                   FN(where(x[0], x[1], x[2])))
          .refuses("do not broadcast", {flags({2}), {{3}}, {{3}}}, FN(where(x[0], x[1], x[2]))));
}

}  // namespace flowgrad::testing
