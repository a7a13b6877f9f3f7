#include <fmt/format.h>

#include <array>
#include <vector>

#include "flowgrad/autograd/coupling.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"

namespace flowgrad {

using kernels::backend;

namespace {

/// z, condition, then weight and bias of every layer of either net.
constexpr size_t kInputs = 14, kCondition = 1, kNets = 2, kLayers = 3, kPerNet = 2 * kLayers;
constexpr std::array<const char*, kInputs> kNames = {"z",
                                                     "condition",
                                                     "scale.weight[0]",
                                                     "scale.bias[0]",
                                                     "scale.weight[1]",
                                                     "scale.bias[1]",
                                                     "scale.weight[2]",
                                                     "scale.bias[2]",
                                                     "shift.weight[0]",
                                                     "shift.bias[0]",
                                                     "shift.weight[1]",
                                                     "shift.bias[1]",
                                                     "shift.weight[2]",
                                                     "shift.bias[2]"};

constexpr size_t weight_at(size_t net, size_t layer) { return 2 + net * kPerNet + 2 * layer; }

struct Sizes {
  int64_t n, d, h, in;
};

Sizes check(std::span<const Tensor> in, const Tensor& mask, const CouplingOptions& o) {
  constexpr const char* kOp = "mlp_coupling";
  o.check(kOp);
  check_floating(kOp, in[0], "z");
  const Tensor& first = in[weight_at(0, 0)];
  if (in[0].rank() != 2 || !first.defined() || first.rank() != 2) {
    throw ShapeError(fmt::format(
        "{}: z is {} and scale.weight[0] {}; (N, D) and (H, D + C) are "
        "accepted",
        kOp, in[0].shape().to_string(), first.defined() ? first.shape().to_string() : "undefined"));
  }
  const bool conditioned = in[kCondition].defined();
  const Sizes s{in[0].size(0), in[0].size(1), first.size(0), first.size(1)};
  const auto fits = [&](const char* name, const Tensor& t, const Shape& accepted) {
    if (t.defined()) check_like(kOp, name, t, in[0], "z");
    if (t.defined() && t.shape() == accepted) return;
    throw ShapeError(fmt::format("{}: {} is {}; {} is accepted", kOp, name,
                                 t.defined() ? t.shape().to_string() : "undefined",
                                 accepted.to_string()));
  };
  fits("mask", mask, {s.d});
  if (conditioned)
    fits(kNames[kCondition], in[kCondition], {s.n, std::max<int64_t>(0, s.in - s.d)});
  const std::array<Shape, kPerNet> accepted = {
      {{s.h, conditioned ? s.in : s.d}, {s.h}, {s.h, s.h}, {s.h}, {s.d, s.h}, {s.d}}};
  for (size_t i = 2; i < kInputs; ++i) fits(kNames[i], in[i], accepted[(i - 2) % kPerNet]);
  return s;
}

/// The same in operations.
std::vector<Tensor> composed(std::span<const Tensor> in, const Tensor& mask,
                             const CouplingOptions& o) {
  // mul_zero: 0 beats infinity and NaN, so that what a mask hides can never show.
  const Tensor masked = mul_zero(mask, in[0]);
  const Tensor x = in[kCondition].defined() ? concat({masked, in[kCondition]}, 1) : masked;
  std::array<Tensor, kNets> out;
  for (size_t net = 0; net < kNets; ++net) {
    out[net] = x;
    for (size_t i = 0; i < kLayers; ++i) {
      const Tensor y = linear(out[net], in[weight_at(net, i)], in[weight_at(net, i) + 1]);
      out[net] = i + 1 < kLayers ? relu(y) : y;
    }
  }
  const auto [value, log_det] = affine_coupling(in[0], out[0], out[1], mask, o);
  return {value, log_det};
}

/// Of tensors in the order of the inputs, those of the nets as a kernel takes them.
void point_at(std::span<const Tensor> tensors, kernels::CouplingNet (&nets)[kNets]) {
  for (size_t net = 0; net < kNets; ++net) {
    for (size_t i = 0; i < kLayers; ++i) {
      nets[net].weight[i] = tensors[weight_at(net, i)];
      nets[net].bias[i] = tensors[weight_at(net, i) + 1];
    }
  }
}

/// The inputs as a kernel reads them; keeps the tensors it makes.
struct Operands {
  std::array<Tensor, kInputs> dense;
  Tensor mask;
  kernels::MlpCoupling coupling;

  Operands(std::span<const Tensor> in, const Tensor& given_mask, const CouplingOptions& o)
      : mask(contiguous(given_mask.detach())) {
    for (size_t i = 0; i < kInputs; ++i) {
      if (in[i].defined()) dense[i] = contiguous(in[i].detach());
    }
    point_at(dense, coupling.nets);
    coupling.condition = dense[kCondition];
    coupling.mask = mask;
    coupling.bound = o.bound;
    coupling.inverse = o.inverse;
  }
};

void set_by_kernel(Backward& r, std::span<const Tensor> in, const Tensor& mask, const Tensor& kept,
                   const CouplingOptions& o, const Sizes& s) {
  const Operands operands(in, mask, o);
  const Tensor g = contiguous(r.grad_or_zeros(0)), g_log_det = contiguous(r.grad_or_zeros(1));
  const auto fresh = [&](const Shape& shape) {
    return Tensor::empty(shape, in[0].dtype(), in[0].device());
  };
  std::array<Tensor, kInputs> to;
  to[0] = fresh(in[0].shape());
  if (in[kCondition].defined()) to[kCondition] = fresh(in[kCondition].shape());
  for (size_t i = 2; i < kInputs; ++i) {
    if (r.needs(static_cast<int>(i))) to[i] = fresh(in[i].shape());
  }
  kernels::CouplingNet g_nets[kNets];
  point_at(to, g_nets);
  backend(in[0].device())
      .mlp_coupling_grad(operands.coupling, operands.dense[0], kept, g, g_log_det, to[0],
                         to[kCondition], g_nets, fresh({s.n * (2 * s.h + 2 * s.d + s.in)}));
  for (size_t i = 0; i < kInputs; ++i) {
    if (r.needs(static_cast<int>(i))) r.set(static_cast<int>(i), to[i]);
  }
}

}  // namespace

std::pair<Tensor, Tensor> mlp_coupling(const Tensor& z, const Tensor& condition, const Tensor& mask,
                                       const CouplingNet& scale, const CouplingNet& shift,
                                       const CouplingOptions& options) {
  std::array<Tensor, kInputs> in = {z, condition};
  for (size_t i = 0; i < kLayers; ++i) {
    in[weight_at(0, i)] = scale.weight[i];
    in[weight_at(0, i) + 1] = scale.bias[i];
    in[weight_at(1, i)] = shift.weight[i];
    in[weight_at(1, i) + 1] = shift.bias[i];
  }
  const Sizes s = check(in, mask, options);
  if (!fused_kernels() || !backend(z.device()).has_mlp_coupling(z.dtype())) {
    const std::vector<Tensor> both = composed(in, mask.detach(), options);
    return {both[0], both[1]};
  }
  const Operands operands(in, mask, options);
  const std::array<Tensor, 2> out = {Tensor::empty(z.shape(), z.dtype(), z.device()),
                                     Tensor::empty({s.n}, z.dtype(), z.device())};
  const bool records = recording(std::span<const Tensor>(in));
  const Tensor kept =
      records ? Tensor::empty({2 * s.n * (2 * s.h + s.d)}, z.dtype(), z.device()) : Tensor();
  backend(z.device()).mlp_coupling(operands.coupling, operands.dense[0], out[0], out[1], kept);
  if (records) {
    std::vector<Saved> saved = {save(kept), save(mask)};
    for (const Tensor& t : in)
      if (t.defined()) saved.push_back(save(t));
    const bool conditioned = condition.defined();
    record("mlp_coupling", std::span<const Tensor>(out), std::span<const Tensor>(in),
           std::span<const Saved>(saved), [options, s, conditioned](Backward& r) {
             const Tensor mask = r.saved(1).detach();
             std::array<Tensor, kInputs> given;
             int next = 2;
             for (size_t i = 0; i < kInputs; ++i) {
               if (i != kCondition || conditioned) given[i] = r.saved(next++);
             }
             if (!mode().recording) {
               return set_by_kernel(r, given, mask, r.saved(0), options, s);
             }
             set_by_twin(r, given,
                         [&](std::span<const Tensor> at) { return composed(at, mask, options); });
           });
  }
  return {out[0], out[1]};
}

}  // namespace flowgrad
