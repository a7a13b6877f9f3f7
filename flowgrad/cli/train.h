#pragma once

#include <string>
#include <utility>
#include <vector>

#include "flowgrad/cli/common.h"
#include "flowgrad/cli/data.h"
#include "flowgrad/models/flow_trainer.h"
#include "flowgrad/plot/report.h"

/// The parts of `flowgrad train`.
namespace flowgrad::cli {

constexpr int64_t kMostSteps = 1000000000;

struct TrainArguments {
  CommonOptions common;
  ModelOptions model;
  std::string preset;  // its options are in place by now
  std::string data, data_folder, condition;
  std::string teacher;
  int64_t pairs = 65536;
  int64_t steps = 2000;
  int64_t batch_size = 256;
  double learning_rate = 1e-3;
  std::string schedule = "cosine";
  int64_t warm_up = 0;
  double weight_decay = 0;
  double clip = 1;
  double spectral_norm = 0;
  double ema = 0;
  double condition_dropout = 0;
  int64_t accumulate = 1;
  std::string graph = "off";
  int64_t patience = 0;
  bool keep_best = false;
  std::string run;
  bool resume = false;
  bool overwrite = false;
  int64_t checkpoint_every = 0;
  int64_t validate_every = 0;
  int64_t log_every = 0;
  int64_t pause_at = 0;
};

/// The options of any training: steps, optimiser, averages, run folder.
void add_training(Command& command, TrainArguments& arguments);
FlowTrainerOptions trainer_options(const TrainArguments& a);
/// Tells how a paused training goes on; raises Error for one that diverged or took no step.
void check_result(const TrainArguments& a, const TrainResult& result, const Command& command);
/// Tells how to continue, and raises ExitCode.
[[noreturn]] void end_interrupted(const TrainArguments& a, const Command& command,
                                  int64_t steps_done, int signal);
/// "finished", "paused" or "early_stopped".
const char* status_name(TrainStatus status);

/// The data themselves, or with --teacher as many pairs of noise and the teacher's samples under
/// their conditions. Raises UsageError for a model that learns from no pairs, or a teacher that
/// makes none of these rows. What is held out are pairs as well.
std::unique_ptr<TrainingData> with_teacher(std::unique_ptr<TrainingData> data,
                                           const TrainArguments& arguments,
                                           const std::string& model);

/// What a resumed run must share with the first one; steps, rates and intervals may change.
/// `start` holds the weights that it began with, empty for fresh ones.
std::string resume_config(const TrainArguments& a, const std::string& start, const Model& model);
void make_run_folder(const std::string& run);
/// <run>/config.json: the model where the command has that option, its keys, the other options.
void write_config(const std::string& run, const Command& command, const std::string& model,
                  const Config& config);
/// Removes what an earlier run left in the folder as its results; a new one must not be taken for
/// it. Of the best weights the trainer takes care.
void forget_results(const TrainArguments& a);
/// Refuses a folder that holds a run already, or none to resume.
void check_run_folder(const TrainArguments& a);
/// Names the option that keeps a run from being continued; the trainer would only refuse.
void check_resume(const TrainArguments& a, const std::string& config);

/// Mean loss of rows the training never sees. `log_likelihood` and its standard error are NaN for
/// models that are no densities.
struct HeldOutResult {
  double loss = 0;
  double log_likelihood = 0;
  double standard_error = 0;  ///< NaN as well where there is one row
  int64_t rows = 0;

  /// The standard error for people, "-" where there is none.
  std::string error_text() const;
};
/// Draws are the same at every call, so that two calls differ by the weights alone.
/// `between` is called before each part of the rows.
HeldOutResult measure(Model& model, const QuantityInputs& rows, uint64_t seed,
                      void (*between)() = nullptr);

/// What report.html tells.
struct TrainReport {
  std::string model;
  std::string data_name;
  std::string data;  // in words
  std::string run;
  int64_t parameters = 0;
  uint64_t seed = 0;
  double floor = 0;  // NaN: none
  std::vector<std::pair<std::string, std::string>> settings;
  TrainResult result;
  bool best_kept = false;  // the weights are those of the best validation
  HeldOutResult held_out;
  std::vector<MetricsRow> history;
  Tensor real;     // rows of the data, to look at
  Tensor samples;  // as many of the model
  std::vector<plot::Figure> pictures;
};
/// Density, field with paths, and sample quality of an unconditional model of the plane; what it
/// lacks is left out.
std::vector<plot::Figure> model_pictures(Model& model, const Tensor& real, uint64_t seed);
/// Writes <run>/report.html.
void write_report(const TrainReport& report);

}  // namespace flowgrad::cli
