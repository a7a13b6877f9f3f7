// Trainings of models with each step as one graph: the bits of a training without it.
#include "flowgrad/optim/step_graph.h"

#include <cmath>

#include "flowgrad/models/robot_policy.h"
#include "graph_training.h"

using namespace flowgrad;
using namespace flowgrad::testing;

namespace {

Training train(const std::string& name, const Config& config, GraphUse graph, int64_t steps,
               int64_t condition, double dropout) {
  const Device device = test_device();
  Generator weights(7), draws(8), rows(9);
  const std::unique_ptr<Model> model = make_model(name, config, weights);
  model->module().to(device);
  const auto next = [&] {
    QuantityInputs in{.input = to(randn({6, model->width()}, rows) * 0.5 + 1.0, device)};
    if (condition > 0) in.condition = to(randn({6, condition}, rows), device);
    return in;
  };
  Training out;
  Messages messages(out.warnings);
  FlowTrainerOptions o = options_of(graph, steps);
  o.condition_dropout = dropout;
  o.trainer.progress = &messages;
  FlowTrainer training(*model, {.next = next}, draws, o);
  finish(training, model->module(), draws, out);
  return out;
}

Training train_policy(GraphUse graph, int64_t steps) {
  const Device device = test_device();
  RobotPolicyOptions options;
  options.state_dim = 3;
  options.robot_dim = 2;
  options.action_dim = 2;
  options.horizon = 4;
  options.head_options.hidden = 12;
  options.encoder = "state";
  options.head = HeadKind::flow;
  Generator weights(7), draws(8), rows(9);
  RobotPolicy policy(options, weights);
  PolicyObservation all;
  all.state = randn({40, 3}, rows);
  all.robot = randn({40, 2}, rows);
  policy.fit_statistics(all, randn({40, 4, 2}, rows));
  policy.to(device);
  PolicyObservation seen;
  Tensor chunks;
  const auto prepare = [&] {
    keep_in_place(seen.state, to(randn({6, 3}, rows), device));
    keep_in_place(seen.robot, to(randn({6, 2}, rows), device));
    keep_in_place(chunks, to(randn({6, 4, 2}, rows), device));
  };
  Training out;
  Messages messages(out.warnings);
  FlowTrainerOptions o = options_of(graph, steps);
  o.trainer.progress = &messages;
  FlowTrainer training(
      policy, [&] { return policy.loss(seen, chunks, draws); }, {.next = {}, .prepare = prepare},
      draws, o);
  finish(training, policy, draws, out);
  return out;
}

}  // namespace

TEST_CASE("20 steps of densities, by graph and without", "[step_graph_test][device_only]") {
  if (!device_records()) return;
  for (const auto& [name, config] : std::vector<std::pair<std::string, Config>>{
           {"planar", {{"dim", "3"}, {"n_flows", "3"}}},
           {"realnvp", {{"n_flows", "2"}, {"hidden", "8"}, {"actnorm", "true"}}}}) {
    INFO(name);
    const Training plain = train(name, config, GraphUse::never, 20, 0, 0);
    const Training graph = train(name, config, GraphUse::always, 20, 0, 0);
    REQUIRE(plain.losses.size() == 20);
    CHECK(plain.losses.back() != plain.losses.front());
    check_equal(plain, graph);
  }
}

TEST_CASE("20 steps of flow matching, whose draws go on", "[step_graph_test][device_only]") {
  if (!device_records()) return;
  const Config config{
      {"action_dim", "3"}, {"hidden", "8"}, {"time_dim", "8"}, {"condition_dim", "2"}};
  const Training plain = train("flow_matching", config, GraphUse::never, 20, 2, 0.3);
  check_equal(plain, train("flow_matching", config, GraphUse::always, 20, 2, 0.3));
  // The noise of a step is its own.
  CHECK(plain.losses[5] != plain.losses[6]);
}

TEST_CASE("20 steps of the flow-matching policy", "[step_graph_test][device_only]") {
  if (!device_records()) return;
  const Training plain = train_policy(GraphUse::never, 20);
  REQUIRE(plain.losses.size() == 20);
  check_equal(plain, train_policy(GraphUse::always, 20));
}

TEST_CASE("a loss that no graph can hold is refused, or trained without one where that was asked",
          "[step_graph_test][device_only]") {
  if (!device_records()) return;
  // The pairing within a batch is found on the host.
  const Config config{{"action_dim", "3"}, {"hidden", "8"}, {"time_dim", "8"}, {"coupling", "ot"}};
  const std::string text =
      raised<DeviceError>([&] { train("flow_matching", config, GraphUse::always, 4, 0, 0); });
  CHECK(contains(text, {"Trainer: this step cannot be a graph"}));
  CHECK(contains(text, {"copy_to_host"}));
  Training plain = train("flow_matching", config, GraphUse::never, 4, 0, 0);
  Training graph = train("flow_matching", config, GraphUse::where_possible, 4, 0, 0);
  REQUIRE(graph.warnings.size() == 1);
  CHECK(contains(graph.warnings[0], {"cannot be a graph"}));
  graph.warnings.clear();
  check_equal(plain, graph);
}

TEST_CASE("a step of which the gradient is not finite changes nothing, and the next one counts",
          "[step_graph_test][device_only]") {
  if (!device_records()) return;
  const auto run = [](GraphUse use) {
    const Device device = test_device();
    const Tensor w = full({3}, 2, DType::float32, device).requires_grad_();
    Adam adam({{{{"w", w}}}}, {.lr = 0.1});
    Tensor kept;
    TrainerParts parts;
    parts.optimizer = &adam;
    parts.prepare = [&](int64_t step, int64_t) {
      keep_in_place(kept, full({3}, step == 4 ? HUGE_VAL : 1.0 + static_cast<double>(step),
                               DType::float32, device));
    };
    parts.loss = [&](int64_t, int64_t) { return sum(square(w * kept)); };
    TrainerOptions o;
    o.steps = 8;
    o.quiet = true;
    o.handle_signals = false;
    o.graph = use;
    Trainer trainer(parts, o);
    const TrainResult result = trainer.run();
    CHECK(result.skipped == 1);
    return std::pair(w.detach().to_vector<double>(), adam.steps_done());
  };
  const auto plain = run(GraphUse::never), graph = run(GraphUse::always);
  CHECK(plain.first == graph.first);
  CHECK(plain.second == 7);
  CHECK(graph.second == 7);
}

TEST_CASE("graphs and what they cannot be combined with", "[step_graph_test]") {
  const Tensor w = zeros({1}).requires_grad_();
  Adam adam({{{{"w", w}}}}, {.lr = 0.1});
  TrainerParts parts;
  parts.optimizer = &adam;
  parts.loss = [&](int64_t, int64_t) { return sum(w); };
  TrainerOptions o;
  o.quiet = true;
  o.handle_signals = false;
  o.steps = 3;
  o.graph = GraphUse::always;
  CHECK(contains(raised<DeviceError>([&] { Trainer(parts, o).run(); }), {"cpu given"}));
  o.accumulate = 2;
  CHECK(contains(raised<ValueError>([&] { Trainer(parts, o); }), {"accumulate = 2"}));
  o.accumulate = 1;
  o.anomaly = AnomalyCheck::nan;
  CHECK(contains(raised<ValueError>([&] { Trainer(parts, o); }), {"anomaly"}));
  CHECK(contains(raised<ValueError>([&] { StepGraph({.loss = [] { return Tensor(); }}); }),
                 {"no parameters"}));
}

TEST_CASE("inputs of a step keep their place, their shape and their dtype", "[step_graph_test]") {
  Tensor kept;
  keep_in_place(kept, {});
  CHECK_FALSE(kept.defined());
  const Tensor first = tensor({1, 2, 3});
  keep_in_place(kept, first);
  const void* const place = kept.raw();
  CHECK(place != first.raw());  // a later step must not write into what was given
  keep_in_place(kept, tensor({4, 5, 6}));
  CHECK(kept.raw() == place);
  CHECK(kept.to_vector<double>() == std::vector<double>{4, 5, 6});
  CHECK(first.to_vector<double>() == std::vector<double>{1, 2, 3});
  CHECK(contains(raised<ShapeError>([&] { keep_in_place(kept, tensor({1, 2})); }), {"(2,) given"}));
  CHECK(contains(raised<ShapeError>([&] { keep_in_place(kept, {}); }), {"nothing given"}));
  CHECK(contains(raised<DTypeError>([&] {
                   keep_in_place(kept, tensor({1, 2, 3}, DType::float64));
                 }),
                 {"float64 given"}));
}
