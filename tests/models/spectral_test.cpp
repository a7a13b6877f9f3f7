// The spectral norm kept below a bound, against singular values by eigenvalues of W W^T.
#include "flowgrad/models/spectral.h"

#include <cmath>

#include "flowgrad/models/frechet.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

double spectral_norm(const Tensor& w) {
  NoGrad off;
  const Tensor m = reshape(cast(w, DType::float64), {w.size(0), w.numel() / w.size(0)});
  const auto values = symmetric_eigen(matmul(m, transpose(m))).values.to_vector<double>();
  return std::sqrt(values.back());
}

NamedTensors weights(DType dtype) {
  Generator generator(1);
  return {{"wide.weight", (randn({3, 8}, generator, dtype) * 2.0).detach().requires_grad_()},
          {"bias", randn({8}, generator, dtype).requires_grad_()},
          {"conv.weight", randn({4, 2, 3, 3}, generator, dtype).requires_grad_()},
          {"small.weight", (randn({5, 5}, generator, dtype) * 0.01).detach().requires_grad_()},
          {"zero.weight", zeros({4, 2}, dtype).requires_grad_()},
          {"empty.weight", zeros({0, 2}, dtype).requires_grad_()}};
}

}  // namespace

TEST_CASE("projection brings every matrix to the bound and leaves the rest", "[spectral_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const NamedTensors w = weights(dtype);
    const Tensor bias = w[1].second.detach() * 1.0, small = w[3].second.detach() * 1.0;
    SpectralProjection projection(w, 1.5, 0, 200);
    projection.apply();
    CHECK(spectral_norm(w[0].second) == Catch::Approx(1.5).epsilon(1e-5));
    CHECK(spectral_norm(w[2].second) == Catch::Approx(1.5).epsilon(1e-5));
    CHECK(distance(w[1].second, bias) == 0);
    CHECK(distance(w[3].second, small) == 0);
    CHECK(distance(w[4].second, zeros({4, 2}, dtype)) == 0);
    CHECK(projection.norms().size() == 4);
    CHECK(projection.norms()[2] == Catch::Approx(spectral_norm(small)).epsilon(1e-4));
    CHECK(w[0].second.requires_grad());
  }
}

TEST_CASE("one iteration a step follows the weights", "[spectral_test]") {
  const NamedTensors w = weights(DType::float64);
  SpectralProjection projection(w, 1.5);
  for (int step = 0; step < 200; ++step) {
    projection.apply();
    NoGrad off;
    copy_(w[0].second, w[0].second * 1.001);  // what an optimiser would do
  }
  CHECK(spectral_norm(w[0].second) < 1.5 * 1.0011);
}

TEST_CASE("a matrix that starts at zero is bounded once it has grown", "[spectral_test]") {
  Generator generator(1);
  const NamedTensors w = {{"net.weight", zeros({4, 3}, DType::float64).requires_grad_()},
                          {"net.log_scales", full({4, 3}, 9, DType::float64).requires_grad_()}};
  SpectralProjection projection(w, 1, 0, 50);
  projection.apply();
  {
    NoGrad off;
    copy_(w[0].second, randn({4, 3}, generator, DType::float64) * 10.0);
  }
  projection.apply();
  CHECK(spectral_norm(w[0].second) == Catch::Approx(1).epsilon(1e-6));
  CHECK(min(w[1].second).item() == 9);
}

TEST_CASE("the state continues a projection bit for bit", "[spectral_test]") {
  const NamedTensors a = weights(DType::float32), b = weights(DType::float32);
  SpectralProjection one(a, 1.5), two(b, 1.5);
  one.apply();
  two.apply();
  SpectralProjection resumed(b, 1.5, 99);
  CHECK(contains(raised<IoError>([&] { resumed.load_state({}); }), {"0 vectors", "4 are"}));
  NamedTensors wrong = two.state();
  wrong[1].first = "other.u";
  CHECK(
      contains(raised<IoError>([&] { resumed.load_state(wrong); }), {"other.u", "conv.weight.u"}));
  resumed.load_state(two.state());
  one.apply();
  resumed.apply();
  for (size_t i = 0; i < a.size(); ++i) CHECK(distance(a[i].second, b[i].second) == 0);
  CHECK(contains(raised<ValueError>([&] { SpectralProjection(a, 0); }), {"bound 0", "above 0"}));
  CHECK(contains(raised<ValueError>([&] { SpectralProjection(a, 1, 0, 0); }), {"0 iterations"}));
}
