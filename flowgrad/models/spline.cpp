#include "flowgrad/models/spline.h"

#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

// Smallest bin, as a share of the range, and smallest slope: nflows' constants.
constexpr double kSmallest = 1e-3;

void check_spline(const char* op, int64_t bins, double tail) {
  if (bins >= 1 && static_cast<double>(bins) * kSmallest < 1 && tail > 0 && std::isfinite(tail))
    return;
  throw ValueError(
      fmt::format("{}: bins = {}, tail = {} given; 1 to 999 and a finite number above 0 are "
                  "accepted",
                  op, bins, tail));
}

/// What the formulas need of the bin that an element falls into.
struct Bin {
  Tensor inside;  // bool: the element is within the knots
  Tensor at;      // the element, or the first knot where it is not inside
  Tensor x, y, width, height, slope0, slope1;
};

Bin find_bin(const Tensor& at, const SplineKnots& knots, bool by_y) {
  const int64_t bins = knots.x.size(-1) - 1;
  const auto left = [&](const Tensor& t) { return slice(t, -1, 0, bins); };
  const auto right = [&](const Tensor& t) { return slice(t, -1, 1, bins + 1); };
  const Tensor& along = by_y ? knots.y : knots.x;
  Bin bin;
  bin.inside =
      logical_and(greater_equal(at, select(along, -1, 0)), less_equal(at, select(along, -1, bins)));
  bin.at = where(bin.inside, at, select(along, -1, 0));
  // One 1 among the K bins. Chosen by comparisons and a sum: no index, which a device would have
  // to send to the host.
  const Tensor passed = cast(greater_equal(unsqueeze(bin.at, -1), left(along)), at.dtype());
  Tensor chosen = passed;
  if (bins > 1) {
    const int64_t rank = passed.rank();
    std::vector<std::pair<int64_t, int64_t>> pads(static_cast<size_t>(rank), {0, 0});
    pads.back() = {0, 1};
    chosen = passed - pad(slice(passed, -1, 1, bins), pads);
  }
  const Tensor table =
      stack({left(knots.x), left(knots.y), right(knots.x) - left(knots.x),
             right(knots.y) - left(knots.y), left(knots.slope), right(knots.slope)},
            -2);  // (..., 6, K)
  const auto row = unbind(sum(table * unsqueeze(chosen, -2), {-1}), -1);
  bin.x = row[0];
  bin.y = row[1];
  bin.width = row[2];
  bin.height = row[3];
  bin.slope0 = row[4];
  bin.slope1 = row[5];
  return bin;
}

/// log of the spline's derivative where the fraction theta of the bin lies left (Durkan et al.,
/// equation 5), with rest = 1 - theta.
Tensor log_derivative(const Bin& b, const Tensor& mean_slope, const Tensor& theta,
                      const Tensor& rest) {
  const Tensor both = theta * rest;
  const Tensor denominator = mean_slope + (b.slope0 + b.slope1 - 2.0 * mean_slope) * both;
  const Tensor numerator =
      b.slope1 * square(theta) + 2.0 * mean_slope * both + b.slope0 * square(rest);
  return log(numerator * square(mean_slope / denominator));
}

SplineValue inside_only(const Bin& bin, const Tensor& at, const Tensor& value,
                        const Tensor& log_slope) {
  return {where(bin.inside, value, at), where(bin.inside, log_slope, zeros_like(log_slope))};
}

}  // namespace

SplineKnots spline_knots(const Tensor& raw, int64_t bins, double tail) {
  check_spline("spline_knots", bins, tail);
  if (raw.rank() < 1 || raw.size(-1) != 3 * bins - 1) {
    throw ShapeError(
        fmt::format("spline_knots: raw has shape {}; (..., {}) is accepted for {} bins",
                    raw.shape().to_string(), 3 * bins - 1, bins));
  }
  std::vector<std::pair<int64_t, int64_t>> left(static_cast<size_t>(raw.rank()), {0, 0});
  auto right = left;
  auto both = left;
  left.back() = {1, 0};
  right.back() = {0, 1};
  both.back() = {1, 1};
  const auto positions = [&](int64_t from) {
    const Tensor share = softmax(slice(raw, -1, from, from + bins)) *
                             (2 * tail * (1 - kSmallest * static_cast<double>(bins))) +
                         2 * tail * kSmallest;
    // The ends are exact, whatever the sum of the shares rounds to.
    const Tensor inner = slice(cumsum(share, -1), -1, 0, bins - 1) - tail;
    return pad(pad(inner, left, -tail), right, tail);
  };
  const double shift = std::log(std::expm1(1 - kSmallest));
  const Tensor slope = softplus(slice(raw, -1, 2 * bins, 3 * bins - 1) + shift) + kSmallest;
  return {positions(0), positions(bins), pad(slope, both, 1)};
}

SplineValue spline(const Tensor& x, const SplineKnots& knots) {
  const Bin b = find_bin(x, knots, false);
  const Tensor s = b.height / b.width;
  const Tensor theta = (b.at - b.x) / b.width;
  const Tensor rest = 1.0 - theta;
  const Tensor both = theta * rest;
  const Tensor y = b.y + b.height * (s * square(theta) + b.slope0 * both) /
                             (s + (b.slope0 + b.slope1 - 2.0 * s) * both);
  return inside_only(b, x, y, log_derivative(b, s, theta, rest));
}

SplineValue spline_inverse(const Tensor& y, const SplineKnots& knots) {
  const Bin b = find_bin(y, knots, true);
  const Tensor s = b.height / b.width;
  // With eta the fraction of the height, the discriminant over height^2 is
  // p^2 + 4 s^2 eta (1 - eta), where p = slope0 (1 - eta) - slope1 eta: no difference of large
  // terms. The root is r / (1 + r), and of both forms of r each has terms of one sign where used.
  const Tensor eta = (b.at - b.y) / b.height;
  const Tensor above = 1.0 - eta;
  const Tensor p = b.slope0 * above - b.slope1 * eta;
  const Tensor rising = greater_equal(p, 0);
  const Tensor q = sqrt(square(p) + 4.0 * square(s) * (eta * above)) + where(rising, p, -p);
  const Tensor up = where(rising, 2.0 * s * eta, q);
  const Tensor down = where(rising, q, 2.0 * s * above);
  const Tensor theta = up / (up + down);
  const Tensor rest = down / (up + down);
  return inside_only(b, y, b.x + theta * b.width, -log_derivative(b, s, theta, rest));
}

namespace {

const SplineFlowOptions& checked(const SplineFlowOptions& o) {
  check_spline("SplineFlow", o.bins, o.tail);
  if (o.hidden >= 1) return o;
  throw ValueError(fmt::format("SplineFlow: hidden = {} given; at least 1 is accepted", o.hidden));
}

std::unique_ptr<MLP> spline_net(const SplineFlowOptions& o, int64_t kept, Generator& generator,
                                DType dtype) {
  auto net = std::make_unique<MLP>(std::vector<int64_t>{kept + o.condition_dim, o.hidden, o.hidden,
                                                        (o.dim - kept) * (3 * o.bins - 1)},
                                   relu, generator, dtype);
  net->last().set_zero();  // a fresh flow is the identity
  return net;
}

int64_t kept_axes(const SplineFlowOptions& o, bool keep_even) {
  return keep_even ? (o.dim + 1) / 2 : o.dim / 2;
}

}  // namespace

SplineCoupling::SplineCoupling(const SplineFlowOptions& options, bool keep_even,
                               Generator& generator, DType dtype)
    : options_(checked(options)),
      first_kept_(keep_even ? 0 : 1),
      first_moved_(keep_even ? 1 : 0),
      kept_spline_(add_parameter(
          "kept_spline", zeros({kept_axes(options, keep_even), 3 * options.bins - 1}, dtype))),
      net_(add_module("net",
                      spline_net(options, kept_axes(options, keep_even), generator, dtype))) {}

SplineKnots SplineCoupling::moved_knots(const Tensor& kept, const Tensor& given_condition) {
  const Tensor condition =
      check_condition("SplineCoupling", given_condition, kept.size(0), options_.condition_dim);
  const Tensor raw = net_(condition.defined() ? concat({kept, condition}, 1) : kept);
  const Shape shape{kept.size(0), options_.dim - kept.size(1), 3 * options_.bins - 1};
  return spline_knots(reshape(raw, shape), options_.bins, options_.tail);
}

SplineKnots SplineCoupling::kept_knots() const {
  return spline_knots(kept_spline_, options_.bins, options_.tail);
}

Transformed SplineCoupling::join(const SplineValue& kept, const SplineValue& moved) const {
  const Shape shape{kept.value.size(0), options_.dim};
  const Tensor empty = zeros(shape, kept.value.dtype(), kept.value.device());
  const Tensor half = slice_scatter(empty, kept.value, 1, first_kept_, options_.dim, 2);
  return {slice_scatter(half, moved.value, 1, first_moved_, options_.dim, 2),
          sum(kept.log_slope, {1}) + sum(moved.log_slope, {1})};
}

Transformed SplineCoupling::inverse(const Tensor& x, const Tensor& condition) {
  check_rows("SplineCoupling", x, options_.dim);
  const Tensor kept = slice(x, 1, first_kept_, options_.dim, 2);
  const Tensor moved = slice(x, 1, first_moved_, options_.dim, 2);
  return join(spline(kept, kept_knots()), spline(moved, moved_knots(kept, condition)));
}

Transformed SplineCoupling::forward(const Tensor& z, const Tensor& condition) {
  check_rows("SplineCoupling", z, options_.dim);
  const SplineValue kept = spline_inverse(slice(z, 1, first_kept_, options_.dim, 2), kept_knots());
  const Tensor moved = slice(z, 1, first_moved_, options_.dim, 2);
  return join(kept, spline_inverse(moved, moved_knots(kept.value, condition)));
}

SplineFlow::SplineFlow(const SplineFlowOptions& o, Generator& generator, DType dtype)
    : CouplingStack(
          "SplineFlow",
          {o.dim, o.n_flows, o.condition_dim, o.permute, o.actnorm, o.base_components},
          [&](bool keep_even) {
            return std::make_unique<SplineCoupling>(o, keep_even, generator, dtype);
          },
          generator, dtype) {}

}  // namespace flowgrad
