#include "flowgrad/optim/optimizer.h"

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "optim/golden_numbers.h"

using namespace flowgrad;
using io_test::Contains;
using io_test::error_of;

namespace {

/// The gradient of golden_numbers.py.
Tensor gradient(int64_t offset, int64_t n, int64_t step, DType dtype) {
  std::vector<double> g;
  for (int64_t i = 0; i < n; ++i) {
    g.push_back(static_cast<double>(((offset + i) * 7 + step * 5) % 11 - 5) / 8);
  }
  return Tensor::from(g, {n}, dtype);
}

struct Pair {
  explicit Pair(DType dtype)
      : p(tensor({0.5, -1, 2}, dtype).requires_grad_()),
        q(tensor({0.25, -0.125}, dtype).requires_grad_()) {}
  void set_gradients(int64_t step) const {
    p.set_grad(gradient(0, 3, step, p.dtype()));
    q.set_grad(step == 0 || step == 2 ? Tensor() : gradient(3, 2, step, q.dtype()));
  }
  std::vector<double> values() const {
    std::vector<double> all = p.to_vector<double>();
    for (const double v : q.to_vector<double>()) all.push_back(v);
    return all;
  }
  NamedTensors named() const { return {{"p", p}, {"q", q}}; }
  Tensor p, q;
};

using Make = std::function<std::unique_ptr<Optimizer>(const Pair&)>;

struct Case {
  const char* name;
  Make make;
  const std::vector<std::vector<double>>* golden;
};

std::vector<Case> cases() {
  const auto one = [](const Pair& t, double decay) {
    return std::vector<ParameterGroup>{{t.named(), 1, decay}};
  };
  return {
      {"sgd_plain",
       [=](const Pair& t) { return std::make_unique<Sgd>(one(t, 0), SgdOptions{.lr = 0.1}); },
       &pytorch::sgd_plain},
      {"sgd_decay",
       [](const Pair& t) {
         return std::make_unique<Sgd>(
             std::vector<ParameterGroup>{{{{"p", t.p}}, 1, 0.3}, {{{"q", t.q}}, 0.5, 0}},
             SgdOptions{.lr = 0.1});
       },
       &pytorch::sgd_decay},
      {"sgd_momentum_dampened",
       [=](const Pair& t) {
         return std::make_unique<Sgd>(one(t, 0.1),
                                      SgdOptions{.lr = 0.1, .momentum = 0.9, .dampening = 0.25});
       },
       &pytorch::sgd_momentum_dampened},
      {"sgd_nesterov",
       [=](const Pair& t) {
         return std::make_unique<Sgd>(one(t, 0.1),
                                      SgdOptions{.lr = 0.1, .momentum = 0.8, .nesterov = true});
       },
       &pytorch::sgd_nesterov},
      {"adam",
       [=](const Pair& t) {
         return std::make_unique<Adam>(one(t, 0), AdamOptions{.lr = 0.01, .decoupled = false});
       },
       &pytorch::adam},
      {"adam_l2",
       [=](const Pair& t) {
         return std::make_unique<Adam>(
             one(t, 0.5),
             AdamOptions{
                 .lr = 0.01, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .decoupled = false});
       },
       &pytorch::adam_l2},
      {"adamw",
       [](const Pair& t) {
         return std::make_unique<Adam>(
             std::vector<ParameterGroup>{{{{"p", t.p}}, 1, 0.5}, {{{"q", t.q}}, 2, 0}},
             AdamOptions{.lr = 0.01});
       },
       &pytorch::adamw},
  };
}

Tensor leaf(std::initializer_list<double> values) { return tensor(values).requires_grad_(); }

}  // namespace

TEST_CASE("optimisers give PyTorch's numbers over five steps", "[optimizer_test]") {
  for (const DType dtype : {DType::float64, DType::float32}) {
    const double tolerance = dtype == DType::float64 ? 1e-14 : 4e-7;
    for (const Case& c : cases()) {
      const Pair t(dtype);
      const auto optimizer = c.make(t);
      for (size_t step = 0; step < c.golden->size(); ++step) {
        t.set_gradients(static_cast<int64_t>(step));
        optimizer->step();
        const std::vector<double> values = t.values();
        for (size_t i = 0; i < values.size(); ++i) {
          INFO(c.name << ", " << name_of(dtype) << ", step " << step << ", element " << i);
          CHECK(std::abs(values[i] - (*c.golden)[step][i]) <= tolerance * 4);
        }
      }
      CHECK(optimizer->steps_done() == 5);
    }
  }
}

TEST_CASE("an optimiser goes on from its saved state bit for bit", "[optimizer_test]") {
  for (const Case& c : cases()) {
    INFO(c.name);
    const Pair whole(DType::float32);
    const auto straight = c.make(whole);
    const Pair halves(DType::float32);
    auto optimizer = c.make(halves);
    for (int64_t step = 0; step < 5; ++step) {
      if (step == 1 || step == 3) {
        NamedTensors copies;
        for (const auto& [name, value] : optimizer->state_dict())
          copies.emplace_back(name, clone(value));
        optimizer = c.make(halves);
        optimizer->load_state_dict(copies);
        CHECK(optimizer->steps_done() == step);
      }
      whole.set_gradients(step);
      straight->step();
      halves.set_gradients(step);
      optimizer->step();
    }
    CHECK(io_test::same_bits(whole.p, halves.p));
    CHECK(io_test::same_bits(whole.q, halves.q));
  }
}

TEST_CASE("the state of Adam has PyTorch's names", "[optimizer_test]") {
  const Pair t(DType::float32);
  Adam optimizer({{t.named()}});
  t.set_gradients(0);
  optimizer.step();
  std::vector<std::string> names;
  for (const auto& [name, value] : optimizer.state_dict()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"step", "p.step", "p.exp_avg", "p.exp_avg_sq", "q.step",
                                          "q.exp_avg", "q.exp_avg_sq"});
  // q had no gradient: it is as young as before.
  CHECK(optimizer.state_dict()[1].second.item() == 1);
  CHECK(optimizer.state_dict()[4].second.item() == 0);
}

TEST_CASE("a state that does not fit is refused and changes nothing", "[optimizer_test]") {
  const Pair t(DType::float32);
  Adam optimizer({{t.named()}});
  t.set_gradients(1);
  optimizer.step();
  NamedTensors good;
  for (const auto& [name, value] : optimizer.state_dict()) good.emplace_back(name, clone(value));
  const auto refusal = [&](NamedTensors state) {
    const std::string message = error_of([&] { optimizer.load_state_dict(state); });
    const NamedTensors now = optimizer.state_dict();
    for (size_t i = 0; i < good.size(); ++i)
      CHECK(io_test::same_bits(now[i].second, good[i].second));
    return message;
  };
  NamedTensors missing = good;
  missing.erase(missing.begin() + 2);
  CHECK_THAT(refusal(missing), Contains("\"p.exp_avg\" is missing"));
  NamedTensors extra = good;
  extra.emplace_back("r.exp_avg", zeros({1}));
  CHECK_THAT(refusal(extra), Contains("\"r.exp_avg\" is not known"));
  NamedTensors shape = good;
  shape[2].second = zeros({4});
  CHECK_THAT(refusal(shape), Contains("\"p.exp_avg\" is (4,) float32; (3,) float32 is needed"));
  NamedTensors type = good;
  type[3].second = zeros({3}, DType::float64);
  CHECK_THAT(refusal(type), Contains("\"p.exp_avg_sq\" is (3,) float64"));
  NamedTensors twice = good;
  twice.push_back(good[2]);
  CHECK_THAT(refusal(twice), Contains("\"p.exp_avg\" is given twice"));
  for (const size_t count : {size_t{0}, size_t{4}}) {
    NamedTensors negative = good;
    negative[count].second = Tensor::from(std::vector<int64_t>{-1}, {1});
    CHECK_THAT(refusal(negative), Contains("is -1; it must be at least 0"));
  }
}

TEST_CASE("a step reaches values that a graph has saved, and the graph says so",
          "[optimizer_test]") {
  const Tensor w = leaf({1, 2});
  const Tensor loss = sum(square(w));
  Sgd optimizer({{{{"w", w}}}}, {.lr = 0.1});
  w.set_grad(tensor({1, 1}));
  optimizer.step();
  CHECK_THAT(error_of<GradError>([&] { backward(loss); }), Contains("optimiser step"));
}

TEST_CASE("gradients in any layout and zero_grad", "[optimizer_test]") {
  const Tensor w = zeros({2, 3}).requires_grad_();
  Sgd optimizer({{{{"w", w}}}}, {.lr = 1});
  w.set_grad(transpose(reshape(arange(0, 6), {3, 2})));
  optimizer.step();
  CHECK(w.to_vector<double>() == std::vector<double>{0, -2, -4, -1, -3, -5});
  optimizer.zero_grad();
  CHECK_FALSE(w.grad().defined());
  optimizer.step();
  CHECK(w.to_vector<double>() == std::vector<double>{0, -2, -4, -1, -3, -5});
}

TEST_CASE("optimisers refuse what they cannot do", "[optimizer_test]") {
  const Tensor w = leaf({1});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto sgd = [&](const SgdOptions& o) {
    return error_of<ValueError>([&] { Sgd({{{{"w", w}}}}, o); });
  };
  CHECK_THAT(sgd({.lr = -1}), Contains("learning rate = -1"));
  CHECK_THAT(sgd({.lr = nan}), Contains("learning rate = nan"));
  CHECK_THAT(sgd({.momentum = -0.5}), Contains("Sgd: momentum = -0.5"));
  CHECK_THAT(sgd({.momentum = 0.5, .dampening = 2}), Contains("Sgd: dampening = 2"));
  CHECK_THAT(sgd({.nesterov = true}), Contains("nesterov with momentum = 0"));
  CHECK_THAT(sgd({.momentum = 0.5, .dampening = 0.1, .nesterov = true}),
             Contains("dampening = 0.1"));
  const auto adam = [&](const AdamOptions& o) {
    return error_of<ValueError>([&] { Adam({{{{"w", w}}}}, o); });
  };
  CHECK_THAT(adam({.beta1 = 1}), Contains("Adam: beta1 = 1"));
  CHECK_THAT(adam({.beta2 = -0.1}), Contains("Adam: beta2 = -0.1"));
  CHECK_THAT(adam({.epsilon = -1}), Contains("Adam: epsilon = -1"));
  const auto group = [&](const ParameterGroup& g) {
    return error_of<ValueError>([&] { Sgd({g}); });
  };
  CHECK_THAT(group({{{"w", w}}, -1, 0}), Contains("lr_factor = -1"));
  CHECK_THAT(group({{{"w", w}}, 1, -2}), Contains("weight_decay = -2"));
  CHECK_THAT(group({{{"w", w}, {"w", leaf({2})}}}), Contains("\"w\" is given twice"));
  CHECK_THAT(group({{{"a", w}, {"b", w}}}), Contains("\"b\" is the same memory as \"a\""));
  CHECK_THAT(error_of<GradError>([&] {
               Sgd({{{{"v", tensor({1})}}}});
             }),
             Contains("\"v\" is not a leaf"));
  CHECK_THAT(error_of<GradError>([&] {
               Sgd({{{{"v", w * 2.0}}}});
             }),
             Contains("\"v\" is not a leaf"));
  const Tensor turned = transpose(zeros({2, 3})).requires_grad_();
  CHECK_THAT(error_of<ShapeError>([&] {
               Sgd({{{{"v", turned}}}});
             }),
             Contains("\"v\" is not contiguous"));
  Sgd fine({{{{"w", w}}}});
  CHECK_THAT(error_of<ValueError>([&] { fine.set_learning_rate(-1); }),
             Contains("learning rate = -1"));
}

TEST_CASE("clipping by the norm of all gradients", "[optimizer_test]") {
  const Tensor a = zeros({2}).requires_grad_();
  const Tensor b = zeros({1, 1}).requires_grad_();
  const Tensor none = zeros({5}).requires_grad_();
  const NamedTensors all{{"a", a}, {"none", none}, {"b", b}};
  CHECK(gradient_norm(all) == 0);
  a.set_grad(tensor({3, -4}));
  b.set_grad(full({1, 1}, 12));
  CHECK(gradient_norm(all) == 13);
  CHECK(clip_grad_norm(all, 13.5) == 13);
  CHECK(a.grad().to_vector<double>() == std::vector<double>{3, -4});
  CHECK(clip_grad_norm(all, 2) == 13);
  CHECK(a.grad().at({0}) == Catch::Approx(pytorch::clipped_to_2[0]).epsilon(1e-7));
  CHECK(a.grad().at({1}) == Catch::Approx(pytorch::clipped_to_2[1]).epsilon(1e-7));
  CHECK(b.grad().item() == Catch::Approx(pytorch::clipped_to_2[2]).epsilon(1e-7));
  CHECK_FALSE(none.grad().defined());
  CHECK_THAT(error_of<ValueError>([&] { clip_grad_norm(all, 0); }), Contains("max_norm = 0"));
}

TEST_CASE("a clipped step is clipping and a step, and leaves the gradients", "[optimizer_test]") {
  Generator generator(3);
  const std::vector<Shape> shapes{{3, 5}, {7}, {}};
  const auto parameters = [&](const std::vector<Tensor>& from) {
    NamedTensors out;
    for (const Tensor& t : from)
      out.emplace_back(std::to_string(out.size()), clone(t).requires_grad_());
    return out;
  };
  using Make = std::unique_ptr<Optimizer> (*)(const NamedTensors&);
  const std::vector<Make> optimizers = {
      [](const NamedTensors& p) -> std::unique_ptr<Optimizer> {
        return std::make_unique<Adam>(std::vector<ParameterGroup>{{p, 1, 0.1}});
      },
      [](const NamedTensors& p) -> std::unique_ptr<Optimizer> {
        return std::make_unique<Adam>(std::vector<ParameterGroup>{{p, 1, 0.1}},
                                      AdamOptions{.decoupled = false});
      },
      [](const NamedTensors& p) -> std::unique_ptr<Optimizer> {
        return std::make_unique<Sgd>(std::vector<ParameterGroup>{{p, 1, 0.1}},
                                     SgdOptions{.momentum = 0.9, .nesterov = true});
      },
      [](const NamedTensors& p) -> std::unique_ptr<Optimizer> {
        return std::make_unique<Sgd>(std::vector<ParameterGroup>{{p}});
      }};
  for (const DType dtype : {DType::float32, DType::float64}) {
    std::vector<Tensor> start;
    for (const Shape& s : shapes) start.push_back(randn(s, generator, dtype));
    for (size_t which = 0; which < optimizers.size(); ++which) {
      CAPTURE(name_of(dtype), which);
      const NamedTensors one = parameters(start), two = parameters(start);
      const auto apart = optimizers[which](one), together = optimizers[which](two);
      for (const double max_norm : {0.5, 100.0, 0.25}) {
        for (size_t i = 0; i < one.size(); ++i) {
          const Tensor g = randn(shapes[i], generator, dtype);
          one[i].second.set_grad(g);
          two[i].second.set_grad(clone(g));
        }
        const auto stored = two[0].second.grad().to_vector<double>();
        const double norm = clip_grad_norm(one, max_norm);
        apart->step();
        CHECK(together->clipped_step(max_norm) == norm);
        CHECK(two[0].second.grad().to_vector<double>() == stored);
        for (size_t i = 0; i < one.size(); ++i)
          CHECK(two[i].second.to_vector<double>() == one[i].second.to_vector<double>());
      }
    }
  }
}

TEST_CASE("a clipped step refuses what cannot be one", "[optimizer_test]") {
  const Tensor w = ones({2}).requires_grad_();
  Adam adam({{{{"w", w}}}});
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    w.set_grad(tensor({5, bad}));
    CHECK_FALSE(std::isfinite(adam.clipped_step(1)));
    CHECK(adam.steps_done() == 0);
    CHECK(w.to_vector<double>() == std::vector<double>{1, 1});
    CHECK_THAT(error_of<ValueError>([&] { adam.step(bad); }), Contains("gradient_factor"));
  }
  CHECK_THAT(error_of<ValueError>([&] { adam.clipped_step(0); }), Contains("max_norm = 0"));
  CHECK_THAT(error_of<ValueError>([&] { adam.step(-1); }), Contains("gradient_factor = -1"));
  CHECK(clip_factor(2, 1) == 1 / (2 + 1e-6));
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(std::nan(""), 1) == 1);
}

TEST_CASE("clipping refuses a norm that is not finite", "[optimizer_test]") {
  const Tensor a = zeros({2}).requires_grad_();
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    a.set_grad(tensor({5, bad}));
    CHECK_FALSE(std::isfinite(clip_grad_norm({{"a", a}}, 1)));
    CHECK(a.grad().at({0}) == 5);
  }
}
