#include "flowgrad/models/flow_vla.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow.h"

namespace flowgrad {
namespace {

FlowMatchingOptions flow_of(const FlowVLAOptions& o) {
  if (o.action_dim < 1 || o.horizon < 1) {
    throw ValueError(
        fmt::format("FlowVLA: action_dim = {}, horizon = {} given; at least 1 is accepted",
                    o.action_dim, o.horizon));
  }
  if (!(o.auxiliary >= 0) || !std::isfinite(o.auxiliary)) {
    throw ValueError(
        fmt::format("FlowVLA: auxiliary = {} given; at least 0 is accepted", o.auxiliary));
  }
  FlowMatchingOptions flow;
  flow.condition_dim = o.encoder.features;
  flow.action_dim = o.horizon * o.action_dim;
  flow.hidden = o.hidden;
  flow.time_law = o.time_law;
  return flow;
}

}  // namespace

FlowVLAOptions flow_vla_preset(const std::string& name) {
  FlowVLAOptions o{.encoder = vision_language_preset(name)};
  if (name == "tutorial") return o;
  o.action_dim = 2;
  o.horizon = 8;
  o.hidden = name == "tiny" ? 256 : 512;
  o.auxiliary = 1;
  return o;
}

FlowVLA::FlowVLA(const FlowVLAOptions& o, Generator& generator, DType dtype)
    : options_(o),
      encoder_(
          add_module("", std::make_unique<VisionLanguageEncoder>(o.encoder, generator, dtype))),
      flow_(
          add_module("action_flow", std::make_unique<FlowMatching>(flow_of(o), generator, dtype))),
      refiner_(add_module(
          "refiner",
          std::make_unique<MLP>(std::vector<int64_t>{width() + o.encoder.features, 128, width()},
                                relu, generator, dtype))) {
  if (o.auxiliary > 0) {
    auxiliary_ = &add_module(
        "auxiliary", std::make_unique<Linear>(o.encoder.features, width(), generator, dtype));
  }
}

FlowVLA::Losses FlowVLA::losses(const Tensor& x1, const Tensor& given, Generator& generator,
                                const Tensor& x0, const Tensor& t) {
  const Matching m = flow_.match(x1, given, generator, x0, t);
  const Tensor feature = check_condition("loss", given, x1.size(0), options_.encoder.features);
  Losses out{mse_loss(m.velocity, m.target), {}};
  if (auxiliary_) out.loss = out.loss + mse_loss((*auxiliary_)(feature), x1) * options_.auxiliary;
  const Tensor estimate = m.x + (1.0 - unsqueeze(m.t, 1)) * m.velocity;
  out.refiner = mse_loss(refine(estimate.detach(), feature.detach()), x1);
  return out;
}

Tensor FlowVLA::generate(const Tensor& noise, const Tensor& condition,
                         const GenerateOptions& options) {
  const Tensor chunk = flow_.generate(noise, condition, options);
  if (!options_.refine) return chunk;
  NoGrad off;
  return refine(chunk, condition);
}

Tensor FlowVLA::refine(const Tensor& chunk, const Tensor& given) {
  check_rows("refine", chunk, width());
  const Tensor feature = check_condition("refine", given, chunk.size(0), options_.encoder.features);
  return chunk + refiner_(concat({chunk, feature}, 1));
}

}  // namespace flowgrad
