#include <fmt/format.h>

#include <limits>
#include <optional>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/text.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/models/flow_matching.h"

// trace solve: every step that a solver attempts, accepted or not.
namespace flowgrad::cli {
namespace {

struct TraceArguments {
  CommonOptions common;
  ModelOptions model;
  std::string what, input, condition, solver, output;
  int64_t n_samples = 256, n_steps = 0, max_steps = OdeOptions().max_steps;
  double rtol = 1e-5, atol = 1e-5;
};

struct SolveTrace {
  std::vector<OdeStep> steps;
  std::optional<OdeError> failure;
  bool adaptive = true;
};

/// The model's solver with what the command line gives.
OdeOptions solver_of(const TraceArguments& a, const Command& command, OdeOptions solver) {
  if (!a.solver.empty()) {
    solver.solver = a.solver;
  } else if (a.n_steps > 0 && is_adaptive(solver)) {
    solver.solver = "rk4";
  }
  const auto refuse = [&](const char* option, const char* accepted) {
    throw UsageError(
        fmt::format("{}: given with solver {}; {} accept it", option, solver.solver, accepted));
  };
  if (is_adaptive(solver)) {
    if (a.n_steps > 0) refuse("--n-steps", "solvers of equal steps");
  } else {
    for (const char* name : {"rtol", "atol", "max-steps"}) {
      if (command.given(name)) refuse(fmt::format("--{}", name).c_str(), "adaptive solvers");
    }
  }
  if (a.n_steps > 0) solver.n_steps = a.n_steps;
  if (command.given("rtol")) solver.rtol = a.rtol;
  if (command.given("atol")) solver.atol = a.atol;
  solver.max_steps = a.max_steps;
  return solver;
}

/// Rows in, from data to noise where they are given and from noise to data else.
SolveTrace solve(const TraceArguments& a, const Command& command, Model& model,
                 Generator& generator) {
  auto* cnf = dynamic_cast<ContinuousNormalizingFlow*>(&model.module());
  auto* matching = dynamic_cast<FlowMatching*>(&model.module());
  if (!cnf && !matching) {
    throw UsageError(
        fmt::format("--model: {} given, whose solves are not traced; cnf "
                    "and flow_matching are accepted",
                    model.name()));
  }
  const DType dtype = dtype_of(a.common);
  const QuantityInputs in = on_device({.input = load_array("--input", a.input, dtype),
                                       .condition = load_array("--condition", a.condition, dtype)},
                                      device_of(a.common));
  const bool reverse = in.input.defined();
  const int64_t width = cnf ? cnf->dim() : matching->options().action_dim;
  const Tensor start =
      reverse ? in.input : randn({a.n_samples, width}, generator, dtype, device_of(a.common));
  SolveTrace out;
  OdeOptions solver =
      solver_of(a, command, cnf ? cnf->options().solver : OdeOptions{.solver = "dopri5"});
  solver.gradient = OdeGradient::direct;
  solver.trace = [&out](const OdeStep& step) { out.steps.push_back(step); };
  out.adaptive = is_adaptive(solver);
  const double t0 = reverse ? 1 : 0;
  try {
    if (cnf) {
      // With the trace of the Jacobian, which takes part in the control of the step.
      cnf->set_solver(solver);
      cnf->probe_generator().set_state(generator.seed(), generator.next_stream() << 20);
      cnf->integrate(start, t0, 1 - t0, {}, in.condition);
    } else {
      odeint(velocity_field(*matching, in.condition), start, t0, 1 - t0, solver);
    }
  } catch (const OdeError& e) {
    out.failure = e;
  }
  return out;
}

std::string ratio_of(const SolveTrace& trace, const OdeStep& s, const char* format,
                     const char* none) {
  return trace.adaptive ? fmt::format(fmt::runtime(format), s.error_ratio) : none;
}

std::string as_table(const SolveTrace& trace) {
  std::string out = fmt::format("{:>12}  {:>12}  {:>12}  {:<8}  {:>11}\n", "t", "dt", "error ratio",
                                "accepted", "evaluations");
  for (const OdeStep& s : trace.steps) {
    out += fmt::format("{:>12.6g}  {:>12.4g}  {:>12}  {:<8}  {:>11}\n", s.t, s.dt,
                       ratio_of(trace, s, "{:.3g}", "-"), s.accepted ? "yes" : "no", s.evaluations);
  }
  return out;
}

std::string as_csv(const SolveTrace& trace) {
  std::string out = "t,dt,error_ratio,accepted,evaluations\n";
  for (const OdeStep& s : trace.steps) {
    out += fmt::format("{:.17g},{:.17g},{},{},{}\n", s.t, s.dt, ratio_of(trace, s, "{:.17g}", ""),
                       s.accepted ? 1 : 0, s.evaluations);
  }
  return out;
}

std::string as_json(const SolveTrace& trace) {
  std::vector<std::string> rows;
  for (const OdeStep& s : trace.steps) {
    rows.push_back(fmt::format(
        "{{\"t\": {}, \"dt\": {}, \"error_ratio\": {}, \"accepted\": {}, \"evaluations\": {}}}",
        json_number(s.t), json_number(s.dt), trace.adaptive ? json_number(s.error_ratio) : "null",
        s.accepted, s.evaluations));
  }
  return fmt::format("{{\"success\": {}, \"steps\": [{}]}}\n", !trace.failure,
                     fmt::join(rows, ", "));
}

void run_trace(const TraceArguments& a, const Command& command) {
  if (!a.output.empty()) check_output("--output", a.output, {".csv", ".json"});
  if (!a.input.empty() && command.given("n-samples"))
    throw UsageError("--n-samples: given with --input, whose rows are solved; one is accepted");
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  model->module().train(false);
  NoGrad off;
  const SolveTrace trace = solve(a, command, *model, generator);
  if (!a.output.empty()) {
    write_file_atomic(a.output, a.output.ends_with(".csv") ? as_csv(trace) : as_json(trace),
                      "--output");
  }
  const size_t accepted = static_cast<size_t>(std::count_if(
      trace.steps.begin(), trace.steps.end(), [](const auto& s) { return s.accepted; }));
  if (a.common.json) {
    print_result(as_json(trace));
  } else if (a.output.empty()) {
    print_result(as_table(trace));
  } else {
    print_result(fmt::format("{} steps, {} accepted, {} evaluations -> {}\n", trace.steps.size(),
                             accepted, trace.steps.empty() ? 0 : trace.steps.back().evaluations,
                             a.output));
  }
  if (trace.failure) throw OdeError(*trace.failure);
}

}  // namespace

void add_trace(CLI::App& app) {
  auto a = std::make_shared<TraceArguments>();
  Command c(app, "trace", "Show what happens inside: the steps that a solver attempts");
  c.group("Positional");
  c.choice("what", a->what, "What to trace: solve", {"solve"}).required().transient();
  add_model(c, a->model, Weights::use);
  c.group("Rows");
  c.file("--input", a->input, "Data (N, D) to solve to noise, from t = 1 to 0, .npy");
  c.integer("--n-samples", a->n_samples, "Rows of noise to solve to data, from t = 0 to 1", 1,
            10000000);
  c.file("--condition", a->condition, "Condition, rows (N, C), .npy; one row serves all");
  c.group("Solver");
  c.text("--solver", a->solver,
         "dopri5, euler, midpoint, heun, rk4 or dopri5_fixed; empty = the model's own, dopri5 for "
         "flow_matching",
         "NAME");
  c.integer("--n-steps", a->n_steps, "Steps of a solver of equal steps; 0 = the model's own", 0,
            1000000);
  const double most = std::numeric_limits<double>::max();
  c.real("--rtol", a->rtol, "Relative tolerance of dopri5, in place of the model's own", 0, most);
  c.real("--atol", a->atol, "Absolute tolerance of dopri5, in place of the model's own", 0, most);
  c.integer("--max-steps", a->max_steps, "Attempts of dopri5 before it gives up", 1, 100000000);
  c.group("Output");
  c.file("--output", a->output, "The steps as a file, .csv or .json, in place of the table");
  add_common(c, a->common);
  c.examples(
      "flowgrad trace solve --run runs/cnf-moons --rtol 1e-3 --atol 1e-3\n"
      "flowgrad trace solve --model cnf --input x.npy --output steps.csv");
  c.run([a](const Command& self) { run_trace(*a, self); });
}

}  // namespace flowgrad::cli
