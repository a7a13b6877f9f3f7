#include <fmt/format.h>

#include <array>
#include <cmath>

#include "flowgrad/autograd/coupling.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"

namespace flowgrad {

using kernels::backend;

namespace {

void check(const Tensor& z, const Tensor& scale, const Tensor& shift, const Tensor& mask,
           const CouplingOptions& o) {
  constexpr const char* kOp = "affine_coupling";
  check_floating(kOp, z, "z");
  if (z.rank() != 2) {
    throw ShapeError(fmt::format("{}: z is {}; (N, D) is accepted", kOp, z.shape().to_string()));
  }
  const auto fits = [&](const char* name, const Tensor& t, const Shape& accepted) {
    check_like(kOp, name, t, z, "z");
    if (t.shape() == accepted) return;
    throw ShapeError(fmt::format("{}: {} is {}; {} is accepted", kOp, name, t.shape().to_string(),
                                 accepted.to_string()));
  };
  fits("scale", scale, z.shape());
  fits("shift", shift, z.shape());
  fits("mask", mask, {z.size(1)});
  o.check(kOp);
}

/// The same in operations, from {z, scale, shift}.
std::vector<Tensor> composed(std::span<const Tensor> in, const Tensor& mask,
                             const CouplingOptions& o) {
  const Tensor active = equal(mask, 0);
  // Before anything is computed from them: 0 times the derivative at infinity would be NaN.
  const Tensor none = zeros_like(in[0]);
  const Tensor scale = where(active, in[1], none);
  const Tensor shift = where(active, in[2], none);
  const Tensor s = o.bound > 0 ? tanh(scale * (1 / o.bound)) * o.bound : scale;
  const Tensor signed_s = o.inverse ? -s : s;
  const Tensor moved = o.inverse ? (in[0] - shift) * exp(signed_s) : in[0] * exp(signed_s) + shift;
  return {where(active, moved, in[0]), sum(signed_s, {1})};
}

}  // namespace

void CouplingOptions::check(const char* op) const {
  if (bound >= 0 && std::isfinite(bound)) return;
  throw ValueError(
      fmt::format("{}: bound = {} given; a finite number is accepted, 0 for no bound", op, bound));
}

std::pair<Tensor, Tensor> affine_coupling(const Tensor& z, const Tensor& scale, const Tensor& shift,
                                          const Tensor& mask, const CouplingOptions& options) {
  check(z, scale, shift, mask, options);
  const std::array<Tensor, 3> in = {z, scale, shift};
  if (!fused_kernels()) {
    const std::vector<Tensor> both = composed(in, mask.detach(), options);
    return {both[0], both[1]};
  }
  // Views of these tensors; a kernel reads contiguous rows.
  const auto dense = [](const Tensor& t) { return contiguous(t.detach()); };
  const Tensor from = dense(z), raw = dense(scale), by = dense(shift), fixed = dense(mask);
  std::array<Tensor, 2> out = {Tensor::empty(z.shape(), z.dtype(), z.device()),
                               Tensor::empty({z.size(0)}, z.dtype(), z.device())};
  backend(z.device())
      .coupling({raw, by, fixed, options.bound, options.inverse}, from, out[0], out[1]);
  if (recording(z, scale, shift)) {
    const std::array<Saved, 4> saved = {save(z), save(scale), save(shift), save(mask)};
    record("affine_coupling", std::span<const Tensor>(out), std::span<const Tensor>(in),
           std::span<const Saved>(saved), [options, dense](Backward& r) {
             const std::array<Tensor, 3> at = {r.saved(0), r.saved(1), r.saved(2)};
             const Tensor fixed = dense(r.saved(3));
             if (mode().recording) {
               return set_by_twin(r, at, [&](std::span<const Tensor> given) {
                 return composed(given, fixed, options);
               });
             }
             const Tensor from = dense(at[0]), raw = dense(at[1]), by = dense(at[2]);
             const Tensor g = contiguous(r.grad_or_zeros(0));
             const Tensor g_log_det = contiguous(r.grad_or_zeros(1));
             std::array<Tensor, 3> to;
             for (Tensor& t : to) t = Tensor::empty(from.shape(), from.dtype(), from.device());
             backend(from.device())
                 .coupling_grad({raw, by, fixed, options.bound, options.inverse}, from, g,
                                g_log_det, to[0], to[1], to[2]);
             for (int i = 0; i < 3; ++i) {
               if (r.needs(i)) r.set(i, to[static_cast<size_t>(i)]);
             }
           });
  }
  return {out[0], out[1]};
}

}  // namespace flowgrad
