#include <fmt/format.h>

#include <array>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/planar.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"
#include "flowgrad/kernels/planar_root.h"

namespace flowgrad {

using kernels::backend;

Tensor planar_root(const Tensor& c, const Tensor& k) {
  if (k.numel() != 1) {
    throw ShapeError("planar_root: k has shape " + k.shape().to_string() +
                     "; one element is accepted");
  }
  const auto solve = [](std::span<const Tensor> in) {
    const double factor = in[1].item();
    std::vector<double> roots = in[0].to_vector<double>();
    for (double& r : roots) r = kernels::planar_root(r, factor);
    return std::vector<Tensor>{Tensor::from(roots, in[0].shape(), in[0].dtype(), in[0].device())};
  };
  // ds/dc = 1 / (1 + k h') and ds/dk = -h / (1 + k h') with h = tanh(s): functions of the root
  // itself, so differentiating them again gives every order.
  const auto rule = [](std::span<const Tensor> cotangents, std::span<const Tensor> in,
                       std::span<const Tensor> out) {
    const Tensor h = tanh(out[0]);
    const Tensor d = cotangents[0] / ((1.0 - square(h)) * in[1] + 1.0);
    return std::vector<Tensor>{d, reshape(-sum(d * h), in[1].shape())};
  };
  return custom_vjp("planar_root", solve, rule, std::array<Tensor, 2>{c, k})[0];
}

namespace {

void check(const Tensor& z, const Tensor& w, const Tensor& b, const Tensor& u) {
  constexpr const char* kOp = "planar_stack";
  check_floating(kOp, z, "z");
  if (z.rank() != 2 || w.rank() != 2 || w.size(0) < 1) {
    throw ShapeError(
        fmt::format("{}: z is {} and w is {}; (N, D) and (K, D), K at least 1, are "
                    "accepted",
                    kOp, z.shape().to_string(), w.shape().to_string()));
  }
  const auto fits = [&](const char* name, const Tensor& t, const Shape& accepted) {
    check_like(kOp, name, t, z);
    if (t.shape() == accepted) return;
    throw ShapeError(fmt::format("{}: {} is {}; {} is accepted", kOp, name, t.shape().to_string(),
                                 accepted.to_string()));
  };
  fits("w", w, {w.size(0), z.size(1)});
  fits("b", b, {w.size(0)});
  fits("u", u, w.shape());
}

/// The same in operations, from {z, w, b, u}.
std::vector<Tensor> composed(std::span<const Tensor> in, bool inverse) {
  const std::vector<Tensor> w = unbind(in[1]), b = unbind(in[2]), u = unbind(in[3]);
  const std::vector<Tensor> k = unbind(sum(in[1] * in[3], {1}));
  Tensor x = in[0];
  Tensor log_det;
  for (size_t step = 0; step < w.size(); ++step) {
    const size_t i = inverse ? w.size() - 1 - step : step;
    const Tensor a = matmul(x, w[i]) + b[i];
    const Tensor h = tanh(inverse ? planar_root(a, k[i]) : a);
    const Tensor move = unsqueeze(h, 1) * u[i];
    x = inverse ? x - move : x + move;
    const Tensor own = log1p((1.0 - square(h)) * k[i]);
    log_det = log_det.defined() ? log_det + own : own;
  }
  return {x, inverse ? -log_det : log_det};
}

}  // namespace

std::pair<Tensor, Tensor> planar_stack(const Tensor& z, const Tensor& w, const Tensor& b,
                                       const Tensor& u, bool inverse) {
  check(z, w, b, u);
  const std::array<Tensor, 4> in = {z, w, b, u};
  const auto dense = [](const Tensor& t) { return contiguous(t.detach()); };
  const Tensor from = dense(z), of_w = dense(w), of_b = dense(b), of_u = dense(u);
  const kernels::PlanarStack stack{of_w, of_b, of_u, inverse};
  if (!fused_kernels() || !backend(z.device()).has_planar(stack)) {
    const std::vector<Tensor> both = composed(in, inverse);
    return {both[0], both[1]};
  }
  std::array<Tensor, 2> out = {Tensor::empty(z.shape(), z.dtype(), z.device()),
                               Tensor::empty({z.size(0)}, z.dtype(), z.device())};
  const bool records = recording(z, w, b, u);
  Tensor heights;
  if (records) heights = Tensor::empty({w.size(0), z.size(0)}, z.dtype(), z.device());
  backend(z.device()).planar(stack, from, out[0], out[1], heights);
  if (records) {
    const std::array<Saved, 5> saved = {save(z), save(w), save(b), save(u), save(heights)};
    record("planar_stack", std::span<const Tensor>(out), std::span<const Tensor>(in),
           std::span<const Saved>(saved), [inverse, dense](Backward& r) {
             const std::array<Tensor, 4> at = {r.saved(0), r.saved(1), r.saved(2), r.saved(3)};
             if (mode().recording) {
               return set_by_twin(r, at, [inverse](std::span<const Tensor> given) {
                 return composed(given, inverse);
               });
             }
             const Tensor from = dense(at[0]), of_w = dense(at[1]), of_b = dense(at[2]),
                          of_u = dense(at[3]);
             const Tensor g = contiguous(r.grad_or_zeros(0));
             const Tensor g_log_det = contiguous(r.grad_or_zeros(1));
             const Tensor to_z = Tensor::empty(from.shape(), from.dtype(), from.device());
             const int64_t n = of_w.numel(), k = of_b.numel();
             const Tensor to_weights = Tensor::empty({2 * n + k}, from.dtype(), from.device());
             backend(from.device())
                 .planar_grad({of_w, of_b, of_u, inverse}, from, r.saved(4), g, g_log_det, to_z,
                              to_weights);
             if (r.needs(0)) r.set(0, to_z);
             if (r.needs(1)) r.set(1, reshape(slice(to_weights, 0, 0, n), at[1].shape()));
             if (r.needs(2)) r.set(2, slice(to_weights, 0, n, n + k));
             if (r.needs(3))
               r.set(3, reshape(slice(to_weights, 0, n + k, 2 * n + k), at[3].shape()));
           });
  }
  return {out[0], out[1]};
}

}  // namespace flowgrad
