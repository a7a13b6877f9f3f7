#pragma once

#include <map>
#include <optional>
#include <string>

#include "autograd/op_table.h"
#include "flowgrad/core/json.h"

/// How the pinned cases of golden/ops.safetensors are computed here: PyTorch's parameters and
/// names.
namespace flowgrad::testing {

struct Pinned {
  /// The row of the op table that the case belongs to.
  std::string row;
  Tensors (*f)(const Json& p, In x);
};
/// By the first part of a case's name.
const std::map<std::string, Pinned>& pinned_functions();

}  // namespace flowgrad::testing
