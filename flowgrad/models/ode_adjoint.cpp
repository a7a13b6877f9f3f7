#include <fmt/format.h>

#include <memory>
#include <unordered_set>

#include "flowgrad/autograd/node.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/ode_step.h"

namespace flowgrad::ode {
namespace {

std::vector<Tensor> joined(std::initializer_list<std::span<const Tensor>> parts) {
  std::vector<Tensor> out;
  for (const auto& p : parts) out.insert(out.end(), p.begin(), p.end());
  return out;
}

/// Leaves on which the slopes depend by another way than through `known`: their gradients would be
/// missing without a word.
std::vector<Ref<TapeNode>> strangers(std::span<const Tensor> slopes,
                                     std::span<const Tensor> known) {
  std::vector<Ref<TapeNode>> found;
  std::unordered_set<const TapeNode*> seen;
  for (const Tensor& t : known) {
    if (t.requires_grad()) seen.insert(t.node().get());
  }
  std::vector<TapeNode*> open;
  for (const Tensor& s : slopes) {
    if (s.requires_grad()) open.push_back(s.node().get());
  }
  while (!open.empty()) {
    TapeNode* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    if (node->is_leaf()) {
      found.emplace_back(node);
      continue;
    }
    const auto& edges = static_cast<const Node*>(node)->edges;
    for (size_t i = 0; i < edges.size(); ++i) {
      if (edges[i].node) open.push_back(edges[i].node.get());
    }
  }
  return found;
}

[[noreturn]] void refuse(const Ref<TapeNode>& stranger) {
  throw GradError(fmt::format(
      "odeint: the field depends on a tensor of shape {} that is not among its parameters; the "
      "adjoint gives gradients to y0 and the parameters only",
      static_cast<const Leaf*>(stranger.get())->layout.shape.to_string()));
}

void check_dependence(std::span<const Tensor> slopes, std::span<const Tensor> known) {
  const std::vector<Ref<TapeNode>> found = strangers(slopes, known);
  if (!found.empty()) refuse(found[0]);
}

/// y, which refuses to be a way to leaves that its gradient knows nothing of.
Tensor guarded(const Tensor& y, const std::vector<Ref<TapeNode>>& leaves) {
  if (leaves.empty() || !recording(y)) return y;
  std::vector<Tensor> inputs{y};
  for (const Ref<TapeNode>& leaf : leaves) {
    inputs.push_back(Tensor::empty({}, y.dtype(), y.device()));
    inputs.back().attach(leaf, 0);
  }
  Tensor out = y.detach();
  record("odeint", std::span(&out, 1), inputs, {}, [leaves](Backward& r) {
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (r.slots[i + 1] != nullptr) refuse(leaves[i]);
    }
    r.set(0, r.grad());
  });
  return out;
}

/// The backward problem: state, adjoint, and the parameters' gradients as mere integrals.
class Backwards {
 public:
  Backwards(const OdeParameterField& field, std::span<const Tensor> parameters, size_t n,
            const OdeOptions& options)
      : field_(field), n_(n), options_(options) {
    // A leaf as it is, so that the field may read it where it lies, in a module for one. Others as
    // leaves of their own, for they may be computed from each other.
    for (const Tensor& p : parameters) {
      parameters_.push_back(p.requires_grad() && !p.is_leaf() ? p.detach() : p);
      if (!p.requires_grad()) continue;
      tracked_.push_back(parameters_.back().requires_grad_());
      gradients.push_back(zeros_like(p));
    }
    options_.gradient = OdeGradient::direct;
    options_.integrals = static_cast<int64_t>(tracked_.size());
    options_.times.clear();
    options_.trace = {};
  }

  /// From t, where the state is y, to an earlier point of the solve.
  void run(std::span<const Tensor> y, double t, double until) {
    if (t == until) return;
    const OdeState start = joined({y, adjoint, gradients});
    const OdeSolution s =
        solve_ode([this](double at, const OdeState& all) { return slopes(at, all); }, start, t,
                  until, options_);
    require_success(s);
    for (size_t i = 0; i < n_; ++i) adjoint[i] = s.y[n_ + i];
    for (size_t i = 0; i < gradients.size(); ++i) gradients[i] = s.y[2 * n_ + i];
  }

  OdeState adjoint;
  OdeState gradients;  // of the parameters that require them, in order

 private:
  OdeState slopes(double t, const OdeState& all) {
    OdeState y, cotangents, outputs;
    EnableGrad on;
    for (size_t i = 0; i < n_; ++i) y.push_back(all[i].detach().requires_grad_());
    OdeState out = field_(t, y, parameters_);
    check_slopes(out, y);
    const std::vector<Tensor> inputs = joined({y, tracked_});
    check_dependence(out, inputs);
    for (size_t i = 0; i < n_; ++i) {
      if (!out[i].requires_grad()) continue;
      outputs.push_back(out[i]);
      cotangents.push_back(all[n_ + i]);
    }
    std::vector<Tensor> g(inputs.size());
    if (!outputs.empty()) g = grad(outputs, inputs, cotangents, {.allow_unused = true});
    NoGrad off;
    for (Tensor& f : out) f = f.detach();
    for (size_t i = 0; i < g.size(); ++i) {
      out.push_back(g[i].defined() ? -g[i] : zeros_like(inputs[i].detach()));
    }
    return out;
  }

  const OdeParameterField& field_;
  std::vector<Tensor> parameters_, tracked_;
  size_t n_;
  OdeOptions options_;
};

/// For a solve of which no argument is on the tape, so that no backward pass will look at what the
/// field depends on.
OdeParameterField checked(const OdeParameterField& field) {
  return [field](double t, const OdeState& y, std::span<const Tensor> parameters) {
    EnableGrad on;
    OdeState out = field(t, y, parameters);
    check_dependence(out, {});
    return out;
  };
}

/// A field whose first slopes are looked at for what they depend on beside the arguments: a pass
/// that asks for that alone would not come by here.
OdeParameterField noting(const OdeParameterField& field, std::span<const Tensor> arguments,
                         std::vector<Ref<TapeNode>>& others) {
  return [&field, arguments, &others, first = std::make_shared<bool>(true)](
             double t, const OdeState& y, std::span<const Tensor> parameters) {
    if (!std::exchange(*first, false)) return field(t, y, parameters);
    EnableGrad on;
    OdeState out = field(t, y, parameters);
    others = strangers(out, arguments);
    for (Tensor& slope : out) slope = slope.detach();
    return out;
  };
}

}  // namespace

OdeSolution solve_adjoint(const OdeParameterField& field, const OdeState& y0,
                          std::span<const Tensor> parameters, double t0, double t1,
                          const OdeOptions& options) {
  const size_t n = y0.size();
  OdeSolution solution;
  const std::vector<Tensor> arguments = joined({y0, parameters});
  std::vector<Ref<TapeNode>> others;
  const bool is_constant = !recording(std::span<const Tensor>(arguments));
  const OdeParameterField forward_field = !mode().recording ? field
                                          : is_constant     ? checked(field)
                                                            : noting(field, arguments, others);
  const MultiFunction forward = [&](std::span<const Tensor> in) {
    OdeOptions plain = options;
    plain.gradient = OdeGradient::direct;
    solution =
        solve_ode(forward_field, joined({in.first(n)}), joined({in.subspan(n)}), t0, t1, plain);
    std::vector<Tensor> out = solution.y;
    for (const OdeState& y : solution.at) out.insert(out.end(), y.begin(), y.end());
    return out;
  };
  // What the forward solve reached is known once it ran, and the rule runs later.
  const auto reached = std::make_shared<std::pair<double, size_t>>();
  const VjpRule rule = [field, options, n, t0, reached](std::span<const Tensor> cotangents,
                                                        std::span<const Tensor> in,
                                                        std::span<const Tensor> out) {
    Backwards back(field, in.subspan(n), n, options);
    back.adjoint = joined({cotangents.first(n)});
    double t = reached->first;
    OdeState y = joined({out.first(n)});
    for (size_t i = reached->second; i-- > 0;) {
      back.run(y, t, options.times[i]);
      t = options.times[i];
      for (size_t j = 0; j < n; ++j) {
        y[j] = out[n * (i + 1) + j];
        back.adjoint[j] = back.adjoint[j] + cotangents[n * (i + 1) + j];
      }
    }
    back.run(y, t, t0);
    std::vector<Tensor> all = back.adjoint;
    size_t next = 0;
    for (const Tensor& p : in.subspan(n)) {
      all.push_back(p.requires_grad() ? back.gradients[next++] : Tensor());
    }
    return all;
  };
  const std::vector<Tensor> flat = custom_vjp("odeint", forward, rule, arguments, true);
  *reached = {solution.t, solution.at.size()};
  for (size_t i = 0; i < n; ++i) solution.y[i] = guarded(flat[i], others);
  for (size_t k = 0; k < solution.at.size(); ++k) {
    for (size_t j = 0; j < n; ++j) solution.at[k][j] = guarded(flat[n * (k + 1) + j], others);
  }
  return solution;
}

}  // namespace flowgrad::ode
