// Copies, fills and additions of the CUDA backend against the reference loops.
#include "kernels/special_values.h"
#include "strided_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

const std::vector<DType> kAll{DType::boolean, DType::int64, DType::bfloat16, DType::float32,
                              DType::float64};
/// An output with a storage of `storage_size` elements, all 3.
Tensor window(const Shape& shape, const Strides& strides, int64_t offset, int64_t storage_size,
              DType dtype) {
  const Tensor t = Tensor::from(std::vector<double>(static_cast<size_t>(storage_size), 3),
                                {storage_size}, dtype);
  return t.with_layout({shape, strides, offset});
}

void check_copy(const std::string& what, const Tensor& in, const Tensor& out) {
  same_as_reference(what, {out, in}, 1,
                    [](Backend& b, const std::vector<View>& v) { b.copy(v[1], v[0]); });
}

void check_add(const std::string& what, const Tensor& in, const Tensor& out) {
  same_as_reference(what, {out, in}, 1,
                    [](Backend& b, const std::vector<View>& v) { b.add_into(v[1], v[0]); });
}

}  // namespace

TEST_CASE("copy converts between all dtypes at all sizes", "[copy_test]") {
  for (DType from : kAll) {
    for (DType to : kAll) {
      for (int64_t n : kSizes) {
        const std::string what =
            std::string(name_of(from)) + " to " + name_of(to) + ", " + std::to_string(n);
        const Tensor in = values({n}, from, 1, -9, 9);
        const Tensor out = values({n}, to, 2);
        check_copy(what, in, out);
        if (n > 1025) continue;
        check_copy(what + " strided", strided(in, 3), strided(out, 4));
        check_copy(what + " unaligned", shifted(in, 1), shifted(out, 3));
      }
    }
  }
}

TEST_CASE("copy saturates, and keeps NaN, infinities, zeros and denormals", "[copy_test]") {
  const Tensor wide = Tensor::from(
      std::vector<double>{kNan, kInf, -kInf, -0.0, 5e-324, 1e300, -1e300, 9.3e18, -9.3e18, 2.9,
                          -2.9, 1.00390625, 1.01171875, 1e-40, 3.5e38, 0x1p63, -0x1p63, 0x1p53 + 2},
      {18});
  for (DType to : kAll)
    check_copy(std::string("float64 to ") + name_of(to), wide, values({18}, to, 1));
  const Tensor narrow = Tensor::from(
      std::vector<double>{kNan, kInf, -kInf, -0.0, 1e-45, 1e30, -1e30, 2.9, -2.9, 1e-40, 3.3e38},
      {11}, DType::float32);
  for (DType to : kAll)
    check_copy(std::string("float32 to ") + name_of(to), narrow, values({11}, to, 1));
  const auto big = std::numeric_limits<int64_t>::max();
  const Tensor whole = Tensor::from(
      std::vector<int64_t>{0, -1, big, -big - 1, big - 511, (int64_t{1} << 53) + 1, 16777217}, {7});
  for (DType to : kAll)
    check_copy(std::string("int64 to ") + name_of(to), whole, values({7}, to, 1));
}

TEST_CASE("copy of the same dtype takes any layout", "[copy_test]") {
  for (DType dtype : kAll) {
    const std::string name = name_of(dtype);
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{3, 4}, Shape{2, 0, 3}, Shape{5, 33},
                               Shape{16, 64}, Shape{2, 3, 4, 5}, Shape{2, 1, 3, 1, 2, 2, 2, 3}}) {
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        const Tensor in = strided(values(shape, dtype, seed, -9, 9), seed + 10);
        check_copy(name + " " + shape.to_string(), in, strided(values(shape, dtype, 7), seed));
        check_copy(name + " to contiguous " + shape.to_string(), in, values(shape, dtype, 7));
      }
    }
    for (int64_t gap : {1, 2, 4, 16}) {
      const Tensor in = values({9, 64}, dtype, 1, -9, 9);
      const Tensor out = values({9, 64}, dtype, 2);
      check_copy(name + " rows apart", with_gaps(in, gap), out);
      check_copy(name + " to rows apart", in, with_gaps(out, gap));
      for (DType to : kAll)
        check_copy(name + " converted", with_gaps(in, gap), with_gaps(values({9, 64}, to, 2), gap));
    }
    // Rows of one vector, a row for all, and one element for all.
    const Tensor row = values({64}, dtype, 1, -9, 9);
    check_copy(name + " row", row.with_layout({{9, 64}, {0, 1}, 0}), values({9, 64}, dtype, 2));
    check_copy(name + " column", row.with_layout({{64, 8}, {1, 0}, 0}), values({64, 8}, dtype, 2));
    check_copy(name + " one", row.with_layout({{7, 33}, {0, 0}, 5}), values({7, 33}, dtype, 2));
  }
}

TEST_CASE("copy transposes by squares", "[copy_test]") {
  for (DType dtype : kAll) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{16, 16},
                                        {32, 32},
                                        {33, 65},
                                        {31, 100},
                                        {100, 17},
                                        {96, 64}}) {
      const std::string what = std::string(name_of(dtype)) + " " + std::to_string(rows) + " x " +
                               std::to_string(columns);
      const Tensor in = values({columns, rows}, dtype, 1, -9, 9);
      const Layout turned{{rows, columns}, {1, rows}, 0};
      check_copy(what, in.with_layout(turned), values({rows, columns}, dtype, 2));
      check_copy(what + " into a transposed view", values({rows, columns}, dtype, 3),
                 in.with_layout(turned));
      const Tensor wide = values({rows, 2 * columns}, dtype, 3);
      for (const int64_t step : {2, -1}) {  // squares are written along steps of 1
        const int64_t first = step < 0 ? columns - 1 : 0;
        check_copy(what + " with a step", in.with_layout(turned),
                   wide.with_layout({{rows, columns}, {2 * columns, step}, first}));
      }
      const Tensor batch = values({3, 2, columns, rows}, dtype, 1, -9, 9);
      const int64_t step = rows * columns;
      check_copy(what + " batch",
                 batch.with_layout({{2, 3, rows, columns}, {step, 2 * step, 1, rows}, 0}),
                 values({2, 3, rows, columns}, dtype, 2));
    }
  }
}

TEST_CASE("fill writes one value under any layout", "[copy_test]") {
  for (DType dtype : kAll) {
    for (int64_t n : kSizes) {
      for (double value : {0.0, 2.5, -1.0, kNan, kInf, 1e300}) {
        const Tensor out = values({n}, dtype, 1);
        const auto run = [&](Backend& b, const std::vector<View>& v) { b.fill(v[0], value); };
        const std::string what = std::string(name_of(dtype)) + " " + std::to_string(n);
        same_as_reference(what, {out}, 1, run);
        if (n > 1025) continue;
        same_as_reference(what + " strided", {strided(out, 3)}, 1, run);
        same_as_reference(what + " unaligned", {shifted(out, 1)}, 1, run);
      }
    }
    const OnDevice nothing(window({0, 7}, {0, 1}, 1, 20, dtype));
    cuda_backend().fill(nothing.view(), 1);
    CHECK(nothing.is_untouched());
    same_as_reference("fill of a broadcast row", {window({5, 7}, {0, 2}, 1, 20, dtype)}, 1,
                      [](Backend& b, const std::vector<View>& v) { b.fill(v[0], 1); });
  }
}

TEST_CASE("arange counts as the CPU does", "[copy_test]") {
  for (DType dtype : {DType::int64, DType::float32, DType::float64}) {
    for (int64_t n : kSizes) {
      for (const auto& [start, step] :
           {std::pair<double, double>{0, 1}, {2, -0.5}, {0.1, 0.3}, {-7, 1e17}}) {
        const auto run = [start = start, step = step](Backend& b, const std::vector<View>& v) {
          b.arange(v[0], start, step);
        };
        const std::string what = std::string(name_of(dtype)) + " " + std::to_string(n);
        same_as_reference(what, {values({n}, dtype, 1)}, 1, run);
        same_as_reference(what + " strided", {strided(values({n}, dtype, 1), 4)}, 1, run);
      }
    }
  }
  const Tensor flags = Tensor::empty({2}, DType::boolean);
  CHECK_THROWS_AS(cuda_backend().arange(flags, 0, 1), DTypeError);
}

TEST_CASE("add_into adds under any one-to-one layout", "[copy_test]") {
  for (DType dtype : {DType::int64, DType::float32, DType::float64}) {
    for (int64_t n : kSizes) {
      const std::string what = std::string(name_of(dtype)) + " " + std::to_string(n);
      const Tensor in = values({n}, dtype, 1, -9, 9);
      const Tensor out = values({n}, dtype, 2, -9, 9);
      check_add(what, in, out);
      if (n > 1025) continue;
      check_add(what + " strided", strided(in, 3), strided(out, 4));
      check_add(what + " unaligned", shifted(in, 1), shifted(out, 2));
    }
    const auto big = std::numeric_limits<int64_t>::max();
    if (dtype == DType::int64) {
      check_add("wraps around", Tensor::from(std::vector<int64_t>{1, -1, big}, {3}),
                Tensor::from(std::vector<int64_t>{big, -big - 1, big}, {3}));
    }
  }
  CHECK_THROWS_AS(
      cuda_backend().add_into(values({2}, DType::float32, 1), values({2}, DType::float64, 1)),
      DTypeError);
}

TEST_CASE("add_into sums repeated elements in row-major order, bit for bit", "[copy_test]") {
  struct Case {
    const char* what;
    Shape shape;
    Strides strides;
    int64_t offset, storage;
  };
  const std::vector<Case> cases{
      {"leading broadcast", {9, 33}, {0, 1}, 0, 33},
      {"trailing broadcast", {33, 9}, {1, 0}, 0, 33},
      {"both sides", {5, 7, 3}, {0, 1, 0}, 0, 7},
      {"middle", {5, 7, 3}, {3, 0, 1}, 0, 15},
      {"all to one", {6, 7}, {0, 0}, 2, 4},
      {"backwards", {4, 9}, {0, -2}, 17, 20},
      {"windows of a row", {20, 5}, {1, 1}, 1, 30},
      {"strided windows", {10, 5}, {2, 1}, 0, 23},
      {"windows that share an edge", {10, 5}, {4, 1}, 0, 41},
      {"window positions first", {5, 20}, {1, 1}, 0, 24},
      {"dilated", {12, 3}, {1, 2}, 0, 16},
      {"backward windows", {20, 5}, {-1, -1}, 23, 24},
      {"mixed directions", {8, 4}, {1, -1}, 3, 12},
      {"images", {2, 3, 3, 3, 6, 5}, {168, 56, 7, 1, 7, 1}, 0, 336},
      {"strided images", {2, 2, 3, 3, 3, 3}, {98, 49, 7, 1, 14, 2}, 0, 196},
      {"images, taps last", {2, 6, 5, 3, 3}, {56, 7, 1, 7, 1}, 0, 112},
      {"overlapping images", {3, 3, 4}, {3, 1, 2}, 0, 32},
      {"odd overlap", {4, 5, 3}, {2, 3, 1}, 0, 24},
      {"rank 0 to 8", {2, 2, 2, 2, 2, 2, 2, 2}, {0, 1, 0, 2, 0, 4, 8, 0}, 0, 16},
  };
  for (DType dtype : {DType::int64, DType::float32, DType::float64}) {
    for (const Case& c : cases) {
      INFO(c.what << " " << name_of(dtype));
      Tensor in = values(c.shape, dtype, 3, -1, 1);
      for (int64_t limit : {int64_t{1} << 30, int64_t{4}}) {
        const SmallLaunches small(limit);
        const Tensor out = window(c.shape, c.strides, c.offset, c.storage, dtype);
        check_add(c.what, in, out);
        check_add(c.what, strided(in, 6), out);
        // Not only close: the same order of the same additions.
        const Tensor host = window(c.shape, c.strides, c.offset, c.storage, dtype);
        const OnDevice device_in(in);
        const OnDevice device_out(host);
        cuda_backend().add_into(device_in.view(), device_out.view());
        const Tensor got = device_out.back();
        reference_backend().add_into(in, host);
        CHECK(std::memcmp(got.storage().data(), host.storage().data(), host.storage().bytes()) ==
              0);
      }
    }
  }
}

TEST_CASE("what exceeds 32-bit indices is cut into launches", "[copy_test]") {
  for (int64_t limit : {1, 5, 64, 100}) {
    const SmallLaunches small(limit);
    for (const Shape& shape : {Shape{1000}, Shape{40, 64}, Shape{3, 5, 7}, Shape{9, 33}}) {
      const Tensor in = values(shape, DType::float32, 1);
      check_copy("cut", in, values(shape, DType::float64, 2));
      check_copy("cut strided", strided(in, 3), strided(values(shape, DType::float32, 2), 4));
      check_add("cut add", strided(in, 5), values(shape, DType::float32, 2));
    }
    const Tensor in = values({40, 48}, DType::float32, 1);
    check_copy("cut transposed", in.with_layout({{48, 40}, {1, 48}, 0}),
               values({48, 40}, DType::float32, 2));
  }
}

TEST_CASE("blocks loop over more work than the grid has room for", "[copy_test]") {
  for (unsigned limit : {1u, 3u}) {
    const FewBlocks few(limit);
    for (int64_t n : {255, 1025, 65537}) {
      const Tensor in = values({n}, DType::float32, 1);
      const Tensor out = values({n}, DType::float32, 2);
      check_copy("converted", in, values({n}, DType::float64, 3));
      check_copy("strided", strided(in, 3), strided(out, 4));
      check_add("one-to-one", in, out);
      check_add("unaligned", shifted(in, 1), out);
      check_add("repeated", values({3, n}, DType::float32, 1),
                window({3, n}, {0, 1}, 0, n, DType::float32));
      same_as_reference("arange", {out}, 1,
                        [](Backend& b, const std::vector<View>& v) { b.arange(v[0], 1, 0.5); });
    }
    const Tensor batch = values({3, 70, 100}, DType::float32, 1);
    check_copy("transposed", batch.with_layout({{3, 100, 70}, {7000, 1, 100}, 0}),
               values({3, 100, 70}, DType::float32, 2));
  }
}

TEST_CASE("division by multiplication is exact below 2^31", "[copy_test]") {
  for (uint32_t d : {1u, 2u, 3u, 5u, 7u, 10u, 31u, 32u, 33u, 641u, 65535u, 65536u, 65537u, 1000003u,
                     0x3fffffffu, 0x40000000u, 0x40000001u, 0x7fffffffu}) {
    const loops::Divisor divisor(d);
    for (uint32_t base :
         {0u, d, 2 * d, 0x7fffffffu / d * d, 0x7fffffffu, 0x40000000u, 123456789u}) {
      for (uint32_t n : {base - 1, base, base + 1}) {
        if (n >= 0x80000000u) continue;
        const auto q =
            static_cast<uint32_t>(((uint64_t{n} * divisor.multiplier >> 32) + n) >> divisor.shift);
        CHECK(q == n / d);
      }
    }
  }
}
