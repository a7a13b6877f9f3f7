#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/core/tensor.h"

/// Functions of functions. An argument that is on the tape stays on it: a transform inside a larger
/// computation can be differentiated through when `create_graph` is asked for. The argument is told
/// apart from a captured tensor of the same name: only the dependence through the argument counts.
/// A function that does not depend on its argument has derivative zero.
namespace flowgrad {

using Function = std::function<Tensor(const Tensor&)>;
using MultiFunction = std::function<std::vector<Tensor>(std::span<const Tensor>)>;

struct ValueAndDerivative {
  Tensor value;
  Tensor derivative;
};

/// Same value off the tape; gradients stop here.
Tensor detach(const Tensor& x);

/// v^T J: f at x, and the product of a cotangent v (f's shape) with the Jacobian (x's shape).
ValueAndDerivative vjp(const Function& f, const Tensor& x, const Tensor& v,
                       bool create_graph = false);
/// J u: f at x, and the derivative along u (x's shape). Two vector-Jacobian products: u enters
/// linearly.
ValueAndDerivative jvp(const Function& f, const Tensor& x, const Tensor& u,
                       bool create_graph = false);
/// Value and gradient of a scalar function.
ValueAndDerivative value_and_grad(const Function& f, const Tensor& x, bool create_graph = false);
/// Hessian of a scalar function times v.
Tensor hvp(const Function& f, const Tensor& x, const Tensor& v, bool create_graph = false);
/// Shape: f(x)'s sizes, then x's.
Tensor jacobian(const Function& f, const Tensor& x, bool create_graph = false);
/// Of every row, for f: (N, D) -> (N, M) acting on rows: (N, M, D), by M vector-Jacobian products.
Tensor batch_jacobian(const Function& f, const Tensor& x, bool create_graph = false);
/// Of a scalar function; x's sizes twice.
Tensor hessian(const Function& f, const Tensor& x, bool create_graph = false);

/// f at x and its divergence sum_i df_i/dx_i for each row, with f: (N, D) -> (N, D) acting on rows.
/// Exact: D vector-Jacobian products.
ValueAndDerivative divergence(const Function& f, const Tensor& x, bool create_graph = false);
/// As divergence, estimated by probe^T J probe with one probe (N, D) of zero mean and unit
/// covariance (Hutchinson 1990; FFJORD, Grathwohl et al. 2019); K probes (K, N, D) give (N, K)
/// estimates by one evaluation of f.
ValueAndDerivative hutchinson_divergence(const Function& f, const Tensor& x, const Tensor& probe,
                                         bool create_graph = false);

/// f(inputs) without keeping what its backward needs: the first rule that reads a saved value runs
/// f again. Works with grad(), any order, and captured parameters. The second run gets the random
/// numbers of the first, and moves no generator.
std::vector<Tensor> checkpoint(const MultiFunction& f, std::span<const Tensor> inputs);
Tensor checkpoint(const Function& f, const Tensor& x);

/// Cotangents of the inputs from cotangents of the outputs, the inputs and the outputs.
using VjpRule = std::function<std::vector<Tensor>(std::span<const Tensor> cotangents,
                                                  std::span<const Tensor> inputs,
                                                  std::span<const Tensor> outputs)>;
/// `forward`, evaluated off the tape, with `rule` for its derivative. Written in operations of
/// ops.h the rule gives every order; with `once` true a second derivative raises GradError instead.
/// The cotangent of an output that nobody used is zero. An undefined tensor from the rule means no
/// gradient for that input. Tensors that `forward` captures get none: they belong among `inputs`.
/// `name` has static lifetime.
std::vector<Tensor> custom_vjp(const char* name, const MultiFunction& forward, const VjpRule& rule,
                               std::span<const Tensor> inputs, bool once = false);

/// Identity whose backward hands the gradient to `hook`; a defined result replaces the gradient.
Tensor tap(const Tensor& x, std::function<Tensor(const Tensor& gradient)> hook);

}  // namespace flowgrad
