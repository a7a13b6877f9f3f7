// Layers and the fixed-step solvers against PyTorch's values.
#include "flowgrad/models/layers.h"
#include "flowgrad/models/ode.h"
#include "flowgrad/models/time_embedding.h"
#include "golden.h"

using namespace flowgrad;
using flowgrad::testing::both;
using flowgrad::testing::Golden;

namespace {

std::unique_ptr<Layer> make_layer(const Golden& g) {
  Generator generator(0);
  if (g.model() == "linear") {
    return std::make_unique<Linear>(g.config["in_features"], g.config["out_features"], generator,
                                    g.dtype, g.config["bias"].get<bool>());
  }
  if (g.model() == "residual_block")
    return std::make_unique<ResidualBlock>(g.config["dim"], generator, g.dtype);
  const std::string activation = g.config["activation"];
  return std::make_unique<MLP>(g.config["widths"].get<std::vector<int64_t>>(),
                               activation == "relu"   ? relu
                               : activation == "tanh" ? flowgrad::tanh
                                                      : silu,
                               generator, g.dtype);
}

}  // namespace

TEST_CASE("layers agree with PyTorch", "[golden_layers_test][device]") {
  for (const auto& name : both({"linear_5_3", "linear_1_2_nobias", "mlp_relu", "mlp_tanh",
                                "mlp_silu", "residual_block_7", "residual_block_16"})) {
    INFO(name);
    const Golden g(name);
    check_layer(g, *make_layer(g));
  }
}

TEST_CASE("time embeddings agree with PyTorch", "[golden_layers_test][device]") {
  for (const auto& name :
       both({"time_embedding_8", "time_embedding_8_scaled", "time_embedding_128"})) {
    INFO(name);
    const Golden g(name);
    const Tensor t = g["time"].requires_grad_();
    const Tensor y = sinusoidal_embedding(t, g.config["dim"], g.config["scale"]);
    g.check("forward", y);
    g.check_gradient("grad_time", grad(sum(y * g["cotangent"]), t));
  }
}

TEST_CASE("fixed-step solvers agree with PyTorch, plain and checkpointed",
          "[golden_layers_test][device]") {
  const bool checkpointed = GENERATE(false, true);
  for (const auto& name : both({"odeint_d3"})) {
    INFO(name);
    const Golden g(name);
    const Tensor w = g["weights.weight"].requires_grad_();
    const Tensor b = g["weights.bias"].requires_grad_();
    for (const std::string solver : {"euler", "midpoint", "heun", "rk4"}) {
      for (const bool reverse : {false, true}) {
        const std::string id = solver + (reverse ? "_reverse" : "");
        const Tensor y0 = g["input"].detach().requires_grad_();
        const auto field = [w, b](double t, const Tensor& y) {
          return tanh(matmul(y, transpose(w)) + b * t);
        };
        const OdeOptions options{
            .solver = solver,
            .n_steps = g.config["n_steps"],
            .gradient = checkpointed ? OdeGradient::checkpointed : OdeGradient::direct};
        const Tensor y = odeint(field, y0, reverse ? 1 : 0, reverse ? 0 : 1, options);
        g.check("forward." + id, y);
        const Tensor objective = sum(y * g["cotangent"]);
        g.check_gradients("grad." + id + ".", objective, {{"weight", w}, {"bias", b}});
        g.check_gradient("grad_input." + id, grad(objective, y0));
      }
    }
  }
}
