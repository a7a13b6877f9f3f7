#pragma once

#include <functional>
#include <memory>

#include "flowgrad/models/flow.h"
#include "flowgrad/models/verify.h"

/// What the files of verify share.
namespace flowgrad::verification {

/// The model under examination, and copies of it whose dtype is known.
struct Subject {
  Subject(Model& model, const VerifyOptions& options,
          const std::function<void(const Verdict&)>& told);

  /// A copy with other keys (those given win).
  std::unique_ptr<Model> copy(DType dtype, const Config& keys = {}) const;
  /// n rows for every quantity of the model: data and condition, times, and a fixed probe.
  QuantityInputs inputs(int64_t n, DType dtype) const;
  /// The quantity that says most about one row: log_prob, velocity, noise_prediction, ...
  std::string row_quantity() const;
  /// A generator for one purpose; equal at every call.
  Generator generator(uint64_t purpose) const { return Generator(options.seed, purpose << 40); }
  /// Value of an integer key, or 0 where the model lacks it.
  int64_t key(const char* name) const;

  void judge(int check, const std::string& name, double measured, double demanded,
             const std::string& note, const char* relation = "<=");
  void skip(int check, const std::string& name, const std::string& reason);

  Model& model;
  VerifyOptions options;
  Device device;
  int64_t dim = 0, condition_dim = 0;
  std::unique_ptr<Model> wide, narrow;  // float64 and float32
  std::vector<Verdict> verdicts;

 private:
  Tensor data_, condition_;  // float64
  const std::function<void(const Verdict&)>& told_;
};

/// Largest |a - b| / (1 + |b|); infinite where either is not a number.
double error_of(const Tensor& a, const Tensor& b);
/// Largest |a - b|, 0 only for equal bits.
double difference(const Tensor& a, const Tensor& b);

void check_density(Subject& s);     // 1 to 7
void check_solver(Subject& s);      // 8, 12
void check_generator(Subject& s);   // 14, 17, 18, 20
void check_training(Subject& s);    // 10, 21, 23, 25
void check_rows_alone(Subject& s);  // 22, 24

}  // namespace flowgrad::verification
