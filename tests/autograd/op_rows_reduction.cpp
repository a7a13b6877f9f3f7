#include <cmath>
#include <limits>

#include "autograd/op_table.h"

// Reductions and scans.
namespace flowgrad::testing {
namespace {

/// The last axis, or none where there is no axis.
Dims last_axis(const Shape& s) { return s.empty() ? Dims{} : Dims{-1}; }

Op reduction(const char* name, MultiFunction (*f)(Dims axes, bool keepdim), double low = -2,
             double high = 2) {
  Op op{name, [=](const Shape& s) { return Case{{{s, low, high}}, f(last_axis(s), false), {}}; }};
  op.also({{{2, 3}, low, high}}, f({}, false)).also({{{2, 3, 2}, low, high}}, f({0, 2}, true));
  const std::string n = name;
  op.refuses((n + ": axis 2 given; a tensor of rank 2 accepts -2 to 1").c_str(), {{{3, 4}}},
             f({2}, false));
  op.refuses((n + ": axis 1 is named twice in (1, -1)").c_str(), {{{3, 4}}}, f({1, -1}, false));
  op.refuses((n + ": axis -3 given").c_str(), {{{3, 4}}}, f({-3}, true));
  return op.mixes("one tensor");
}
#define REDUCE(name, ...)                                                                     \
  reduction(                                                                                  \
      #name,                                                                                  \
      [](Dims axes, bool keepdim) -> MultiFunction { return FN(name(x[0], axes, keepdim)); }, \
      ##__VA_ARGS__)

/// Functions of one axis.
Op along(const char* name, MultiFunction (*f)(int64_t axis), double low = -2, double high = 2) {
  Op op{name, [=](const Shape& s) { return Case{{{s, low, high}}, f(-1), {}}; }};
  op.also({{{3, 2}, low, high}}, f(0)).also({{{2, 3, 2}, low, high}}, f(1));
  const std::string n = name;
  op.refuses((n + ": axis 2 given; a tensor of rank 2 accepts -2 to 1").c_str(), {{{3, 4}}}, f(2));
  op.refuses((n + ": axis -3 given; a tensor of rank 2").c_str(), {{{3, 4}}}, f(-3));
  op.refuses((n + ": x is bfloat16").c_str(), {{{3, 4}}},
             [f](In x) { return f(-1)(Tensors{cast(x[0], DType::bfloat16)}); });
  return op.mixes("one tensor");
}
#define ALONG(name, expression, ...) \
  along(                             \
      name, [](int64_t axis) -> MultiFunction { return FN(expression); }, ##__VA_ARGS__)

}  // namespace

void add_reduction_rows(std::vector<Op>& t) {
  const char* counted = "int64 int64 refused";
  const char* real = "refused refused refused";
  const char* kept = "int64 bool refused";
  const char* empty = "at least one";
  t.push_back(REDUCE(sum).smooth().dtypes(counted).refuses("sum: x is bfloat16", {{{3}}},
                                                           FN(sum(cast(x[0], DType::bfloat16)))));
  t.push_back(REDUCE(mean).smooth().dtypes(real).refuses("mean: x is int64; float32 and float64",
                                                         {index_to({3}, 3)}, FN(mean(x[0]))));
  t.push_back(REDUCE(prod, 0.5, 1.5).smooth().dtypes(counted));
  t.push_back(
      reduction("var", [](Dims a, bool keep) -> MultiFunction { return FN(var(x[0], a, 1, keep)); })
          .smooth()
          .dtypes(real)
          .also({{{2, 3}}}, FN(var(x[0], {1}, 0)))
          .refuses("var: correction", {{{3}}}, FN(var(x[0], {}, std::nan("")))));
  t.push_back(
      reduction("std", [](Dims a, bool keep) -> MultiFunction { return FN(std(x[0], a, 1, keep)); })
          .smooth()
          .dtypes(real)
          .also({{{2, 3}}}, FN(std(x[0], {1}, 0)))
          .refuses("std: correction", {{{3}}}, FN(std(x[0], {}, std::nan("")))));
  t.push_back(REDUCE(max).dtypes(kept).empty_refused(empty).refuses(
      "max: axis 0 of shape (0,) has no elements", {{{0}}}, FN(max(x[0]))));
  t.push_back(REDUCE(min).dtypes(kept).empty_refused(empty).refuses(
      "min: axis 1 of shape (3, 0) has no elements", {{{3, 0}}}, FN(min(x[0], {1}))));
  t.push_back(ALONG("max_with_index", max_with_index(x[0], axis))
                  .dtypes("int64 bool refused")
                  .empty_refused(empty));
  t.push_back(ALONG("min_with_index", min_with_index(x[0], axis))
                  .dtypes("int64 bool refused")
                  .empty_refused(empty));
  t.push_back(ALONG("argmax", argmax(x[0], axis))
                  .constant()
                  .dtypes("int64 int64 refused")
                  .empty_refused(empty)
                  .hides_nan("the result is a position"));
  t.push_back(ALONG("argmin", argmin(x[0], axis))
                  .constant()
                  .dtypes("int64 int64 refused")
                  .empty_refused(empty)
                  .hides_nan("the result is a position"));
  t.push_back(REDUCE(any).constant().dtypes("bool bool bool").hides_nan("the result is bool"));
  t.push_back(REDUCE(all).constant().dtypes("bool bool bool").hides_nan("the result is bool"));
  t.push_back(REDUCE(logsumexp).smooth().dtypes(real));
  t.push_back(
      reduction("norm",
                [](Dims a, bool keep) -> MultiFunction { return FN(norm(x[0], a, 2, keep)); })
          .smooth()
          .dtypes(real)
          .also({{{2, 3}}}, FN(norm(x[0], {1}, 1)))
          .also({{{2, 3}}}, FN(norm(x[0], {1}, 3)))
          .also({{{2, 3}}}, FN(norm(x[0], {0}, std::numeric_limits<double>::infinity())))
          .refuses("norm: p = 0.5 given; at least 1 is accepted", {{{3}}},
                   FN(norm(x[0], {}, 0.5))));
  t.push_back(
      ALONG("median", median(x[0], axis))
          .dtypes("int64 refused refused")
          .empty_refused(empty)
          .also({{{2, 3}}}, FN(median(x[0])))
          .also({{{3, 4}}}, FN(median(x[0], 1, true)))
          .refuses("median: shape (0,) given; at least one element", {{{0}}}, FN(median(x[0]))));

  t.push_back(ALONG("cumsum", cumsum(x[0], axis)).smooth().dtypes(counted));
  t.push_back(ALONG("cumprod", cumprod(x[0], axis), 0.5, 1.5).smooth().dtypes(counted));
  t.push_back(ALONG("logcumsumexp", logcumsumexp(x[0], axis)).smooth().dtypes(real));
  t.push_back(ALONG("cummax", cummax(x[0], axis)).dtypes(kept));
  t.push_back(ALONG("cummin", cummin(x[0], axis)).dtypes(kept));
  t.push_back(
      Op{"linear_scan", AT((std::vector<Arg>{{s, -1, 1}, {s}}), linear_scan(x[0], x[1], -1))}
          .smooth()
          .broadcasts()
          .hides_nan("the first factor meets no earlier result")
          .dtypes(real)
          .also({{{3, 2}}, {{3, 2}}}, FN(linear_scan(x[0], x[1], 0)))
          .also({{{2, 3}}, {{2, 3}}}, FN(linear_scan(x[0], x[1], 1, true)))
          .refuses("linear_scan: axis 2 given; a tensor of rank 2", {{{3, 4}}, {{3, 4}}},
                   FN(linear_scan(x[0], x[1], 2)))
          .refuses("linear_scan: shapes (3,) and (4,) do not broadcast", {{{3}}, {{4}}},
                   FN(linear_scan(x[0], x[1], 0)))
          .refuses("linear_scan: a is int64 and b int64; float32 and float64",
                   {index_to({3}, 3), index_to({3}, 3)}, FN(linear_scan(x[0], x[1], 0))));
}

}  // namespace flowgrad::testing
