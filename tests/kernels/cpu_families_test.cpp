#include <cmath>
#include <functional>
#include <limits>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/names.h"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

// Reductions, softmax, matrix products, indexing and optimiser steps of the fast backend.

namespace {

double tolerance_of_sums(DType dtype) { return dtype == DType::float32 ? 2e-6 : 1e-13; }

Tensor zeros(const Shape& shape, DType dtype) {
  return Tensor::from(std::vector<double>(static_cast<size_t>(numel(shape)), 0), shape, dtype);
}

Shape reduced(Shape shape, int axes) {
  for (int d = 0; d < shape.rank(); ++d)
    if ((axes >> d) & 1) shape[d] = 1;
  return shape;
}

/// Small whole numbers as int64.
}  // namespace

TEST_CASE("reductions over every set of axes agree with the reference", "[cpu_families_test]") {
  const std::vector<Shape> shapes{{},           {1},        {9},          {3, 0, 2},  {5, 3},
                                  {128, 2},     {3, 50, 7}, {2, 3, 4, 5}, {20, 1000}, {1000, 20},
                                  {4, 300, 33}, {70000},    {2, 40000},   {40000, 3}};
  each_instruction_set([&] {
    for (DType dtype : {DType::float32, DType::float64}) {
      for (const Shape& shape : shapes) {
        for (int axes = 0; axes < (1 << shape.rank()); ++axes) {
          const Shape to = reduced(shape, axes);
          for (ReduceOp op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::sum_squares, ReduceOp::min,
                              ReduceOp::max}) {
            if (numel(shape) == 0 && (op == ReduceOp::min || op == ReduceOp::max)) continue;
            for (bool awkward : {false, true}) {
              CAPTURE(name_of(op), dtype, shape.to_string(), axes, awkward);
              const bool product = op == ReduceOp::prod;
              Tensor x = values(shape, dtype, 1, product ? 0.99 : -1, product ? 1.01 : 1);
              if (awkward) x = strided(x, 5);
              const Tensor a = Tensor::empty(to, dtype), b = Tensor::empty(to, dtype);
              fast_cpu_backend().reduce(op, x, a);
              reference_backend().reduce(op, x, b);
              CHECK(relative_error(a, b) <= tolerance_of_sums(dtype));
            }
          }
        }
      }
    }
    for (double value : {0.0, 1.0}) {
      Tensor x = Tensor::from(std::vector<double>(1000, value), {10, 100}, DType::boolean);
      x.data<bool>()[777] = !x.data<bool>()[777];
      for (int axes : {0, 1, 2, 3}) {
        for (ReduceOp op : {ReduceOp::any, ReduceOp::all}) {
          const Shape to = reduced(x.shape(), axes);
          const Tensor a = Tensor::empty(to, DType::boolean), b = Tensor::empty(to, DType::boolean);
          fast_cpu_backend().reduce(op, x, a);
          reference_backend().reduce(op, x, b);
          CHECK((bytes_of(a) == bytes_of(b)));
        }
      }
    }
  });
}

TEST_CASE("ten million floats add up to 1e-7", "[cpu_families_test]") {
  constexpr int64_t n = 10'000'000;
  const Tensor x = Tensor::empty({n});
  double exact = 0;
  for (int64_t i = 0; i < n; ++i) {
    x.data<float>()[i] = uniform24(static_cast<uint32_t>(i) * 2654435761u);
    exact += static_cast<double>(x.data<float>()[i]);
  }
  each_instruction_set([&] {
    const Tensor sum = Tensor::empty({1});
    fast_cpu_backend().reduce(ReduceOp::sum, x, sum);
    CHECK(std::abs(sum.item() - exact) <= 1e-7 * exact);
  });
}

TEST_CASE("softmax and its gradient agree with the reference", "[cpu_families_test]") {
  each_instruction_set([] {
    for (DType dtype : {DType::float32, DType::float64}) {
      for (const Shape& shape :
           {Shape{1}, Shape{5}, Shape{3, 10}, Shape{200, 17}, Shape{2, 3, 64}, Shape{4, 5000},
            Shape{0, 4}, Shape{0, 20}, Shape{9, 600}, Shape{70, 33}}) {
        for (int axis = 0; axis < shape.rank(); ++axis) {
          for (bool logarithm : {false, true}) {
            CAPTURE(dtype, shape.to_string(), axis, logarithm);
            const Tensor x = values(shape, dtype, 2, -90, 90), g = values(shape, dtype, 3);
            const Tensor a = Tensor::empty(shape, dtype), b = Tensor::empty(shape, dtype);
            fast_cpu_backend().softmax(logarithm, x, axis, a);
            reference_backend().softmax(logarithm, x, axis, b);
            CHECK(relative_error(a, b) <= tolerance_of_sums(dtype));
            const Tensor c = Tensor::empty(shape, dtype), d = Tensor::empty(shape, dtype);
            fast_cpu_backend().softmax_grad(logarithm, g, b, axis, c);
            reference_backend().softmax_grad(logarithm, g, b, axis, d);
            CHECK(relative_error(c, d) <= 4 * tolerance_of_sums(dtype));
          }
        }
      }
    }
  });
}

TEST_CASE("softmax down columns: infinities, NaN, and bits at any number of threads",
          "[cpu_families_test]") {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const Shape shape{11, 600};
  each_instruction_set([&] {
    for (const bool logarithm : {false, true}) {
      const Tensor x = values(shape, DType::float32, 2), g = values(shape, DType::float32, 3);
      x.data<float>()[600 * 5 + 7] = std::numeric_limits<float>::quiet_NaN();
      x.data<float>()[600 * 10 + 20] = static_cast<float>(inf);
      for (int i = 0; i < 11; ++i) x.data<float>()[600 * i + 599] = static_cast<float>(-inf);
      x.data<float>()[3] = static_cast<float>(-inf);
      const auto run = [&](Backend& on, int threads) {
        set_num_threads(threads);
        const Tensor y = nothing(shape, DType::float32), d = nothing(shape, DType::float32);
        on.softmax(logarithm, x, 0, y);
        on.softmax_grad(logarithm, g, y, 0, d);
        return std::vector<Tensor>{y, d};
      };
      const std::vector<Tensor> want = run(reference_backend(), 1),
                                one = run(fast_cpu_backend(), 1),
                                three = run(fast_cpu_backend(), 3);
      for (size_t k = 0; k < 2; ++k) {
        CHECK((bytes_of(one[k]) == bytes_of(three[k])));
        const std::vector<double> a = one[k].to_vector<double>(), b = want[k].to_vector<double>();
        size_t differ = 0;
        for (size_t i = 0; i < a.size(); ++i)
          differ += !(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ||
                      std::abs(a[i] - b[i]) <= 1e-5 * (1 + std::abs(b[i])));
        CHECK(differ == 0);
      }
    }
  });
}

TEST_CASE("batched products agree with the reference", "[cpu_families_test]") {
  struct Case {
    Shape a, b, out;
  };
  const std::vector<Case> cases{
      {{3, 4}, {4, 5}, {3, 5}},
      {{6, 3, 4}, {6, 4, 5}, {6, 3, 5}},
      {{6, 30, 40}, {1, 40, 50}, {6, 30, 50}},  // one b for all
      {{1, 30, 40}, {6, 40, 50}, {6, 30, 50}},  // one a for all
      {{2, 1, 7, 9}, {1, 3, 9, 2}, {2, 3, 7, 2}},
      {{2, 1, 7, 9}, {2, 3, 9, 2}, {2, 3, 7, 2}},  // b moves along both batch axes
      {{2, 3, 7, 9}, {1, 3, 9, 20}, {2, 3, 7, 20}},
      {{500, 4, 4}, {500, 4, 4}, {500, 4, 4}},
      {{0, 4, 4}, {0, 4, 4}, {0, 4, 4}},
      {{2, 4, 0}, {2, 0, 3}, {2, 4, 3}},
  };
  each_instruction_set([&] {
    for (DType dtype : {DType::float32, DType::float64}) {
      for (const Case& c : cases) {
        for (int flags = 0; flags < 8; ++flags) {
          Tensor a = values(c.a, dtype, 4), b = values(c.b, dtype, 5);
          if (flags & 1) a = strided(a, 6), b = strided(b, 7);
          const auto spread = [&](const Tensor& t) {
            Shape shape = c.out;
            const int last = shape.rank() - 1;
            shape[last] = t.shape()[last];
            shape[last - 1] = t.shape()[last - 1];
            return t.with_layout(expanded("test", t.layout(), shape));
          };
          const Tensor bias = (flags & 2) ? values({c.out.back()}, dtype, 8) : Tensor();
          const bool accumulate = (flags & 4) != 0;
          const Tensor x = values(c.out, dtype, 9), y = values(c.out, dtype, 9);
          CAPTURE(dtype, c.a.to_string(), c.b.to_string(), flags);
          fast_cpu_backend().matmul(spread(a), spread(b), bias, accumulate, x);
          reference_backend().matmul(spread(a), spread(b), bias, accumulate, y);
          CHECK(relative_error(x, y) <= 4 * tolerance_of_sums(dtype));
        }
      }
    }
  });
}

TEST_CASE("row selection and addition agree with the reference", "[cpu_families_test]") {
  each_instruction_set([] {
    for (DType dtype : {DType::float32, DType::float64, DType::int64}) {
      for (const Shape& shape : {Shape{9}, Shape{50, 3}, Shape{4, 20, 5}, Shape{3, 300, 130}}) {
        for (int axis = 0; axis < shape.rank(); ++axis) {
          CAPTURE(name_of(dtype), shape.to_string(), axis);
          const Tensor index = indices_below({40}, shape[axis], 10);
          Shape to = shape;
          to[axis] = 40;
          const Tensor x = values(shape, dtype, 11, -9, 9);
          const Tensor a = Tensor::empty(to, dtype), b = Tensor::empty(to, dtype);
          fast_cpu_backend().index_select(x, axis, index, a);
          reference_backend().index_select(x, axis, index, b);
          CHECK((bytes_of(a) == bytes_of(b)));
          const Tensor c = zeros(shape, dtype), d = zeros(shape, dtype);
          fast_cpu_backend().index_add(index, axis, a, c);
          reference_backend().index_add(index, axis, a, d);
          CHECK((bytes_of(c) == bytes_of(d)));
        }
      }
    }
  });
}

TEST_CASE("gather and scatter_add agree with the reference", "[cpu_families_test]") {
  CpuSettings restore;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    for (DType dtype :
         {DType::float32, DType::float64, DType::int64, DType::boolean, DType::bfloat16}) {
      for (const Shape& shape : {Shape{9}, Shape{50, 3}, Shape{4, 20, 5}, Shape{3, 300, 130},
                                 Shape{700, 90, 1}, Shape{2, 0, 3}}) {
        for (int axis = 0; axis < shape.rank(); ++axis) {
          if (shape[axis] == 0) continue;
          CAPTURE(threads, name_of(dtype), shape.to_string(), axis);
          Shape to = shape;
          to[axis] = 7;
          const Tensor index = indices_below(to, shape[axis], 10);
          const Tensor x = values(shape, dtype, 11, -9, 9);
          const Tensor a = Tensor::empty(to, dtype), b = Tensor::empty(to, dtype);
          fast_cpu_backend().gather(x, axis, index, a);
          reference_backend().gather(x, axis, index, b);
          CHECK((bytes_of(a) == bytes_of(b)));
          if (dtype == DType::boolean || dtype == DType::bfloat16) continue;
          const Tensor c = values(shape, dtype, 12, -9, 9), d = values(shape, dtype, 12, -9, 9);
          fast_cpu_backend().scatter_add(index, axis, a, c);
          reference_backend().scatter_add(index, axis, a, d);
          CHECK((bytes_of(c) == bytes_of(d)));
          fast_cpu_backend().gather(strided(x, 1), axis, strided(index, 2), a);
          CHECK((bytes_of(a) == bytes_of(b)));
          fast_cpu_backend().scatter_add(strided(index, 3), axis, strided(a, 4), c);
          reference_backend().scatter_add(index, axis, a, d);
          CHECK((bytes_of(c) == bytes_of(d)));
        }
      }
    }
  }
}

namespace {

/// Parameters of many sizes, with gradients and moments.
struct Model {
  std::vector<Tensor> tensors;
  std::vector<OptimizerSlot> slots;
  explicit Model(DType dtype) {
    uint64_t seed = 20;
    for (int64_t n : {1, 3, 17, 256, 0, 5000, 40000, 2, 70001}) {
      const Tensor p = values({n}, dtype, seed++), g = values({n}, dtype, seed++),
                   m = values({n}, dtype, seed++), v = values({n}, dtype, seed++, 0, 1);
      for (const Tensor& t : {p, g, m, v}) tensors.push_back(t);
      slots.push_back({p, g, m, v});
    }
  }
  double distance(const Model& other) const {
    double worst = 0;
    for (size_t i = 0; i < tensors.size(); ++i)
      worst = std::max(worst, relative_error(tensors[i], other.tensors[i]));
    return worst;
  }
};

}  // namespace

TEST_CASE("optimiser steps agree with the reference", "[cpu_families_test]") {
  each_instruction_set([] {
    for (DType dtype : {DType::float32, DType::float64}) {
      for (bool decoupled : {false, true}) {
        Model a(dtype), b(dtype);
        const AdamParams p{0.01, 0.9, 0.999, 1e-8, 0.1, 1 - 0.9, 1 - 0.999, decoupled, 0.7};
        fast_cpu_backend().adam_step(a.slots, p);
        reference_backend().adam_step(b.slots, p);
        CHECK(a.distance(b) <= tolerance_of_sums(dtype));
      }
      for (int flags = 0; flags < 8; ++flags) {
        Model a(dtype), b(dtype);
        SgdParams p{0.01, (flags & 1) ? 0.9 : 0.0, (flags & 2) ? 0.0 : 0.1,
                    0.05, (flags & 2) != 0,        (flags & 4) != 0};
        p.gradient_factor = 0.7;
        fast_cpu_backend().sgd_step(a.slots, p);
        reference_backend().sgd_step(b.slots, p);
        CHECK(a.distance(b) <= tolerance_of_sums(dtype));
      }
      const Model m(dtype);
      const std::vector<View> views(m.tensors.begin(), m.tensors.end());
      const double exact = reference_backend().sum_of_squares(views);
      CHECK(std::abs(fast_cpu_backend().sum_of_squares(views) - exact) <= 1e-12 * exact);
    }
  });
}

TEST_CASE("every family gives the same bits at any number of threads", "[cpu_families_test]") {
  CpuSettings restore;
  Backend& be = fast_cpu_backend();
  const DType f32 = DType::float32;
  const Tensor x = values({700, 130}, f32, 30), y = values({700, 130}, f32, 31),
               turned = strided(x, 32), row = values({1, 130}, f32, 33),
               index = indices_below({900}, 700, 34),
               long_row = values({3, 60000}, DType::float64, 35),
               tall = values({9000, 30}, DType::float64, 36);
  const std::vector<std::function<std::string()>> runs{
      [&] {
        const Tensor out = Tensor::empty(x.shape());
        be.unary(UnaryOp::tanh, {}, x, out);
        return bytes_of(out);
      },
      [&] {
        const Tensor out = Tensor::empty(x.shape());
        const Tensor wide = row.with_layout(expanded("test", row.layout(), x.shape()));
        be.binary(BinaryOp::mul, turned, wide, out);
        return bytes_of(out);
      },
      [&] {
        std::string all;
        for (const Shape& to : {Shape{700, 1}, Shape{1, 130}, Shape{1, 1}}) {
          const Tensor out = Tensor::empty(to);
          be.reduce(ReduceOp::sum, x, out);
          all += bytes_of(out);
          be.reduce(ReduceOp::sum, turned, out);
          all += bytes_of(out);
        }
        // In double, where no rounding at the end hides another order.
        const Tensor a = Tensor::empty({3, 1}, DType::float64),
                     b = Tensor::empty({1, 30}, DType::float64),
                     c = Tensor::empty({1, 1}, DType::float64);
        be.reduce(ReduceOp::sum, long_row, a);
        be.reduce(ReduceOp::sum, tall, b);
        be.reduce(ReduceOp::sum, tall, c);
        return all + bytes_of(a) + bytes_of(b) + bytes_of(c);
      },
      [&] {
        const Tensor out = Tensor::empty(x.shape());
        be.softmax(true, x, 1, out);
        return bytes_of(out);
      },
      [&] {
        const Tensor out = Tensor::empty({700, 700});
        be.matmul(x, y.with_layout(transposed("test", y.layout(), 0, 1)), {}, false, out);
        return bytes_of(out);
      },
      [&] {
        const Tensor out = zeros({700, 130}, f32), rows = Tensor::empty({900, 130});
        be.index_select(x, 0, index, rows);
        be.index_add(index, 0, rows, out);
        return bytes_of(out);
      },
      [&] {
        Model m(f32);
        be.adam_step(m.slots, {0.01, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, true});
        const std::vector<View> views(m.tensors.begin(), m.tensors.end());
        const double norm = be.sum_of_squares(views);
        return bytes_of(m.tensors.back()) + std::string(reinterpret_cast<const char*>(&norm), 8);
      },
  };
  for (size_t i = 0; i < runs.size(); ++i) {
    set_num_threads(1);
    const std::string one = runs[i]();
    for (int threads : {2, 3, 4, 7}) {
      set_num_threads(threads);
      CAPTURE(i, threads);
      CHECK((runs[i]() == one));
    }
  }
}
