// What a training keeps on disk: run folder, checkpoints, resume.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/optim/state.h"
#include "flowgrad/optim/trainer.h"

namespace flowgrad {
namespace {

/// Where two configs part, with some text around it.
std::string difference(const std::string& stored, const std::string& given) {
  const auto parts = std::mismatch(stored.begin(), stored.end(), given.begin(), given.end());
  const auto at = static_cast<size_t>(parts.first - stored.begin());
  const size_t from = at < 30 ? 0 : at - 30;
  constexpr size_t kShown = 60;
  return fmt::format("the checkpoint has \"{}\", this run \"{}\"", stored.substr(from, kShown),
                     given.substr(std::min(from, given.size()), kShown));
}

int64_t integer_of(const Checkpoint& checkpoint, const char* key) {
  const auto found = checkpoint.integers.find(key);
  if (found == checkpoint.integers.end()) {
    throw IoError(fmt::format("resume: {}: \"{}\" is missing", checkpoint.path, key));
  }
  return found->second;
}

NamedTensors with_prefix(const std::string& prefix, const NamedTensors& tensors) {
  NamedTensors out;
  for (const auto& [name, tensor] : tensors) out.emplace_back(prefix + name, tensor);
  return out;
}

void append(NamedTensors* all, const std::string& prefix, const NamedTensors& tensors) {
  for (auto& item : with_prefix(prefix, tensors)) all->push_back(std::move(item));
}

/// Loads every provider's part; when one refuses, those before it get back what they had.
void load_providers(const std::vector<StateProvider>& states, const Checkpoint& checkpoint) {
  std::vector<NamedTensors> before;
  size_t done = 0;
  try {
    for (; done < states.size(); ++done) {
      before.push_back(states[done].save());
      states[done].load(checkpoint.part("state." + states[done].name + "."));
    }
  } catch (const Error& e) {
    for (size_t i = 0; i < done; ++i) states[i].load(before[i]);
    throw IoError(
        fmt::format("resume: {}: state \"{}\": {}", checkpoint.path, states[done].name, e.what()));
  }
}

}  // namespace

NamedTensors Trainer::all_state() const {
  NamedTensors all;
  append(&all, "model.", parts_.model);
  append(&all, "optimizer.", parts_.optimizer->state_dict());
  if (ema_) append(&all, "ema.", ema_->state_dict());
  for (const StateProvider& state : parts_.states)
    append(&all, "state." + state.name + ".", state.save());
  return all;
}

bool Trainer::save(TrainResult* result) {
  if (!weights_are_finite()) {
    result->reason = fmt::format("step {}: a weight is not finite", counters_.step);
    return false;
  }
  if (!store_) return true;
  Checkpoint c;
  c.step = counters_.step;
  c.config = options_.config;
  c.integers = {{"skipped", counters_.skipped},
                {"skipped_in_a_row", counters_.skipped_in_a_row},
                {"best_step", counters_.best_step},
                {"stale_validations", counters_.stale_validations},
                {"window_steps", counters_.window_steps}};
  if (parts_.generator) {
    c.integers["generator_seed"] = static_cast<int64_t>(parts_.generator->seed());
    c.integers["generator_stream"] = static_cast<int64_t>(parts_.generator->stream());
  }
  c.values = {counters_.window_loss, counters_.window_norm, counters_.best_validation,
              parts_.optimizer->learning_rate()};
  c.tensors = all_state();
  append(&c.tensors, "best.", best_);
  newest_checkpoint_ = store_->save(c);
  result->checkpoint = newest_checkpoint_;
  return true;
}

int64_t Trainer::resume() {
  if (options_.run_folder.empty()) throw ValueError("Trainer: resume without a run folder");
  std::vector<std::string> warnings;
  const std::optional<Checkpoint> found = CheckpointStore::newest(options_.run_folder, &warnings);
  for (const std::string& text : warnings) warn(text);
  if (!found) return 0;
  const Checkpoint& c = *found;
  if (c.config != options_.config) {
    throw IoError(fmt::format("resume: {}: another configuration: {}", c.path,
                              difference(c.config, options_.config)));
  }
  // Everything is checked before anything changes.
  NamedTensors expected = all_state();
  const NamedTensors best = c.part("best.");
  if (!best.empty()) append(&expected, "best.", parts_.model);
  check_state(fmt::format("resume: {}", c.path), expected, c.tensors);
  Counters counters;
  counters.step = c.step;
  counters.skipped = integer_of(c, "skipped");
  counters.skipped_in_a_row = integer_of(c, "skipped_in_a_row");
  counters.best_step = integer_of(c, "best_step");
  counters.stale_validations = integer_of(c, "stale_validations");
  counters.window_steps = integer_of(c, "window_steps");
  constexpr size_t kValues = 4;
  if (c.values.size() != kValues) {
    throw IoError(fmt::format("resume: {}: {} trainer values; {} are needed", c.path,
                              c.values.size(), kValues));
  }
  counters.window_loss = c.values[0];
  counters.window_norm = c.values[1];
  counters.best_validation = c.values[2];
  uint64_t seed = 0;
  uint64_t stream = 0;
  if (parts_.generator) {
    seed = static_cast<uint64_t>(integer_of(c, "generator_seed"));
    stream = static_cast<uint64_t>(integer_of(c, "generator_stream"));
  }
  load_providers(parts_.states, c);
  parts_.optimizer->load_state_dict(c.part("optimizer."));
  parts_.optimizer->set_learning_rate(c.values[3]);
  if (ema_) ema_->load_state_dict(c.part("ema."));
  NoGrad off;
  for (const auto& [name, tensor] : parts_.model) copy_(tensor, entry(c.tensors, "model." + name));
  if (parts_.generator) parts_.generator->set_state(seed, stream);
  counters_ = counters;
  if (options_.keep_best) best_ = best;
  newest_checkpoint_ = c.path;
  resumed_ = true;
  return c.step;
}

/// The file beside the checkpoints, or none where no best is known.
void Trainer::write_best() const {
  const std::string path = options_.run_folder + "/best.safetensors";
  if (best_.empty()) {
    std::filesystem::remove(path);
  } else {
    save_safetensors(path, best_, {{"step", std::to_string(counters_.best_step)}});
  }
}

void Trainer::prepare_run_folder() {
  if (options_.run_folder.empty() || store_) return;
  const std::vector<std::string> present = CheckpointStore::list(options_.run_folder);
  if (!present.empty() && !resumed_ && !options_.overwrite) {
    throw IoError(
        fmt::format("Trainer: {} already holds a training ({}); resume it, overwrite it or name "
                    "another run folder",
                    options_.run_folder, present.back()));
  }
  store_ = std::make_unique<CheckpointStore>(options_.run_folder);
  if (!resumed_) store_->clear();
  // One of a step behind the checkpoint would be of a future that was given up.
  write_best();
  metrics_ =
      std::make_unique<MetricsWriter>(options_.run_folder + "/metrics.jsonl", counters_.step);
  history_ = metrics_->kept();
  earlier_seconds_ = history_.empty() ? 0 : history_.back().seconds;
  earlier_processor_seconds_ = history_.empty() ? 0 : history_.back().processor_seconds;
}

}  // namespace flowgrad
