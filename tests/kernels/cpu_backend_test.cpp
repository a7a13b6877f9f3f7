#include "flowgrad/kernels/cpu/backend.h"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "flowgrad/kernels/names.h"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

// The fast backend against the reference loops, over layouts that take different paths.

namespace {

Backend& fast() { return fast_cpu_backend(); }

double tolerance(DType dtype) { return dtype == DType::float32 ? 2e-6 : 1e-14; }

Tensor expanded_to(const Tensor& t, const Shape& shape) {
  return t.with_layout(expanded("test", t.layout(), shape));
}

const std::vector<Shape> kShapes{{},         {1},      {7},       {0},          {3, 0, 2},
                                 {5, 3},     {2, 600}, {700, 2},  {3, 1, 2500}, {2, 3, 4, 5},
                                 {40, 1000}, {65537},  {300, 129}};

/// A tensor of the given shape in one of six layouts: contiguous, awkward strides, and expanded in
/// different ways.
Tensor layout_of(const Shape& shape, DType dtype, int which, uint64_t seed, double low,
                 double high) {
  if (which == 1) return strided(values(shape, dtype, seed, low, high), seed + 1);
  Shape from = shape;
  if (which == 2)
    for (int d = 0; d < from.rank(); ++d) from[d] = 1;           // one element for all
  if (which == 3 && from.rank() > 0) from[0] = 1;                // one row for all
  if (which == 4 && from.rank() > 0) from[from.rank() - 1] = 1;  // one column for all
  const Tensor t = values(from, dtype, seed, low, high);
  return which >= 2 ? expanded_to(t, shape) : t;
}

Tensor output(const Shape& shape, DType dtype, bool awkward) {
  const Tensor t =
      Tensor::from(std::vector<double>(static_cast<size_t>(numel(shape)), 77), shape, dtype);
  return awkward ? strided(t, 99) : t;
}

/// Runs `f(backend, out)` on both backends and compares.
template <class F>
void compare_backends(const Shape& shape, DType dtype, double bound, bool awkward, F&& f) {
  const Tensor a = output(shape, dtype, awkward), b = output(shape, dtype, false);
  f(fast(), a);
  f(reference_backend(), b);
  CHECK(relative_error(a, b) <= bound);
}

int count_of(UnaryOp last) { return static_cast<int>(last) + 1; }

}  // namespace

TEST_CASE("unary operations and gradients agree with the reference", "[cpu_backend_test]") {
  each_instruction_set([] {
    int turn = 0;
    for (DType dtype : {DType::float32, DType::float64}) {
      for (int i = 0; i < count_of(UnaryOp::pow_scalar); ++i) {
        const auto op = static_cast<UnaryOp>(i);
        const Params params{0.75, 1.5};
        for (const Shape& shape : kShapes) {
          const bool small = numel(shape) < 2000;
          if (!small && (turn + i) % 3 != 0) continue;
          ++turn;
          const int layout = turn % 5;
          const bool awkward = turn % 4 == 0;
          CAPTURE(name_of(op), dtype, shape.to_string(), layout, awkward);
          const Tensor x = layout_of(shape, dtype, layout, 3, 0.1, 1.4);
          // erfc and its like lose the last digits of a small value, not of the sum it belongs to.
          const double bound = 4 * tolerance(dtype);
          compare_backends(shape, dtype, bound, awkward,
                           [&](Backend& b, View out) { b.unary(op, params, x, out); });
          const Tensor y = Tensor::empty(shape, dtype);
          reference_backend().unary(op, params, x, y);
          const Tensor g = layout_of(shape, dtype, (turn / 5) % 5, 4, -1, 1);
          compare_backends(shape, dtype, bound, awkward,
                           [&](Backend& b, View out) { b.unary_grad(op, params, g, x, y, out); });
        }
      }
    }
  });
}

TEST_CASE("binary operations, gradients and comparisons agree", "[cpu_backend_test]") {
  each_instruction_set([] {
    int turn = 0;
    for (DType dtype : {DType::float32, DType::float64}) {
      for (int i = 0; i <= static_cast<int>(BinaryOp::logaddexp); ++i) {
        const auto op = static_cast<BinaryOp>(i);
        for (const Shape& shape : kShapes) {
          for (int layout = 0; layout < 5; ++layout) {
            if (numel(shape) > 2000 && (turn + i) % 4 != 0) continue;
            ++turn;
            const bool awkward = turn % 5 == 0;
            CAPTURE(name_of(op), dtype, shape.to_string(), layout, awkward);
            const Tensor a = layout_of(shape, dtype, layout, 5, 0.1, 2);
            const Tensor b = layout_of(shape, dtype, turn % 5, 6, 0.1, 2);
            const double bound = 4 * tolerance(dtype);
            compare_backends(shape, dtype, bound, awkward,
                             [&](Backend& be, View out) { be.binary(op, a, b, out); });
            const Tensor y = Tensor::empty(shape, dtype);
            reference_backend().binary(op, a, b, y);
            const Tensor g = layout_of(shape, dtype, (turn / 5) % 5, 7, -1, 1);
            for (int wrt : {0, 1}) {
              compare_backends(shape, dtype, bound, awkward, [&](Backend& be, View out) {
                be.binary_grad(op, wrt, g, a, b, y, out);
              });
            }
            for (CompareOp c : {CompareOp::less, CompareOp::equal, CompareOp::greater_equal}) {
              compare_backends(shape, DType::boolean, 0, awkward,
                               [&](Backend& be, View out) { be.compare(c, a, b, out); });
            }
          }
        }
      }
    }
  });
}

TEST_CASE("NaN, infinities and zeros go where the reference sends them", "[cpu_backend_test]") {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> v{0, -0.0, 1, -1, inf, -inf, std::nan(""), 0.5, -3.0};
  std::vector<double> va, vb;
  for (double x : v)
    for (double y : v) va.push_back(x), vb.push_back(y);
  const Shape shape{static_cast<int64_t>(va.size())};
  each_instruction_set([&] {
    for (DType dtype : {DType::float32, DType::float64}) {
      const Tensor a = Tensor::from(va, shape, dtype), b = Tensor::from(vb, shape, dtype);
      for (int i = 0; i < count_of(UnaryOp::pow_scalar); ++i) {
        const auto op = static_cast<UnaryOp>(i);
        CAPTURE(name_of(op), dtype);
        compare_backends(shape, dtype, 1e-5, false, [&](Backend& be, View out) {
          be.unary(op, {-0.5, 2}, a, out);
        });
        const Tensor y = Tensor::empty(shape, dtype);
        reference_backend().unary(op, {-0.5, 2}, a, y);
        compare_backends(shape, dtype, 1e-5, false, [&](Backend& be, View out) {
          be.unary_grad(op, {-0.5, 2}, b, a, y, out);
        });
      }
      for (int i = 0; i <= static_cast<int>(BinaryOp::logaddexp); ++i) {
        const auto op = static_cast<BinaryOp>(i);
        CAPTURE(name_of(op), dtype);
        compare_backends(shape, dtype, 1e-5, false,
                         [&](Backend& be, View out) { be.binary(op, a, b, out); });
      }
      for (PredicateOp op : {PredicateOp::isfinite, PredicateOp::isinf, PredicateOp::isnan}) {
        compare_backends(shape, DType::boolean, 0, false,
                         [&](Backend& be, View out) { be.predicate(op, a, out); });
      }
      for (int i = 0; i <= static_cast<int>(CompareOp::greater_equal); ++i) {
        compare_backends(shape, DType::boolean, 0, false, [&](Backend& be, View out) {
          be.compare(static_cast<CompareOp>(i), a, b, out);
        });
      }
      for (ReduceOp op :
           {ReduceOp::sum, ReduceOp::prod, ReduceOp::sum_squares, ReduceOp::min, ReduceOp::max}) {
        compare_backends({1}, dtype, 0, false,
                         [&](Backend& be, View out) { be.reduce(op, a, out); });
      }
      const Tensor rows = Tensor::from(va, {9, 9}, dtype);
      for (bool logarithm : {false, true}) {
        compare_backends({9, 9}, dtype, 1e-5, false,
                         [&](Backend& be, View out) { be.softmax(logarithm, rows, 1, out); });
      }
    }
  });
}

TEST_CASE("copies, casts, fills and selection agree", "[cpu_backend_test]") {
  each_instruction_set([] {
    const DType all[] = {DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                         DType::float64};
    int turn = 0;
    for (DType from : all) {
      for (DType to : all) {
        for (const Shape& shape : kShapes) {
          for (int layout : {0, 1, 3, 4}) {
            const bool awkward = ++turn % 3 == 0;
            CAPTURE(name_of(from), name_of(to), shape.to_string(), layout, awkward);
            const Tensor x = layout_of(shape, from, layout, 8, -3, 3);
            compare_backends(shape, to, 0, awkward, [&](Backend& b, View out) { b.copy(x, out); });
          }
        }
        // Columns onto rows, whole registers and remainders.
        const Tensor wide = values({70, 51}, from, 9);
        const Tensor turned = wide.with_layout(transposed("test", wide.layout(), 0, 1));
        compare_backends({51, 70}, to, 0, false,
                         [&](Backend& b, View out) { b.copy(turned, out); });
      }
    }
    for (DType dtype : {DType::float32, DType::float64}) {
      for (const Shape& shape : kShapes) {
        const bool awkward = ++turn % 2 == 0;
        CAPTURE(dtype, shape.to_string(), awkward);
        compare_backends(shape, dtype, 0, awkward,
                         [&](Backend& b, View out) { b.fill(out, -2.5); });
        const Tensor c = layout_of(shape, DType::boolean, turn % 5, 10, -1, 1);
        const Tensor x = layout_of(shape, dtype, turn / 2 % 5, 11, -1, 1);
        const Tensor y = layout_of(shape, dtype, turn / 3 % 5, 12, -1, 1);
        compare_backends(shape, dtype, 0, awkward,
                         [&](Backend& b, View out) { b.where(c, x, y, out); });
        compare_backends(shape, dtype, 0, awkward,
                         [&](Backend& b, View out) { b.add_into(x, out); });
        compare_backends(shape, dtype, 0, awkward,
                         [&](Backend& b, View out) { b.multiply_add(x, y, out); });
        compare_backends(shape, dtype, tolerance(dtype), awkward,
                         [&](Backend& b, View out) { b.scale(out, 0.3); });
        compare_backends(shape, dtype, tolerance(dtype), awkward,
                         [&](Backend& b, View out) { b.lerp(out, x, 0.9); });
      }
      // An output that shows an element several times adds every contribution.
      const Tensor ones = values({6, 4}, dtype, 13);
      for (Backend* b : {&reference_backend(), &fast()}) {
        const Tensor sum = Tensor::from(std::vector<double>(4, 0), {1, 4}, dtype);
        b->add_into(ones, expanded_to(sum, {6, 4}));
        const Tensor wanted = Tensor::empty({1, 4}, dtype);
        reference_backend().reduce(ReduceOp::sum, ones, wanted);
        CHECK(relative_error(sum, wanted) <= tolerance(dtype));
      }
    }
  });
}
