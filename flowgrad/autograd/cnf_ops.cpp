#include <fmt/format.h>

#include <array>

#include "flowgrad/autograd/cnf_solve.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"

namespace flowgrad {

using kernels::backend;
using kernels::SolveSteps;

namespace {

constexpr size_t kInputs = 11;
constexpr std::array<const char*, kInputs> kNames = {
    "y0", "x", "t", "bias", "middle", "middle_bias", "out", "out_bias", "left", "right", "exact"};
constexpr size_t kLeft = 8, kRight = 9, kExact = 10;

void check_shapes(std::span<const Tensor> in) {
  if (in[0].rank() != 2 || in[1].rank() != 2) {
    throw ShapeError(fmt::format("cnf_solve: y0 is {} and x is {}; (N, D) and (H, D) are accepted",
                                 in[0].shape().to_string(), in[1].shape().to_string()));
  }
  const int64_t n = in[0].size(0), d = in[0].size(1), h = in[1].size(0);
  const std::array<Shape, kInputs> accepted = {
      {{n, d}, {h, d}, {h}, {h}, {h, h}, {h}, {d, h}, {d}, {n, h}, {n, h}, {h, h}}};
  for (size_t i = 0; i < kInputs; ++i) {
    if ((!in[i].defined() && i >= kLeft) || in[i].shape() == accepted[i]) continue;
    throw ShapeError(fmt::format("cnf_solve: {} is {}; {} is accepted", kNames[i],
                                 in[i].shape().to_string(), accepted[i].to_string()));
  }
  if (in[kLeft].defined() != in[kRight].defined() ||
      (in[kLeft].defined() && in[kExact].defined())) {
    throw ValueError("cnf_solve: left and right, or exact, or none of them is accepted");
  }
}

/// The inputs as a kernel reads them; keeps the tensors it makes.
struct Operands {
  std::array<Tensor, kInputs> dense;
  kernels::CnfField field;

  explicit Operands(std::span<const Tensor> in) {
    for (size_t i = 0; i < kInputs; ++i) {
      if (in[i].defined()) dense[i] = contiguous(in[i].detach());
    }
    field = {dense[1], dense[2], dense[3],     dense[4],      dense[5],
             dense[6], dense[7], dense[kLeft], dense[kRight], dense[kExact]};
  }
};

Tensor fresh_like(const Tensor& t) { return Tensor::empty(t.shape(), t.dtype(), t.device()); }

void set_by_kernel(Backward& r, std::span<const Tensor> in, const Tensor& kept,
                   const SolveSteps& steps) {
  const Operands operands(in);
  const Tensor g_y = contiguous(r.grad_or_zeros(0));
  const Tensor g_integral = contiguous(r.grad_or_zeros(1));
  const Tensor g_y0 = fresh_like(in[0]);
  const Tensor g_left = in[kLeft].defined() ? fresh_like(in[kLeft]) : Tensor();
  const Tensor g_right = in[kRight].defined() ? fresh_like(in[kRight]) : Tensor();
  int64_t n_weights = 0;
  const auto is_weight = [&](size_t i) {
    return i > 0 && i != kLeft && i != kRight && in[i].defined();
  };
  for (size_t i = 0; i < kInputs; ++i) n_weights += is_weight(i) ? in[i].numel() : 0;
  const Tensor weights = Tensor::empty({n_weights}, in[0].dtype(), in[0].device());
  backend(in[0].device())
      .cnf_solve_grad(operands.field, steps, kept, g_y, g_integral, g_y0, g_left, g_right, weights);
  int64_t at = 0;
  for (size_t i = 0; i < kInputs; ++i) {
    if (!in[i].defined()) continue;
    Tensor g = i == 0 ? g_y0 : i == kLeft ? g_left : g_right;
    if (is_weight(i)) {
      g = reshape(slice(weights, 0, at, at + in[i].numel()), in[i].shape());
      at += in[i].numel();
    }
    if (r.needs(static_cast<int>(i))) r.set(static_cast<int>(i), g);
  }
}

}  // namespace

std::vector<Tensor> CnfTensors::with(const Tensor& y0) const {
  return {y0, x, t, bias, middle, middle_bias, out, out_bias, left, right, exact};
}

CnfTensors CnfTensors::from(std::span<const Tensor> in) {
  return {in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[kLeft], in[kRight], in[kExact]};
}

std::vector<Tensor> cnf_solve(const Tensor& y0, const CnfTensors& field, const SolveSteps& steps,
                              const MultiFunction& twin) {
  const std::vector<Tensor> in = field.with(y0);
  check_shapes(in);
  const bool records = recording(std::span<const Tensor>(in));
  if (!fused_kernels() || !alike(in)) return twin(in);
  const Operands operands(in);
  if (!backend(y0.device()).has_cnf_solve(operands.field, steps, records)) return twin(in);
  std::vector<Tensor> outputs = {fresh_like(y0)};
  if (field.has_trace()) {
    outputs.push_back(Tensor::empty({y0.size(0)}, y0.dtype(), y0.device()));
  }
  Tensor kept;
  if (records) {
    const int64_t n = backend(y0.device()).cnf_kept(operands.field, steps, y0.size(0));
    kept = Tensor::empty({n}, y0.dtype(), y0.device());
  }
  backend(y0.device())
      .cnf_solve(operands.field, steps, operands.dense[0], outputs[0],
                 field.has_trace() ? kernels::View(outputs[1]) : kernels::View(), kept);
  if (records) {
    std::vector<Saved> saved = {save(kept)};
    std::array<bool, kInputs> present{};
    for (size_t i = 0; i < kInputs; ++i) {
      present[i] = in[i].defined();
      if (present[i]) saved.push_back(save(in[i]));
    }
    record("cnf_solve", std::span<const Tensor>(outputs), std::span<const Tensor>(in),
           std::span<const Saved>(saved), [steps, twin, present](Backward& r) {
             std::vector<Tensor> given(kInputs);
             int next = 1;
             for (size_t i = 0; i < kInputs; ++i) {
               if (present[i]) given[i] = r.saved(next++);
             }
             if (mode().recording) {
               set_by_twin(r, given, twin);
             } else {
               set_by_kernel(r, given, r.saved(0), steps);
             }
           });
  }
  return outputs;
}

}  // namespace flowgrad
