#pragma once

#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Keeps the spectral norm (largest singular value) of weight matrices at most `bound`, by
/// projection after each optimiser step: W <- W / max(1, sigma / bound) (Gouk et al. 2021), with
/// sigma from a power iteration that goes on from step to step (Miyato et al. 2018). Unlike a
/// reparametrisation it leaves names and gradients of the weights alone. A network of such layers
/// and 1-Lipschitz activations is bound^layers-Lipschitz, which bounds its Jacobian and its trace.
class SpectralProjection {
 public:
  /// Takes those named weight that have rank 2, and rank 4 (convolutions) as (out, in * kh * kw).
  /// ValueError unless bound is above 0 and finite, or iterations below 1.
  SpectralProjection(const NamedTensors& parameters, double bound, uint64_t seed = 0,
                     int iterations = 1);

  /// Projects all weights; off the tape, in place.
  void apply();
  /// The estimates of the norms before the last projection, in the order of the matrices.
  std::vector<double> norms() const;
  /// Left singular vectors "<parameter>.u": what an exact resume needs. The tensors are its own.
  NamedTensors state() const;
  /// IoError for a missing or extra entry or a wrong shape; then nothing changes.
  void load_state(const NamedTensors& state);

 private:
  struct Entry {
    std::string name;
    Tensor weight, u;
    double norm = 0;
  };
  std::vector<Entry> entries_;
  double bound_;
  int iterations_;
};

}  // namespace flowgrad
