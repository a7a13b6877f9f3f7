#include "flowgrad/models/spectral.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/error.h"

namespace flowgrad {
namespace {

Tensor as_matrix(const Tensor& w) {
  return w.rank() == 2 ? w : reshape(w, {w.size(0), w.numel() / w.size(0)});
}

Tensor unit(const Tensor& v) { return v / (norm(v) + 1e-12); }

}  // namespace

SpectralProjection::SpectralProjection(const NamedTensors& parameters, double bound, uint64_t seed,
                                       int iterations)
    : bound_(bound), iterations_(iterations) {
  if (!(bound > 0) || !std::isfinite(bound) || iterations < 1) {
    throw ValueError(fmt::format(
        "SpectralProjection: bound {} and {} iterations given; above 0 and at least 1 are accepted",
        bound, iterations));
  }
  Generator generator(seed);
  NoGrad off;
  for (const auto& [name, p] : parameters) {
    if (!name.ends_with("weight") || (p.rank() != 2 && p.rank() != 4) || p.numel() == 0) continue;
    entries_.push_back({name, p, unit(randn({p.size(0)}, generator, p.dtype(), p.device()))});
  }
}

void SpectralProjection::apply() {
  NoGrad off;
  for (Entry& e : entries_) {
    const Tensor w = as_matrix(e.weight);
    Tensor u = e.u, v;
    for (int i = 0; i < iterations_; ++i) {
      v = unit(matmul(u, w));
      u = unit(matmul(w, v));
    }
    e.norm = sum(u * matmul(w, v)).item();
    if (e.norm > 0) copy_(e.u, u);  // a matrix of zeros must not take the direction with it
    if (e.norm > bound_) copy_(e.weight, e.weight * (bound_ / e.norm));
  }
}

std::vector<double> SpectralProjection::norms() const {
  std::vector<double> out;
  for (const Entry& e : entries_) out.push_back(e.norm);
  return out;
}

NamedTensors SpectralProjection::state() const {
  NamedTensors out;
  for (const Entry& e : entries_) out.emplace_back(e.name + ".u", e.u);
  return out;
}

void SpectralProjection::load_state(const NamedTensors& state) {
  if (state.size() != entries_.size()) {
    throw IoError(fmt::format("SpectralProjection: state of {} vectors given; {} are accepted",
                              state.size(), entries_.size()));
  }
  for (size_t i = 0; i < state.size(); ++i) {
    const auto& [name, u] = state[i];
    if (name == entries_[i].name + ".u" && u.shape() == entries_[i].u.shape()) continue;
    throw IoError(fmt::format("SpectralProjection: state \"{}\" {} given; \"{}.u\" {} is accepted",
                              name, u.shape().to_string(), entries_[i].name,
                              entries_[i].u.shape().to_string()));
  }
  NoGrad off;
  for (size_t i = 0; i < state.size(); ++i) copy_(entries_[i].u, state[i].second);
}

}  // namespace flowgrad
