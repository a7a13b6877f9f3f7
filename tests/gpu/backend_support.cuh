#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/reference/reference.h"
#include "gpu/support.cuh"
#include "kernels/strided.h"

/// Runs a method of the CUDA backend and the same method of the reference loops on equal operands.
namespace flowgrad::test {

/// A host tensor's storage copied to the device between two guard zones, under the same layout.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& host)
      : host_(host.detach()),
        bytes_(host.storage().bytes()),
        before_(bytes_ + 2 * kGuard, static_cast<char>(0xA5)),
        memory_(bytes_ + 2 * kGuard) {
    if (bytes_ > 0) std::memcpy(before_.data() + kGuard, host.storage().data(), bytes_);
    gpu::copy_to_device(memory_.get(), before_.data(), before_.size(), gpu::default_stream());
  }

  kernels::View view() const {
    kernels::View v = host_;
    v.data = memory_.get() + kGuard +
             host_.layout().offset * static_cast<int64_t>(size_of(host_.dtype()));
    return v;
  }
  /// The device's values as a host tensor of the same layout; a touched guard zone fails the test.
  Tensor back() const {
    const std::vector<char> now = memory_.values();
    for (std::size_t i = 0; i < kGuard; ++i) {
      if (now[i] == before_[i] && now[kGuard + bytes_ + i] == before_[kGuard + bytes_ + i])
        continue;
      FAIL("a kernel wrote outside of its operand, " << i << " bytes into a guard zone");
    }
    auto storage = make_ref<Storage>(bytes_, Device::cpu());
    if (bytes_ > 0) std::memcpy(storage->data(), now.data() + kGuard, bytes_);
    return Tensor::over(storage, host_.layout(), host_.dtype());
  }
  /// Every byte, the guard zones included, is what it was.
  bool is_untouched() const { return memory_.values() == before_; }

 private:
  static constexpr std::size_t kGuard = 1024;
  Tensor host_;
  std::size_t bytes_;
  std::vector<char> before_;
  DeviceArray<char> memory_;
};

/// A contiguous matrix whose columns are the rows of x: these lie across memory, not along it.
inline Tensor laid_across(const Tensor& x) {
  const int64_t rows = x.shape()[0], columns = x.shape()[1];
  const std::vector<double> along = x.to_vector<double>();
  std::vector<double> across(along.size());
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t r = 0; r < rows; ++r)
      across[static_cast<std::size_t>(i * rows + r)] =
          along[static_cast<std::size_t>(r * columns + i)];
  }
  return Tensor::from(across, {columns, rows}, x.dtype());
}

/// Lets a call take `bytes` of scratch memory at once, so that a few rows are done in several goes.
struct LittleScratch {
  std::size_t before = kernels::scratch_limit();
  explicit LittleScratch(std::size_t bytes) { kernels::scratch_limit() = bytes; }
  ~LittleScratch() { kernels::scratch_limit() = before; }
};

/// Sum of squared differences over sum of squares; infinite where NaN or infinite elements differ.
inline double normalized_error(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.to_vector<double>();
  const std::vector<double> b = want.to_vector<double>();
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isfinite(a[i]) && std::isfinite(b[i])) {
      error += (a[i] - b[i]) * (a[i] - b[i]);
      size += b[i] * b[i];
    } else if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) {
      return HUGE_VAL;
    }
  }
  return size > 0 ? error / size : (error > 0 ? HUGE_VAL : 0);
}

/// The project's bound between CPU and CUDA; integers and bools must be equal.
inline double bound(DType dtype) {
  return dtype == DType::float32 ? 1e-7 : dtype == DType::float64 ? 1e-14 : 0;
}

/// run(backend, views) is called for both backends with views of the operands; operands[0 ..
/// n_outputs) are outputs. Outputs must agree, inputs must stay untouched, a second run must give
/// the same bits.
template <class Run>
void same_as_reference(const std::string& what, const std::vector<Tensor>& operands,
                       std::size_t n_outputs, Run&& run) {
  INFO(what);
  std::vector<Tensor> host;
  std::vector<kernels::View> views;
  for (const Tensor& t : operands) {
    auto storage = make_ref<Storage>(t.storage().bytes(), Device::cpu());
    std::memcpy(storage->data(), t.storage().data(), t.storage().bytes());
    host.push_back(Tensor::over(storage, t.layout(), t.dtype()));
    views.emplace_back(host.back());
  }
  run(kernels::reference_backend(), views);
  std::vector<std::vector<char>> first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::vector<std::unique_ptr<OnDevice>> device;
    std::vector<kernels::View> device_views;
    for (const Tensor& t : operands) {
      device.push_back(std::make_unique<OnDevice>(t));
      device_views.push_back(device.back()->view());
    }
    run(kernels::cuda_backend(), device_views);
    gpu::synchronize(gpu::default_stream());
    for (std::size_t i = 0; i < operands.size(); ++i) {
      INFO("operand " << i << (i < n_outputs ? " (output)" : " (input)"));
      if (i >= n_outputs) {
        CHECK(device[i]->is_untouched());
        continue;
      }
      const Tensor got = device[i]->back();
      CHECK(normalized_error(got, host[i]) <= bound(got.dtype()));
      const char* data = static_cast<const char*>(got.storage().data());
      const std::vector<char> bytes(data, data + got.storage().bytes());
      if (repeat == 0) {
        first.push_back(bytes);
      } else {
        CHECK(bytes == first[i]);
      }
    }
  }
}

}  // namespace flowgrad::test
