#include "flowgrad/models/flow_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/flow_matching.h"

namespace flowgrad {
namespace {

Schedule schedule_of(const FlowTrainerOptions& o) {
  const int64_t rest = std::max<int64_t>(o.trainer.steps - o.warm_up, 1);
  Schedule s = o.schedule == LearningRate::constant ? constant_schedule(o.learning_rate)
               : o.schedule == LearningRate::cosine ? cosine_schedule(o.learning_rate, rest)
                                                    : one_cycle_schedule(o.learning_rate, rest);
  return o.warm_up > 0 ? warm_up_schedule(o.warm_up, std::move(s)) : s;
}

std::vector<ParameterGroup> groups_of(const NamedTensors& parameters, double weight_decay) {
  ParameterGroup matrices, others;
  matrices.weight_decay = weight_decay;
  for (const auto& p : parameters)
    (p.first.ends_with("weight") && p.second.rank() >= 2 ? matrices : others)
        .parameters.push_back(p);
  std::vector<ParameterGroup> out;
  for (ParameterGroup* g : {&matrices, &others}) {
    if (!g->parameters.empty()) out.push_back(std::move(*g));
  }
  return out;
}

FlowTrainerData with_generators_of(Model& model, FlowTrainerData data) {
  data.more_generators = model.own_generators();
  return data;
}

}  // namespace

FlowTrainer::FlowTrainer(Model& model, FlowTrainerData data, Generator& draws,
                         FlowTrainerOptions options)
    : FlowTrainer(
          model.module(), [this, &model] { return model.loss_after_seeding(batch_, draws_); },
          with_generators_of(model, std::move(data)), draws, std::move(options)) {
  model_ = &model;
  if (!data_.next) throw ValueError("FlowTrainer: no source of rows given");
  if (options_.condition_dropout > 0 && model.condition_width() == 0) {
    throw ValueError(
        fmt::format("FlowTrainer: condition_dropout = {} given for a model without condition; 0 is "
                    "accepted",
                    options_.condition_dropout));
  }
}

FlowTrainer::FlowTrainer(Module& module, std::function<Tensor()> loss, FlowTrainerData data,
                         Generator& draws, FlowTrainerOptions options)
    : data_(std::move(data)), draws_(draws), options_(std::move(options)) {
  if (!(options_.condition_dropout >= 0 && options_.condition_dropout < 1) ||
      options_.warm_up < 0 || !(options_.spectral_norm >= 0)) {
    throw ValueError(fmt::format(
        "FlowTrainer: condition_dropout = {}, warm_up = {}, spectral_norm = {} given; [0, 1), at "
        "least 0 and at least 0 are accepted",
        options_.condition_dropout, options_.warm_up, options_.spectral_norm));
  }
  const NamedTensors parameters = module.parameters();
  optimizer_ = std::make_unique<Adam>(groups_of(parameters, options_.weight_decay),
                                      AdamOptions{.lr = options_.learning_rate});
  TrainerParts parts;
  parts.model = module.state_dict();
  parts.optimizer = optimizer_.get();
  parts.generator = &draws_;
  parts.more_generators = data_.more_generators;
  parts.schedule = schedule_of(options_);
  parts.validate = data_.validate;
  parts.states = data_.states;
  parts.loss = [own = std::move(loss)](int64_t, int64_t) { return own(); };
  parts.prepare = [this](int64_t, int64_t) {
    if (model_) fetch();
    if (data_.prepare) data_.prepare();
  };
  if (options_.spectral_norm > 0) {
    spectral_ = std::make_unique<SpectralProjection>(parameters, options_.spectral_norm);
    parts.after_update = [this] { spectral_->apply(); };
    parts.states.push_back({"spectral", [this] { return spectral_->state(); },
                            [this](const NamedTensors& s) { spectral_->load_state(s); }});
  }
  trainer_ = std::make_unique<Trainer>(std::move(parts), options_.trainer);
}

void FlowTrainer::fetch() {
  QuantityInputs batch = data_.next();
  if (options_.condition_dropout > 0)
    batch.condition = drop_condition(batch.condition, options_.condition_dropout, draws_);
  // A batch that is not finite is left to the policy for such steps.
  if (!initialized_ && all(isfinite(batch.input)).item() != 0) {
    model_->initialize_from(batch);
    initialized_ = true;
  }
  model_->seed_own_generators(draws_);
  if (options_.trainer.graph == GraphUse::never) {
    batch_ = std::move(batch);
    return;
  }
  const auto kept = batch_.all(), fresh = batch.all();
  for (size_t i = 0; i < kept.size(); ++i) keep_in_place(*kept[i], *fresh[i]);
}

}  // namespace flowgrad
