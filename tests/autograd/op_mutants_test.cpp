#include <fmt/format.h>

#include <cmath>
#include <cstdio>

#include "autograd/op_checks.h"
#include "catch.hpp"
#include "flowgrad/autograd/gradcheck.h"

// Tests of the tests: wrong derivatives, planted with tap and custom_vjp around the operations,
// must all be found.
using namespace flowgrad;
using namespace flowgrad::testing;

namespace {

enum class Mutation {
  scaled,       // times 1.00001
  sign,         // the other sign
  lost_term,    // one input, or the largest element, gets no gradient
  missing_sum,  // a broadcast axis that is not summed
  wrong_shape,  // twice the elements
  second,       // right, but its own derivative is off by 1.001
  one,          // where the gradient is 0: 1
};
constexpr Mutation kAll[] = {Mutation::scaled,      Mutation::sign,        Mutation::lost_term,
                             Mutation::missing_sum, Mutation::wrong_shape, Mutation::second};
const char* name_of_mutation(Mutation m) {
  const char* names[] = {"times 1.00001",         "sign",        "lost term",
                         "missing broadcast sum", "wrong shape", "second order",
                         "1 instead of nothing"};
  return names[static_cast<int>(m)];
}

/// g without its largest element.
Tensor without_largest(const Tensor& g) {
  const std::vector<double> v = g.to_vector<double>();
  size_t at = 0;
  for (size_t i = 1; i < v.size(); ++i) {
    if (std::abs(v[i]) > std::abs(v[at])) at = i;
  }
  std::vector<double> mask(v.size(), 1.0);
  if (!mask.empty()) mask[at] = 0;
  return g * Tensor::from(mask, g.shape(), g.dtype());
}

/// x as the mean of two broadcast copies, whose gradients are not added up.
Tensor with_missing_sum(const Tensor& x) {
  const auto twice = [](In in) {
    Shape shape = in[0].shape();
    shape.insert(0, 2);
    return Tensors{clone(expand(in[0], shape))};
  };
  const auto rule = [](In cotangents, In, In) { return Tensors{select(cotangents[0], 0, 0)}; };
  return mean(custom_vjp("missing_sum", twice, rule, std::span(&x, 1))[0], {0});
}

Tensor mutated(const Tensor& x, Mutation m, bool alone) {
  switch (m) {
    case Mutation::scaled: return tap(x, [](const Tensor& g) { return g * 1.00001; });
    case Mutation::sign: return tap(x, [](const Tensor& g) { return -g; });
    case Mutation::lost_term:
      return tap(x,
                 [alone](const Tensor& g) { return alone ? without_largest(g) : zeros_like(g); });
    case Mutation::missing_sum: return with_missing_sum(x);
    case Mutation::wrong_shape:
      return tap(x, [](const Tensor& g) { return concat({flatten(g), flatten(g)}, 0); });
    case Mutation::second:
      return tap(x,
                 [](const Tensor& g) { return tap(g, [](const Tensor& h) { return h * 1.001; }); });
    default: return tap(x, [](const Tensor& g) { return g + 1.0; });
  }
}

struct Hunt {
  int64_t planted = 0;
  std::vector<std::string> survivors;

  void run(const Op& op, const Case& c, Mutation m) {
    const Tensors in = make_inputs(c, DType::float64, seed_of(op));
    size_t reals = 0;
    for (const Tensor& t : in) reals += is_real(t);
    // The term lost is that of the last input; everything else goes wrong in the first one.
    size_t target = in.size();
    for (size_t i = 0; i < in.size(); ++i) {
      if (is_real(in[i]) && (target == in.size() || m == Mutation::lost_term)) target = i;
    }
    const MultiFunction f = [&, target](In x) {
      Tensors y(x.begin(), x.end());
      y[target] = mutated(y[target], m, reals == 1);
      return c.f(y);
    };
    ++planted;
    bool caught = false;
    try {
      caught = !gradcheck(f, in, {.order = m == Mutation::second ? 2 : 1, .seed = 5}).passed;
    } catch (const GradError& e) {
      caught = m == Mutation::wrong_shape &&
               std::string(e.what()).find("expected shape") != std::string::npos;
    }
    if (!caught) survivors.push_back(fmt::format("{}: {} survives", op.name, name_of_mutation(m)));
  }
};

}  // namespace

TEST_CASE("Every planted wrong derivative is found", "[op_mutants_test]") {
  Hunt hunt;
  int64_t ops = 0;
  for (const Op& op : op_table()) {
    if (!op.differentiable) continue;
    ++ops;
    const Case c = op.at(op.small);
    if (op.flat) {
      hunt.run(op, c, Mutation::one);
      continue;
    }
    for (Mutation m : kAll) hunt.run(op, c, m);
  }
  for (const std::string& survivor : hunt.survivors) FAIL_CHECK(survivor);
  fmt::print("mutants: {} of {} caught, in {} operations\n",
             hunt.planted - static_cast<int64_t>(hunt.survivors.size()), hunt.planted, ops);
  std::fflush(stdout);
  CHECK(hunt.planted >= 320);
}

TEST_CASE("The unmutated wrappers are found innocent", "[op_mutants_test]") {
  const Tensor x = Tensor::from<double>({0.3, -1.2, 0.7}, {3});
  const auto f = [](const Tensor& t) {
    return exp(tap(t, [](const Tensor& g) { return g * 1.0; }));
  };
  const GradcheckResult r = gradcheck(f, x, {.order = 3});
  INFO(r.message);
  CHECK(r.passed);
}

TEST_CASE("A function that is not deterministic is found", "[op_mutants_test]") {
  Generator g(3);
  const Tensor x = Tensor::from<double>({0.3, -1.2, 0.7}, {3});
  const auto f = [&](const Tensor& t) {
    return t * 2.0 + randn(t.shape(), g, DType::float64) * 1e-6;
  };
  CHECK_FALSE(gradcheck(f, x).passed);
}
