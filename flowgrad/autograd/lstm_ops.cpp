#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "flowgrad/autograd/indices.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/autograd/twin.h"
#include "flowgrad/core/device_graph.h"

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

/// How many steps are inside of each row.
struct Lengths {
  Tensor of_rows;    // (N), undefined where all rows are full
  int64_t shortest;  // a lower bound of them
  /// Which rows are still inside at a step, as (N, 1); undefined where all are.
  Tensor mask(size_t t) const {
    const auto step = static_cast<int64_t>(t);
    if (!of_rows.defined() || step < shortest) return {};
    return unsqueeze(greater(of_rows, static_cast<double>(step)), 1);
  }
};

Lengths check_lengths(const Tensor& lengths, const Tensor& x, const LstmSizes& s) {
  if (!lengths.defined()) return {{}, s.steps};
  if (lengths.dtype() != DType::int64) {
    throw DTypeError(
        fmt::format("lstm: lengths are {}; int64 is accepted", name_of(lengths.dtype())));
  }
  if (lengths.shape() != Shape{s.rows}) {
    throw ShapeError(fmt::format("lstm: lengths are {}; ({},) is accepted",
                                 lengths.shape().to_string(), s.rows));
  }
  check_same_device("lstm", x, lengths, "x", "lengths");
  const Tensor known =
      check_indices(lengths, s.steps + 1, [steps = s.steps](int64_t length, int64_t row) {
        return fmt::format("lstm: length {} given for row {}; 0 to {} is accepted", length, row,
                           steps);
      });
  if (s.rows == 0) return {{}, s.steps};
  // A graph is for other lengths too, and its capture reads nothing.
  if (is_capturing()) return {contiguous(known), 0};
  const auto shortest = static_cast<int64_t>(min(known).item());
  return {shortest < s.steps ? contiguous(known) : Tensor(), shortest};
}

/// One direction of one layer: what the recurrence needs beside tensors that have gradients.
struct Direction {
  bool reverse;
  Lengths lengths;
};

/// In the order of a recorded direction: x (L, N, in), weight_ih, weight_hh, bias_ih, bias_hh, and
/// the first states.
constexpr size_t kLstmInputs = 7;
enum Input : uint8_t { kX, kWeightX, kWeightH, kBiasX, kBiasH, kH, kC };
using Inputs = std::array<Tensor, kLstmInputs>;

Tensor bias_of(std::span<const Tensor> in) {
  if (!in[kBiasX].defined() || !in[kBiasH].defined())
    return in[kBiasX].defined() ? in[kBiasX] : in[kBiasH];
  return in[kBiasX] + in[kBiasH];
}

/// A direction in operations: its outputs (L, N, H) in the order of time, and its last states.
std::vector<Tensor> composed(std::span<const Tensor> in, const Direction& d) {
  Tensor h = in[kH], c = in[kC];
  const std::vector<Tensor> from_x = unbind(linear(in[kX], in[kWeightX], bias_of(in)), 0);
  const Tensor recurrent = transpose(in[kWeightH]);
  const Tensor zero = filled({}, 0, h.dtype(), h.device());
  std::vector<Tensor> outputs(from_x.size());
  for (size_t i = 0; i < from_x.size(); ++i) {
    const size_t t = d.reverse ? from_x.size() - 1 - i : i;
    const std::vector<Tensor> gates = chunk(addmm(from_x[t], h, recurrent), 4, 1);
    const Tensor next_c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * tanh(gates[2]);
    const Tensor next_h = sigmoid(gates[3]) * tanh(next_c);
    const Tensor mask = d.lengths.mask(t);
    outputs[t] = mask.defined() ? where(mask, next_h, zero) : next_h;
    c = mask.defined() ? where(mask, next_c, c) : next_c;
    h = mask.defined() ? where(mask, next_h, h) : next_h;
  }
  const Tensor empty = filled({0, h.size(0), h.size(1)}, 0, h.dtype(), h.device());
  return {outputs.empty() ? empty : stack(outputs, 0), h, c};
}

Tensor dense(const Tensor& t) { return contiguous(t.detach()); }

/// First derivatives of a direction from its saved steps: the recurrence by the kernel, what is
/// linear in x and the weights by a product each over all steps.
void set_by_kernel(Backward& r, std::span<const Tensor> in, const Direction& d, const Tensor& gates,
                   const Tensor& h_before, const Tensor& c_before, const Tensor& c) {
  const auto like = [](const Tensor& t) { return Tensor::empty(t.shape(), t.dtype(), t.device()); };
  const Tensor weight = dense(in[kWeightH]), lengths = d.lengths.of_rows;
  const Tensor g_gates = like(gates), g_h = like(in[kH]), g_c = like(in[kC]);
  kernels::backend(gates.device())
      .lstm_grad({weight, lengths, d.reverse}, gates, c_before, c, contiguous(r.grad_or_zeros(0)),
                 contiguous(r.grad_or_zeros(1)), contiguous(r.grad_or_zeros(2)), g_gates, g_h, g_c);
  const auto flat = [](const Tensor& t) { return reshape(t, {t.size(0) * t.size(1), t.size(2)}); };
  const Tensor to = flat(g_gates);
  if (r.needs(kX)) r.set(kX, reshape(matmul(to, in[kWeightX]), in[kX].shape()));
  if (r.needs(kWeightX)) r.set(kWeightX, matmul(transpose(to), flat(in[kX])));
  if (r.needs(kWeightH)) r.set(kWeightH, matmul(transpose(to), flat(h_before)));
  if (r.needs(kBiasX) || r.needs(kBiasH)) {
    const Tensor g = sum(to, {0});
    for (const int i : {kBiasX, kBiasH}) {
      if (r.needs(i)) r.set(i, g);
    }
  }
  if (r.needs(kH)) r.set(kH, g_h);
  if (r.needs(kC)) r.set(kC, g_c);
}

/// One direction of one layer: as `composed`.
std::vector<Tensor> run_direction(const Inputs& in, const Direction& d) {
  const bool records = recording(std::span<const Tensor>(in));
  if (!fused_kernels() || !alike(in)) return composed(in, d);
  const int64_t steps = in[kX].size(0), rows = in[kX].size(1), hidden = in[kH].size(1);
  const auto fresh = [&](const Shape& s) {
    return Tensor::empty(s, in[kX].dtype(), in[kX].device());
  };
  const std::array<Tensor, 3> out = {fresh({steps, rows, hidden}), fresh({rows, hidden}),
                                     fresh({rows, hidden})};
  Tensor gates, h_before, c_before;
  if (records) {
    gates = fresh({steps, rows, 4 * hidden});
    h_before = fresh({steps, rows, hidden});
    c_before = fresh({steps, rows, hidden});
  }
  {
    NoGrad off;
    const Tensor from_x = contiguous(linear(in[kX], in[kWeightX], bias_of(in)));
    const Tensor weight = dense(in[kWeightH]), h = dense(in[kH]), c = dense(in[kC]);
    kernels::backend(from_x.device())
        .lstm({weight, d.lengths.of_rows, d.reverse}, from_x, h, c, out[0], out[1], out[2], gates,
              h_before, c_before);
  }
  if (records) {
    std::vector<Saved> saved = {save(gates), save(h_before), save(c_before),
                                save_output(out[2], 2)};
    std::array<bool, kLstmInputs> kept{};
    for (size_t i = 0; i < kLstmInputs; ++i) {
      kept[i] = in[i].defined();
      if (kept[i]) saved.push_back(save(in[i]));
    }
    record("lstm", std::span<const Tensor>(out), std::span<const Tensor>(in),
           std::span<const Saved>(saved), [d, kept](Backward& r) {
             Inputs given;
             int next = 4;
             for (size_t i = 0; i < kLstmInputs; ++i) {
               if (kept[i]) given[i] = r.saved(next++);
             }
             if (mode().recording) {
               return set_by_twin(r, given,
                                  [&](std::span<const Tensor> x) { return composed(x, d); });
             }
             set_by_kernel(r, given, d, r.saved(0), r.saved(1), r.saved(2), dense(r.saved(3)));
           });
  }
  return {out.begin(), out.end()};
}

}  // namespace

LstmResult lstm(const Tensor& x, std::span<const LstmWeights> weights, bool bidirectional,
                const Tensor& given_lengths, const Tensor& h0, const Tensor& c0) {
  const LstmSizes s = check_arguments(x, weights, bidirectional);
  std::vector<Tensor> h = first_states("h0", h0, x, s);
  std::vector<Tensor> c = first_states("c0", c0, x, s);
  const Lengths lengths = check_lengths(given_lengths, x, s);
  // Time first, so that the slice of a step is dense.
  Tensor current = contiguous(transpose(x, 0, 1));
  if (lengths.of_rows.defined()) {
    // What lies beyond a row's length must not reach a gradient either, be it NaN.
    const Tensor time = arange(0, static_cast<double>(s.steps), 1, DType::int64, x.device());
    const Tensor inside = less(unsqueeze(time, 1), unsqueeze(lengths.of_rows, 0));
    current = where(unsqueeze(inside, 2), current, filled({}, 0, x.dtype(), x.device()));
  }
  for (size_t layer = 0; layer < s.layers; ++layer) {
    std::vector<Tensor> joined;
    for (size_t d = 0; d < s.directions; ++d) {
      const size_t k = layer * s.directions + d;
      const LstmWeights& w = weights[k];
      const std::vector<Tensor> one = run_direction(
          {current, w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh, h[k], c[k]}, {d == 1, lengths});
      joined.push_back(one[0]);
      h[k] = one[1];
      c[k] = one[2];
    }
    current = joined.size() == 1 ? joined[0] : concat(joined, 2);
  }
  return {contiguous(transpose(current, 0, 1)), stack(h, 0), stack(c, 0)};
}

}  // namespace flowgrad
