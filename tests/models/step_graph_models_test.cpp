// Every built-in model's loss as a graph: the bits of a training without one, or the reason why it
// has none.
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "flowgrad/models/cnf.h"
#include "flowgrad/models/encoders.h"
#include "flowgrad/models/robot_policy.h"
#include "graph_training.h"

using namespace flowgrad;
using namespace flowgrad::testing;

namespace {

constexpr int64_t kSteps = 4, kRows = 5;

struct Case {
  std::string model;
  Config config;
  /// What a refusal says; empty where the loss is captured.
  std::vector<std::string> refusal = {};
};

std::string name_of_case(const Case& c) {
  std::string text = c.model;
  for (const auto& [key, value] : c.config) text += " " + key + "=" + value;
  return text;
}

const Config kNet{{"action_dim", "3"}, {"hidden", "6"}, {"time_dim", "4"}};
const Config kStack{{"dim", "3"}, {"n_flows", "2"}, {"hidden", "5"}};
const Config kCnf{{"dim", "2"}, {"hidden", "5"}, {"solver", "rk4"}, {"n_steps", "2"}};

Config with(Config config, const Config& more) {
  for (const auto& [key, value] : more) config[key] = value;
  return config;
}

/// Every model of the registry, with what changes the kind of work that its loss asks for.
std::vector<Case> cases() {
  const std::vector<std::string> host{"copy_to_host"};
  const std::vector<std::string> adaptive{"dopri5 given while a graph is captured", "rk4"};
  std::vector<Case> all = {
      {"planar", {{"dim", "3"}, {"n_flows", "2"}}},
      {"realnvp", kStack},
      {"realnvp",
       with(kStack, {{"permute", "true"}, {"actnorm", "true"}, {"base_components", "2"}})},
      {"realnvp", with(kStack, {{"permute", "true"}, {"condition_dim", "2"}})},
      {"spline", with(kStack, {{"bins", "3"}, {"permute", "true"}, {"actnorm", "true"}})},
      {"glow", {{"height", "4"}, {"width", "4"}, {"levels", "1"}, {"steps", "2"}, {"hidden", "3"}}},
      {"flow_matching", with(kNet, {{"time_law", "beta"}, {"sigma", "0.1"}})},
      {"flow_matching", with(kNet, {{"net", "mlp"}, {"condition_dim", "2"}})},
      {"consistency", with(kNet, {{"scales", "4"}})},
      {"score", kNet},
      {"diffusion", {{"action_dim", "3"}, {"hidden", "6"}, {"n_timesteps", "10"}}},
      {"diffusion",
       {{"action_dim", "3"}, {"hidden", "6"}, {"state_dim", "2"}, {"schedule", "linear"}}},
      {"hierarchical",
       {{"condition_dim", "2"},
        {"action_dim", "2"},
        {"sequence_length", "3"},
        {"latent_dim", "4"},
        {"decoder_hidden", "5"},
        {"hidden", "6"},
        {"time_dim", "4"}}},
      {"flow_vla",
       {{"hidden", "6"}, {"height", "9"}, {"width", "9"}, {"horizon", "2"}, {"robot_dim", "2"}}},
      // A pairing within the batch is found on the host.
      {"flow_matching", with(kNet, {{"coupling", "ot"}}), host},
      {"consistency", with(kNet, {{"coupling", "sinkhorn"}}), host},
      // Whether a step is accepted is decided on the host.
      {"cnf", {{"dim", "2"}, {"hidden", "5"}}, adaptive},
      {"cnf", {{"dim", "2"}, {"hidden", "5"}, {"per_row", "true"}}, adaptive},
      {"cnf", {{"dim", "2"}, {"hidden", "5"}, {"gradient", "adjoint"}}, adaptive}};
  for (const Config& more :
       std::vector<Config>{{},
                           {{"solver", "euler"}, {"probe", "gaussian"}},
                           {{"solver", "dopri5_fixed"}, {"trace", "exact"}},
                           {{"condition_dim", "2"}},
                           {{"kinetic", "0.1"}, {"jacobian_norm", "0.1"}},
                           {{"kinetic", "0.1"}, {"jacobian_norm", "0.1"}, {"trace", "exact"}},
                           {{"gradient", "checkpointed"}, {"condition_dim", "2"}},
                           {{"gradient", "adjoint"}},
                           {{"redraw_probe", "true"}}}) {
    all.push_back({"cnf", with(kCnf, more)});
  }
  return all;
}

Training train(const Case& c, GraphUse graph) {
  const Device device = test_device();
  Generator weights(7), draws(8), rows(9);
  const std::unique_ptr<Model> model = make_model(c.model, c.config, weights);
  model->module().to(device);
  const auto next = [&] {
    QuantityInputs in = model->observation(kRows, rows);
    in.input = to(randn({kRows, model->width()}, rows) * 0.5, device);
    if (const int64_t width = model->condition_width(); width > 0 && !in.images.defined())
      in.condition = to(randn({kRows, width}, rows), device);
    return in;
  };
  // What a validation leaves behind must not reach the next step.
  const auto validate = [&] {
    Generator own(5);
    return model->loss(next(), own).item();
  };
  Training out;
  Messages messages(out.warnings);
  FlowTrainerOptions o = options_of(graph, kSteps);
  o.trainer.validate_every = 3;
  o.trainer.progress = &messages;
  FlowTrainer training(*model, {.next = next, .validate = validate}, draws, o);
  finish(training, model->module(), draws, out);
  return out;
}

}  // namespace

TEST_CASE("every model trains by graph to the bits of a training without, or says why not",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  std::set<std::string> captured;
  for (const Case& c : cases()) {
    INFO(name_of_case(c));
    if (!c.refusal.empty()) {
      const std::string text = raised<DeviceError>([&] { train(c, GraphUse::always); });
      INFO(text);
      CHECK(contains(text, {"Trainer: this step cannot be a graph"}));
      CHECK(contains(text, c.refusal));
      continue;
    }
    captured.insert(c.model);
    const Training plain = train(c, GraphUse::never);
    REQUIRE(plain.losses.size() == kSteps);
    CHECK(plain.losses[2] != plain.losses[3]);
    check_equal(plain, train(c, GraphUse::always));
  }
  for (const std::string& name : model_names()) {
    INFO(name);
    CHECK(captured.count(name) == 1);
  }
}

namespace {

struct PolicyCase {
  HeadKind head;
  bool sees = false;
  std::optional<int64_t> pad_id = {};
  double word_dropout = 0;
  double auxiliary = 0;
  int64_t draws = 1;
};

constexpr int64_t kVocabulary = 9, kWords = 4;

std::unique_ptr<PolicyEncoder> encoder_of(const PolicyCase& c, Generator& weights) {
  if (!c.sees) return make_policy_encoder(StateEncoderOptions{.state_dim = 3}, weights);
  return make_policy_encoder(VisionLanguageOptions{.channels = {3},
                                                   .first_kernel = 3,
                                                   .pooling = Pooling::spatial_softmax,
                                                   .height = 8,
                                                   .width = 8,
                                                   .vision_width = 0,
                                                   .vocabulary = kVocabulary,
                                                   .embedding = 4,
                                                   .lstm_hidden = 3,
                                                   .pad_id = c.pad_id,
                                                   .film = true,
                                                   .robot_dim = 2,
                                                   .fusion_hidden = 6,
                                                   .features = 5},
                             weights);
}

/// A training of a policy; `spoil` may change the tokens (N, L) of a step.
class PolicyTraining {
 public:
  PolicyTraining(const PolicyCase& c, GraphUse graph, int64_t steps = kSteps,
                 std::function<void(int64_t step, std::vector<int64_t>&)> spoil = {})
      : case_(c), spoil_(std::move(spoil)) {
    RobotPolicyOptions options;
    options.state_dim = c.sees ? 0 : 3;
    options.robot_dim = 2;
    options.action_dim = 2;
    options.horizon = 2;
    options.auxiliary = c.auxiliary;
    options.word_dropout = c.word_dropout;
    options.head = c.head;
    options.head_options.hidden = 6;
    options.head_options.time_dim = 4;
    options.head_options.latent_dim = 2;
    options.head_options.n_timesteps = 8;
    Generator weights(7);
    policy_ = std::make_unique<RobotPolicy>(options, encoder_of(c, weights), weights);
    PolicyObservation all;
    if (!c.sees) all.state = randn({20, 3}, rows_);
    all.robot = randn({20, 2}, rows_);
    policy_->fit_statistics(all, randn({20, 2, 2}, rows_));
    policy_->to(test_device());
    FlowTrainerOptions o = options_of(graph, steps);
    o.trainer.progress = &messages_;
    training_ = std::make_unique<FlowTrainer>(
        *policy_, [this] { return policy_->loss(seen_, chunks_, draws_, case_.draws); },
        FlowTrainerData{.next = {}, .prepare = [this] { prepare(); }}, draws_, o);
  }
  Training run() {
    finish(*training_, *policy_, draws_, out_);
    return out_;
  }
  RobotPolicy& policy() { return *policy_; }

 private:
  void prepare() {
    const auto fresh = [&](Tensor& kept, const Shape& shape) {
      keep_in_place(kept, to(randn(shape, rows_), test_device()));
    };
    if (case_.sees) {
      fresh(seen_.images, {kRows, 3, 8, 8});
      std::vector<int64_t> words =
          randint(1, kVocabulary, {kRows, kWords}, rows_).to_vector<int64_t>();
      // The second batch, which is captured, has full rows only, and so has the last.
      if (case_.pad_id && step_ % 2 == 0) words[3] = words[6] = words[7] = *case_.pad_id;
      if (spoil_) spoil_(step_, words);
      keep_in_place(seen_.tokens, to(Tensor::from(words, {kRows, kWords}), test_device()));
    } else {
      fresh(seen_.state, {kRows, 3});
    }
    fresh(seen_.robot, {kRows, 2});
    fresh(chunks_, {kRows, 2, 2});
    ++step_;
  }

  const PolicyCase case_;
  const std::function<void(int64_t, std::vector<int64_t>&)> spoil_;
  Generator draws_{8}, rows_{9};
  Training out_;
  Messages messages_{out_.warnings};
  std::unique_ptr<RobotPolicy> policy_;
  PolicyObservation seen_;
  Tensor chunks_;
  int64_t step_ = 0;
  std::unique_ptr<FlowTrainer> training_;
};

}  // namespace

TEST_CASE("every head and both kinds of encoders train by graph to the same bits",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  std::vector<PolicyCase> all;
  for (size_t i = 0; i < head_names().size(); ++i) all.push_back({static_cast<HeadKind>(i)});
  all.push_back({.head = HeadKind::flow, .sees = true, .draws = 2});
  all.push_back({.head = HeadKind::regression, .sees = true, .pad_id = 0, .auxiliary = 0.5});
  all.push_back({.head = HeadKind::diffusion, .sees = true, .pad_id = 0, .word_dropout = 0.3});
  for (const PolicyCase& c : all) {
    INFO(head_names()[static_cast<size_t>(c.head)] << (c.sees ? " sees" : "")
                                                   << (c.pad_id ? " pads" : ""));
    const Training plain = PolicyTraining(c, GraphUse::never).run();
    REQUIRE(plain.losses.size() == kSteps);
    check_equal(plain, PolicyTraining(c, GraphUse::always).run());
  }
}

TEST_CASE("a distillation is refused: the teacher's times come from the host",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  const PolicyCase c{.head = HeadKind::flow};
  PolicyTraining student(c, GraphUse::never, 1), teacher(c, GraphUse::never, 1);
  student.run();
  teacher.run();  // both have looked at their statistics
  Generator draws(8);
  PolicyObservation seen;
  seen.state = zeros({kRows, 3}, DType::float32, test_device());
  seen.robot = zeros({kRows, 2}, DType::float32, test_device());
  Sgd optimizer({{student.policy().parameters()}});
  const auto loss = [&] {
    return student.policy().distillation_loss(teacher.policy(), seen, draws, 2);
  };
  CHECK(contains(raised<DeviceError>([&] {
                   StepGraph({.optimizer = &optimizer, .loss = loss, .draws = {&draws}});
                 }),
                 {"copy_to_device"}));
}

TEST_CASE("a word out of range ends a training by graph as one without, before the weights change",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  const PolicyCase c{.head = HeadKind::flow, .sees = true, .pad_id = 0};
  const auto run = [&](GraphUse use) {
    PolicyTraining training(c, use, 6, [](int64_t step, std::vector<int64_t>& words) {
      if (step == 3) words[6] = 1000;
    });
    const std::string text = raised<ValueError>([&] { training.run(); });
    std::vector<std::vector<double>> weights;
    for (const auto& [name, t] : training.policy().state_dict())
      weights.push_back(t.detach().to_vector<double>());
    return std::pair(text, weights);
  };
  const auto plain = run(GraphUse::never), graph = run(GraphUse::always);
  CHECK(contains(plain.first, {"encode: token 1000 given in row 1 at position 2; 0 to 8"}));
  CHECK(graph.first == plain.first);
  CHECK(graph.second == plain.second);
}

TEST_CASE("a flow with probes of its own trains by graph where its generator is named",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  const auto run = [](GraphUse use, bool named) {
    Generator weights(7), draws(8), rows(9);
    ContinuousNormalizingFlow flow(
        {.dim = 2, .hidden = 5, .solver = {.solver = "midpoint", .n_steps = 2}}, weights);
    flow.to(test_device());
    Tensor x;
    FlowTrainerData data;
    data.prepare = [&] { keep_in_place(x, to(randn({kRows, 2}, rows), test_device())); };
    if (named) data.more_generators = {&flow.probe_generator()};
    Training out;
    FlowTrainerOptions o = options_of(use, 5);
    o.trainer.quiet = true;
    FlowTrainer training(
        flow, [&] { return flow.loss(x); }, data, draws, o);
    finish(training, flow, flow.probe_generator(), out);
    return out;
  };
  check_equal(run(GraphUse::never, false), run(GraphUse::always, true));
  CHECK(contains(raised<DeviceError>([&] { run(GraphUse::always, false); }),
                 {"rademacher: a draw from a generator that the graph being captured"}));
}

TEST_CASE("a model that seeds generators of its own says so while a graph is captured",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  Generator weights(7), draws(8);
  const std::unique_ptr<Model> model = make_model("cnf", kCnf, weights);
  model->module().to(test_device());
  const Tensor x = zeros({kRows, 2}, DType::float32, test_device());
  CHECK(contains(raised<DeviceError>([&] {
                   DeviceGraph(test_device(), [&] { model->loss({.input = x}, draws); },
                               {&draws, model->own_generators().front()});
                 }),
                 {"model cnf: evaluated while a graph is captured", "seed_own_generators"}));
}

TEST_CASE("a continuous flow resumes by graph to the bits of one that never stopped",
          "[step_graph_models_test][device_only]") {
  if (!device_records()) return;
  const auto folder = std::filesystem::temp_directory_path() / "flowgrad_step_graph_models_test";
  std::filesystem::remove_all(folder);
  const auto run = [&](GraphUse use, const std::string& name, int64_t pause) {
    Generator weights(7), draws(8), rows(9);
    const std::unique_ptr<Model> model = make_model("cnf", kCnf, weights);
    model->module().to(test_device());
    FlowTrainerData data;
    data.next = [&] { return QuantityInputs{.input = to(randn({kRows, 2}, rows), test_device())}; };
    data.states = {integer_state(
        "rows", [&] { return std::vector<int64_t>{static_cast<int64_t>(rows.stream())}; },
        [&](const std::vector<int64_t>& v) {
          rows.set_state(rows.seed(), static_cast<uint64_t>(v[0]));
        })};
    FlowTrainerOptions o = options_of(use, 8);
    o.trainer.quiet = true;
    o.trainer.run_folder = (folder / name).string();
    o.trainer.pause_at = pause;
    FlowTrainer training(*model, data, draws, o);
    training.resume();
    Training out;
    finish(training, model->module(), draws, out);
    return out;
  };
  const Training whole = run(GraphUse::never, "whole", 0);
  run(GraphUse::always, "parts", 4);
  check_equal(whole, run(GraphUse::always, "parts", 0));
  std::filesystem::remove_all(folder);
}
