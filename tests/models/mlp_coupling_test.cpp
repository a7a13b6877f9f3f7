// A coupling with its nets as one kernel against its twin of plain operations, every derivative,
// and what it refuses.
#include <cmath>

#include "flow_layers.h"
#include "flowgrad/autograd/coupling.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/kernels/parallel.h"

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

/// Rows, dimensions, units, width of the condition; 0: none.
struct Sizes {
  int64_t n, d, h, c;
};

/// z, the condition where there is one, and the nets' weights and biases, scaled as a fresh net's.
std::vector<Tensor> inputs_of(const Sizes& s, DType dtype) {
  std::vector<Tensor> in = {draw({s.n, s.d}, 1, dtype)};
  if (s.c > 0) in.push_back(draw({s.n, s.c}, 2, dtype));
  for (uint64_t net = 0; net < 2; ++net) {
    const std::vector<std::pair<int64_t, int64_t>> layers = {
        {s.h, s.d + s.c}, {s.h, s.h}, {s.d, s.h}};
    for (uint64_t i = 0; i < 3; ++i) {
      const auto [out, inputs] = layers[i];
      const double size = 1.5 / std::sqrt(static_cast<double>(inputs));
      in.push_back(draw({out, inputs}, 10 * net + i + 3, dtype) * size);
      in.push_back(draw({out}, 10 * net + i + 30, dtype) * 0.3);
    }
  }
  return in;
}

MultiFunction coupling_of(const Tensor& mask, const CouplingOptions& o, bool conditioned) {
  return [mask, o, conditioned](std::span<const Tensor> in) {
    const size_t first = conditioned ? 2 : 1;
    CouplingNet nets[2];
    for (size_t i = 0; i < 6; ++i) {
      nets[i / 3].weight[i % 3] = in[first + 2 * i];
      nets[i / 3].bias[i % 3] = in[first + 2 * i + 1];
    }
    const auto [x, log_det] =
        mlp_coupling(in[0], conditioned ? in[1] : Tensor(), mask, nets[0], nets[1], o);
    return std::vector<Tensor>{x, log_det};
  };
}

std::vector<Tensor> values_of(const MultiFunction& f, const std::vector<Tensor>& in, bool fused) {
  const FusedKernels on(fused);
  return f(in);
}

std::vector<uint8_t> bytes_of(const std::vector<Tensor>& tensors) {
  std::vector<uint8_t> out;
  for (const Tensor& t : tensors) {
    const Tensor here = contiguous(t.detach());
    const auto* first = static_cast<const uint8_t*>(here.raw());
    out.insert(out.end(), first, first + static_cast<size_t>(here.numel()) * size_of(here.dtype()));
  }
  return out;
}

}  // namespace

TEST_CASE("a coupling with its nets equals its twin", "[mlp_coupling_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const Sizes& s : std::vector<Sizes>{{1, 2, 1, 0},
                                             {7, 3, 5, 2},
                                             {0, 2, 4, 1},
                                             {23, 2, 16, 0},
                                             {24, 1, 17, 3},
                                             {64, 9, 33, 0},
                                             {65, 33, 20, 5},
                                             {130, 2, 70, 1}}) {
      for (const double bound : {0.0, 1.5}) {
        for (const bool inverse : {false, true}) {
          INFO(name_of(dtype) << " " << s.n << " x " << s.d << ", " << s.h << " units, condition "
                              << s.c << ", bound " << bound << " " << inverse);
          const auto f = coupling_of(mask_of(s.d, dtype), {bound, inverse}, s.c > 0);
          const auto in = inputs_of(s, dtype);
          agree(all_of(f, in, true), all_of(f, in, false));
          agree(values_of(f, in, true), values_of(f, in, false));
        }
      }
    }
  }
}

TEST_CASE("a coupling with its nets is differentiable to the third order", "[mlp_coupling_test]") {
  for (const bool inverse : {false, true}) {
    const auto r = gradcheck(coupling_of(mask_of(2, DType::float64), {1.5, inverse}, true),
                             inputs_of({2, 2, 2, 1}, DType::float64), {.order = 3});
    INFO("inverse " << inverse << ": " << r.message);
    CHECK(r.passed);
  }
}

TEST_CASE("a coupling with its nets takes views, and one output may go unused",
          "[mlp_coupling_test][device]") {
  const auto in = inputs_of({30, 4, 6, 2}, DType::float64);
  const auto f = coupling_of(mask_of(4, DType::float64), {2, false}, true);
  std::vector<Tensor> views;
  for (const Tensor& t : in)
    views.push_back(t.rank() == 2 ? transpose(contiguous(transpose(t))) : t);
  agree(all_of(f, views, true), all_of(f, in, false));
  for (const size_t output : {0u, 1u}) {
    const auto only = [&](bool fused) {
      const FusedKernels on(fused);
      std::vector<Tensor> leaves;
      for (const Tensor& t : in) leaves.push_back(t.detach().requires_grad_());
      const Tensor loss = sum(square(f(leaves)[output]));
      std::vector<Tensor> r = grad(std::span(&loss, 1), leaves, {}, {.allow_unused = true});
      for (size_t i = 0; i < r.size(); ++i) {
        if (!r[i].defined()) r[i] = zeros_like(in[i]);  // the log-det does not read the shift
      }
      return r;
    };
    agree(only(true), only(false));
  }
}

TEST_CASE("of a coupling's nets only what is asked for gets a gradient",
          "[mlp_coupling_test][device]") {
  const auto in = inputs_of({30, 4, 6, 2}, DType::float64);
  const auto f = coupling_of(mask_of(4, DType::float64), {2, false}, true);
  const auto wanted = [&](size_t i, bool fused) {
    const FusedKernels on(fused);
    std::vector<Tensor> leaves = in;
    leaves[i] = in[i].detach().requires_grad_();
    const auto out = f(leaves);
    return grad(sum(square(out[0])) + sum(out[1]), {leaves[i]});
  };
  for (size_t i = 0; i < in.size(); ++i) {
    CAPTURE(i);
    agree(wanted(i, true), wanted(i, false));
  }
}

TEST_CASE("a coupling's bits depend neither on threads nor on other rows", "[mlp_coupling_test]") {
  const Sizes s{150, 3, 40, 1};
  const auto in = inputs_of(s, DType::float32);
  const auto f = coupling_of(mask_of(s.d, DType::float32), {1.5, true}, true);
  const int threads = kernels::num_threads();
  kernels::set_num_threads(1);
  const auto alone = bytes_of(all_of(f, in, true));
  for (const int n : {2, 3}) {
    kernels::set_num_threads(n);
    CHECK(bytes_of(all_of(f, in, true)) == alone);
  }
  kernels::set_num_threads(threads);
  const auto whole = f(in);
  for (const int64_t rows : {1, 23, 24, 100}) {
    std::vector<Tensor> part = in;
    for (const size_t i : {0u, 1u}) part[i] = slice(in[i], 0, 20, 20 + rows);
    std::vector<Tensor> expected;
    for (const Tensor& t : whole) expected.push_back(slice(t, 0, 20, 20 + rows));
    INFO(rows << " rows");
    CHECK(bytes_of(f(part)) == bytes_of(expected));
  }
}

TEST_CASE("what a coupling's mask hides shows in none of its nets", "[mlp_coupling_test][device]") {
  const double bad = GENERATE(HUGE_VAL, std::nan(""));
  const bool fused = GENERATE(false, true);
  const auto f = coupling_of(mask_of(2, DType::float64), {2, false}, false);
  auto in = inputs_of({1, 2, 3, 0}, DType::float64);
  in[0] = Tensor::from(std::vector<double>{0.5, bad}, {1, 2}, DType::float64, test_device());
  const FusedKernels on(fused);
  const auto out = f(in);
  CHECK(std::isfinite(out[1].to_vector<double>()[0]));
  CHECK(out[0].to_vector<double>()[0] == 0.5);
}

TEST_CASE("a coupling with its nets is one node where the device has it", "[mlp_coupling_test]") {
  auto in = inputs_of({2, 2, 3, 0}, DType::float64);
  in[0].requires_grad_();
  const auto f = coupling_of(mask_of(2, DType::float64), {}, false);
  CHECK(is_node(f(in)[0], "mlp_coupling"));
  const FusedKernels off(false);
  CHECK_FALSE(is_node(f(in)[0], "mlp_coupling"));
}

TEST_CASE("a coupling with its nets refuses what does not fit", "[mlp_coupling_test]") {
  const auto mask = mask_of(3, DType::float64);
  const auto good = inputs_of({2, 3, 4, 2}, DType::float64);
  const auto f = coupling_of(mask, {1, false}, true);
  const auto with = [&](size_t i, const Tensor& t) {
    auto in = good;
    in[i] = t;
    return in;
  };
  CHECK(contains(raised<ShapeError>([&] { f(with(0, mask)); }), {"mlp_coupling", "z is (3,)"}));
  CHECK(contains(raised<ShapeError>([&] { f(with(1, good[0])); }),
                 {"mlp_coupling", "condition is (2, 3)", "(2, 2)"}));
  CHECK(contains(raised<ShapeError>([&] { f(with(4, good[2])); }),
                 {"mlp_coupling", "scale.weight[1] is (4, 5)", "(4, 4)"}));
  CHECK(contains(raised<ShapeError>([&] {
                   f(with(13, reshape(mask, {3, 1})));
                 }),
                 {"mlp_coupling", "shift.bias[2] is (3, 1)", "(3,)"}));
  CHECK(contains(raised<DTypeError>([&] { f(with(9, cast(good[9], DType::float32))); }),
                 {"mlp_coupling", "shift.bias[0]", "float32"}));
  CHECK(contains(raised<ShapeError>([&] {
                   coupling_of(mask, {1, false}, false)(inputs_of({2, 2, 4, 0}, DType::float64));
                 }),
                 {"mlp_coupling", "mask is (3,)", "(2,)"}));
  CHECK(contains(raised<ValueError>([&] {
                   coupling_of(mask, {-1, false}, true)(good);
                 }),
                 {"bound = -1"}));
}
