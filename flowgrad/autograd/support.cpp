#include "flowgrad/autograd/support.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/indices.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {

void mixed_devices(const char* op, const std::string& name_a, const Tensor& a,
                   const std::string& name_b, const Tensor& b) {
  throw DeviceError(fmt::format("{}: {} is on {} and {} on {}; both must be on one device", op,
                                name_a, a.device().to_string(), name_b, b.device().to_string()));
}

void check_same_device(const char* op, const char* name, std::span<const Tensor> list) {
  for (size_t i = 1; i < list.size(); ++i) {
    if (list[i].device() == list[0].device()) continue;
    mixed_devices(op, fmt::format("{} 0", name), list[0], fmt::format("{} {}", name, i), list[i]);
  }
}

ReducedAxes reduced_axes(const char* op, const Shape& shape, const Dims& axes, bool keepdim) {
  ReducedAxes out;
  for (int64_t given : axes) {
    const int a = normalize_axis(op, given, shape.rank());
    if (out.mask >> a & 1u) {
      throw ShapeError(fmt::format("{}: axis {} is named twice in {}", op, a, axes.to_string()));
    }
    out.mask |= 1u << a;
  }
  if (axes.empty()) out.mask = (1u << shape.rank()) - 1u;
  out.kept = shape;
  for (int i = 0; i < shape.rank(); ++i) {
    if (out.mask >> i & 1u) {
      out.count *= shape[i];
      out.kept[i] = 1;
    } else if (!keepdim) {
      out.out.push_back(shape[i]);
    }
  }
  if (keepdim) out.out = out.kept;
  return out;
}

Tensor is_extreme(const Tensor& value, const Tensor& extreme) {
  return where(isnan(extreme), isnan(value), equal(value, extreme));
}

void check_floating(const char* op, const Tensor& x, const char* argument) {
  if (x.dtype() == DType::float32 || x.dtype() == DType::float64) return;
  throw DTypeError(fmt::format("{}: {} is {}; float32 and float64 are accepted, cast it first", op,
                               argument, name_of(x.dtype())));
}

void check_promotion(const char* op, const Tensor& a, const char* name_a, const Tensor& b,
                     const char* name_b) {
  const DType dtype = promote(a.dtype(), b.dtype());
  if (dtype == DType::float32 || dtype == DType::float64) return;
  throw DTypeError(
      fmt::format("{}: {} is {} and {} is {}; float32 and float64 are accepted, cast "
                  "one of them first",
                  op, name_a, name_of(a.dtype()), name_b, name_of(b.dtype())));
}

void check_numeric(const char* op, const Tensor& x) {
  if (x.dtype() == DType::int64) return;
  if (x.dtype() == DType::float32 || x.dtype() == DType::float64) return;
  throw DTypeError(
      fmt::format("{}: x is {}; float32, float64 and int64 are accepted, cast it first", op,
                  name_of(x.dtype())));
}

void check_like(const char* op, const char* argument, const Tensor& given, const Tensor& x,
                const char* other) {
  if (given.dtype() != x.dtype()) {
    throw DTypeError(fmt::format("{}: {} is {} and {} is {}; both must have one dtype", op,
                                 argument, name_of(given.dtype()), other, name_of(x.dtype())));
  }
  check_same_device(op, given, x, argument, other);
}

namespace {

void require_int64(const char* op, const Tensor& index) {
  if (index.dtype() == DType::int64) return;
  throw DTypeError(fmt::format("{}: index is {}; int64 is accepted", op, name_of(index.dtype())));
}

}  // namespace

Tensor check_indices(const Tensor& index, int64_t size, const IndexMessage& message) {
  require_int64("check_indices", index);
  const auto check = [&](const int64_t* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if (static_cast<uint64_t>(values[i]) < static_cast<uint64_t>(size)) continue;
      throw ValueError(message(values[i], i));
    }
  };
  if (index.device().is_cpu() && index.is_contiguous()) {
    check(index.data<int64_t>(), index.numel());
  } else if (is_capturing() && !index.device().is_cpu() && size > 0 && index.numel() > 0) {
    // What a block checks costs it about as much as being started.
    constexpr int64_t kPart = 4096, kParts = 256;
    const CapturedIndices kept =
        capture_index_check(std::clamp<int64_t>(index.numel() / kPart, 1, kParts), message);
    Tensor inside = Tensor::empty(index.shape(), DType::int64, index.device());
    kernels::backend(index.device()).check_index(index, size, inside, kept.found, kept.any);
    return inside;
  } else {
    const std::vector<int64_t> values = index.to_vector<int64_t>();
    check(values.data(), index.numel());
  }
  return index;
}

Tensor checked_index(const char* op, const Tensor& index, int64_t size) {
  require_int64(op, index);
  return check_indices(
      index, size, [op, shape = index.shape(), size](int64_t value, int64_t element) {
        return fmt::format("{}: index {} given at element {} of index {}; {}", op, value, element,
                           shape.to_string(),
                           size == 0 ? std::string("the axis has size 0, so none is accepted")
                                     : fmt::format("0 to {} are accepted", size - 1));
      });
}

Tensor counted(const Tensor& x) { return x.dtype() == DType::boolean ? cast(x, DType::int64) : x; }

Tensor filled(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = Tensor::empty(shape, dtype, device);
  kernels::backend(device).fill(t, value);
  return t;
}

}  // namespace flowgrad
