#pragma once

#include "flowgrad/models/flow_matching.h"

namespace flowgrad {

struct HierarchicalOptions {
  int64_t condition_dim = 256;
  int64_t action_dim = 7;
  int64_t sequence_length = 10;
  /// Width of the latent that stands for a whole sequence.
  int64_t latent_dim = 128;
  /// Width of the sequence decoder and of the action encoder.
  int64_t decoder_hidden = 256;
  /// Of both flows.
  int64_t hidden = 512;
  int64_t time_dim = 128;
  /// Correlation of the low-level noise from one step to the next, in `generate`: 0 draws every
  /// step anew, 1 shares one draw, which makes sequences smoother.
  double noise_correlation = 0;
};

/// Actions in two levels (system 13 of the tutorial, repaired): a flow draws a latent for the whole
/// sequence, a 2-layer LSTM decodes it to a feature for each step, and a second flow draws each
/// step's action given that feature and the condition, all steps as one batch.
///
/// The tutorial gives the latent no target. Here an LSTM over the expert's sequence makes it, its
/// last state through a linear layer and standardised over its entries, which also bounds it: it
/// lies on a sphere. The low level's loss, teacher-forced, trains encoder and decoder. The high
/// level takes the latent as data: could it move its target, both would agree on a constant.
///
/// Keys high_level_flow.*, low_level_flow.* as FlowMatching, sequence_decoder.* and
/// action_encoder.* as Lstm, to_latent.*.
class HierarchicalFlow final : public Module {
 public:
  /// ValueError for sizes below 1 or a correlation outside [0, 1].
  HierarchicalFlow(const HierarchicalOptions& options, Generator& generator,
                   DType dtype = DType::float32);
  const HierarchicalOptions& options() const { return options_; }
  /// Numbers of a sequence, and of the noise it is made from: the latent's first, then the steps'.
  int64_t width() const { return options_.sequence_length * options_.action_dim; }
  int64_t noise_width() const { return options_.latent_dim + width(); }

  /// The latent (N, latent_dim) of sequences (N, L, A) or (N, L A).
  Tensor latent(const Tensor& actions);
  /// Sum of both levels' losses for sequences (N, L, A) or (N, L A) under a condition (N, C) or one
  /// row of it; noise (N, noise_width) and times (N, 1 + L), the high level's first, are drawn
  /// where undefined.
  Tensor loss(const Tensor& actions, const Tensor& condition, Generator& generator,
              const Tensor& noise = {}, const Tensor& time = {});
  /// Sequences (N, L, A) from noise (N, noise_width), off the tape.
  Tensor generate(const Tensor& noise, const Tensor& condition,
                  const GenerateOptions& options = {});

 private:
  Tensor sequences(const char* op, const Tensor& actions) const;
  /// What conditions the low level: (N L, decoder_hidden + C).
  Tensor step_conditions(const Tensor& latent, const Tensor& condition);

  HierarchicalOptions options_;
  FlowMatching& high_;
  FlowMatching& low_;
  Lstm& decoder_;
  Lstm& encoder_;
  Linear& to_latent_;
  Tensor mixing_;  // (L, L): correlated noise from independent
};

/// Mean squared third difference along the steps of each sequence (N, L, A), (N); 0 for fewer than
/// four steps.
Tensor mean_squared_jerk(const Tensor& sequences);

}  // namespace flowgrad
