#include <cmath>

#include "catch.hpp"
#include "kernels/reference_support.h"
#include "kernels/special_values.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kAll{DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                              DType::float64};
const std::vector<DType> kNumeric{DType::int64, DType::float32, DType::float64};

/// Whole numbers, exact in every dtype.
Tensor whole(const Shape& shape, DType dtype, uint64_t seed) {
  Dice dice(seed);
  I v(static_cast<size_t>(numel(shape)));
  for (int64_t& i : v) i = dice.roll(-9, 9);
  return Tensor::from(v, shape, dtype);
}

/// Calls f(index) for every index of a shape.
template <class F>
void each_index(const Shape& shape, F&& f) {
  for (int64_t i = 0; i < numel(shape); ++i) {
    Dims index = Dims::filled(shape.rank(), 0);
    int64_t rest = i;
    for (int d = shape.rank() - 1; d >= 0; --d) {
      index[d] = rest % shape[d];
      rest /= shape[d];
    }
    f(index);
  }
}

}  // namespace

TEST_CASE("gather picks along any axis, in every dtype", "[reference_index_test]") {
  const Shape shape{3, 4, 2};
  for (DType dtype : kAll) {
    for (int axis = 0; axis < 3; ++axis) {
      Shape picked = shape;
      picked[axis] = 5;
      const Tensor x = whole(shape, dtype, 1);
      const Tensor index = indices_below(picked, shape[axis], 2);
      const Tensor out = strided(whole(picked, dtype, 3), 4);
      be.gather(strided(x, 5), axis, strided(index, 6), out);
      each_index(picked, [&](Dims at) {
        Dims source = at;
        source[axis] = static_cast<int64_t>(index.at(at));
        CHECK(out.at(at) == x.at(source));
      });
    }
  }
  // The other axes of x may be longer than those of index.
  const Tensor out = Tensor::empty({1, 2}, DType::int64);
  be.gather(Tensor::from(I{1, 2, 3, 4}, {2, 2}), 0, Tensor::from(I{1, 0}, {1, 2}), out);
  CHECK(out.to_vector<int64_t>() == I{3, 2});
  be.gather(Tensor::empty({0, 2}), 0, Tensor::empty({0, 2}, DType::int64), Tensor::empty({0, 2}));
}

TEST_CASE("scatter_add and scatter_max meet repeated indices", "[reference_index_test]") {
  for (DType dtype : kNumeric) {
    for (int axis = 0; axis < 2; ++axis) {
      const Shape shape{3, 4};
      Shape given = shape;
      given[axis] = 7;
      const Tensor source = whole(given, dtype, 1);
      const Tensor index = indices_below(given, shape[axis], 2);
      const Tensor start = whole(shape, dtype, 3);
      for (bool add : {true, false}) {
        const Tensor out = strided(start, 4);
        V expected = start.to_vector<double>();
        each_index(given, [&](Dims at) {
          Dims target = at;
          target[axis] = static_cast<int64_t>(index.at(at));
          double& e = expected[static_cast<size_t>(target[0] * shape[1] + target[1])];
          e = add ? e + source.at(at) : std::fmax(e, source.at(at));
        });
        if (add) {
          be.scatter_add(strided(index, 5), axis, strided(source, 6), out);
        } else {
          be.scatter_max(strided(index, 5), axis, strided(source, 6), out);
        }
        CHECK(out.to_vector<double>() == expected);
      }
    }
  }
  const Tensor out = Tensor::from(V{1, 2}, {2});
  be.scatter_max(Tensor::from(I{0, 0, 1}, {3}), 0, Tensor::from(V{kNan, 5, 0}, {3}), out);
  CHECK(std::isnan(out.at({0})));
  CHECK(out.at({1}) == 2);
  const Tensor flags = Tensor::empty({2}, DType::boolean);
  CHECK_THROWS_AS(be.scatter_add(Tensor::from(I{0, 0}, {2}), 0, flags, flags), DTypeError);
  CHECK_THROWS_AS(be.gather(out, 0, out, out), DTypeError);
}

TEST_CASE("index_select and index_add", "[reference_index_test]") {
  const Shape shape{3, 4, 2};
  for (int axis = 0; axis < 3; ++axis) {
    const Tensor index = indices_below({6}, shape[axis], 8);
    Shape picked = shape;
    picked[axis] = 6;
    for (DType dtype : kAll) {
      const Tensor x = whole(shape, dtype, 1);
      const Tensor out = strided(whole(picked, dtype, 2), 3);
      be.index_select(strided(x, 4), axis, strided(index, 5), out);
      each_index(picked, [&](Dims at) {
        Dims source = at;
        source[axis] = static_cast<int64_t>(index.at({at[axis]}));
        CHECK(out.at(at) == x.at(source));
      });
    }
    for (DType dtype : kNumeric) {
      const Tensor source = whole(picked, dtype, 6);
      const Tensor target = strided(whole(shape, dtype, 7), 2);
      V expected = target.to_vector<double>();
      each_index(picked, [&](Dims at) {
        Dims to = at;
        to[axis] = static_cast<int64_t>(index.at({at[axis]}));
        expected[static_cast<size_t>((to[0] * 4 + to[1]) * 2 + to[2])] += source.at(at);
      });
      be.index_add(strided(index, 1), axis, strided(source, 9), target);
      CHECK(target.to_vector<double>() == expected);
    }
  }
  const Tensor scalar = Tensor::from(V{3}, {});
  const Tensor out = Tensor::from(V{0}, {});
  be.index_select(scalar, 0, Tensor::from(I{0}, {1}), out);
  CHECK(out.item() == 3);
}

TEST_CASE("sort is stable and puts NaN last or first", "[reference_index_test]") {
  const Tensor x = Tensor::from(V{2, kNan, 1, 2, -kInf, 1, kNan, kInf}, {8});
  const Tensor sorted = strided(Tensor::from(V(8), {8}), 1);
  const Tensor at = strided(Tensor::from(I(8), {8}), 2);
  be.sort(strided(x, 3), 0, false, sorted, at);
  CHECK(at.to_vector<int64_t>() == I{4, 2, 5, 0, 3, 7, 1, 6});
  CHECK(sorted.at({0}) == -kInf);
  CHECK(sorted.at({5}) == kInf);
  CHECK(std::isnan(sorted.at({6})));
  be.sort(x, 0, true, sorted, at);
  CHECK(at.to_vector<int64_t>() == I{1, 6, 7, 0, 3, 2, 5, 4});

  const Tensor m = Tensor::from(I{3, 1, 2, 6, 5, 4}, {2, 3});
  const Tensor values_out = Tensor::from(I(6), {2, 3});
  const Tensor index_out = Tensor::from(I(6), {2, 3});
  be.sort(strided(m, 5), 1, false, values_out, index_out);
  CHECK(values_out.to_vector<int64_t>() == I{1, 2, 3, 4, 5, 6});
  CHECK(index_out.to_vector<int64_t>() == I{1, 2, 0, 2, 1, 0});
  be.sort(m, 0, true, values_out, index_out);
  CHECK(values_out.to_vector<int64_t>() == I{6, 5, 4, 3, 1, 2});
  be.sort(Tensor::empty({0, 3}), 0, false, Tensor::empty({0, 3}),
          Tensor::empty({0, 3}, DType::int64));
}
