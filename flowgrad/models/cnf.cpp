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

Pass run(const CnfTensors& w, double t, const Tensor& x) {
  Pass p;
  p.h1 = tanh(linear(x, w.x, w.t * t + w.bias));
  p.h2 = tanh(linear(p.h1, w.middle, w.middle_bias));
  p.velocity = linear(p.h2, w.out, w.out_bias);
  return p;
}

Tensor slope(const Tensor& h) { return 1.0 - square(h); }

Tensor trace(const CnfTensors& w, const Pass& p) {
  if (w.exact.defined()) return sum(linear(slope(p.h1), w.exact) * slope(p.h2), {1});
  return sum(matmul(w.left * slope(p.h2), w.middle) * (slope(p.h1) * w.right), {1});
}

/// The state at t1 and, where the field has a trace, its integral.
std::vector<Tensor> solve(const Tensor& y0, const CnfTensors& field, double t0, double t1,
                          OdeOptions options) {
  options.integrals = field.has_trace() ? 1 : 0;
  const MultiFunction by_operations = [t0, t1, options](std::span<const Tensor> in) {
    const CnfTensors w = CnfTensors::from(in);
    OdeState start = {in[0]};
    if (w.has_trace()) start.push_back(zeros({in[0].size(0)}, in[0].dtype(), in[0].device()));
    const OdeField slopes = [w](double t, const OdeState& y) {
      const Pass p = run(w, t, y[0]);
      return w.has_trace() ? OdeState{p.velocity, trace(w, p)} : OdeState{p.velocity};
    };
    return odeint(slopes, start, t0, t1, options);
  };
  const auto steps = solve_steps(t0, t1, options);
  return steps ? cnf_solve(y0, field, *steps, by_operations) : by_operations(field.with(y0));
}

}  // namespace

ODEFunc::ODEFunc(int64_t dim, int64_t hidden, Generator& generator, DType dtype)
    : net_(add_module("net",
                      std::make_unique<MLP>(std::vector<int64_t>{dim + 1, hidden, hidden, dim},
                                            flowgrad::tanh, generator, dtype))) {}

CnfTensors ODEFunc::weights() const {
  const auto& layers = net_.linears();
  const Tensor& first = layers[0]->weight();
  const int64_t dim = first.size(1) - 1;
  return {.x = contiguous(slice(first, 1, 0, dim)),
          .t = select(first, 1, dim),
          .bias = layers[0]->bias(),
          .middle = layers[1]->weight(),
          .middle_bias = layers[1]->bias(),
          .out = layers[2]->weight(),
          .out_bias = layers[2]->bias()};
}

Tensor ODEFunc::velocity(double t, const Tensor& x) const {
  const CnfTensors w = weights();
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
  CnfTensors field = ode_func_.weights();
  if (options_.trace == Trace::exact) {
    field.exact = field.middle * transpose(matmul(field.x, field.out));
  } else {
    const Tensor probe = given.defined() ? given : draw_probe(y0);
    field.left = matmul(probe, field.out);
    field.right = linear(probe, field.x);
  }
  const std::vector<Tensor> end = solve(y0, field, t0, t1, options_.solver);
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
  const CnfTensors w = ode_func_.weights();
  const Tensor z = randn({n, options_.dim}, generator, w.x.dtype(), w.x.device());
  return solve(z, w, 0, 1, options_.solver)[0];
}

}  // namespace flowgrad
