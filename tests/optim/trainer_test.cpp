#include <cmath>
#include <ctime>
#include <limits>

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"
#include "optim/training.h"

using namespace optim_test;
using io_test::Contains;
using io_test::error_of;
using io_test::get;
using io_test::put;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Quiet, and silent unless a test looks.
TrainerOptions options(Capture* capture, int64_t steps) {
  TrainerOptions o;
  o.steps = steps;
  o.progress = capture;
  return o;
}

Tensor scaled(const Tensor& loss, double factor) { return loss * factor; }

}  // namespace

TEST_CASE("a training lowers the loss and tells how it goes", "[trainer_test][device]") {
  Regression r(32);
  Capture capture;
  TrainerOptions o = options(&capture, 300);
  o.log_every = 40;
  o.validate_every = 100;
  const double before = r.validation();
  Trainer trainer(r.parts(), o);
  const TrainResult result = trainer.run();
  CHECK(result.status == TrainStatus::finished);
  CHECK(result.steps_done == 300);
  CHECK(result.skipped == 0);
  CHECK(result.signal == 0);
  CHECK(result.seconds > 0);
  CHECK(result.checkpoint.empty());
  CHECK(result.best_validation < 0.05 * before);
  CHECK(result.best_step % 100 == 0);
  CHECK(capture.updates.size() == 300);
  CHECK(capture.finished == 1);
  CHECK(capture.messages.empty());
  CHECK(capture.updates.back().step == 300);
  CHECK(capture.updates.back().steps == 300);
  CHECK(capture.updates.back().steps_per_second > 0);
  // Every 40 steps, where something was validated, and at the end.
  std::vector<int64_t> steps;
  for (const MetricsRow& row : trainer.history()) {
    steps.push_back(row.step);
    CHECK(std::isnan(row.validation) == (row.step % 100 != 0));
  }
  CHECK(steps == std::vector<int64_t>{40, 80, 100, 120, 160, 200, 240, 280, 300});
  CHECK(result.loss == trainer.history().back().loss);
}

TEST_CASE("a row holds means over its steps, the rate and the norm", "[trainer_test]") {
  const Tensor w = tensor({0, 0}, DType::float64).requires_grad_();
  Sgd sgd({{{{"w", w}}}}, {.lr = 1});
  Capture capture;
  TrainerOptions o = options(&capture, 4);
  o.log_every = 2;
  TrainerParts p;
  p.optimizer = &sgd;
  p.schedule = [](int64_t step) { return step == 3 ? 0.5 : 0.25; };
  // Value 10 + step, gradient (3, 4) times step + 1.
  p.loss = [&](int64_t step, int64_t) {
    const Tensor slope = tensor({3, 4}, DType::float64) * static_cast<double>(step + 1);
    return sum((w - w.detach()) * slope) + static_cast<double>(10 + step);
  };
  Trainer trainer(p, o);
  trainer.run();
  REQUIRE(trainer.history().size() == 2);
  CHECK(trainer.history()[0].loss == 10.5);
  CHECK(trainer.history()[1].loss == 12.5);
  CHECK(trainer.history()[0].gradient_norm == Catch::Approx(7.5));
  CHECK(trainer.history()[1].gradient_norm == Catch::Approx(17.5));
  CHECK(trainer.history()[0].learning_rate == 0.25);
  CHECK(trainer.history()[1].learning_rate == 0.5);
  CHECK(w.at({0}) == Catch::Approx(-3 * (0.25 * (1 + 2 + 3) + 0.5 * 4)));
}

TEST_CASE("accumulated micro-batches equal one big batch", "[trainer_test]") {
  Generator generator(1);
  const Tensor x = randn({24, 3}, generator, DType::float64);
  const Tensor y = randn({24, 1}, generator, DType::float64);
  const auto train = [&](int64_t parts) {
    const Tensor w = zeros({1, 3}, DType::float64).requires_grad_();
    Adam adam({{{{"w", w}}}}, {.lr = 0.1});
    Capture capture;
    TrainerOptions o = options(&capture, 10);
    o.accumulate = parts;
    o.clip_norm = 0.5;
    o.log_every = 1;
    std::vector<int64_t> seen;
    TrainerParts p;
    p.optimizer = &adam;
    p.loss = [&](int64_t, int64_t micro) {
      seen.push_back(micro);
      const int64_t n = 24 / parts;
      return mse_loss(linear(slice(x, 0, micro * n, (micro + 1) * n), w),
                      slice(y, 0, micro * n, (micro + 1) * n));
    };
    Trainer trainer(p, o);
    trainer.run();
    CHECK(seen.size() == static_cast<size_t>(10 * parts));
    CHECK(seen.back() == parts - 1);
    std::vector<double> out = w.to_vector<double>();
    for (const MetricsRow& row : trainer.history()) out.push_back(row.loss);
    return out;
  };
  const std::vector<double> whole = train(1);
  for (const int64_t parts : {2, 3, 8}) {
    const std::vector<double> split = train(parts);
    for (size_t i = 0; i < whole.size(); ++i) CHECK(std::abs(split[i] - whole[i]) < 1e-12);
  }
}

TEST_CASE("clipping holds the step back", "[trainer_test]") {
  const Tensor w = tensor({0, 0}, DType::float64).requires_grad_();
  Sgd sgd({{{{"w", w}}}}, {.lr = 1});
  Capture capture;
  TrainerOptions o = options(&capture, 1);
  o.clip_norm = 0.1;
  TrainerParts p;
  p.optimizer = &sgd;
  p.loss = [&](int64_t, int64_t) { return sum(w * tensor({3, 4}, DType::float64)); };
  Trainer trainer(p, o);
  trainer.run();
  CHECK(std::hypot(w.at({0}), w.at({1})) == Catch::Approx(0.1).epsilon(1e-6));
  CHECK(trainer.history()[0].gradient_norm == Catch::Approx(5));
}

TEST_CASE("a step that is not finite is skipped and counted", "[trainer_test][device]") {
  // Three ways: the loss is NaN, the loss is infinite, only the gradient is.
  const auto poison = GENERATE(0, 1, 2);
  const auto accumulate = GENERATE(int64_t{1}, int64_t{3});
  INFO("poison " << poison << ", accumulate " << accumulate);
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 12);
  o.accumulate = accumulate;
  o.ema_decay = 0.9;
  o.log_every = 1;
  TrainerParts p = r.parts();
  std::string before, after;
  const auto state = [&] { return bytes_of(r.parts().model) + bytes_of(r.optimizer.state_dict()); };
  Ema* ema = nullptr;
  p.loss = [&](int64_t step, int64_t micro) {
    const Tensor loss = r.loss();
    if (step != 5 || micro != accumulate - 1) return loss;
    before = state() + bytes_of(ema->state_dict());
    if (poison == 2) return tap(loss, [](const Tensor& g) { return g * kInfinity; });
    return scaled(loss, poison == 0 ? std::nan("") : kInfinity);
  };
  p.after_step = [&](int64_t done) {
    if (done == 6) after = state() + bytes_of(ema->state_dict());
  };
  Trainer trainer(p, o);
  ema = trainer.ema();
  const TrainResult result = trainer.run();
  CHECK(result.status == TrainStatus::finished);
  CHECK(result.steps_done == 12);
  CHECK(result.skipped == 1);
  CHECK((before == after));
  CHECK(ema->state_dict().at(0).second.item() == 11);
  CHECK(std::isfinite(result.loss));
  REQUIRE(capture.messages.size() == 1);
  CHECK_THAT(capture.messages[0], Contains("step 6: "));
  CHECK_THAT(capture.messages[0],
             Contains(poison == 2 ? "the norm of the gradient is" : "the loss is"));
  if (poison == 2) CHECK_THAT(capture.messages[0], Contains("first in \"w1\""));
  CHECK_THAT(capture.messages[0], Contains("skipped (1 so far)"));
  CHECK(trainer.history()[4].skipped == 0);
  CHECK(trainer.history()[5].skipped == 1);
  CHECK(std::isnan(trainer.history()[5].loss));
  CHECK(std::isfinite(trainer.history()[6].loss));
}

TEST_CASE("too many bad steps in a row end the training and keep the last good checkpoint",
          "[trainer_test][device]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 100);
  o.run_folder = scratch / "run";
  o.checkpoint_every = 2;
  o.nan_limit = 4;
  TrainerParts p = r.parts();
  // Three in a row are survived; those from step 20 on are not.
  p.loss = [&](int64_t step, int64_t) {
    const bool bad = (step >= 5 && step < 8) || step >= 20;
    return scaled(r.loss(), bad ? std::nan("") : 1);
  };
  std::string good;
  p.after_step = [&](int64_t done) {
    if (done == 20) good = bytes_of(r.parts().model);
  };
  Trainer trainer(p, o);
  const TrainResult result = trainer.run();
  CHECK(result.status == TrainStatus::diverged);
  CHECK(result.steps_done == 24);
  CHECK(result.skipped == 7);
  CHECK_THAT(result.reason, Contains("step 24: the loss is"));
  CHECK_THAT(result.reason, Contains("4 steps in a row"));
  CHECK_THAT(capture.messages.back(), Contains(result.reason));
  const Checkpoint last = load_checkpoint(result.checkpoint);
  CHECK(last.step == 20);
  const SafetensorsFile file = load_safetensors(result.checkpoint);
  for (const auto& [name, tensor] : r.parts().model) {
    CHECK(io_test::same_bits(*file.find("model." + name), tensor));
  }
  CHECK((good == bytes_of(r.parts().model)));
  // Metrics stay readable, with null where nothing counted.
  const std::vector<MetricsRow> rows = read_metrics(scratch / "run/metrics.jsonl");
  CHECK(rows.back().step == 24);
  CHECK(rows.back().skipped == 7);
}

TEST_CASE("the policy stop ends at the first bad step", "[trainer_test][device]") {
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 100);
  o.nan_policy = NanPolicy::stop;
  TrainerParts p = r.parts();
  p.loss = [&](int64_t step, int64_t) { return scaled(r.loss(), step == 7 ? kInfinity : 1); };
  const TrainResult result = Trainer(p, o).run();
  CHECK(result.status == TrainStatus::diverged);
  CHECK(result.steps_done == 8);
  CHECK_THAT(result.reason, Contains("step 8: the loss is inf"));
}

TEST_CASE("under anomaly mode the operation is named", "[trainer_test][device]") {
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 6);
  o.anomaly = AnomalyCheck::nan;
  TrainerParts p = r.parts();
  p.loss = [&](int64_t step, int64_t) {
    const Tensor loss = r.loss();
    return step == 3 ? log(loss * -1.0) : loss;
  };
  const TrainResult result = Trainer(p, o).run();
  CHECK(result.status == TrainStatus::finished);
  CHECK(result.skipped == 1);
  REQUIRE(capture.messages.size() == 1);
  CHECK_THAT(capture.messages[0], Contains("step 4: "));
  CHECK_THAT(capture.messages[0], Contains("log"));
}

TEST_CASE("weights that are not finite are never saved", "[trainer_test][device]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 50);
  o.run_folder = scratch / "run";
  o.checkpoint_every = 1;
  TrainerParts p = r.parts();
  // The gradient is fine; the step is not.
  p.schedule = [](int64_t step) { return step == 9 ? 1e300 : 1e-3; };
  const TrainResult result = Trainer(p, o).run();
  CHECK(result.status == TrainStatus::diverged);
  CHECK(result.steps_done == 10);
  CHECK_THAT(result.reason, Contains("step 10: a weight is not finite"));
  CHECK(load_checkpoint(result.checkpoint).step == 9);
}

TEST_CASE("validation uses the averaged weights, stops early and keeps the best",
          "[trainer_test][device]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 1000);
  o.run_folder = scratch / "run";
  o.validate_every = 5;
  o.patience = 3;
  o.ema_decay = 0.99;
  o.keep_best = true;
  TrainerParts p = r.parts();
  Ema* ema = nullptr;
  // NaN is not an improvement, and equal is not one either.
  const std::vector<double> values{5, 4, std::nan(""), 4, 3, 3.5, 3, kInfinity, 1};
  size_t at = 0;
  std::string best;
  p.validate = [&] {
    CHECK(ema->swapped());
    if (at == 4) best = bytes_of({{"w2", r.w2}});
    return values.at(at++);
  };
  Trainer trainer(p, o);
  ema = trainer.ema();
  const TrainResult result = trainer.run();
  CHECK(result.status == TrainStatus::early_stopped);
  CHECK(result.steps_done == 40);
  CHECK(result.best_validation == 3);
  CHECK(result.best_step == 25);
  CHECK_FALSE(ema->swapped());
  CHECK(load_checkpoint(result.checkpoint).step == 40);
  const SafetensorsFile kept = load_safetensors(scratch / "run/best.safetensors");
  CHECK(kept.metadata.at("step") == "25");
  CHECK((bytes_of({{"w2", *kept.find("w2")}}) == best));
  CHECK(kept.tensors.size() == 5);
}

TEST_CASE("metrics.jsonl is valid line by line", "[trainer_test][device]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 20);
  o.run_folder = scratch / "a/b";
  o.log_every = 5;
  TrainerParts p = r.parts();
  p.loss = [&](int64_t step, int64_t) {
    return scaled(r.loss(), step >= 5 && step < 10 ? kInfinity : 1);
  };
  Trainer trainer(p, o);
  trainer.run();
  std::istringstream lines(get(scratch / "a/b/metrics.jsonl"));
  std::vector<Json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(parse_json(line));
  REQUIRE(rows.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(rows[i].at("step") == 5 * (i + 1));
    CHECK(rows[i].at("loss").is_null() == (i == 1));
    CHECK(rows[i].at("skipped") == (i == 0 ? 0 : 5));
    CHECK(rows[i].at("validation").is_null() == (i != 3));
    CHECK(rows[i].at("seconds").get<double>() >=
          (i == 0 ? 0 : rows[i - 1].at("seconds").get<double>()));
  }
}

TEST_CASE("what a validation measures stands in its row, and its time counts for nothing",
          "[trainer_test]") {
  const Scratch scratch;
  Regression r(16);
  Capture capture;
  TrainerOptions o = options(&capture, 20);
  o.run_folder = scratch / "run";
  o.log_every = 5;
  o.validate_every = 10;
  TrainerParts p = r.parts();
  double spent = 0;
  p.validate = [&] {
    const std::clock_t begin = std::clock();
    while (std::clock() - begin < CLOCKS_PER_SEC / 5) {
    }
    spent += static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    return Validation(0.5, {{"success", 0.25}});
  };
  const std::clock_t begin = std::clock();
  const TrainResult result = Trainer(p, o).run();
  const double all = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  CHECK(result.processor_seconds <= all - spent + 1e-4);
  const std::vector<MetricsRow> rows = read_metrics(scratch / "run/metrics.jsonl");
  REQUIRE(rows.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(rows[i].measures.size() == i % 2);
    CHECK(rows[i].processor_seconds <= result.processor_seconds);
  }
  CHECK(rows[3].measures.at("success") == 0.25);
  CHECK(rows[3].validation == 0.5);
}

TEST_CASE("a folder with a training is not overwritten unless asked", "[trainer_test][device]") {
  const Scratch scratch;
  Capture capture;
  TrainerOptions o = options(&capture, 4);
  o.run_folder = scratch / "run";
  o.checkpoint_every = 2;
  const auto train = [&] {
    Regression r(16);
    return Trainer(r.parts(), o).run();
  };
  train();
  CHECK(CheckpointStore::list(o.run_folder).size() == 2);
  const std::string metrics = get(scratch / "run/metrics.jsonl");
  CHECK_THAT(error_of(train), Contains("already holds a training"));
  CHECK(get(scratch / "run/metrics.jsonl") == metrics);
  o.overwrite = true;
  o.steps = 3;
  CHECK(load_checkpoint(train().checkpoint).step == 3);
  CHECK(CheckpointStore::list(o.run_folder).size() == 2);
  CHECK(CheckpointStore::newest(o.run_folder)->step == 3);
}

TEST_CASE("a trainer refuses parts and options that make no sense", "[trainer_test][device]") {
  Regression r(16);
  const auto refusal = [&](const std::function<void(TrainerParts&, TrainerOptions&)>& change) {
    TrainerParts p = r.parts();
    TrainerOptions o;
    change(p, o);
    return error_of<ValueError>([&] { Trainer(p, o); });
  };
  using P = TrainerParts;
  using O = TrainerOptions;
  CHECK_THAT(refusal([](P& p, O&) { p.optimizer = nullptr; }), Contains("no optimizer given"));
  CHECK_THAT(refusal([](P& p, O&) { p.loss = {}; }), Contains("no loss given"));
  CHECK_THAT(refusal([](P& p, O&) { p.states[0].load = {}; }),
             Contains("\"sampler\" lacks save or load"));
  CHECK_THAT(refusal([](P& p, O&) { p.states[0].name = "a.b"; }), Contains("a name without dots"));
  CHECK_THAT(refusal([](P&, O& o) { o.steps = 0; }), Contains("steps = 0 given; at least 1"));
  CHECK_THAT(refusal([](P&, O& o) { o.accumulate = 0; }), Contains("accumulate = 0"));
  CHECK_THAT(refusal([](P&, O& o) { o.log_every = 0; }), Contains("log_every = 0"));
  CHECK_THAT(refusal([](P&, O& o) { o.validate_every = -1; }), Contains("validate_every = -1"));
  CHECK_THAT(refusal([](P&, O& o) { o.checkpoint_every = -1; }), Contains("checkpoint_every = -1"));
  CHECK_THAT(refusal([](P&, O& o) { o.pause_at = -1; }), Contains("pause_at = -1"));
  CHECK_THAT(refusal([](P&, O& o) { o.nan_limit = 0; }), Contains("nan_limit = 0"));
  CHECK_THAT(refusal([](P&, O& o) { o.clip_norm = -1; }), Contains("clip_norm = -1"));
  CHECK_THAT(refusal([](P&, O& o) { o.clip_norm = kInfinity; }), Contains("clip_norm = inf"));
  CHECK_THAT(refusal([](P&, O& o) { o.ema_decay = 1; }), Contains("ema_decay = 1"));
  CHECK_THAT(refusal([](P&, O& o) { o.config = "\xff"; }), Contains("config is not UTF-8"));
  CHECK_THAT(refusal([](P& p, O& o) {
               p.validate = {};
               o.patience = 2;
             }),
             Contains("patience without a validation"));
}

TEST_CASE("what the loss does wrong reaches the caller", "[trainer_test][device]") {
  Regression r(16);
  Capture capture;
  TrainerParts p = r.parts();
  p.loss = [&](int64_t, int64_t) { return square(r.predict(r.x)); };
  CHECK_THAT(error_of<ShapeError>([&] { Trainer(p, options(&capture, 3)).run(); }),
             Contains("the loss has shape (60, 1)"));
  p.loss = [&](int64_t, int64_t) { return scalar(1); };
  CHECK_THAT(error_of<GradError>([&] { Trainer(p, options(&capture, 3)).run(); }),
             Contains("backward"));
  p.loss = [&](int64_t, int64_t) -> Tensor { throw ValueError("no data"); };
  CHECK(error_of<ValueError>([&] { Trainer(p, options(&capture, 3)).run(); }) == "no data");
  TrainerOptions o = options(&capture, 3);
  const Scratch scratch;
  put(scratch / "file", "x");
  o.run_folder = scratch / "file/run";
  CHECK_THAT(error_of([&] { Trainer(r.parts(), o).run(); }), Contains(scratch / "file/run"));
}
