// Pooling of the CUDA backend against the reference loops.
#include "backend_support.cuh"
#include "kernels/pool_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

TEST_CASE("pooling of every kind on the device", "[pool_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const PoolCase& c : pool_cases()) {
      const std::string what = std::string(name_of(dtype)) + " " + c.text();
      const Tensor x = values(c.x(), dtype, 1), g = values(c.out(), dtype, 2);
      same_as_reference(
          what, {Tensor::empty(c.out(), dtype), x}, 1,
          [&](Backend& be, std::vector<View>& v) { be.avg_pool2d(c.options, v[1], v[0]); });
      same_as_reference(
          "gradient of " + what, {Tensor::empty(c.x(), dtype), g}, 1,
          [&](Backend& be, std::vector<View>& v) { be.avg_pool2d_grad(c.options, v[1], v[0]); });
      same_as_reference("largest of " + what,
                        {Tensor::empty(c.out(), dtype), Tensor::empty(c.out(), DType::int64),
                         crowded(c.x(), dtype)},
                        2, [&](Backend& be, std::vector<View>& v) {
                          be.max_pool2d(c.options, v[2], v[0], v[1]);
                        });
      same_as_reference("gradient of largest of " + what,
                        {Tensor::empty(c.x(), dtype), g, places_of_largest(c)}, 1,
                        [&](Backend& be, std::vector<View>& v) {
                          be.max_pool2d_grad(c.options, v[1], v[2], v[0]);
                        });
    }
  }
}

TEST_CASE("pooling to a size of more than 32 bits is refused on the device", "[pool_test]") {
  const Tensor x = values({1, 1, 1, 1 << 16}, DType::float32, 1);
  const Tensor out = Tensor::empty({1, 1, 1, 1 << 16}, DType::float32);
  const Pooling spans{{0, 0}, {0, 0}, {0, 0}};
  CHECK_THROWS_WITH(cuda_backend().avg_pool2d(spans, x, out),
                    "avg_pool2d: an axis of 65536 places to one of 65536; a product below 2^32 is "
                    "accepted on a device");
}
