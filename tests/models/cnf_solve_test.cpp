// The continuous flow's solve as one kernel against its twin of plain operations.
#include "flowgrad/autograd/cnf_solve.h"

#include <cstring>

#include "device/device.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::raised;
using flowgrad::testing::shake;
using flowgrad::testing::test_device;

namespace {

std::unique_ptr<ContinuousNormalizingFlow> flow_of(int64_t dim, int64_t hidden, Trace trace,
                                                   const char* solver, DType dtype,
                                                   int64_t n_steps = 3) {
  CNFOptions o;
  o.dim = dim;
  o.hidden = hidden;
  o.trace = trace;
  o.solver = {.solver = solver, .n_steps = n_steps};
  Generator generator(3);
  auto flow = std::make_unique<ContinuousNormalizingFlow>(o, generator, dtype);
  shake(*flow, 4, 0.8);
  flow->to(test_device());
  return flow;
}

/// The device that a build without CUDA plays computes by loops.
bool has_kernel() {
  const std::string name = kernels::backend(test_device()).name();
  return name == "cpu" || name == "cuda";
}

/// Whether a kernel computed the tensor.
bool is_fused(const Tensor& t) {
  return std::strcmp(static_cast<const Node&>(*t.node()).name(), "cnf_solve") == 0;
}

double normalized_error(const Tensor& got, const Tensor& want) {
  const auto a = got.to_vector<double>();
  const auto b = want.to_vector<double>();
  REQUIRE(a.size() == b.size());
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size > 0 ? error / size : error;
}

bool close(const std::vector<Tensor>& got, const std::vector<Tensor>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = got[i].dtype() == DType::float32 ? 1e-7 : 1e-14;
    INFO("tensor " << i);
    CHECK(got[i].shape() == want[i].shape());
    CHECK(normalized_error(got[i], want[i]) <= bound);
  }
  return true;
}

/// y, the integral and the gradients of all parameters, of y0 and of the probe. `order` 2: of the
/// squared gradient instead.
std::vector<Tensor> solved(ContinuousNormalizingFlow& flow, int64_t n, int order, bool fused,
                           bool backwards = false) {
  const FusedKernels on(fused);
  Generator generator(5);
  const DType dtype = flow.parameters()[0].second.dtype();
  const auto draw = [&](const Shape& shape) {
    return randn(shape, generator, dtype, test_device());
  };
  const Tensor y0 = draw({n, flow.dim()}).requires_grad_();
  const Tensor probe = draw({n, flow.dim()}).requires_grad_();
  std::vector<Tensor> inputs = {y0};
  if (flow.options().trace == Trace::hutchinson) inputs.push_back(probe);
  for (const auto& [name, p] : flow.parameters()) inputs.push_back(p);
  const Transformed end =
      backwards ? flow.integrate(y0, 1, 0, probe) : flow.integrate(y0, 0, 1, probe);
  CHECK(is_fused(end.value) == (fused && has_kernel()));
  const Tensor loss = sum(end.value * draw({n, flow.dim()})) + sum(end.log_det * draw({n}));
  std::vector<Tensor> out = {end.value.detach(), end.log_det.detach()};
  std::vector<Tensor> gradients =
      grad(std::span(&loss, 1), inputs, {}, {.create_graph = order == 2});
  for (const Tensor& g : gradients) out.push_back(g.detach());
  if (order == 1) return out;
  Tensor size = zeros({}, dtype, test_device());
  for (const Tensor& g : gradients) size = size + sum(square(g));
  // The last bias enters no slope: the squares do not depend on it, nor on y0 without a trace.
  const std::vector<Tensor> seconds = grad(std::span(&size, 1), inputs, {}, {.allow_unused = true});
  for (const Tensor& g : seconds) {
    if (g.defined()) out.push_back(g.detach());
  }
  return out;
}

}  // namespace

TEST_CASE("a solve by one kernel equals its twin, gradients included", "[cnf_solve_test][device]") {
  for (const char* solver : {"euler", "midpoint", "heun", "rk4"}) {
    for (const Trace trace : {Trace::hutchinson, Trace::exact}) {
      for (const DType dtype : {DType::float32, DType::float64}) {
        INFO(solver << (trace == Trace::exact ? " exact " : " probe ") << name_of(dtype));
        const auto flow = flow_of(3, 16, trace, solver, dtype);
        for (const bool backwards : {false, true}) {
          close(solved(*flow, 5, 1, true, backwards), solved(*flow, 5, 1, false, backwards));
        }
      }
    }
  }
  // More rows than a tile of the CPU's has, and a last tile that is not full.
  const auto tall = flow_of(2, 20, Trace::hutchinson, "rk4", DType::float64, 2);
  close(solved(*tall, 75, 1, true), solved(*tall, 75, 1, false));
  const auto wide = flow_of(43, 64, Trace::hutchinson, "rk4", DType::float32, 2);
  close(solved(*wide, 9, 1, true), solved(*wide, 9, 1, false));
  const auto usual = flow_of(2, 64, Trace::exact, "rk4", DType::float32, 2);
  close(solved(*usual, 17, 1, true), solved(*usual, 17, 1, false));
}

TEST_CASE("columns that end within a register, behind some that are taken side by side",
          "[cnf_solve_test]") {
  for (const Trace trace : {Trace::hutchinson, Trace::exact}) {
    const auto few = flow_of(2, 85, trace, "midpoint", DType::float32, 2);
    close(solved(*few, 33, 1, true), solved(*few, 33, 1, false));
    const auto many = flow_of(7, 85, trace, "midpoint", DType::float64, 2);
    close(solved(*many, 33, 1, true), solved(*many, 33, 1, false));
  }
}

TEST_CASE("a solve that is too long to keep its stages finds them again", "[cnf_solve_test]") {
  // Three tiles of rows, 85 steps of four stages: past the 2^23 numbers that the CPU keeps.
  const auto flow = flow_of(2, 64, Trace::hutchinson, "rk4", DType::float64, 85);
  close(solved(*flow, 75, 1, true), solved(*flow, 75, 1, false));
}

TEST_CASE("a second derivative goes through the twin", "[cnf_solve_test][device]") {
  for (const Trace trace : {Trace::hutchinson, Trace::exact}) {
    const auto flow = flow_of(2, 8, trace, "rk4", DType::float64, 2);
    close(solved(*flow, 4, 2, true), solved(*flow, 4, 2, false));
  }
}

TEST_CASE("gradients of a probe alone, and of y0 alone", "[cnf_solve_test][device]") {
  const auto flow = flow_of(2, 8, Trace::hutchinson, "rk4", DType::float64, 2);
  for (const auto& [name, p] : flow->parameters()) p.requires_grad_(false);
  for (const bool of_probe : {false, true}) {
    for (const bool create_graph : {false, true}) {
      std::vector<Tensor> found;
      for (const bool fused : {true, false}) {
        const FusedKernels on(fused);
        Generator generator(5);
        const Tensor y0 = randn({4, 2}, generator, DType::float64, test_device());
        const Tensor probe = randn({4, 2}, generator, DType::float64, test_device());
        const Tensor x = (of_probe ? probe : y0).requires_grad_();
        const Tensor loss = sum(square(flow->integrate(y0, 0, 1, probe).log_det));
        found.push_back(grad(loss, x, {.create_graph = create_graph}));
      }
      close({found[0]}, {found[1]});
    }
  }
}

TEST_CASE("a flow trains and samples alike with and without the kernel",
          "[cnf_solve_test][device]") {
  std::vector<std::vector<Tensor>> runs;
  for (const bool fused : {true, false}) {
    const FusedKernels on(fused);
    const auto flow = flow_of(2, 8, Trace::hutchinson, "rk4", DType::float64, 4);
    Adam optimizer({{flow->parameters()}}, {.lr = 1e-2});
    Generator generator(9);
    std::vector<Tensor> out;
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      const Tensor x = randn({16, 2}, generator, DType::float64, test_device());
      const Tensor loss = -mean(flow->log_prob(x));
      out.push_back(loss.detach());
      backward(loss);
      optimizer.step();
    }
    out.push_back(flow->sample(20, generator));
    for (const auto& [name, p] : flow->parameters()) out.push_back(p.detach());
    runs.push_back(out);
  }
  close(runs[0], runs[1]);
}

TEST_CASE("a solve inside a checkpoint, without rows, without a step", "[cnf_solve_test][device]") {
  const auto flow = flow_of(2, 8, Trace::exact, "rk4", DType::float64, 2);
  const Tensor y0 = ones({3, 2}, DType::float64, test_device()).requires_grad_();
  const Function value = [&](const Tensor& y) { return sum(flow->integrate(y, 0, 1).log_det); };
  close({grad(checkpoint(value, y0), y0)}, {grad(value(y0), y0)});
  const auto gradients = solved(*flow, 0, 1, true);
  for (size_t i = 3; i < gradients.size(); ++i) {
    for (double g : gradients[i].to_vector<double>()) CHECK(g == 0);
  }
  const Transformed still = flow->integrate(y0, 0.5, 0.5);
  close({still.value}, {y0});
}

TEST_CASE("sizes without a kernel use the twin", "[cnf_solve_test][device]") {
  if (test_device().is_cpu()) return;  // its kernel takes all sizes
  const auto flow = flow_of(2, 400, Trace::exact, "euler", DType::float64, 1);
  const Tensor y0 = ones({2, 2}, DType::float64, test_device());
  CHECK_FALSE(is_fused(flow->integrate(y0, 0, 1).value));
}

TEST_CASE("a row's solve is the same alone and among others, at any number of threads",
          "[cnf_solve_test]") {
  const auto flow = flow_of(2, 64, Trace::hutchinson, "rk4", DType::float32, 4);
  Generator generator(7);
  const Tensor y0 = randn({75, 2}, generator), probe = randn({75, 2}, generator);
  const int threads = kernels::num_threads();
  std::vector<Transformed> all;
  for (const int n : {1, 3}) {
    kernels::set_num_threads(n);
    all.push_back(flow->integrate(y0, 0, 1, probe));
  }
  kernels::set_num_threads(threads);
  for (const int64_t row : {0, 31, 32, 74}) {
    const Transformed alone =
        flow->integrate(slice(y0, 0, row, row + 1), 0, 1, slice(probe, 0, row, row + 1));
    for (const Transformed& t : all) {
      CHECK(max(abs(select(t.value, 0, row) - select(alone.value, 0, 0))).item() == 0);
      CHECK(abs(select(t.log_det, 0, row) - select(alone.log_det, 0, 0)).item() == 0);
    }
  }
}

TEST_CASE("cnf_solve names what does not fit", "[cnf_solve_test]") {
  const MultiFunction twin = [](std::span<const Tensor> in) { return std::vector<Tensor>{in[0]}; };
  CnfTensors f{.x = ones({4, 2}),
               .t = ones({4}),
               .bias = ones({4}),
               .middle = ones({4, 4}),
               .middle_bias = ones({4}),
               .out = ones({2, 4}),
               .out_bias = ones({2})};
  CHECK(cnf_solve(ones({3, 2}), f, {}, twin).size() == 1);
  f.left = ones({3, 5});
  CHECK(contains(raised<ShapeError>([&] {
                   cnf_solve(ones({3, 2}), f, {}, twin);
                 }),
                 {"cnf_solve: left is (3, 5); (3, 4) is accepted"}));
  f.left = ones({3, 4});
  CHECK(contains(raised<ValueError>([&] {
                   cnf_solve(ones({3, 2}), f, {}, twin);
                 }),
                 {"left and right, or exact, or none"}));
  CHECK(contains(raised<ShapeError>([&] { cnf_solve(ones({3}), f, {}, twin); }), {"y0 is (3,)"}));
}
