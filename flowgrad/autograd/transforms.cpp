#include "flowgrad/autograd/transforms.h"

#include <fmt/format.h>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {
namespace {

/// The argument that a transform differentiates with respect to: new on the tape, joined to x.
Tensor argument(const char* op, const Tensor& x) {
  if (!is_floating(x.dtype())) {
    throw DTypeError(
        fmt::format("{}: x is {}; only floating dtypes have derivatives", op, name_of(x.dtype())));
  }
  return x.requires_grad() ? tap(x, {}) : x.detach().requires_grad_();
}

void check_like(const char* op, const char* name, const Tensor& t, const char* other,
                const Tensor& like) {
  if (t.defined()) check_same_device(op, t, like, name, other);
  if (t.shape() == like.shape() && t.dtype() == like.dtype()) return;
  throw ShapeError(fmt::format("{}: {} is {} {}; it must be like {}, {} {}", op, name,
                               t.shape().to_string(), name_of(t.dtype()), other,
                               like.shape().to_string(), name_of(like.dtype())));
}

Tensor grad_or_zeros(const Tensor& y, const Tensor& x, const Tensor& cotangent, bool create_graph,
                     bool retain_graph = false) {
  if (!y.requires_grad()) return zeros_like(x);
  const GradOptions options{
      .create_graph = create_graph, .retain_graph = retain_graph, .allow_unused = true};
  Tensor g = grad(std::span(&y, 1), std::span(&x, 1), std::span(&cotangent, 1), options)[0];
  return g.defined() ? g : zeros_like(x);
}

Tensor finished(const Tensor& t, bool create_graph) { return create_graph ? t : t.detach(); }

void check_scalar(const char* op, const Tensor& y) {
  if (y.numel() == 1) return;
  throw ShapeError(fmt::format("{}: f returned shape {}; a single element is accepted", op,
                               y.shape().to_string()));
}

void check_rows(const char* op, const Tensor& x, const Tensor& y) {
  if (x.rank() == 2 && y.shape() == x.shape()) return;
  throw ShapeError(fmt::format("{}: x is {} and f(x) is {}; both must be the same (N, D)", op,
                               x.shape().to_string(), y.shape().to_string()));
}

}  // namespace

Tensor detach(const Tensor& x) { return x.detach(); }

ValueAndDerivative vjp(const Function& f, const Tensor& x, const Tensor& v, bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("vjp", x);
  const Tensor y = f(arg);
  check_like("vjp", "the cotangent v", v, "f(x)", y);
  const Tensor g = grad_or_zeros(y, arg, v, create_graph);
  return {finished(y, create_graph), g};
}

ValueAndDerivative jvp(const Function& f, const Tensor& x, const Tensor& u, bool create_graph) {
  EnableGrad on;
  check_like("jvp", "the direction u", u, "x", x);
  const Tensor arg = argument("jvp", x);
  const Tensor y = f(arg);
  if (!is_floating(y.dtype())) return {finished(y, create_graph), zeros_like(y)};
  const Tensor dual = zeros_like(y).requires_grad_();
  const Tensor g = grad_or_zeros(y, arg, dual, true);
  const Tensor d = grad_or_zeros(g, dual, u, create_graph);
  return {finished(y, create_graph), d};
}

ValueAndDerivative value_and_grad(const Function& f, const Tensor& x, bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("value_and_grad", x);
  const Tensor y = f(arg);
  check_scalar("value_and_grad", y);
  const Tensor g = grad_or_zeros(y, arg, ones_like(y), create_graph);
  return {finished(y, create_graph), g};
}

Tensor hvp(const Function& f, const Tensor& x, const Tensor& v, bool create_graph) {
  EnableGrad on;
  check_like("hvp", "v", v, "x", x);
  const Tensor arg = argument("hvp", x);
  const Tensor y = f(arg);
  check_scalar("hvp", y);
  const Tensor g = grad_or_zeros(y, arg, ones_like(y), true);
  return grad_or_zeros(g, arg, v, create_graph);
}

Tensor jacobian(const Function& f, const Tensor& x, bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("jacobian", x);
  const Tensor y = f(arg);
  Shape shape = y.shape();
  for (int64_t n : x.shape()) shape.push_back(n);
  const Tensor basis = eye(y.numel(), y.dtype(), y.device());
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < y.numel(); ++i) {
    const Tensor cotangent = reshape(select(basis, 0, i), y.shape());
    rows.push_back(grad_or_zeros(y, arg, cotangent, create_graph, true));
  }
  return rows.empty() ? zeros(shape, y.dtype(), y.device()) : reshape(stack(rows), shape);
}

Tensor batch_jacobian(const Function& f, const Tensor& x, bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("batch_jacobian", x);
  const Tensor y = f(arg);
  if (x.rank() != 2 || y.rank() != 2 || y.size(0) != x.size(0)) {
    throw ShapeError(fmt::format(
        "batch_jacobian: a function from {} to {} given; from (N, D) to (N, M) is accepted",
        x.shape().to_string(), y.shape().to_string()));
  }
  const Tensor basis = eye(y.size(1), y.dtype(), y.device());
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < y.size(1); ++i) {
    const Tensor cotangent = expand(select(basis, 0, i), y.shape());
    rows.push_back(grad_or_zeros(y, arg, cotangent, create_graph, true));
  }
  const Shape none{x.size(0), 0, x.size(1)};
  return rows.empty() ? zeros(none, y.dtype(), y.device()) : stack(rows, 1);
}

Tensor hessian(const Function& f, const Tensor& x, bool create_graph) {
  return jacobian([&f](const Tensor& at) { return value_and_grad(f, at, true).derivative; }, x,
                  create_graph);
}

ValueAndDerivative divergence(const Function& f, const Tensor& x, bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("divergence", x);
  const Tensor y = f(arg);
  check_rows("divergence", x, y);
  Tensor total = zeros({x.size(0)}, x.dtype(), x.device());
  const Tensor basis = eye(x.size(1), x.dtype(), x.device());
  for (int64_t i = 0; i < x.size(1); ++i) {
    const Tensor g =
        grad_or_zeros(y, arg, expand(select(basis, 0, i), y.shape()), create_graph, true);
    total = total + select(g, 1, i);
  }
  return {finished(y, create_graph), finished(total, create_graph)};
}

ValueAndDerivative hutchinson_divergence(const Function& f, const Tensor& x, const Tensor& probe,
                                         bool create_graph) {
  EnableGrad on;
  const Tensor arg = argument("hutchinson_divergence", x);
  const Tensor y = f(arg);
  check_rows("hutchinson_divergence", x, y);
  const std::vector<Tensor> probes = probe.rank() == 3 ? unbind(probe) : std::vector{probe};
  std::vector<Tensor> estimates;
  for (const Tensor& one : probes) {
    check_like("hutchinson_divergence", "the probe", one, "x", x);
    const bool more = estimates.size() + 1 < probes.size();
    estimates.push_back(sum(grad_or_zeros(y, arg, one, create_graph, more) * one, {1}));
  }
  const Tensor all = probe.rank() == 3 ? stack(estimates, 1) : estimates[0];
  return {finished(y, create_graph), finished(all, create_graph)};
}

namespace {

class RunAgain final : public CheckpointFrame {
 public:
  RunAgain(MultiFunction f, std::span<const Tensor> inputs)
      : f_(std::move(f)), inputs_(inputs.begin(), inputs.end()) {
    for (const Tensor& t : inputs_) versions_.push_back(t.storage().version());
  }

  std::vector<Tensor> run(bool refill) {
    CheckpointScope scope{Ref<CheckpointFrame>(this), refill, 0};
    struct Restore {
      CheckpointScope* previous = checkpoint_scope();
      ~Restore() { checkpoint_scope() = previous; }
    } restore;
    checkpoint_scope() = &scope;
    std::vector<Tensor> outputs = f_(inputs_);
    if (!refill) {
      n_saved_ = scope.position;
      finished = true;
    }
    return outputs;
  }

  void recompute() override {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].storage().version() != versions_[i]) {
        throw GradError(
            fmt::format("checkpoint: input {} of shape {} was modified in place since by {}", i,
                        inputs_[i].shape().to_string(), inputs_[i].storage().last_writer()));
      }
    }
    EnableGrad on;
    // An earlier attempt may have ended in an exception.
    values.clear();
    versions.clear();
    run(true);
    if (finished && values.size() != n_saved_) {
      throw GradError(
          fmt::format("checkpoint: the function kept {} values when it was run again, {} before; "
                      "it must do the same work every time",
                      values.size(), n_saved_));
    }
    filled = true;
  }

 private:
  MultiFunction f_;
  std::vector<Tensor> inputs_;
  std::vector<uint64_t> versions_;
  size_t n_saved_ = 0;
};

}  // namespace

std::vector<Tensor> checkpoint(const MultiFunction& f, std::span<const Tensor> inputs) {
  // An outer one already runs everything again.
  if (!mode().recording || checkpoint_scope()) return f(inputs);
  return make_ref<RunAgain>(f, inputs)->run(false);
}

Tensor checkpoint(const Function& f, const Tensor& x) {
  const MultiFunction many = [f](std::span<const Tensor> in) {
    return std::vector<Tensor>{f(in[0])};
  };
  return checkpoint(many, std::span(&x, 1))[0];
}

std::vector<Tensor> custom_vjp(const char* name, const MultiFunction& forward, const VjpRule& rule,
                               std::span<const Tensor> inputs, bool once) {
  std::vector<Tensor> outputs;
  {
    NoGrad off;
    std::vector<Tensor> detached;
    for (const Tensor& t : inputs) detached.push_back(t.detach());
    for (const Tensor& t : forward(detached)) outputs.push_back(t.detach());
  }
  if (!recording(inputs)) return outputs;
  std::vector<Saved> saved;
  for (const Tensor& t : inputs) saved.push_back(save(t));
  for (size_t i = 0; i < outputs.size(); ++i)
    saved.push_back(save_output(outputs[i], static_cast<uint32_t>(i)));
  record(name, outputs, inputs, saved,
         [rule, name, once, n_in = inputs.size(), n_out = outputs.size()](Backward& r) {
           std::vector<Tensor> in, out, cotangents;
           for (size_t i = 0; i < n_in; ++i) in.push_back(r.saved(static_cast<int>(i)));
           for (size_t i = 0; i < n_out; ++i) {
             out.push_back(r.saved(static_cast<int>(n_in + i)));
             cotangents.push_back(r.grad_or_zeros(static_cast<int>(i)));
           }
           std::vector<Tensor> gradients;
           {
             NoGrad off(once || !mode().recording);
             gradients = rule(cotangents, in, out);
           }
           if (gradients.size() != n_in) {
             throw GradError(fmt::format("{}: the rule returned {} gradients for {} inputs", name,
                                         gradients.size(), n_in));
           }
           for (size_t i = 0; i < n_in; ++i) {
             Tensor g = gradients[i];
             if (!g.defined() || !r.needs(static_cast<int>(i))) continue;
             if (once) {
               g = g.detach();
               // It depends on every input and cotangent, so that no way to a second derivative is
               // silent.
               std::vector<Tensor> sources = in;
               sources.insert(sources.end(), cotangents.begin(), cotangents.end());
               if (recording(std::span<const Tensor>(sources))) {
                 record(name, std::span(&g, 1), sources, {}, [name](Backward&) {
                   throw GradError(
                       fmt::format("{}: this operation can be differentiated once only", name));
                 });
               }
             }
             r.set(static_cast<int>(i), g);
           }
         });
  return outputs;
}

Tensor tap(const Tensor& x, std::function<Tensor(const Tensor&)> hook) {
  Tensor out = x.detach();
  if (recording(x)) {
    record("tap", out, {x}, {}, [hook = std::move(hook)](Backward& r) {
      const Tensor replaced = hook ? hook(r.grad()) : Tensor();
      if (replaced.defined() && replaced.shape() != r.grad().shape()) {
        throw GradError(fmt::format("{} returned a gradient of shape {}; expected shape {}",
                                    r.node().label(), replaced.shape().to_string(),
                                    r.grad().shape().to_string()));
      }
      r.set(0, replaced.defined() ? replaced : r.grad());
    });
  }
  return out;
}

}  // namespace flowgrad
