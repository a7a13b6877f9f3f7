#pragma once

#include "flowgrad/models/module.h"

namespace flowgrad {

/// A point and the log of the absolute Jacobian determinant of the map that led to it, per row.
struct Transformed {
  Tensor value;    // (N, D)
  Tensor log_det;  // (N)
};

/// Rows drawn from a density, and its logarithm there.
struct Sampled {
  Tensor value;     // (n, D)
  Tensor log_prob;  // (n)
};

/// A density by change of variables. `forward` maps the base distribution to data; the base is
/// N(0, I) unless a model says otherwise. Rows (N, D); `condition` (N, C), or (1, C) for all rows,
/// where the model is conditional, else undefined.
class Flow : public Module {
 public:
  virtual int64_t dim() const = 0;
  /// Base to data.
  virtual Transformed forward(const Tensor& z, const Tensor& condition = {}) = 0;
  /// Data to base.
  virtual Transformed inverse(const Tensor& x, const Tensor& condition = {}) = 0;
  /// log-density of the base distribution at the rows of z, (N).
  virtual Tensor base_log_prob(const Tensor& z);
  /// n draws from the base distribution, (n, D).
  virtual Tensor base_sample(int64_t n, Generator& generator);
  /// Data-dependent initialization from the first training batch, where a layer has one (ActNorm)
  /// and has not had it yet; outside of the tape. Nothing by default.
  virtual void initialize_from(const Tensor& x, const Tensor& condition = {});
  /// base_log_prob at the inverse + log_det of the inverse, (N).
  virtual Tensor log_prob(const Tensor& x, const Tensor& condition = {});
  /// n draws (n, D), off the tape; a condition has n rows, or one for all.
  virtual Tensor sample(int64_t n, Generator& generator, const Tensor& condition = {});
  /// The same n draws with their log-density, by one pass of the forward map instead of that and
  /// log_prob's. On the tape: mean(log_prob) - mean(log q(value)) is the reverse KL divergence to q
  /// up to a constant.
  Sampled sample_and_log_prob(int64_t n, Generator& generator, const Tensor& condition = {});
};

/// log of the standard normal density of each row of (N, D).
Tensor standard_normal_log_prob(const Tensor& z);

/// The next map's result with the log-determinants of all maps so far added up.
Transformed then(const Transformed& so_far, const Transformed& next);

/// ShapeError unless x is (N, dim).
void check_rows(const char* op, const Tensor& x, int64_t dim);
/// The condition (rows, width), where one row given serves all; undefined where width is 0.
/// ShapeError for any other shape.
Tensor check_condition(const char* op, const Tensor& condition, int64_t rows, int64_t width);

}  // namespace flowgrad
