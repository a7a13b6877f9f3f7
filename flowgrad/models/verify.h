#pragma once

#include <limits>
#include <string>
#include <vector>

#include "flowgrad/models/checks.h"
#include "flowgrad/models/registry.h"

/// A verdict on the mathematics of any model of the registry: what was measured beside what is
/// demanded. docs/verify.md explains each check by its number.
namespace flowgrad {

enum class Outcome { passed, failed, skipped };

struct Verdict {
  int check = 0;     // its number in docs/verify.md
  std::string name;  // "round trip, float64"
  double measured = 0;
  /// "<=" or ">=": how measured must stand to demanded.
  std::string relation = "<=";
  double demanded = 0;
  Outcome outcome = Outcome::skipped;
  /// What was measured and how, or why the check does not apply.
  std::string note;
};

struct VerifyOptions {
  uint64_t seed = 0;
  /// Rows that the checks of rows take; Jacobians take a quarter of them, fewer for models of more
  /// than 64 columns, but at least 2.
  int64_t rows = 256;
  /// Rows of data (N, D) and their conditions (N, C); where undefined, densities are tried on their
  /// own samples and other models on normal draws.
  Tensor data = {};
  Tensor condition = {};
  /// Entropy of the data's density, the floor of every negative log-likelihood; NaN: unknown.
  double floor = std::numeric_limits<double>::quiet_NaN();
  /// Trained weights may be sharp: 1e-3 in place of 1e-5 for the integral.
  bool trained = false;
  /// How copies are made, with the keys that a check sets; empty: make_model with the model's
  /// weights. A test plants its defects here.
  std::function<std::unique_ptr<Model>(DType dtype, const Config& keys)> make = {};
};

/// Runs every check that applies, on copies in float64 and float32; the model stays as it is.
/// Called with each verdict as soon as it is there. ValueError for fewer than 4 rows, ShapeError
/// for data that does not fit the model.
std::vector<Verdict> verify(Model& model, const VerifyOptions& options,
                            const std::function<void(const Verdict&)>& told = {});

}  // namespace flowgrad
