#pragma once

#include "flowgrad/models/layers.h"

namespace flowgrad {

/// Features of a time t (N): all sines, then all cosines, of t times `scale` times frequencies
/// geometric from 1 to 1/10000 over width / 2 channels. Returns (N, width). ValueError for a width
/// that is odd or below 4.
Tensor sinusoidal_embedding(const Tensor& t, int64_t width, double scale);
void check_embedding_width(const char* op, int64_t width);

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
