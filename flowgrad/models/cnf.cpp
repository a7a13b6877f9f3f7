#include "flowgrad/models/cnf.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

/// What the network computes on the way to a velocity.
struct Pass {
  Tensor h1, h2;    // outputs of the two tanh, (N, H)
  Tensor velocity;  // (N, D)
};

Pass run(const ODEFunc::Weights& w, double t, const Tensor& x) {
  Pass p;
  p.h1 = tanh(linear(x, w.x, w.t * t + w.bias));
  p.h2 = tanh(linear(p.h1, w.middle, w.middle_bias));
  p.velocity = linear(p.h2, w.out, w.out_bias);
  return p;
}

Tensor slope(const Tensor& h) { return 1.0 - square(h); }

}  // namespace

ODEFunc::ODEFunc(int64_t dim, int64_t hidden, Generator& generator, DType dtype)
    : net_(add_module("net",
                      std::make_unique<MLP>(std::vector<int64_t>{dim + 1, hidden, hidden, dim},
                                            flowgrad::tanh, generator, dtype))) {}

ODEFunc::Weights ODEFunc::weights() const {
  const auto& layers = net_.linears();
  const Tensor& first = layers[0]->weight();
  const int64_t dim = first.size(1) - 1;
  return {contiguous(slice(first, 1, 0, dim)),
          select(first, 1, dim),
          layers[0]->bias(),
          layers[1]->weight(),
          layers[1]->bias(),
          layers[2]->weight(),
          layers[2]->bias()};
}

Tensor ODEFunc::velocity(double t, const Tensor& x) const {
  const Weights w = weights();
  check_rows("ODEFunc", x, w.x.size(1));
  return run(w, t, x).velocity;
}

ContinuousNormalizingFlow::ContinuousNormalizingFlow(const CNFOptions& options,
                                                     Generator& generator, DType dtype)
    : options_(options),
      ode_func_(add_module(
          "ode_func", std::make_unique<ODEFunc>(options.dim, options.hidden, generator, dtype))),
      probes_(generator.seed(), uint64_t{1} << 40) {
}  // far from the streams that weights and data take

Tensor ContinuousNormalizingFlow::draw_probe(const Tensor& like) {
  return options_.probe == Probe::rademacher
             ? rademacher(like.shape(), probes_, like.dtype(), like.device())
             : randn(like.shape(), probes_, like.dtype(), like.device());
}

Transformed ContinuousNormalizingFlow::integrate(const Tensor& y0, double t0, double t1,
                                                 const Tensor& given) {
  check_rows("ContinuousNormalizingFlow", y0, options_.dim);
  if (given.defined() && given.shape() != y0.shape()) {
    throw ShapeError(
        fmt::format("ContinuousNormalizingFlow: probe of shape {} given; {} is accepted",
                    given.shape().to_string(), y0.shape().to_string()));
  }
  const ODEFunc::Weights w = ode_func_.weights();
  OdeField field;
  if (options_.trace == Trace::exact) {
    const Tensor m = w.middle * transpose(matmul(w.x, w.out));
    field = [w, m](double t, const OdeState& y) {
      const Pass p = run(w, t, y[0]);
      return OdeState{p.velocity, sum(linear(slope(p.h1), m) * slope(p.h2), {1})};
    };
  } else {
    const Tensor probe = given.defined() ? given : draw_probe(y0);
    const Tensor left = matmul(probe, w.out);
    const Tensor right = linear(probe, w.x);
    field = [w, left, right](double t, const OdeState& y) {
      const Pass p = run(w, t, y[0]);
      return OdeState{p.velocity,
                      sum(matmul(left * slope(p.h2), w.middle) * (slope(p.h1) * right), {1})};
    };
  }
  OdeOptions solver = options_.solver;
  solver.integrals = 1;
  const OdeState end =
      odeint(field, {y0, zeros({y0.size(0)}, y0.dtype(), y0.device())}, t0, t1, solver);
  return {end[0], end[1]};
}

Transformed ContinuousNormalizingFlow::forward(const Tensor& z, const Tensor& condition) {
  check_condition("ContinuousNormalizingFlow", condition, z.size(0), 0);
  return integrate(z, 0, 1);
}

Transformed ContinuousNormalizingFlow::inverse(const Tensor& x, const Tensor& condition) {
  check_condition("ContinuousNormalizingFlow", condition, x.size(0), 0);
  return integrate(x, 1, 0);
}

Tensor ContinuousNormalizingFlow::sample(int64_t n, Generator& generator, const Tensor& condition) {
  check_condition("ContinuousNormalizingFlow", condition, n, 0);
  NoGrad off;
  const ODEFunc::Weights w = ode_func_.weights();
  const Tensor z = randn({n, options_.dim}, generator, w.x.dtype(), w.x.device());
  return odeint([w](double t, const Tensor& x) { return run(w, t, x).velocity; }, z, 0, 1,
                options_.solver);
}

}  // namespace flowgrad
