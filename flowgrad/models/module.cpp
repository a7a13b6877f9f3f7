#include "flowgrad/models/module.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/text.h"

namespace flowgrad {

void Module::collect(const std::string& prefix,
                     const std::function<void(const std::string&, const Item&)>& f) const {
  for (const Item& item : items_) f(prefix + item.name, item);
  for (const auto& [name, child] : children_)
    child->collect(name.empty() ? prefix : prefix + name + ".", f);
}

NamedTensors Module::parameters() const {
  NamedTensors out;
  collect("", [&](const std::string& name, const Item& item) {
    if (item.kind == Kind::parameter) out.emplace_back(name, item.tensor);
  });
  return out;
}

NamedTensors Module::buffers() const {
  NamedTensors out;
  collect("", [&](const std::string& name, const Item& item) {
    if (item.kind != Kind::parameter) out.emplace_back(name, item.tensor);
  });
  return out;
}

NamedTensors Module::state_dict() const {
  NamedTensors out;
  collect("", [&](const std::string& name, const Item& item) {
    out.emplace_back(name, item.tensor.detach());
  });
  return out;
}

int64_t Module::parameter_count() const {
  int64_t n = 0;
  for (const auto& [name, tensor] : parameters()) n += tensor.numel();
  return n;
}

namespace {

/// IoError where a finite value would become infinite.
void check_range(const std::string& name, const Tensor& value, DType wanted) {
  if (value.dtype() != DType::float64 || wanted != DType::float32) return;
  NoGrad off;
  if (all(equal(isfinite(value), isfinite(cast(value, wanted)))).item() != 0) return;
  throw IoError(fmt::format("load_state_dict: \"{}\" holds numbers beyond those of float32", name));
}

}  // namespace

void Module::load_state_dict(const NamedTensors& state) {
  std::map<std::string, Tensor> given;
  for (const auto& [name, tensor] : state) {
    if (!tensor.defined())
      throw IoError(fmt::format("load_state_dict: \"{}\" is an undefined tensor", name));
    if (!given.emplace(name, tensor).second)
      throw IoError(fmt::format("load_state_dict: \"{}\" is given twice", name));
  }
  std::vector<std::pair<Tensor, Tensor>> copies;
  std::set<std::string> known;
  collect("", [&](const std::string& name, const Item& item) {
    known.insert(name);
    const auto found = given.find(name);
    if (found == given.end()) {
      if (item.kind == Kind::buffer) return;
      if (!item.if_absent) {
        throw IoError(fmt::format("load_state_dict: {} \"{}\" {} is missing",
                                  item.kind == Kind::parameter ? "parameter" : "buffer", name,
                                  item.tensor.shape().to_string()));
      }
      copies.emplace_back(item.tensor,
                          full(item.tensor.shape(), *item.if_absent, item.tensor.dtype()));
      return;
    }
    const Tensor& value = found->second;
    if (value.shape() != item.tensor.shape()) {
      throw IoError(fmt::format("load_state_dict: \"{}\" has shape {}; this model needs {}", name,
                                value.shape().to_string(), item.tensor.shape().to_string()));
    }
    if (is_floating(item.tensor.dtype()) != is_floating(value.dtype())) {
      throw IoError(fmt::format("load_state_dict: \"{}\" is {}; this model needs {}", name,
                                name_of(value.dtype()), name_of(item.tensor.dtype())));
    }
    check_range(name, value, item.tensor.dtype());
    if (item.kind != Kind::buffer) {
      copies.emplace_back(item.tensor, value);
      return;
    }
    const auto have = value.to_vector<double>();
    const auto want = item.tensor.to_vector<double>();
    for (size_t i = 0; i < have.size(); ++i) {
      if (!(std::abs(have[i] - want[i]) <= 1e-6 * (1 + std::abs(want[i])))) {
        throw IoError(
            fmt::format("load_state_dict: buffer \"{}\" holds {} at element {}; this model's "
                        "configuration gives {}",
                        name, have[i], i, want[i]));
      }
    }
  });
  for (const auto& [name, tensor] : state) {
    if (!known.contains(name)) {
      throw IoError(fmt::format("load_state_dict: \"{}\" {} is not part of this model", name,
                                tensor.shape().to_string()));
    }
  }
  NoGrad off;
  for (const auto& [mine, value] : copies) copy_(mine, value);
}

void Module::to(Device device) {
  const auto move = [device](const Tensor& t) {
    if (t.device() == device) return;
    NoGrad off;
    t.replace_storage(flowgrad::to(t.detach(), device), "Module::to");
  };
  for (const Item& item : items_) move(item.tensor);
  for (const Tensor& t : constants_) move(t);
  for (auto& [name, child] : children_) child->to(device);
}

const Tensor* Module::first_tensor() const {
  if (!items_.empty()) return &items_.front().tensor;
  for (const auto& [name, child] : children_) {
    if (const Tensor* found = child->first_tensor()) return found;
  }
  return nullptr;
}

Device Module::device() const {
  const Tensor* first = first_tensor();
  return first ? first->device() : Device::cpu();
}

DType Module::dtype() const {
  std::optional<DType> first;
  collect("", [&](const std::string&, const Item& item) {
    if (!first && is_floating(item.tensor.dtype())) first = item.tensor.dtype();
  });
  return first.value_or(DType::float32);
}

void Module::train(bool on) {
  training_ = on;
  for (auto& [name, child] : children_) child->train(on);
}

void Module::check_new(const std::string& name) const {
  const auto has = [&](const auto& all, auto&& name_of) {
    return std::any_of(all.begin(), all.end(), [&](const auto& e) { return name_of(e) == name; });
  };
  if (!name.empty() && (has(items_, [](const Item& i) { return i.name; }) ||
                        has(children_, [](const auto& c) { return c.first; })))
    throw ValueError(
        fmt::format("Module: name {} given twice; a new one is accepted", quote(name)));
}

Tensor Module::add_parameter(const std::string& name, const Tensor& value) {
  check_new(name);
  Tensor leaf = value.detach().requires_grad_();
  items_.push_back({name, leaf, Kind::parameter});
  return leaf;
}

Tensor Module::add_buffer(const std::string& name, const Tensor& value) {
  check_new(name);
  items_.push_back({name, value, Kind::buffer});
  return value;
}

Tensor Module::add_state(const std::string& name, const Tensor& value,
                         std::optional<double> if_absent) {
  check_new(name);
  items_.push_back({name, value, Kind::state, if_absent});
  return value;
}

Tensor Module::add_constant(const Tensor& value) {
  constants_.push_back(value);
  return value;
}

}  // namespace flowgrad
