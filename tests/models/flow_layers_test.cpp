// Couplings and planar stacks as one kernel against their twins of plain operations, every
// derivative, and what they refuse.
#include <cmath>

#include "flow_layers.h"
#include "flowgrad/autograd/coupling.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/planar.h"

using namespace flowgrad;
using flowgrad::testing::agree;
using flowgrad::testing::all_of;
using flowgrad::testing::contains;
using flowgrad::testing::draw;
using flowgrad::testing::is_node;
using flowgrad::testing::mask_of;
using flowgrad::testing::raised;
using flowgrad::testing::test_device;

namespace {

using Pair = std::pair<Tensor, Tensor>;

MultiFunction coupling_of(const Tensor& mask, CouplingOptions o) {
  return [mask, o](std::span<const Tensor> in) {
    const auto [x, log_det] = affine_coupling(in[0], in[1], in[2], mask, o);
    return std::vector<Tensor>{x, log_det};
  };
}

MultiFunction stack_of(bool inverse) {
  return [inverse](std::span<const Tensor> in) {
    const Tensor margin = in.size() > 4 ? in[4] : Tensor();
    const auto [x, log_det] = planar_stack(in[0], in[1], in[2], in[3], inverse, margin);
    return std::vector<Tensor>{x, log_det};
  };
}

std::vector<Tensor> coupling_inputs(int64_t n, int64_t d, DType dtype = DType::float64) {
  return {draw({n, d}, 1, dtype), draw({n, d}, 2, dtype), draw({n, d}, 3, dtype)};
}

/// z, w, b, u with |w.u| below 1, and a margin of its own where asked for.
std::vector<Tensor> stack_inputs(int64_t n, int64_t d, int64_t k, DType dtype = DType::float64,
                                 bool with_margin = false) {
  const double size = 0.9 / std::sqrt(static_cast<double>(d));
  std::vector<Tensor> in = {draw({n, d}, 4, dtype), draw({k, d}, 5, dtype) * size,
                            draw({k}, 6, dtype), draw({k, d}, 7, dtype) * size};
  if (with_margin) in.push_back(square(draw({k}, 8, dtype)) + 0.05);
  return in;
}

}  // namespace

TEST_CASE("an affine coupling equals its twin", "[flow_layers_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const auto& [n, d] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 2}, {7, 3}, {0, 2}, {40, 33}, {3, 70}}) {
      for (const double bound : {0.0, 1.5}) {
        for (const bool inverse : {false, true}) {
          INFO(name_of(dtype) << " " << n << " x " << d << " bound " << bound << " " << inverse);
          const auto f = coupling_of(mask_of(d, dtype), {bound, inverse});
          const auto in = coupling_inputs(n, d, dtype);
          agree(all_of(f, in, true), all_of(f, in, false));
        }
      }
    }
  }
}

TEST_CASE("a planar stack equals its twin", "[flow_layers_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const auto& [n, d, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {1, 2, 1}, {7, 3, 4}, {0, 2, 3}, {40, 33, 2}, {9, 5, 10}}) {
      for (const bool inverse : {false, true}) {
        for (const bool with_margin : {false, true}) {
          INFO(name_of(dtype) << " " << n << " x " << d << ", " << k << " layers " << inverse
                              << ", margin given " << with_margin);
          const auto in = stack_inputs(n, d, k, dtype, with_margin);
          agree(all_of(stack_of(inverse), in, true), all_of(stack_of(inverse), in, false));
        }
      }
    }
  }
}

TEST_CASE("flow layers are differentiable to the third order", "[flow_layers_test]") {
  for (const bool inverse : {false, true}) {
    const auto coupling = gradcheck(coupling_of(mask_of(3, DType::float64), {1.5, inverse}),
                                    coupling_inputs(2, 3), {.order = 3});
    INFO("coupling, inverse " << inverse << ": " << coupling.message);
    CHECK(coupling.passed);
    for (const bool with_margin : {false, true}) {
      const auto planar = gradcheck(
          stack_of(inverse), stack_inputs(2, 2, 2, DType::float64, with_margin), {.order = 3});
      INFO("planar, inverse " << inverse << ": " << planar.message);
      CHECK(planar.passed);
    }
  }
}

TEST_CASE("flow layers take views, and one output may go unused", "[flow_layers_test][device]") {
  const auto in = coupling_inputs(4, 6);
  const auto f = coupling_of(mask_of(6, DType::float64), {2, false});
  std::vector<Tensor> views;
  for (const Tensor& t : in) views.push_back(transpose(contiguous(transpose(t))));
  agree(all_of(f, views, true), all_of(f, in, false));
  const auto weights = stack_inputs(4, 3, 2);
  views.clear();
  for (const Tensor& t : weights) {
    views.push_back(t.rank() == 2 ? transpose(contiguous(transpose(t))) : t);
  }
  agree(all_of(stack_of(true), views, true), all_of(stack_of(true), weights, false));
  for (const int output : {0, 1}) {
    const auto only = [&](const MultiFunction& g, const std::vector<Tensor>& given, bool fused) {
      const FusedKernels on(fused);
      std::vector<Tensor> leaves;
      for (const Tensor& t : given) leaves.push_back(t.detach().requires_grad_());
      const Tensor loss = sum(square(g(leaves)[static_cast<size_t>(output)]));
      std::vector<Tensor> r = grad(std::span(&loss, 1), leaves, {}, {.allow_unused = true});
      for (size_t i = 0; i < r.size(); ++i) {
        if (!r[i].defined()) r[i] = zeros_like(given[i]);  // the log-det reads neither z nor shift
      }
      return r;
    };
    agree(only(f, in, true), only(f, in, false));
    agree(only(stack_of(false), weights, true), only(stack_of(false), weights, false));
  }
}

TEST_CASE("fused flow layers are one node", "[flow_layers_test][device]") {
  const auto in = coupling_inputs(2, 2);
  const Tensor z = in[0].detach().requires_grad_();
  const Tensor mask = mask_of(2, DType::float64);
  CHECK(is_node(affine_coupling(z, in[1], in[2], mask).first, "affine_coupling"));
  const auto w = stack_inputs(2, 2, 3);
  CHECK(is_node(planar_stack(z, w[1], w[2], w[3], true).first, "planar_stack"));
  const FusedKernels off(false);
  CHECK_FALSE(is_node(affine_coupling(z, in[1], in[2], mask).first, "affine_coupling"));
  CHECK_FALSE(is_node(planar_stack(z, w[1], w[2], w[3], true).first, "planar_stack"));
}

TEST_CASE("what a mask hides shows in no derivative", "[flow_layers_test][device]") {
  const auto at = [](std::vector<double> v) {
    return Tensor::from(v, {1, 2}, DType::float64, test_device()).requires_grad_();
  };
  const double bad = GENERATE(HUGE_VAL, std::nan(""));
  const bool fused = GENERATE(false, true);
  const FusedKernels on(fused);
  const Tensor z = at({1, 2}), scale = at({bad, 0.3}), shift = at({bad, 0.1});
  const auto [x, log_det] =
      affine_coupling(z, scale, shift, mask_of(2, DType::float64), {.bound = 2});
  const Tensor loss = sum(square(x)) + sum(square(log_det));
  const std::vector<Tensor> inputs = {z, scale, shift};
  const auto first = grad(std::span(&loss, 1), inputs, {}, {.create_graph = true});
  Tensor size = zeros({}, DType::float64, test_device());
  for (const Tensor& g : first) size = size + sum(square(g));
  for (const Tensor& g : first) {
    for (const double v : g.to_vector<double>()) CHECK(std::isfinite(v));
  }
  for (const Tensor& g : grad(std::span(&size, 1), inputs)) {
    for (const double v : g.to_vector<double>()) CHECK(std::isfinite(v));
  }
}

TEST_CASE("flow layers refuse what does not fit", "[flow_layers_test]") {
  const auto in = coupling_inputs(2, 3);
  const Tensor mask = mask_of(3, DType::float64);
  CHECK(contains(raised<ShapeError>([&] { affine_coupling(mask, in[1], in[2], mask); }),
                 {"affine_coupling", "z is (3,)", "(N, D)"}));
  CHECK(contains(raised<ShapeError>([&] { affine_coupling(in[0], in[1], mask, mask); }),
                 {"affine_coupling", "shift is (3,)", "(2, 3)"}));
  CHECK(contains(
      raised<DTypeError>([&] { affine_coupling(in[0], cast(in[1], DType::float32), in[2], mask); }),
      {"affine_coupling", "scale", "float32"}));
  CHECK(contains(
      raised<ValueError>([&] { affine_coupling(in[0], in[1], in[2], mask, {.bound = -1}); }),
      {"affine_coupling", "bound = -1"}));
  const auto w = stack_inputs(2, 3, 2);
  CHECK(contains(raised<ShapeError>([&] { planar_stack(in[0], w[1], w[1], w[3]); }),
                 {"planar_stack", "b is (2, 3)", "(2,)"}));
  CHECK(contains(raised<ShapeError>([&] { planar_stack(in[0], w[2], w[2], w[3]); }),
                 {"planar_stack", "(K, D)"}));
  CHECK(contains(
      raised<DTypeError>([&] { planar_stack(cast(in[0], DType::float32), w[1], w[2], w[3]); }),
      {"planar_stack: w is float64 and z is float32"}));
  CHECK(contains(
      raised<DTypeError>([&] { planar_stack(cast(in[0], DType::int64), w[1], w[2], w[3]); }),
      {"planar_stack", "int64"}));
  CHECK(contains(raised<ShapeError>([&] { planar_stack(in[0], w[1], w[2], w[3], false, w[1]); }),
                 {"planar_stack", "margin is (2, 3)", "(2,)"}));
}
