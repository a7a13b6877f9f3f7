#include "flowgrad/autograd/gradcheck.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

using Tensors = std::vector<Tensor>;

Tensors leaves_of(std::span<const Tensor> inputs) {
  Tensors out;
  for (const Tensor& t : inputs) {
    Tensor leaf = t.detach();
    out.push_back(is_floating(t.dtype()) ? leaf.requires_grad_() : leaf);
  }
  return out;
}

Tensors floating(std::span<const Tensor> all) {
  Tensors out;
  for (const Tensor& t : all) {
    if (is_floating(t.dtype())) out.push_back(t);
  }
  return out;
}

double dot(const Tensor& a, const Tensor& b) {
  const auto u = a.to_vector<double>();
  const auto v = b.to_vector<double>();
  double total = 0;
  for (size_t i = 0; i < u.size(); ++i) total += u[i] * v[i];
  return total;
}

bool same_values(const Tensor& a, const Tensor& b) {
  const auto u = a.to_vector<double>();
  const auto v = b.to_vector<double>();
  return std::equal(u.begin(), u.end(), v.begin(), v.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

double projection(const MultiFunction& f, std::span<const Tensor> inputs,
                  const Tensors& cotangents) {
  NoGrad off;
  double total = 0;
  const Tensors y = floating(f(inputs));
  for (size_t i = 0; i < y.size(); ++i) total += dot(y[i], cotangents[i]);
  return total;
}

/// Gradients of <cotangents, f(inputs)>; zeros where f does not depend on an input.
Tensors gradients(const MultiFunction& f, const Tensors& leaves, const Tensors& cotangents,
                  bool create_graph) {
  EnableGrad on;
  Tensors tracked, with;
  const Tensors y = floating(f(leaves));
  for (size_t i = 0; i < y.size(); ++i) {
    if (!y[i].requires_grad()) continue;
    tracked.push_back(y[i]);
    with.push_back(cotangents[i]);
  }
  const Tensors wanted = floating(leaves);
  Tensors g(wanted.size());
  if (!tracked.empty())
    g = grad(tracked, wanted, with, {.create_graph = create_graph, .allow_unused = true});
  for (size_t i = 0; i < g.size(); ++i) {
    if (!g[i].defined()) g[i] = zeros_like(wanted[i]);
  }
  return g;
}

class Check {
 public:
  explicit Check(const GradcheckOptions& options) : options_(options), generator_(options.seed) {}

  GradcheckResult run(const MultiFunction& f, std::span<const Tensor> inputs) {
    for (const Tensor& t : inputs) {
      if (is_floating(t.dtype()) && t.dtype() != DType::float64) {
        throw DTypeError(
            fmt::format("gradcheck: an input is {}; float64 is accepted", name_of(t.dtype())));
      }
    }
    if (options_.order < 1 || options_.order > 3) {
      throw ValueError(
          fmt::format("gradcheck: order = {} given; 1 to 3 is accepted", options_.order));
    }
    check_order(f, inputs, 1);
    return result_;
  }

 private:
  void check_order(const MultiFunction& f, std::span<const Tensor> inputs, int order) {
    const Tensors leaves = leaves_of(inputs);
    Tensors cotangents;
    for (const Tensor& y : floating(f(leaves)))
      cotangents.push_back(randn(y.shape(), generator_, y.dtype(), y.device()));
    const Tensors g = gradients(f, leaves, cotangents, false);
    const double value = projection(f, leaves, cotangents);
    if (std::isnan(value)) return fail(order, "the value of f has a NaN");
    if (value != projection(f, leaves, cotangents)) {
      fail(order, "two evaluations of f differ: it is not deterministic");
      return;
    }
    const Tensors again = gradients(f, leaves, cotangents, false);
    for (size_t i = 0; i < g.size(); ++i) {
      if (same_values(g[i], again[i])) continue;
      fail(order,
           fmt::format(
               "two evaluations of the gradient of input {} differ: it is not deterministic", i));
      return;
    }
    const Tensors x = floating(leaves);
    int64_t elements = 0;
    for (const Tensor& t : x) elements += t.numel();
    for (size_t i = 0; i < x.size(); ++i) {
      if (elements <= 64) {
        for (int64_t k = 0; k < x[i].numel(); ++k) {
          std::vector<double> unit(static_cast<size_t>(x[i].numel()), 0.0);
          unit[static_cast<size_t>(k)] = 1;
          compare(f, leaves, cotangents, i,
                  Tensor::from(unit, x[i].shape(), DType::float64, x[i].device()), g[i], order, k);
        }
      } else if (x[i].numel() > 0) {
        for (int64_t k = 0; k < 3; ++k) {
          compare(f, leaves, cotangents, i,
                  randn(x[i].shape(), generator_, DType::float64, x[i].device()), g[i], order,
                  -k - 1);
        }
      }
    }
    if (order >= options_.order || !result_.passed) return;
    // The gradient as a function of inputs and cotangents.
    const size_t n = inputs.size();
    const MultiFunction next = [f, n](std::span<const Tensor> all) {
      Tensors in;
      for (size_t i = 0; i < n; ++i) {
        // Evaluated off the tape too, so that differences see the same function.
        in.push_back(is_floating(all[i].dtype()) && !all[i].requires_grad()
                         ? all[i].detach().requires_grad_()
                         : all[i]);
      }
      const Tensors with(all.begin() + static_cast<std::ptrdiff_t>(n), all.end());
      return gradients(f, in, with, true);
    };
    Tensors extended(inputs.begin(), inputs.end());
    extended.insert(extended.end(), cotangents.begin(), cotangents.end());
    check_order(next, extended, order + 1);
  }

  void compare(const MultiFunction& f, const Tensors& leaves, const Tensors& cotangents,
               size_t input, const Tensor& direction, const Tensor& gradient, int order,
               int64_t element) {
    size_t at = 0;
    for (size_t seen = 0; at < leaves.size(); ++at) {
      if (is_floating(leaves[at].dtype()) && seen++ == input) break;
    }
    const double h = options_.step;
    const auto moved = [&](double by) {
      NoGrad off;
      Tensors shifted = leaves;
      shifted[at] = leaves[at].detach() + direction * by;
      return projection(f, shifted, cotangents);
    };
    const double far = moved(-2 * h) - moved(2 * h);
    const double near = moved(h) - moved(-h);
    const double numeric = (far + 8 * near) / (12 * h);
    const double analytic = dot(gradient, direction);
    const double scale = std::max(std::abs(numeric), std::abs(analytic));
    const double error = std::abs(numeric - analytic) / (options_.atol + options_.rtol * scale);
    if (!(error <= result_.worst)) result_.worst = error;
    if (!(error <= 1)) {
      fail(order, fmt::format("input {}, {} {}: analytic {:.12g}, numeric {:.12g}", input,
                              element >= 0 ? "element" : "direction",
                              element >= 0 ? element : -element - 1, analytic, numeric));
    }
  }

  void fail(int order, const std::string& what) {
    if (!result_.passed) return;
    result_.passed = false;
    result_.message = fmt::format("gradcheck: order {}, {}", order, what);
  }

  GradcheckOptions options_;
  Generator generator_;
  GradcheckResult result_;
};

}  // namespace

GradcheckResult gradcheck(const MultiFunction& f, std::span<const Tensor> inputs,
                          const GradcheckOptions& options) {
  return Check(options).run(f, inputs);
}

GradcheckResult gradcheck(const Function& f, const Tensor& input, const GradcheckOptions& options) {
  return gradcheck([&f](std::span<const Tensor> in) { return Tensors{f(in[0])}; },
                   std::span(&input, 1), options);
}

}  // namespace flowgrad
