#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/error.h"
#include "flowgrad/kernels/gpu.cuh"

/// Device arrays for tests of kernels.
namespace flowgrad::test {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n)
      : n_(n), data_(static_cast<T*>(gpu::allocate(n * sizeof(T)))) {
    REQUIRE(data_ != nullptr);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    gpu::copy_to_device(data_, values.data(), n_ * sizeof(T), gpu::default_stream());
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { gpu::release(data_); }

  T* get() const { return data_; }
  std::size_t size() const { return n_; }
  std::vector<T> values() const {
    std::vector<T> out(n_);
    gpu::copy_to_host(out.data(), data_, n_ * sizeof(T), gpu::default_stream());
    gpu::synchronize(gpu::default_stream());
    return out;
  }

 private:
  std::size_t n_;
  T* data_;
};

/// Reproducible values in [-1, 1).
inline std::vector<float> random_floats(std::size_t n, std::uint32_t seed) {
  std::vector<float> values(n);
  std::uint32_t state = seed * 2654435761u + 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  }
  return values;
}

/// The largest |a - b|; NaN when any of the two has one. (std::max would drop it.)
inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (d != d) return d;
    if (d > worst) worst = d;
  }
  return worst;
}

/// The message of what call raises, or "" if it raises nothing.
template <class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace flowgrad::test
