#pragma once

#include <limits>
#include <string>
#include <vector>

#include "flowgrad/models/registry.h"

/// What a model has learned, in numbers: system 14 of the tutorial, analyze_flow_properties, with
/// errors where the numbers are estimates. `verify` judges mathematics; this describes a result.
namespace flowgrad {

/// One number; `error` is its standard error, NaN where it has none. A property that does not exist
/// has value NaN and the reason in `note`.
struct Property {
  std::string name;
  double value = std::numeric_limits<double>::quiet_NaN();
  double error = std::numeric_limits<double>::quiet_NaN();
  std::string unit = {};
  std::string note = {};
};

struct AnalysisOptions {
  uint64_t seed = 0;
  /// Held-out rows (N, D) and their conditions (N, C).
  Tensor data = {};
  Tensor condition = {};
  double floor = std::numeric_limits<double>::quiet_NaN();
  /// Samples drawn and compared with as many rows; the Wasserstein distance takes at most 2,000.
  int64_t samples = 2000;
  /// Width of one level in the units of the rows, for bits per dimension, where the rows are
  /// dequantised levels (pixels.h); 0 where they are not. Of rows that lie on the levels themselves
  /// a density has no bound, and its figure would be no code length.
  double quantum = 0;
  QuantityOptions sampling = {};
};

/// Reconstruction error and log-determinant errors (maximum and 99.9 percentile), log-likelihood,
/// bits per dimension, density integral (2-D), moments, Wasserstein-2 and MMD of samples against
/// data with the same of data against data beside them. Off the tape. ShapeError for data that does
/// not fit, ValueError for fewer than 4 rows of it.
/// `samples` are those of analysis_samples where the caller has them already.
std::vector<Property> analyze(Model& model, const AnalysisOptions& options,
                              const Tensor& samples = {});

/// The samples that `analyze` judges: min(options.samples, rows) of them, for the conditions of the
/// first rows.
Tensor analysis_samples(Model& model, const AnalysisOptions& options);

}  // namespace flowgrad
