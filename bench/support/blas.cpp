#include "support/blas.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "flowgrad/cli/options.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad::bench {
namespace {

/// Fortran's interface; Int is int or int64_t.
template <class Int>
using Sgemm = void (*)(const char*, const char*, const Int*, const Int*, const Int*, const float*,
                       const float*, const Int*, const float*, const Int*, const float*, float*,
                       const Int*);
/// oneDNN's, row-major.
using DnnlSgemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t,
                          const float*, int64_t, float, float*, int64_t);

template <class Int>
auto fortran(void* symbol) {
  const auto sgemm = reinterpret_cast<Sgemm<Int>>(symbol);
  return [sgemm](const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k) {
    const float one = 1, zero = 0;
    const Int rows = static_cast<Int>(m), columns = static_cast<Int>(n),
              depth = static_cast<Int>(k);
    // Column-major, it sees the transposed matrices: c^T = b^T a^T.
    sgemm("N", "N", &columns, &rows, &depth, &one, b, &columns, a, &depth, &zero, c, &columns);
  };
}

}  // namespace

Blas open_blas(const std::string& text) {
  const size_t equals = text.find('='), colon = text.rfind(':');
  if (equals == std::string::npos || equals == 0) {
    throw cli::UsageError(
        fmt::format("--blas: \"{}\" given; NAME=LIBRARY[:SYMBOL] is accepted", text));
  }
  const bool named = colon != std::string::npos && colon > equals;
  const std::string library =
      text.substr(equals + 1, named ? colon - equals - 1 : std::string::npos);
  const std::string symbol = named ? text.substr(colon + 1) : "sgemm_";
  // Two such libraries may carry the same symbols in different versions; each keeps to its own.
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_DEEPBIND);
  if (handle == nullptr) throw cli::UsageError(fmt::format("--blas: {}", dlerror()));
  void* const found = dlsym(handle, symbol.c_str());
  if (found == nullptr) throw cli::UsageError(fmt::format("--blas: {}", dlerror()));
  for (const char* setter : {"omp_set_num_threads", "MKL_Set_Num_Threads",
                             "openblas_set_num_threads", "scipy_openblas_set_num_threads64_"}) {
    if (void* const set = dlsym(handle, setter))
      reinterpret_cast<void (*)(int)>(set)(kernels::num_threads());
  }
  Blas out{text.substr(0, equals), {}};
  if (symbol == "dnnl_sgemm") {
    out.sgemm = [sgemm = reinterpret_cast<DnnlSgemm>(found)](
                    const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k) {
      sgemm('N', 'N', m, n, k, 1, a, k, b, n, 0, c, n);
    };
  } else if (symbol.ends_with("sgemm_64_")) {
    out.sgemm = fortran<int64_t>(found);
  } else if (symbol.ends_with("sgemm_") || symbol == "sgemm") {
    out.sgemm = fortran<int>(found);
  } else {
    throw cli::UsageError(fmt::format(
        "--blas: symbol {} given; Fortran's sgemm_, sgemm or ...sgemm_64_ and dnnl_sgemm are "
        "accepted",
        symbol));
  }
  return out;
}

}  // namespace flowgrad::bench
