#include <string>

#include "device/device.h"
#include "flowgrad/kernels/parallel.h"
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

TEST_CASE("flow matching in one kernel", "[sampler_test]") {
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

TEST_CASE("flow matching in one kernel, at the policy's size", "[sampler_test][slow]") {
  check_flow(DType::float32, {.condition_dim = 4, .action_dim = 7, .hidden = 512}, 2,
             {.solver = "euler", .n_steps = 2});
}

TEST_CASE("diffusion in one kernel", "[sampler_test]") {
  check_diffusion(DType::float32, 5, 12, 4);
  check_diffusion(DType::float64, 3, 40, 0);
  check_diffusion(DType::float32, 0, 12, 0);
}

TEST_CASE("a sampler sees every write to its weights", "[sampler_test]") {
  Generator generator(1);
  FlowMatching flow({.action_dim = 2, .time_dim = 8, .hidden = 12}, generator);
  DiffusionPolicy diffusion({.action_dim = 2, .n_timesteps = 4, .hidden = 12}, generator);
  for (Module* net : {static_cast<Module*>(&flow), static_cast<Module*>(&diffusion)}) {
    shake(*net, 2, 0.5);
    net->to(test_device());
    const Tensor noise = randn({3, 2}, generator, DType::float32, test_device());
    const auto generate = [&](Generator& g) {
      return net == &flow ? flow.generate(noise, {}, {.solver = {.solver = "euler", .n_steps = 3}})
                          : diffusion.generate(noise, {}, g);
    };
    Generator before(7);
    Tensor last = generate(before);
    const NoGrad off;
    for (const auto& [name, weight] : net->parameters()) {
      fill_(weight, 0.25);
      Generator now(7);
      const Tensor got = generate(now);
      INFO(name);
      CHECK(distance(got, last) > 0);
      last = got;
      check_twins(name + " filled", 2e-5, generate);
    }
  }
}

TEST_CASE("a row's sample does not depend on its company or on threads", "[sampler_test]") {
  Generator generator(1);
  FlowMatching flow({.condition_dim = 3, .action_dim = 2, .time_dim = 8, .hidden = 600}, generator);
  flow.to(test_device());
  const auto draw = [&](int64_t rows, int64_t n) {
    return randn({rows, n}, generator, DType::float32, test_device());
  };
  const Tensor noise = draw(230, 2), condition = draw(230, 3);
  const auto generate = [&](int64_t from, int64_t n) {
    return flow.generate(slice(noise, 0, from, from + n), slice(condition, 0, from, from + n),
                         {.solver = {.solver = "heun", .n_steps = 2}});
  };
  const Tensor all = generate(0, 230);
  for (const int64_t n : {1, 5, 70, 113}) {
    INFO(n);
    CHECK(distance(generate(100, n), slice(all, 0, 100, 100 + n)) == 0);
  }
  const int threads = kernels::num_threads();
  for (const int t : {1, 2, 5}) {
    kernels::set_num_threads(t);
    CHECK(distance(generate(0, 230), all) == 0);
    CHECK(distance(generate(7, 1), slice(all, 0, 7, 8)) == 0);
  }
  kernels::set_num_threads(threads);
}

TEST_CASE("which samplers run in one kernel", "[sampler_test]") {
  const Tensor x = zeros({2, 3}, DType::float32, test_device());
  CHECK(has_sampler(x, 64));
  CHECK(has_sampler(x, 4000) == test_device().is_cpu());
  CHECK(!has_sampler(zeros({2, 3}, DType::int64, test_device()), 64));
  const FusedKernels off(false);
  CHECK(!has_sampler(x, 64));
}

TEST_CASE("sample_net says what does not fit together", "[sampler_test]") {
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
  if (!test_device().is_cpu()) {
    bad = good;
    bad.last = zeros({3, 3, 4});
    CHECK(contains(refused(bad), {"sample_net", "last", "cpu", "cuda:0"}));
  }
  bad = good;
  bad.first = at({3, 4}).requires_grad_();
  CHECK(contains(refused(bad), {"first requires gradients", "NoGrad"}));
  CHECK(contains(refused(good, {.noise = at({2, 2, 3})}), {"row 2 of 2 of noise"}));
}
