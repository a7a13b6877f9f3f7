#include "flowgrad/models/fused_sampler.h"

#include <utility>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {

bool can_fuse(const ResidualTail& tail, const Tensor& x, const Tensor& condition) {
  const Tensor& weight = tail.last->weight();
  const auto fits = [&](const Tensor& t) {
    return !t.defined() || (t.device() == weight.device() && t.dtype() == weight.dtype());
  };
  return fits(x) && fits(condition) && has_sampler(x, tail.last->in_features());
}

namespace {

/// hidden, bias, last and last_bias. With h the first activation, and A, B (b, c) the weights
/// (biases) of a block:
///     u = silu(A1 h + b1), w = silu(A2 (h + B1 u + c1) + b2), v = L (h + B1 u + c1 + B2 w + c2) +
///     l
SamplerNet folded(const ResidualTail& tail) {
  const Linear& a1 = tail.one->first();
  const Linear& b1 = tail.one->second();
  const Linear& a2 = tail.two->first();
  const Linear& b2 = tail.two->second();
  const Tensor& last = tail.last->weight();
  SamplerNet net;
  net.hidden = stack({a1.weight(), a2.weight(), matmul(a2.weight(), b1.weight())}, 0);
  net.bias = stack({a1.bias(), linear(b1.bias(), a2.weight(), a2.bias())}, 0);
  net.last = stack({last, matmul(last, b1.weight()), matmul(last, b2.weight())}, 0);
  net.last_bias = linear(b1.bias() + b2.bias(), last, tail.last->bias());
  return net;
}

}  // namespace

SamplerNet FoldedTail::with(const ResidualTail& tail, const Tensor& w_x, const Tensor& times,
                            const Tensor& condition, bool relu) {
  std::vector<Tensor> now;
  for (const Linear* l : {&tail.one->first(), &tail.one->second(), &tail.two->first(),
                          &tail.two->second(), tail.last}) {
    now.push_back(l->weight());
    now.push_back(l->bias());
  }
  bool same = from_.size() == now.size();
  for (size_t i = 0; same && i < now.size(); ++i)
    same = &now[i].storage() == &from_[i].storage() && now[i].storage().version() == versions_[i];
  if (!same) {
    made_ = folded(tail);
    versions_.clear();
    for (const Tensor& t : now) versions_.push_back(t.storage().version());
    from_ = std::move(now);
  }
  SamplerNet net = made_;
  net.first = contiguous(transpose(w_x));
  net.times = times;
  net.condition = condition;
  net.relu = relu;
  return net;
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
