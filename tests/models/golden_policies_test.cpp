// The vision-language-action policy and the hierarchical flow against PyTorch's values.
#include "flowgrad/models/flow_vla.h"
#include "flowgrad/models/hierarchical.h"
#include "golden.h"

using namespace flowgrad;
using flowgrad::testing::both;
using flowgrad::testing::Golden;

namespace {

/// `pattern` of tests/golden/make_policies.py: uniform in [-1, 1), a hash of the element and of the
/// tensor's number.
std::vector<double> pattern(int64_t n, uint64_t number) {
  std::vector<double> out(static_cast<size_t>(n));
  for (uint64_t i = 0; i < out.size(); ++i) {
    uint64_t x = ((i + (number << 32)) * 0x9E3779B97F4A7C15u) >> 32;
    x = ((x ^ (x >> 16)) * 0x85EBCA6Bu) & 0xFFFFFFFFu;
    x = ((x ^ (x >> 13)) * 0xC2B2AE35u) & 0xFFFFFFFFu;
    x ^= x >> 16;
    out[i] = static_cast<double>(x) / 2147483648.0 - 1;
  }
  return out;
}

/// The weights that both sides make: `fill` of make_policies.py.
NamedTensors pattern_weights(const Module& module, DType dtype) {
  NamedTensors out;
  for (const auto& [name, p] : module.parameters()) {
    const auto fan_in = static_cast<double>(p.numel() / p.size(0));
    const double scale = name == "language_encoder.0.weight" ? 1
                         : p.rank() > 1                      ? std::sqrt(3 / fan_in)
                                                             : 0.3;
    std::vector<float> values;
    for (const double v : pattern(p.numel(), out.size()))
      values.push_back(static_cast<float>(v * scale));
    out.emplace_back(name, Tensor::from(values, p.shape(), dtype));
  }
  return out;
}

/// Products of the gradients with patterns and their norms, each relative to the norm.
void check_digest(const Golden& g, const std::string& name, const Tensor& objective,
                  const NamedTensors& parameters) {
  std::vector<Tensor> leaves;
  for (const auto& [n, p] : parameters) leaves.push_back(p);
  const auto gradients =
      grad(std::span(&objective, 1), leaves, {}, {.retain_graph = true, .allow_unused = true});
  const auto want = g[name].to_vector<double>();
  REQUIRE(want.size() == 2 * leaves.size());
  for (size_t k = 0; k < leaves.size(); ++k) {
    INFO(name << " " << parameters[k].first);
    const double norm = want[2 * k + 1];
    if (!gradients[k].defined()) {
      CHECK(norm == 0);
      continue;
    }
    const auto values = gradients[k].to_vector<double>();
    const auto p = pattern(leaves[k].numel(), 1000 + k);
    double product = 0, squares = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      product += values[i] * p[i];
      squares += values[i] * values[i];
    }
    CHECK(std::abs(product - want[2 * k]) <= 10 * g.tolerance * std::max(1.0, norm));
    CHECK(std::abs(std::sqrt(squares) - norm) <= 10 * g.tolerance * std::max(1.0, norm));
  }
}

QuantityInputs policy_inputs(const Golden& g) {
  QuantityInputs in{
      .input = g["input"], .time = g["time"], .condition = g["condition"], .noise = g["noise"]};
  in.images = g["images"];
  in.tokens = g["tokens"];
  in.robot = g["robot"];
  return in;
}

}  // namespace

TEST_CASE("the vision-language-action policy agrees with PyTorch",
          "[golden_policies_test][device]") {
  for (const auto& name : both({"flow_vla_tutorial", "flow_vla_tiny"})) {
    INFO(name);
    const Golden g(name);
    Config config = g.settings();
    for (const bool refine : {false, true}) {
      config["refine"] = refine ? "true" : "false";
      Generator generator(0);
      const auto model = make_model("flow_vla", config, generator, g.dtype);
      Module& module = model->module();
      module.load_state_dict(pattern_weights(module, g.dtype));
      module.to(testing::test_device());
      QuantityInputs in = policy_inputs(g);
      in.condition = {};
      const Tensor action =
          model->evaluate("generate", in, {.n_steps = 8, .solver = "euler"}, generator);
      g.check(refine ? "generate.refined" : "generate", action);
      if (refine) continue;
      g.check("condition", model->evaluate("condition", in, {}, generator));
      g.check("velocity", model->evaluate("velocity", in, {}, generator));
      const Tensor loss = model->evaluate("loss", in, {}, generator);
      g.check("loss", loss);
      check_digest(g, "grad", loss, module.parameters());
      const Tensor all = model->loss(in, generator);
      g.check("training_loss", all);
      check_digest(g, "grad_training", all, module.parameters());
      // The feature may be given in place of what it is made of.
      in.condition = g["condition"];
      in.images = in.tokens = in.robot = {};
      g.check("velocity", model->evaluate("velocity", in, {}, generator));
    }
  }
}

TEST_CASE("the hierarchical flow agrees with PyTorch", "[golden_policies_test][device]") {
  for (const auto& name : both({"hierarchical_a3"})) {
    INFO(name);
    const Golden g(name);
    Generator generator(0);
    const auto model = make_model("hierarchical", g.settings(), generator, g.dtype);
    model->module().load_state_dict(g.weights());
    model->module().to(testing::test_device());
    QuantityInputs in = policy_inputs(g);
    in.input.requires_grad_();
    g.check("latent", dynamic_cast<HierarchicalFlow&>(model->module()).latent(in.input));
    const Tensor loss = model->loss(in, generator);
    g.check("loss", loss);
    g.check_gradients("grad.", loss, model->module().parameters());
    g.check_gradient("grad_input", grad(loss, in.input));
    g.check("generate",
            model->evaluate("generate", in, {.n_steps = 8, .solver = "euler"}, generator));
  }
}
