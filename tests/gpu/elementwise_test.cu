// Elementwise operations of the CUDA backend against the reference loops.
#include <functional>
#include <limits>

#include "flowgrad/kernels/names.h"
#include "kernels/special_values.h"
#include "strided_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kFloating{DType::float32, DType::float64};
const std::vector<DType> kNumeric{DType::int64, DType::float32, DType::float64};
const std::vector<DType> kAll{DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                              DType::float64};
constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
constexpr int64_t kHighest = std::numeric_limits<int64_t>::max();

/// What each line of the table saves: a derivative gets nothing else.
const std::vector<std::string> kUnarySaves{
#define UNARY(name, saves, zero, value, derivative) #saves,
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
};
const std::vector<std::string> kBinarySaves{
#define BINARY(name, saves, how, value, grad_a, grad_b) #saves,
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
};
constexpr int kCompareOps = static_cast<int>(CompareOp::greater_equal) + 1;
constexpr int kPredicateOps = static_cast<int>(PredicateOp::isnan) + 1;

bool saves(const std::string& what, char letter) { return what.find(letter) != std::string::npos; }

bool has_integer_form(UnaryOp op) {
  for (UnaryOp other :
       {UnaryOp::neg, UnaryOp::abs, UnaryOp::sign, UnaryOp::square, UnaryOp::clamp,
        UnaryOp::add_scalar, UnaryOp::mul_scalar, UnaryOp::rsub_scalar, UnaryOp::pow_scalar,
        UnaryOp::floor, UnaryOp::ceil, UnaryOp::round, UnaryOp::relu}) {
    if (op == other) return true;
  }
  return false;
}

bool has_integer_form(BinaryOp op) {
  return op <= BinaryOp::mul_zero || op == BinaryOp::maximum || op == BinaryOp::minimum ||
         op == BinaryOp::remainder;
}

using Run = std::function<void(Backend&, const std::vector<View>&)>;

/// Operands of `shape`, the output first: dtypes[0] is the output's. Contiguous, strided, starting
/// at odd places, and with every way of broadcasting the inputs along the first or the last axis.
void each_layout(const std::string& what, const Shape& shape, const std::vector<DType>& dtypes,
                 const Run& run, double low = -2, double high = 2) {
  const auto operand = [&](size_t i) { return values(shape, dtypes[i], i + 1, low, high); };
  const auto check = [&](const char* how, auto&& layout) {
    std::vector<Tensor> operands;
    for (size_t i = 0; i < dtypes.size(); ++i) operands.push_back(layout(operand(i), i));
    same_as_reference(what + ", " + how + " " + shape.to_string(), operands, 1, run);
  };
  check("contiguous", [](const Tensor& t, size_t) { return t; });
  if (numel(shape) > 1025) return;
  check("strided", [](const Tensor& t, size_t i) { return strided(t, 20 + i); });
  check("one input strided", [](const Tensor& t, size_t i) { return i == 1 ? strided(t, 5) : t; });
  check("unaligned",
        [](const Tensor& t, size_t i) { return shifted(t, 1 + static_cast<int64_t>(i)); });
  check("output unaligned", [](const Tensor& t, size_t i) { return shifted(t, i == 0 ? 1 : 0); });
  check("aligned views", [](const Tensor& t, size_t) { return shifted(t, 16); });
  if (shape.rank() == 0 || numel(shape) == 0) return;
  check("rows apart", [](const Tensor& t, size_t) { return with_gaps(t, 16); });
  check("unaligned rows",
        [](const Tensor& t, size_t i) { return with_gaps(t, static_cast<int64_t>(i) + 1); });
  for (size_t which = 1; which < dtypes.size(); ++which) {
    for (int axis : {0, shape.rank() - 1}) {
      check("broadcast", [&](const Tensor& t, size_t i) {
        if (i != which) return t;
        Layout l = t.layout();
        l.strides[axis] = 0;
        return t.with_layout(l);
      });
    }
  }
  check("one element for all inputs", [&](const Tensor& t, size_t i) {
    return i == 0 ? t : t.with_layout({shape, Dims::filled(shape.rank(), 0), 0});
  });
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (int64_t n : kSizes) all.push_back({n});
  for (const Shape& s : {Shape{}, Shape{6, 8}, Shape{5, 33}, Shape{33, 16}, Shape{4, 3, 16},
                         Shape{2, 0, 3}, Shape{2, 1, 2, 3, 1, 2, 2, 4}}) {
    all.push_back(s);
  }
  return all;
}

/// A few shapes, one for each path, for tests that run many operations.
std::vector<Shape> few_shapes() { return {{7}, {1025}, {5, 33}, {6, 8}}; }

/// Element by element: NaN and infinities agree, the rest to a few units of rounding.
void check_elements(const std::string& what, const std::vector<Tensor>& inputs, const Tensor& like,
                    const Run& run) {
  INFO(what);
  const Tensor host = Tensor::empty(like.shape(), like.dtype());
  std::vector<View> views{host};
  std::vector<std::unique_ptr<OnDevice>> device;
  device.push_back(std::make_unique<OnDevice>(like));
  std::vector<View> device_views{device[0]->view()};
  for (const Tensor& t : inputs) {
    views.push_back(t.defined() ? View(t) : View());
    device.push_back(t.defined() ? std::make_unique<OnDevice>(t) : nullptr);
    device_views.push_back(t.defined() ? device.back()->view() : View());
  }
  run(reference_backend(), views);
  run(cuda_backend(), device_views);
  const std::vector<double> got = device[0]->back().to_vector<double>();
  const std::vector<double> want = host.to_vector<double>();
  const double tolerance = like.dtype() == DType::float32 ? 2e-6 : 1e-14;
  for (size_t i = 0; i < want.size(); ++i) {
    if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
    INFO("element " << i << ": " << got[i] << ", expected " << want[i]);
    CHECK(std::abs(got[i] - want[i]) <= tolerance * (1 + std::abs(want[i])));
  }
}

const std::vector<double> kSpecial{kNan, kInf,  -kInf, 0.0,   -0.0, 1.0,   -1.0,  0.5,    1.5,
                                   2.5,  -2.5,  3.0,   -3.0,  1e-3, -1e-3, 1e-40, -1e-42, 1e-300,
                                   20.0, -20.0, 80.0,  -80.0, 1e10, -1e10, 1e30,  -1e30};

/// Every pair of special values.
std::pair<Tensor, Tensor> special_pairs(DType dtype) {
  std::vector<double> a;
  std::vector<double> b;
  for (double x : kSpecial) {
    for (double y : kSpecial) {
      a.push_back(x);
      b.push_back(y);
    }
  }
  const auto n = static_cast<int64_t>(a.size());
  return {Tensor::from(a, {n}, dtype), Tensor::from(b, {n}, dtype)};
}

Params params_of(UnaryOp op) {
  return op == UnaryOp::clamp || op == UnaryOp::hardtanh ? Params{-0.5, 0.75} : Params{2.5, 0.75};
}

}  // namespace

TEST_CASE("every unary operation at every size and layout", "[elementwise_test]") {
  for (size_t i = 0; i < kUnarySaves.size(); ++i) {
    const auto op = static_cast<UnaryOp>(i);
    for (DType dtype : kFloating) {
      for (const Shape& shape : i < 2 ? shapes() : few_shapes()) {
        each_layout(name_of(op), shape, {dtype, dtype},
                    [op](Backend& b, const std::vector<View>& v) {
                      b.unary(op, params_of(op), v[1], v[0]);
                    });
      }
    }
    for (const Shape& shape : few_shapes()) {
      if (!has_integer_form(op)) break;
      each_layout(
          name_of(op), shape, {DType::int64, DType::int64},
          [op](Backend& b, const std::vector<View>& v) {
            b.unary(op, {op == UnaryOp::pow_scalar ? 5.0 : -3.0, 4}, v[1], v[0]);
          },
          -9, 9);
    }
  }
}

TEST_CASE("every size in one vectorised and one scalar kernel", "[elementwise_test]") {
  for (DType dtype : kFloating) {
    for (int64_t n : kSizes) {
      for (BinaryOp op : {BinaryOp::add, BinaryOp::pow}) {
        each_layout(
            name_of(op), {n}, {dtype, dtype, dtype},
            [op](Backend& b, const std::vector<View>& v) { b.binary(op, v[1], v[2], v[0]); });
      }
    }
  }
}

TEST_CASE("every unary derivative", "[elementwise_test]") {
  for (size_t i = 0; i < kUnarySaves.size(); ++i) {
    const auto op = static_cast<UnaryOp>(i);
    const std::string& saved = kUnarySaves[i];
    for (DType dtype : kFloating) {
      for (const Shape& shape : i < 2 ? shapes() : few_shapes()) {
        each_layout(name_of(op), shape, {dtype, dtype, dtype, dtype},
                    [&](Backend& b, const std::vector<View>& v) {
                      b.unary_grad(op, params_of(op), v[1], saves(saved, 'X') ? v[2] : View(),
                                   saves(saved, 'Y') ? v[3] : View(), v[0]);
                    });
      }
    }
  }
}

TEST_CASE("every binary operation and its gradients", "[elementwise_test]") {
  for (size_t i = 0; i < kBinarySaves.size(); ++i) {
    const auto op = static_cast<BinaryOp>(i);
    const std::string saved = kBinarySaves[i] == "NONE" ? "" : kBinarySaves[i];
    for (DType dtype : kFloating) {
      for (const Shape& shape : i < 1 ? shapes() : few_shapes()) {
        each_layout(
            name_of(op), shape, {dtype, dtype, dtype},
            [&](Backend& b, const std::vector<View>& v) { b.binary(op, v[1], v[2], v[0]); });
        for (int wrt : {0, 1}) {
          each_layout(name_of(op), shape, {dtype, dtype, dtype, dtype, dtype},
                      [&](Backend& b, const std::vector<View>& v) {
                        b.binary_grad(op, wrt, v[1], saves(saved, 'A') ? v[2] : View(),
                                      saves(saved, 'B') ? v[3] : View(),
                                      saves(saved, 'Y') ? v[4] : View(), v[0]);
                      });
        }
      }
    }
    if (!has_integer_form(op)) continue;
    for (const Shape& shape : few_shapes()) {
      // A divisor of 0 is refused, so the values are positive here.
      each_layout(
          name_of(op), shape, {DType::int64, DType::int64, DType::int64},
          [&](Backend& b, const std::vector<View>& v) { b.binary(op, v[1], v[2], v[0]); }, 1, 90);
    }
  }
}

TEST_CASE("special values of unary operations and derivatives", "[elementwise_test]") {
  const auto n = static_cast<int64_t>(kSpecial.size());
  for (DType dtype : kFloating) {
    const Tensor x = Tensor::from(kSpecial, {n}, dtype);
    const Tensor out = values({n}, dtype, 1);
    for (size_t i = 0; i < kUnarySaves.size(); ++i) {
      const auto op = static_cast<UnaryOp>(i);
      for (const Params& params :
           {params_of(op), Params{0, kInf}, Params{2, 2}, Params{-kInf, 0}}) {
        const std::string what = std::string(name_of(op)) + " " + name_of(dtype) + " p " +
                                 std::to_string(params.p) + " q " + std::to_string(params.q);
        check_elements(what, {x}, out, [&](Backend& b, const std::vector<View>& v) {
          b.unary(op, params, v[1], v[0]);
        });
        const Tensor y = Tensor::empty({n}, dtype);
        reference_backend().unary(op, params, x, y);
        for (double g : {1.0, 0.0, -3.0, kInf}) {
          const Tensor gradient = Tensor::from(std::vector<double>(kSpecial.size(), g), {n}, dtype);
          check_elements(what + " derivative", {gradient, x, y}, out,
                         [&](Backend& b, const std::vector<View>& v) {
                           b.unary_grad(op, params, v[1],
                                        saves(kUnarySaves[i], 'X') ? v[2] : View(),
                                        saves(kUnarySaves[i], 'Y') ? v[3] : View(), v[0]);
                         });
        }
      }
    }
  }
}

TEST_CASE("special values of binary operations and gradients", "[elementwise_test]") {
  for (DType dtype : kFloating) {
    const auto [a, b] = special_pairs(dtype);
    const Tensor out = values(a.shape(), dtype, 1);
    for (size_t i = 0; i < kBinarySaves.size(); ++i) {
      const auto op = static_cast<BinaryOp>(i);
      const std::string what = std::string(name_of(op)) + " " + name_of(dtype);
      check_elements(what, {a, b}, out, [&](Backend& be, const std::vector<View>& v) {
        be.binary(op, v[1], v[2], v[0]);
      });
      const Tensor y = Tensor::empty(a.shape(), dtype);
      reference_backend().binary(op, a, b, y);
      for (double g : {1.0, 0.0, -3.0}) {
        const Tensor gradient =
            Tensor::from(std::vector<double>(static_cast<size_t>(a.numel()), g), a.shape(), dtype);
        for (int wrt : {0, 1}) {
          check_elements(what + " gradient", {gradient, a, b, y}, out,
                         [&](Backend& be, const std::vector<View>& v) {
                           be.binary_grad(op, wrt, v[1], v[2], v[3], v[4], v[0]);
                         });
        }
      }
    }
  }
}

TEST_CASE("integers wrap around, and remainder refuses zero", "[elementwise_test]") {
  std::vector<int64_t> a;
  std::vector<int64_t> b;
  for (int64_t x :
       {kLowest, kLowest + 1, int64_t{-7}, int64_t{-1}, int64_t{0}, int64_t{5}, kHighest}) {
    for (int64_t y : {kLowest, int64_t{-3}, int64_t{-1}, int64_t{1}, int64_t{3}, kHighest}) {
      a.push_back(x);
      b.push_back(y);
    }
  }
  const auto n = static_cast<int64_t>(a.size());
  const Tensor x = Tensor::from(a, {n});
  const Tensor y = Tensor::from(b, {n});
  const Tensor out = values({n}, DType::int64, 1);
  for (size_t i = 0; i < kBinarySaves.size(); ++i) {
    const auto op = static_cast<BinaryOp>(i);
    if (!has_integer_form(op)) continue;
    same_as_reference(name_of(op), {out, x, y}, 1, [&](Backend& be, const std::vector<View>& v) {
      be.binary(op, v[1], v[2], v[0]);
    });
  }
  for (size_t i = 0; i < kUnarySaves.size(); ++i) {
    const auto op = static_cast<UnaryOp>(i);
    if (!has_integer_form(op)) continue;
    same_as_reference(name_of(op), {out, x}, 1, [&](Backend& be, const std::vector<View>& v) {
      be.unary(op, {-3, 1e30}, v[1], v[0]);
    });
  }
  b[static_cast<size_t>(n) - 1] = 0;
  const Tensor with_zero = Tensor::from(b, {n});
  const OnDevice da(x);
  const OnDevice db(with_zero);
  const OnDevice dout(out);
  CHECK_THROWS_WITH(cuda_backend().binary(BinaryOp::remainder, da.view(), db.view(), dout.view()),
                    "remainder: b contains 0; an int64 divisor must not be 0");
}

TEST_CASE("comparisons, predicates, logic and where", "[elementwise_test]") {
  constexpr DType kBool = DType::boolean;
  for (const Shape& shape : shapes()) {
    for (DType dtype : {DType::boolean, DType::int64, DType::float32, DType::float64}) {
      for (int op = 0; op < kCompareOps; ++op) {
        if (op > 0 && numel(shape) > 300) continue;  // one kernel but for its comparison
        each_layout(name_of(static_cast<CompareOp>(op)), shape, {kBool, dtype, dtype},
                    [op](Backend& b, const std::vector<View>& v) {
                      b.compare(static_cast<CompareOp>(op), v[1], v[2], v[0]);
                    });
      }
    }
    for (DType dtype : kNumeric) {
      for (int op = 0; op < kPredicateOps; ++op) {
        each_layout(name_of(static_cast<PredicateOp>(op)), shape, {kBool, dtype},
                    [op](Backend& b, const std::vector<View>& v) {
                      b.predicate(static_cast<PredicateOp>(op), v[1], v[0]);
                    });
      }
    }
    for (LogicalOp op : {LogicalOp::logical_and, LogicalOp::logical_or, LogicalOp::logical_xor}) {
      each_layout(
          name_of(op), shape, {kBool, kBool, kBool},
          [op](Backend& b, const std::vector<View>& v) { b.logical(op, v[1], v[2], v[0]); }, 0,
          0.999);
    }
    for (DType dtype : kAll) {
      each_layout(std::string("where ") + name_of(dtype), shape, {dtype, kBool, dtype, dtype},
                  [](Backend& b, const std::vector<View>& v) { b.where(v[1], v[2], v[3], v[0]); });
    }
  }
  for (DType dtype : kFloating) {
    const auto [a, b] = special_pairs(dtype);
    const Tensor out = values(a.shape(), kBool, 1);
    for (int op = 0; op < kCompareOps; ++op) {
      same_as_reference("special values", {out, a, b}, 1,
                        [op](Backend& be, const std::vector<View>& v) {
                          be.compare(static_cast<CompareOp>(op), v[1], v[2], v[0]);
                        });
    }
    for (int op = 0; op < kPredicateOps; ++op) {
      same_as_reference("special values", {out, a}, 1,
                        [op](Backend& be, const std::vector<View>& v) {
                          be.predicate(static_cast<PredicateOp>(op), v[1], v[0]);
                        });
    }
  }
}

TEST_CASE("the output may be an input", "[elementwise_test]") {
  for (const Shape& shape : {Shape{1025}, Shape{5, 33}, Shape{6, 8}}) {
    for (bool awkward : {false, true}) {
      Tensor x = values(shape, DType::float32, 1);
      if (awkward) x = strided(x, 2);
      same_as_reference("in place", {x, values(shape, DType::float32, 3)}, 1,
                        [](Backend& b, const std::vector<View>& v) {
                          b.binary(BinaryOp::sub, v[0], v[1], v[0]);
                          b.unary(UnaryOp::exp, {}, v[0], v[0]);
                        });
    }
  }
}

TEST_CASE("large elementwise work is cut into launches", "[elementwise_test]") {
  for (int64_t limit : {5, 64, 100}) {
    const SmallLaunches small(limit);
    for (const Shape& shape : {Shape{1000}, Shape{40, 16}, Shape{9, 33}, Shape{3, 5, 7}}) {
      each_layout("cut", shape, {DType::float32, DType::float32, DType::float32},
                  [](Backend& b, const std::vector<View>& v) {
                    b.binary(BinaryOp::logaddexp, v[1], v[2], v[0]);
                  });
    }
  }
}

TEST_CASE("dtypes without a kernel are refused by name", "[elementwise_test]") {
  const OnDevice half(values({2}, DType::bfloat16, 1));
  const OnDevice whole(values({2}, DType::int64, 1));
  const OnDevice real(values({2}, DType::float64, 1));
  Backend& b = cuda_backend();
  CHECK_THROWS_WITH(b.unary(UnaryOp::tanh, {}, half.view(), half.view()),
                    "tanh: dtype bfloat16 given; float32 and float64 are accepted");
  CHECK_THROWS_WITH(b.unary(UnaryOp::tanh, {}, whole.view(), whole.view()),
                    "tanh: dtype int64 given; float32 and float64 are accepted");
  CHECK_THROWS_WITH(b.binary(BinaryOp::add, real.view(), half.view(), half.view()),
                    "add: b is bfloat16; float64 is accepted");
  CHECK_THROWS_AS(b.unary(UnaryOp::add_scalar, {0.5}, whole.view(), whole.view()), ValueError);
  CHECK_THROWS_AS(b.binary(BinaryOp::div, whole.view(), whole.view(), whole.view()), DTypeError);
  CHECK_THROWS_AS(b.compare(CompareOp::less, real.view(), real.view(), real.view()), DTypeError);
  CHECK_THROWS_AS(b.where(real.view(), real.view(), real.view(), real.view()), DTypeError);
}

TEST_CASE("multiply_add: the CPU's bits", "[elementwise_test]") {
  for (DType dtype : kFloating) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{1025}, Shape{3, 4, 5}}) {
      for (bool awkward : {false, true}) {
        std::vector<Tensor> operands;
        for (int i = 0; i < 3; ++i) {
          const Tensor x = values(shape, dtype, i + 1);
          operands.push_back(awkward ? strided(x, i + 2) : x);
        }
        same_as_reference("multiply_add", operands, 1, [](Backend& b, const std::vector<View>& v) {
          b.multiply_add(v[1], v[2], v[0]);
        });
      }
    }
  }
  const Tensor x = values({2}, DType::float32, 1), ints = values({2}, DType::int64, 1);
  CHECK_THROWS_AS(cuda_backend().multiply_add(x, ints, x), DTypeError);
  CHECK_THROWS_AS(cuda_backend().multiply_add(ints, ints, ints), DTypeError);
}
