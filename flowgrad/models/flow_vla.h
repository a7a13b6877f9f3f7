#pragma once

#include <string>

#include "flowgrad/models/encoders.h"
#include "flowgrad/models/flow_matching.h"

namespace flowgrad {

struct FlowVLAOptions {
  VisionLanguageOptions encoder = {};
  int64_t action_dim = 7;
  /// Actions of a chunk, which stand one after the other in a row.
  int64_t horizon = 1;
  /// Width of the velocity net.
  int64_t hidden = 512;
  TimeLaw time_law = TimeLaw::uniform;
  /// Weight of a linear regression of the chunk from the feature in the loss, which teaches the
  /// encoder where the velocity alone is slow to; 0 = none.
  double auxiliary = 0;
  /// Whether `generate` ends with the refiner.
  bool refine = false;
};

/// "tutorial": system 11, 14,074,766 parameters; "tiny" and "base": the encoders of these names, a
/// chunk of 8 actions in the plane, an auxiliary regression. ValueError for another name.
FlowVLAOptions flow_vla_preset(const std::string& name);

/// A vision-language-action policy: what the robot sees and reads conditions flow matching over a
/// chunk of actions, a row (N, horizon action_dim).
///
/// The refiner a + Linear-ReLU-Linear(a, feature) has a loss of its own. The tutorial adds it to
/// generated actions though no gradient ever reached it. Here it learns to correct the chunk that
/// the flow expects from the middle of a training path, x_t + (1 - t) v, held fixed: that costs no
/// solve and keeps to the mode of its target, where freely generated chunks would have it learn
/// their mean.
///
/// Keys of VisionLanguageEncoder; action_flow.* as FlowMatching; refiner.{0,2}.*; auxiliary.* where
/// it has a weight.
class FlowVLA final : public Module {
 public:
  /// ValueError for options that do not fit.
  FlowVLA(const FlowVLAOptions& options, Generator& generator, DType dtype = DType::float32);
  const FlowVLAOptions& options() const { return options_; }
  /// Numbers of a chunk.
  int64_t width() const { return options_.horizon * options_.action_dim; }

  /// The feature (N, F) of N moments; raises as VisionLanguageEncoder::encode.
  Tensor condition(const PolicyObservation& observation) { return encoder_.encode(observation); }
  /// Velocity (N, width) at x (N, width), t (N) or (1), and features (N, F) or one row of them.
  Tensor velocity(const Tensor& x, const Tensor& t, const Tensor& condition) {
    return flow_.velocity(x, t, condition);
  }
  struct Losses {
    /// Mean squared error of the velocity, plus `auxiliary` times that of the regression.
    Tensor loss;
    /// Mean squared error of the refined chunk; its gradient reaches the refiner alone.
    Tensor refiner;
  };
  /// For chunks x1 (N, width) and features; noise x0 and times t (N) are drawn where undefined.
  Losses losses(const Tensor& x1, const Tensor& condition, Generator& generator,
                const Tensor& x0 = {}, const Tensor& t = {});
  /// From noise (N, width) to chunks, off the tape.
  Tensor generate(const Tensor& noise, const Tensor& condition,
                  const GenerateOptions& options = {});
  /// The chunk (N, width) corrected for its feature.
  Tensor refine(const Tensor& chunk, const Tensor& condition);

 private:
  FlowVLAOptions options_;
  VisionLanguageEncoder& encoder_;
  FlowMatching& flow_;
  MLP& refiner_;
  Linear* auxiliary_ = nullptr;
};

}  // namespace flowgrad
