// A whole training step as one graph, against the same steps operation by operation: every bit.
#include <cmath>
#include <functional>
#include <string>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/optim/state.h"
#include "optim/training.h"

using namespace optim_test;
using flowgrad::testing::device_records;
using io_test::Contains;
using io_test::error_of;
using io_test::get;

namespace {

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(std::vector<ParameterGroup>)>;

MakeOptimizer adam(const AdamOptions& options) {
  return [options](auto groups) { return std::make_unique<Adam>(std::move(groups), options); };
}
MakeOptimizer sgd(const SgdOptions& options) {
  return [options](auto groups) { return std::make_unique<Sgd>(std::move(groups), options); };
}

/// A small regression on two groups, one parameter of which has no gradient, and whose loss or
/// gradient can be spoiled at a step.
struct Problem {
  explicit Problem(const MakeOptimizer& make, DType type = DType::float32) : dtype(type) {
    Generator g(5);
    const auto weight = [&](Shape shape) {
      return randn(shape, g, dtype, test_device()).requires_grad_();
    };
    w1 = weight({7, 3});
    w2 = weight({1, 7});
    bias = weight({1});
    unused = weight({2});
    optimizer =
        make({{{{"w1", w1}, {"unused", unused}, {"w2", w2}}, 1, 0.1}, {{{"b", bias}}, 0.5}});
  }
  /// What the step's loss reads: rows, and 0 and 1 unless the step is spoiled.
  void prepare(int64_t step) {
    Generator g(100 + static_cast<uint64_t>(step));
    keep_in_place(x, randn({5, 3}, g, dtype, test_device()));
    keep_in_place(spike, full({1}, bad_loss == step ? HUGE_VAL : 0, dtype, test_device()));
    keep_in_place(gate, full({1, 7}, bad_gradient == step ? 0 : 1, dtype, test_device()));
  }
  Tensor loss() const {
    // At gate 0 the root is 0 and its gradient NaN.
    const Tensor root = sqrt(sum(square(w2 * gate)));
    return mean(square(linear(tanh(linear(x, w1)), w2, bias))) + 0.01 * root + sum(bias * spike);
  }
  TrainerParts parts() {
    TrainerParts p;
    p.optimizer = optimizer.get();
    p.prepare = [this](int64_t step, int64_t) { prepare(step); };
    p.loss = [this](int64_t, int64_t) { return loss(); };
    p.schedule = cosine_schedule(0.05, 12);
    return p;
  }

  DType dtype;
  Tensor w1, w2, bias, unused, x, spike, gate;
  int64_t bad_loss = -1, bad_gradient = -1;
  std::unique_ptr<Optimizer> optimizer;
};

/// All that a training leaves.
struct Trace {
  std::string metrics, state;
  std::vector<std::string> messages;
  int64_t skipped = 0;
};

struct Setup {
  MakeOptimizer make = adam({.lr = 0.05});
  DType dtype = DType::float32;
  double clip_norm = 0, ema_decay = 0;
  int64_t bad_loss = -1, bad_gradient = -1;
  std::function<void(Problem&, TrainerParts&)> change = {};
};

Trace train(const Setup& setup, GraphUse use) {
  Problem problem(setup.make, setup.dtype);
  problem.bad_loss = setup.bad_loss;
  problem.bad_gradient = setup.bad_gradient;
  TrainerParts parts = problem.parts();
  if (setup.change) setup.change(problem, parts);
  Capture capture;
  TrainerOptions o;
  o.steps = 12;
  o.log_every = 1;
  o.clip_norm = setup.clip_norm;
  o.ema_decay = setup.ema_decay;
  o.handle_signals = false;
  o.progress = &capture;
  o.graph = use;
  Trainer trainer(parts, o);
  Trace out;
  out.skipped = trainer.run().skipped;
  out.metrics = without_times(trainer.history());
  out.state = bytes_of(problem.optimizer->parameters()) + bytes_of(problem.optimizer->state_dict());
  if (trainer.ema()) out.state += bytes_of(trainer.ema()->state_dict());
  out.messages = capture.messages;
  return out;
}

/// Trains with a graph and without.
Trace check_same(const Setup& setup) {
  const Trace plain = train(setup, GraphUse::never), graph = train(setup, GraphUse::always);
  CHECK(graph.metrics == plain.metrics);
  CHECK((graph.state == plain.state));  // bytes, which nobody reads
  CHECK(graph.messages == plain.messages);
  CHECK(graph.skipped == plain.skipped);
  return plain;
}

NamedTensors copies_of(const NamedTensors& tensors) {
  NamedTensors out;
  for (const auto& [name, t] : tensors) out.emplace_back(name, clone(t));
  return out;
}

/// As if one parameter had been updated three times.
void make_older(Problem& problem) {
  NamedTensors state = copies_of(problem.optimizer->state_dict());
  for (auto& [name, t] : state) {
    if (name == "w2.step") t = Tensor::from(std::vector<int64_t>{3}, {1}, DType::int64);
  }
  problem.optimizer->load_state_dict(state);
}

}  // namespace

TEST_CASE("optimisers of every kind in a graph", "[captured_step_test][device_only]") {
  if (!device_records()) return;
  for (const DType dtype : {DType::float32, DType::float64}) {
    // The first clips at every step, the second at none; the third does not clip.
    for (const double clip : {0.05, 1e6, 0.0}) {
      INFO(name_of(dtype) << ", clip " << clip);
      const auto check = [&](const MakeOptimizer& make) {
        return check_same({.make = make, .dtype = dtype, .clip_norm = clip, .ema_decay = 0.9});
      };
      const Trace one = check(adam({.lr = 0.05}));
      check(adam({.lr = 0.05, .beta1 = 0.5, .epsilon = 1e-3, .decoupled = false}));
      check(sgd({.lr = 0.05}));
      check(sgd({.lr = 0.05, .momentum = 0.9, .dampening = 0.3}));
      check(sgd({.lr = 0.05, .momentum = 0.9, .nesterov = true}));
      CHECK(one.skipped == 0);
    }
  }
}

TEST_CASE("a step that is not finite leaves everything as it was",
          "[captured_step_test][device_only]") {
  if (!device_records()) return;
  for (const MakeOptimizer& make : {adam({.lr = 0.05}), sgd({.lr = 0.05, .momentum = 0.9})}) {
    for (const double clip : {0.05, 0.0}) {
      const Trace both = check_same(
          {.make = make, .clip_norm = clip, .ema_decay = 0.9, .bad_loss = 4, .bad_gradient = 7});
      CHECK(both.skipped == 2);
      REQUIRE(both.messages.size() == 2);
      CHECK_THAT(both.messages[0], Contains("the loss is inf") || Contains("the loss is -inf"));
      CHECK_THAT(both.messages[1],
                 Contains("the norm of the gradient is") && Contains("nan, first in \"w2\""));
      // The first step is refused before the graph is captured, so that its first run is the first
      // update, and the second one inside of it.
      const Trace first = check_same(
          {.make = make, .clip_norm = clip, .ema_decay = 0.9, .bad_loss = 0, .bad_gradient = 1});
      CHECK(first.skipped == 2);
    }
  }
}

TEST_CASE("parameters of one group with different ages", "[captured_step_test][device_only]") {
  if (!device_records()) return;
  for (const MakeOptimizer& make : {adam({.lr = 0.05}), sgd({.lr = 0.05, .momentum = 0.9})}) {
    Setup setup{.make = make};
    setup.change = [](Problem& problem, TrainerParts&) { make_older(problem); };
    check_same(setup);
  }
}

TEST_CASE("a constraint and a validation beside a graph", "[captured_step_test][device_only]") {
  if (!device_records()) return;
  Setup setup{.clip_norm = 0.5, .ema_decay = 0.9, .bad_loss = 5};
  setup.change = [](Problem& problem, TrainerParts& parts) {
    parts.after_update = [&problem] {
      NoGrad off;
      if (max(abs(problem.w1)).item() > 0.5) copy_(problem.w1, problem.w1 * 0.9);
    };
    // With the averages in the weights' place.
    parts.validate = [&problem] {
      NoGrad off;
      return sum(abs(problem.w1)).item();
    };
  };
  check_same(setup);
}

TEST_CASE("a graph resumes where operations stopped, and the other way round",
          "[captured_step_test][device_only]") {
  if (!device_records()) return;
  const auto run = [](const std::string& folder, GraphUse before, GraphUse after) {
    TrainerOptions o;
    o.steps = 12;
    o.log_every = 1;
    o.clip_norm = 0.1;
    o.ema_decay = 0.9;
    o.pause_at = 5;
    o.run_folder = folder;
    o.handle_signals = false;
    o.quiet = true;
    {
      Problem first(adam({.lr = 0.05}));
      o.graph = before;
      CHECK(Trainer(first.parts(), o).run().status == TrainStatus::paused);
    }
    Problem second(adam({.lr = 0.05}));
    o.pause_at = 0;
    o.graph = after;
    Trainer trainer(second.parts(), o);
    CHECK(trainer.resume() == 5);
    CHECK(trainer.run().status == TrainStatus::finished);
    return get(CheckpointStore::list(folder).back()) +
           without_times(read_metrics(folder + "/metrics.jsonl"));
  };
  const Scratch a, b, c, d;
  const std::string plain = run(a.path(), GraphUse::never, GraphUse::never);
  CHECK(run(b.path(), GraphUse::always, GraphUse::always) == plain);
  CHECK(run(c.path(), GraphUse::never, GraphUse::always) == plain);
  CHECK(run(d.path(), GraphUse::always, GraphUse::never) == plain);
}

TEST_CASE("a captured step beside states, rates and averages that change",
          "[captured_step_test][device_only]") {
  if (!device_records()) return;
  for (const bool warm_up : {false, true}) {
    Problem plain(adam({.lr = 0.05})), graph(adam({.lr = 0.05}));
    Ema plain_ema(plain.optimizer->parameters(), 0.8, warm_up);
    Ema graph_ema(graph.optimizer->parameters(), 0.8, warm_up);
    graph.prepare(0);
    StepGraph step({.optimizer = graph.optimizer.get(),
                    .loss = [&] { return graph.loss(); },
                    .clip_norm = 0.3,
                    .ema = &graph_ema});
    NamedTensors saved;
    for (int64_t i = 0; i < 8; ++i) {
      if (i == 3) saved = copies_of(plain.optimizer->state_dict());
      for (Problem* p : {&plain, &graph}) {
        p->prepare(i);
        p->optimizer->set_learning_rate(0.05 / static_cast<double>(1 + i));
        // An older state: the moments and counts of then, with the weights of now.
        if (i == 6) p->optimizer->load_state_dict(saved);
      }
      plain.optimizer->zero_grad();
      const Tensor loss = plain.loss();
      backward(loss, Tensor());
      const double norm = clip_grad_norm(plain.optimizer->parameters(), 0.3);
      plain.optimizer->step();
      plain_ema.update();
      const StepGraph::Result result = step.run();
      CHECK(result.loss == loss.item());
      CHECK(result.norm == norm);
    }
    CHECK(bytes_of(graph.optimizer->parameters()) == bytes_of(plain.optimizer->parameters()));
    CHECK(bytes_of(graph.optimizer->state_dict()) == bytes_of(plain.optimizer->state_dict()));
    CHECK(bytes_of(graph_ema.state_dict()) == bytes_of(plain_ema.state_dict()));
    // No gradient: no update, no age, and a part in the averages.
    CHECK(entry(graph.optimizer->state_dict(), "unused.step").to_vector<int64_t>().front() == 0);
  }
}

TEST_CASE("what a captured step writes has a new version, and a refused one writes nothing",
          "[captured_step_test][device_only]") {
  if (!device_records()) return;
  Problem problem(adam({.lr = 0.05}));
  Ema ema(problem.optimizer->parameters(), 0.9);
  problem.prepare(0);
  StepGraph step(
      {.optimizer = problem.optimizer.get(), .loss = [&] { return problem.loss(); }, .ema = &ema});
  const Tensor moment = entry(problem.optimizer->state_dict(), "w1.exp_avg");
  const Tensor average = entry(ema.state_dict(), "averages.w1");
  const auto versions = [&] {
    return std::vector<uint64_t>{problem.w1.storage().version(), moment.storage().version(),
                                 average.storage().version(), problem.unused.storage().version()};
  };
  const auto before = versions();
  step.run();
  const auto after = versions();
  for (size_t i = 0; i < 3; ++i) CHECK(after[i] == before[i] + 1);
  CHECK(after[3] == before[3]);
  problem.bad_loss = 1;
  problem.prepare(1);
  CHECK_FALSE(std::isfinite(step.run().loss));
  CHECK(versions() == after);
  CHECK(problem.optimizer->steps_done() == 1);
  // The gradients are there to be looked at: those before clipping.
  CHECK(problem.w1.grad().defined());
  CHECK_FALSE(problem.unused.grad().defined());
}

TEST_CASE("a captured step whose surroundings have changed", "[captured_step_test][device_only]") {
  if (!device_records()) return;
  Problem problem(adam({.lr = 0.05}));
  Ema ema(problem.optimizer->parameters(), 0.9);
  problem.prepare(0);
  StepGraph step(
      {.optimizer = problem.optimizer.get(), .loss = [&] { return problem.loss(); }, .ema = &ema});
  step.run();
  ema.swap();
  CHECK_THAT(error_of<ValueError>([&] { step.run(); }), Contains("exchanged"));
  ema.swap();
  make_older(problem);
  const std::string weights = bytes_of(problem.optimizer->parameters());
  CHECK_THAT(error_of<DeviceError>([&] { step.run(); }),
             Contains("\"w2\" has 3 updates") && Contains("capture it again"));
  CHECK(bytes_of(problem.optimizer->parameters()) == weights);
}
