#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <utility>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/names.h"

namespace flowgrad {
namespace {

using kernels::RandomKind;

Tensor drawn(RandomKind kind, const Shape& shape, Generator& generator, DType dtype, Device device,
             kernels::Params params) {
  const Generator draw = next_draw(name_of(kind), generator);
  Tensor out = Tensor::empty(shape, dtype, device);
  kernels::backend(device).random(kind, draw.seed(), draw.stream(), params, out);
  return out;
}

void check_real(const char* op, DType dtype) {
  if (dtype == DType::float32 || dtype == DType::float64) return;
  throw DTypeError(
      fmt::format("{}: dtype {} given; float32 and float64 are accepted", op, name_of(dtype)));
}

}  // namespace

Tensor rand(const Shape& shape, Generator& generator, DType dtype, double low, double high,
            Device device) {
  check_real("rand", dtype);
  if (!std::isfinite(low) || !std::isfinite(high) || !(low < high)) {
    throw ValueError(
        fmt::format("rand: low = {} and high = {} given; finite numbers with low < high are "
                    "accepted",
                    low, high));
  }
  const double most = dtype == DType::float64 ? DBL_MAX : static_cast<double>(FLT_MAX);
  if (std::max({std::abs(low), std::abs(high), high - low}) > most) {
    throw ValueError(
        fmt::format("rand: low = {} and high = {} given; numbers and a range of at most {} are "
                    "accepted for {}",
                    low, high, most, name_of(dtype)));
  }
  return drawn(RandomKind::uniform, shape, generator, dtype, device, {low, high});
}

Tensor randn(const Shape& shape, Generator& generator, DType dtype, Device device) {
  check_real("randn", dtype);
  return drawn(RandomKind::normal, shape, generator, dtype, device, {0, 1});
}

Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, Device device) {
  // The bounds travel as doubles, which hold integers up to 2^53.
  constexpr int64_t kLimit = int64_t{1} << 53;
  if (low >= high || low < -kLimit || high > kLimit) {
    throw ValueError(
        fmt::format("randint: low = {} and high = {} given; low < high within -2^53 and 2^53 is "
                    "accepted",
                    low, high));
  }
  return drawn(RandomKind::integer, shape, generator, DType::int64, device,
               {static_cast<double>(low), static_cast<double>(high)});
}

Tensor randperm(int64_t n, Generator& generator, Device device) {
  if (n < 0) throw ValueError(fmt::format("randperm: n = {} given; at least 0 is accepted", n));
  const Generator draw = next_draw("randperm", generator);
  const Tensor out = Tensor::empty({n}, DType::int64);
  int64_t* order = out.data<int64_t>();
  std::iota(order, order + n, int64_t{0});
  // Fisher and Yates; step i takes draw i of the stream.
  for (auto i = static_cast<uint64_t>(n); i-- > 1;) {
    std::swap(order[i], order[integer_at(draw.seed(), draw.stream(), i, i + 1)]);
  }
  return to(out, device);
}

Tensor bernoulli(const Shape& shape, double p, Generator& generator, DType dtype, Device device) {
  if (!(p >= 0 && p <= 1)) {
    throw ValueError(fmt::format("bernoulli: p = {} given; 0 to 1 is accepted", p));
  }
  return drawn(RandomKind::bernoulli, shape, generator, dtype, device, {p, 0});
}

Tensor rademacher(const Shape& shape, Generator& generator, DType dtype, Device device) {
  check_real("rademacher", dtype);
  return drawn(RandomKind::rademacher, shape, generator, dtype, device, {});
}

}  // namespace flowgrad
