#pragma once

#include <cmath>
#include <string>

#include "flowgrad/core/convert.h"
#include "flowgrad/kernels/backend.h"

/// Refusals that all backends word alike.
namespace flowgrad::kernels {

inline void require_dtype(const char* op, const char* argument, const View& v, DType wanted) {
  if (v.dtype != wanted) {
    throw DTypeError(std::string(op) + ": " + argument + " is " + name_of(v.dtype) + "; " +
                     name_of(wanted) + " is accepted");
  }
}

/// The arguments of Backend::lu.
inline void require_lu(const View& a, const View& lu, const View& pivots, const View& sign) {
  require_dtype("lu", "lu", lu, a.dtype);
  require_dtype("lu", "pivots", pivots, DType::int64);
  require_dtype("lu", "sign", sign, a.dtype);
}

/// The arguments of Backend::triangular_solve.
inline void require_triangular_solve(const View& a, const View& b, const View& out) {
  require_dtype("triangular_solve", "b", b, a.dtype);
  require_dtype("triangular_solve", "out", out, a.dtype);
}

/// The arguments of Backend::check_index.
inline void require_index_check(const View& index, const View& out, const View& found,
                                const View& any) {
  require_dtype("check_index", "index", index, DType::int64);
  require_dtype("check_index", "out", out, DType::int64);
  require_dtype("check_index", "found", found, DType::int64);
  require_dtype("check_index", "any", any, DType::int64);
  if (found.rank() == 2 && (*found.shape)[0] >= 1 && (*found.shape)[1] == 2) return;
  throw ShapeError("check_index: found has shape " + found.shape->to_string() +
                   "; (parts, 2) with at least 1 part is accepted");
}

[[noreturn]] inline void no_integer_form(const char* op) {
  throw DTypeError(std::string(op) + ": dtype int64 given; float32 and float64 are accepted");
}

/// A parameter of an operation on int64.
inline int64_t integer_parameter(const char* op, double value) {
  if (std::isfinite(value) && value != std::floor(value)) {
    throw ValueError(std::string(op) + ": parameter " + std::to_string(value) +
                     " given for an int64 tensor; whole numbers are accepted");
  }
  return convert<int64_t>(value);
}

/// `minor` is the order of the first leading minor that is not positive.
[[noreturn]] inline void not_positive_definite(int64_t entry, int64_t minor) {
  throw ValueError("cholesky: batch entry " + std::to_string(entry) +
                   " is not positive definite: its leading minor of order " +
                   std::to_string(minor) + " is not positive");
}

[[noreturn]] inline void zero_divisor() {
  throw ValueError("remainder: b contains 0; an int64 divisor must not be 0");
}

}  // namespace flowgrad::kernels
