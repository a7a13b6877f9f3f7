#include <string>

#include "device/device.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "support.h"

// Samplers that run in one kernel against the operations that they stand for.
using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using flowgrad::testing::test_device;

namespace {

/// fused() with the kernels against the same without them; both must leave the generator in one
/// state. Without a kernel on the device, both are the same.
template <class Generate>
void check_twins(const std::string& what, double bound, Generate&& generate) {
  INFO(what);
  Generator fused(7);
  Generator composite(7);
  const Tensor got = generate(fused);
  const Tensor again = [&] {
    Generator other(7);
    return generate(other);
  }();
  const FusedKernels off(false);
  const Tensor want = generate(composite);
  CHECK(distance(got, want) <= bound);
  CHECK(distance(got, again) == 0);
  CHECK(fused.stream() == composite.stream());
  CHECK(got.device() == test_device());
}

double bound_of(DType dtype) { return dtype == DType::float32 ? 2e-5 : 1e-13; }

void check_flow(DType dtype, const FlowMatchingOptions& o, int64_t rows, const OdeOptions& solver) {
  Generator generator(1);
  FlowMatching net(o, generator, dtype);
  shake(net, 2, 0.5);
  net.to(test_device());
  const auto draw = [&](const Shape& shape) {
    return randn(shape, generator, dtype, test_device());
  };
  const Tensor noise = draw({rows, o.action_dim});
  const std::string what = std::string(name_of(dtype)) + " " + solver.solver + ", hidden " +
                           std::to_string(o.hidden) + ", " + std::to_string(rows) + " rows";
  for (const int64_t n : {rows, int64_t{1}}) {
    const Tensor condition = o.condition_dim > 0 ? draw({n, o.condition_dim}) : Tensor();
    for (const double guidance : {1.0, 2.5}) {
      if (guidance != 1 && (o.condition_dim == 0 || o.hidden > 100)) continue;
      check_twins(what, bound_of(dtype), [&](Generator&) {
        return net.generate(noise, condition, {.solver = solver, .guidance = guidance});
      });
    }
    if (o.condition_dim == 0 || o.hidden > 100) break;
  }
}

void check_diffusion(DType dtype, int64_t rows, int64_t hidden, int64_t state_dim) {
  Generator generator(1);
  DiffusionOptions o{.state_dim = state_dim, .action_dim = 3, .n_timesteps = 6, .hidden = hidden};
  DiffusionPolicy net(o, generator, dtype);
  shake(net, 2, 0.5);
  net.to(test_device());
  const auto draw = [&](const Shape& shape) {
    return randn(shape, generator, dtype, test_device());
  };
  const Tensor noise = draw({rows, 3});
  const Tensor state = state_dim > 0 ? draw({rows, state_dim}) : Tensor();
  const Tensor step_noise = draw({6, rows, 3});
  const auto check = [&](const std::string& what, const DiffusionSampling& s) {
    check_twins(what + " of " + std::to_string(rows) + " rows", bound_of(dtype),
                [&](Generator& g) { return net.generate(noise, state, g, s); });
  };
  check("DDPM", {});
  check("DDPM, clipped", {.clip = 1});
  check("DDPM, posterior variance", {.variance = StepVariance::posterior});
  check("DDPM, noise given", {.step_noise = step_noise});
  check("DDIM", {.ddim_steps = 3});
  check("DDIM, noisy and clipped", {.ddim_steps = 3, .eta = 0.7, .clip = 2});
  check("DDIM, noise given", {.ddim_timesteps = {5, 2, 1}, .eta = 1, .step_noise = step_noise});
}

}  // namespace

TEST_CASE("flow matching in one kernel", "[sampler_test][device_only]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    FlowMatchingOptions o{.condition_dim = 3, .action_dim = 2, .time_dim = 8, .hidden = 12};
    for (const char* solver : {"euler", "midpoint", "heun", "rk4"}) {
      check_flow(dtype, o, 5, {.solver = solver, .n_steps = 4});
    }
    o.condition_dim = 0;
    check_flow(dtype, o, 3, {.solver = "euler", .n_steps = 4});
    check_flow(dtype, o, 0, {.solver = "euler", .n_steps = 2});
  }
}

TEST_CASE("flow matching in one kernel, at the policy's size",
          "[sampler_test][device_only][slow]") {
  check_flow(DType::float32, {.condition_dim = 4, .action_dim = 7, .hidden = 512}, 2,
             {.solver = "euler", .n_steps = 2});
}

TEST_CASE("diffusion in one kernel", "[sampler_test][device_only]") {
  check_diffusion(DType::float32, 5, 12, 4);
  check_diffusion(DType::float64, 3, 40, 0);
  check_diffusion(DType::float32, 0, 12, 0);
}

TEST_CASE("which samplers run in one kernel", "[sampler_test][device_only]") {
  const bool cuda = std::string(kernels::backend(test_device()).name()) == "cuda";
  const Tensor x = zeros({2, 3}, DType::float32, test_device());
  CHECK(has_sampler(x, 64) == cuda);
  CHECK(!has_sampler(x, 4000));
  CHECK(!has_sampler(zeros({2, 3}), 64));
  const FusedKernels off(false);
  CHECK(!has_sampler(x, 64));
}

TEST_CASE("sample_net says what does not fit together", "[sampler_test][device_only]") {
  const Tensor x = zeros({2, 3}, DType::float32, test_device());
  const auto at = [&](const Shape& shape) { return zeros(shape, DType::float32, test_device()); };
  const SamplerNet good{.first = at({3, 4}),
                        .times = at({1, 4}),
                        .condition = {},
                        .hidden = at({3, 4, 4}),
                        .bias = at({2, 4}),
                        .last = at({3, 3, 4}),
                        .last_bias = at({3})};
  const SamplerStage stage{.x_x = 1, .x_noise = 1, .noise = 2};
  const auto refused = [&](const SamplerNet& net, const SamplerOptions& options = {}) {
    try {
      sample_net(net, std::span(&stage, 1), x, options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  SamplerNet bad = good;
  bad.hidden = at({3, 4, 5});
  CHECK(contains(refused(bad), {"sample_net: hidden is (3, 4, 5); (3, 4, 4) is accepted"}));
  bad = good;
  bad.condition = at({3, 4});
  CHECK(contains(refused(bad), {"condition is (3, 4); (2, 4) is accepted"}));
  bad = good;
  bad.bias = zeros({2, 4}, DType::float64, test_device());
  CHECK(contains(refused(bad), {"bias is float64 and x float32"}));
  bad = good;
  bad.last = zeros({3, 3, 4});
  CHECK(contains(refused(bad), {"sample_net", "last", "cpu", "cuda:0"}));
  bad = good;
  bad.first = at({3, 4}).requires_grad_();
  CHECK(contains(refused(bad), {"first requires gradients", "NoGrad"}));
  CHECK(contains(refused(good, {.noise = at({2, 2, 3})}), {"row 2 of 2 of noise"}));
}
