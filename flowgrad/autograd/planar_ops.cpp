#include <fmt/format.h>

#include <algorithm>
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

void check(const Tensor& z, const Tensor& w, const Tensor& b, const Tensor& u,
           const Tensor& margin) {
  constexpr const char* kOp = "planar_stack";
  check_floating(kOp, z, "z");
  if (z.rank() != 2 || w.rank() != 2 || w.size(0) < 1) {
    throw ShapeError(
        fmt::format("{}: z is {} and w is {}; (N, D) and (K, D), K at least 1, are "
                    "accepted",
                    kOp, z.shape().to_string(), w.shape().to_string()));
  }
  const auto fits = [&](const char* name, const Tensor& t, const Shape& accepted) {
    check_like(kOp, name, t, z, "z");
    if (t.shape() == accepted) return;
    throw ShapeError(fmt::format("{}: {} is {}; {} is accepted", kOp, name, t.shape().to_string(),
                                 accepted.to_string()));
  };
  fits("w", w, {w.size(0), z.size(1)});
  fits("b", b, {w.size(0)});
  fits("u", u, w.shape());
  if (margin.defined()) fits("margin", margin, b.shape());
}

/// In float64: margin - 1 in float32 would lose a small margin.
Tensor root_of(const Tensor& a, const Tensor& margin) {
  const auto wide = [](const Tensor& t) { return cast(t, DType::float64); };
  return cast(planar_root(wide(a), wide(margin) - 1.0), a.dtype());
}

/// The same in operations, from {z, w, b, u, margin}.
std::vector<Tensor> composed(std::span<const Tensor> in, bool inverse) {
  const std::vector<Tensor> w = unbind(in[1]), b = unbind(in[2]), u = unbind(in[3]);
  const std::vector<Tensor> margin = unbind(in[4]);
  Tensor x = in[0];
  Tensor log_det;
  for (size_t step = 0; step < w.size(); ++step) {
    const size_t i = inverse ? w.size() - 1 - step : step;
    const Tensor a = matmul(x, w[i]) + b[i];
    const Tensor h = tanh(inverse ? root_of(a, margin[i]) : a);
    const Tensor move = unsqueeze(h, 1) * u[i];
    x = inverse ? x - move : x + move;
    const Tensor own = log(square(h) + (1.0 - square(h)) * margin[i]);
    log_det = log_det.defined() ? log_det + own : own;
  }
  return {x, inverse ? -log_det : log_det};
}

}  // namespace

std::pair<Tensor, Tensor> planar_stack(const Tensor& z, const Tensor& w, const Tensor& b,
                                       const Tensor& u, bool inverse, const Tensor& margin) {
  check(z, w, b, u, margin);
  const std::array<Tensor, 5> in = {z, w, b, u, margin.defined() ? margin : sum(w * u, {1}) + 1.0};
  const auto dense = [](const Tensor& t) { return contiguous(t.detach()); };
  std::array<Tensor, 5> at;
  std::transform(in.begin(), in.end(), at.begin(), dense);
  const auto stack_of = [inverse](const std::array<Tensor, 5>& t) {
    return kernels::PlanarStack{t[1], t[2], t[3], t[4], inverse};
  };
  if (!fused_kernels() || !backend(z.device()).has_planar(stack_of(at))) {
    const std::vector<Tensor> both = composed(in, inverse);
    return {both[0], both[1]};
  }
  std::array<Tensor, 2> out = {Tensor::empty(z.shape(), z.dtype(), z.device()),
                               Tensor::empty({z.size(0)}, z.dtype(), z.device())};
  const bool records = recording(z, w, b, u, in[4]);
  Tensor heights;
  if (records) heights = Tensor::empty({w.size(0), z.size(0)}, z.dtype(), z.device());
  backend(z.device()).planar(stack_of(at), at[0], out[0], out[1], heights);
  if (records) {
    const std::array<Saved, 6> saved = {save(z), save(w),     save(b),
                                        save(u), save(in[4]), save(heights)};
    record(
        "planar_stack", std::span<const Tensor>(out), std::span<const Tensor>(in),
        std::span<const Saved>(saved), [inverse, dense, stack_of](Backward& r) {
          std::array<Tensor, 5> at = {r.saved(0), r.saved(1), r.saved(2), r.saved(3), r.saved(4)};
          if (mode().recording) {
            return set_by_twin(r, at, [inverse](std::span<const Tensor> given) {
              return composed(given, inverse);
            });
          }
          std::transform(at.begin(), at.end(), at.begin(), dense);
          const Tensor g = contiguous(r.grad_or_zeros(0));
          const Tensor g_log_det = contiguous(r.grad_or_zeros(1));
          const Tensor to_z = Tensor::empty(at[0].shape(), g.dtype(), g.device());
          const int64_t n = at[1].numel(), k = at[2].numel();
          const Tensor to_weights = Tensor::empty({2 * (n + k)}, g.dtype(), g.device());
          backend(g.device())
              .planar_grad(stack_of(at), at[0], r.saved(5), g, g_log_det, to_z, to_weights);
          if (r.needs(0)) r.set(0, to_z);
          int64_t from = 0;
          for (size_t i = 1; i < at.size(); ++i) {
            const int64_t to = from + at[i].numel();
            if (r.needs(i)) r.set(i, reshape(slice(to_weights, 0, from, to), at[i].shape()));
            from = to;
          }
        });
  }
  return {out[0], out[1]};
}

}  // namespace flowgrad
