#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/dispatch.h"
#include "flowgrad/kernels/parallel.h"

/// What the tests of the fast CPU backend share: every instruction set of this machine, thread
/// counts.
namespace flowgrad::testing {

inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const char* name : {"baseline", "avx2", "avx512"})
    if (kernels::cpu::has_isa(name)) names.emplace_back(name);
  return names;
}

/// Restores the instruction set and the number of threads at the end of a test.
class CpuSettings {
 public:
  CpuSettings() : isa_(kernels::cpu::isa().name), threads_(kernels::num_threads()) {}
  ~CpuSettings() {
    kernels::cpu::set_isa(isa_.c_str());
    kernels::set_num_threads(threads_);
  }

 private:
  std::string isa_;
  int threads_;
};

/// f() at every instruction set of this machine.
template <class F>
void each_instruction_set(F&& f) {
  CpuSettings restore;
  for (const std::string& name : instruction_sets()) {
    INFO(name);
    kernels::cpu::set_isa(name.c_str());
    f();
  }
}

/// The bytes of a contiguous tensor.
inline std::string bytes_of(const Tensor& t) {
  return std::string(static_cast<const char*>(t.raw()),
                     static_cast<size_t>(t.numel()) * size_of(t.dtype()));
}

/// run() has the same bits with one thread, two and three.
template <class Run>
void same_at_any_threads(const std::string& what, Run run) {
  CpuSettings restore;
  kernels::set_num_threads(1);
  const std::vector<Tensor> want = run();
  for (const int threads : {2, 3}) {
    kernels::set_num_threads(threads);
    const std::vector<Tensor> got = run();
    for (size_t i = 0; i < want.size(); ++i) {
      CAPTURE(what, threads, i);
      CHECK((bytes_of(got[i]) == bytes_of(want[i])));
    }
  }
}

/// A tensor of NaN, for a result: what is not written shows.
inline Tensor nothing(const Shape& shape, DType dtype) {
  const auto n = static_cast<size_t>(numel(shape));
  return Tensor::from(std::vector<double>(n, std::numeric_limits<double>::quiet_NaN()), shape,
                      dtype);
}

/// Largest errors accepted of float32 and of float64.
struct Bounds {
  double narrow, wide;
};
/// run(backend, case, dtype) on the fast backend, at every instruction set, against the reference
/// loops: error(got, want) of each result below the bound of its dtype.
template <class Cases, class Run, class Error>
void fast_equals_reference(const Cases& cases, Run run, Error error, Bounds bounds) {
  CpuSettings restore;
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const auto& c : cases) {
      const std::vector<Tensor> want = run(kernels::reference_backend(), c, dtype);
      for (const std::string& isa : instruction_sets()) {
        kernels::cpu::set_isa(isa.c_str());
        const std::vector<Tensor> got = run(kernels::fast_cpu_backend(), c, dtype);
        for (size_t i = 0; i < got.size(); ++i) {
          INFO(name_of(dtype) << " " << isa << " " << c.text() << ", result " << i);
          CHECK(error(got[i], want[i]) < (dtype == DType::float32 ? bounds.narrow : bounds.wide));
        }
      }
    }
  }
}

/// Largest difference of two elements over 1 + the size of the wanted one; infinite where one alone
/// is NaN or infinite, or they are infinities of other signs, or their numbers differ.
inline double relative_error(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.to_vector<double>(), b = want.to_vector<double>();
  if (a.size() != b.size()) return HUGE_VAL;
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double e = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
    if (!(e < HUGE_VAL)) return HUGE_VAL;
    error = std::max(error, e);
  }
  return error;
}

}  // namespace flowgrad::testing
