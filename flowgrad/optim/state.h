#pragma once

#include <string>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Raises IoError, naming `who` and the entry, unless `given` has exactly the names, shapes and
/// dtypes of `expected`, in any order.
void check_state(const std::string& who, const NamedTensors& expected, const NamedTensors& given);

/// The tensor of that name, which must be there.
const Tensor& entry(const NamedTensors& state, const std::string& name);

/// `values` as a rank-1 int64 tensor.
Tensor integers(const std::vector<int64_t>& values);

}  // namespace flowgrad
