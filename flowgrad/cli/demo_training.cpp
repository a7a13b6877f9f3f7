#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/cli/common.h"
#include "flowgrad/cli/demo.h"

namespace flowgrad::cli {

DemoBudget DemoBudget::quick() {
  DemoBudget b;
  b.density_steps = 400;
  b.test_points = 20000;
  b.path_hidden = 64;
  b.path_steps = 300;
  b.classifier_steps = 300;
  b.garment_components = 64;
  b.garment_hidden = 256;
  b.garment_batch = 128;
  b.garment_steps = 800;
  b.garment_rate = 3e-3;
  b.garment_ema = 0.99;
  b.solver_steps = 25;
  b.largest_gap = 0.15;
  b.least_agreement = 0.7;
  b.least_accuracy = 0.8;
  return b;
}

Generator demo_generator(const DemoSettings& settings, DemoStream stream) {
  return Generator(settings.seed, static_cast<uint64_t>(stream) << 32);
}

void run_training(DemoTraining& t, Module& module, Generator& generator, const LossFunction& loss,
                  const std::function<double()>& validate, const DemoSettings& settings) {
  t.parameters = module.parameter_count();
  if (!settings.quiet) fmt::print(stderr, "\n{}\n", t.title);
  Adam optimizer({{.parameters = module.parameters()}}, {.lr = t.learning_rate});
  TrainerParts parts;
  parts.model = module.state_dict();
  parts.optimizer = &optimizer;
  parts.loss = loss;
  const int64_t warm_up = std::max<int64_t>(1, t.steps / 20);
  parts.schedule = warm_up_schedule(warm_up, cosine_schedule(t.learning_rate, t.steps - warm_up));
  parts.generator = &generator;
  parts.validate = validate;
  TrainerOptions options;
  options.steps = t.steps;
  options.clip_norm = 1;
  options.ema_decay = t.ema_decay;
  options.log_every = std::max<int64_t>(1, t.steps / 150);
  options.validate_every = t.validate_every;
  options.quiet = settings.quiet;
  Trainer trainer(std::move(parts), options);
  const TrainResult result = trainer.run();
  if (result.status == TrainStatus::interrupted) {
    if (!settings.quiet)
      fmt::print(stderr, "interrupted after step {} of {}\n", result.steps_done, t.steps);
    throw ExitCode{128 + result.signal};
  }
  if (result.status == TrainStatus::diverged)
    throw Error(fmt::format("demo: {}: {}", t.name, result.reason));
  t.rows = trainer.history();
  t.seconds = result.seconds;
  if (trainer.ema()) trainer.ema()->swap();
}

}  // namespace flowgrad::cli
