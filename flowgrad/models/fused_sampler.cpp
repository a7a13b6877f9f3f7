#include "flowgrad/models/fused_sampler.h"

#include "flowgrad/autograd/ops.h"

namespace flowgrad {

Tensor by_columns(const Tensor& weight) { return transpose(contiguous(transpose(weight))); }

std::function<Tensor(const Tensor&)> unfused(const ResidualTail& tail, bool relu_first) {
  struct Layer {
    explicit Layer(const Linear& l) : weight(by_columns(l.weight())), bias(l.bias()) {}
    Tensor operator()(const Tensor& x) const { return linear(x, weight, bias); }
    Tensor weight, bias;
  };
  return [relu_first, a1 = Layer(tail.one->first()), b1 = Layer(tail.one->second()),
          a2 = Layer(tail.two->first()), b2 = Layer(tail.two->second()),
          last = Layer(*tail.last)](const Tensor& in) {
    Tensor h = relu_first ? relu(in) : silu(in);
    h = h + b1(silu(a1(h)));
    h = h + b2(silu(a2(h)));
    return last(h);
  };
}

bool can_fuse(const ResidualTail& tail, const Tensor& x, const Tensor& condition) {
  const Tensor& weight = tail.last->weight();
  const auto fits = [&](const Tensor& t) {
    return !t.defined() || (t.device() == weight.device() && t.dtype() == weight.dtype());
  };
  return fits(x) && fits(condition) && has_sampler(x, tail.last->in_features());
}

SamplerNet folded(const ResidualTail& tail, const Tensor& w_x, const Tensor& times,
                  const Tensor& condition, bool relu) {
  // With h the first activation, and A, B (b, c) the weights (biases) of a block:
  //     u = silu(A1 h + b1), w = silu(A2 (h + B1 u + c1) + b2), v = L (h + B1 u + c1 + B2 w + c2) +
  //     l
  const Linear& a1 = tail.one->first();
  const Linear& b1 = tail.one->second();
  const Linear& a2 = tail.two->first();
  const Linear& b2 = tail.two->second();
  const Tensor& last = tail.last->weight();
  return {.first = contiguous(transpose(w_x)),
          .times = times,
          .condition = condition,
          .hidden = stack({a1.weight(), a2.weight(), matmul(a2.weight(), b1.weight())}, 0),
          .bias = stack({a1.bias(), linear(b1.bias(), a2.weight(), a2.bias())}, 0),
          .last = stack({last, matmul(last, b1.weight()), matmul(last, b2.weight())}, 0),
          .last_bias = linear(b1.bias() + b2.bias(), last, tail.last->bias()),
          .relu = relu};
}

std::vector<SamplerStage> sampler_stages(const std::vector<SolverStage>& stages) {
  std::vector<SamplerStage> out;
  for (const SolverStage& s : stages) {
    out.push_back({.sum_v = s.in_step,
                   .x_y = 1,
                   .x_sum = s.ends_step ? 1.0 : 0.0,
                   .x_v = s.in_next,
                   .commit = s.ends_step});
  }
  return out;
}

}  // namespace flowgrad
