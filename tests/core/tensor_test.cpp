#include "flowgrad/core/tensor.h"

#include <cmath>
#include <limits>
#include <thread>

#include "catch.hpp"

using namespace flowgrad;
using V = std::vector<double>;
using I = std::vector<int64_t>;

TEST_CASE("tensors from values and back, in every dtype", "[tensor_test]") {
  const V v{0, 1, -2.5, 3};
  for (DType dtype : {DType::float32, DType::float64, DType::bfloat16}) {
    const Tensor t = Tensor::from(v, {2, 2}, dtype);
    CHECK(t.dtype() == dtype);
    CHECK(t.to_vector<double>() == v);
    CHECK(t.at({1, 0}) == -2.5);
  }
  CHECK(Tensor::from(v, {4}, DType::int64).to_vector<int64_t>() == I{0, 1, -2, 3});
  CHECK(Tensor::from(v, {4}, DType::boolean).to_vector<bool>() ==
        std::vector<bool>{false, true, true, true});
  CHECK(Tensor::from(std::vector<bool>{true, false}, {2}).to_vector<double>() == V{1, 0});
  // Beyond int64 the bound is taken, and NaN becomes 0, whatever the processor would do.
  const V extreme{1e300, -1e300, std::numeric_limits<double>::quiet_NaN(), 0x1p63};
  constexpr auto kLeast = std::numeric_limits<int64_t>::min();
  constexpr auto kMost = std::numeric_limits<int64_t>::max();
  CHECK(Tensor::from(extreme, {4}, DType::int64).to_vector<int64_t>() ==
        I{kMost, kLeast, 0, kMost});
  CHECK(Tensor::from(extreme, {4}).to_vector<int64_t>() == I{kMost, kLeast, 0, kMost});
  CHECK(Tensor::from(std::vector<float>{1.5f}, {}).item() == 1.5);
  CHECK(Tensor::from(V{}, {0, 3}).numel() == 0);
  CHECK(Tensor::from(V{}, {0, 3}).to_vector<float>().empty());
}

TEST_CASE("bfloat16 rounds to the nearest even", "[tensor_test]") {
  const auto round_trip = [](float x) { return static_cast<float>(bfloat16(x)); };
  CHECK(round_trip(1.0f) == 1.0f);
  CHECK(round_trip(1.00390625f) == 1.0f);
  CHECK(round_trip(1.01171875f) == 1.015625f);
  CHECK(round_trip(3.4e38f) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(round_trip(std::nanf(""))));
}

TEST_CASE("tensor errors name what was given", "[tensor_test]") {
  const Tensor t = Tensor::from(V{1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK_THROWS_WITH(Tensor::from(V{1, 2}, {3}),
                    "Tensor::from: 2 values given for shape (3,) (3 elements)");
  CHECK_THROWS_WITH(t.item(), "item: shape (2, 3) given; exactly one element is accepted");
  CHECK_THROWS_WITH(t.at({0, 3}), "at: index (0, 3) is outside of shape (2, 3) on axis 1");
  CHECK_THROWS_AS(t.at({-1, 0}), ShapeError);
  CHECK_THROWS_AS(t.at({0}), ShapeError);
  CHECK_THROWS_WITH(t.data<float>(),
                    "data: elements of float32 asked for; the tensor holds float64");
  CHECK_THROWS_AS(t.size(2), ShapeError);
  CHECK(t.size(-1) == 3);
  CHECK_THROWS_AS(Tensor::from(V{1}, {}).size(0), ShapeError);
  CHECK_THROWS_AS(Tensor().shape(), Error);
  CHECK_THROWS_AS(Tensor::empty({-1}), ShapeError);
  CHECK_THROWS_AS(Tensor::empty({2}, DType::float32, Device{Device::Kind::cuda, 100}), DeviceError);
}

TEST_CASE("views share the bytes", "[tensor_test]") {
  const Tensor t = Tensor::from(V{0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor column = t.with_layout(sliced("test", t.layout(), 1, 1, 2, 1));
  CHECK(column.to_vector<double>() == V{1, 4});
  CHECK_FALSE(column.is_contiguous());
  column.data<double>()[0] = 9;
  CHECK(t.at({0, 1}) == 9);
  const Tensor turned = t.with_layout(transposed("test", t.layout(), 0, 1));
  CHECK(turned.to_vector<double>() == V{0, 3, 9, 4, 2, 5});
  CHECK(turned.at({1, 1}) == 4);
  CHECK(t.storage_ref() == column.storage_ref());
  CHECK_FALSE(t.is_sole_owner());
  CHECK(Tensor::from(V{1}, {1}).is_sole_owner());
}

TEST_CASE("a view cannot reach outside of its storage", "[tensor_test]") {
  const Tensor t = Tensor::from(V{0, 1, 2, 3, 4, 5}, {6});
  CHECK(Tensor::over(t.storage_ref(), {{3}, {-2}, 5}, DType::float64).to_vector<double>() ==
        V{5, 3, 1});
  const int64_t room = static_cast<int64_t>(t.storage().bytes()) / 8;
  CHECK_THROWS_AS(Tensor::over(t.storage_ref(), {{3}, {-2}, 3}, DType::float64), ShapeError);
  CHECK_THROWS_AS(Tensor::over(t.storage_ref(), {{room + 1}, {1}, 0}, DType::float64), ShapeError);
  CHECK_THROWS_AS(Tensor::over(t.storage_ref(), {{room}, {1}, 1}, DType::float64), ShapeError);
  CHECK(Tensor::over(t.storage_ref(), {{0}, {1}, 0}, DType::float64).numel() == 0);
}

TEST_CASE("leaves of the tape", "[tensor_test]") {
  const Tensor t = Tensor::from(V{1, 2}, {2});
  CHECK_FALSE(t.requires_grad());
  CHECK(t.is_leaf());
  CHECK_FALSE(t.grad().defined());
  CHECK_THROWS_AS(t.set_grad(Tensor::from(V{1, 2}, {2})), GradError);
  CHECK(t.requires_grad_().same_as(t));
  CHECK(t.requires_grad());
  CHECK(t.is_leaf());
  t.set_grad(Tensor::from(V{5, 6}, {2}));
  CHECK(t.grad().to_vector<double>() == V{5, 6});
  CHECK_THROWS_WITH(t.set_grad(Tensor::from(V{1}, {1})),
                    "set_grad: gradient (1,) float64 given for a tensor (2,) float64");
  CHECK_THROWS_AS(t.set_grad(Tensor::from(V{1, 2}, {2}, DType::float32)), GradError);
  t.zero_grad();
  CHECK_FALSE(t.grad().defined());
  const Tensor off = t.detach();
  CHECK_FALSE(off.requires_grad());
  CHECK(off.storage_ref() == t.storage_ref());
  t.requires_grad_(false);
  CHECK_FALSE(t.requires_grad());
  CHECK_THROWS_WITH(Tensor::from(I{1}, {1}).requires_grad_(),
                    "requires_grad_: dtype int64 given; only floating dtypes have gradients");
}

TEST_CASE("the result of an operation is no leaf", "[tensor_test]") {
  struct Node final : TapeNode {
    Node() : TapeNode(false) {}
  };
  const Tensor t = Tensor::from(V{1}, {1});
  t.attach(make_ref<Node>(), 0);
  CHECK(t.requires_grad());
  CHECK_FALSE(t.is_leaf());
  CHECK_THROWS_AS(t.requires_grad_(), GradError);
  CHECK(t.detach().is_leaf());
}

TEST_CASE("a million nodes are released without recursion", "[tensor_test]") {
  struct Node final : TapeNode {
    explicit Node(Ref<TapeNode> before) : TapeNode(false), before(std::move(before)) {}
    Ref<TapeNode> before;
  };
  std::thread([] {
    Ref<TapeNode> last;
    for (int i = 0; i < 1000000; ++i) last = make_ref<Node>(std::move(last));
    CHECK(last->number() >= 1000000);
    last.reset();
    CHECK(last == Ref<TapeNode>());
  }).join();
}

TEST_CASE("writes raise the version and leave a name", "[tensor_test]") {
  const Tensor t = Tensor::from(V{1}, {1});
  const uint64_t before = t.storage().version();
  t.storage().mark_written("adam step");
  CHECK(t.detach().storage().version() == before + 1);
  CHECK(std::string(t.storage().last_writer()) == "adam step");
}

TEST_CASE("tensors as text", "[tensor_test]") {
  CHECK(to_string(Tensor::from(V{1, 2, 3, 4}, {2, 2})) == "[[1, 2], [3, 4]] float64 (2, 2)");
  CHECK(to_string(Tensor::from(std::vector<bool>{true}, {})) == "true bool ()");
  CHECK(to_string(Tensor::empty({0, 2})) == "[] float32 (0, 2)");
  CHECK(to_string(Tensor()) == "undefined tensor");
  V many(100);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<double>(i);
  CHECK(to_string(Tensor::from(many, {100})) == "[0, 1, 2, 3, ..., 96, 97, 98, 99] float64 (100,)");
}

TEST_CASE("dtypes: names, sizes, promotion", "[tensor_test]") {
  CHECK(std::string(name_of(DType::boolean)) == "bool");
  CHECK(size_of(DType::bfloat16) == 2);
  CHECK(promote(DType::int64, DType::float32) == DType::float32);
  CHECK(promote(DType::float64, DType::boolean) == DType::float64);
  CHECK_THROWS_WITH(visit_numeric("op", DType::boolean, [](auto) {}),
                    "op: dtype bool given; float32, float64 and int64 are accepted");
  CHECK_THROWS_AS(visit_floating("op", DType::int64, [](auto) {}), DTypeError);
}
