// A training that was stopped and resumed ends with the same bits as one that was not.

#include <csignal>
#include <stdexcept>

#include "flowgrad/kernels/parallel.h"
#include "optim/training.h"

using namespace optim_test;
using io_test::Contains;
using io_test::error_of;
using io_test::get;
using io_test::put;

namespace {

constexpr int64_t kSteps = 24;

TrainerOptions options(const std::string& folder, Capture* capture) {
  TrainerOptions o;
  o.steps = kSteps;
  // No interval divides another: what is unfinished at a checkpoint must be in it.
  o.log_every = 3;
  o.validate_every = 5;
  o.checkpoint_every = 7;
  o.ema_decay = 0.95;
  o.clip_norm = 1;
  o.run_folder = folder;
  o.config = "{\"width\": 160}";
  o.progress = capture;
  return o;
}

TrainerParts parts(Regression& r) {
  TrainerParts p = r.parts();
  p.schedule = cosine_schedule(1e-2, kSteps);
  return p;
}

/// All that a training leaves: the bytes of its last checkpoint (weights, optimiser, averages,
/// generator, sampler, counters) and its log.
std::string traces(const std::string& folder) {
  const std::vector<std::string> files = CheckpointStore::list(folder);
  REQUIRE_FALSE(files.empty());
  return files.back().substr(files.back().rfind('/')) + get(files.back()) +
         without_times(read_metrics(folder + "/metrics.jsonl"));
}

std::string uninterrupted(const std::string& folder, int64_t accumulate) {
  Regression r;
  Capture capture;
  TrainerOptions o = options(folder, &capture);
  o.accumulate = accumulate;
  CHECK(Trainer(parts(r), o).run().status == TrainStatus::finished);
  return traces(folder);
}

class Threads {
 public:
  explicit Threads(int n) : before_(kernels::num_threads()) { kernels::set_num_threads(n); }
  ~Threads() { kernels::set_num_threads(before_); }
  void set(int n) { kernels::set_num_threads(n); }

 private:
  int before_;
};

}  // namespace

TEST_CASE("pausing and resuming changes no bit", "[resume_test][device]") {
  const Scratch scratch;
  Threads threads(1);
  const std::string expected = uninterrupted(scratch / "whole", 1);
  for (const int before : {1, 3}) {
    for (const int after : {1, 3}) {
      for (const int64_t pause : {1, 5, 9, 13, 23}) {
        INFO("pause after " << pause << ", threads " << before << " then " << after);
        const std::string folder =
            scratch / std::to_string(pause) + std::to_string(before) + std::to_string(after);
        Capture capture;
        TrainerOptions o = options(folder, &capture);
        {
          threads.set(before);
          Regression r;
          o.pause_at = pause;
          const TrainResult result = Trainer(parts(r), o).run();
          CHECK(result.status == TrainStatus::paused);
          CHECK(result.steps_done == pause);
        }
        threads.set(after);
        // Another start: everything must come from the file.
        Regression r(160, 99);
        r.x = Regression().x;
        r.y = Regression().y;
        r.sampler = Regression().sampler;
        o.pause_at = 0;
        Trainer trainer(parts(r), o);
        CHECK(trainer.resume() == pause);
        CHECK(trainer.run().status == TrainStatus::finished);
        CHECK((traces(folder) == expected));
        CHECK(capture.messages.empty());
        CHECK(without_times(trainer.history()) ==
              without_times(read_metrics(folder + "/metrics.jsonl")));
      }
    }
  }
}

TEST_CASE("a crash loses the steps since the checkpoint and nothing else",
          "[resume_test][device]") {
  const Scratch scratch;
  const std::string expected = uninterrupted(scratch / "whole", 2);
  const std::string folder = scratch / "crashed";
  Capture capture;
  TrainerOptions o = options(folder, &capture);
  o.accumulate = 2;
  // In the second micro-batch of a step, several times, once before the first checkpoint.
  int64_t saved = 0;
  for (const int64_t crash : {4, 9, 17, 22}) {
    Regression r;
    TrainerParts p = parts(r);
    p.loss = [&](int64_t step, int64_t micro) {
      if (step == crash && micro == 1) throw std::runtime_error("crash");
      return r.loss();
    };
    Trainer trainer(p, o);
    CHECK(trainer.resume() == saved);
    CHECK_THROWS_AS(trainer.run(), std::runtime_error);
    saved = crash / 7 * 7;
  }
  Regression r;
  Trainer trainer(parts(r), o);
  CHECK(trainer.resume() == 21);
  trainer.run();
  CHECK((traces(folder) == expected));
}

TEST_CASE("a resumed training goes on with the best weights of its checkpoint",
          "[resume_test][device]") {
  const Scratch scratch;
  const std::string folder = scratch / "run", file = folder + "/best.safetensors";
  Capture capture;
  TrainerOptions o = options(folder, &capture);
  o.keep_best = true;
  double value = 0;  // every validation is the best one so far
  const auto better = [&](Regression& r) {
    TrainerParts p = parts(r);
    p.validate = [&] { return value -= 1; };
    return p;
  };
  const auto run = [&](int64_t pause, bool resume) {
    o.pause_at = pause;
    Regression r;
    Trainer trainer(better(r), o);
    if (resume) trainer.resume();
    return trainer.run();
  };
  CHECK(run(7, false).best_step == 5);
  const std::string of_step_5 = get(file);
  {
    // Killed behind the validation of step 10.
    o.pause_at = 0;
    Regression r;
    TrainerParts p = better(r);
    p.after_step = [](int64_t done) {
      if (done == 11) throw std::runtime_error("crash");
    };
    Trainer trainer(p, o);
    CHECK(trainer.resume() == 7);
    CHECK_THROWS_AS(trainer.run(), std::runtime_error);
    REQUIRE((get(file) != of_step_5));
  }
  CHECK(run(8, true).best_step == 5);
  CHECK((get(file) == of_step_5));
  CHECK(run(10, true).best_step == 10);
  CHECK((get(file) != of_step_5));
  // A training that keeps none leaves none.
  o.keep_best = false;
  run(11, true);
  CHECK_FALSE(std::filesystem::exists(file));
}

TEST_CASE("a signal in the middle of accumulation takes effect after the step",
          "[resume_test][device]") {
  const Scratch scratch;
  const std::string expected = uninterrupted(scratch / "whole", 3);
  const std::string folder = scratch / "interrupted";
  Capture capture;
  TrainerOptions o = options(folder, &capture);
  o.accumulate = 3;
  for (const int64_t at : {0, 12, 13}) {
    Regression r;
    TrainerParts p = parts(r);
    p.loss = [&](int64_t step, int64_t micro) {
      if (step == at && micro == 1) std::raise(SIGTERM);
      return r.loss();
    };
    Trainer trainer(p, o);
    trainer.resume();
    const TrainResult result = trainer.run();
    CHECK(result.status == TrainStatus::interrupted);
    CHECK(result.signal == SIGTERM);
    CHECK(result.steps_done == at + 1);
    CHECK(load_checkpoint(result.checkpoint).step == at + 1);
  }
  Regression r;
  Trainer trainer(parts(r), o);
  CHECK(trainer.resume() == 14);
  trainer.run();
  CHECK((traces(folder) == expected));
}

TEST_CASE("a damaged newest checkpoint costs one generation and a warning",
          "[resume_test][device]") {
  const Scratch scratch;
  const std::string expected = uninterrupted(scratch / "whole", 1);
  const std::string folder = scratch / "whole";
  const std::vector<std::string> files = CheckpointStore::list(folder);
  REQUIRE(files.size() == 2);
  std::string bytes = get(files[1]);
  bytes[bytes.size() - 1000] ^= 1;
  put(files[1], bytes);
  Capture capture;
  Regression r;
  Trainer trainer(parts(r), options(folder, &capture));
  CHECK(trainer.resume() == 21);
  REQUIRE(capture.messages.size() == 1);
  CHECK_THAT(capture.messages[0], Contains(files[1]));
  CHECK_THAT(capture.messages[0], Contains("the checkpoint before it is used"));
  trainer.run();
  CHECK((traces(folder) == expected));
  put(files[0], "x");
  put(files[1], "y");
  Trainer lost(parts(r), options(folder, &capture));
  CHECK_THAT(error_of([&] { lost.resume(); }), Contains("none of 2 files can be used"));
}

TEST_CASE("a resume that does not fit is refused and changes nothing", "[resume_test][device]") {
  const Scratch scratch;
  const std::string folder = scratch / "run";
  uninterrupted(folder, 1);
  Capture capture;
  using P = TrainerParts;
  using O = TrainerOptions;
  const auto refusal = [&](const std::function<void(P&, O&, Regression&)>& change) {
    Regression r;
    TrainerParts p = parts(r);
    TrainerOptions o = options(folder, &capture);
    change(p, o, r);
    const auto all = [&] {
      return bytes_of(p.model) + bytes_of(p.optimizer->state_dict()) +
             std::to_string(r.generator.stream()) + std::to_string(r.sampler.state().position);
    };
    const std::string before = all();
    Trainer trainer(p, o);
    const std::string message = error_of([&] { trainer.resume(); });
    CHECK((all() == before));
    CHECK(trainer.steps_done() == 0);
    return message;
  };
  CHECK_THAT(refusal([](P&, O& o, Regression&) { o.config = "{\"width\": 16}"; }),
             Contains("another configuration: the checkpoint has \"{\"width\": 160}\", this run"));
  CHECK_THAT(refusal([](P& p, O&, Regression&) { p.model.pop_back(); }),
             Contains("\"model.buffer\" is not known here"));
  CHECK_THAT(refusal([](P& p, O&, Regression&) {
               p.model[1].second = zeros({4}, DType::float32, test_device());
             }),
             Contains("\"model.b1\" is (160,) float32; (4,) float32 is needed"));
  CHECK_THAT(refusal([](P&, O& o, Regression&) { o.ema_decay = 0; }),
             Contains("\"ema.averages.b1\" is not known here"));
  CHECK_THAT(refusal([](P& p, O&, Regression&) { p.states.clear(); }),
             Contains("\"state.sampler.values\" is not known here"));
  CHECK_THAT(refusal([](P& p, O&, Regression&) { p.states[0].name = "other"; }),
             Contains("\"state.other.values\" is missing"));
  CHECK_THAT(refusal([](P&, O&, Regression& r) { r.sampler = EpochSampler(60, 7, 3); }),
             Contains("state \"sampler\": EpochSampler: state is"));
  // A state that was loaded before another one refused gets back what it had.
  int64_t counted = 41;
  const auto counter = integer_state(
      "counter", [&] { return std::vector<int64_t>{counted}; },
      [&](const std::vector<int64_t>& v) { counted = v.at(0); });
  const std::string two = scratch / "two";
  for (const bool first : {true, false}) {
    Regression r;
    TrainerParts p = parts(r);
    p.states.insert(p.states.begin(), counter);
    TrainerOptions o = options(two, &capture);
    if (!first) {
      counted = 1;
      r.sampler = EpochSampler(60, 7, 3);
    }
    Trainer trainer(p, o);
    if (first)
      trainer.run();
    else
      CHECK_THAT(error_of([&] { trainer.resume(); }), Contains("state \"sampler\""));
  }
  CHECK(counted == 1);
  Sgd sgd({{{{"w", zeros({1}).requires_grad_()}}}});
  CHECK_THAT(refusal([&](P& p, O&, Regression&) { p.optimizer = &sgd; }), Contains("is missing"));
}

TEST_CASE("resuming where there is nothing, or everything is done", "[resume_test][device]") {
  const Scratch scratch;
  Capture capture;
  Regression r;
  TrainerOptions o = options(scratch / "run", &capture);
  Trainer fresh(parts(r), o);
  CHECK(fresh.resume() == 0);
  fresh.run();
  const std::string expected = traces(o.run_folder);
  Regression again;
  Trainer done(parts(again), o);
  CHECK(done.resume() == kSteps);
  const TrainResult result = done.run();
  CHECK(result.status == TrainStatus::finished);
  CHECK(result.steps_done == kSteps);
  CHECK_THAT(result.checkpoint, Contains("step-00000024"));
  CHECK((traces(o.run_folder) == expected));
  o.run_folder.clear();
  Trainer nowhere(parts(again), o);
  CHECK_THAT(error_of<ValueError>([&] { nowhere.resume(); }), Contains("without a run folder"));
}
