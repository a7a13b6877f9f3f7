#include <cmath>
#include <cstdio>

#include "flowgrad/flowgrad.h"

// d/dx sum(x * exp(x)) = (1 + x) exp(x), at 0, 1 and 2.
int main() {
  using namespace flowgrad;
  const Tensor x = Tensor::from<double>({0.0, 1.0, 2.0}, {3});
  const auto f = [](const Tensor& t) { return sum(mul(t, exp(t))); };
  const Tensor slope = value_and_grad(f, x).derivative;
  for (int64_t i = 0; i < 3; ++i) {
    const auto at = static_cast<double>(i);
    const double wanted = (1.0 + at) * std::exp(at);
    std::printf("%.6f\n", slope.at({i}));
    if (std::abs(slope.at({i}) - wanted) > 1e-12 * wanted) return 1;
  }
  return 0;
}
