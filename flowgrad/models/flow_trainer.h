#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "flowgrad/models/registry.h"
#include "flowgrad/models/spectral.h"
#include "flowgrad/optim/trainer.h"

namespace flowgrad {

enum class LearningRate { constant, cosine, one_cycle };

struct FlowTrainerOptions {
  FlowTrainerOptions() { trainer.clip_norm = 1; }
  /// Steps, accumulation, clipping (at 1 here; a norm that is not finite is refused), averages,
  /// intervals, run folder.
  TrainerOptions trainer;
  /// Largest learning rate of AdamW.
  double learning_rate = 1e-3;
  /// Its course over the real number of steps.
  LearningRate schedule = LearningRate::cosine;
  /// Steps of a linear rise before the schedule.
  int64_t warm_up = 0;
  /// Decoupled decay of weight matrices (named weight, rank 2 or more); all else is left alone.
  double weight_decay = 0;
  /// Largest spectral norm of a weight matrix, see SpectralProjection; 0: no bound.
  double spectral_norm = 0;
  /// Share of conditions set to zero, for guidance when sampling.
  double condition_dropout = 0;
};

/// Where a FlowTrainer takes its rows from. Everything must outlive it.
struct FlowTrainerData {
  /// Input (N, D) and condition (N, C) of the next step, on the model's device.
  std::function<QuantityInputs()> next;
  /// See TrainerParts::validate.
  std::function<Validation()> validate = {};
  /// Positions for an exact resume.
  std::vector<StateProvider> states = {};
  /// For a loss of one's own: called before it, to fetch what it reads; see TrainerParts::prepare.
  std::function<void()> prepare = {};
  /// For a loss of one's own: see TrainerParts::more_generators.
  std::vector<Generator*> more_generators = {};
};

/// Trains any model of the registry by its own loss: minus the mean log-likelihood of a density,
/// the matching or denoising loss of a generator (the tutorial's FlowTrainer, with the steps of its
/// schedule counted right). Adam with decoupled decay, cosine schedule, clipping at 1, averaged
/// weights, a constraint on spectral norms, bit-exact resume. The model's data-dependent parts see
/// the first batch. ValueError for an option out of range, or a dropout of conditions for a model
/// that takes none.
class FlowTrainer {
 public:
  /// `draws` gives the noise and times of the losses.
  FlowTrainer(Model& model, FlowTrainerData data, Generator& draws, FlowTrainerOptions options);
  /// Any module by a loss of its own, asked for once a micro-batch; data.next is not.
  FlowTrainer(Module& module, std::function<Tensor()> loss, FlowTrainerData data, Generator& draws,
              FlowTrainerOptions options);
  FlowTrainer(const FlowTrainer&) = delete;
  FlowTrainer& operator=(const FlowTrainer&) = delete;
  /// Continues from the newest checkpoint; see Trainer::resume.
  int64_t resume() { return trainer_->resume(); }
  TrainResult run() { return trainer_->run(); }
  Trainer& trainer() { return *trainer_; }
  /// nullptr without a bound.
  const SpectralProjection* spectral() const { return spectral_.get(); }

 private:
  void fetch();

  FlowTrainerData data_;
  Generator& draws_;
  FlowTrainerOptions options_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<SpectralProjection> spectral_;
  std::unique_ptr<Trainer> trainer_;
  Model* model_ = nullptr;
  QuantityInputs batch_;
  bool initialized_ = false;
};

}  // namespace flowgrad
