#include <cmath>

#include "autograd/conformance.h"
#include "device/device.h"

// Leaves and the handles of tensors: which tensor a gradient belongs to, and what keeps it.
namespace flowgrad::conformance {
namespace {

TEST_CASE("a view that changes nothing has a place of its own", "[leaf_test][device]") {
  const std::vector<std::pair<const char*, Function>> views{
      {"slice", [](const Tensor& h) { return slice(h, 0, 0, h.size(0)); }},
      {"reshape", [](const Tensor& h) { return reshape(h, h.shape()); }},
      {"view", [](const Tensor& h) { return view(h, h.shape()); }},
      {"expand", [](const Tensor& h) { return expand(h, h.shape()); }},
      {"transpose", [](const Tensor& h) { return transpose(h, 0, 0); }},
      {"permute", [](const Tensor& h) { return permute(h, {0}); }},
      {"flatten", [](const Tensor& h) { return flatten(h); }}};
  const Tensor x = leaf({1, 1});
  for (const auto& [name, view] : views) {
    INFO(name);
    const Tensor h = x * 2, v = view(h);
    CHECK(differs(grad(sum(v * v) + sum(h), v), {4, 4}) == "");
    const Tensor plain = values({1, 2}), part = view(plain);
    CHECK(part.requires_grad_().requires_grad());
    CHECK_FALSE(plain.requires_grad());
    CHECK(part.storage().data() == plain.storage().data());
  }
}

TEST_CASE("a leaf that was frozen for a while is the same leaf", "[leaf_test][device]") {
  const Tensor p = leaf({1, 2});
  const Tensor loss = sum(p * p);
  p.requires_grad_(false);
  CHECK_FALSE((p * 2).requires_grad());
  p.requires_grad_();
  backward(loss, {}, true);
  CHECK(differs(p.grad(), {2, 4}) == "");
  // Its gradient stays, and no other comes while it is frozen.
  p.requires_grad_(false);
  CHECK(differs(p.grad(), {2, 4}) == "");
  backward(loss, {}, true);
  CHECK(differs(p.grad(), {2, 4}) == "");
  p.requires_grad_();
  backward(loss);
  CHECK(differs(p.grad(), {4, 8}) == "");
}

TEST_CASE("a stored gradient is off the tape and its elements are its own", "[leaf_test][device]") {
  const Tensor x = leaf({1, 2, 3});
  CHECK(not_raised<GradError>([&] { x.set_grad(expand(values({1}), {3})); },
                              "set_grad: the gradient shows elements more than once") == "");
  const int64_t before = memory_stats().live_bytes;
  {
    const Tensor y = leaf({1, 2, 3});
    y.set_grad(y * 2);
    CHECK_FALSE(y.grad().requires_grad());
    backward(sum(y));
    CHECK(differs(y.grad(), {3, 5, 7}) == "");
  }
  CHECK(memory_stats().live_bytes == before);
}

TEST_CASE("gradients of a bfloat16 leaf add up", "[leaf_test][device]") {
  const Tensor x = cast(values({1, 2}), DType::bfloat16).detach().requires_grad_();
  const Tensor wide = cast(x, DType::float64);
  backward(sum(wide) + sum(cast(x, DType::float64) * 2));
  backward(sum(cast(expand(x, {3, 2}), DType::float64)));
  CHECK(x.grad().dtype() == DType::bfloat16);
  CHECK(differs(cast(x.grad(), DType::float64), {6, 6}) == "");
}

TEST_CASE("a number that no integer holds makes a result of float32", "[leaf_test][device]") {
  const Tensor a =
      Tensor::from(std::vector<int64_t>{2, -4}, {2}, DType::int64, testing::test_device());
  const double infinity = HUGE_VAL;
  const auto same = [](const Tensor& got, double first, double second) {
    CHECK(got.dtype() == DType::float32);
    CHECK(got.to_vector<float>() ==
          std::vector<float>{static_cast<float>(first), static_cast<float>(second)});
  };
  same(a + infinity, infinity, infinity);
  same(a * -infinity, -infinity, infinity);
  same(a * 1e19, 2e19, -4e19);
  same(infinity - a, infinity, infinity);
  CHECK((a + 0x1p62).dtype() == DType::int64);
  CHECK(clamp(a, -infinity, 2).to_vector<int64_t>() == std::vector<int64_t>{2, -4});
}

TEST_CASE("the slope of a zeroth power is zero for any cotangent", "[leaf_test][device]") {
  const Tensor x = leaf({0, 2});
  for (const bool recorded : {false, true}) {
    const Tensor y = pow(x, 0.0), cotangent = values({HUGE_VAL, 1});
    const std::vector<Tensor> g = grad(std::span(&y, 1), std::span(&x, 1), std::span(&cotangent, 1),
                                       {.create_graph = recorded});
    CHECK(differs(g[0], {0, 0}) == "");
  }
}

}  // namespace
}  // namespace flowgrad::conformance
