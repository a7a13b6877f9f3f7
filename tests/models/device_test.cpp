#include <array>
#include <cmath>

#include "core/io_support.h"
#include "device/device.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/optim/ema.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

// Models on a device: moving them, training them, saving them.
using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::OnCpu;
using flowgrad::testing::raised;
using flowgrad::testing::test_device;

namespace {

/// The quantity that says most about one row, as a model has it.
constexpr std::array kOfRows = {"velocity", "noise_prediction", "end_point", "log_prob",
                                "generate"};

struct Small {
  const char* name;
  Config config;
};
const std::vector<Small>& all_models() {
  static const std::vector<Small> models = {
      {"planar", {{"dim", "3"}, {"n_flows", "2"}}},
      {"realnvp", {{"n_flows", "2"}, {"hidden", "8"}, {"permute", "true"}, {"actnorm", "true"}}},
      {"spline",
       {{"hidden", "8"}, {"n_flows", "2"}, {"actnorm", "true"}, {"base_components", "2"}}},
      {"cnf", {{"hidden", "8"}, {"solver", "rk4"}, {"n_steps", "2"}}},
      {"cnf", {{"hidden", "8"}}},
      {"cnf", {{"hidden", "8"}, {"per_row", "true"}, {"condition_dim", "2"}}},
      {"glow", {{"height", "2"}, {"width", "4"}, {"levels", "1"}, {"steps", "1"}, {"hidden", "4"}}},
      {"glow",
       {{"height", "2"}, {"width", "2"}, {"levels", "1"}, {"steps", "1"}, {"condition_dim", "2"}}},
      {"flow_matching", {{"action_dim", "3"}, {"hidden", "8"}, {"time_dim", "8"}}},
      {"flow_matching", {{"action_dim", "3"}, {"hidden", "8"}, {"net", "mlp"}, {"coupling", "ot"}}},
      {"consistency", {{"action_dim", "3"}, {"hidden", "8"}, {"time_dim", "8"}}},
      {"score", {{"action_dim", "3"}, {"hidden", "8"}, {"time_dim", "8"}}},
      {"diffusion", {{"action_dim", "3"}, {"hidden", "8"}, {"n_timesteps", "10"}}},
      {"flow_vla", {{"hidden", "8"}, {"height", "9"}, {"width", "16"}, {"robot_dim", "2"}}},
      {"flow_vla",
       {{"preset", "tiny"}, {"hidden", "8"}, {"height", "9"}, {"width", "9"}, {"cameras", "2"}}},
      {"hierarchical",
       {{"hidden", "8"},
        {"time_dim", "8"},
        {"latent_dim", "4"},
        {"decoder_hidden", "6"},
        {"condition_dim", "2"}}}};
  return models;
}

/// n rows of data, and a condition where the model has one, on the model's device.
QuantityInputs rows_of(Model& model, int64_t n, Generator& generator, DType dtype) {
  const Device device = model.module().device();
  QuantityInputs in = model.observation(n, generator);
  in.input = randn({n, model.width()}, generator, dtype, device);
  if (model.condition_width() > 0)
    in.condition = randn({n, model.condition_width()}, generator, dtype, device);
  return in;
}

/// What a model with these weights makes of seeded inputs on a device: a value of every row, the
/// loss, and the gradient of every parameter.
std::vector<Tensor> results(const Small& small, DType dtype, Device device, const NamedTensors& w) {
  Generator generator(3);
  const auto model = make_model(small.name, small.config, generator, dtype);
  model->module().to(device);
  model->module().load_state_dict(w);
  QuantityInputs in = rows_of(*model, 16, generator, dtype);
  const Tensor loss = model->loss(in, generator);
  std::vector<Tensor> leaves;
  for (const auto& [name, p] : model->module().parameters()) leaves.push_back(p);
  std::vector<Tensor> out = grad(std::span(&loss, 1), leaves, {}, {.allow_unused = true});
  std::erase_if(out, [](const Tensor& t) { return !t.defined(); });
  out.push_back(loss.detach());
  const auto quantity =
      *std::find_if(kOfRows.begin(), kOfRows.end(), [&](const char* q) { return model->has(q); });
  in.time = small.name == std::string("diffusion") ? randint(0, 10, {16}, generator, device)
                                                   : rand({16}, generator, dtype, 0, 1, device);
  NoGrad off;
  out.push_back(model->evaluate(quantity, in, {}, generator));
  for (Tensor& t : out) t = to(t, Device::cpu());
  return out;
}

/// Loss, weights, averages and a draw after five training steps on a device.
std::vector<Tensor> trained(const Small& small, Device device) {
  Generator generator(3);
  const auto model = make_model(small.name, small.config, generator, DType::float64);
  model->module().to(device);
  const NamedTensors parameters = model->module().parameters();
  Adam optimizer({{parameters}}, {.lr = 1e-2});
  Ema ema(parameters, 0.9);
  std::vector<Tensor> out;
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    const QuantityInputs batch = rows_of(*model, 16, generator, DType::float64);
    if (step == 0) model->initialize_from(batch);
    const Tensor loss = model->loss(batch, generator);
    CHECK(loss.device() == device);
    out.push_back(loss.detach());
    backward(loss);
    clip_grad_norm(parameters, 1.0);
    optimizer.step();
    ema.update();
  }
  for (const auto& [name, p] : parameters) {
    CHECK(p.device() == device);
    out.push_back(p.detach());
  }
  for (const auto& [name, t] : ema.state_dict()) out.push_back(t);
  for (const auto& [name, t] : optimizer.state_dict()) out.push_back(t);
  QuantityInputs to_draw = rows_of(*model, 4, generator, DType::float64);
  to_draw.input = {};
  out.push_back(model->evaluate("sample", to_draw, {.n_samples = 4}, generator));
  return out;
}

}  // namespace

TEST_CASE("every model trains on a device as on the CPU", "[device_test][device_only]") {
  kernels::set_cpu_backend(kernels::CpuBackend::reference);
  for (const Small& small : all_models()) {
    INFO(small.name);
    const auto there = trained(small, test_device());
    const auto here = trained(small, Device::cpu());
    REQUIRE(there.size() == here.size());
    for (size_t i = 0; i < there.size(); ++i) CHECK(distance(there[i], here[i]) <= 1e-9);
  }
  kernels::set_cpu_backend(kernels::CpuBackend::fast);
}

TEST_CASE("values and gradients of a device are the CPU's", "[device_test][device_only]") {
  for (const Small& small : all_models()) {
    for (const DType dtype : {DType::float64, DType::float32}) {
      INFO(small.name << " " << name_of(dtype));
      Generator generator(5);
      const auto model = make_model(small.name, small.config, generator, dtype);
      flowgrad::testing::shake(model->module(), 6, 0.3);
      const NamedTensors weights = model->module().state_dict();
      const auto here = results(small, dtype, Device::cpu(), weights);
      // Largest distances of gradients, and of values, over what is demanded of each.
      const auto off = [&](const NamedTensors& w) {
        const auto there = results(small, dtype, test_device(), w);
        REQUIRE(there.size() == here.size());
        double worst = 0;
        for (size_t i = 0; i < here.size(); ++i) {
          const bool value = i + 2 >= here.size();
          const double demanded = dtype == DType::float64 ? 1e-11 : value ? 1e-5 : 1e-4;
          worst = std::max(worst, distance(there[i], here[i]) / demanded);
        }
        return worst;
      };
      CHECK(off(weights) <= 1);
      // Planted: a weight that arrives on the device off by a hundredth.
      NamedTensors wrong = weights;
      for (auto& [name, t] : wrong) {
        if (name == model->module().parameters().front().first) t = t.detach() * 1.01;
      }
      CHECK(off(wrong) > 1);
    }
  }
}

TEST_CASE("Module::to moves everything in place", "[device_test][device_only]") {
  const Device device = test_device();
  for (const Small& small : all_models()) {
    INFO(small.name);
    Generator generator(3);
    const auto model = make_model(small.name, small.config, generator);
    Module& module = model->module();
    CHECK(module.device().is_cpu());
    const NamedTensors before = module.parameters();
    NamedTensors copies;
    for (const auto& [name, t] : module.state_dict()) copies.emplace_back(name, clone(t));
    module.to(device);
    CHECK(module.device() == device);
    const NamedTensors after = module.state_dict();
    for (size_t i = 0; i < copies.size(); ++i) {
      CHECK(after[i].second.device() == device);
      CHECK(distance(after[i].second, copies[i].second) == 0);
    }
    // Handles from before are the same leaves.
    for (const auto& [name, p] : before) {
      CHECK(p.device() == device);
      CHECK((p.is_leaf() && p.requires_grad()));
    }
    module.load_state_dict(copies);  // from the CPU to where the parameters are
    CHECK(module.device() == device);
    module.to(Device::cpu());
    for (const auto& [name, t] : module.state_dict()) CHECK(t.device().is_cpu());
    CHECK(model->loss(rows_of(*model, 4, generator, DType::float32), generator).device().is_cpu());
  }
}

TEST_CASE("what was made before a move is refused after it", "[device_test][device_only]") {
  Generator generator(3);
  const auto model = make_model("planar", {}, generator);
  Module& module = model->module();
  Adam early({{module.parameters()}}, {});
  Ema averages(module.parameters(), 0.9);
  const Tensor graph = model->loss({.input = ones({4, 2})}, generator);
  const Tensor saved = sum(square(module.parameters()[0].second));
  module.to(test_device());
  CHECK(contains(raised<DeviceError>([&] { early.step(); }),
                 {"optimizer: \"flows.0.weight\" is on cuda:0 and its state on cpu",
                  "build the optimizer after Module::to"}));
  CHECK(contains(raised<DeviceError>([&] { averages.update(); }),
                 {"Ema: \"flows.0.weight\" is on cuda:0 and its average on cpu"}));
  CHECK(contains(raised<GradError>([&] { backward(saved); }),
                 {"modified in place since by Module::to"}));
  CHECK(contains(raised<DeviceError>([&] { backward(graph); }), {"on cpu; expected on cuda:0"}));
  CHECK(contains(raised<DeviceError>([&] {
                   model->loss({.input = ones({4, 2})}, generator);
                 }),
                 {"cpu", "cuda:0", "both must be on one device"}));
  const Tensor a = zeros({2}).requires_grad_();
  const Tensor b = zeros({2}, DType::float32, test_device()).requires_grad_();
  CHECK(contains(raised<DeviceError>([&] {
                   Sgd({{{{"a", a}, {"b", b}}}}, {});
                 }),
                 {"optimizer: \"b\" is on cuda:0 and a parameter before it on cpu"}));
  a.set_grad(ones_like(a));
  b.set_grad(ones_like(b));
  CHECK(contains(raised<DeviceError>([&] {
                   gradient_norm({{"a", a}, {"b", b}});
                 }),
                 {"gradient_norm: the gradient of \"b\" is on cuda:0"}));
}

TEST_CASE("weights go through a file from one device to another", "[device_test][device_only]") {
  const io_test::Scratch scratch;
  Generator generator(3);
  const auto there = make_model("realnvp", {{"hidden", "8"}}, generator);
  there->module().to(test_device());
  testing::shake(there->module(), 5, 0.3);
  save_safetensors(scratch / "w.safetensors", there->module().state_dict());
  const auto here = make_model("realnvp", {{"hidden", "8"}}, generator);
  here->module().load_state_dict(load_safetensors(scratch / "w.safetensors").tensors);
  CHECK(here->module().device().is_cpu());
  const auto again = make_model("realnvp", {{"hidden", "8"}}, generator);
  again->module().to(test_device());
  again->module().load_state_dict(load_safetensors(scratch / "w.safetensors").tensors);
  const auto a = there->module().state_dict();
  const auto b = here->module().state_dict();
  const auto c = again->module().state_dict();
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(distance(a[i].second, b[i].second) == 0);
    CHECK(distance(a[i].second, c[i].second) == 0);
    CHECK(c[i].second.device() == test_device());
  }
  // The checks of flows run where the flow is.
  auto& flow = dynamic_cast<Flow&>(there->module());
  CHECK(reconstruction_error(flow, randn({8, 2}, generator, DType::float32, test_device())).max <
        1e-4);
  CHECK(std::abs(density_integral(flow, {.half_width = 8, .points = 81}) - 1) < 0.05);
}
