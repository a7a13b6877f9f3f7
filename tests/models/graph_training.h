#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "flowgrad/models/flow_trainer.h"
#include "support.h"

/// Trainings by graph and without one, and what they must have in common.
namespace flowgrad::testing {

/// What a training came to, bit for bit.
struct Training {
  std::vector<double> losses, norms;
  NamedTensors weights;
  uint64_t stream = 0;
  std::vector<std::string> warnings;
};

struct Messages final : ProgressSink {
  explicit Messages(std::vector<std::string>& to) : texts(to) {}
  void update(const ProgressState&) override {}
  void message(const std::string& text) override { texts.push_back(text); }
  void finish(const ProgressState&) override {}
  std::vector<std::string>& texts;
};

inline FlowTrainerOptions options_of(GraphUse graph, int64_t steps) {
  FlowTrainerOptions o;
  o.learning_rate = 1e-2;
  o.warm_up = 3;
  o.weight_decay = 0.01;
  o.trainer.clip_norm = 0.5;
  o.trainer.ema_decay = 0.9;
  o.trainer.steps = steps;
  o.trainer.log_every = 1;
  o.trainer.handle_signals = false;
  o.trainer.graph = graph;
  return o;
}

inline void finish(FlowTrainer& training, const Module& module, const Generator& draws,
                   Training& out) {
  training.run();
  for (const MetricsRow& row : training.trainer().history()) {
    out.losses.push_back(row.loss);
    out.norms.push_back(row.gradient_norm);
  }
  for (const auto& [name, t] : module.state_dict())
    out.weights.emplace_back(name, clone(to(t.detach(), Device::cpu())));
  out.stream = draws.stream();
}

inline void check_equal(const Training& plain, const Training& graph) {
  CHECK(graph.warnings.empty());
  CHECK(graph.losses == plain.losses);
  CHECK(graph.norms == plain.norms);
  CHECK(graph.stream == plain.stream);
  REQUIRE(graph.weights.size() == plain.weights.size());
  for (size_t i = 0; i < plain.weights.size(); ++i) {
    INFO(plain.weights[i].first);
    CHECK(graph.weights[i].second.to_vector<double>() ==
          plain.weights[i].second.to_vector<double>());
  }
}

}  // namespace flowgrad::testing
