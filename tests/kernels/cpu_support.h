#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "flowgrad/kernels/backend.h"
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

/// The bytes of a contiguous tensor.
inline std::string bytes_of(const Tensor& t) {
  return std::string(static_cast<const char*>(t.raw()),
                     static_cast<size_t>(t.numel()) * size_of(t.dtype()));
}

}  // namespace flowgrad::testing
