// Flow matching in the plane as torchcfm's tutorial has it, measured: the table of
// docs/matching.md. Trains its small net with independent and with optimal-transport coupling, and
// with --one-step the chain from a teacher to one-step samplers.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <tuple>

#include "flowgrad/cli/options.h"
#include "flowgrad/flowgrad.h"
#include "flowgrad/kernels/parallel.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

struct Arguments {
  Device device;
  std::string sizes = "256x20000";
  std::string tasks = "all";
  uint64_t seed = 0;
  int threads = 1;
  bool one_step = false;
  bool verify_only = false;
  int64_t batch = 256, steps = 20000, points = 2000;
};

struct Task {
  const char *name, *source, *data;
};
constexpr Task kTasks[] = {
    {"N->8gaussians", "", "torchcfm-8gaussians"},
    {"moons->8gaussians", "torchcfm-moons", "torchcfm-8gaussians"},
    {"N->moons", "", "torchcfm-moons"},
};

/// torchcfm's moons as its generator makes them: half of the points on each arc, evenly spaced, so
/// that two samples of the data are nearer to each other than two independent draws would be.
Tensor even_moons(int64_t n, Generator& generator) {
  const int64_t outer = n / 2;
  const auto arc = [](int64_t points) { return linspace(0, std::numbers::pi, points); };
  const Tensor a = arc(outer), b = arc(n - outer);
  const Tensor x = concat({cos(a), 1.0 - cos(b)}, 0), y = concat({sin(a), 0.5 - sin(b)}, 0);
  return 3.0 * (stack({x, y}, 1) + 0.2 * rand({n, 1}, generator)) - 1.0;
}

Tensor draw(const std::string& name, int64_t n, Generator& generator, Device device) {
  if (name.empty()) return randn({n, 2}, generator, DType::float32, device);
  return to(name == "torchcfm-moons" ? even_moons(n, generator) : toy::sample(name, n, generator),
            device);
}

using Loss = std::function<Tensor(int64_t step, Generator& generator)>;

/// Adam over `steps`, the rate constant or falling along half a cosine. Returns ms a step.
double train(const NamedTensors& parameters, const Loss& loss, int64_t steps, bool cosine,
             uint64_t seed, Ema* ema = nullptr) {
  Adam optimizer({{parameters}}, {.lr = 1e-3});
  const Schedule schedule = cosine ? cosine_schedule(1e-3, steps) : constant_schedule(1e-3);
  Generator generator(seed, 1 << 20);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < steps; ++step) {
    optimizer.set_learning_rate(schedule(step));
    optimizer.zero_grad();
    backward(loss(step, generator));
    optimizer.step();
    if (ema) ema->update();
  }
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  return spent.count() / static_cast<double>(steps);
}

GenerateOptions euler(int64_t steps) { return {.solver = {.solver = "euler", .n_steps = steps}}; }

double finite(double value) {
  if (!std::isfinite(value)) throw Error(fmt::format("a measurement is {}", value));
  return value;
}

/// One row of the table.
void run_task(const Arguments& a, const Task& task, Coupling coupling) {
  Generator generator(a.seed);
  FlowMatchingOptions options;
  options.net = NetKind::mlp;
  options.hidden = 64;
  options.sigma = 0.1;
  FlowMatching model(options, generator);
  model.to(a.device);
  const double ms = train(
      model.parameters(),
      [&](int64_t, Generator& g) {
        const Tensor x1 = draw(task.data, a.batch, g, a.device);
        const Tensor x0 = draw(task.source, a.batch, g, a.device);
        return model.loss(x1, {}, g, couple(x0, x1, coupling, g));
      },
      a.steps, false, a.seed);
  Generator held_out(a.seed, uint64_t{1} << 40);
  const Tensor x0 = draw(task.source, a.points, held_out, a.device);
  const Tensor x1 = draw(task.data, a.points, held_out, a.device);
  const double least = wasserstein2(x0, x1);
  const VelocityField field = velocity_field(model);
  const double npe = normalised_path_energy(finite(path_energy(field, x0)), least);
  const OdeSolution solution = [&] {
    NoGrad off;
    return solve_ode([&](double t, const OdeState& y) { return OdeState{field(t, y[0])}; }, {x0}, 0,
                     1, {.solver = "dopri5", .rtol = 1e-4, .atol = 1e-4});
  }();
  require_success(solution);
  std::string low_steps;
  for (const int64_t n : {1, 2, 4, 8})
    low_steps += fmt::format(" {:.2f}", finite(wasserstein2(model.generate(x0, {}, euler(n)), x1)));
  fmt::print("| {} | {} | {} | {:.3f} | {:.3f} |{} | {} | {:.3f} | {:.2f} |\n", task.name,
             coupling == Coupling::optimal ? "OT" : "I", a.seed,
             finite(wasserstein2(model.generate(x0, {}, euler(100)), x1)), npe, low_steps,
             solution.statistics.evaluations,
             wasserstein2(draw(task.data, a.points, held_out, a.device), x1), ms);
  std::fflush(stdout);
}

/// A teacher, its reflow, the one-step distillation of that, and consistency distillation.
void run_one_step(const Arguments& a, const char* data) {
  Generator generator(a.seed);
  FlowMatchingOptions options;
  options.time_dim = 32;
  options.time_scale = 10;
  options.hidden = 128;
  FlowMatching teacher(options, generator), reflowed(options, generator),
      one_step(options, generator);
  Consistency consistent({.network = options.network()}, generator);
  for (Module* m : std::initializer_list<Module*>{&teacher, &reflowed, &one_step, &consistent})
    m->to(a.device);
  const auto sample = [&](Generator& g) { return draw(data, a.batch, g, a.device); };
  Generator held_out(a.seed, uint64_t{1} << 40);
  const Tensor x0 = draw("", a.points, held_out, a.device);
  const Tensor x1 = draw(data, a.points, held_out, a.device);
  double base = 0;
  const auto tell = [&](const char* what, const Tensor& x, double straight) {
    const double w2 = finite(wasserstein2(x, x1));
    if (base == 0) base = w2;
    fmt::print("| {} | {} | {} | {:.3f} | {:.2f} | {} |\n", data, a.seed, what, w2, w2 / base,
               std::isnan(straight) ? "" : fmt::format("{:.3f}", straight));
    std::fflush(stdout);
  };
  const auto straight = [&](FlowMatching& m) { return straightness(velocity_field(m), x0); };
  const double none = std::nan("");

  train(
      teacher.parameters(), [&](int64_t, Generator& g) { return teacher.loss(sample(g), {}, g); },
      a.steps, true, a.seed);
  tell("teacher, 100 steps", teacher.generate(x0), straight(teacher));
  tell("teacher, 1 step", teacher.generate(x0, {}, euler(1)), none);

  const Pairs pairs =
      reflow_pairs(teacher, randn({a.batch * 200, 2}, generator, DType::float32, a.device));
  reflowed.load_state_dict(teacher.state_dict());
  train(
      reflowed.parameters(),
      [&](int64_t, Generator& g) {
        const Pairs p = draw_pairs(pairs, a.batch, g);
        return reflowed.loss(p.x1, {}, g, p.x0);
      },
      a.steps, true, a.seed + 1);
  tell("reflow, 100 steps", reflowed.generate(x0), straight(reflowed));
  tell("reflow, 1 step", reflowed.generate(x0, {}, euler(1)), none);

  const Pairs straighter = reflow_pairs(reflowed, pairs.x0);
  one_step.load_state_dict(reflowed.state_dict());
  train(
      one_step.parameters(),
      [&](int64_t, Generator& g) {
        const Pairs p = draw_pairs(straighter, a.batch, g);
        return one_step.loss(p.x1, {}, g, p.x0,
                             distillation_times(a.batch, 1, g, DType::float32, a.device));
      },
      a.steps, true, a.seed + 2);
  tell("reflow + distillation, 1 step", one_step.generate(x0, {}, euler(1)), none);

  consistent.load_state_dict(teacher.state_dict());
  Ema target(consistent.parameters(), 0.95);
  train(
      consistent.parameters(),
      [&](int64_t, Generator& g) {
        return consistent.loss(sample(g), {}, g, {.teacher = &teacher, .target = &target});
      },
      a.steps, true, a.seed + 3, &target);
  tell("consistency distillation, 1 step", consistent.generate(x0, {}, held_out), none);
  tell("consistency distillation, 2 steps", consistent.generate(x0, {}, held_out, 2), none);
}

void run(Arguments a) {
  std::tie(a.batch, a.steps) = parse_pair(a.sizes);
  if (a.verify_only) a.points = a.batch;
  kernels::set_num_threads(a.threads);
  if (a.one_step && a.tasks == "moons->8gaussians")
    throw cli::UsageError("--one-step: starts from noise; --tasks moons->8gaussians does not");
  if (a.one_step || a.verify_only) {
    fmt::print(
        "| data | seed | sampler | W2 | times teacher's | straightness |\n"
        "|---|---|---|---|---|---|\n");
    for (const Task& task : kTasks) {
      if (*task.source == 0 && (a.tasks == "all" || a.tasks == task.name))
        run_one_step(a, task.data);
    }
  }
  if (a.one_step) return;
  fmt::print(
      "| task | coupling | seed | W2, Euler-100 | NPE | W2 at 1 / 2 / 4 / 8 Euler steps | "
      "dopri5 evaluations | data against data | ms a step |\n"
      "|---|---|---|---|---|---|---|---|---|\n");
  for (const Task& task : kTasks) {
    if (a.tasks != "all" && a.tasks != task.name) continue;
    for (const Coupling coupling : {Coupling::independent, Coupling::optimal})
      run_task(a, task, coupling);
  }
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  flowgrad::bench::Arguments a;
  CLI::App app("Flow matching in the plane: couplings, straight paths and one-step samplers");
  flowgrad::bench::add_device_option(app, a.device);
  app.add_option("--sizes", a.sizes, "Batch and steps, as 256x20000");
  app.add_option("--tasks", a.tasks, "N->8gaussians, moons->8gaussians, N->moons or all")
      ->check(CLI::IsMember({"all", "N->8gaussians", "moons->8gaussians", "N->moons"}));
  app.add_option("--points", a.points, "Test points")->check(CLI::Range(2, 100000));
  app.add_option("--seed", a.seed, "Of weights, training and test points")
      ->check(CLI::Range(int64_t{0}, INT64_MAX));
  app.add_option("--threads", a.threads, "Threads of the CPU")->check(CLI::Range(1, 1024));
  app.add_flag("--one-step", a.one_step,
               "Reflow and distillation from noise in place of the table");
  app.add_flag("--verify-only", a.verify_only, "Both, with as few test points as the batch has");
  return flowgrad::bench::run_app(app, argc, argv, [&] {
    flowgrad::bench::run(a);
    return 0;
  });
}
