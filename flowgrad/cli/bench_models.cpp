#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/flow_vla.h"
#include "flowgrad/models/hierarchical.h"
#include "flowgrad/models/planar.h"
#include "flowgrad/models/realnvp.h"
#include "flowgrad/optim/optimizer.h"

namespace flowgrad::cli {
namespace {

Tensor normal(const Shape& shape, Generator& generator, Device device) {
  return randn(shape, generator, DType::float32, device);
}

/// How a case trains, and how many steps are checked before the timing.
struct Recipe {
  AdamOptions adam{.lr = 1e-3, .decoupled = false};
  int checked_steps = 10;
};

/// A training step as the peers do it: loss, backward, clip at 1, Adam.
class Training {
 public:
  Training(std::unique_ptr<Module> module, std::function<Tensor(Module&, Generator&)> loss,
           const Recipe& recipe)
      : module_(std::move(module)),
        loss_(std::move(loss)),
        optimizer_({{module_->parameters()}}, recipe.adam) {}

  double step() {
    optimizer_.zero_grad();
    const Tensor loss = loss_(*module_, generator_);
    backward(loss);
    optimizer_.clipped_step(1.0);
    return loss.item();
  }
  /// Loss of fixed draws, so that two of them can be compared.
  double fixed_loss() {
    NoGrad off;
    Generator fixed(99);
    return loss_(*module_, fixed).item();
  }

 private:
  std::unique_ptr<Module> module_;
  std::function<Tensor(Module&, Generator&)> loss_;
  Adam optimizer_;
  Generator generator_{5};
};

using MakeModule = std::function<std::unique_ptr<Module>(Generator&)>;

BenchCase training_case(const std::string& name, const MakeModule& make,
                        const std::function<Tensor(Module&, Generator&)>& loss, Device device,
                        const Recipe& recipe = {}) {
  BenchCase c;
  c.name = name;
  c.prepare = [make, loss, device, recipe] {
    const auto fresh = [make, loss, device, recipe] {
      Generator g(4);
      auto module = make(g);
      module->to(device);
      return std::make_shared<Training>(std::move(module), loss, recipe);
    };
    auto verify = [fresh, steps = recipe.checked_steps]() -> std::string {
      const auto a = fresh();
      const auto b = fresh();
      const double before = a->fixed_loss();
      for (int i = 0; i < steps; ++i) {
        const double x = a->step();
        const double y = b->step();
        if (!std::isfinite(x)) return fmt::format("the loss is {} at step {}", x, i);
        if (x != y) return fmt::format("two runs differ at step {}: {} and {}", i, x, y);
      }
      const double after = a->fixed_loss();
      return after < before ? ""
                            : fmt::format("the loss did not fall: {} before, {} after {} steps",
                                          before, after, steps);
    };
    const auto training = fresh();
    return BenchCase::Prepared{[training] { training->step(); }, verify};
  };
  return c;
}

BenchCase sampling_case(const std::string& name,
                        const std::function<std::function<Tensor()>()>& make) {
  BenchCase c;
  c.name = name;
  c.prepare = [make] {
    const auto sample = make();
    auto verify = [make]() -> std::string {
      // Two fresh samplers with the same seed.
      const auto a = make()().to_vector<float>();
      const auto b = make()().to_vector<float>();
      for (float v : a) {
        if (!std::isfinite(v)) return "a sample is not finite";
      }
      return a == b ? "" : "two runs differ in their bits";
    };
    return BenchCase::Prepared{[sample] { sample(); }, verify};
  };
  return c;
}

void add_planar(std::vector<BenchCase>& out, int64_t n, Device device) {
  out.push_back(training_case(
      fmt::format("planar/train/d2_b{}", n),
      [](Generator& g) { return std::make_unique<NormalizingFlow>(2, 10, g); },
      [n](Module& m, Generator& g) {
        const Transformed x =
            static_cast<NormalizingFlow&>(m).forward(normal({n, 2}, g, m.device()));
        return mean(sum(square(x.value - 1.0), {-1}) * 0.5 - x.log_det);
      },
      device));
}

void add_realnvp(std::vector<BenchCase>& out, int64_t d, int64_t n, Device device) {
  Generator data(7);
  const Tensor x = normal({n, d}, data, device);
  out.push_back(training_case(
      fmt::format("realnvp/train/d{}_b{}", d, n),
      [d](Generator& g) { return std::make_unique<RealNVP>(RealNVPOptions{.dim = d}, g); },
      [x](Module& m, Generator&) { return -mean(static_cast<RealNVP&>(m).log_prob(x)); }, device));
}

void add_cnf(std::vector<BenchCase>& out, int64_t d, int64_t n, Device device) {
  out.push_back(training_case(
      fmt::format("cnf/train_rk4x10_hutchinson/d{}_b{}", d, n),
      [d](Generator& g) {
        CNFOptions o;
        o.dim = d;
        o.solver = {.solver = "rk4", .n_steps = 10};
        return std::make_unique<ContinuousNormalizingFlow>(o, g);
      },
      [d, n](Module& m, Generator& g) {
        auto& flow = static_cast<ContinuousNormalizingFlow&>(m);
        const Tensor x = normal({n, d}, g, m.device());
        flow.probe_generator().set_state(g.seed(), g.next_stream());
        return -mean(flow.log_prob(x));
      },
      device));
}

/// One solve without derivatives, against the same solve on the CPU in float64.
void add_cnf_solve(std::vector<BenchCase>& out, int64_t n, Device device) {
  BenchCase c;
  c.name = fmt::format("cnf/solve_rk4x100_hutchinson/d2_b{}", n);
  c.prepare = [n, device] {
    Generator g(12);
    CNFOptions o;
    o.solver = {.solver = "rk4", .n_steps = 100};
    const auto flow = std::make_shared<ContinuousNormalizingFlow>(o, g);
    const auto in_double = std::make_shared<ContinuousNormalizingFlow>(o, g, DType::float64);
    in_double->load_state_dict(flow->state_dict());
    flow->to(device);
    const Tensor x = normal({n, 2}, g, device);
    const Tensor probe = rademacher({n, 2}, g, DType::float32, device);
    const auto solve = [](ContinuousNormalizingFlow& f, const Tensor& y, const Tensor& e) {
      NoGrad off;
      const Transformed end = f.integrate(y, 0, 1, e);
      return concat({end.value, unsqueeze(end.log_det, 1)}, 1).to_vector<double>();
    };
    auto verify = [=]() -> std::string {
      const auto got = solve(*flow, x, probe);
      const auto want = solve(*in_double, exact(x), exact(probe));
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
      if (!(worst <= 1e-4)) return fmt::format("{:.1e} from float64; 1e-04 is accepted", worst);
      return solve(*flow, x, probe) == got ? "" : "two runs differ in their bits";
    };
    return BenchCase::Prepared{[=] {
                                 NoGrad off;
                                 flow->integrate(x, 0, 1, probe);
                               },
                               verify};
  };
  out.push_back(std::move(c));
}

FlowMatchingOptions tutorial_matching() { return {.condition_dim = 256, .action_dim = 7}; }
DiffusionOptions tutorial_diffusion() {
  return {.state_dim = 256, .action_dim = 7, .schedule = NoiseSchedule::linear};
}

void add_flow_matching(std::vector<BenchCase>& out, Device device) {
  for (const int64_t n : {32, 256}) {
    Generator data(8);
    const Tensor x0 = normal({n, 7}, data, device);
    const Tensor x1 = normal({n, 7}, data, device);
    const Tensor c = normal({n, 256}, data, device);
    out.push_back(training_case(
        fmt::format("flow_matching/train/b{}", n),
        [](Generator& g) { return std::make_unique<FlowMatching>(tutorial_matching(), g); },
        [=](Module& m, Generator& g) { return static_cast<FlowMatching&>(m).loss(x1, c, g, x0); },
        device));
  }
  for (const int64_t n : {1, 32, 64, 256}) {
    out.push_back(sampling_case(fmt::format("flow_matching/generate100/b{}", n), [n, device] {
      auto g = std::make_shared<Generator>(9);
      const auto model = std::make_shared<FlowMatching>(tutorial_matching(), *g);
      model->to(device);
      const Tensor c = normal({n, 256}, *g, device);
      return [=] { return model->generate(normal({n, 7}, *g, device), c); };
    }));
  }
}

void add_diffusion(std::vector<BenchCase>& out, Device device) {
  Generator data(10);
  const Tensor x = normal({256, 7}, data, device);
  const Tensor s = normal({256, 256}, data, device);
  out.push_back(training_case(
      "diffusion/train/b256",
      [](Generator& g) { return std::make_unique<DiffusionPolicy>(tutorial_diffusion(), g); },
      [=](Module& m, Generator& g) { return static_cast<DiffusionPolicy&>(m).loss(x, s, g); },
      device));
  for (const int64_t n : {1, 32, 64, 256}) {
    out.push_back(sampling_case(fmt::format("diffusion/sample100/b{}", n), [n, device] {
      auto g = std::make_shared<Generator>(11);
      const auto model = std::make_shared<DiffusionPolicy>(tutorial_diffusion(), *g);
      model->to(device);
      const Tensor state = normal({n, 256}, *g, device);
      return [=] { return model->generate(normal({n, 7}, *g, device), state, *g); };
    }));
  }
}

struct Seen {
  PolicyObservation observation;
  Tensor actions;
};

/// n moments of the tutorial's robot, with square images and 20 words.
Seen seen_moments(int64_t n, int64_t size, Generator& generator, Device device) {
  Seen out;
  out.observation.images = normal({n, 3, size, size}, generator, device);
  out.observation.tokens = randint(0, 10000, {n, 20}, generator, device);
  out.actions = normal({n, 7}, generator, device);
  return out;
}

void add_vla(std::vector<BenchCase>& out, Device device) {
  for (const auto& [n, size] : {std::pair<int64_t, int64_t>{8, 224}, {32, 64}}) {
    out.push_back(training_case(
        fmt::format("vla/train/b{}_{}", n, size),
        [](Generator& g) { return std::make_unique<FlowVLA>(flow_vla_preset("tutorial"), g); },
        [n = n, size = size, seen = std::make_shared<Seen>()](Module& m, Generator& g) {
          Generator data(12);
          if (!seen->actions.defined()) *seen = seen_moments(n, size, data, m.device());
          auto& vla = static_cast<FlowVLA&>(m);
          const FlowVLA::Losses l = vla.losses(seen->actions, vla.condition(seen->observation), g);
          return l.loss + l.refiner;
        },
        device, {.adam = {.lr = 1e-4}, .checked_steps = 3}));
  }
  out.push_back(sampling_case("vla/generate100/b1_224", [device] {
    auto g = std::make_shared<Generator>(13);
    FlowVLAOptions o = flow_vla_preset("tutorial");
    o.refine = true;
    const auto model = std::make_shared<FlowVLA>(o, *g);
    model->to(device);
    const Seen seen = seen_moments(1, 224, *g, device);
    return [=] {
      NoGrad off;
      return model->generate(normal({1, 7}, *g, device), model->condition(seen.observation));
    };
  }));
}

void add_hierarchical(std::vector<BenchCase>& out, Device device) {
  out.push_back(sampling_case("hierarchical/generate/b1", [device] {
    auto g = std::make_shared<Generator>(14);
    const auto model = std::make_shared<HierarchicalFlow>(HierarchicalOptions{}, *g);
    model->to(device);
    const Tensor c = normal({1, 256}, *g, device);
    return [=] { return model->generate(normal({1, model->noise_width()}, *g, device), c); };
  }));
}

}  // namespace

std::vector<BenchCase> model_bench_cases(Device device) {
  std::vector<BenchCase> out;
  add_planar(out, 128, device);
  add_planar(out, 1024, device);
  add_realnvp(out, 2, 128, device);
  add_realnvp(out, 2, 1024, device);
  add_realnvp(out, 64, 512, device);
  add_cnf(out, 2, 128, device);
  add_cnf(out, 2, 1024, device);
  add_cnf(out, 43, 512, device);
  for (const int64_t n : {128, 1024}) add_cnf_solve(out, n, device);
  if (!device.is_cpu()) add_cnf_solve(out, 8192, device);  // seconds on a CPU
  add_flow_matching(out, device);
  add_diffusion(out, device);
  add_vla(out, device);
  add_hierarchical(out, device);
  return out;
}

}  // namespace flowgrad::cli
