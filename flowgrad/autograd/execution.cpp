#include "flowgrad/autograd/execution.h"

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad {

ReferenceKernels::ReferenceKernels()
    : were_reference_(kernels::cpu_backend() == kernels::CpuBackend::reference) {
  kernels::set_cpu_backend(kernels::CpuBackend::reference);
}

ReferenceKernels::~ReferenceKernels() {
  if (!were_reference_) kernels::set_cpu_backend(kernels::CpuBackend::fast);
}

ThreadCount::ThreadCount(int n) : before_(kernels::num_threads()) { kernels::set_num_threads(n); }

ThreadCount::~ThreadCount() { kernels::set_num_threads(before_); }

int ThreadCount::now() { return kernels::num_threads(); }

}  // namespace flowgrad
