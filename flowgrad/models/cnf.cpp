#include "flowgrad/models/cnf.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

/// Tensors in the list of CnfTensors::with.
constexpr size_t kTensors = 11;

/// What the network computes on the way to a velocity.
struct Pass {
  Tensor h1, h2;    // outputs of the two tanh, (N, H)
  Tensor velocity;  // (N, D)
};

/// What enters the first tanh, but for the condition's part, at one time or at a time (N) a row.
Tensor first_layer(const CnfTensors& w, double t, const Tensor& x) {
  return linear(x, w.x, w.t * t + w.bias);
}
Tensor first_layer(const CnfTensors& w, const Tensor& t, const Tensor& x) {
  return linear(x, w.x, w.bias) + unsqueeze(t, 1) * w.t;
}

template <class Time>
Pass run(const CnfTensors& w, const Time& t, const Tensor& x, const Tensor& from_condition) {
  Pass p;
  const Tensor in = first_layer(w, t, x);
  p.h1 = tanh(from_condition.defined() ? in + from_condition : in);
  p.h2 = linear(p.h1, w.middle, w.middle_bias, Epilogue::tanh);
  p.velocity = linear(p.h2, w.out, w.out_bias);
  return p;
}

Tensor slope(const Tensor& h) { return 1.0 - square(h); }

/// left^T J without its last factor W1, (N, H), where left is probe^T W3 or a row of W3.
Tensor pulled_back(const CnfTensors& w, const Pass& p, const Tensor& left) {
  return matmul(left * slope(p.h2), w.middle) * slope(p.h1);
}

/// |J|_F^2 of each row, or |probe^T J|^2 from pulled_back(probe^T W3).
Tensor jacobian_norm(const CnfTensors& w, const Pass& p, const Tensor& pulled) {
  if (pulled.defined()) return sum(square(matmul(pulled, w.x)), {1});
  Tensor total;
  for (int64_t i = 0; i < w.out.size(0); ++i) {
    const Tensor row = sum(square(matmul(pulled_back(w, p, select(w.out, 0, i)), w.x)), {1});
    total = total.defined() ? total + row : row;
  }
  return total;
}

/// Velocity and, where asked for, trace, kinetic energy and Jacobian norm. `sign` is that of dt:
/// the regularisers are integrals along the path, whatever its direction.
template <class Time>
OdeState slopes(const CnfTensors& w, const Time& t, const Tensor& x, const Tensor& from_condition,
                bool regularizers, double sign) {
  const Pass p = run(w, t, x, from_condition);
  OdeState out{p.velocity};
  Tensor pulled;
  if (w.exact.defined()) {
    out.push_back(sum(linear(slope(p.h1), w.exact) * slope(p.h2), {1}));
  } else if (w.left.defined()) {
    pulled = pulled_back(w, p, w.left);
    out.push_back(sum(pulled * w.right, {1}));
  }
  if (regularizers) {
    out.push_back(sum(square(p.velocity), {1}) * sign);
    out.push_back(jacobian_norm(w, p, pulled) * sign);
  }
  return out;
}

/// The solve by rows, its statistics those of the row that evaluated the field most often. OdeError
/// for the first row that does not arrive.
OdeSolution solve_rows(const OdeRowField& field, const OdeState& y0, double t0, double t1,
                       const OdeOptions& options) {
  const OdeRowsSolution rows = solve_ode_rows(field, y0, t0, t1, options);
  OdeSolution out;
  out.y = rows.y;
  for (size_t i = 0; i < rows.t.size(); ++i) {
    require_success(rows, i);
    if (rows.statistics[i].evaluations > out.statistics.evaluations)
      out.statistics = rows.statistics[i];
  }
  return out;
}

void set_probe(CnfTensors& w, const Tensor& probe) {
  w.left = matmul(probe, w.out);
  w.right = linear(probe, w.x);
}

}  // namespace

ODEFunc::ODEFunc(int64_t dim, int64_t condition_dim, int64_t hidden, Generator& generator,
                 DType dtype)
    : dim_(dim),
      condition_dim_(condition_dim),
      net_(add_module("net", std::make_unique<MLP>(
                                 std::vector<int64_t>{dim + condition_dim + 1, hidden, hidden, dim},
                                 flowgrad::tanh, generator, dtype))) {}

CnfTensors ODEFunc::weights() const {
  const auto& layers = net_.linears();
  const Tensor& first = layers[0]->weight();
  return {.x = contiguous(slice(first, 1, 0, dim_)),
          .t = select(first, 1, dim_ + condition_dim_),
          .bias = layers[0]->bias(),
          .middle = layers[1]->weight(),
          .middle_bias = layers[1]->bias(),
          .out = layers[2]->weight(),
          .out_bias = layers[2]->bias()};
}

Tensor ODEFunc::from_condition(const Tensor& condition) const {
  if (!condition.defined()) return {};
  const Tensor& first = net_.linears()[0]->weight();
  return linear(condition, contiguous(slice(first, 1, dim_, dim_ + condition_dim_)));
}

Tensor ODEFunc::velocity(double t, const Tensor& x, const Tensor& given) const {
  check_rows("ODEFunc", x, dim_);
  const Tensor condition = check_condition("ODEFunc", given, x.size(0), condition_dim_);
  return run(weights(), t, x, from_condition(condition)).velocity;
}

ContinuousNormalizingFlow::ContinuousNormalizingFlow(const CNFOptions& options,
                                                     Generator& generator, DType dtype)
    : options_(options),
      ode_func_(
          add_module("ode_func", std::make_unique<ODEFunc>(options.dim, options.condition_dim,
                                                           options.hidden, generator, dtype))),
      probes_(generator.seed(), uint64_t{1} << 40) {  // far from weights' and data's streams
  const auto refuse = [](const char* name, double given) {
    throw ValueError(
        fmt::format("ContinuousNormalizingFlow: {} = {} given; finite numbers from 0 are accepted",
                    name, given));
  };
  if (options.condition_dim < 0)
    refuse("condition_dim", static_cast<double>(options.condition_dim));
  for (const auto& [name, weight] :
       {std::pair("kinetic", options.kinetic), std::pair("jacobian_norm", options.jacobian_norm)}) {
    if (!(weight >= 0) || std::isinf(weight)) refuse(name, weight);
  }
  check_solver(options.solver);
}

void ContinuousNormalizingFlow::check_solver(const OdeOptions& solver) const {
  const auto refuse = [](const char* what) {
    throw ValueError(fmt::format("ContinuousNormalizingFlow: {}", what));
  };
  if (options_.per_row && is_adaptive(solver) && solver.gradient == OdeGradient::adjoint)
    refuse("per_row given with gradient adjoint; direct and checkpointed are accepted");
  if (options_.per_row && is_adaptive(solver) && solver.trace)
    refuse(
        "per_row given with a trace of the steps, which differ from row to row; false is accepted");
  if (!options_.redraw_probe) return;
  if (options_.trace == Trace::exact) {
    refuse("redraw_probe given with trace exact, which has no probe; hutchinson is accepted");
  }
  if (solver.gradient != OdeGradient::direct) {
    refuse(
        "redraw_probe given with gradients that run the field again, with other probes; direct is "
        "accepted");
  }
  if (options_.per_row)
    refuse("redraw_probe given with per_row, where rows draw together; false is accepted");
}

void ContinuousNormalizingFlow::set_solver(const OdeOptions& solver) {
  check_solver(solver);
  options_.solver = solver;
}

Tensor ContinuousNormalizingFlow::draw_probe(const Tensor& like) {
  return options_.probe == Probe::rademacher
             ? rademacher(like.shape(), probes_, like.dtype(), like.device())
             : randn(like.shape(), probes_, like.dtype(), like.device());
}

OdeState ContinuousNormalizingFlow::solve(const Tensor& rows, double t0, double t1,
                                          const Tensor& given_probe, const Tensor& given_condition,
                                          bool trace, bool regularizers) {
  check_rows("ContinuousNormalizingFlow", rows, options_.dim);
  const Tensor y0 = cast(rows, promote(rows.dtype(), dtype()));
  const Tensor condition = check_condition("ContinuousNormalizingFlow", given_condition, y0.size(0),
                                           options_.condition_dim);
  if (given_probe.defined() && given_probe.shape() != y0.shape()) {
    throw ShapeError(
        fmt::format("ContinuousNormalizingFlow: probe of shape {} given; {} is accepted",
                    given_probe.shape().to_string(), y0.shape().to_string()));
  }
  CnfTensors weights = ode_func_.weights();
  if (trace && options_.trace == Trace::exact) {
    weights.exact = weights.middle * transpose(matmul(weights.x, weights.out));
  } else if (trace) {
    set_probe(weights, given_probe.defined() ? given_probe : draw_probe(y0));
  }
  OdeOptions options = options_.solver;
  options.integrals = (trace ? 1 : 0) + (regularizers ? 2 : 0);
  const bool redraws = trace && options_.redraw_probe;
  const bool per_row = options_.per_row && is_adaptive(options);
  const double sign = t1 < t0 ? -1 : 1;
  // A list of y0, the weights (some undefined) and what the condition adds.
  const MultiFunction by_operations = [=, statistics = statistics_,
                                       drawing =
                                           redraws ? this : nullptr](std::span<const Tensor> in) {
    std::vector<Tensor> parameters;
    std::vector<bool> given(in.size());
    for (size_t i = 1; i < in.size(); ++i) {
      given[i] = in[i].defined();
      if (given[i]) parameters.push_back(in[i]);
    }
    OdeState start = {in[0]};
    for (int64_t i = 0; i < options.integrals; ++i)
      start.push_back(zeros({in[0].size(0)}, in[0].dtype(), in[0].device()));
    if (per_row) {
      const OdeRowField field = [=, all = std::vector<Tensor>(in.begin(), in.end())](
                                    const Tensor& t, const OdeState& y, const Tensor& rows) {
        CnfTensors w = CnfTensors::from(all);
        const auto of_rows = [&](const Tensor& x) {
          return x.defined() ? index_select(x, 0, rows) : x;
        };
        w.left = of_rows(w.left);
        w.right = of_rows(w.right);
        return slopes(w, t, y[0], all.size() > kTensors ? of_rows(all.back()) : Tensor(),
                      regularizers, sign);
      };
      const OdeSolution s = solve_rows(field, start, t0, t1, options);
      *statistics = s.statistics;
      return s.y;
    }
    const OdeParameterField field = [=](double t, const OdeState& y, std::span<const Tensor> p) {
      std::vector<Tensor> all(given.size());
      for (size_t i = 0, next = 0; i < all.size(); ++i) {
        if (given[i]) all[i] = p[next++];
      }
      CnfTensors w = CnfTensors::from(all);
      if (drawing) set_probe(w, drawing->draw_probe(y[0]));
      return slopes(w, t, y[0], all.size() > kTensors ? all.back() : Tensor(), regularizers, sign);
    };
    OdeSolution s = solve_ode(field, start, parameters, t0, t1, options);
    *statistics = s.statistics;
    require_success(s);
    return s.y;
  };
  const Tensor added = ode_func_.from_condition(condition);
  const auto steps = solve_steps(t0, t1, options);
  if (!steps || added.defined() || regularizers || redraws || options.trace ||
      options.gradient == OdeGradient::adjoint) {
    std::vector<Tensor> inputs = weights.with(y0);
    if (added.defined()) inputs.push_back(added);
    return by_operations(inputs);
  }
  *statistics_ = {steps->n_steps * steps->stages, steps->n_steps, 0};
  return cnf_solve(y0, weights, *steps, by_operations);
}

Transformed ContinuousNormalizingFlow::integrate(const Tensor& y0, double t0, double t1,
                                                 const Tensor& probe, const Tensor& condition) {
  const OdeState end = solve(y0, t0, t1, probe, condition, true, false);
  return {end[0], end[1]};
}

RegularizedPath ContinuousNormalizingFlow::integrate_regularized(const Tensor& y0, double t0,
                                                                 double t1, const Tensor& probe,
                                                                 const Tensor& condition) {
  const OdeState end = solve(y0, t0, t1, probe, condition, true, true);
  return {{end[0], end[1]}, end[2], end[3]};
}

Tensor ContinuousNormalizingFlow::loss(const Tensor& x, const Tensor& condition,
                                       const Tensor& probe) {
  const auto nll = [](const Transformed& z) {
    return -mean(standard_normal_log_prob(z.value) + z.log_det);
  };
  try {
    if (options_.kinetic == 0 && options_.jacobian_norm == 0) {
      return nll(integrate(x, 1, 0, probe, condition));
    }
    const RegularizedPath path = integrate_regularized(x, 1, 0, probe, condition);
    return nll(path.end) + mean(path.kinetic) * options_.kinetic +
           mean(path.jacobian_norm) * options_.jacobian_norm;
  } catch (const OdeError& e) {
    if (e.status != OdeStatus::non_finite) throw;
    return sum(parameters().back().second) * NAN;  // on the tape, as any loss
  }
}

Transformed ContinuousNormalizingFlow::forward(const Tensor& z, const Tensor& condition) {
  return integrate(z, 0, 1, {}, condition);
}

Transformed ContinuousNormalizingFlow::inverse(const Tensor& x, const Tensor& condition) {
  return integrate(x, 1, 0, {}, condition);
}

Tensor ContinuousNormalizingFlow::sample(int64_t n, Generator& generator, const Tensor& condition) {
  NoGrad off;
  return solve(base_sample(n, generator), 0, 1, {}, condition, false, false)[0];
}

}  // namespace flowgrad
