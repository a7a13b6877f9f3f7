#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// A part of a model: named parameters, buffers and sub-modules. Names join with dots and follow
/// PyTorch's for the same module tree, so weights travel both ways. Not copyable.
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// Trainable tensors (leaves), depth first in the order of registration.
  NamedTensors parameters() const;
  /// Tensors that belong to the state but are not trained (masks, schedules).
  NamedTensors buffers() const;
  /// Parameters and buffers, in the order PyTorch's state_dict() lists them.
  NamedTensors state_dict() const;
  int64_t parameter_count() const;

  /// Copies values by name. A missing or extra parameter, or a wrong shape, raises IoError naming
  /// it; values are converted between float32 and float64, and copied to where the parameters are.
  /// Buffers may be absent; a buffer that is present must agree with this model's within 1e-6, but
  /// those of add_state take its values.
  /// Nothing is changed when anything is wrong.
  void load_state_dict(const NamedTensors& state);

  /// Moves everything to a device, in place: handles of parameters stay valid and stay leaves,
  /// their gradients are dropped. Before an optimiser, an Ema or a graph is made of them.
  void to(Device device);
  /// Where the first parameter or buffer is; the CPU for a module without any.
  Device device() const;

  /// Of the first parameter or floating-point buffer; float32 for a module without any.
  DType dtype() const;

  /// Training or evaluation (dropout and the like), for this module and everything below.
  void train(bool on = true);
  bool training() const { return training_; }

 protected:
  /// Marks the tensor as a leaf and registers it. Here and below ValueError for a name that the
  /// module has already.
  Tensor add_parameter(const std::string& name, const Tensor& value);
  Tensor add_buffer(const std::string& name, const Tensor& value);
  /// A buffer that does not follow from the configuration (drawn, or found from data): loading
  /// copies it as it copies parameters. Where a file lacks it every element becomes `if_absent`;
  /// without that value it must not be missing.
  Tensor add_state(const std::string& name, const Tensor& value,
                   std::optional<double> if_absent = {});
  /// Registers a tensor that follows from the configuration: it moves with the module and is no
  /// part of its state.
  Tensor add_constant(const Tensor& value);
  /// A sub-module, whose names follow `name` and a dot, or stand as they are where `name` is empty.
  template <class M>
  M& add_module(const std::string& name, std::unique_ptr<M> module) {
    check_new(name);
    M& reference = *module;
    children_.push_back({name, std::move(module)});
    return reference;
  }

 private:
  enum class Kind { parameter, buffer, state };
  struct Item {
    std::string name;
    Tensor tensor;
    Kind kind;
    std::optional<double> if_absent = {};
  };
  void collect(const std::string& prefix,
               const std::function<void(const std::string&, const Item&)>& f) const;

  const Tensor* first_tensor() const;
  void check_new(const std::string& name) const;

  std::vector<Item> items_;
  std::vector<Tensor> constants_;
  std::vector<std::pair<std::string, std::unique_ptr<Module>>> children_;
  bool training_ = true;
};

}  // namespace flowgrad
