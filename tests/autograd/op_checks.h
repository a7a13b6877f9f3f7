#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "autograd/op_table.h"

/// The generic checks of the op matrix, and how their outcomes are counted.
namespace flowgrad::testing {

/// What happened to every instance: an operation, a dtype, a check and one of its inputs.
class Tally {
 public:
  /// Runs one instance. The body returns what is wrong, or nothing; an exception is a failure too.
  void instance(const char* check, const Op& op, DType dtype, const std::string& input,
                const std::function<std::string()>& body);
  /// Records that a check does not apply.
  void not_applicable(const char* check, const Op& op, const std::string& reason);

  int64_t instances() const;
  const std::vector<std::string>& failures() const { return failures_; }
  /// Instances, failures and seconds by check, then why checks did not apply.
  std::string report() const;

 private:
  struct Count {
    int64_t instances = 0, failures = 0, not_applicable = 0;
    double seconds = 0;
  };
  std::map<std::string, Count> counts_;
  std::map<std::string, std::map<std::string, int64_t>> reasons_;
  std::vector<std::string> failures_;
};

/// Outputs, and gradients of the floating inputs for fixed cotangents (undefined where an input is
/// not used); or the message of the error.
struct Outcome {
  Tensors out;
  Tensors grads;
  std::string error;
};
struct EvaluateOptions {
  bool gradients = true;
  /// Cotangents with gaps and permuted axes.
  bool strided_cotangents = false;
  /// Fills in Outcome::error instead of throwing.
  bool catches = false;
};
Outcome evaluate(const MultiFunction& f, const Tensors& in, const EvaluateOptions& options = {});

/// The cotangents that evaluate() uses.
Tensors cotangents_for(const Tensors& out, bool strided);

/// Empty, or where two lists differ: dtype, shape, place of a NaN or an infinity, or a number by
/// more than tolerance max(1, largest magnitude).
std::string difference(const Tensors& got, const Tensors& want, double tolerance);
std::string difference(const Outcome& got, const Outcome& want, double tolerance,
                       double gradient_tolerance);

/// Tolerances of reliability for n elements that meet in one result.
double value_tolerance(DType dtype, int64_t n);
double gradient_tolerance(DType dtype, int64_t n);

/// Checksum over dtype, shape and bytes of values, whatever the layout.
uint32_t digest(const Tensors& tensors);
uint32_t digest(const Outcome& outcome);
int64_t largest(const Tensors& tensors);
bool is_real(const Tensor& t);

/// As evaluate(), with copies of the inputs on the CPU and the plain reference loops: what the fast
/// CPU kernels, or those of the test's device, are held against.
Outcome on_reference(const MultiFunction& f, const Tensors& in, const EvaluateOptions& options);

/// While this lives, the CPU computes with the plain reference loops.
class OnReference {
 public:
  OnReference();
  ~OnReference();
};

inline constexpr DType kDTypes[] = {DType::float32, DType::float64};

// The checks of the matrix, with their letters; each adds instances to the tally.
void check_golden(Tally& tally,
                  const std::string& path = FLOWGRAD_TEST_DATA "/golden/ops.safetensors");  // a, l
void check_gradients(Tally& tally, const Op& op, uint64_t seed = 0);                        // b, c
void check_layouts(Tally& tally, const Op& op);         // d, e, k
void check_broadcasting(Tally& tally, const Op& op);    // f
void check_sizes(Tally& tally, const Op& op);           // g, h, n, o, and both backends
void check_special_values(Tally& tally, const Op& op);  // l
void check_refusals(Tally& tally, const Op& op);        // i
void check_dtypes(Tally& tally, const Op& op);          // j
void check_threads(Tally& tally, const Op& op);         // m

}  // namespace flowgrad::testing
