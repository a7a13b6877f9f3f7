#include "flowgrad/kernels/backend.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <string>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/reference/reference.h"
#if defined(FLOWGRAD_GPU_CUDA) || defined(FLOWGRAD_GPU_EMULATED)
#include "flowgrad/kernels/cuda/backend.h"
#endif

namespace flowgrad::kernels {
namespace {

CpuBackend backend_from_environment() {
  const char* value = std::getenv("FLOWGRAD_BACKEND");
  if (!value || *value == '\0') return CpuBackend::fast;
  const std::string name = value;
  if (name == "fast") return CpuBackend::fast;
  if (name == "reference") return CpuBackend::reference;
  throw ValueError("FLOWGRAD_BACKEND: \"" + name +
                   "\" given; \"fast\" and \"reference\" are accepted");
}

std::atomic<CpuBackend>& chosen() {
  static std::atomic<CpuBackend> which{backend_from_environment()};
  return which;
}

std::atomic<Backend*> registered_cuda{nullptr};

Backend& device_backend(Device device) {
  if (Backend* instance = registered_cuda.load(std::memory_order_acquire)) return *instance;
  throw DeviceError("backend: device " + device.to_string() +
                    " given; this build of flowgrad computes on the CPU");
}

#if defined(FLOWGRAD_GPU_CUDA) || defined(FLOWGRAD_GPU_EMULATED)
// Here, because every program that computes links this file.
const bool cuda_is_registered = (register_cuda(), true);
#endif

}  // namespace

StepNumbers numbers_of(const AdamParams& o) {
  return {.rate = o.lr / o.correction1,
          .shrink = o.decoupled ? 1 - o.lr * o.weight_decay : 1,
          .root = 1 / std::sqrt(o.correction2)};
}

StepNumbers numbers_of(const SgdParams& o) {
  return {.rate = o.lr, .first_step = o.first_step ? 1.0 : 0.0};
}

void Backend::matmul_unary(UnaryOp op, View a, View b, View bias, View out) {
  matmul(a, b, bias, false, out);
  unary(op, {}, out, out);
}

void Backend::conv2d_unary(UnaryOp op, const Convolution& c, View x, View weight, View bias,
                           View out) {
  conv2d(c, x, weight, bias, out);
  unary(op, {}, out, out);
}

bool is_solvable(const CnfField& field, const SolveSteps& steps, bool gradient) {
  const View* const given[] = {&field.x,           &field.t,    &field.bias,     &field.middle,
                               &field.middle_bias, &field.out,  &field.out_bias, &field.left,
                               &field.right,       &field.exact};
  for (const View* v : given) {
    if (v->defined() && (v->dtype != field.x.dtype || !v->is_contiguous())) return false;
  }
  const DType dtype = field.x.dtype;
  if (dtype != DType::float32 && dtype != DType::float64) return false;
  if (steps.stages < 1 || steps.stages > SolveSteps::kMaxStages) return false;
  if ((*field.x.shape)[0] < 1 || (*field.x.shape)[1] < 1) return false;
  return !gradient || field.left.defined() || field.exact.defined();
}

bool Backend::has_cnf_solve(const CnfField&, const SolveSteps&, bool) const { return false; }

int64_t Backend::cnf_kept(const CnfField& field, const SolveSteps& steps, int64_t rows) const {
  return steps.n_steps * rows * (*field.x.shape)[1];
}

void Backend::cnf_solve(const CnfField&, const SolveSteps&, View, View, View, View) {
  throw DeviceError(std::string("cnf_solve: backend ") + name() + " has no such kernel");
}

void Backend::cnf_solve_grad(const CnfField&, const SolveSteps&, View, View, View, View, View, View,
                             View) {
  throw DeviceError(std::string("cnf_solve_grad: backend ") + name() + " has no such kernel");
}

void Backend::average_step(std::span<const AverageSlot> slots, const AverageParams& params) {
  for (const AverageSlot& slot : slots) lerp(slot.average, slot.value, params.decay);
}

void Backend::judge_step(View, std::span<const View>, double, View, StepVerdict*) {
  throw DeviceError(std::string("judge_step: backend ") + name() + " records no steps");
}

void Backend::sample(const Sampler&, View, View) {
  throw DeviceError(std::string("sample: backend ") + name() + " has no such kernel");
}

void Backend::mlp_coupling(const MlpCoupling&, View, View, View, View) {
  throw DeviceError(std::string("mlp_coupling: backend ") + name() + " has no such kernel");
}

void Backend::mlp_coupling_grad(const MlpCoupling&, View, View, View, View, View, View,
                                const CouplingNet (&)[2], View) {
  throw DeviceError(std::string("mlp_coupling_grad: backend ") + name() + " has no such kernel");
}

Backend& reference_backend() {
  static ReferenceBackend instance;
  return instance;
}

Backend& backend(Device device) {
  if (!device.is_cpu()) return device_backend(device);
  return cpu_backend() == CpuBackend::fast ? fast_cpu_backend() : reference_backend();
}

void register_backend(Device::Kind kind, Backend* instance) {
  if (kind == Device::Kind::cpu) {
    throw ValueError("register_backend: kind cpu given; set_cpu_backend chooses among its own");
  }
  registered_cuda.store(instance, std::memory_order_release);
}

void set_cpu_backend(CpuBackend which) { chosen().store(which, std::memory_order_relaxed); }
CpuBackend cpu_backend() { return chosen().load(std::memory_order_relaxed); }

}  // namespace flowgrad::kernels
