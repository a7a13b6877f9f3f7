#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "catch.hpp"
#include "close.h"
#include "device/device.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/models/registry.h"

namespace flowgrad::testing {

/// One file of tests/golden/models: PyTorch's numbers for one case (tests/golden/README.md).
class Golden {
 public:
  /// FLOWGRAD_MODEL_CASES where it is set, by golden/random_models.py.
  static std::string folder() {
    const char* const random = std::getenv("FLOWGRAD_MODEL_CASES");
    return random != nullptr ? random : FLOWGRAD_TEST_DATA "/golden/models";
  }

  explicit Golden(const std::string& name)
      : file_(load_safetensors(folder() + "/" + name + ".safetensors")),
        config(parse_json(file_.metadata.at("config"))),
        dtype(file_.metadata.at("dtype") == "float64" ? DType::float64 : DType::float32),
        tolerance(std::stod(file_.metadata.at("tolerance"))) {}

  /// The tensor of that name on the test's device, undefined when the case has none.
  Tensor operator[](const std::string& name) const {
    const Tensor* t = file_.find(name);
    return t ? on_device(*t) : Tensor();
  }
  const std::string& model() const { return file_.metadata.at("model"); }
  /// Names that begin with `prefix`, without it.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> out;
    for (const auto& [name, tensor] : file_.tensors) {
      if (name.starts_with(prefix)) out.push_back(name.substr(prefix.size()));
    }
    return out;
  }
  NamedTensors weights() const {
    NamedTensors out;
    for (const auto& n : names("weights.")) out.emplace_back(n, (*this)["weights." + n]);
    return out;
  }
  /// The configuration as the registry takes it.
  Config settings() const {
    Config out;
    for (const auto& [key, value] : config.items()) out[key] = plain_text(value);
    return out;
  }

  void check(const std::string& name, const Tensor& got) const { check(name, got, tolerance); }
  void check_gradient(const std::string& name, const Tensor& got) const {
    check(name, got, tolerance * 10);
  }
  /// Gradients of `objective` for every parameter against grad tensors of this prefix. A parameter
  /// that PyTorch gives no gradient has zeros in the file.
  void check_gradients(const std::string& prefix, const Tensor& objective,
                       const NamedTensors& parameters) const {
    std::vector<Tensor> leaves;
    for (const auto& [name, p] : parameters) leaves.push_back(p);
    const auto g =
        grad(std::span(&objective, 1), leaves, {}, {.retain_graph = true, .allow_unused = true});
    CHECK(names(prefix).size() == leaves.size());
    for (size_t i = 0; i < leaves.size(); ++i) {
      check_gradient(prefix + parameters[i].first, g[i].defined() ? g[i] : zeros_like(leaves[i]));
    }
  }

 private:
  void check(const std::string& name, const Tensor& got, double limit) const {
    const Tensor want = (*this)[name];
    INFO(name);
    REQUIRE(want.defined());
    CHECK(got.dtype() == want.dtype());
    CHECK(distance(got, want) <= limit);
  }

  SafetensorsFile file_;

 public:
  Json config;
  DType dtype;
  double tolerance;
};

/// Values and all gradients of a layer on the test's device.
inline void check_layer(const Golden& g, Layer& layer) {
  layer.load_state_dict(g.weights());
  layer.to(test_device());
  const Tensor x = g["input"].requires_grad_();
  const Tensor y = layer.forward(x);
  g.check("forward", y);
  const Tensor objective = sum(y * g["cotangent"]);
  g.check_gradients("grad.", objective, layer.parameters());
  g.check_gradient("grad_input", grad(objective, x));
}

/// The cases in float64 and in float32; of a folder of random models those whose names begin with
/// `kind`.
inline std::vector<std::string> both(const std::vector<std::string>& cases,
                                     const std::string& kind = "fixed") {
  std::vector<std::string> out;
  if (std::getenv("FLOWGRAD_MODEL_CASES") != nullptr) {
    for (const auto& file : std::filesystem::directory_iterator(Golden::folder()))
      if (const std::string name = file.path().stem(); name.starts_with(kind + "_"))
        out.push_back(name);
    std::sort(out.begin(), out.end());
    return out;
  }
  for (const auto& c : cases) {
    out.push_back(c);
    out.push_back(c + "_f32");
  }
  return out;
}

}  // namespace flowgrad::testing
