// The mixture base and ActNorm, alone and inside the flows.
#include "flowgrad/models/mixture.h"

#include <map>
#include <numbers>
#include <tuple>

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/models/bijectors.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/realnvp.h"
#include "flowgrad/models/registry.h"
#include "flowgrad/models/spline.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::shake;

namespace {

Tensor of(const std::vector<double>& values, const Shape& shape) {
  return Tensor::from(values, shape);
}

/// Two components over two axes, of weights 1/4 and 3/4.
void set_two(GaussianMixture& mixture) {
  mixture.load_state_dict({{"logits", of({0, std::log(3)}, {2})},
                           {"means", of({-2, 1, 3, 0}, {2, 2})},
                           {"log_scales", of({0, std::log(2), std::log(0.5), 0}, {2, 2})}});
}

}  // namespace

TEST_CASE("a mixture's density", "[mixture_test]") {
  Generator generator(1);
  GaussianMixture mixture(2, 2, generator, DType::float64);
  set_two(mixture);
  const auto normal = [](double z, double mean, double scale) {
    const double u = (z - mean) / scale;
    return std::exp(-0.5 * u * u) / (scale * std::sqrt(2 * std::numbers::pi));
  };
  for (const auto& [a, b] : std::vector<std::pair<double, double>>{{0, 0}, {-2, 1}, {3.5, -1}}) {
    const double p =
        0.25 * normal(a, -2, 1) * normal(b, 1, 2) + 0.75 * normal(a, 3, 0.5) * normal(b, 0, 1);
    CHECK(mixture.log_prob(of({a, b}, {1, 2})).item() == Catch::Approx(std::log(p)).epsilon(1e-13));
  }
  // Far out, where every component's density is 0 in double.
  CHECK(mixture.log_prob(of({1e3, 0}, {1, 2})).item() < -1e5);
  CHECK(std::isfinite(mixture.log_prob(of({1e3, 0}, {1, 2})).item()));
  const auto result = gradcheck([&](const Tensor& z) { return mixture.log_prob(z); },
                                randn({4, 2}, generator, DType::float64), {.order = 2});
  INFO(result.message);
  CHECK(result.passed);
  CHECK(mixture.log_prob(zeros({0, 2}, DType::float64)).shape() == Shape{0});
  CHECK(contains(raised<ShapeError>([&] {
                   mixture.log_prob(zeros({3, 3}));
                 }),
                 {"(3, 3)", "(N, 2)"}));
  CHECK(contains(raised<ValueError>([&] { GaussianMixture(0, 2, generator); }),
                 {"components = 0", "at least 1"}));
}

TEST_CASE("draws of a mixture follow its density", "[mixture_test]") {
  Generator generator(1);
  GaussianMixture mixture(2, 2, generator, DType::float64);
  set_two(mixture);
  const int64_t n = 40000;
  const Tensor x = mixture.sample(n, generator);
  CHECK(x.shape() == Shape{n, 2});
  CHECK_FALSE(x.requires_grad());
  // E x = 7/4 and Var x = 1/4 * 1 + 3/4 * 1/4 + 3/16 * 25; E y = 1/4.
  const double variance = 0.25 + 0.75 * 0.25 + 25 * 3.0 / 16;
  const double error = std::sqrt(variance / static_cast<double>(n));
  CHECK(std::abs(mean(select(x, 1, 0)).item() - 1.75) < 4 * error);
  CHECK(var(select(x, 1, 0)).item() == Catch::Approx(variance).epsilon(0.03));
  CHECK(std::abs(mean(select(x, 1, 1)).item() - 0.25) < 4 * std::sqrt(2.0 / n));
  const double share = mean(cast(less(select(x, 1, 0), 0.5), DType::float64)).item();
  CHECK(std::abs(share - 0.25) < 4 * std::sqrt(0.1875 / n) + 0.01);
  // A longer draw begins with the shorter one.
  Generator a(9), b(9);
  CHECK(distance(slice(mixture.sample(50, a), 0, 0, 20), mixture.sample(20, b)) == 0);
  GaussianMixture single(1, 3, generator);
  CHECK(single.sample(5, generator).shape() == Shape{5, 3});
}

TEST_CASE("the reverse KL divergence trains a base of one component", "[mixture_test]") {
  // An affine map of z with z ~ N(m, I) against N(0, I): d KL / d m = m for the identity.
  Generator generator(3);
  const auto kl_of = [&](int components) {
    RealNVP flow({.dim = 2, .n_flows = 2, .hidden = 4, .base_components = components}, generator,
                 DType::float64);
    std::map<std::string, Tensor> p;
    for (const auto& [name, t] : flow.parameters()) p[name] = t;
    {
      NoGrad off;
      copy_(p.at("base.means"), full(p.at("base.means").shape(), 1.5, DType::float64));
    }
    const Sampled s = flow.sample_and_log_prob(50000, generator);
    return std::tuple(mean(s.log_prob - standard_normal_log_prob(s.value)), p.at("base.means"),
                      p.at("base.log_scales"), p.at("base.logits"));
  };
  const auto [kl, means, log_scales, logits] = kl_of(1);
  const std::vector<Tensor> g = grad(kl, {means, log_scales, logits});
  CHECK(distance(g[0], full({1, 2}, 1.5, DType::float64)) < 0.03);
  CHECK(max(abs(g[1])).item() < 0.05);  // e^(2 s) - 1 at s = 0
  CHECK(max(abs(g[2])).item() < 1e-12);
  const auto [of_two, two_means, two_scales, two_logits] = kl_of(2);
  CHECK(grad(of_two, two_means, {.retain_graph = true}).shape() == Shape{2, 2});
  CHECK(contains(raised<GradError>([&] { grad(of_two, two_logits, {.retain_graph = true}); }),
                 {"2 components", "logits"}));
  CHECK(contains(raised<GradError>([&] { backward(of_two); }), {"2 components", "logits"}));
}

TEST_CASE("a flow of no parameters draws and integrates", "[mixture_test]") {
  Permutation flow(2, 1);
  Generator generator(0);
  CHECK(flow.sample(5, generator).shape() == Shape{5, 2});
  CHECK(flow.dtype() == DType::float32);
  CHECK(std::abs(density_integral(flow, {.points = 101}) - 1) < 1e-3);
}

TEST_CASE("names of a module are given once", "[mixture_test]") {
  struct Twice : Module {
    explicit Twice(int kind) {
      add_parameter("w", zeros({2}));
      if (kind == 0) add_parameter("w", zeros({2}));
      if (kind == 1) add_buffer("w", zeros({2}));
      if (kind == 2) add_state("w", zeros({2}));
      if (kind == 3) add_module("w", std::make_unique<Permutation>(2, 0));
    }
  };
  for (int kind = 0; kind < 4; ++kind)
    CHECK(contains(raised<ValueError>([&] { Twice t(kind); }), {"\"w\" given twice"}));
  CHECK(Twice(4).parameters().size() == 1);
}

TEST_CASE("what cannot be loaded changes nothing", "[mixture_test]") {
  Generator generator(1);
  GaussianMixture mixture(1, 1, generator);
  const Tensor zero = zeros({1}, DType::float64), before = mixture.state_dict()[1].second;
  const auto refused = [&](const NamedTensors& extra, const Tensor& means) {
    NamedTensors state{{"logits", zero}, {"means", means}, {"log_scales", zeros({1, 1})}};
    state.insert(state.end(), extra.begin(), extra.end());
    return raised<IoError>([&] { mixture.load_state_dict(state); });
  };
  const Tensor value = of({1e300}, {1, 1});
  CHECK(contains(refused({}, value), {"\"means\"", "float32"}));
  CHECK(contains(refused({{"logits", zero}}, zeros({1, 1})), {"\"logits\" is given twice"}));
  CHECK(contains(refused({{"more", {}}}, zeros({1, 1})), {"\"more\"", "undefined"}));
  CHECK(distance(mixture.state_dict()[1].second, before) == 0);
}

TEST_CASE("a coupling alone takes a condition as a whole flow does", "[mixture_test]") {
  Generator g(2);
  const auto check = [&](Flow& layer) {
    shake(layer, 3, 0.3);
    const Tensor x = randn({4, 3}, g), one = randn({1, 2}, g);
    CHECK(distance(layer.forward(x, one).value, layer.forward(x, expand(one, {4, 2})).value) == 0);
    CHECK(contains(raised<ShapeError>([&] { layer.forward(x); }), {"condition absent"}));
    CHECK(contains(raised<ShapeError>([&] { layer.inverse(x, randn({4, 3}, g)); }), {"(4, 3)"}));
  };
  CouplingLayer affine({.dim = 3, .hidden = 5, .condition_dim = 2}, true, g, DType::float32);
  check(affine);
  SplineCoupling spline({.dim = 3, .hidden = 5, .condition_dim = 2}, true, g, DType::float32);
  check(spline);
}

TEST_CASE("a flow on a mixture base is normalized and samples what it says", "[mixture_test]") {
  const std::string kind = GENERATE("realnvp", "spline");
  Generator generator(3);
  const auto model =
      make_model(kind, {{"hidden", "8"}, {"n_flows", "2"}, {"base_components", "3"}}, generator);
  auto& flow = dynamic_cast<Flow&>(model->module());
  shake(flow, 5, 0.3);
  CHECK(std::abs(density_integral(flow, {.points = 201}) - 1) < 1e-3);
  const Tensor x = flow.sample(20000, generator);
  const Tensor z = flow.inverse(x).value;
  // The base's own entropy: draws through the flow come from the mixture, not from N(0, I).
  const Tensor drawn = flow.base_log_prob(flow.base_sample(20000, generator));
  const double error = std::sqrt(2 * var(drawn).item() / 20000);
  CHECK(std::abs(mean(flow.base_log_prob(z)).item() - mean(drawn).item()) < 4 * error);
  CHECK(std::abs(mean(standard_normal_log_prob(z)).item() - mean(drawn).item()) > 10 * error);
  const Tensor through = model->evaluate("log_prob", {.input = slice(x, 0, 0, 7)}, {}, generator);
  CHECK(distance(through, flow.log_prob(slice(x, 0, 0, 7))) == 0);
}

TEST_CASE("ActNorm starts from the first batch", "[mixture_test]") {
  const auto [channels, positions] =
      GENERATE(std::pair<int64_t, int64_t>{6, 1}, std::pair<int64_t, int64_t>{3, 4});
  Generator generator(3);
  ActNorm layer(channels, DType::float64, positions);
  const Tensor spread = exp(randn({channels, 1}, generator, DType::float64));
  const Tensor offset = randn({channels, 1}, generator, DType::float64) * 5.0;
  const Tensor x = reshape(
      randn({50, channels, positions}, generator, DType::float64) * spread + offset, {50, -1});
  CHECK(distance(layer.inverse(x).value, x) == 0);
  layer.initialize_from(x);
  const Tensor z = reshape(layer.inverse(x).value, {50, channels, positions});
  CHECK(distance(mean(z, {0, 2}), zeros({channels}, DType::float64)) < 1e-12);
  CHECK(distance(var(z, {0, 2}, 0), ones({channels}, DType::float64)) < 1e-4);
  CHECK(reconstruction_error(layer, x).max < 1e-12);
  CHECK(log_det_error(layer, x).max < 1e-9);
  // Once only, and the state says so.
  layer.initialize_from(x * 3.0 + 1.0);
  CHECK(distance(reshape(layer.inverse(x).value, z.shape()), z) == 0);
  ActNorm again(channels, DType::float64, positions);
  again.load_state_dict(layer.state_dict());
  again.initialize_from(x * 3.0 + 1.0);
  CHECK(distance(again.inverse(x).value, layer.inverse(x).value) == 0);
  // Weights from elsewhere need no flag: they are not to be overwritten.
  NamedTensors bare = layer.state_dict();
  bare.pop_back();
  ActNorm foreign(channels, DType::float64, positions);
  foreign.load_state_dict(bare);
  foreign.initialize_from(x * 3.0 + 1.0);
  CHECK(distance(foreign.inverse(x).value, layer.inverse(x).value) == 0);
}

TEST_CASE("ActNorm refuses a batch that says nothing", "[mixture_test]") {
  ActNorm layer(2, DType::float32);
  CHECK(contains(raised<ValueError>([&] {
                   layer.initialize_from(ones({1, 2}));
                 }),
                 {"(1, 2)", "1 values", "at least 2"}));
  CHECK(contains(raised<ValueError>([&] {
                   layer.initialize_from(zeros({0, 2}));
                 }),
                 {"at least 2"}));
  CHECK(contains(raised<ValueError>([&] {
                   layer.initialize_from(full({4, 2}, NAN));
                 }),
                 {"finite"}));
  CHECK(contains(raised<ShapeError>([&] {
                   layer.initialize_from(ones({4, 3}));
                 }),
                 {"(4, 3)", "(N, 2)"}));
  // Nothing was changed; a constant axis is accepted.
  CHECK(distance(layer.inverse(ones({2, 2})).value, ones({2, 2})) == 0);
  layer.initialize_from(ones({4, 2}));
  CHECK(all(isfinite(layer.inverse(ones({2, 2})).value)).item() == 1);
}

TEST_CASE("a stack is initialized layer by layer, from data to base", "[mixture_test]") {
  Generator generator(3);
  for (const std::string kind : {"realnvp", "spline"}) {
    const auto model =
        make_model(kind, {{"hidden", "8"}, {"dim", "3"}, {"actnorm", "true"}, {"permute", "true"}},
                   generator, DType::float64);
    const Tensor x = randn({200, 3}, generator, DType::float64) * 4.0 + 7.0;
    model->initialize_from({.input = x});
    const Tensor z = model->evaluate("inverse", {.input = x}, {}, generator);
    CHECK(distance(mean(z, {0}), zeros({3}, DType::float64)) < 1e-9);
    CHECK(distance(var(z, {0}, 0), ones({3}, DType::float64)) < 1e-4);
    int64_t flags = 0;
    for (const auto& [name, t] : model->module().buffers())
      if (name.ends_with("initialized")) flags += t.item() == 1;
    CHECK(flags == (kind == "realnvp" ? 8 : 4));
  }
}
