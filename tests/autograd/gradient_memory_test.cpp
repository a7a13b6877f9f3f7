// A rule writes its gradient over the cotangent that it read, and only where nobody else reads it.
#include "autograd/conformance.h"
#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/core/allocator.h"
#include "models/close.h"

namespace flowgrad::conformance {
namespace {

using testing::agree;

/// Every kind of rule that may take a cotangent's memory: by value, by argument, by a number, of
/// two operands.
Tensor through(const Tensor& x, const Tensor& w) {
  const Tensor y = tanh(x) * 0.5, z = square(-y);
  return sin(z / w) * (w * z);
}
std::vector<Tensor> pull(const Tensor& y, const std::vector<Tensor>& inputs,
                         const Tensor& cotangent, const GradOptions& options) {
  return grad(std::span(&y, 1), inputs, std::span(&cotangent, 1), options);
}
Tensor slope_of_through(const Tensor& x, const Tensor& w, const Tensor& cotangent) {
  const Tensor x1 = clone(x.detach()).requires_grad_();
  // Recorded rules never write over what they read.
  return pull(through(x1, w), {x1}, cotangent, {.create_graph = true})[0].detach();
}

TEST_CASE("gradients over cotangents are those of recorded rules",
          "[gradient_memory_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Tensor x = clone(cast(fill({4, 5}, 1), dtype)).requires_grad_();
    const Tensor w = clone(cast(fill({5}, 2) + 2, dtype)).requires_grad_();
    const Tensor cotangent = cast(fill({4, 5}, 3), dtype);
    const auto before = cast(cotangent, DType::float64).to_vector<double>();
    const Tensor y = through(x, w);
    const std::vector<Tensor> want = pull(y, {x, w}, cotangent, {.create_graph = true});
    for (int i = 0; i < 2; ++i)
      agree(pull(y, {x, w}, cotangent, {.retain_graph = true}),
            {want[0].detach(), want[1].detach()});
    CHECK(differs(cast(cotangent, DType::float64), before) == "");
  }
}

TEST_CASE("a gradient that was asked for stays", "[gradient_memory_test][device]") {
  const Tensor x = clone(fill({4, 5}, 1)).requires_grad_(), w = fill({5}, 2) + 2;
  const Tensor cotangent = fill({4, 5}, 3);
  const Tensor inside = x * 1.0, y = through(inside, w);
  const Tensor want = slope_of_through(x, w, cotangent);
  agree(pull(y, {inside, x}, cotangent, {.retain_graph = true}), {want, want});
  // Of a value in the middle, whose own rule is the next to run.
  const Tensor h = tanh(x), out = exp(h) * w;
  const Tensor of_h = (exp(h.detach()) * w * cotangent).detach();
  agree(pull(out, {h, x}, cotangent, {.retain_graph = true}),
        {of_h, of_h * (1.0 - square(h.detach()))});
  retain_grad(h);
  backward(out, cotangent);
  agree({h.grad(), x.grad()}, {of_h, of_h * (1.0 - square(h.detach()))});
}

TEST_CASE("a gradient that somebody keeps stays", "[gradient_memory_test][device]") {
  const Tensor x = clone(fill({4, 5}, 1)).requires_grad_(), w = fill({5}, 2) + 2;
  Tensor seen;
  const Tensor inside = tap(x * 2.0, [&](const Tensor& g) {
    seen = g;
    return Tensor();
  });
  const Tensor g = grad(sum(exp(inside) * w), {x})[0];
  agree({seen, g}, {exp(2.0 * x.detach()) * w, exp(2.0 * x.detach()) * w * 2.0});
}

TEST_CASE("terms of a sum do not write over each other's cotangent",
          "[gradient_memory_test][device]") {
  const Tensor a = clone(fill({4, 5}, 1)).requires_grad_(),
               b = clone(fill({4, 5}, 2)).requires_grad_(), weights = fill({4, 5}, 3);
  const std::vector<Tensor> got = grad(sum((tanh(a) + exp(b)) * weights), {a, b});
  agree(got, {weights * (1.0 - square(tanh(a.detach()))), weights * exp(b.detach())});
}

TEST_CASE("a factor used often has the gradient of all its uses",
          "[gradient_memory_test][device]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const auto chain = [](const Tensor& x, const std::vector<Tensor>& w) {
      const Tensor y = w[2] * (x * w[0] * w[1]);
      return sum(y * w[3] * w[4]) + sum(w[5] * w[6]) + sum(y * transpose(w[7]));
    };
    const Tensor x = cast(fill({3, 3}, 1), dtype), start = cast(fill({3, 3}, 2), dtype);
    const Tensor w = clone(start).requires_grad_();
    std::vector<Tensor> leaves;
    for (int i = 0; i < 8; ++i) leaves.push_back(clone(start).requires_grad_());
    Tensor want = zeros_like(start);
    for (const Tensor& g : grad(chain(x, leaves), leaves)) want = want + g;
    agree(grad(chain(x, std::vector<Tensor>(8, w)), {w}), {want});
  }
}

TEST_CASE("the way back through elementwise operations takes the memory of one cotangent",
          "[gradient_memory_test]") {
  constexpr int64_t n = 128, bytes = n * n * 8;
  const Tensor w = clone(fill({n, n}, 2)).requires_grad_();
  Tensor y = clone(fill({n, n}, 1)).requires_grad_();
  for (int i = 0; i < 4; ++i) y = tanh(y * w) * .5;
  const Tensor loss = sum(y);
  reset_peak_memory(test_device());
  const int64_t before = memory_stats(test_device()).live_bytes;
  const Tensor g = grad(loss, {w}, {.retain_graph = true})[0];
  // The cotangent and the gradient of w, while every saved value stays.
  CHECK(memory_stats(test_device()).peak_bytes - before < 5 * bytes / 2);
}

}  // namespace
}  // namespace flowgrad::conformance
