// Products add their share of a gradient where it is collected, and only where nobody else sees
// what they write.
#include "autograd/conformance.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/core/allocator.h"
#include "models/close.h"

namespace flowgrad::conformance {
namespace {

using testing::agree;

/// Uses of a weight by products, and by others before, between and after them on the tape.
Tensor all_uses(const Tensor& x, const std::vector<Tensor>& w) {
  const Tensor before = sum(sin(w[0]));
  const Tensor one = matmul(linear(x, w[1]), w[2]);
  const Tensor between = sum(exp(w[3]) * transpose(w[3]));
  const Tensor two = addmm(one, sin(linear(one, w[4])), w[5]);
  return before + sum(two * two) + between + mean(transpose(w[6])) + sum(w[7]);
}
constexpr size_t kUses = 8;

TEST_CASE("a weight used often has the gradient of all its uses", "[running_sums_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const Shape& rows : {Shape{5, 3}, Shape{2, 2, 3}, Shape{1, 3}, Shape{0, 3}}) {
      CAPTURE(name_of(dtype), rows.to_string());
      const Tensor x = cast(fill(rows, 1), dtype);
      const Tensor start = cast(fill({3, 3}, 2), dtype);
      const Tensor w = clone(start).requires_grad_();
      const Tensor y = all_uses(x, std::vector<Tensor>(kUses, w));
      // Every use through a leaf of its own, so that no gradient is a sum.
      std::vector<Tensor> leaves;
      for (size_t i = 0; i < kUses; ++i) leaves.push_back(clone(start).requires_grad_());
      Tensor want = zeros_like(start);
      for (const Tensor& g : grad(all_uses(x, leaves), leaves)) want = want + g;
      agree(grad(y, {w}, {.retain_graph = true}), {want});
      agree(grad(y, {w}, {.create_graph = true}), {want.detach()});
      backward(y);
      agree({w.grad()}, {want});
    }
  }
}

TEST_CASE("a product does not write into a cotangent of the caller's",
          "[running_sums_test][device]") {
  const Tensor x = fill({4, 3}, 1), w = clone(fill({3, 3}, 2)).requires_grad_();
  const Tensor inside = w * 1.0;
  const Tensor y = matmul(x, inside);
  const std::vector<Tensor> outputs{inside, y}, cotangents{fill({3, 3}, 4), fill({4, 3}, 5)};
  const auto before = cotangents[0].to_vector<double>();
  const Tensor got = grad(outputs, std::vector<Tensor>{w}, cotangents)[0];
  CHECK(differs(cotangents[0], before) == "");
  CHECK(differs(got, cotangents[0] + matmul(transpose(x), cotangents[1])) == "");
}

TEST_CASE("a product does not write into the gradient of another tensor",
          "[running_sums_test][device]") {
  // The sum hands one cotangent to both of its terms.
  const Tensor x = fill({3, 3}, 1), a = clone(fill({3, 3}, 2)).requires_grad_(),
               b = clone(fill({3, 3}, 3)).requires_grad_();
  const Tensor product = sum(matmul(x, a));
  const Tensor weights = fill({3, 3}, 6);
  const std::vector<Tensor> got = grad(product + sum((a + b) * weights), {a, b});
  CHECK(differs(got[1], weights) == "");
  CHECK(differs(got[0], weights + matmul(transpose(x), ones64({3, 3}))) == "");
}

TEST_CASE("products of one weight take the memory of one gradient", "[running_sums_test]") {
  constexpr int64_t n = 128, bytes = n * n * 8;
  const Tensor x = fill({2, n}, 1), w = clone(fill({n, n}, 2)).requires_grad_();
  Tensor y = x;
  for (int i = 0; i < 4; ++i) y = linear(y, w) * .01;
  const Tensor loss = sum(y);
  reset_peak_memory(test_device());
  const int64_t before = memory_stats(test_device()).live_bytes;
  backward(loss);
  CHECK(memory_stats(test_device()).peak_bytes - before < 2 * bytes);
}

TEST_CASE("what an anomaly is looked for in is what a product gave", "[running_sums_test]") {
  const Tensor w = leaf({1, 0, 0, 1}, {2, 2});
  const Tensor large = values({1e308, 1e308, 1, 1}, {2, 2});
  const Tensor y = sum(matmul(large, w) * 1e3);
  const Tensor loss = y + sum(linear(fill({2, 2}), w));
  const Anomaly looks(AnomalyCheck::non_finite);
  CHECK(not_raised<GradError>([&] { backward(loss); }, "the gradient that matmul") == "");
}

}  // namespace
}  // namespace flowgrad::conformance
