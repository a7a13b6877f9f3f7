// The models against PyTorch's values, through the registry where it knows them.
#include "flowgrad/models/consistency.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/planar.h"
#include "flowgrad/models/realnvp.h"
#include "golden.h"

using namespace flowgrad;
using flowgrad::testing::both;
using flowgrad::testing::Golden;

namespace {

std::unique_ptr<Model> open(const Golden& g) {
  Generator generator(0);
  auto model = make_model(g.model(), g.settings(), generator, g.dtype);
  model->module().load_state_dict(g.weights());
  model->module().to(testing::test_device());
  return model;
}

QuantityInputs inputs_of(const Golden& g) {
  return {g["input"], g["time"], g["condition"], g["noise"], g["probe"], g["step_noise"]};
}

/// The loss, and its gradients with respect to every parameter and to the input.
void check_loss(const Golden& g, Model& model, const QuantityInputs& in, Generator& generator) {
  const Tensor loss = model.loss(in, generator);
  g.check("loss", loss);
  g.check_gradients("grad.", loss, model.module().parameters());
  g.check_gradient("grad_input", grad(loss, in.input));
}

}  // namespace

TEST_CASE("density models agree with PyTorch", "[golden_models_test][device]") {
  for (const auto& name :
       both({"planar_d2", "planar_d3", "planar_d7", "realnvp_d2", "realnvp_d3_unbounded",
             "realnvp_d7_conditional", "cnf_exact_d2", "cnf_exact_d7", "cnf_exact_d3_midpoint",
             "cnf_exact_d3_euler", "cnf_hutchinson_d3", "cnf_hutchinson_d2_gaussian",
             "realnvp_d3_mixture", "spline_d2", "spline_d3_all", "spline_d7_one", "glow_1x4x4",
             "glow_3x4x8", "glow_2x4x4_conditional"},
            "density")) {
    INFO(name);
    const Golden g(name);
    const auto model = open(g);
    Generator generator(0);
    QuantityInputs in = inputs_of(g);
    in.input.requires_grad_();
    const auto value = [&](const char* quantity) {
      return model->evaluate(quantity, in, {}, generator);
    };
    g.check("forward", value("forward"));
    g.check("log_det", value("log_det"));
    g.check("inverse", value("inverse"));
    const Tensor log_prob = value("log_prob");
    g.check("log_prob", log_prob);
    g.check_gradients("grad.", value("loss"), model->module().parameters());
    g.check_gradient("grad_input", grad(mean(log_prob), in.input));
    const Tensor kl = mean(sum(square(value("forward")), {1}) * 0.5 - value("log_det"));
    g.check_gradients("grad_forward.", kl, model->module().parameters());
  }
}

TEST_CASE("single layers of the discrete flows agree with PyTorch",
          "[golden_models_test][device]") {
  for (const auto& name : both({"planar_layer_d3", "coupling_d3", "coupling_d2_unbounded"})) {
    INFO(name);
    const Golden g(name);
    Generator generator(0);
    std::unique_ptr<Flow> flow;
    if (g.model() == "planar_layer") {
      flow = std::make_unique<PlanarFlow>(g.config["dim"], generator, g.dtype);
    } else {
      RealNVPOptions o;
      o.dim = g.config["dim"];
      o.hidden = g.config["hidden"];
      o.log_scale_bound = g.config["log_scale_bound"];
      flow = std::make_unique<CouplingLayer>(o, g.config["mask"][0] == 1, generator, g.dtype);
    }
    flow->to(testing::test_device());
    flow->load_state_dict(g.weights());
    const Tensor x = g["input"].requires_grad_();
    const Transformed y = flow->forward(x);
    const Transformed z = flow->inverse(x);
    g.check("forward", y.value);
    g.check("log_det", y.log_det);
    g.check("inverse", z.value);
    g.check("inverse_log_det", z.log_det);
    const Tensor log_prob = flow->log_prob(x);
    g.check("log_prob", log_prob);
    g.check_gradients("grad.", -mean(log_prob), flow->parameters());
    g.check_gradients("grad_forward.", mean(sum(square(y.value), {1}) * 0.5 - y.log_det),
                      flow->parameters());
    g.check_gradient("grad_input", grad(mean(log_prob), x));
  }
}

TEST_CASE("flow matching agrees with PyTorch", "[golden_models_test][device]") {
  for (const auto& name :
       both({"flow_matching_a2", "flow_matching_a7_conditional", "flow_matching_a3_scale1"},
            "matching")) {
    INFO(name);
    const Golden g(name);
    const auto model = open(g);
    Generator generator(0);
    QuantityInputs in = inputs_of(g);
    in.input.requires_grad_();
    g.check("velocity", model->evaluate("velocity", in, {}, generator));
    check_loss(g, *model, in, generator);
    for (const std::string solver : {"euler", "midpoint", "rk4"}) {
      const Tensor x = model->evaluate("generate", in, {.n_steps = 8, .solver = solver}, generator);
      g.check(solver == "euler" ? "generate" : "generate." + solver, x);
      CHECK_FALSE(x.requires_grad());
    }
  }
}

TEST_CASE("likelihoods of flow matching agree with PyTorch", "[golden_models_test][device]") {
  for (const auto& name : both({"likelihood_a2", "likelihood_a3_conditional"}, "likelihood")) {
    const Golden g(name);
    const auto model = open(g);
    Generator generator(0);
    for (const std::string trace : {"exact", "hutchinson"}) {
      INFO(name << " " << trace);
      QuantityInputs in{.input = g["input"].requires_grad_(), .condition = g["condition"]};
      if (trace == "hutchinson") in.probe_noise = g["probe"];
      const Tensor log_prob =
          model->evaluate("log_prob", in, {.n_steps = 2, .solver = "midpoint"}, generator);
      g.check("log_prob." + trace, log_prob);
      g.check_gradients("grad_" + trace + ".", -mean(log_prob), model->module().parameters());
      g.check_gradient("grad_input." + trace, grad(mean(log_prob), in.input));
    }
  }
}

TEST_CASE("consistency models agree with PyTorch", "[golden_models_test][device]") {
  for (const auto& name : both({"consistency_a2", "consistency_a5_conditional"}, "consistency")) {
    INFO(name);
    const Golden g(name);
    const auto model = open(g);
    auto& net = dynamic_cast<Consistency&>(model->module());
    Generator generator(0);
    QuantityInputs in = inputs_of(g);
    in.input.requires_grad_();
    g.check("end_point", model->evaluate("end_point", in, {}, generator));
    check_loss(g, *model, in, generator);
    g.check("generate", model->evaluate("generate", in, {}, generator));

    FlowMatchingOptions o;
    for (auto [to, key] : {std::pair{&o.condition_dim, "condition_dim"},
                           {&o.action_dim, "action_dim"},
                           {&o.time_dim, "time_dim"},
                           {&o.hidden, "hidden"}}) {
      *to = g.config[key];
    }
    o.time_scale = g.config["time_scale"];
    FlowMatching teacher(o, generator, g.dtype);
    teacher.to(testing::test_device());
    NamedTensors weights;
    for (const auto& n : g.names("teacher.")) weights.emplace_back(n, g["teacher." + n]);
    teacher.load_state_dict(weights);
    const Tensor distilled =
        net.loss(in.input, in.condition, generator, {.teacher = &teacher}, in.noise, in.time);
    g.check("loss.distilled", distilled);
    g.check_gradients("grad_distilled.", distilled, net.parameters());
  }
}

TEST_CASE("score models agree with PyTorch", "[golden_models_test][device]") {
  for (const auto& name : both({"score_a2", "score_a5_conditional"}, "score")) {
    INFO(name);
    const Golden g(name);
    const auto model = open(g);
    Generator generator(0);
    QuantityInputs in = inputs_of(g);
    in.input.requires_grad_();
    g.check("noise_prediction", model->evaluate("noise_prediction", in, {}, generator));
    g.check("velocity", model->evaluate("velocity", in, {}, generator));
    check_loss(g, *model, in, generator);
    for (const std::string solver : {"euler", "midpoint"}) {
      g.check("generate." + solver,
              model->evaluate("generate", in, {.n_steps = 8, .solver = solver}, generator));
    }
  }
}

TEST_CASE("the diffusion policy agrees with PyTorch", "[golden_models_test][device]") {
  for (const auto& name :
       both({"diffusion_a2", "diffusion_a7_state", "diffusion_a3_posterior"}, "diffusion")) {
    INFO(name);
    const Golden g(name);
    const auto model = open(g);
    auto& net = dynamic_cast<DiffusionPolicy&>(model->module());
    Generator generator(0);
    QuantityInputs in = inputs_of(g);
    in.input.requires_grad_();
    g.check("noise_prediction", model->evaluate("noise_prediction", in, {}, generator));
    check_loss(g, *model, in, generator);

    g.check("generate", model->evaluate("generate", in, {}, generator));
    g.check("generate.ddim", model->evaluate("generate", in, {.solver = "ddim"}, generator));
    const auto sampled = [&](const char* what, DiffusionSampling s, const Tensor& state) {
      s.step_noise = in.step_noise;
      g.check(what, net.generate(in.noise, state, generator, s));
    };
    const auto half = g["ddim_timesteps"].to_vector<int64_t>();
    sampled("generate.ddpm_beta", {.variance = StepVariance::beta}, in.condition);
    sampled("generate.ddpm_posterior", {.variance = StepVariance::posterior}, in.condition);
    sampled("generate.ddpm_clip1", {.clip = 1}, in.condition);
    sampled("generate.ddim_half", {.ddim_timesteps = half}, in.condition);
    sampled("generate.ddim_half_eta0.5", {.ddim_timesteps = half, .eta = 0.5}, in.condition);
    if (in.condition.defined()) sampled("generate.one_state", {}, slice(in.condition, 0, 0, 1));
  }
}
