// The measurements of a flow, on flows whose answers are known and on broken ones.
#include "flowgrad/models/checks.h"
#include "flowgrad/autograd/transforms.h"

#include "flowgrad/models/realnvp.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

/// x = 2 z + 1 on every axis; each part can be made wrong.
class Affine final : public Flow {
 public:
  explicit Affine(int64_t dim) : dim_(dim) { add_parameter("unused", zeros({1}, DType::float64)); }
  int64_t dim() const override { return dim_; }
  Transformed forward(const Tensor& z, const Tensor&) override {
    return {z * 2.0 + 1.0, log_det(z, forward_log_det)};
  }
  Transformed inverse(const Tensor& x, const Tensor&) override {
    return {(x - shift) / 2.0, log_det(x, inverse_log_det)};
  }
  double forward_log_det = std::log(2.0);
  double inverse_log_det = -std::log(2.0);
  double shift = 1;

 private:
  Tensor log_det(const Tensor& x, double each) const {
    return full({x.size(0)}, each * static_cast<double>(dim_), x.dtype());
  }
  int64_t dim_;
};

}  // namespace

TEST_CASE("a right flow passes and broken ones are caught", "[checks_test]") {
  Generator generator(1);
  const Tensor x = randn({2000, 2}, generator, DType::float64);
  Affine right(2);
  CHECK(reconstruction_error(right, x).max < 1e-15);
  CHECK(log_det_consistency(right, x).max < 1e-15);
  CHECK(log_det_error(right, x).max < 1e-14);
  CHECK(density_integral(right, {.half_width = 20, .points = 401}) ==
        Catch::Approx(1).epsilon(1e-9));

  Affine shifted(2);
  shifted.shift = 1.001;
  CHECK(reconstruction_error(shifted, x).max > 3e-4);
  CHECK(reconstruction_error(shifted, x).p999 <= reconstruction_error(shifted, x).max);
  Affine one_sided(2);
  one_sided.inverse_log_det = -std::log(2.01);
  CHECK(log_det_consistency(one_sided, x).max > 1e-3);
  CHECK(density_integral(one_sided, {.half_width = 20, .points = 401}) ==
        Catch::Approx(4 / 4.0401).epsilon(1e-6));
  Affine both_sides(2);
  both_sides.forward_log_det = std::log(2.01);
  both_sides.inverse_log_det = -std::log(2.01);
  CHECK(log_det_consistency(both_sides, x).max < 1e-15);
  CHECK(log_det_error(both_sides, x).max > 1e-3);
  Affine broken(2);
  broken.shift = NAN;
  CHECK(std::isinf(reconstruction_error(broken, x).max));
}

TEST_CASE("the Jacobian of each row", "[checks_test]") {
  Generator generator(1);
  const Tensor x = randn({4, 3}, generator, DType::float64);
  const Tensor a = randn({3, 3}, generator, DType::float64);
  NoGrad off;
  const Tensor j =
      batch_jacobian([&](const Tensor& at) { return matmul(square(at), transpose(a)); }, x);
  CHECK(distance(j, unsqueeze(x, 1) * 2.0 * a) < 1e-15);
}

TEST_CASE("grids and the density's integral", "[checks_test]") {
  Generator generator(1);
  RealNVPOptions o;
  o.hidden = 8;
  o.n_flows = 2;
  RealNVP fresh(o, generator);
  const GridOptions grid{.half_width = 8, .points = 161, .batch = 1000};
  CHECK(density_integral(fresh, grid) == Catch::Approx(1).epsilon(1e-6));
  flowgrad::testing::shake(fresh, 2, 0.3);
  CHECK(density_integral(fresh, {.half_width = 12, .points = 601}) ==
        Catch::Approx(1).epsilon(1e-3));
  const Tensor points = grid_points({.half_width = 1, .points = 3}, DType::float64);
  CHECK(points.to_vector<double>() ==
        std::vector<double>{-1, -1, -1, 0, -1, 1, 0, -1, 0, 0, 0, 1, 1, -1, 1, 0, 1, 1});
  CHECK(grid_log_prob(fresh, {.points = 5}).shape() == Shape{5, 5});
  // A grid over samples that are narrow, far out and of another scale along each axis.
  RealNVP moved(o, generator);
  const Tensor rows = tensor({-1, 3, 1, 7, 0, 4}, DType::float64);
  const GridOptions around = grid_over(reshape(rows, {3, 2}), 3);
  CHECK(grid_points(around, DType::float64).to_vector<double>() ==
        std::vector<double>{-1.5, 2, -1.5, 5, -1.5, 8, 0, 2, 0, 5, 0, 8, 1.5, 2, 1.5, 5, 1.5, 8});
  CHECK(around.to_string() == "[-1.5, 1.5] x [2, 8]");
  const Tensor own = moved.sample(5000, generator);
  CHECK(density_integral(moved, grid_over(own, 161)) == Catch::Approx(1).epsilon(1e-5));
  CHECK(contains(raised<ValueError>([&] { grid_points({.points = 1}); }), {"1 points"}));
  Affine three(3);
  CHECK(contains(raised<ValueError>([&] { grid_log_prob(three); }),
                 {"dimension 3", "2 is accepted"}));
}
