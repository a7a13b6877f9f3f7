#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>

#include "flowgrad/core/error.h"

namespace flowgrad {

constexpr int kMaxRank = 8;

/// A short list of up to 8 integers: sizes, strides, axes or paddings.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  /// One axis or size.
  template <std::integral I>
  requires(!std::same_as<I, bool>) Dims(I value) : Dims{static_cast<int64_t>(value)} {}
  explicit Dims(std::span<const int64_t> values);
  static Dims filled(int rank, int64_t value) {
    if (rank > kMaxRank) too_long(rank);
    Dims d;
    for (int i = 0; i < rank; ++i) d[i] = value;
    d.rank_ = rank;
    return d;
  }

  int rank() const { return rank_; }
  size_t size() const { return static_cast<size_t>(rank_); }
  bool empty() const { return rank_ == 0; }
  int64_t operator[](int i) const { return v_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return v_[static_cast<size_t>(i)]; }
  int64_t back() const { return v_[static_cast<size_t>(rank_ - 1)]; }
  const int64_t* begin() const { return v_.data(); }
  const int64_t* end() const { return v_.data() + rank_; }
  int64_t* begin() { return v_.data(); }
  int64_t* end() { return v_.data() + rank_; }
  void push_back(int64_t value) {
    if (rank_ == kMaxRank) too_long(rank_ + 1);
    v_[static_cast<size_t>(rank_++)] = value;
  }
  void insert(int at, int64_t value);
  void erase(int at);
  /// "(8, 64)", "(3,)", "()".
  std::string to_string() const;
  friend std::ostream& operator<<(std::ostream& out, const Dims& dims);
  friend bool operator==(const Dims& a, const Dims& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }

 private:
  [[noreturn]] static void too_long(int rank);

  std::array<int64_t, kMaxRank> v_{};
  int rank_ = 0;
};

/// Sizes of a tensor, rank 0 to 8; sizes of zero are legal.
using Shape = Dims;
using Strides = Dims;

namespace shape_detail {
[[noreturn]] void not_countable(const Shape& shape);
[[noreturn]] void no_such_axis(const char* op, int64_t axis, int rank);
}  // namespace shape_detail

/// Product of the sizes. Raises ShapeError for a negative size or a product beyond 2^59.
inline int64_t numel(const Shape& shape) {
  int64_t n = 1;
  bool zero = false;
  for (int64_t d : shape) {
    if (d == 0) {
      zero = true;
    } else if (d < 0 || __builtin_mul_overflow(n, d, &n) || n > (int64_t{1} << 59)) {
      shape_detail::not_countable(shape);
    }
  }
  return zero ? 0 : n;
}

/// Axis in [0, rank) for an axis in [-rank, rank); raises ShapeError naming op otherwise. A scalar
/// accepts axis 0 and -1, as NumPy's and PyTorch's reductions do.
inline int normalize_axis(const char* op, int64_t axis, int rank) {
  const int r = rank > 1 ? rank : 1;
  if (axis < -r || axis >= r) shape_detail::no_such_axis(op, axis, rank);
  return static_cast<int>(axis < 0 ? axis + r : axis);
}

/// NumPy broadcasting of two shapes; raises ShapeError naming op, both shapes and the axis.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

/// A number for each of the two axes of images, rows first; one number stands for both.
struct Size2d {
  int64_t rows, columns;
  /// Of anything that passes as a whole number, but no bool.
  template <std::convertible_to<int64_t> N>
  requires(!std::same_as<N, bool> && !std::floating_point<N>)
      // NOLINTNEXTLINE(google-explicit-constructor)
      constexpr Size2d(const N& both)
      : rows(both), columns(rows) {}
  constexpr Size2d(int64_t rows, int64_t columns) : rows(rows), columns(columns) {}
  /// Of the axis 0 (rows) or 1 (columns).
  constexpr int64_t operator[](int axis) const { return axis == 0 ? rows : columns; }
  friend bool operator==(const Size2d&, const Size2d&) = default;
  /// "3" for both, "(3, 2)".
  std::string to_string() const;
};

}  // namespace flowgrad
