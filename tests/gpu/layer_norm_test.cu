// Layer normalisation of the CUDA backend against the reference loops.
#include "backend_support.cuh"
#include "kernels/layer_norm_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

void check(const LayerNormCase& c, DType dtype) {
  const std::string what = std::string(name_of(dtype)) + " " + c.text();
  const auto fresh = [](const Shape& s, DType d) { return values(s, d, 9); };  // not zero by chance
  const Tensor x = c.x(dtype), weight = values({c.n}, dtype, 3), bias = values({c.n}, dtype, 4);
  const auto norm = [&](const View& w, const View& b) {
    return LayerNorm{c.weight ? w : View(), c.bias ? b : View(), 1e-5};
  };
  const Tensor out = fresh(c.shape(), dtype), statistics = fresh({c.rows, 2}, DType::float64);
  same_as_reference(what, {out, statistics, x, weight, bias}, 2,
                    [&](Backend& be, std::vector<View>& v) {
                      be.layer_norm(norm(v[3], v[4]), v[2], v[0], v[1]);
                    });
  reference_backend().layer_norm(norm(weight, bias), x, out, statistics);
  const Tensor g = values(c.shape(), dtype, 2);
  const Tensor g_x = fresh(c.shape(), dtype), g_row = fresh({c.n}, dtype);
  same_as_reference("gradient of " + what, {g_x, g_row, g_row, x, statistics, g, weight}, 3,
                    [&](Backend& be, std::vector<View>& v) {
                      be.layer_norm_grad(norm(v[6], {}), v[3], v[4], v[5], v[0], v[1], v[2]);
                    });
  for (size_t which = 0; which < 3; ++which) {
    same_as_reference("gradient " + std::to_string(which) + " alone of " + what,
                      {which == 0 ? g_x : g_row, x, statistics, g, weight}, 1,
                      [&](Backend& be, std::vector<View>& v) {
                        View only[3];
                        only[which] = v[0];
                        be.layer_norm_grad(norm(v[4], {}), v[1], v[2], v[3], only[0], only[1],
                                           only[2]);
                      });
  }
}

}  // namespace

TEST_CASE("layer norm of rows of every length on the device", "[layer_norm_test]") {
  for (const DType dtype : {DType::float32, DType::float64})
    for (const LayerNormCase& c : layer_norm_cases()) check(c, dtype);
}
