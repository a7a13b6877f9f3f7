// Symmetric eigenvalues and the Frechet distance against closed forms.
#include "flowgrad/models/frechet.h"

#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

TEST_CASE("eigenvalues and eigenvectors of symmetric matrices", "[frechet_test]") {
  Generator generator(1);
  for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{40}}) {
    const Tensor x = randn({n, n}, generator, DType::float64);
    const Tensor a = x + transpose(x);
    const SymmetricEigen e = symmetric_eigen(a);
    REQUIRE(e.values.shape() == Shape{n});
    if (n == 0) continue;
    CHECK(distance(matmul(e.vectors * e.values, transpose(e.vectors)), a) < 1e-13 * 40);
    CHECK(distance(matmul(transpose(e.vectors), e.vectors), eye(n, DType::float64)) < 1e-13);
    const auto values = e.values.to_vector<double>();
    CHECK(std::is_sorted(values.begin(), values.end()));
  }
  // A double eigenvalue, and a matrix that is diagonal already.
  const Tensor twice =
      Tensor::from(std::vector<double>{2, 1, 1, 1, 2, 1, 1, 1, 2}, {3, 3}, DType::float64);
  CHECK(distance(symmetric_eigen(twice).values, tensor({1, 1, 4}, DType::float64)) < 1e-14);
  CHECK(distance(symmetric_eigen(diag(tensor({3, -1, 2}, DType::float64))).values,
                 tensor({-1, 2, 3}, DType::float64)) == 0);
  CHECK(contains(raised<ShapeError>([] { symmetric_eigen(zeros({2, 3})); }), {"(2, 3)", "square"}));
  CHECK(contains(raised<ValueError>([] { symmetric_eigen(full({2, 2}, NAN)); }), {"not finite"}));
}

TEST_CASE("Frechet distance of normals with known moments", "[frechet_test]") {
  Generator generator(2);
  const Tensor x = randn({500, 4}, generator, DType::float64);
  CHECK(std::abs(frechet_distance(x, x)) < 1e-12);
  // A shift by s costs |s|^2.
  const Tensor s = tensor({1, -2, 0, 0.5}, DType::float64);
  CHECK(frechet_distance(x, x + s) == Catch::Approx(5.25).epsilon(1e-12));
  // Scaling by c costs (1 - c)^2 tr C, and the mean's part.
  const Tensor centred = x - mean(x, {0});
  const double trace = sum(var(x, {0})).item();
  CHECK(frechet_distance(centred, centred * 1.5) == Catch::Approx(0.25 * trace).epsilon(1e-12));
  // Covariances that do not commute: x and x A^T with A = [[1, 1], [0, 1]] give
  // tr(C1 + C2) - 2 sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2))) in two dimensions.
  const Tensor two = slice(centred, 1, 0, 2);
  const Tensor shear = Tensor::from(std::vector<double>{1, 1, 0, 1}, {2, 2}, DType::float64);
  const Tensor sheared = matmul(two, transpose(shear));
  const Tensor c1 = matmul(transpose(two), two) / 499.0;
  const Tensor c2 = matmul(transpose(sheared), sheared) / 499.0;
  const double product = sum(c1 * c2).item();
  const double roots = std::sqrt(product + 2 * std::sqrt(det(c1).item() * det(c2).item()));
  const double traces = sum(diag(c1)).item() + sum(diag(c2)).item();
  CHECK(frechet_distance(two, sheared) == Catch::Approx(traces - 2 * roots).epsilon(1e-10));
  CHECK(frechet_distance(cast(x, DType::float32), cast(x + s, DType::float32)) ==
        Catch::Approx(5.25).epsilon(1e-5));
  CHECK(contains(raised<ShapeError>([&] {
                   frechet_distance(x, zeros({3, 5}));
                 }),
                 {"(500, 4)", "(3, 5)"}));
}
