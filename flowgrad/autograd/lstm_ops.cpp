#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"

namespace flowgrad {
namespace {

struct LstmSizes {
  int64_t rows, steps, hidden;
  size_t layers, directions;
};

void check_shape(const char* what, size_t number, const Tensor& given, const Shape& accepted) {
  if (given.shape() == accepted) return;
  throw ShapeError(fmt::format("lstm: {} of weights[{}] is {}; {} is accepted", what, number,
                               given.shape().to_string(), accepted.to_string()));
}

LstmSizes check_arguments(const Tensor& x, std::span<const LstmWeights> weights,
                          bool bidirectional) {
  check_floating("lstm", x);
  if (x.rank() != 3) {
    throw ShapeError(fmt::format("lstm: x is {}; (N, L, in) is accepted", x.shape().to_string()));
  }
  LstmSizes s{x.shape()[0], x.shape()[1], 0, 0, bidirectional ? size_t{2} : size_t{1}};
  if (weights.empty() || weights.size() % s.directions != 0) {
    throw ValueError(fmt::format("lstm: {} sets of weights given; {} for every layer are accepted",
                                 weights.size(), s.directions));
  }
  s.layers = weights.size() / s.directions;
  if (weights[0].weight_hh.rank() != 2 || weights[0].weight_hh.shape()[1] == 0) {
    throw ShapeError(
        fmt::format("lstm: weight_hh of weights[0] is {}; (4H, H) with H at least 1 is accepted",
                    weights[0].weight_hh.shape().to_string()));
  }
  s.hidden = weights[0].weight_hh.shape()[1];
  for (size_t i = 0; i < weights.size(); ++i) {
    const LstmWeights& w = weights[i];
    const int64_t inputs =
        i < s.directions ? x.shape()[2] : s.hidden * static_cast<int64_t>(s.directions);
    check_shape("weight_ih", i, w.weight_ih, {4 * s.hidden, inputs});
    check_shape("weight_hh", i, w.weight_hh, {4 * s.hidden, s.hidden});
    if (w.bias_ih.defined()) check_shape("bias_ih", i, w.bias_ih, {4 * s.hidden});
    if (w.bias_hh.defined()) check_shape("bias_hh", i, w.bias_hh, {4 * s.hidden});
    for (const Tensor* t : {&w.weight_ih, &w.weight_hh, &w.bias_ih, &w.bias_hh}) {
      if (t->defined() && t->device() != x.device()) {
        mixed_devices("lstm", "x", x, fmt::format("weights[{}]", i), *t);
      }
    }
  }
  return s;
}

/// The first states of all layers and directions, zeros where none are given.
std::vector<Tensor> first_states(const char* what, const Tensor& given, const Tensor& x,
                                 const LstmSizes& s) {
  const size_t n = s.layers * s.directions;
  if (!given.defined()) {
    return std::vector<Tensor>(n, filled({s.rows, s.hidden}, 0, x.dtype(), x.device()));
  }
  const Shape accepted{static_cast<int64_t>(n), s.rows, s.hidden};
  if (given.shape() != accepted) {
    throw ShapeError(fmt::format("lstm: {} is {}; {} is accepted", what, given.shape().to_string(),
                                 accepted.to_string()));
  }
  check_same_device("lstm", x, given, "x", what);
  return unbind(given, 0);
}

/// Which rows are still inside their length at a step, as (N, 1); undefined where all are.
std::vector<Tensor> step_masks(const Tensor& lengths, const Tensor& x, const LstmSizes& s) {
  std::vector<Tensor> masks(static_cast<size_t>(s.steps));
  if (!lengths.defined()) return masks;
  if (lengths.dtype() != DType::int64) {
    throw DTypeError(
        fmt::format("lstm: lengths are {}; int64 is accepted", name_of(lengths.dtype())));
  }
  if (lengths.shape() != Shape{s.rows}) {
    throw ShapeError(fmt::format("lstm: lengths are {}; ({},) is accepted",
                                 lengths.shape().to_string(), s.rows));
  }
  check_same_device("lstm", x, lengths, "x", "lengths");
  const std::vector<int64_t> values = lengths.to_vector<int64_t>();
  int64_t shortest = s.steps;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] > s.steps) {
      throw ValueError(fmt::format("lstm: length {} given for row {}; 0 to {} is accepted",
                                   values[i], i, s.steps));
    }
    shortest = std::min(shortest, values[i]);
  }
  for (int64_t t = shortest; t < s.steps; ++t) {
    masks[static_cast<size_t>(t)] = unsqueeze(greater(lengths, static_cast<double>(t)), 1);
  }
  return masks;
}

/// One direction of one layer over x (L, N, in): its outputs (N, H) in the order of time, and its
/// last states in place of h and c.
std::vector<Tensor> run_direction(const Tensor& x, const LstmWeights& w, bool reverse,
                                  const std::vector<Tensor>& masks, Tensor& h, Tensor& c) {
  Tensor bias = w.bias_ih;
  if (w.bias_hh.defined()) bias = bias.defined() ? bias + w.bias_hh : w.bias_hh;
  const std::vector<Tensor> from_x = unbind(linear(x, w.weight_ih, bias), 0);
  const Tensor recurrent = transpose(w.weight_hh);
  const Tensor zero = filled({}, 0, h.dtype(), h.device());
  std::vector<Tensor> outputs(from_x.size());
  for (size_t i = 0; i < from_x.size(); ++i) {
    const size_t t = reverse ? from_x.size() - 1 - i : i;
    const std::vector<Tensor> gates = chunk(addmm(from_x[t], h, recurrent), 4, 1);
    const Tensor next_c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * tanh(gates[2]);
    const Tensor next_h = sigmoid(gates[3]) * tanh(next_c);
    const Tensor& mask = masks[t];
    outputs[t] = mask.defined() ? where(mask, next_h, zero) : next_h;
    c = mask.defined() ? where(mask, next_c, c) : next_c;
    h = mask.defined() ? where(mask, next_h, h) : next_h;
  }
  return outputs;
}

}  // namespace

LstmResult lstm(const Tensor& x, std::span<const LstmWeights> weights, bool bidirectional,
                const Tensor& lengths, const Tensor& h0, const Tensor& c0) {
  const LstmSizes s = check_arguments(x, weights, bidirectional);
  std::vector<Tensor> h = first_states("h0", h0, x, s);
  std::vector<Tensor> c = first_states("c0", c0, x, s);
  const std::vector<Tensor> masks = step_masks(lengths, x, s);
  // Time first, so that the slice of a step is dense.
  Tensor current = contiguous(transpose(x, 0, 1));
  if (s.steps > 0 && masks.back().defined()) {
    // What lies beyond a row's length must not reach a gradient either, be it NaN.
    const Tensor time = arange(0, static_cast<double>(s.steps), 1, DType::int64, x.device());
    const Tensor inside = less(unsqueeze(time, 1), unsqueeze(lengths, 0));
    current = where(unsqueeze(inside, 2), current, filled({}, 0, x.dtype(), x.device()));
  }
  for (size_t layer = 0; layer < s.layers; ++layer) {
    std::vector<Tensor> joined;
    for (size_t d = 0; d < s.directions; ++d) {
      const size_t k = layer * s.directions + d;
      const std::vector<Tensor> outputs =
          run_direction(current, weights[k], d == 1, masks, h[k], c[k]);
      joined.push_back(outputs.empty() ? filled({0, s.rows, s.hidden}, 0, x.dtype(), x.device())
                                       : stack(outputs, 0));
    }
    current = joined.size() == 1 ? joined[0] : concat(joined, 2);
  }
  return {contiguous(transpose(current, 0, 1)), stack(h, 0), stack(c, 0)};
}

}  // namespace flowgrad
