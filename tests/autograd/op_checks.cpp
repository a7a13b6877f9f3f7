#include "autograd/op_checks.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "device/device.h"
#include "flowgrad/core/crc32c.h"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/kernels/backend.h"
#include "kernels/strided.h"

namespace flowgrad::testing {

void Tally::instance(const char* check, const Op& op, DType dtype, const std::string& input,
                     const std::function<std::string()>& body) {
  const auto start = std::chrono::steady_clock::now();
  std::string wrong;
  try {
    wrong = body();
  } catch (const std::exception& e) {
    wrong = std::string("raised ") + e.what();
  }
  Count& count = counts_[check];
  count.instances += 1;
  count.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (wrong.empty()) return;
  count.failures += 1;
  failures_.push_back(
      fmt::format("{} [{}] {} {}: {}", op.name, check, name_of(dtype), input, wrong));
}

void Tally::not_applicable(const char* check, const Op&, const std::string& reason) {
  counts_[check].not_applicable += 1;
  reasons_[check][reason] += 1;
}

int64_t Tally::instances() const {
  int64_t total = 0;
  for (const auto& [check, count] : counts_) total += count.instances;
  return total;
}

std::string Tally::report() const {
  std::string out = fmt::format("{:<34}{:>10}{:>10}{:>16}{:>9}\n", "check", "instances", "failures",
                                "not applicable", "seconds");
  for (const auto& [check, c] : counts_) {
    out += fmt::format("{:<34}{:>10}{:>10}{:>16}{:>9.1f}\n", check, c.instances, c.failures,
                       c.not_applicable, c.seconds);
  }
  out += "not applicable, and why:\n";
  for (const auto& [check, reasons] : reasons_) {
    for (const auto& [reason, n] : reasons)
      out += fmt::format("  {:<32}{:>6}  {}\n", check, n, reason);
  }
  return out;
}

bool is_real(const Tensor& t) {
  return t.defined() && (t.dtype() == DType::float32 || t.dtype() == DType::float64);
}

Tensors cotangents_for(const Tensors& out, bool strided_layout) {
  Tensors cotangents;
  for (const Tensor& y : out) {
    if (!y.requires_grad()) continue;
    const Tensor g = values(y.shape(), y.dtype(), 91 + cotangents.size(), -1, 1, y.device());
    cotangents.push_back(strided_layout ? strided(g, 17) : g);
  }
  return cotangents;
}

Outcome evaluate(const MultiFunction& f, const Tensors& in, const EvaluateOptions& options) {
  Outcome result;
  try {
    Tensors given, leaves;
    for (const Tensor& t : in) {
      given.push_back(t.detach());
      if (!options.gradients || !is_real(t)) continue;
      given.back().requires_grad_();
      leaves.push_back(given.back());
    }
    result.out = f(given);
    if (!options.gradients) return result;
    Tensors tracked;
    for (const Tensor& y : result.out) {
      if (y.requires_grad()) tracked.push_back(y);
    }
    if (!tracked.empty()) {
      const Tensors cotangents = cotangents_for(result.out, options.strided_cotangents);
      result.grads = grad(tracked, leaves, cotangents, {.allow_unused = true});
    }
    for (Tensor& y : result.out) y = y.detach();
  } catch (const Error& e) {
    if (!options.catches) throw;
    result = {};
    result.error = e.what();
  }
  return result;
}

std::string difference(const Tensors& got, const Tensors& want, double tolerance) {
  if (got.size() != want.size())
    return fmt::format("{} tensors instead of {}", got.size(), want.size());
  for (size_t k = 0; k < got.size(); ++k) {
    if (got[k].defined() != want[k].defined())
      return fmt::format("tensor {} is undefined in one of the two", k);
    if (!got[k].defined()) continue;
    if (got[k].dtype() != want[k].dtype() || got[k].shape() != want[k].shape()) {
      return fmt::format("tensor {} is {} {} instead of {} {}", k, name_of(got[k].dtype()),
                         got[k].shape().to_string(), name_of(want[k].dtype()),
                         want[k].shape().to_string());
    }
    const auto a = got[k].to_vector<double>();
    const auto b = want[k].to_vector<double>();
    double scale = 1;
    for (double v : b) {
      if (std::isfinite(v)) scale = std::max(scale, std::abs(v));
    }
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
      if (std::abs(a[i] - b[i]) <= tolerance * scale) continue;
      return fmt::format("tensor {} element {} is {:.17g} instead of {:.17g} (tolerance {:.3g})", k,
                         i, a[i], b[i], tolerance * scale);
    }
  }
  return {};
}

std::string difference(const Outcome& got, const Outcome& want, double tolerance,
                       double gradient_tolerance) {
  if (got.error != want.error)
    return fmt::format("error \"{}\" instead of \"{}\"", got.error, want.error);
  std::string wrong = difference(got.out, want.out, tolerance);
  if (!wrong.empty()) return "values: " + wrong;
  wrong = difference(got.grads, want.grads, gradient_tolerance);
  return wrong.empty() ? wrong : "gradients: " + wrong;
}

double value_tolerance(DType dtype, int64_t n) {
  return (dtype == DType::float64 ? 1e-12 : 1e-6) *
         std::sqrt(static_cast<double>(std::max<int64_t>(n, 1)));
}
double gradient_tolerance(DType dtype, int64_t n) {
  return dtype == DType::float64 ? 10 * value_tolerance(dtype, n) : 1e-4;
}

uint32_t digest(const Tensors& tensors) {
  uint32_t crc = 0;
  for (const Tensor& t : tensors) {
    if (!t.defined()) continue;
    const std::string head = name_of(t.dtype()) + t.shape().to_string();
    crc = crc32c(std::as_bytes(std::span(head)), crc);
    crc = crc32c(TensorBytes(t).span(), crc);
  }
  return crc;
}
uint32_t digest(const Outcome& outcome) { return digest(outcome.out) * 31 + digest(outcome.grads); }

int64_t largest(const Tensors& tensors) {
  int64_t n = 1;
  for (const Tensor& t : tensors) n = std::max(n, t.numel());
  return n;
}

Outcome on_reference(const MultiFunction& f, const Tensors& in, const EvaluateOptions& options) {
  const OnReference on;
  const OnCpu cpu;
  Tensors here;
  for (const Tensor& t : in) here.push_back(to(t, Device::cpu()));
  return evaluate(f, here, options);
}

OnReference::OnReference() { kernels::set_cpu_backend(kernels::CpuBackend::reference); }
OnReference::~OnReference() { kernels::set_cpu_backend(kernels::CpuBackend::fast); }

}  // namespace flowgrad::testing
