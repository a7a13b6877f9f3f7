#include "flowgrad/optim/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <limits>
#include <optional>
#include <utility>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/text.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/optim/interrupt.h"
#include "flowgrad/optim/state.h"

namespace flowgrad {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Of all threads of this process.
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void check_option(const char* name, double value, bool ok, const char* accepted) {
  if (ok) return;
  throw ValueError(fmt::format("Trainer: {} = {} given; {} is accepted", name, value, accepted));
}

void check_count(const char* name, int64_t value, int64_t least) {
  if (value >= least) return;
  throw ValueError(
      fmt::format("Trainer: {} = {} given; at least {} is accepted", name, value, least));
}

bool is_due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

}  // namespace

/// What a step came to: the mean loss and norm, and why it did not count (empty: it did).
struct Trainer::Outcome {
  double loss = kNan;
  double norm = kNan;
  std::string problem;
  /// A graph has done the whole step already, or refused it.
  bool updated = false;
};

/// Speed over the last few seconds, and a loss smoothed for the eye.
class Trainer::Pace {
 public:
  explicit Pace(int64_t step) : mark_step_(step) {}
  ProgressState state(const Counters& counters, int64_t steps) {
    const double elapsed = seconds_since(mark_);
    const auto done = static_cast<double>(counters.step - mark_step_);
    if (elapsed > 0) {
      const double now = done / elapsed;
      // The first seconds have nothing else to go by.
      speed_ = marks_ == 0 ? now : speed_;
      if (elapsed > 2 && done >= 1) {
        speed_ = marks_++ == 0 ? now : 0.5 * speed_ + 0.5 * now;
        mark_ = std::chrono::steady_clock::now();
        mark_step_ = counters.step;
      }
    }
    return {counters.step, steps, loss_, speed_};
  }
  void see(double loss) { loss_ = std::isnan(loss_) ? loss : 0.9 * loss_ + 0.1 * loss; }

 private:
  std::chrono::steady_clock::time_point mark_ = std::chrono::steady_clock::now();
  int64_t mark_step_;
  int marks_ = 0;
  double speed_ = 0;
  double loss_ = kNan;
};

StateProvider integer_state(std::string name, std::function<std::vector<int64_t>()> get,
                            std::function<void(const std::vector<int64_t>&)> set) {
  return {std::move(name),
          [get = std::move(get)] {
            return NamedTensors{{"values", integers(get())}};
          },
          [set = std::move(set)](const NamedTensors& state) {
            set(entry(state, "values").to_vector<int64_t>());
          }};
}

Trainer::Trainer(TrainerParts parts, TrainerOptions options)
    : parts_(std::move(parts)), options_(std::move(options)) {
  if (!parts_.optimizer) throw ValueError("Trainer: no optimizer given");
  if (!parts_.loss) throw ValueError("Trainer: no loss given");
  for (const auto& state : parts_.states) {
    if (!state.save || !state.load) {
      throw ValueError(fmt::format("Trainer: state \"{}\" lacks save or load", state.name));
    }
    // A dot would make "state.a." a beginning of "state.a.b.".
    if (state.name.empty() || state.name.find('.') != std::string::npos) {
      throw ValueError(
          fmt::format("Trainer: state \"{}\" given; a name without dots is accepted", state.name));
    }
  }
  check_count("steps", options_.steps, 1);
  check_count("accumulate", options_.accumulate, 1);
  check_count("log_every", options_.log_every, 1);
  check_count("validate_every", options_.validate_every, 0);
  check_count("patience", options_.patience, 0);
  check_count("checkpoint_every", options_.checkpoint_every, 0);
  check_count("pause_at", options_.pause_at, 0);
  check_count("nan_limit", options_.nan_limit, 1);
  check_option("clip_norm", options_.clip_norm,
               options_.clip_norm >= 0 && std::isfinite(options_.clip_norm),
               "a finite number of 0 or more");
  check_option("ema_decay", options_.ema_decay, options_.ema_decay >= 0 && options_.ema_decay < 1,
               "0 up to, not including, 1");
  if (options_.graph != GraphUse::never &&
      (options_.accumulate != 1 || options_.anomaly != AnomalyCheck::off)) {
    throw ValueError(fmt::format(
        "Trainer: graph with accumulate = {}{} given; 1 and no anomaly check are "
        "accepted beside it",
        options_.accumulate, options_.anomaly == AnomalyCheck::off ? "" : " and an anomaly check"));
  }
  if (options_.patience > 0 && !parts_.validate)
    throw ValueError("Trainer: patience without a validation");
  if (!is_utf8(options_.config)) throw ValueError("Trainer: config is not UTF-8");
  if (parts_.model.empty()) parts_.model = parts_.optimizer->parameters();
  if (options_.ema_decay > 0) {
    ema_ = std::make_unique<Ema>(parts_.optimizer->parameters(), options_.ema_decay);
  }
  own_progress_ = options_.progress ? nullptr : make_progress(options_.quiet);
  progress_ = options_.progress ? options_.progress : own_progress_.get();
  counters_.best_validation = kNan;
}

Trainer::~Trainer() = default;

void Trainer::warn(const std::string& text) { progress_->message("warning: " + text); }

/// The step as a graph, or nullptr where its operations run one by one: as the first of a call
/// does, in which a loss may set up what it needs.
StepGraph* Trainer::step_graph() {
  if (options_.graph == GraphUse::never || !warmed_up_) return nullptr;
  if (graph_) return graph_.get();
  std::vector<Generator*> draws = parts_.more_generators;
  if (parts_.generator) draws.push_back(parts_.generator);
  try {
    graph_ = std::make_unique<StepGraph>(
        StepParts{.optimizer = parts_.optimizer,
                  .loss = [this] { return parts_.loss(counters_.step, 0); },
                  .draws = std::move(draws),
                  .clip_norm = options_.clip_norm,
                  .ema = ema_.get(),
                  .after_update = parts_.after_update});
  } catch (const DeviceError& e) {
    const std::string text = fmt::format("Trainer: this step cannot be a graph: {}", e.what());
    if (options_.graph == GraphUse::always) throw DeviceError(text);
    warn(text);
    options_.graph = GraphUse::never;
  }
  return graph_.get();
}

/// Loss and gradients with their norm; the first micro-batch is prepared. A loss that is not finite
/// ends it, without a norm.
Trainer::Outcome Trainer::accumulate_gradients() {
  Outcome out;
  const double share = 1 / static_cast<double>(options_.accumulate);
  out.loss = 0;
  for (int64_t micro = 0; micro < options_.accumulate; ++micro) {
    if (micro > 0 && parts_.prepare) parts_.prepare(counters_.step, micro);
    Tensor loss = parts_.loss(counters_.step, micro);
    if (loss.numel() != 1) {
      throw ShapeError(fmt::format("Trainer: the loss has shape {}; a single number is accepted",
                                   loss.shape().to_string()));
    }
    const double value = loss.item();
    out.loss += value * share;
    if (!std::isfinite(value)) return out;
    if (options_.accumulate > 1) loss = loss * share;
    backward(loss, Tensor());
  }
  out.norm = gradient_norm(parts_.optimizer->parameters());
  return out;
}

/// A step as a graph, or without one what comes before its update.
Trainer::Outcome Trainer::compute_step() {
  parts_.optimizer->zero_grad();
  if (parts_.prepare) parts_.prepare(counters_.step, 0);
  StepGraph* const graph = step_graph();
  Outcome out;
  if (graph) {
    const StepGraph::Result result = graph->run();
    out.loss = result.loss;
    out.norm = result.norm;
    out.updated = true;
  } else {
    out = accumulate_gradients();
  }
  if (!std::isfinite(out.loss)) {
    out.problem = fmt::format("the loss is {}", out.loss);
  } else if (!std::isfinite(out.norm)) {
    out.problem = fmt::format("the norm of the gradient is {}{}", out.norm, non_finite_parameter());
  }
  return out;
}

/// ", first in <name>" for a message.
std::string Trainer::non_finite_parameter() const {
  for (const auto& parameter : parts_.optimizer->parameters()) {
    if (!std::isfinite(gradient_norm({parameter})))
      return fmt::format(", first in \"{}\"", parameter.first);
  }
  return "";
}

Trainer::Outcome Trainer::train_step() {
  Outcome out;
  if (parts_.schedule) parts_.optimizer->set_learning_rate(parts_.schedule(counters_.step));
  if (options_.anomaly == AnomalyCheck::off) {
    out = compute_step();
  } else {
    const Anomaly look(options_.anomaly);
    try {
      out = compute_step();
    } catch (const GradError& e) {
      out.problem = e.what();
    }
  }
  if (out.problem.empty()) {
    if (!out.updated) {
      parts_.optimizer->step(options_.clip_norm > 0 ? clip_factor(out.norm, options_.clip_norm)
                                                    : 1);
      if (parts_.after_update) parts_.after_update();
      if (ema_) ema_->update();
    }
    counters_.skipped_in_a_row = 0;
    ++counters_.window_steps;
    counters_.window_loss += out.loss;
    counters_.window_norm += out.norm;
  } else {
    // Nothing of a refused step may leak into the next one.
    parts_.optimizer->zero_grad();
    ++counters_.skipped;
    ++counters_.skipped_in_a_row;
  }
  ++counters_.step;
  warmed_up_ = true;
  return out;
}

bool Trainer::weights_are_finite() const {
  for (const auto& [name, tensor] : parts_.model) {
    if (!is_floating(tensor.dtype())) continue;
    const kernels::View view = tensor;
    if (!std::isfinite(kernels::backend(tensor.device()).sum_of_squares({&view, 1}))) return false;
  }
  return true;
}

Validation Trainer::validate() {
  const EmaScope averaged(ema_.get());
  Validation validation = parts_.validate();
  if (cut_short(validation)) return validation;
  if (is_better(validation.value) && options_.keep_best && store_) {
    NoGrad off;
    best_.clear();
    for (const auto& [name, tensor] : parts_.model)
      best_.emplace_back(name, clone(to(tensor, Device::cpu())));
    write_best();
  }
  return validation;
}

void Trainer::log_row(const Validation& validation, double seconds) {
  const auto n = static_cast<double>(counters_.window_steps);
  const bool any = counters_.window_steps > 0;
  MetricsRow row{counters_.step,
                 any ? counters_.window_loss / n : kNan,
                 parts_.optimizer->learning_rate(),
                 any ? counters_.window_norm / n : kNan,
                 validation.value,
                 counters_.skipped,
                 seconds,
                 earlier_processor_seconds_ + processor_seconds_,
                 validation.measures};
  counters_.window_steps = 0;
  counters_.window_loss = 0;
  counters_.window_norm = 0;
  history_.push_back(row);
  if (metrics_) metrics_->append(row);
}

bool Trainer::cut_short(const Validation& validation) const {
  return options_.handle_signals && InterruptGuard::signal() != 0 && std::isnan(validation.value);
}

/// Whether the step of the checkpoint lacks its row, as a signal cut its validation short.
bool Trainer::owes_validation() const {
  const int64_t step = counters_.step;
  return resumed_ && parts_.validate &&
         (step == options_.steps || is_due(step, options_.validate_every)) &&
         (history_.empty() || history_.back().step < step);
}

bool Trainer::is_better(double validation) {
  // NaN is never better, and everything is better than no validation yet.
  if (validation < counters_.best_validation ||
      (std::isnan(counters_.best_validation) && !std::isnan(validation))) {
    counters_.best_validation = validation;
    counters_.best_step = counters_.step;
    counters_.stale_validations = 0;
    return true;
  }
  ++counters_.stale_validations;
  return false;
}

TrainResult Trainer::run() {
  const InterruptGuard guard(options_.handle_signals);
  const auto start = std::chrono::steady_clock::now();
  prepare_run_folder();
  // What an earlier call captured may have moved since.
  graph_.reset();
  warmed_up_ = false;
  Pace pace(counters_.step);
  TrainResult result;
  result.checkpoint = newest_checkpoint_;
  const auto out_of_patience = [&] {
    return options_.patience > 0 && counters_.stale_validations >= options_.patience;
  };
  bool ended = out_of_patience();  // before the checkpoint that it continues from
  if (ended) result.status = TrainStatus::early_stopped;
  double mark = processor_seconds();
  bool owed = owes_validation();
  const auto end = [&](TrainStatus status) {
    if (!ended) result.status = status;
    ended = true;
  };
  while (!ended && (owed || counters_.step < options_.steps)) {
    if (!owed) {
      const Outcome outcome = train_step();
      if (!outcome.problem.empty()) {
        refuse_step(outcome.problem, &result);
        if (!result.reason.empty()) end(TrainStatus::diverged);
      } else {
        pace.see(outcome.loss);
      }
    }
    const int64_t done = counters_.step;
    const bool last = done == options_.steps;
    const bool validates =
        parts_.validate && !ended && (last || is_due(done, options_.validate_every));
    processor_seconds_ += processor_seconds() - mark;
    const Validation validation = validates ? validate() : Validation(kNan);
    mark = processor_seconds();
    const bool cut = validates && cut_short(validation);
    if (!cut && (last || ended || validates || is_due(done, options_.log_every))) {
      log_row(validation, earlier_seconds_ + seconds_since(start));
    }
    if (validates && out_of_patience()) end(TrainStatus::early_stopped);
    progress_->update(pace.state(counters_, options_.steps));
    if (parts_.after_step && !owed) parts_.after_step(done);
    if (last && !cut) end(TrainStatus::finished);
    if (options_.handle_signals && InterruptGuard::signal() != 0) {
      if (!ended) result.signal = InterruptGuard::signal();
      end(TrainStatus::interrupted);
    }
    if (done == options_.pause_at) end(TrainStatus::paused);
    // A series of refused steps may come from weights that are already lost: the checkpoint before
    // it stays.
    const bool due =
        (owed || is_due(done, options_.checkpoint_every)) && counters_.skipped_in_a_row == 0;
    owed = false;
    if ((ended && result.status != TrainStatus::diverged) || due) {
      if (!save(&result)) {
        ended = true;
        result.status = TrainStatus::diverged;
      }
    }
  }
  if (ended) progress_->finish(pace.state(counters_, options_.steps));
  if (!result.reason.empty()) warn(result.reason);
  result.steps_done = counters_.step;
  result.skipped = counters_.skipped;
  result.loss = counters_.window_steps > 0
                    ? counters_.window_loss / static_cast<double>(counters_.window_steps)
                    : (history_.empty() ? kNan : history_.back().loss);
  result.best_validation = counters_.best_validation;
  result.best_step = counters_.best_step;
  result.seconds = earlier_seconds_ += seconds_since(start);
  result.processor_seconds = earlier_processor_seconds_ += std::exchange(processor_seconds_, 0);
  return result;
}

void Trainer::refuse_step(const std::string& problem, TrainResult* result) {
  const std::string text = fmt::format("step {}: {}", counters_.step, problem);
  if (options_.nan_policy == NanPolicy::stop) {
    result->reason = text;
  } else if (counters_.skipped_in_a_row >= options_.nan_limit) {
    result->reason =
        fmt::format("{}; {} steps in a row were not finite", text, counters_.skipped_in_a_row);
  } else if (counters_.skipped_in_a_row == 1 &&
             (counters_.skipped <= 10 || counters_.skipped % 100 == 0)) {
    // A long training may skip now and then: the count in the metrics tells the rest.
    warn(fmt::format("{}; the step is skipped ({} so far)", text, counters_.skipped));
  }
}

}  // namespace flowgrad
