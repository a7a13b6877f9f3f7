#include "autograd/op_table.h"

#include <cmath>

#include "device/device.h"
#include "kernels/strided.h"

namespace flowgrad::testing {
namespace {

/// Fills every matrix of the last two axes with f(row, column, dice).
template <class F>
std::vector<double> matrices(const Shape& s, Dice& dice, F&& f) {
  const int64_t n = s.rank() < 2 ? 0 : s.back();
  std::vector<double> v;
  for (int64_t b = 0; n > 0 && b < numel(s) / (n * n); ++b) {
    std::vector<double> m(static_cast<size_t>(n * n));
    for (double& x : m) x = dice.real(-1, 1);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) v.push_back(f(m, n, i, j));
    }
  }
  return v;
}

double entry(const std::vector<double>& m, int64_t n, int64_t i, int64_t j) {
  return m[static_cast<size_t>(i * n + j)];
}

/// Numbers in [0.1, 0.4), no two closer than a difference's stencil reaches where there are at most
/// 100; arguments with different `slot` do not meet either.
std::vector<double> spaced(size_t n, Dice& dice, size_t slot) {
  std::vector<double> v(n);
  std::vector<int64_t> left(100);
  for (size_t i = 0; i < left.size(); ++i) left[i] = static_cast<int64_t>(i);
  for (double& x : v) {
    if (v.size() > 100) {
      x = dice.real(0.1, 0.4);
      continue;
    }
    const auto at = dice.roll(0, static_cast<int64_t>(left.size()) - 1);
    x = 0.1 + 0.001 * static_cast<double>(3 * left[static_cast<size_t>(at)] +
                                          static_cast<int64_t>(slot % 3));
    left.erase(left.begin() + at);
  }
  return v;
}

std::vector<double> numbers(const Arg& arg, Dice& dice, size_t slot) {
  using Matrix = const std::vector<double>&;
  switch (arg.fill) {
    case Fill::spd:  // m m^T / n + 1
      return matrices(arg.shape, dice, [](Matrix m, int64_t n, int64_t i, int64_t j) {
        double total = i == j ? 1 : 0;
        for (int64_t k = 0; k < n; ++k)
          total += entry(m, n, i, k) * entry(m, n, j, k) / static_cast<double>(n);
        return total;
      });
    case Fill::square:  // far from singular, and rows must be swapped
      return matrices(arg.shape, dice, [](Matrix m, int64_t n, int64_t i, int64_t j) {
        return 0.8 * entry(m, n, i, j) / std::sqrt(static_cast<double>(n)) +
               (j == (i + 1) % n ? 2 : 0);
      });
    case Fill::triangular:  // both triangles filled, diagonal away from 0
      return matrices(arg.shape, dice, [](Matrix m, int64_t n, int64_t i, int64_t j) {
        return i == j ? 1.5 + 0.5 * entry(m, n, i, j)
                      : entry(m, n, i, j) / std::sqrt(static_cast<double>(n));
      });
    default: break;
  }
  std::vector<double> v(static_cast<size_t>(numel(arg.shape)));
  if (arg.fill == Fill::grid) v = spaced(v.size(), dice, slot);
  for (double& x : v) {
    if (arg.fill == Fill::grid) {
      x += 0.5 * std::floor(2 * dice.real(arg.low, arg.high));
    } else {
      x = std::floor(dice.real(arg.low, arg.fill == Fill::boolean ? 2 : arg.high));
    }
  }
  return v;
}

}  // namespace

uint64_t seed_of(const Op& op) {
  uint64_t h = 1469598103934665603u;
  for (char c : op.name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return h;
}

namespace {

Tensor made(const Arg& arg, DType dtype, uint64_t seed, size_t slot) {
  Dice dice(seed);
  if (arg.fill == Fill::index) dtype = DType::int64;
  if (arg.fill == Fill::boolean) dtype = DType::boolean;
  return Tensor::from(numbers(arg, dice, slot), arg.shape, dtype, test_device());
}

}  // namespace

Tensor make_input(const Arg& arg, DType dtype, uint64_t seed) { return made(arg, dtype, seed, 0); }

Tensors make_inputs(const Case& c, DType dtype, uint64_t seed) {
  Tensors out;
  for (const Arg& a : c.args) out.push_back(made(a, dtype, seed + 1000 * out.size(), out.size()));
  return out;
}

Op& Op::refuses_usual() {
  const auto g = at;
  // A cotangent of another shape.
  refuses("expected shape", g({3, 4}).args, [g](In x) {
    Tensors leaves;
    for (const Tensor& t : x) {
      leaves.push_back(t.dtype() == DType::float64 ? t.detach().requires_grad_() : t);
    }
    const Tensor y = g({3, 4}).f(leaves)[0];
    const Tensor cotangent = zeros(join(y.shape(), {5}), y.dtype(), y.device());
    Tensors wanted;
    for (const Tensor& t : leaves) {
      if (t.requires_grad()) wanted.push_back(t);
    }
    return grad(std::span(&y, 1), wanted, std::span(&cotangent, 1));
  });
  // A NaN while anomalies are looked for: found in the operation that made it.
  refuses("anomaly: the ", g({3, 4}).args, [g](In x) {
    Anomaly on;
    Tensors leaves;
    for (const Tensor& t : x) {
      leaves.push_back(t.dtype() == DType::float64
                           ? full(t.shape(), std::nan(""), t.dtype(), t.device()).requires_grad_()
                           : t);
    }
    return g({3, 4}).f(leaves);
  });
  return *this;
}

const std::vector<Op>& op_table() {
  static const std::vector<Op> table = [] {
    std::vector<Op> t;
    add_elementwise_rows(t);
    add_binary_rows(t);
    add_reduction_rows(t);
    add_shape_rows(t);
    add_join_rows(t);
    add_index_rows(t);
    add_linalg_rows(t);
    add_network_rows(t);
    add_source_rows(t);
    return t;
  }();
  return table;
}

}  // namespace flowgrad::testing
