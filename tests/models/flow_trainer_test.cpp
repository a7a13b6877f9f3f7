// Training any model of the registry through one class.
#include "flowgrad/models/flow_trainer.h"

#include <filesystem>

#include "flowgrad/models/frechet.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

struct Job {
  Job(const std::string& name, const Config& config, FlowTrainerOptions options,
      int64_t condition = 0)
      : generator(7), draws(8), rows(9) {
    model = make_model(name, config, generator);
    options.trainer.quiet = true;
    options.trainer.handle_signals = false;
    const auto next = [this, condition, width = model->width()] {
      QuantityInputs in{.input = randn({64, width}, rows) * 0.5 + 1.0};
      if (condition > 0) in.condition = randn({64, condition}, rows);
      return in;
    };
    const StateProvider position = integer_state(
        "rows", [this] { return std::vector<int64_t>{static_cast<int64_t>(rows.stream())}; },
        [this](const std::vector<int64_t>& v) {
          rows.set_state(9, static_cast<uint64_t>(v.at(0)));
        });
    trainer = std::make_unique<FlowTrainer>(*model, FlowTrainerData{next, {}, {position}}, draws,
                                            options);
  }
  Generator generator, draws, rows;
  std::unique_ptr<Model> model;
  std::unique_ptr<FlowTrainer> trainer;
};

double largest_norm(Module& module) {
  NoGrad off;
  double most = 0;
  for (const auto& [name, w] : module.parameters()) {
    if (w.rank() != 2) continue;
    const Tensor m = cast(w, DType::float64);
    const auto values = symmetric_eigen(matmul(m, transpose(m))).values.to_vector<double>();
    most = std::max(most, std::sqrt(values.back()));
  }
  return most;
}

FlowTrainerOptions steps(int64_t n, double rate = 1e-2) {
  FlowTrainerOptions o;
  o.trainer.steps = n;
  o.learning_rate = rate;
  return o;
}

}  // namespace

TEST_CASE("densities and generators learn by their own losses", "[flow_trainer_test]") {
  // The entropy of N(1, 1/4) in the plane is 1 + log(2 pi / 4) = 1.4516.
  Job density("realnvp", {{"hidden", "16"}, {"n_flows", "4"}, {"actnorm", "true"}}, steps(300));
  const TrainResult result = density.trainer->run();
  CHECK(result.loss < 1.53);
  Job matching(
      "flow_matching", {{"hidden", "16"}, {"time_dim", "8"}, {"condition_dim", "2"}},
      [] {
        FlowTrainerOptions o = steps(50);
        o.condition_dropout = 0.2;
        o.warm_up = 5;
        o.weight_decay = 0.01;
        o.schedule = LearningRate::one_cycle;
        o.trainer.ema_decay = 0.9;
        return o;
      }(),
      2);
  CHECK(matching.trainer->run().status == TrainStatus::finished);
}

TEST_CASE("spectral norms stay below their bound", "[flow_trainer_test]") {
  FlowTrainerOptions o = steps(100, 3e-2);
  Job free("cnf", {{"hidden", "16"}, {"solver", "rk4"}, {"n_steps", "4"}}, o);
  free.trainer->run();
  CHECK(largest_norm(free.model->module()) > 1.5);
  CHECK(free.trainer->spectral() == nullptr);
  o.spectral_norm = 0.9;
  Job bound("cnf", {{"hidden", "16"}, {"solver", "rk4"}, {"n_steps", "4"}}, o);
  bound.trainer->run();
  // The power iteration is a step behind the weights.
  CHECK(largest_norm(bound.model->module()) < 0.9 * 1.1);
}

TEST_CASE("a resumed training has the bits of an uninterrupted one", "[flow_trainer_test]") {
  const std::string folder =
      (std::filesystem::temp_directory_path() / "flowgrad_flow_trainer_test").string();
  std::filesystem::remove_all(folder);
  const Config config{{"hidden", "8"}, {"n_flows", "2"}, {"actnorm", "true"}};
  FlowTrainerOptions o = steps(8);
  o.spectral_norm = 1;
  o.trainer.ema_decay = 0.9;
  Job whole("realnvp", config, o);
  whole.trainer->run();
  o.trainer.run_folder = folder;
  o.trainer.pause_at = 3;
  Job(std::string("realnvp"), config, o).trainer->run();
  o.trainer.pause_at = 0;
  Job rest("realnvp", config, o);
  CHECK(rest.trainer->resume() == 3);
  rest.trainer->run();
  const NamedTensors a = whole.model->module().state_dict(), b = rest.model->module().state_dict();
  for (size_t i = 0; i < a.size(); ++i) {
    INFO(a[i].first);
    CHECK(distance(a[i].second, b[i].second) == 0);
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("a first batch that is not finite is skipped, and the next one initialises",
          "[flow_trainer_test]") {
  Generator generator(7), draws(8), rows(9);
  const auto model =
      make_model("realnvp", {{"hidden", "8"}, {"n_flows", "2"}, {"actnorm", "true"}}, generator);
  int step = 0;
  const auto next = [&] {
    const Tensor x = randn({64, 2}, rows) * 3.0;
    return QuantityInputs{.input = step++ == 0 ? x * INFINITY : x};
  };
  FlowTrainerOptions o = steps(3);
  o.trainer.quiet = true;
  o.trainer.handle_signals = false;
  FlowTrainer trainer(*model, {next}, draws, o);
  const TrainResult result = trainer.run();
  CHECK(result.skipped == 1);
  CHECK(result.status == TrainStatus::finished);
  for (const auto& [name, t] : model->module().state_dict()) {
    if (name == "actnorms.0.initialized") CHECK(t.item() == 1);
  }
}

TEST_CASE("bad options are named", "[flow_trainer_test]") {
  const auto refused = [](FlowTrainerOptions o) {
    return raised<ValueError>([&] { Job("planar", {}, o); });
  };
  FlowTrainerOptions o = steps(1);
  o.condition_dropout = 0.5;
  CHECK(contains(refused(o), {"without condition", "0.5"}));
  o.condition_dropout = 1;
  CHECK(contains(refused(o), {"condition_dropout = 1", "[0, 1)"}));
  o = steps(1);
  o.spectral_norm = -1;
  CHECK(contains(refused(o), {"spectral_norm = -1"}));
  o = steps(1);
  o.warm_up = -1;
  CHECK(contains(refused(o), {"warm_up = -1"}));
}
