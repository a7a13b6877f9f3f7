// Integers, booleans and sorting of the fast backend: the bits of the reference loops.
#include <cmath>
#include <functional>
#include <limits>

#include "catch.hpp"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/names.h"
#include "kernels/cpu_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

/// Sizes around those of registers, lanes that are sorted by insertion, chunks and shared work.
std::vector<Shape> shapes() {
  return {{0},      {1},      {7},        {4, 0},      {0, 4},  {3, 5},     {17, 33},
          {48, 49}, {5, 600}, {2, 3, 40}, {3, 50, 20}, {40000}, {300, 150}, {2, 20000}};
}

/// Few different numbers, so that there are ties, and the ends of the range.
Tensor integers_of(const Shape& shape, uint64_t seed, int64_t low = -4) {
  Dice dice(seed);
  std::vector<int64_t> v(static_cast<size_t>(numel(shape)));
  for (int64_t& x : v) {
    x = dice.roll(low, 4);
    if (x == 3 && dice.roll(0, 9) == 0) x = low < 0 ? kLeast : kMost;
  }
  return Tensor::from(v, shape);
}

Tensor booleans_of(const Shape& shape, uint64_t seed) {
  Dice dice(seed);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v) x = static_cast<double>(dice.roll(0, 1));
  return Tensor::from(v, shape, DType::boolean);
}

Tensor numbers_of(const Shape& shape, uint64_t seed, DType dtype) {
  if (dtype == DType::int64) return integers_of(shape, seed);
  constexpr double special[] = {0., -0., 1., kInf, -kInf, kNan, -kNan, 1e-310, -1e-45, 3e38};
  Dice dice(seed);
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (double& x : v) {
    const int64_t which = dice.roll(0, 19);
    x = which < 10 ? special[which] : dice.real(-2, 2);
  }
  return Tensor::from(v, shape, dtype);
}

/// A result of `shape`, of the layout that a case asks for.
Tensor result(const Shape& shape, DType dtype, bool awkward) {
  const Tensor t =
      Tensor::from(std::vector<double>(static_cast<size_t>(numel(shape)), 1), shape, dtype);
  return awkward ? strided(t, 11) : t;
}

std::string logical_bytes(const Tensor& t) {
  const TensorBytes bytes(t);
  return std::string(reinterpret_cast<const char*>(bytes.span().data()), bytes.span().size());
}

using Run = std::function<std::vector<Tensor>(Backend& on, bool awkward)>;

/// The bits of the reference loops, contiguous and not, with one thread and with two.
void same_bits(const std::string& what, const Run& run) {
  CpuSettings restore;
  for (const bool awkward : {false, true}) {
    const std::vector<Tensor> want = run(reference_backend(), awkward);
    for (const int threads : {1, 2}) {
      set_num_threads(threads);
      const std::vector<Tensor> got = run(fast_cpu_backend(), awkward);
      for (size_t i = 0; i < want.size(); ++i) {
        CAPTURE(what, awkward, threads, i);
        CHECK((logical_bytes(got[i]) == logical_bytes(want[i])));
      }
    }
  }
}

Tensor laid_out(const Tensor& t, bool awkward, uint64_t seed) {
  return awkward ? strided(t, seed) : t;
}

constexpr UnaryOp kUnary[] = {UnaryOp::neg,        UnaryOp::abs,        UnaryOp::sign,
                              UnaryOp::floor,      UnaryOp::relu,       UnaryOp::square,
                              UnaryOp::pow_scalar, UnaryOp::add_scalar, UnaryOp::mul_scalar,
                              UnaryOp::rsub_scalar};
constexpr BinaryOp kBinary[] = {BinaryOp::add,     BinaryOp::sub,     BinaryOp::mul,
                                BinaryOp::maximum, BinaryOp::minimum, BinaryOp::remainder};

}  // namespace

TEST_CASE("integer functions have the reference's bits", "[cpu_integers_test]") {
  for (const Shape& shape : shapes()) {
    const Tensor a = integers_of(shape, 1), b = integers_of(shape, 2, 1);
    for (const UnaryOp op : kUnary) {
      same_bits(name_of(op) + (" " + shape.to_string()), [&](Backend& on, bool awkward) {
        const Tensor out = result(shape, DType::int64, awkward);
        on.unary(op, {3, 5}, laid_out(a, awkward, 3), out);
        return std::vector<Tensor>{out};
      });
    }
    for (const BinaryOp op : kBinary) {
      same_bits(name_of(op) + (" " + shape.to_string()), [&](Backend& on, bool awkward) {
        const Tensor out = result(shape, DType::int64, awkward);
        on.binary(op, laid_out(a, awkward, 3), laid_out(b, awkward, 4), out);
        return std::vector<Tensor>{out};
      });
    }
  }
}

TEST_CASE("comparisons, logic and choices have the reference's bits", "[cpu_integers_test]") {
  for (const Shape& shape : shapes()) {
    const Tensor a = integers_of(shape, 1), b = integers_of(shape, 2);
    const Tensor p = booleans_of(shape, 3), q = booleans_of(shape, 4);
    for (const CompareOp op :
         {CompareOp::equal, CompareOp::not_equal, CompareOp::less, CompareOp::less_equal,
          CompareOp::greater, CompareOp::greater_equal}) {
      same_bits(name_of(op) + (" " + shape.to_string()), [&](Backend& on, bool awkward) {
        std::vector<Tensor> out{result(shape, DType::boolean, awkward),
                                result(shape, DType::boolean, awkward)};
        on.compare(op, laid_out(a, awkward, 3), laid_out(b, awkward, 4), out[0]);
        on.compare(op, laid_out(p, awkward, 5), laid_out(q, awkward, 6), out[1]);
        return out;
      });
    }
    for (const LogicalOp op :
         {LogicalOp::logical_and, LogicalOp::logical_or, LogicalOp::logical_xor}) {
      same_bits("logic " + shape.to_string(), [&](Backend& on, bool awkward) {
        const Tensor out = result(shape, DType::boolean, awkward);
        on.logical(op, laid_out(p, awkward, 3), laid_out(q, awkward, 4), out);
        return std::vector<Tensor>{out};
      });
    }
    same_bits("where " + shape.to_string(), [&](Backend& on, bool awkward) {
      const Tensor out = result(shape, DType::int64, awkward);
      on.where(laid_out(p, awkward, 3), laid_out(a, awkward, 4), laid_out(b, awkward, 5), out);
      return std::vector<Tensor>{out};
    });
  }
}

TEST_CASE("integer reductions and scans have the reference's bits", "[cpu_integers_test]") {
  for (const Shape& shape : shapes()) {
    const Tensor x = integers_of(shape, 7);
    for (int axis = 0; axis < shape.rank(); ++axis) {
      Shape reduced = shape;
      reduced[axis] = 1;
      const std::string what = shape.to_string() + " along " + std::to_string(axis);
      same_bits(what, [&](Backend& on, bool awkward) {
        std::vector<Tensor> out;
        for (const ReduceOp op :
             {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max, ReduceOp::sum_squares}) {
          out.push_back(result(reduced, DType::int64, awkward));
          on.reduce(op, laid_out(x, awkward, 3), out.back());
        }
        for (const ScanOp op : {ScanOp::sum, ScanOp::prod}) {
          for (const bool reverse : {false, true}) {
            out.push_back(result(shape, DType::int64, awkward));
            on.scan(op, laid_out(x, awkward, 4), axis, reverse, out.back());
          }
        }
        for (const bool maximum : {false, true}) {
          if (shape[axis] == 0) break;
          out.push_back(result(reduced, DType::int64, awkward));
          on.arg_reduce(maximum, laid_out(x, awkward, 5), axis, out.back());
        }
        return out;
      });
    }
  }
}

TEST_CASE("running products and extremes have the reference's bits", "[cpu_integers_test]") {
  for (const DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (const Shape& shape : shapes()) {
      const Tensor x = numbers_of(shape, 7, dtype), factors = values(shape, DType::float64, 5);
      for (int axis = 0; axis < shape.rank(); ++axis) {
        const std::string what =
            name_of(dtype) + (" " + shape.to_string()) + " along " + std::to_string(axis);
        same_bits(what, [&](Backend& on, bool awkward) {
          std::vector<Tensor> out;
          for (const bool maximum : {false, true}) {
            out.push_back(result(shape, dtype, awkward));
            out.push_back(result(shape, DType::int64, awkward));
            on.scan_extreme(maximum, laid_out(x, awkward, 3), axis, out[out.size() - 2],
                            out.back());
          }
          for (const bool reverse : {false, true}) {
            if (dtype == DType::int64) break;
            const Tensor y = Tensor::from(factors.to_vector<double>(), shape, dtype);
            out.push_back(result(shape, dtype, awkward));
            on.scan(ScanOp::prod, laid_out(y, awkward, 4), axis, reverse, out.back());
          }
          return out;
        });
      }
    }
  }
}

/// Values and positions of x sorted along axis, ascending and then descending: as many as `shape`
/// has room for.
std::vector<Tensor> both_orders(Backend& on, const Tensor& x, int axis, const Shape& shape,
                                bool awkward) {
  std::vector<Tensor> out;
  for (const bool descending : {false, true}) {
    out.push_back(result(shape, x.dtype(), awkward));
    out.push_back(result(shape, DType::int64, awkward));
    on.sort(x, axis, descending, out[out.size() - 2], out.back());
  }
  return out;
}

TEST_CASE("sorting is the reference's: stable, NaN last, signed zeros equal",
          "[cpu_integers_test]") {
  for (const DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (const Shape& shape : shapes()) {
      const Tensor x = numbers_of(shape, 7, dtype);
      for (int axis = 0; axis < shape.rank(); ++axis) {
        const std::string what =
            name_of(dtype) + (" " + shape.to_string()) + " along " + std::to_string(axis);
        same_bits(what, [&](Backend& on, bool awkward) {
          return both_orders(on, laid_out(x, awkward, 3), axis, shape, awkward);
        });
      }
    }
  }
}

TEST_CASE("what sorting keeps is the first of the order", "[cpu_integers_test]") {
  for (const DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (const int64_t kept : {0, 1, 5, 60, 140, 300, 2999, 3000}) {
      const Tensor x = numbers_of({3, 3000}, 7, dtype);
      for (const int axis : {0, 1}) {
        if (axis == 0 && kept > 3) continue;
        const Shape shape = axis == 0 ? Shape{kept, 3000} : Shape{3, kept};
        same_bits(name_of(dtype) + (" " + shape.to_string()), [&](Backend& on, bool awkward) {
          return both_orders(on, laid_out(x, awkward, 3), axis, shape, awkward);
        });
      }
    }
  }
}
