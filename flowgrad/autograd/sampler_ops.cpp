#include <fmt/format.h>

#include <utility>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/sampler.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {

bool has_sampler(const Tensor& x, int64_t width) {
  return fused_kernels() && x.rank() == 2 &&
         kernels::backend(x.device()).has_sampler(x.dtype(), width, x.size(1));
}

Tensor sample_net(const SamplerNet& net, std::span<const SamplerStage> stages, const Tensor& given,
                  const SamplerOptions& options) {
  if (given.rank() != 2 || net.first.rank() != 2) {
    throw ShapeError(fmt::format("sample_net: x is {}, first is {}; (N, A) and (A, H) are accepted",
                                 given.shape().to_string(), net.first.shape().to_string()));
  }
  const int64_t rows = given.size(0);
  const int64_t outputs = given.size(1);
  const int64_t width = net.first.size(1);
  const auto checked = [&](const char* name, const Tensor& t, const Shape& shape) {
    check_same_device("sample_net", given, t, "x", name);
    if (t.dtype() != given.dtype()) {
      throw DTypeError(fmt::format("sample_net: {} is {} and x {}; one dtype is accepted", name,
                                   name_of(t.dtype()), name_of(given.dtype())));
    }
    if (t.shape() != shape) {
      throw ShapeError(fmt::format("sample_net: {} is {}; {} is accepted", name,
                                   t.shape().to_string(), shape.to_string()));
    }
    if (recording(t)) {
      throw GradError(
          fmt::format("sample_net: {} requires gradients, and there is no rule for a "
                      "whole solve; call it within NoGrad",
                      name));
    }
    return contiguous(t);
  };
  const Tensor x = checked("x", given, given.shape());
  const Tensor first = checked("first", net.first, {outputs, width});
  const Tensor times = checked("times", net.times, {static_cast<int64_t>(stages.size()), width});
  Tensor condition;
  if (net.condition.defined()) {
    const int64_t given_rows = net.condition.rank() == 2 ? net.condition.size(0) : 0;
    condition = checked("condition", net.condition, {given_rows == 1 ? 1 : rows, width});
  }
  const Tensor hidden = checked("hidden", net.hidden, {3, width, width});
  const Tensor bias = checked("bias", net.bias, {2, width});
  const Tensor last = checked("last", net.last, {3, outputs, width});
  const Tensor last_bias = checked("last_bias", net.last_bias, {outputs});
  Tensor noise;
  if (options.noise.defined()) {
    const int64_t n = options.noise.rank() == 3 ? options.noise.size(0) : 0;
    noise = checked("noise", options.noise, {n, rows, outputs});
    for (const SamplerStage& stage : stages) {
      if (stage.x_noise == 0 || (stage.noise >= 0 && stage.noise < n)) continue;
      throw ValueError(
          fmt::format("sample_net: a stage asks for row {} of {} of noise", stage.noise, n));
    }
  }
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels::backend(x.device())
      .sample({.net = {first, times, condition, hidden, bias, last, last_bias, net.relu},
               .stages = stages,
               .guidance = options.guidance,
               .noise = noise,
               .seed = options.seed,
               .first_stream = options.first_stream},
              x, out);
  return out;
}

}  // namespace flowgrad
