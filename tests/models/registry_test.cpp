// Models by name: configuration, state dicts, quantities and what is refused.
#include "flowgrad/models/registry.h"

#include <filesystem>

#include "flowgrad/core/safetensors.h"
#include "flowgrad/models/config.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

std::unique_ptr<Model> make(const std::string& name, const Config& config = {}, uint64_t seed = 0,
                            DType dtype = DType::float32) {
  Generator generator(seed);
  return make_model(name, config, generator, dtype);
}

std::vector<std::string> names_of(const NamedTensors& tensors) {
  std::vector<std::string> out;
  for (const auto& [name, t] : tensors) out.push_back(name);
  return out;
}

/// Small models of every name with inputs for their loss.
struct Sample {
  std::string name;
  Config config;
};
const std::vector<Sample> kSmall = {
    {"planar", {{"n_flows", "3"}}},
    {"realnvp",
     {{"n_flows", "3"}, {"hidden", "8"}, {"actnorm", "true"}, {"permute", "true"}, {"dim", "3"}}},
    {"realnvp", {{"n_flows", "2"}, {"hidden", "8"}, {"condition_dim", "3"}}},
    {"spline", {{"n_flows", "2"}, {"hidden", "8"}, {"bins", "3"}}},
    {"spline",
     {{"n_flows", "2"},
      {"hidden", "8"},
      {"bins", "4"},
      {"dim", "3"},
      {"condition_dim", "3"},
      {"actnorm", "true"},
      {"permute", "true"},
      {"base_components", "2"}}},
    {"cnf", {{"hidden", "8"}}},
    {"cnf", {{"hidden", "8"}, {"solver", "rk4"}, {"n_steps", "3"}, {"condition_dim", "3"}}},
    {"cnf", {{"hidden", "8"}, {"solver", "rk4"}, {"n_steps", "3"}, {"trace", "exact"}}},
    {"glow", {{"height", "2"}, {"width", "4"}, {"levels", "1"}, {"steps", "1"}, {"hidden", "4"}}},
    {"flow_matching",
     {{"hidden", "8"}, {"time_dim", "8"}, {"condition_dim", "3"}, {"time_law", "beta"}}},
    {"flow_matching",
     {{"hidden", "8"}, {"net", "mlp"}, {"depth", "2"}, {"coupling", "ot"}, {"sigma", "0.1"}}},
    {"consistency",
     {{"hidden", "8"}, {"time_dim", "8"}, {"condition_dim", "3"}, {"coupling", "sinkhorn"}}},
    {"score", {{"hidden", "8"}, {"time_dim", "8"}, {"condition_dim", "3"}}},
    {"diffusion", {{"hidden", "8"}, {"state_dim", "3"}, {"n_timesteps", "7"}}},
    {"flow_vla", {{"hidden", "8"}, {"height", "16"}, {"width", "12"}, {"robot_dim", "2"}}},
    {"hierarchical",
     {{"hidden", "8"},
      {"time_dim", "8"},
      {"latent_dim", "4"},
      {"decoder_hidden", "6"},
      {"condition_dim", "3"}}},
};

QuantityInputs inputs_for(Model& model, int64_t n) {
  Generator generator(17);
  const Config& c = model.config();
  QuantityInputs in = model.observation(n, generator);
  in.input = randn({n, model.width()}, generator);
  const std::string condition = c.contains("condition_dim") ? c.at("condition_dim")
                                : c.contains("state_dim")   ? c.at("state_dim")
                                                            : "0";
  if (condition != "0") in.condition = randn({n, std::stoll(condition)}, generator);
  return in;
}

}  // namespace

TEST_CASE("parameter counts", "[registry_test]") {
  CHECK(make("realnvp")->module().parameter_count() == 1073184);
  CHECK(make("cnf")->module().parameter_count() == 4546);
  CHECK(make("planar")->module().parameter_count() == 50);
  CHECK(make("flow_matching", {{"condition_dim", "256"}, {"action_dim", "7"}})
            ->module()
            .parameter_count() == 1320839);
  CHECK(
      make("diffusion", {{"state_dim", "256"}, {"action_dim", "7"}})->module().parameter_count() ==
      332807);
  CHECK(make("flow_vla", {{"preset", "tutorial"}})->module().parameter_count() == 14074766);
  CHECK(make("flow_vla")->module().parameter_count() < 1000000);
  int64_t count = 0;
  for (const auto& [name, p] : make("hierarchical")->module().parameters()) {
    if (!name.starts_with("action_encoder") && !name.starts_with("to_latent")) count += p.numel();
  }
  CHECK(count == 3818375);
}

TEST_CASE("names in the state dict", "[registry_test]") {
  using N = std::vector<std::string>;
  CHECK(names_of(make("planar", {{"n_flows", "1"}})->module().state_dict()) ==
        N{"flows.0.weight", "flows.0.bias", "flows.0.scale"});
  CHECK(names_of(make("realnvp", {{"n_flows", "1"}, {"hidden", "2"}})->module().state_dict()) ==
        N{"flows.0.mask", "flows.0.scale_net.0.weight", "flows.0.scale_net.0.bias",
          "flows.0.scale_net.2.weight", "flows.0.scale_net.2.bias", "flows.0.scale_net.4.weight",
          "flows.0.scale_net.4.bias", "flows.0.translate_net.0.weight",
          "flows.0.translate_net.0.bias", "flows.0.translate_net.2.weight",
          "flows.0.translate_net.2.bias", "flows.0.translate_net.4.weight",
          "flows.0.translate_net.4.bias"});
  CHECK(names_of(make("cnf")->module().state_dict()) ==
        N{"ode_func.net.0.weight", "ode_func.net.0.bias", "ode_func.net.2.weight",
          "ode_func.net.2.bias", "ode_func.net.4.weight", "ode_func.net.4.bias"});
  CHECK(names_of(make("flow_matching")->module().state_dict()) ==
        N{"time_embed.1.weight", "time_embed.1.bias", "time_embed.3.weight", "time_embed.3.bias",
          "velocity_net.0.weight", "velocity_net.0.bias", "velocity_net.2.block.0.weight",
          "velocity_net.2.block.0.bias", "velocity_net.2.block.2.weight",
          "velocity_net.2.block.2.bias", "velocity_net.3.block.0.weight",
          "velocity_net.3.block.0.bias", "velocity_net.3.block.2.weight",
          "velocity_net.3.block.2.bias", "velocity_net.4.weight", "velocity_net.4.bias"});
  CHECK(names_of(make("diffusion")->module().state_dict()) ==
        N{"betas", "alphas", "alphas_cumprod", "denoiser.0.weight", "denoiser.0.bias",
          "denoiser.2.block.0.weight", "denoiser.2.block.0.bias", "denoiser.2.block.2.weight",
          "denoiser.2.block.2.bias", "denoiser.3.block.0.weight", "denoiser.3.block.0.bias",
          "denoiser.3.block.2.weight", "denoiser.3.block.2.bias", "denoiser.4.weight",
          "denoiser.4.bias"});
}

TEST_CASE("defaults as documented", "[registry_test]") {
  CHECK(model_names() == std::vector<std::string>{"planar", "realnvp", "spline", "glow", "cnf",
                                                  "flow_matching", "consistency", "score",
                                                  "diffusion", "flow_vla", "hierarchical"});
  for (const std::string& name : model_names()) {
    const auto model = make(name);
    CHECK(model->name() == name);
    CHECK(model->config().size() == config_keys(name).size());
    for (const ConfigKey& key : config_keys(name)) {
      CHECK(model->config().at(key.name) == key.default_value);
      CHECK_FALSE(key.description.empty());
    }
  }
  CHECK(make("realnvp")->config().at("log_scale_bound") == "3");
  CHECK(make("cnf")->config().at("trace") == "hutchinson");
  CHECK(make("flow_matching")->config().at("time_scale") == "1000");
  CHECK(make("diffusion")->config().at("schedule") == "squared_cosine");
}

TEST_CASE("bad names, keys and values are refused", "[registry_test]") {
  const auto refused = [](const std::string& name, const Config& config) {
    return raised<ValueError>([&] { make(name, config); });
  };
  CHECK(contains(refused("realnpv", {}),
                 {"unknown model \"realnpv\"", "did you mean \"realnvp\"", "planar"}));
  CHECK(contains(refused("zzzzzzzz", {}), {"unknown model", "accepted are planar"}));
  CHECK(contains(raised<ValueError>([] { config_keys("cnff"); }), {"did you mean \"cnf\""}));
  CHECK(contains(refused("realnvp", {{"hiden", "3"}}),
                 {"model realnvp", "\"hiden\"", "did you mean \"hidden\"", "n_flows"}));
  CHECK(contains(refused("realnvp", {{"dim", "1"}}), {"dim = 1", "at least 2", "because"}));
  CHECK(contains(refused("cnf", {{"solver", "dopri8"}}),
                 {"solver", "dopri8", "euler, midpoint, heun, rk4, dopri5_fixed, dopri5"}));
  CHECK(contains(refused("cnf", {{"n_steps", "7"}}), {"n_steps = 7", "dopri5", "rk4"}));
  CHECK(contains(refused("cnf", {{"rtol", "-1"}}), {"rtol", "-1", "at least 0"}));
  CHECK(contains(refused("cnf", {{"redraw_probe", "true"}, {"trace", "exact"}}), {"redraw_probe"}));
  CHECK(contains(refused("cnf", {{"per_row", "true"}, {"gradient", "adjoint"}}), {"per_row"}));
  CHECK(contains(refused("glow", {{"condition_dim", "-1"}}), {"condition_dim", "-1", "from 0"}));
  CHECK(contains(refused("cnf", {{"probe", "sobol"}}), {"probe", "sobol", "rademacher, gaussian"}));
  CHECK(contains(refused("realnvp", {{"permute", "yes"}}), {"permute", "yes", "false, true"}));
  for (const std::string bad : {"2.5", "two", "", "0", "-1", "99999999999", "1e3", " 2", "2 "}) {
    INFO(bad);
    CHECK(contains(refused("planar", {{"n_flows", bad}}),
                   {"model planar", "n_flows", bad, "integer from 1"}));
  }
  for (const std::string bad : {"nan", "inf", "-0.5", "x", ""}) {
    INFO(bad);
    CHECK(contains(refused("realnvp", {{"log_scale_bound", bad}}),
                   {"log_scale_bound", bad, "at least 0"}));
  }
  CHECK(contains(refused("flow_matching", {{"time_dim", "9"}}), {"9", "even numbers from 4"}));
  CHECK(make("realnvp", {{"log_scale_bound", "2.5"}, {"hidden", "4"}})
            ->config()
            .at("log_scale_bound") == "2.5");
  CHECK(make("cnf", {{"rtol", "0.000001"}})->config().at("rtol") == "1e-06");
}

TEST_CASE("the nearest name by edit distance", "[registry_test]") {
  const std::vector<std::string> names{"log_prob", "log_det", "loss"};
  CHECK(nearest_name("logprob", names) == "log_prob");
  CHECK(nearest_name("los", names) == "loss");
  CHECK(nearest_name("banana", names).empty());
  CHECK(nearest_name("x", {}).empty());
}

TEST_CASE("quantities that cannot be computed are refused", "[registry_test]") {
  Generator generator(0);
  const auto realnvp = make("realnvp", {{"hidden", "4"}});
  const auto matching = make("flow_matching", {{"hidden", "4"}});
  const auto diffusion = make("diffusion", {{"hidden", "4"}});
  const Tensor x = randn({3, 2}, generator);
  const auto refused = [&](Model& m, const std::string& q, const QuantityInputs& in,
                           const QuantityOptions& o = {}) {
    return raised<ValueError>([&] { m.evaluate(q, in, o, generator); });
  };
  CHECK(contains(refused(*realnvp, "log_porb", {.input = x}),
                 {"log_porb", "did you mean \"log_prob\"", "forward"}));
  CHECK(contains(refused(*realnvp, "log_prob", {}), {"log_prob", "input"}));
  CHECK(contains(refused(*matching, "velocity", {.input = x}), {"velocity", "time"}));
  CHECK(contains(refused(*realnvp, "sample", {}, {.n_samples = 0}), {"0 samples", "at least 1"}));
  CHECK(contains(refused(*realnvp, "sample", {}, {.n_steps = 5}), {"n_steps", "no solver"}));
  CHECK(contains(refused(*realnvp, "sample", {}, {.guidance = 2}), {"guidance 2"}));
  CHECK(contains(refused(*matching, "generate", {}, {.n_steps = -1}), {"n_steps = -1"}));
  CHECK(contains(refused(*matching, "generate", {}, {.solver = "dopri"}),
                 {"dopri", "euler, midpoint"}));
  CHECK(contains(refused(*matching, "generate", {}, {.n_steps = 5, .solver = "dopri5"}),
                 {"n_steps = 5", "dopri5"}));
  CHECK(contains(refused(*diffusion, "generate", {}, {.solver = "euler"}),
                 {"euler", "ddpm and ddim"}));
  CHECK(contains(refused(*diffusion, "generate", {}, {.n_steps = 5}), {"5 steps", "100", "ddim"}));
  CHECK(contains(raised<ShapeError>([&] {
                   realnvp->evaluate("forward", {.input = ones({3, 3})}, {}, generator);
                 }),
                 {"(3, 3)", "(N, 2)"}));
}

TEST_CASE("a solver asked for holds for that call only", "[registry_test]") {
  const auto cnf = make("cnf", {{"hidden", "8"}, {"trace", "exact"}});
  Generator generator(0);
  const QuantityInputs in{.input = randn({3, 2}, generator)};
  const Tensor own = cnf->evaluate("forward", in, {}, generator);
  CHECK(distance(cnf->evaluate("forward", in, {.n_steps = 1}, generator), own) > 0);
  // Steps without a solver mean rk4.
  CHECK(distance(cnf->evaluate("forward", in, {.n_steps = 3}, generator),
                 cnf->evaluate("forward", in, {.n_steps = 3, .solver = "rk4"}, generator)) == 0);
  CHECK(distance(cnf->evaluate("forward", in, {.solver = "euler"}, generator), own) > 0);
  CHECK(distance(cnf->evaluate("forward", in, {}, generator), own) == 0);
}

TEST_CASE("sampling takes its rows from n, noise or condition, and its numbers from the seed",
          "[registry_test]") {
  for (const Sample& s : kSmall) {
    INFO(s.name);
    const auto model = make(s.name, s.config);
    QuantityInputs in = inputs_for(*model, 5);
    in.input = {};
    const int64_t wanted = in.condition.defined() || in.images.defined() ? 5 : 3;
    Generator a(1), b(1), c(2);
    const Tensor x = model->evaluate("sample", in, {.n_samples = 3}, a);
    CHECK(x.size(0) == wanted);
    CHECK_FALSE(x.requires_grad());
    CHECK(distance(model->evaluate("sample", in, {.n_samples = 3}, b), x) == 0);
    CHECK(distance(model->evaluate("sample", in, {.n_samples = 3}, c), x) > 0);
    if (!in.condition.defined()) continue;
    in.condition = slice(in.condition, 0, 0, 1);
    CHECK(model->evaluate("sample", in, {.n_samples = 3}, c).size(0) == 3);
  }
}

TEST_CASE("a condition of one row serves all rows", "[registry_test]") {
  for (const Sample& s : kSmall) {
    const auto model = make(s.name, s.config);
    QuantityInputs one = inputs_for(*model, 4);
    if (!one.condition.defined()) continue;
    INFO(s.name);
    one.condition = slice(one.condition, 0, 0, 1);
    Generator noise(18);
    one.noise = randn({4, model->noise_width()}, noise);
    one.time = s.name == "diffusion" ? Tensor::from(std::vector<int64_t>{0, 1, 2, 6}, {4})
                                     : Tensor::from(std::vector<double>{0, 0.1, 0.6, 0.99}, {4});
    if (s.name == "hierarchical") one.time = {};  // one for every step, drawn
    QuantityInputs each = one;
    each.condition = contiguous(expand(one.condition, {4, one.condition.size(1)}));
    for (const std::string& q : model->quantities()) {
      INFO(q);
      Generator a(1), b(1);
      const Tensor x = model->evaluate(q, one, {}, a);
      CHECK(distance(x, model->evaluate(q, each, {}, b)) == 0);
    }
    one.noise = {};
    Generator c(1);
    CHECK(model->evaluate("sample", one, {.n_samples = 6}, c).size(0) == 6);
  }
}

TEST_CASE("a condition of another width is refused by every model", "[registry_test]") {
  const Config image{{"height", "2"}, {"width", "2"}, {"levels", "1"}, {"steps", "1"}};
  for (const auto& name : model_names()) {
    Config config = name == "glow" ? image : Config{};
    bool conditional = false;
    for (const ConfigKey& key : config_keys(name)) {
      if (key.name != "condition_dim" && key.name != "state_dim") continue;
      config[key.name] = "2";
      conditional = true;
    }
    CHECK(conditional == (name != "planar" && name != "flow_vla"));
    if (!conditional) continue;
    const auto model = make(name, config);
    Generator generator(0);
    QuantityInputs in{.input = randn({4, model->width()}, generator),
                      .condition = randn({4, 3}, generator)};
    INFO(name);
    CHECK(contains(raised<ShapeError>([&] { model->loss(in, generator); }),
                   {"(4, 3)", "(4, 2) or (1, 2)"}));
    in.condition = randn({3, 2}, generator);
    CHECK(contains(raised<ShapeError>([&] { model->loss(in, generator); }), {"(3, 2)", "(4, 2)"}));
    in.condition = {};
    CHECK(contains(raised<ShapeError>([&] { model->loss(in, generator); }), {"absent"}));
  }
}

TEST_CASE("diffusion steps outside the schedule are refused", "[registry_test]") {
  const auto model = make("diffusion", {{"hidden", "8"}, {"n_timesteps", "7"}});
  for (const int64_t bad : {-1, 7}) {
    QuantityInputs in = inputs_for(*model, 2);
    in.time = Tensor::from(std::vector<int64_t>{0, bad}, {2});
    for (const char* q : {"noise_prediction", "loss"}) {
      Generator generator(0);
      CHECK(contains(raised<ValueError>([&] { model->evaluate(q, in, {}, generator); }),
                     {"0 to 6 are accepted"}));
    }
  }
}

TEST_CASE("every parameter gets a finite gradient from one loss", "[registry_test]") {
  for (const Sample& s : kSmall) {
    for (const DType dtype : {DType::float32, DType::float64}) {
      INFO(s.name << " " << name_of(dtype));
      const auto model = make(s.name, s.config, 0, dtype);
      flowgrad::testing::shake(model->module(), 3, 0.3);
      Generator generator(4);
      const Tensor loss = model->loss(inputs_for(*model, 6), generator);
      CHECK(loss.dtype() == dtype);
      CHECK(loss.rank() == 0);
      backward(loss);
      for (const auto& [name, p] : model->module().parameters()) {
        INFO(name);
        REQUIRE(p.grad().defined());
        CHECK(p.grad().dtype() == dtype);
        CHECK(all(isfinite(p.grad())).item() == 1);
        CHECK(sum(abs(p.grad())).item() > 0);
      }
    }
  }
}

TEST_CASE("weights depend on the seed, travel through a file, and change dtype",
          "[registry_test]") {
  const auto path = std::filesystem::temp_directory_path() / "flowgrad_registry_test.safetensors";
  for (const Sample& s : kSmall) {
    INFO(s.name);
    const auto a = make(s.name, s.config, 1);
    const auto same = make(s.name, s.config, 1);
    const auto b = make(s.name, s.config, 2, DType::float64);
    const auto value = [&](Model& m) {
      Generator generator(4);
      return m.loss(inputs_for(m, 6), generator).item();
    };
    // A zero last layer hides the other weights of a fresh coupling flow.
    for (Model* m : {a.get(), same.get()}) flowgrad::testing::shake(m->module(), 9, 0.3);
    CHECK(value(*a) == value(*same));
    const auto state = a->module().state_dict();
    const auto other = b->module().state_dict();
    CHECK(std::any_of(state.begin(), state.end(), [&, i = 0](const auto& item) mutable {
      return distance(other[static_cast<size_t>(i++)].second, item.second) > 1e-3;
    }));
    save_safetensors(path.string(), state);
    b->module().load_state_dict(load_safetensors(path.string()).tensors);
    // The draws of a Hutchinson probe or of noise differ between dtypes only by rounding.
    if (s.name == "planar" || s.name == "realnvp" || s.name == "spline" || s.name == "glow")
      CHECK(value(*b) == Catch::Approx(value(*a)).epsilon(1e-4));
    for (size_t i = 0; i < state.size(); ++i)
      CHECK(distance(b->module().state_dict()[i].second, state[i].second) < 1e-7);
  }
  std::filesystem::remove(path);
}

TEST_CASE("state dicts that do not fit are refused and change nothing", "[registry_test]") {
  const auto model = make("realnvp", {{"hidden", "4"}, {"n_flows", "2"}});
  const NamedTensors good =
      make("realnvp", {{"hidden", "4"}, {"n_flows", "2"}}, 5)->module().state_dict();
  const std::string first = "flows.0.scale_net.0.weight";
  const Tensor before = clone(model->module().parameters()[0].second.detach());
  const auto refused = [&](const std::function<void(NamedTensors&)>& damage) {
    NamedTensors state = good;
    damage(state);
    const std::string message = raised<IoError>([&] { model->module().load_state_dict(state); });
    CHECK(distance(model->module().parameters()[0].second, before) == 0);
    return message;
  };
  CHECK(contains(refused([&](NamedTensors& s) { s.erase(s.begin() + 1); }),
                 {first, "missing", "(4, 2)"}));
  CHECK(contains(refused([](NamedTensors& s) { s.emplace_back("extra.weight", ones({3})); }),
                 {"extra.weight", "(3,)"}));
  CHECK(contains(refused([](NamedTensors& s) { s.back().second = ones({5}); }),
                 {"flows.1.translate_net.4.bias", "(5,)", "(2,)"}));
  CHECK(contains(refused([](NamedTensors& s) { s.back().second = ones({2}, DType::int64); }),
                 {"int64", "float32"}));
  CHECK(contains(refused([](NamedTensors& s) {
                   s.front().second = tensor({0, 1});
                 }),
                 {"flows.0.mask", "element 0"}));
  NamedTensors bare;
  for (const auto& item : good) {
    if (item.first.find("mask") == std::string::npos) bare.push_back(item);
  }
  model->module().load_state_dict(bare);
  CHECK(distance(model->module().parameters()[0].second, before) > 0);
}
