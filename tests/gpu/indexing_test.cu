// The CUDA indexing kernels against the reference loops. Sums run in the reference's order, so
// they are compared bit for bit.
#include <array>
#include <cmath>

#include "backend_support.cuh"
#include "kernels/special_values.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kAll{DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                              DType::float64};
const std::vector<DType> kNumeric{DType::int64, DType::float32, DType::float64};

Tensor indices(const Shape& shape, int64_t size, uint64_t seed) {
  Dice dice(seed);
  std::vector<int64_t> v(static_cast<size_t>(numel(shape)));
  for (int64_t& i : v) i = dice.roll(0, size - 1);
  return Tensor::from(v, shape);
}

Tensor expanded_to(const Tensor& t, const Shape& shape) {
  return Tensor::over(t.storage_ref(), expanded("test", t.layout(), shape), t.dtype());
}

enum class Op { gather, index_select, scatter_add, scatter_max, index_add };

void call(Op op, Backend& b, const View& out, const View& index, const View& x, int axis) {
  switch (op) {
    case Op::gather: return b.gather(x, axis, index, out);
    case Op::index_select: return b.index_select(x, axis, index, out);
    case Op::scatter_add: return b.scatter_add(index, axis, x, out);
    case Op::scatter_max: return b.scatter_max(index, axis, x, out);
    case Op::index_add: return b.index_add(index, axis, x, out);
  }
}

/// The harness's comparison, and then equality of every bit.
void check(Op op, const Tensor& out, const Tensor& index, const Tensor& x, int axis) {
  const std::string what = "operation " + std::to_string(static_cast<int>(op)) + " " +
                           name_of(x.dtype()) + " " + x.shape().to_string() + " to " +
                           out.shape().to_string() + " axis " + std::to_string(axis);
  same_as_reference(what, {out, index, x}, 1, [&](Backend& b, const std::vector<View>& v) {
    call(op, b, v[0], v[1], v[2], axis);
  });
  INFO(what);
  const OnDevice device_out(out);
  const OnDevice device_index(index);
  const OnDevice device_x(x);
  call(op, cuda_backend(), device_out.view(), device_index.view(), device_x.view(), axis);
  const Tensor got = device_out.back();
  const auto& storage = out.storage();  // the reference may overwrite it now
  call(op, reference_backend(), out, index, x, axis);
  CHECK(std::memcmp(got.storage().data(), storage.data(), storage.bytes()) == 0);
}

}  // namespace

TEST_CASE("gather and index_select: every dtype, axis and layout", "[indexing_test]") {
  const Shape shape{3, 4, 6};
  for (DType dtype : kAll) {
    for (int axis = 0; axis < 3; ++axis) {
      const Tensor x = values(shape, dtype, 1);
      Shape picked = shape;
      picked[axis] = 8;
      const Tensor at = indices(picked, shape[axis], 2);
      const Tensor row = indices({8}, shape[axis], 3);
      check(Op::gather, values(picked, dtype, 4), at, x, axis);
      check(Op::gather, strided(values(picked, dtype, 4), 5), strided(at, 6), strided(x, 7), axis);
      check(Op::index_select, values(picked, dtype, 4), row, x, axis);
      check(Op::index_select, strided(values(picked, dtype, 4), 8), strided(row, 9), strided(x, 3),
            axis);
    }
  }
}

TEST_CASE("gather and index_select: a million elements, several a thread", "[indexing_test]") {
  const Shape shape{(1 << 10) + 1, (1 << 10) + 1};  // the last block's share is not whole
  const Tensor x = values({shape[0], 7}, DType::float32, 1);
  check(Op::gather, values(shape, DType::float32, 2), indices(shape, 7, 3), x, 1);
  const Tensor rows = expanded_to(values({5, 1}, DType::float32, 4), {5, (1 << 10) + 1});
  check(Op::index_select, values(shape, DType::float32, 5), indices({shape[0]}, 5, 6), rows, 0);
}

TEST_CASE("gather and index_select: rows of every width", "[indexing_test]") {
  for (DType dtype : kAll) {
    for (int64_t width : {1, 2, 3, 4, 6, 8, 16, 17, 32}) {
      check(Op::index_select, values({40, width}, dtype, 1), indices({40}, 9, 2),
            values({9, width}, dtype, 3), 0);
    }
  }
  // Rows cut out of wider ones: the row is a multiple of what the step between rows is not.
  const Tensor wide = values({9, 10}, DType::float32, 1);
  const Tensor cut =
      Tensor::over(wide.storage_ref(), {Shape{9, 8}, Strides{10, 1}, 0}, DType::float32);
  check(Op::index_select, values({40, 8}, DType::float32, 2), indices({40}, 9, 3), cut, 0);
  // An offset that breaks the alignment of wide accesses.
  const Tensor x = values({9, 8}, DType::float32, 1);
  const Tensor shifted =
      Tensor::over(x.storage_ref(), {Shape{8, 8}, Strides{8, 1}, 1}, DType::float32);
  check(Op::index_select, values({700, 8}, DType::float32, 2), indices({700}, 8, 3), shifted, 0);
  // The same of the output, and of the steps along other axes.
  const Tensor roomy = values({40 * 16}, DType::float32, 2);
  for (const Layout& l : {Layout{Shape{40, 8}, Strides{8, 1}, 1}, Layout{{40, 8}, {10, 1}, 0},
                          Layout{{40, 8}, {9, 1}, 0}, Layout{{40, 8}, {16, 2}, 0}}) {
    check(Op::index_select, roomy.with_layout(l), indices({40}, 9, 3), x, 0);
  }
  const Tensor blocks = values({3, 9 * 8 + 1}, DType::float32, 1);
  check(Op::index_select, values({3, 5, 8}, DType::float32, 2), indices({5}, 9, 3),
        blocks.with_layout({{3, 9, 8}, {9 * 8 + 1, 8, 1}, 0}), 1);
  check(Op::gather, values({30, 8}, DType::float32, 2),
        expanded_to(indices({30, 1}, 9, 4), {30, 8}), x, 0);
  check(Op::gather, values({5, 8}, DType::float32, 2), indices({5, 8}, 3, 4),
        expanded_to(values({1, 8}, DType::float32, 5), {3, 8}), 0);
}

TEST_CASE("scatters: short lanes in every dtype, axis and layout", "[indexing_test]") {
  const Shape shape{3, 4, 5};
  for (DType dtype : kNumeric) {
    for (int axis = 0; axis < 3; ++axis) {
      Shape given = shape;
      given[axis] = 7;
      const Tensor source = values(given, dtype, 1, -9, 9);
      const Tensor start = values(shape, dtype, 2, -9, 9);
      const Tensor at = indices(given, shape[axis], 3);
      const Tensor row = indices({7}, shape[axis], 4);
      for (Op op : {Op::scatter_add, Op::scatter_max}) {
        check(op, start.shape() == shape ? strided(start, 9) : start, at, source, axis);
        check(op, strided(start, 5), strided(at, 6), strided(source, 7), axis);
      }
      check(Op::index_add, strided(start, 9), row, source, axis);
      check(Op::index_add, strided(start, 5), strided(row, 6), strided(source, 8), axis);
    }
  }
}

TEST_CASE("scatters: long lanes go by way of a sort", "[indexing_test]") {
  for (DType dtype : kNumeric) {
    for (int axis = 0; axis < 2; ++axis) {
      Shape given{3, 3};
      given[axis] = 300;
      Shape shape{4, 4};  // longer than the source beside the axis
      const Tensor source = values(given, dtype, 1, -9, 9);
      const Tensor start = values(shape, dtype, 2, -9, 9);
      for (Op op : {Op::scatter_add, Op::scatter_max}) {
        check(op, strided(start, 3), strided(indices(given, 4, 4), 5), strided(source, 6), axis);
      }
      Shape same = shape;
      same[axis] = 300;
      check(Op::index_add, strided(start, 7), strided(indices({300}, 4, 4), 8),
            strided(values(same, dtype, 3), 9), axis);
    }
  }
  // An index that is constant across the columns, as the backward of an embedding has it.
  check(Op::scatter_add, values({50, 8}, DType::float32, 1),
        expanded_to(indices({2000, 1}, 50, 2), {2000, 8}), values({2000, 8}, DType::float32, 3), 0);
  // More elements than the parts of a radix pass hold in one tile each.
  check(Op::index_add, values({4}, DType::float32, 1), indices({530000}, 4, 2),
        values({530000}, DType::float32, 3), 0);
  // More targets than sixteen bits count.
  check(Op::index_add, values({70000}, DType::float32, 1), indices({5000}, 70000, 2),
        values({5000}, DType::float32, 3), 0);
}

TEST_CASE("scatters: rows of every width, several lanes a thread", "[indexing_test]") {
  const int64_t n = 300, targets = 40;
  const Tensor at = indices({n}, targets, 2);
  for (DType dtype : kNumeric) {
    for (int64_t width : {1, 2, 3, 4, 6, 16, 20}) {
      const Tensor source = values({n, width}, dtype, 1, -9, 9);
      const Tensor start = values({targets, width}, dtype, 3, -9, 9);
      check(Op::index_add, start, at, source, 0);
      check(Op::scatter_max, start, expanded_to(at.with_layout({{n, 1}, {1, 1}, 0}), {n, width}),
            source, 0);
    }
  }
  // What keeps four floats apart: the first one's place, the step between rows or between columns,
  // the step of another axis.
  const Tensor from = values({n * 24}, DType::float32, 1), to = values({n * 24}, DType::float32, 3);
  const auto part = [](const Tensor& of, int64_t rows, int64_t step, int64_t stride,
                       int64_t first) {
    return of.with_layout({{rows, 8}, {step, stride}, first});
  };
  for (const auto& [step, stride, first] : std::vector<std::array<int64_t, 3>>{
           {8, 1, 0}, {8, 1, 1}, {12, 1, 4}, {9, 1, 0}, {10, 1, 0}, {24, 2, 0}, {1, n, 0}}) {
    check(Op::index_add, part(to, targets, 8, 1, 0), at, part(from, n, step, stride, first), 0);
    check(Op::index_add, part(to, targets, step, stride, first), at, part(from, n, 8, 1, 0), 0);
  }
  const auto cube = [](const Tensor& of, int64_t rows, int64_t gap) {
    return of.with_layout({{2, rows, 8}, {rows * 8 + gap, 8, 1}, 0});
  };
  for (int64_t gap : {0, 1, 2, 4}) {
    check(Op::index_add, cube(to, targets, 0), at, cube(from, n, gap), 1);
    check(Op::index_add, cube(to, targets, gap), at, cube(from, n, 0), 1);
  }
  // Several lists of indices, and two axes on which they are constant that are not one.
  const Tensor many = values({3 * n * 2 * 12}, DType::float32, 4)
                          .with_layout({{3, n, 2, 8}, {n * 24, 24, 12, 1}, 0});
  const Tensor lists = indices({3, n, 1, 1}, targets, 5);
  check(Op::scatter_add, values({3, targets, 2, 8}, DType::float32, 6),
        expanded_to(lists, many.shape()), many, 1);
}

TEST_CASE("scatters: groups and targets beyond 32 bits together", "[indexing_test]") {
  const OnDevice index(Tensor::from(std::vector<int64_t>(2 * 300), {2, 300}));
  const OnDevice source(Tensor::from(std::vector<double>(2 * 300, 1), {2, 300}));
  const Tensor pair = Tensor::from(std::vector<double>{0, 10}, {2});
  const OnDevice out(pair);
  View wide = out.view();
  const Shape shape{2, int64_t{1} << 32};
  const Strides strides{1, 0};
  wide.shape = &shape;
  wide.strides = &strides;
  cuda_backend().scatter_add(index.view(), 1, source.view(), wide);
  CHECK(out.back().to_vector<double>() == std::vector<double>{300, 310});
}

TEST_CASE("scatters: 65,536 hits on one row", "[indexing_test]") {
  const Tensor hits = Tensor::from(std::vector<int64_t>(65536, 2), {65536});
  const Tensor source = values({65536}, DType::float32, 3, 0, 1);
  check(Op::index_add, values({4}, DType::float32, 1), hits, source, 0);
  check(Op::scatter_add, values({4}, DType::float32, 1), hits, source, 0);
  const Tensor one = Tensor::from(std::vector<int64_t>{2}, {1});
  check(Op::index_add, values({4, 3}, DType::float64, 1), expanded_to(one, {65536}),
        expanded_to(values({1, 3}, DType::float64, 2), {65536, 3}), 0);
}

TEST_CASE("scatters: NaN, wrap-around, nothing at all, scalars", "[indexing_test]") {
  std::vector<double> with_nan(200, 1.5);
  with_nan[77] = kNan;
  for (int64_t n : {3, 200}) {
    with_nan.resize(static_cast<size_t>(n == 3 ? 3 : 200), kNan);
    check(Op::scatter_max, values({5}, DType::float32, 1), indices({n}, 5, 2),
          Tensor::from(with_nan, {n}, DType::float32), 0);
    check(Op::scatter_max, Tensor::from(std::vector<double>{kNan, 1}, {2}), indices({n}, 2, 2),
          values({n}, DType::float64, 3), 0);
    check(Op::scatter_add, Tensor::from(std::vector<int64_t>{INT64_MAX - 3}, {1}),
          indices({n}, 1, 2), Tensor::from(std::vector<int64_t>(static_cast<size_t>(n), 5), {n}),
          0);
  }
  const Tensor none = indices({0, 2}, 1, 1);
  for (Op op : {Op::gather, Op::scatter_add, Op::scatter_max}) {
    check(op, values({op == Op::gather ? 0 : 3, 2}, DType::float32, 1), none,
          values({op == Op::gather ? 3 : 0, 2}, DType::float32, 1), 0);
    check(op, values({}, DType::float32, 1), indices({}, 1, 1), values({}, DType::float32, 2), 0);
  }
  check(Op::index_add, values({3, 0}, DType::float32, 1), indices({2}, 3, 1),
        values({2, 0}, DType::float32, 1), 0);
  check(Op::index_select, values({}, DType::float32, 1), indices({1}, 1, 1),
        values({}, DType::float32, 2), 0);
}

TEST_CASE("check_index: copies, parts, and what is found first", "[indexing_test]") {
  const auto check = [](const Tensor& index, int64_t size, int64_t parts, int64_t found_before) {
    const Tensor out = indices(index.shape(), 9, 5);
    const Tensor found =
        Tensor::from(std::vector<int64_t>(static_cast<size_t>(2 * parts), -1), {parts, 2});
    if (found_before >= 0) found.data<int64_t>()[0] = found_before;
    const Tensor any = Tensor::from(std::vector<int64_t>{0}, {});
    same_as_reference("check_index", {out, found, any, index}, 3,
                      [&](Backend& b, const std::vector<View>& v) {
                        b.check_index(v[3], size, v[0], v[1], v[2]);
                      });
  };
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{5}, Shape{256}, Shape{257}, Shape{30, 70}}) {
    for (const int64_t parts : {1, 2, 3, 7}) {
      if (parts > numel(shape)) continue;
      check(indices(shape, 9, 1), 9, parts, -1);
      check(indices(shape, 9, 2), 8, parts, -1);  // some outside
      check(indices(shape, 9, 3), 8, parts, 2);   // found before, and kept
      check(strided(indices(shape, 9, 4), 2), 3, parts, -1);
      check(indices(shape, 9, 4), 0, parts, -1);
    }
  }
  check(expanded_to(indices({40, 1}, 9, 6), {40, 30}), 5, 4, -1);
  const Tensor far = Tensor::from(std::vector<int64_t>{3, INT64_MAX, INT64_MIN, -1, 4}, {5});
  check(far, 4, 1, -1);
  check(far, 4, 5, -1);
}

TEST_CASE("indexing: what is refused", "[indexing_test]") {
  Backend& b = cuda_backend();
  const Tensor x = values({2}, DType::float32, 1);
  const Tensor at = indices({2}, 2, 1);
  const Tensor flags = Tensor::from(std::vector<int64_t>{0, 1}, {2}, DType::boolean);
  CHECK_THROWS_AS(b.gather(x, 0, x, x), DTypeError);
  CHECK_THROWS_AS(b.index_select(x, 0, at, at), DTypeError);
  CHECK_THROWS_AS(b.scatter_add(at, 0, flags, flags), DTypeError);
  CHECK_THROWS_AS(b.scatter_max(at, 0, at, x), DTypeError);
  CHECK_THROWS_AS(b.index_add(x, 0, x, x), DTypeError);
  CHECK_THROWS_AS(b.check_index(x, 2, at, at, at), DTypeError);
  CHECK_THROWS_AS(b.check_index(at, 2, at, at, at), ShapeError);
}
