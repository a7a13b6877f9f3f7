// Couplings and planar stacks of the CUDA backend against the reference loops.
#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

Tensor fresh(const Shape& shape, DType dtype) { return Tensor::empty(shape, dtype); }

void check_coupling(int64_t n, int64_t d, double bound, bool inverse, DType dtype) {
  const std::string what = std::string("coupling ") + name_of(dtype) + " " + std::to_string(n) +
                           " x " + std::to_string(d) + " bound " + std::to_string(bound) +
                           (inverse ? " inverse" : "");
  std::vector<double> mask;
  for (int64_t j = 0; j < d; ++j) mask.push_back(j % 3 == 1 ? 0 : 1);
  const Shape rows{n, d};
  const Tensor z = values(rows, dtype, 1), scale = values(rows, dtype, 2),
               shift = values(rows, dtype, 3), fixed = Tensor::from(mask, {d}, dtype);
  same_as_reference(what, {fresh(rows, dtype), fresh({n}, dtype), z, scale, shift, fixed}, 2,
                    [&](Backend& be, std::vector<View>& v) {
                      be.coupling({v[3], v[4], v[5], bound, inverse}, v[2], v[0], v[1]);
                    });
  same_as_reference(
      "gradient of " + what,
      {fresh(rows, dtype), fresh(rows, dtype), fresh(rows, dtype), z, scale, shift, fixed,
       values(rows, dtype, 4), values({n}, dtype, 5)},
      3, [&](Backend& be, std::vector<View>& v) {
        be.coupling_grad({v[4], v[5], v[6], bound, inverse}, v[3], v[7], v[8], v[0], v[1], v[2]);
      });
}

struct StackCase {
  int64_t n, d, k;
};

/// z, w, b, u and a margin, positive.
std::vector<Tensor> stack_inputs(const StackCase& c, DType dtype) {
  const double size = 1 / std::sqrt(static_cast<double>(c.d));
  return {values({c.n, c.d}, dtype, 1), values({c.k, c.d}, dtype, 2, -size, size),
          values({c.k}, dtype, 3), values({c.k, c.d}, dtype, 4, -size, size),
          values({c.k}, dtype, 7, 0.05, 2)};
}

void check_stack(const StackCase& c, bool inverse, DType dtype) {
  const std::string what = std::string("planar ") + name_of(dtype) + " " + std::to_string(c.n) +
                           " x " + std::to_string(c.d) + ", " + std::to_string(c.k) + " layers" +
                           (inverse ? " inverse" : "");
  INFO(what);
  const std::vector<Tensor> in = stack_inputs(c, dtype);
  REQUIRE(cuda_backend().has_planar({in[1], in[2], in[3], in[4], inverse}));
  const Shape rows{c.n, c.d};
  const Tensor heights = fresh({c.k, c.n}, dtype);
  same_as_reference(
      what, {fresh(rows, dtype), fresh({c.n}, dtype), heights, in[0], in[1], in[2], in[3], in[4]},
      3, [&](Backend& be, std::vector<View>& v) {
        be.planar({v[4], v[5], v[6], v[7], inverse}, v[3], v[0], v[1], v[2]);
      });
  same_as_reference(what + ", no heights",
                    {fresh(rows, dtype), fresh({c.n}, dtype), in[0], in[1], in[2], in[3], in[4]}, 2,
                    [&](Backend& be, std::vector<View>& v) {
                      be.planar({v[3], v[4], v[5], v[6], inverse}, v[2], v[0], v[1], {});
                    });
  const Tensor out = fresh(rows, dtype), log_det = fresh({c.n}, dtype);
  reference_backend().planar({in[1], in[2], in[3], in[4], inverse}, in[0], out, log_det, heights);
  same_as_reference(
      "gradient of " + what,
      {fresh(rows, dtype), fresh({2 * c.k * (c.d + 1)}, dtype), in[0], in[1], in[2], in[3], in[4],
       heights, values(rows, dtype, 5), values({c.n}, dtype, 6)},
      2, [&](Backend& be, std::vector<View>& v) {
        be.planar_grad({v[3], v[4], v[5], v[6], inverse}, v[2], v[7], v[8], v[9], v[0], v[1]);
      });
}

}  // namespace

TEST_CASE("couplings of rows of every length", "[flow_layers_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const int64_t d : {1, 2, 3, 5, 8, 17, 32, 33, 70}) {
      for (const bool inverse : {false, true}) {
        check_coupling(37, d, inverse ? 2 : 0, inverse, dtype);
        check_coupling(1, d, inverse ? 0 : 3, inverse, dtype);
      }
    }
    check_coupling(0, 3, 1, false, dtype);
    check_coupling(3, 0, 1, false, dtype);
  }
}

TEST_CASE("a coupling on the device hides what its mask hides", "[flow_layers_test]") {
  const double bad = std::nan("");
  const DType f = DType::float32;
  const auto row = [&](std::vector<double> v) { return OnDevice(Tensor::from(v, {1, 2}, f)); };
  const OnDevice mask(Tensor::from(std::vector<double>{1, 0}, {2}, f));
  const OnDevice one(Tensor::from(std::vector<double>{1}, {1}, f));
  const OnDevice z = row({3, 2}), scale = row({bad, 0.5}), shift = row({bad, 1}), g = row({1.5, 0});
  const OnDevice x = row({0, 0}), to_z = row({0, 0}), to_scale = row({0, 0}),
                 to_shift = row({0, 0});
  const OnDevice log_det(Tensor::from(std::vector<double>{0}, {1}, f));
  const Coupling c{scale.view(), shift.view(), mask.view(), 2, false};
  cuda_backend().coupling(c, z.view(), x.view(), log_det.view());
  cuda_backend().coupling_grad(c, z.view(), g.view(), one.view(), to_z.view(), to_scale.view(),
                               to_shift.view());
  CHECK(x.back().to_vector<double>()[0] == 3);
  CHECK(to_z.back().to_vector<double>() == std::vector<double>{1.5, 0});
  CHECK(to_scale.back().to_vector<double>()[0] == 0);
  CHECK(to_shift.back().to_vector<double>() == std::vector<double>{0, 0});
  CHECK(std::isfinite(log_det.back().to_vector<double>()[0]));
  // A cotangent of zero stays zero beside a factor or an element that is infinite.
  for (const double element : {2.0, HUGE_VAL}) {
    const OnDevice from = row({3, element}), huge = row({bad, 1000});
    const Coupling unbounded{huge.view(), shift.view(), mask.view(), 0, false};
    cuda_backend().coupling_grad(unbounded, from.view(), g.view(), one.view(), to_z.view(),
                                 to_scale.view(), to_shift.view());
    CHECK(to_z.back().to_vector<double>() == std::vector<double>{1.5, 0});
    CHECK(to_scale.back().to_vector<double>() == std::vector<double>{0, 1});
  }
}

TEST_CASE("planar stacks of rows of every length", "[flow_layers_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const StackCase& c : {StackCase{1, 1, 1},
                               {37, 2, 10},
                               {300, 2, 3},
                               {70, 3, 2},
                               {33, 5, 4},
                               {9, 33, 3},
                               {20, 64, 2},
                               {5, 65, 2},
                               {3, 200, 2}}) {
      for (const bool inverse : {false, true}) check_stack(c, inverse, dtype);
    }
    check_stack({0, 3, 2}, false, dtype);
    check_stack({20, 200, 12}, true, dtype);  // the sums of fewer warps fit a block
  }
}

TEST_CASE("gradients of a planar stack over more tiles than blocks", "[flow_layers_test]") {
  // 264 blocks of 8 rows each, and some take a second tile.
  check_stack({2200, 34, 1}, false, DType::float32);
}

TEST_CASE("a planar stack with w.u = -1 and rows for half a tile", "[flow_layers_test]") {
  // Its determinant is 0 where h is: so it must not be for the rows that are not there.
  const DType f = DType::float64;
  const auto at = [&](std::vector<double> v, const Shape& shape) {
    return Tensor::from(v, shape, f);
  };
  same_as_reference(
      "gradient",
      {fresh({1, 2}, f), fresh({6}, f), at({0.3, 0.1}, {1, 2}), at({1, 0}, {1, 2}), at({0.2}, {1}),
       at({-1, 2}, {1, 2}), at({0}, {1}), at({0.4}, {1, 1}), at({1, 2}, {1, 2}), at({0.5}, {1})},
      2, [](Backend& be, std::vector<View>& v) {
        be.planar_grad({v[3], v[4], v[5], v[6], false}, v[2], v[7], v[8], v[9], v[0], v[1]);
      });
}

TEST_CASE("planar stacks that no block can hold are left to operations", "[flow_layers_test]") {
  const auto has = [](int64_t d, int64_t k, DType dtype) {
    const std::vector<Tensor> in = stack_inputs({1, d, k}, dtype);
    return cuda_backend().has_planar({in[1], in[2], in[3], in[4], false});
  };
  CHECK(has(2, 10, DType::float64));
  CHECK(has(64, 10, DType::float64));
  CHECK(has(256, 4, DType::float32));
  CHECK_FALSE(has(257, 1, DType::float32));
  CHECK_FALSE(has(256, 200, DType::float32));
  CHECK_FALSE(has(0, 1, DType::float32));
}
