#pragma once

#include "flowgrad/models/layers.h"

namespace flowgrad {

/// sinusoidal_embedding as a layer: its frequencies wait on the module's device, so that a step
/// copies nothing from the host.
class SinusoidalEmbedding final : public Layer {
 public:
  /// ValueError as sinusoidal_embedding.
  SinusoidalEmbedding(int64_t width, double scale, DType dtype = DType::float32);
  Tensor forward(const Tensor& t) override;

 private:
  Tensor frequencies_;
};

}  // namespace flowgrad
