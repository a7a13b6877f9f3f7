// Heads of a policy: known minima, gradients, what they draw and refuse.
#include "flowgrad/models/action_head.h"

#include <cmath>

#include "flowgrad/autograd/gradcheck.h"
#include "flowgrad/optim/optimizer.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;

namespace {

ActionHeadOptions small_head() {
  ActionHeadOptions o;
  o.feature_dim = 3;
  o.chunk_dim = 2;
  o.hidden = 16;
  o.time_dim = 8;
  o.time_scale = 30;
  o.n_timesteps = 8;
  o.latent_dim = 2;
  return o;
}

std::unique_ptr<ActionHead> make(HeadKind kind, DType dtype = DType::float64,
                                 const ActionHeadOptions& o = small_head()) {
  Generator generator(3);
  return make_action_head(kind, o, generator, dtype);
}

const std::vector<HeadKind> kAll = {HeadKind::flow, HeadKind::diffusion, HeadKind::regression,
                                    HeadKind::cvae, HeadKind::mip};
std::string name(HeadKind kind) { return head_names()[static_cast<size_t>(kind)]; }

/// Two ways in equal shares, +1 and -1, whatever the feature; the second number is always 0.5.
void train_on_two_ways(ActionHead& head, int64_t steps) {
  Generator generator(5);
  Adam optimizer({{.parameters = head.parameters()}}, {.lr = 3e-3});
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor sign = rademacher({64, 1}, generator);
    const Tensor chunk = concat({sign, full({64, 1}, 0.5)}, 1);
    optimizer.zero_grad();
    backward(head.loss(zeros({64, 3}), chunk, generator));
    optimizer.step();
  }
}

}  // namespace

TEST_CASE("what heads make of two ways: a generator takes one, regression the middle",
          "[action_head_test]") {
  ActionHeadOptions o = small_head();
  o.hidden = 32;
  o.kl_weight = 1e-2;
  for (const HeadKind kind : kAll) {
    INFO(name(kind));
    const auto head = make(kind, DType::float32, o);
    train_on_two_ways(*head, 1200);
    Generator generator(9);
    const int64_t n = 256;
    const Shape row = head->noise_shape();
    const Tensor noise = randn({n, row[0], row[1]}, generator);
    const Tensor chunk = head->generate(zeros({n, 3}), noise, {.n_steps = 0, .clip = 2});
    const double spread = mean(abs(select(chunk, 1, 0))).item();
    const double side = mean(select(chunk, 1, 0)).item();
    CHECK(mean(select(chunk, 1, 1)).item() == Catch::Approx(0.5).margin(0.15));
    if (kind == HeadKind::regression) {
      // The minimum of the squared error: the mean, and the variance of +-1 is what is left.
      CHECK(spread < 0.15);
      const Tensor two = tensor({1, 0.5, -1, 0.5});
      CHECK(head->loss(zeros({2, 3}), reshape(two, {2, 2}), generator).item() ==
            Catch::Approx(0.5).margin(0.02));
    } else if (kind != HeadKind::mip) {
      // Half of them each way: three standard errors of 256 coins are 0.19.
      CHECK(spread > 0.75);
      CHECK(std::abs(side) < 0.3);
    }
  }
}

TEST_CASE("gradients of every head's loss are its finite differences", "[action_head_test]") {
  for (const HeadKind kind : kAll) {
    INFO(name(kind));
    const auto head = make(kind);
    Generator draws(4);
    const Tensor feature = randn({3, 3}, draws, DType::float64);
    const Tensor chunk = randn({3, 2}, draws, DType::float64);
    const std::vector<Tensor> inputs = {feature, chunk};
    const auto loss = [&](std::span<const Tensor> x) {
      Generator same(7);
      return std::vector<Tensor>{head->loss(x[0], x[1], same)};
    };
    const GradcheckResult result = gradcheck(MultiFunction(loss), inputs);
    INFO(result.message);
    // The diffusion policy's first activation is ReLU: no input of this seed is near its kink.
    CHECK(result.passed);
  }
}

TEST_CASE("a row of a decision depends on its own row alone", "[action_head_test]") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const HeadKind kind : kAll) {
      INFO(name(kind));
      const auto head = make(kind, dtype);
      Generator generator(4);
      const Shape row = head->noise_shape();
      const Tensor feature = randn({5, 3}, generator, dtype);
      const Tensor noise = randn({5, row[0], row[1]}, generator, dtype);
      const Tensor all = head->generate(feature, noise);
      CHECK(all.shape() == Shape{5, 2});
      CHECK(all.dtype() == dtype);
      CHECK_FALSE(all.requires_grad());
      for (int64_t i = 0; i < 5; ++i) {
        const Tensor one =
            head->generate(slice(feature, 0, i, i + 1), contiguous(slice(noise, 0, i, i + 1)));
        CHECK(distance(one, slice(all, 0, i, i + 1)) == 0);
      }
      CHECK(head->generate(zeros({0, 3}, dtype), zeros({0, row[0], row[1]}, dtype)).shape() ==
            Shape{0, 2});
    }
  }
}

TEST_CASE("the divergence of each latent is its closed form", "[action_head_test]") {
  const auto head = make(HeadKind::cvae);
  Generator generator(4);
  const Tensor feature = randn({40, 3}, generator, DType::float64);
  const Tensor chunk = randn({40, 2}, generator, DType::float64);
  const NamedTensors kl = head->diagnostics(feature, chunk);
  REQUIRE(kl.size() == 1);
  CHECK(kl[0].first == "kl_per_dim");
  CHECK(kl[0].second.shape() == Shape{2});
  CHECK(min(kl[0].second).item() >= 0);
  // A weight of zero leaves the reconstruction; the difference is weight times the sum.
  ActionHeadOptions free = small_head();
  free.kl_weight = 0;
  const auto without = make(HeadKind::cvae, DType::float64, free);
  Generator a(1), b(1);
  CHECK(head->loss(feature, chunk, a).item() - without->loss(feature, chunk, b).item() ==
        Catch::Approx(1e-2 * sum(kl[0].second).item()).epsilon(1e-9));
  CHECK(make(HeadKind::flow)->diagnostics(feature, chunk).empty());
}

TEST_CASE("two-step regression follows its formulas", "[action_head_test]") {
  const auto head = make(HeadKind::mip);
  // Its network is that of flow matching under other names.
  Generator generator(4);
  const ActionHeadOptions o = small_head();
  FlowMatching net({.condition_dim = o.feature_dim,
                    .action_dim = o.chunk_dim,
                    .time_dim = o.time_dim,
                    .time_scale = o.time_scale,
                    .hidden = o.hidden},
                   generator, DType::float64);
  NamedTensors state;
  for (auto [key, tensor] : head->state_dict()) {
    key = key.substr(std::string("mip.").size());
    if (key.starts_with("trunk")) key = "velocity_net" + key.substr(5);
    state.emplace_back(key, tensor);
  }
  net.load_state_dict(state);
  const auto f = [&](const Tensor& x, double t, const Tensor& feature) {
    return net.velocity(x, full({1}, t, DType::float64), feature);
  };
  const Tensor feature = randn({6, 3}, generator, DType::float64);
  const Tensor chunk = randn({6, 2}, generator, DType::float64);
  const Tensor zero = zeros({6, 2}, DType::float64);
  CHECK(head->noise_shape() == Shape{0, 0});
  CHECK(distance(head->generate(feature, zeros({6, 0, 0}, DType::float64)),
                 f(f(zero, 0, feature) * 0.9, 0.9, feature)) < 1e-12);
  Generator a(7), b(7);
  const Tensor noise = randn({6, 2}, b, DType::float64);
  const Tensor wanted = mse_loss(f(zero, 0, feature), chunk) +
                        mse_loss(f(chunk * 0.9 + noise * 0.1, 0.9, feature), chunk);
  CHECK(head->loss(feature, chunk, a).item() == Catch::Approx(wanted.item()).epsilon(1e-12));
}

TEST_CASE("heads say what they do not accept", "[action_head_test]") {
  Generator generator(4);
  for (const HeadKind kind : kAll) {
    INFO(name(kind));
    const auto head = make(kind);
    const Shape row = head->noise_shape();
    const Tensor feature = zeros({2, 3}, DType::float64);
    const Tensor noise = zeros({2, row[0], row[1]}, DType::float64);
    CHECK(contains(
        raised<ShapeError>([&] {
          head->loss(zeros({2, 4}, DType::float64), zeros({2, 2}, DType::float64), generator);
        }),
        {"feature", "(2, 4)", "(N, 3)"}));
    CHECK(contains(raised<ShapeError>([&] {
                     head->loss(feature, zeros({3, 2}, DType::float64), generator);
                   }),
                   {"chunk", "(3, 2)", "(2, 2)"}));
    CHECK(contains(raised<ShapeError>([&] {
                     head->generate(feature, zeros({2, row[0] + 1, row[1]}, DType::float64));
                   }),
                   {"noise"}));
    CHECK(contains(raised<ValueError>([&] { head->generate(feature, noise, {.n_steps = -1}); }),
                   {"-1"}));
    if (kind != HeadKind::flow && kind != HeadKind::diffusion) {
      CHECK(contains(raised<ValueError>([&] { head->generate(feature, noise, {.n_steps = 2}); }),
                     {"2 steps", "0 is accepted"}));
    }
  }
  ActionHeadOptions o = small_head();
  o.anchor = 1;
  CHECK(contains(raised<ValueError>([&] { make(HeadKind::mip, DType::float64, o); }),
                 {"anchor = 1"}));
  o.latent_dim = 0;
  CHECK(contains(raised<ValueError>([&] { make(HeadKind::cvae, DType::float64, o); }),
                 {"latent_dim = 0"}));
  CHECK(contains(raised<ValueError>([&] {
                   make(HeadKind::diffusion)
                       ->generate(zeros({1, 3}, DType::float64), zeros({1, 1, 2}, DType::float64),
                                  {.n_steps = 9});
                 }),
                 {"9 DDIM steps", "1 to 8"}));
}
