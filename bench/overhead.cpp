// What an operation on small tensors costs beside its arithmetic: without a tape, recorded, and its
// node in the backward pass. Checked against the same chain in double first.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/options.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "support/bench.h"

namespace flowgrad::bench {
namespace {

constexpr int kRounds = 10;

using Tensors = std::vector<Tensor>;

struct Arguments {
  Device device;
  std::string sizes = "8x500", only, json;
  double budget = 1;
  bool verify_only = false;
};

/// y = step(y, leaves) again and again, y (4, n). The leaves lie near what leaves y as it is, so
/// that no chain ends in 0 or infinity.
struct Chain {
  const char* name;
  Tensors leaves;
  Tensor (*step)(const Tensor& y, const Tensors& leaves);
};

std::vector<Chain> chains(int64_t n) {
  Generator g(1);
  const auto near = [&g](double value, const Shape& s) { return value + 1e-3 * randn(s, g); };
  const auto near_identity = [&] {
    return eye(n) + near(0, {n, n}) / std::sqrt(static_cast<double>(n));
  };
  using T = Tensor;
  using Leaves = const Tensors&;
  return {
      {"y * 0.999", {}, [](const T& y, Leaves) { return y * 0.999; }},
      {"tanh(y)", {}, [](const T& y, Leaves) { return tanh(y); }},
      {"y + a", {near(0, {4, n})}, [](const T& y, Leaves l) { return y + l[0]; }},
      {"y + a, a broadcast", {near(0, {n})}, [](const T& y, Leaves l) { return y + l[0]; }},
      {"y * a", {near(1, {4, n})}, [](const T& y, Leaves l) { return y * l[0]; }},
      {"y / a", {near(1, {4, n})}, [](const T& y, Leaves l) { return y / l[0]; }},
      {"matmul(y, A)", {near_identity()}, [](const T& y, Leaves l) { return matmul(y, l[0]); }},
      {"linear(y, A, b)",
       {near_identity(), near(0, {n})},
       [](const T& y, Leaves l) { return linear(y, l[0], l[1]); }},
  };
}

Tensor run(const Chain& c, const Tensors& leaves, const Tensor& x, int64_t steps) {
  Tensor y = x;
  for (int64_t i = 0; i < steps; ++i) y = c.step(y, leaves);
  return y;
}

/// Values and the gradients of their squares' half in x and the leaves.
std::vector<std::vector<double>> results(const Chain& c, DType dtype, Device device,
                                         const Tensor& x, int64_t steps) {
  const auto leaf = [&](const Tensor& t) {
    return clone(to(cast(t, dtype), device)).requires_grad_();
  };
  Tensors inputs{leaf(x)}, leaves;
  for (const Tensor& t : c.leaves) inputs.push_back(leaves.emplace_back(leaf(t)));
  const Tensor y = run(c, leaves, inputs[0], steps);
  std::vector<std::vector<double>> out{y.to_vector<double>()};
  for (const Tensor& g : grad(0.5 * sum(square(y)), inputs)) out.push_back(g.to_vector<double>());
  return out;
}

/// Nanoseconds for each operation, the smallest of all samples.
struct Times {
  double plain = INFINITY, recorded = INFINITY, backward = INFINITY;
};

/// Lowers the times to what is reached within the budget, in seconds.
void measure(const Chain& c, Device device, const Tensor& x, int64_t steps, double budget,
             Times& t) {
  using Clock = std::chrono::steady_clock;
  const Tensor start = clone(to(x, device)).requires_grad_();
  Tensors leaves;
  for (const Tensor& t : c.leaves) leaves.push_back(clone(to(t, device)).requires_grad_());
  auto since = [&, last = Clock::now()](double* least) mutable {
    synchronize(device);
    const std::chrono::duration<double, std::nano> passed = Clock::now() - last;
    if (least != nullptr) *least = std::min(*least, passed.count() / static_cast<double>(steps));
    last = Clock::now();
  };
  // Of numbers in memory, as most are: that of a sum would be one number shown often.
  const Tensor cotangent = ones(x.shape(), DType::float32, device);
  const auto end = Clock::now() + std::chrono::duration<double>(budget);
  do {
    {
      NoGrad none;
      since(nullptr);
      run(c, leaves, start, steps);
      since(&t.plain);
    }
    const Tensor y = run(c, leaves, start, steps);
    since(&t.recorded);
    backward(y, cotangent);
    since(&t.backward);
    start.zero_grad();
    for (const Tensor& leaf : leaves) leaf.zero_grad();
  } while (Clock::now() < end);
}

/// Of values and gradients in float32, relative to those in float64.
double error_of(const Chain& c, Device device, const Tensor& x, int64_t steps) {
  const auto want = results(c, DType::float64, Device::cpu(), x, steps);
  const auto got = results(c, DType::float32, device, x, steps);
  double error = 0;
  for (size_t i = 0; i < want.size(); ++i)
    error = std::max(error, cli::relative_error(got[i], want[i]));
  return error;
}

int run(const Arguments& a) {
  const auto [n, steps] = parse_pair(a.sizes);
  if (!a.json.empty()) cli::check_output("--json", a.json, {".json"});
  std::vector<Chain> all = chains(n);
  std::erase_if(
      all, [&](const Chain& c) { return std::string(c.name).find(a.only) == std::string::npos; });
  if (all.empty()) throw cli::UsageError("--only: no chain is left");
  Generator g(2);
  const Tensor x = randn({4, n}, g);
  Json root;
  root["cpu"] = cli::cpu_description();
  root["numbers"] = 4 * n;
  // Rounding adds up along a chain.
  const double tolerance = 1e-6 * static_cast<double>(10 + steps);
  std::vector<double> errors;
  for (const Chain& c : all) errors.push_back(error_of(c, a.device, x, steps));
  const auto fails = [&](size_t i) { return !(errors[i] <= tolerance); };
  // In turn, so that no chain has the machine's slow moments to itself.
  std::vector<Times> times(all.size());
  for (int round = 0; round < kRounds && !a.verify_only; ++round)
    for (size_t i = 0; i < all.size(); ++i)
      if (!fails(i)) measure(all[i], a.device, x, steps, a.budget / kRounds, times[i]);
  bool failed = false;
  fmt::print("{:<20} {:>8} {:>14} {:>14} {:>14}\n", "", "error", "no tape, ns", "recorded, ns",
             "backward, ns");
  for (size_t i = 0; i < all.size(); ++i) {
    fmt::print("{:<20} {:>8.1e}", all[i].name, errors[i]);
    if (fails(i)) {
      failed = true;
      fmt::print(" FAIL: {:.0e} is demanded\n", tolerance);
      continue;
    }
    Json row{{"operation", all[i].name}, {"error", errors[i]}};
    if (!a.verify_only) {
      const Times& t = times[i];
      fmt::print(" {:>14.0f} {:>14.0f} {:>14.0f}", t.plain, t.recorded, t.backward);
      row["plain_ns"] = t.plain, row["recorded_ns"] = t.recorded, row["backward_ns"] = t.backward;
    }
    fmt::print("\n");
    root["rows"].push_back(row);
  }
  if (!a.json.empty()) write_file_atomic(a.json, json_text(root, 1) + "\n", "--json");
  return failed;
}

}  // namespace
}  // namespace flowgrad::bench

int main(int argc, char** argv) {
  flowgrad::bench::Arguments a;
  CLI::App app("What an operation on small tensors costs: alone, recorded, and its backward node");
  flowgrad::bench::add_device_option(app, a.device);
  app.add_option("--sizes", a.sizes, "Columns of y, which has 4 rows, and operations, as 8x500");
  app.add_option("--only", a.only, "Operations whose name contains this");
  app.add_option("--budget", a.budget, "Seconds per operation")->check(CLI::Range(0.0, 3600.0));
  app.add_option("--json", a.json, "Write the rows to this file");
  app.add_flag("--verify-only", a.verify_only, "Check every chain, time none");
  return flowgrad::bench::run_app(app, argc, argv, [&] { return flowgrad::bench::run(a); });
}
