#include "flowgrad/core/layout.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "kernels/strided.h"

using namespace flowgrad;
using testing::Dice;

namespace {

/// Offsets of all elements in row-major order.
std::vector<int64_t> offsets(const Layout& l) {
  std::vector<int64_t> out;
  testing::each_offset(l, [&](int64_t offset) { out.push_back(offset); });
  return out;
}

/// True when some strides show these offsets under the shape: the strides are forced by the offsets
/// of the neighbours of element 0, so there is only one candidate.
bool viewable(const std::vector<int64_t>& at, const Shape& shape) {
  Layout l{shape, Dims::filled(shape.rank(), 0), at.empty() ? 0 : at[0]};
  size_t next = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] > 1) l.strides[d] = at[next] - at[0];
    next *= static_cast<size_t>(shape[d]);
  }
  return offsets(l) == at;
}

Layout random_layout(Dice& dice) {
  Shape shape;
  const auto rank = dice.roll(0, 5);
  for (int64_t i = 0; i < rank; ++i) shape.push_back(dice.roll(1, 4));
  Layout l = contiguous_layout(shape);
  for (int64_t k = dice.roll(0, 4); k > 0 && rank > 0; --k) {
    const int64_t axis = dice.roll(0, l.rank() - 1);
    switch (dice.roll(0, 4)) {
      case 0: l = transposed("test", l, axis, dice.roll(0, l.rank() - 1)); break;
      case 1:
        l = sliced("test", l, axis, dice.roll(0, 1), std::numeric_limits<int64_t>::max(),
                   dice.roll(1, 2));
        break;
      case 2:
        if (l.shape[static_cast<int>(axis)] == 1) {
          Shape wide = l.shape;
          wide[static_cast<int>(axis)] = 3;
          l = expanded("test", l, wide);
        }
        break;
      case 3:
        if (l.rank() < 6) l = unsqueezed("test", l, axis);
        break;
      default:
        if (l.shape[static_cast<int>(axis)] == 1 && l.rank() > 1) l = squeezed("test", l, axis);
    }
  }
  return l;
}

/// A random shape with n elements.
Shape random_shape(Dice& dice, int64_t n) {
  Shape shape;
  while (n > 1 && shape.rank() < 5) {
    std::vector<int64_t> divisors;
    for (int64_t d = 1; d <= n; ++d) {
      if (n % d == 0) divisors.push_back(d);
    }
    const int64_t d =
        divisors[static_cast<size_t>(dice.roll(0, static_cast<int64_t>(divisors.size()) - 1))];
    shape.push_back(d);
    n /= d;
  }
  shape.insert(static_cast<int>(dice.roll(0, shape.rank())), n);
  if (dice.roll(0, 2) == 0) shape.insert(static_cast<int>(dice.roll(0, shape.rank())), 1);
  return shape;
}

}  // namespace

TEST_CASE("viewed finds strides exactly when some exist", "[layout_test]") {
  Dice dice(1);
  int with = 0;
  int without = 0;
  for (int round = 0; round < 20000; ++round) {
    const Layout in = random_layout(dice);
    const Shape shape = random_shape(dice, numel(in.shape));
    const auto at = offsets(in);
    const auto out = viewed(in, shape);
    CAPTURE(in.shape.to_string(), in.strides.to_string(), shape.to_string());
    REQUIRE(out.has_value() == (numel(in.shape) == 0 || viewable(at, shape)));
    if (out) {
      REQUIRE(out->shape == shape);
      REQUIRE(offsets(*out) == at);
    }
    ++(out ? with : without);
  }
  CHECK(with > 2000);
  CHECK(without > 2000);
}

TEST_CASE("contiguity means offsets 0, 1, 2, ...", "[layout_test]") {
  Dice dice(2);
  for (int round = 0; round < 5000; ++round) {
    const Layout l = random_layout(dice);
    const auto at = offsets(l);
    bool counts = true;
    for (size_t i = 0; i < at.size(); ++i) counts &= at[i] == l.offset + static_cast<int64_t>(i);
    CAPTURE(l.shape.to_string(), l.strides.to_string());
    CHECK(l.is_contiguous() == counts);
    const Extent e = extent_of(l);
    if (!at.empty()) {
      CHECK(e.begin == *std::min_element(at.begin(), at.end()));
      CHECK(e.end == *std::max_element(at.begin(), at.end()) + 1);
    }
  }
  CHECK(contiguous_layout({2, 0, 3}).is_contiguous());
  CHECK(extent_of(contiguous_layout({2, 0, 3})).end == 0);
  CHECK(offsets(contiguous_layout({})) == std::vector<int64_t>{0});
}

TEST_CASE("extents include negative strides and refuse overflow", "[layout_test]") {
  const Extent e = extent_of({{3, 2}, {-2, 1}, 4});
  CHECK(e.begin == 0);
  CHECK(e.end == 6);
  CHECK_THROWS_AS(extent_of({{3, 1}, {int64_t{1} << 62, 1}, 0}), ShapeError);
}

TEST_CASE("permuted, transposed, sliced, squeezed, expanded", "[layout_test]") {
  const Layout l = contiguous_layout({2, 3, 4});
  CHECK(permuted("p", l, {2, 0, -2}).strides == Strides{1, 12, 4});
  CHECK(permuted("p", l, {2, 0, -2}).shape == Shape{4, 2, 3});
  CHECK(transposed("t", l, 0, -1).shape == Shape{4, 3, 2});
  const Layout s = sliced("s", l, -1, -3, 100, 2);
  CHECK(s.shape == Shape{2, 3, 2});
  CHECK(s.offset == 1);
  CHECK(s.strides == Strides{12, 4, 2});
  CHECK(sliced("s", l, 1, 2, 1, 1).shape == Shape{2, 0, 4});
  CHECK(sliced("s", l, 1, -100, 1, 1).shape == Shape{2, 1, 4});
  CHECK(unsqueezed("u", l, -1).shape == Shape{2, 3, 4, 1});
  CHECK(squeezed("q", unsqueezed("u", l, 1), 1).strides == l.strides);
  const Layout e = expanded("e", contiguous_layout({3, 1}), {5, -1, 4});
  CHECK(e.shape == Shape{5, 3, 4});
  CHECK(e.strides == Strides{0, 1, 0});
}

TEST_CASE("layout errors name the operation, the axis and the shapes", "[layout_test]") {
  const Layout l = contiguous_layout({2, 3});
  CHECK_THROWS_WITH(permuted("permute", l, {0, 0}), "permute: axis 0 is named twice in (0, 0)");
  CHECK_THROWS_WITH(transposed("transpose", l, 0, 2),
                    "transpose: axis 2 given; a tensor of rank 2 accepts -2 to 1");
  CHECK_THROWS_WITH(sliced("slice", l, 0, 0, 2, 0), "slice: step 0 given; it must be at least 1");
  CHECK_THROWS_AS(permuted("permute", l, {0}), ShapeError);
  CHECK_THROWS_AS(sliced("slice", contiguous_layout({}), 0, 0, 1, 1), ShapeError);
  CHECK_THROWS_WITH(squeezed("squeeze", l, 1),
                    "squeeze: axis 1 of shape (2, 3) has size 3; only size 1 can be squeezed");
  CHECK_THROWS_AS(expanded("expand", l, {2, 4}), ShapeError);
  CHECK_THROWS_AS(expanded("expand", l, {3}), ShapeError);
  CHECK_THROWS_AS(expanded("expand", l, {-1, 2, 3}), ShapeError);
  CHECK_THROWS_WITH(
      broadcast_shapes("add", {2, 3}, {4, 3}),
      "add: shapes (2, 3) and (4, 3) do not broadcast: axis 0 of a (2) and axis 0 of b (4) must "
      "be equal or 1");
  CHECK(broadcast_shapes("add", {2, 1, 3}, {5, 1}) == Shape{2, 5, 3});
  CHECK(broadcast_shapes("add", {0}, {1}) == Shape{0});
}

TEST_CASE("reshape fills in one unknown size", "[layout_test]") {
  CHECK(resolve_reshape("r", {2, 6}, {3, -1}) == Shape{3, 4});
  CHECK(resolve_reshape("r", {}, {1, -1}) == Shape{1, 1});
  CHECK(resolve_reshape("r", {0, 3}, {-1, 3}) == Shape{0, 3});
  CHECK_THROWS_AS(resolve_reshape("r", {0, 3}, {0, -1}), ShapeError);
  CHECK_THROWS_AS(resolve_reshape("r", {2, 6}, {5, -1}), ShapeError);
  CHECK_THROWS_AS(resolve_reshape("r", {2, 6}, {-1, -1}), ShapeError);
  CHECK_THROWS_WITH(resolve_reshape("reshape", {2, 6}, {5}),
                    "reshape: shape (2, 6) has 12 elements and (5,) has 5; they must be equal");
}

TEST_CASE("shapes: rank limit, element counts, text", "[layout_test]") {
  CHECK(numel({}) == 1);
  CHECK(numel({3, 0, 5}) == 0);
  CHECK_THROWS_AS(numel({-1, 2}), ShapeError);
  CHECK_THROWS_AS(numel({int64_t{1} << 40, int64_t{1} << 40}), ShapeError);
  CHECK_THROWS_AS(Shape({1, 1, 1, 1, 1, 1, 1, 1, 1}), ShapeError);
  CHECK(Shape{}.to_string() == "()");
  CHECK(Shape{3}.to_string() == "(3,)");
  CHECK(Shape{8, 64}.to_string() == "(8, 64)");
  CHECK(normalize_axis("op", -1, 3) == 2);
  CHECK(normalize_axis("op", -1, 0) == 0);
  CHECK_THROWS_AS(normalize_axis("op", 3, 3), ShapeError);
}
