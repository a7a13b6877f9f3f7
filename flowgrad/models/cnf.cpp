#include "flowgrad/models/cnf.h"

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"

namespace flowgrad {

ODEFunc::ODEFunc(int64_t dim, int64_t hidden, Generator& generator, DType dtype)
    : net_(add_module("net", std::make_unique<MLP>(std::vector<int64_t>{dim + 1, hidden, hidden, dim},
                                                   flowgrad::tanh, generator, dtype))) {}

Tensor ODEFunc::velocity(double t, const Tensor& x) {
  const Tensor time = expand(full({}, t, x.dtype()), {x.size(0), 1});
  return net_(concat({x, time}, 1));
}

ContinuousNormalizingFlow::ContinuousNormalizingFlow(const CNFOptions& options, Generator& generator, DType dtype)
    : options_(options),
      ode_func_(add_module("ode_func", std::make_unique<ODEFunc>(options.dim, options.hidden, generator, dtype))),
      probes_(generator.seed(), uint64_t{1} << 40) {}  // far from the streams that weights and data take

Tensor ContinuousNormalizingFlow::draw_probe(const Tensor& like) {
  return options_.probe == Probe::rademacher ? rademacher(like.shape(), probes_, like.dtype())
                                             : randn(like.shape(), probes_, like.dtype());
}

Transformed ContinuousNormalizingFlow::integrate(const Tensor& y0, double t0, double t1, const Tensor& given) {
  check_rows("ContinuousNormalizingFlow", y0, options_.dim);
  const bool exact = options_.trace == Trace::exact;
  const Tensor probe = exact || given.defined() ? given : draw_probe(y0);
  const bool graph = mode().recording;
  const OdeField field = [&](double t, const OdeState& y) {
    const Function v = [&](const Tensor& x) { return ode_func_.velocity(t, x); };
    const ValueAndDerivative d = exact ? divergence(v, y[0], graph) : hutchinson_divergence(v, y[0], probe, graph);
    return OdeState{d.value, d.derivative};
  };
  const OdeState end = odeint(field, {y0, zeros({y0.size(0)}, y0.dtype())}, t0, t1, options_.solver);
  return {end[0], end[1]};
}

Transformed ContinuousNormalizingFlow::forward(const Tensor& z, const Tensor&) { return integrate(z, 0, 1); }

Transformed ContinuousNormalizingFlow::inverse(const Tensor& x, const Tensor&) { return integrate(x, 1, 0); }

Tensor ContinuousNormalizingFlow::sample(int64_t n, Generator& generator, const Tensor&) {
  NoGrad off;
  const Tensor z = randn({n, options_.dim}, generator, parameters().front().second.dtype());
  return odeint([&](double t, const Tensor& x) { return ode_func_.velocity(t, x); }, z, 0, 1, options_.solver);
}

}  // namespace flowgrad
