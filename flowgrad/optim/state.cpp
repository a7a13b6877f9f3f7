#include "flowgrad/optim/state.h"

#include <fmt/format.h>

#include <map>

#include "flowgrad/core/error.h"

namespace flowgrad {

void check_state(const std::string& who, const NamedTensors& expected, const NamedTensors& given) {
  std::map<std::string, const Tensor*> by_name;
  for (const auto& [name, tensor] : given) {
    if (!by_name.emplace(name, &tensor).second) {
      throw IoError(fmt::format("{}: \"{}\" is given twice", who, name));
    }
  }
  for (const auto& [name, tensor] : expected) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) throw IoError(fmt::format("{}: \"{}\" is missing", who, name));
    const Tensor& is = *found->second;
    if (is.shape() != tensor.shape() || is.dtype() != tensor.dtype()) {
      throw IoError(fmt::format("{}: \"{}\" is {} {}; {} {} is needed", who, name,
                                is.shape().to_string(), name_of(is.dtype()),
                                tensor.shape().to_string(), name_of(tensor.dtype())));
    }
    by_name.erase(found);
  }
  if (!by_name.empty()) {
    throw IoError(fmt::format("{}: \"{}\" is not known here", who, by_name.begin()->first));
  }
}

const Tensor& entry(const NamedTensors& state, const std::string& name) {
  for (const auto& [own, tensor] : state) {
    if (own == name) return tensor;
  }
  throw IoError(fmt::format("state: \"{}\" is missing", name));
}

Tensor integers(const std::vector<int64_t>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

}  // namespace flowgrad
