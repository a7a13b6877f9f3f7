#include "flowgrad/core/shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "flowgrad/core/device.h"
#include "flowgrad/core/dtype.h"

namespace flowgrad {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::boolean: return "bool";
    case DType::int64: return "int64";
    case DType::bfloat16: return "bfloat16";
    case DType::float32: return "float32";
    default: return "float64";
  }
}

std::string Device::to_string() const {
  return kind == Kind::cpu ? "cpu" : fmt::format("cuda:{}", index);
}

std::string Size2d::to_string() const {
  return rows == columns ? fmt::format("{}", rows) : fmt::format("({}, {})", rows, columns);
}

Dims::Dims(std::span<const int64_t> values) {
  if (values.size() > kMaxRank) too_long(static_cast<int>(values.size()));
  std::copy(values.begin(), values.end(), v_.begin());
  rank_ = static_cast<int>(values.size());
}

void Dims::too_long(int rank) {
  throw ShapeError(fmt::format("shape: rank {} given; at most {} is accepted", rank, kMaxRank));
}

void Dims::insert(int at, int64_t value) {
  if (rank_ == kMaxRank) too_long(rank_ + 1);
  std::copy_backward(v_.begin() + at, v_.begin() + rank_, v_.begin() + rank_ + 1);
  v_[static_cast<size_t>(at)] = value;
  ++rank_;
}

void Dims::erase(int at) {
  std::copy(v_.begin() + at + 1, v_.begin() + rank_, v_.begin() + at);
  --rank_;
}

std::string Dims::to_string() const {
  if (rank_ == 1) return fmt::format("({},)", v_[0]);
  return fmt::format("({})", fmt::join(begin(), end(), ", "));
}

std::ostream& operator<<(std::ostream& out, const Dims& dims) { return out << dims.to_string(); }

void shape_detail::not_countable(const Shape& shape) {
  for (int64_t d : shape)
    if (d < 0) throw ShapeError("shape: negative size in " + shape.to_string());
  throw ShapeError("shape: " + shape.to_string() + " has more than 2^59 elements");
}

void shape_detail::no_such_axis(const char* op, int64_t axis, int rank) {
  const int r = std::max(rank, 1);
  throw ShapeError(fmt::format("{}: axis {} given; a tensor of rank {} accepts {} to {}", op, axis,
                               rank, -r, r - 1));
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  const int rank = std::max(a.rank(), b.rank());
  Shape out = Dims::filled(rank, 1);
  for (int i = 1; i <= rank; ++i) {
    const int64_t da = i <= a.rank() ? a[a.rank() - i] : 1;
    const int64_t db = i <= b.rank() ? b[b.rank() - i] : 1;
    if (da != db && da != 1 && db != 1) {
      throw ShapeError(
          fmt::format("{}: shapes {} and {} do not broadcast: axis {} of a ({}) and axis {} of b "
                      "({}) must be equal "
                      "or 1",
                      op, a.to_string(), b.to_string(), a.rank() - i, da, b.rank() - i, db));
    }
    out[rank - i] = da == 1 ? db : da;
  }
  return out;
}

}  // namespace flowgrad
