#include <algorithm>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "device/device.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/optim/ema.h"
#include "flowgrad/optim/optimizer.h"

using namespace flowgrad;
using flowgrad::testing::test_device;

namespace {

/// All weights after 200 training steps (drawing, loss, backward, clip, Adam, average); 10 on a
/// device.
std::vector<float> train(const std::string& name, const Config& config, const Shape& batch,
                         int threads) {
  kernels::set_num_threads(threads);
  Generator generator(17);
  const auto model = make_model(name, config, generator);
  model->module().to(test_device());
  const NamedTensors parameters = model->module().parameters();
  Adam optimizer({{parameters}}, {.lr = 1e-3});
  Ema average(parameters, 0.99);
  const int steps = test_device().is_cpu() ? 200 : 10;
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    QuantityInputs in;
    in.input = randn(batch, generator, DType::float32, test_device());
    backward(model->loss(in, generator));
    clip_grad_norm(parameters, 1.0);
    optimizer.step();
    average.update();
  }
  average.swap();
  std::vector<float> all;
  for (const auto& [key, p] : parameters) {
    const auto v = p.to_vector<float>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

void same_bits_at_any_thread_count(const std::string& name, const Config& config,
                                   const Shape& batch) {
  const int before = kernels::num_threads();
  const auto one = train(name, config, batch, 1);
  const auto is_finite = [](float v) { return std::isfinite(v); };
  REQUIRE(std::all_of(one.begin(), one.end(), is_finite));
  if (!test_device().is_cpu()) {
    INFO(name << " again on the device");
    CHECK(train(name, config, batch, 1) == one);
    return;
  }
  for (const int threads : {2, 3, 4, 7}) {
    INFO(name << " with " << threads << " threads");
    CHECK(train(name, config, batch, threads) == one);
  }
  kernels::set_num_threads(before);
}

}  // namespace

TEST_CASE("200 training steps of a planar flow do not depend on the threads",
          "[determinism_test][device]") {
  // Planar flows learn by their inverse here, so the root finder is part of it.
  same_bits_at_any_thread_count("planar", {{"dim", "3"}, {"n_flows", "2"}}, {300, 3});
}

TEST_CASE("200 training steps of RealNVP do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count("realnvp", {{"n_flows", "2"}, {"hidden", "96"}}, {333, 2});
}

TEST_CASE("200 training steps of a spline flow do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count(
      "spline", {{"n_flows", "2"}, {"hidden", "24"}, {"actnorm", "true"}, {"base_components", "2"}},
      {333, 2});
}

TEST_CASE("200 training steps of a continuous flow do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count("cnf", {{"hidden", "48"}, {"solver", "rk4"}, {"n_steps", "2"}},
                                {257, 2});
}

TEST_CASE("200 training steps of flow matching do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count(
      "flow_matching", {{"action_dim", "5"}, {"hidden", "80"}, {"time_dim", "16"}}, {300, 5});
}

TEST_CASE("200 training steps with optimal transport do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count(
      "flow_matching",
      {{"action_dim", "5"}, {"hidden", "80"}, {"net", "mlp"}, {"coupling", "ot"}, {"sigma", "0.1"}},
      {65, 5});
}

TEST_CASE("200 training steps of a consistency model do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count(
      "consistency",
      {{"action_dim", "5"}, {"hidden", "80"}, {"time_dim", "16"}, {"coupling", "sinkhorn"}},
      {65, 5});
}

TEST_CASE("200 training steps of the diffusion policy do not depend on the threads",
          "[determinism_test][device]") {
  same_bits_at_any_thread_count("diffusion", {{"action_dim", "5"}, {"hidden", "80"}}, {300, 5});
}
