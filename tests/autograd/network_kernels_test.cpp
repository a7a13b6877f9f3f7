// Convolutions and LSTMs as kernels against the same in operations, and every derivative.
#include <cstring>

#include "catch.hpp"
#include "device/device.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "kernels/conv_support.h"
#include "kernels/pool_support.h"
#include "models/close.h"

using namespace flowgrad;
using namespace flowgrad::testing;

namespace {

using In = std::span<const Tensor>;
using Out = std::vector<Tensor>;

Tensor draw(const Shape& shape, uint64_t seed, DType dtype) {
  return values(shape, dtype, seed, -1, 1, test_device());
}

MultiFunction convolution(const kernels::Convolution& c) {
  return [c](std::span<const Tensor> in) {
    const ConvOptions o{c.stride, c.padding, c.dilation, c.groups};
    return std::vector<Tensor>{conv2d(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), o)};
  };
}

std::vector<Tensor> conv_inputs(const ConvCase& c, DType dtype) {
  return {draw(c.x(), 1, dtype), draw(c.weight(), 2, dtype), draw({c.outputs}, 3, dtype)};
}

/// Means and largest elements over the windows of a case, or over spans where it has any.
std::vector<MultiFunction> poolings(const PoolCase& c) {
  const kernels::Pooling& p = c.options;
  if (p.kernel.rows == 0 || p.kernel.columns == 0) {
    const Shape to = c.out();
    return {[to](In in) -> Out { return {adaptive_avg_pool2d(in[0], to[2], to[3])}; },
            [to](In in) -> Out { return {adaptive_max_pool2d(in[0], to[2], to[3])}; }};
  }
  const auto means = [p](In in) -> Out {
    return {avg_pool2d(in[0], p.kernel, p.stride, p.padding, p.counts_padding)};
  };
  return {means, [p](In in) -> Out { return {max_pool2d(in[0], p.kernel, p.stride, p.padding)}; }};
}

struct Net {
  int64_t rows, steps, inputs, hidden;
  size_t layers;
  bool bidirectional;
  std::vector<int64_t> lengths;
  bool biases = true;
  size_t directions() const { return bidirectional ? 2 : 1; }
};

/// x, h0, c0, and the weights of every direction of every layer.
std::vector<Tensor> lstm_inputs(const Net& n, DType dtype) {
  const auto sets = static_cast<int64_t>(n.layers * n.directions());
  std::vector<Tensor> in = {draw({n.rows, n.steps, n.inputs}, 1, dtype),
                            draw({sets, n.rows, n.hidden}, 2, dtype),
                            draw({sets, n.rows, n.hidden}, 3, dtype)};
  for (int64_t i = 0; i < sets; ++i) {
    const bool first = i < static_cast<int64_t>(n.directions());
    const int64_t inputs = first ? n.inputs : n.hidden * static_cast<int64_t>(n.directions());
    const auto seed = static_cast<uint64_t>(4 + 4 * i);
    in.push_back(draw({4 * n.hidden, inputs}, seed, dtype));
    in.push_back(draw({4 * n.hidden, n.hidden}, seed + 1, dtype));
    if (!n.biases) continue;
    in.push_back(draw({4 * n.hidden}, seed + 2, dtype));
    in.push_back(draw({4 * n.hidden}, seed + 3, dtype));
  }
  return in;
}

MultiFunction network(const Net& n) {
  return [n](std::span<const Tensor> in) {
    std::vector<LstmWeights> weights;
    for (size_t i = 3; i < in.size(); i += n.biases ? 4 : 2) {
      weights.push_back(
          {in[i], in[i + 1], n.biases ? in[i + 2] : Tensor(), n.biases ? in[i + 3] : Tensor()});
    }
    Tensor lengths;
    if (!n.lengths.empty())
      lengths = Tensor::from(n.lengths, {n.rows}, DType::int64, in[0].device());
    const LstmResult r = lstm(in[0], weights, n.bidirectional, lengths, in[1], in[2]);
    return std::vector<Tensor>{r.output, r.h, r.c};
  };
}

/// The outputs, and the gradients of a fixed combination of them.
std::vector<Tensor> all_of(const MultiFunction& f, const std::vector<Tensor>& in, bool fused) {
  const FusedKernels on(fused);
  std::vector<Tensor> leaves;
  for (const Tensor& t : in) leaves.push_back(t.detach().requires_grad_());
  std::vector<Tensor> out = f(leaves);
  Tensor loss = zeros({}, in[0].dtype(), in[0].device());
  for (size_t i = 0; i < out.size(); ++i)
    loss = loss + sum(out[i] * draw(out[i].shape(), 90 + i, in[0].dtype()));
  const std::vector<Tensor> g = grad(std::span(&loss, 1), leaves, {}, {.allow_unused = true});
  for (size_t i = 0; i < g.size(); ++i)  // a sequence of no steps depends on its first states alone
    out.push_back(g[i].defined() ? g[i] : zeros_like(in[i]));
  return out;
}

const std::vector<Net>& nets() {
  static const std::vector<Net> all = {
      {1, 1, 1, 1, 1, false, {}},        {3, 4, 2, 3, 1, false, {}},
      {3, 4, 2, 3, 2, true, {4, 1, 3}},  {2, 3, 4, 5, 2, false, {0, 2}},
      {2, 3, 4, 17, 1, true, {}, false}, {0, 3, 2, 2, 1, true, {}},
      {2, 0, 2, 3, 1, true, {}},
  };
  return all;
}

}  // namespace

TEST_CASE("a convolution equals its twin", "[network_kernels_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const ConvCase& c : conv_cases()) {
      if (c.images > 100) continue;  // of more pixels than a test needs here
      INFO(name_of(dtype) << " " << c.text());
      const auto in = conv_inputs(c, dtype);
      agree(all_of(convolution(c.options), in, true), all_of(convolution(c.options), in, false));
      const std::vector<Tensor> without(in.begin(), in.begin() + 2);
      agree(all_of(convolution(c.options), without, true),
            all_of(convolution(c.options), without, false));
    }
  }
}

TEST_CASE("pooling equals its twin", "[network_kernels_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const PoolCase& c : pool_cases()) {
      if (c.images > 10 || c.images == 0) continue;  // of more planes than a test needs here
      INFO(name_of(dtype) << " " << c.text());
      for (const MultiFunction& f : poolings(c)) {
        const std::vector<Tensor> x = {draw(c.x(), 1, dtype)};
        agree(all_of(f, x, true), all_of(f, x, false));
      }
    }
  }
}

TEST_CASE("an LSTM equals its twin", "[network_kernels_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const Net& n : nets()) {
      INFO(name_of(dtype) << " " << n.rows << " x " << n.steps << " x " << n.inputs << ", hidden "
                          << n.hidden << ", layers " << n.layers);
      const auto in = lstm_inputs(n, dtype);
      agree(all_of(network(n), in, true), all_of(network(n), in, false));
    }
  }
}

TEST_CASE("pooling is differentiable twice", "[network_kernels_test]") {
  for (const MultiFunction& pooling : poolings({1, 2, 4, 5, {{3, 2}, {1, 2}, {1, 0}}})) {
    const MultiFunction f = [&](In in) -> Out { return {square(pooling(in)[0])}; };
    const std::vector<Tensor> x = {draw({1, 2, 4, 5}, 1, DType::float64)};
    const auto r = gradcheck(f, x, {.order = 2});
    INFO(r.message);
    CHECK(r.passed);
  }
}

TEST_CASE("convolutions and LSTMs are differentiable twice", "[network_kernels_test]") {
  for (const ConvCase& c :
       {ConvCase{2, 2, 4, 5, 2, 3, 2, {2, 1, 1, 1}}, ConvCase{1, 2, 5, 4, 2, 2, 2, {1, 2, 2, 2}},
        ConvCase{1, 1, 5, 5, 2, 2, 1, {3, 0, 1, 1}}}) {
    const auto r = gradcheck(convolution(c.options), conv_inputs(c, DType::float64), {.order = 2});
    INFO(c.text() << ": " << r.message);
    CHECK(r.passed);
  }
  const Net n{2, 3, 2, 2, 1, true, {3, 1}};
  const auto r = gradcheck(network(n), lstm_inputs(n, DType::float64), {.order = 2});
  INFO(r.message);
  CHECK(r.passed);
}

TEST_CASE("a convolution is one node", "[network_kernels_test]") {
  const auto is_node = [](const Tensor& t, const char* name) {
    return std::strcmp(static_cast<const Node&>(*t.node()).name(), name) == 0;
  };
  const ConvCase c{1, 1, 3, 3, 1, 2, 2, {1, 0, 1, 1}};
  const auto in = conv_inputs(c, DType::float32);
  const Tensor x = in[0].detach().requires_grad_();
  CHECK(is_node(conv2d(x, in[1], in[2]), "conv2d"));
  const FusedKernels off(false);
  CHECK_FALSE(is_node(conv2d(x, in[1], in[2]), "conv2d"));
}

TEST_CASE("only the gradients that are asked for", "[network_kernels_test][device]") {
  const ConvCase c{2, 3, 6, 5, 4, 3, 3, {2, 1, 1, 1}};
  const auto in = conv_inputs(c, DType::float64);
  const auto whole = all_of(convolution(c.options), in, true);
  for (size_t i = 0; i < in.size(); ++i) {
    std::vector<Tensor> given = in;
    given[i] = in[i].detach().requires_grad_();
    const Tensor y = convolution(c.options)(given)[0];
    const Tensor loss = sum(y * draw(y.shape(), 90, DType::float64));
    CHECK(distance(grad(loss, given[i]), whole[1 + i]) < 1e-12);
  }
  const Net n{3, 4, 2, 3, 1, false, {4, 1, 3}};
  const auto inputs = lstm_inputs(n, DType::float64);
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<Tensor> given = inputs;
    given[i] = inputs[i].detach().requires_grad_();
    const auto of = [&](bool fused) {
      const FusedKernels which(fused);
      return grad(sum(square(network(n)(given)[1])), given[i]);  // the last state alone
    };
    CHECK(distance(of(true), of(false)) < 1e-12);
  }
}
