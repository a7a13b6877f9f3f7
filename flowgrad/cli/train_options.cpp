#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "flowgrad/cli/train.h"

// What every training on the command line shares: options, and how it may end.
namespace flowgrad::cli {

void add_training(Command& c, TrainArguments& a) {
  constexpr double kMax = std::numeric_limits<double>::max();
  c.group("Training");
  c.integer("--steps", a.steps, "Steps in all, those before --resume included", 1, kMostSteps);
  c.integer("--batch-size", a.batch_size, "Rows a step", 1, 1000000);
  c.real("--learning-rate", a.learning_rate, "Largest learning rate of AdamW", 0, 1000,
         {.open = true});
  c.choice("--schedule", a.schedule, "Course of the learning rate over the steps",
           {"constant", "cosine", "one-cycle"});
  c.integer("--warm-up", a.warm_up, "Steps of a linear rise before the schedule", 0, kMostSteps);
  c.real("--weight-decay", a.weight_decay, "AdamW's decay, of matrices only", 0, 1000);
  c.real("--clip", a.clip, "Largest norm of the gradient; 0 = no clipping", 0, kMax);
  c.real("--ema", a.ema, "Decay of averaged weights, such as 0.999; 0 = none", 0, 1,
         {.open_above = true});
  c.choice(
      "--graph", a.graph,
      "On cuda, a whole step as one CUDA graph, with the same bits: off, on, or auto where the "
      "model allows it",
      {"off", "on", "auto"});
  c.group("Run");
  c.text("--run", a.run, "Folder of the run; empty = one under runs/", "FOLDER");
  c.flag("--resume", a.resume,
         "Continue the run with its own configuration; other options given here win")
      .transient();
  c.flag("--overwrite", a.overwrite, "Start anew in a folder that holds a run").transient();
  c.integer("--checkpoint-every", a.checkpoint_every,
            "Steps between checkpoints; 0 = a tenth of all", 0, kMostSteps);
  c.integer("--log-every", a.log_every, "Steps between rows of metrics.jsonl; 0 = 200 rows in all",
            0, kMostSteps);
  c.integer("--pause-at", a.pause_at, "Save and stop after this many steps; 0 = never", 0,
            kMostSteps)
      .transient();
}

FlowTrainerOptions trainer_options(const TrainArguments& a) {
  if (a.graph == "on" && device_of(a.common).is_cpu()) {
    throw UsageError(
        "--graph: on given for the CPU; off and auto are accepted there, on with --device cuda");
  }
  FlowTrainerOptions options;
  options.learning_rate = a.learning_rate;
  options.schedule = a.schedule == "constant" ? LearningRate::constant
                     : a.schedule == "cosine" ? LearningRate::cosine
                                              : LearningRate::one_cycle;
  options.warm_up = a.warm_up;
  options.weight_decay = a.weight_decay;
  options.spectral_norm = a.spectral_norm;
  options.condition_dropout = a.condition_dropout;
  TrainerOptions& o = options.trainer;
  const int64_t tenth = std::max<int64_t>(a.steps / 10, 1);
  o.steps = a.steps;
  o.accumulate = a.accumulate;
  o.clip_norm = a.clip;
  o.graph = a.graph == "on"     ? GraphUse::always
            : a.graph == "auto" ? GraphUse::where_possible
                                : GraphUse::never;
  o.ema_decay = a.ema;
  o.log_every = a.log_every > 0 ? a.log_every : std::max<int64_t>(a.steps / 200, 1);
  o.validate_every = a.validate_every > 0 ? a.validate_every : tenth;
  o.checkpoint_every = a.checkpoint_every > 0 ? a.checkpoint_every : tenth;
  o.patience = a.patience;
  o.keep_best = a.keep_best;
  o.pause_at = a.pause_at;
  o.run_folder = a.run;
  o.overwrite = a.overwrite;
  o.quiet = a.common.quiet;
  return options;
}

void check_result(const TrainArguments& a, const TrainResult& result, const Command& command) {
  switch (result.status) {
    case TrainStatus::interrupted: end_interrupted(a, command, result.steps_done, result.signal);
    case TrainStatus::diverged: throw Error(fmt::format("training diverged: {}", result.reason));
    case TrainStatus::paused:
      if (!a.common.quiet)
        tell(fmt::format("paused; flowgrad {} --run {} --resume continues", command.name(), a.run));
      break;
    case TrainStatus::early_stopped:
      if (!a.common.quiet) {
        tell(
            fmt::format("stopped after step {}: no better validation in the last {}; a larger "
                        "--patience trains on",
                        result.steps_done, a.patience));
      }
      break;
    case TrainStatus::finished: break;
  }
  if (result.skipped == result.steps_done) {
    throw Error(
        fmt::format("training took no step: the loss or its gradient was not finite in all "
                    "{} of them",
                    result.steps_done));
  }
}

void end_interrupted(const TrainArguments& a, const Command& command, int64_t steps_done,
                     int signal) {
  tell(
      fmt::format("flowgrad: interrupted after step {} of {}; saved. flowgrad {} --run {} "
                  "--resume continues",
                  steps_done, a.steps, command.name(), a.run));
  throw ExitCode{128 + signal};
}

const char* status_name(TrainStatus status) {
  return status == TrainStatus::paused          ? "paused"
         : status == TrainStatus::early_stopped ? "early_stopped"
                                                : "finished";
}

}  // namespace flowgrad::cli
