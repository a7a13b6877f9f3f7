#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/optim/checkpoint.h"
#include "flowgrad/optim/ema.h"
#include "flowgrad/optim/metrics.h"
#include "flowgrad/optim/optimizer.h"
#include "flowgrad/optim/progress.h"
#include "flowgrad/optim/schedule.h"
#include "flowgrad/optim/step_graph.h"

namespace flowgrad {

/// Scalar loss of micro-batch `micro` (0 to accumulate - 1) of step `step` (the first is 0).
using LossFunction = std::function<Tensor(int64_t step, int64_t micro)>;

/// State beside the model that an exact resume needs: a sampler's position, say.
struct StateProvider {
  std::string name;
  std::function<NamedTensors()> save;
  std::function<void(const NamedTensors&)> load;
};
/// A provider of a few integers: `set` gets what `get` returned.
StateProvider integer_state(std::string name, std::function<std::vector<int64_t>()> get,
                            std::function<void(const std::vector<int64_t>&)> set);

/// What a validation came to: a number to be made small, and what else it measured, for the
/// metrics.
struct Validation {
  Validation(double number, Measures others = {}) : value(number), measures(std::move(others)) {}
  double value;
  Measures measures;
};

/// What is trained. The trainer borrows: everything must outlive it.
struct TrainerParts {
  /// All tensors of the model that a checkpoint holds (Module::state_dict()).
  NamedTensors model;
  /// Owns the list of what is trained.
  Optimizer* optimizer = nullptr;
  LossFunction loss;
  /// Called before every loss, to fetch what it reads; may be empty. For TrainerOptions::graph.
  std::function<void(int64_t step, int64_t micro)> prepare;
  /// Learning rate by step; empty keeps the optimiser's own.
  Schedule schedule;
  /// Where the loss draws its random numbers from; may be absent.
  Generator* generator = nullptr;
  /// Further generators that the loss draws from, for TrainerOptions::graph. No checkpoint holds
  /// them: `prepare` sets them for each step where the results must survive a resume.
  std::vector<Generator*> more_generators = {};
  /// Computed with the averaged weights when there are any; may be empty. It must leave the model
  /// and the generator as they were. NaN after a signal was cut short: it counts for nothing, and a
  /// resumed training begins with it.
  std::function<Validation()> validate;
  std::vector<StateProvider> states;
  /// Called after every update of the weights, before their averages: a constraint on them, say;
  /// may be empty.
  std::function<void()> after_update;
  /// Called after every step with the number of steps done; may be empty.
  std::function<void(int64_t steps_done)> after_step;
};

/// What happens to a step whose loss or gradient is not finite.
enum class NanPolicy {
  skip,  ///< it changes no weight and is counted; `nan_limit` of them in a row end the training
  stop,  ///< the first one ends the training
};

/// Whether a step (loss, gradients, norm, clipping, update, averages) runs on a device as one graph
/// (StepGraph), captured at the second step of a call. The results have the same bits.
///
/// The loss is then called only once more, so `prepare` must put whatever changes from step to step
/// where the loss reads it (keep_in_place), and all draws must come from the generators of the
/// parts. A loss that copies from the host, reads a value of the device or branches on one cannot
/// be captured; numbers of the host that it reads, such as the step's, stay what they were. Those
/// of the update, such as the rate, do not: the device gets them before each run. An index out of
/// range raises ValueError, and the step changes nothing. `after_update` and the averages after it
/// stay outside of the graph.
enum class GraphUse {
  never,
  always,          ///< DeviceError for a loss that cannot be captured
  where_possible,  ///< a warning for one, and no graph
};

struct TrainerOptions {
  /// Steps in all, those before a resume included.
  int64_t steps = 1000;
  /// Micro-batches per step; the gradient is that of the mean of their losses.
  int64_t accumulate = 1;
  /// Largest norm of all gradients together in an update; 0: no clipping. The stored gradients
  /// stay as they are.
  double clip_norm = 0;
  /// Decay of the averaged weights; 0: none are kept.
  double ema_decay = 0;
  /// Steps between two lines of metrics; the last step always has one.
  int64_t log_every = 10;
  /// Steps between two validations; 0: only after the last step.
  int64_t validate_every = 0;
  /// Validations in a row without a new best that end the training; 0: never.
  int64_t patience = 0;
  /// Write <run_folder>/best.safetensors, the model alone, at every new best validation; the
  /// checkpoints hold it too, and a resumed training goes on with that of its checkpoint.
  bool keep_best = false;
  /// Steps between two checkpoints; 0: only after the last step and on a signal.
  int64_t checkpoint_every = 0;
  /// Pause after this many steps in all, saving as a signal would; 0: never.
  int64_t pause_at = 0;
  /// Holds metrics.jsonl and checkpoints/; made when absent. Empty: nothing is written.
  std::string run_folder;
  /// Start anew in a folder that holds checkpoints: they and the metrics are removed.
  bool overwrite = false;
  /// Kept in the checkpoint; resuming with another one is refused.
  std::string config;
  NanPolicy nan_policy = NanPolicy::skip;
  int64_t nan_limit = 10;
  /// Run every step under this check, so that the operation with the first bad value is named. A
  /// GradError then counts as a non-finite step.
  AnomalyCheck anomaly = AnomalyCheck::off;
  /// One micro-batch a step and no anomaly check are accepted beside it.
  GraphUse graph = GraphUse::never;
  /// SIGINT and SIGTERM end the training after the step, with a checkpoint; SIGPIPE is ignored.
  bool handle_signals = true;
  /// No progress line; warnings still appear.
  bool quiet = false;
  /// Where progress goes; nullptr: stderr.
  ProgressSink* progress = nullptr;
};

enum class TrainStatus {
  finished,       ///< all steps done
  early_stopped,  ///< `patience` ran out, now or before the checkpoint
  paused,         ///< `pause_at` reached
  interrupted,    ///< a signal came; saved
  diverged,       ///< non-finite losses or gradients; the last good checkpoint is kept
};

struct TrainResult {
  TrainStatus status = TrainStatus::finished;
  int64_t steps_done = 0;
  /// Steps whose loss or gradient was not finite.
  int64_t skipped = 0;
  /// Mean over the last log interval; NaN when no step counted.
  double loss = 0;
  /// Lowest validation and its step; NaN and 0 when there was none.
  double best_validation = 0;
  int64_t best_step = 0;
  /// SIGINT or SIGTERM after `interrupted`, else 0: the exit code is 128 + signal.
  int signal = 0;
  /// Time of the training, calls before this one and before a checkpoint included.
  double seconds = 0;
  /// Its processor time, validations left out.
  double processor_seconds = 0;
  /// The newest checkpoint, empty when there is none.
  std::string checkpoint;
  /// Why it diverged, naming the step and what was not finite.
  std::string reason;
};

/// Runs an optimiser over a loss; knows no model. Same parts, options and seed give the same bits,
/// also across a resume. Checkpoints hold whole steps only: a signal that comes in the middle of
/// gradient accumulation takes effect after the step.
class Trainer {
 public:
  /// Raises ValueError for a missing optimiser or loss, or an option out of range.
  Trainer(TrainerParts parts, TrainerOptions options);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Loads the newest checkpoint of the run folder that is undamaged: weights, optimiser, averages,
  /// generator, provided states, counters. Returns its step, or 0 when the folder has none. Raises
  /// IoError when all are damaged, or the config or a name or shape differs; then nothing has
  /// changed.
  int64_t resume();

  /// Trains up to options.steps. Raises IoError for a run folder with checkpoints (unless resumed
  /// or overwritten) or one that cannot be written, and whatever the loss raises; ShapeError for a
  /// loss that is not a scalar.
  TrainResult run();

  /// The averaged weights; nullptr without ema_decay. EmaScope(trainer.ema()) samples with them.
  Ema* ema() { return ema_.get(); }
  int64_t steps_done() const { return counters_.step; }
  /// Metrics so far, those before a resume included when there is a run folder.
  const std::vector<MetricsRow>& history() const { return history_; }

 private:
  struct Outcome;
  class Pace;
  Outcome train_step();
  Outcome compute_step();
  Outcome accumulate_gradients();
  StepGraph* step_graph();
  void refuse_step(const std::string& problem, TrainResult* result);
  std::string non_finite_parameter() const;
  bool weights_are_finite() const;
  Validation validate();
  bool cut_short(const Validation& validation) const;
  bool owes_validation() const;
  bool is_better(double validation);
  void log_row(const Validation& validation, double seconds);
  void prepare_run_folder();
  void write_best() const;
  NamedTensors all_state() const;
  bool save(TrainResult* result);
  void warn(const std::string& text);

  /// Everything that counts; a checkpoint holds it as it is here.
  struct Counters {
    int64_t step = 0;
    int64_t skipped = 0;
    int64_t skipped_in_a_row = 0;
    int64_t best_step = 0;
    int64_t stale_validations = 0;
    int64_t window_steps = 0;
    double window_loss = 0;
    double window_norm = 0;
    double best_validation = 0;
  };
  TrainerParts parts_;
  TrainerOptions options_;
  std::unique_ptr<Ema> ema_;
  std::unique_ptr<StepGraph> graph_;
  bool warmed_up_ = false;
  std::unique_ptr<ProgressSink> own_progress_;
  ProgressSink* progress_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<CheckpointStore> store_;
  std::vector<MetricsRow> history_;
  Counters counters_;
  /// The model at its best validation, on the host; for keep_best.
  NamedTensors best_;
  std::string newest_checkpoint_;
  double earlier_seconds_ = 0;
  /// Of the parts before this call, and of this one so far; validations left out.
  double earlier_processor_seconds_ = 0;
  double processor_seconds_ = 0;
  bool resumed_ = false;
};

}  // namespace flowgrad
