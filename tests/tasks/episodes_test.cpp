#include "flowgrad/tasks/episodes.h"

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/statistics.h"
#include "flowgrad/tasks/tabletop.h"
#include "tests/catch.hpp"
#include "tests/tasks/world_support.h"

using namespace flowgrad;
using world_test::contains;
using world_test::error_of;

namespace {

EvaluationSummary rate(const World& world, const Policy& policy, EvaluationOptions options) {
  return summarize(evaluate(world, policy, options));
}

/// A world of one number that goes where it is told; its snapshots are the actions it was given.
class Line final : public World {
 public:
  explicit Line(int64_t steps) {
    spec_.name = "line";
    spec_.action_dim = spec_.state_dim = spec_.robot_dim = spec_.snapshot_dim = 1;
    spec_.max_steps = steps;
  }
  std::unique_ptr<World> clone() const override { return std::make_unique<Line>(*this); }
  const WorldSpec& spec() const override { return spec_; }
  void reset(uint64_t, uint64_t episode) override {
    place_ = static_cast<double>(episode);
    steps_ = 0;
  }
  bool done() const override { return steps_ >= spec_.max_steps; }
  EpisodeOutcome outcome() const override { return {.steps = steps_}; }
  void state(std::span<float> out) const override { out[0] = static_cast<float>(place_); }
  void robot(std::span<float> out) const override { out[0] = static_cast<float>(place_); }
  void tokens(std::span<int64_t>) const override {}
  void render(std::span<float>, ImageSize) const override {}
  void snapshot(std::span<double> out) const override { out[0] = place_; }
  void restore(std::span<const double> numbers) override { place_ = numbers[0]; }

 private:
  void advance(std::span<const double> action) override {
    place_ = action[0];
    ++steps_;
  }
  WorldSpec spec_;
  double place_ = 0.0;
  int64_t steps_ = 0;
};

/// Answers, at step t, 1000 t + h for h = 0 ... horizon - 1.
Policy counting_policy(int64_t horizon, std::vector<PolicyInput>* asked = nullptr) {
  return [horizon, asked](const PolicyInput& input) {
    if (asked != nullptr) asked->push_back(input);
    const auto rows = static_cast<int64_t>(input.episodes.size());
    std::vector<double> values;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t h = 0; h < horizon; ++h) {
        values.push_back(static_cast<double>(1000 * input.step + h));
      }
    }
    return Tensor::from<double>(values, {rows, horizon, 1});
  };
}

std::vector<double> places(const Policy& policy, EvaluationOptions options, int64_t steps = 9) {
  options.episodes = 1;
  options.record = 1;
  const auto results = evaluate(Line(steps), policy, options);
  const std::vector<double> went(results[0].snapshots.begin() + 1, results[0].snapshots.end());
  CHECK(results[0].actions == went);
  return went;
}

}  // namespace

TEST_CASE("chunks are executed from their beginning, as many actions as asked for",
          "[episodes_test]") {
  CHECK(places(counting_policy(4), {.execute = 3}) ==
        std::vector<double>{0, 1, 2, 3000, 3001, 3002, 6000, 6001, 6002});
  CHECK(places(counting_policy(4), {}) ==
        std::vector<double>{0, 1, 2, 3, 4000, 4001, 4002, 4003, 8000});
}

TEST_CASE("with a delay the chunk before goes on and the new one is entered late",
          "[episodes_test]") {
  std::vector<PolicyInput> asked;
  CHECK(places(counting_policy(5, &asked), {.execute = 3, .delay = 2}) ==
        std::vector<double>{0, 1, 2, 3, 4, 3002, 3003, 3004, 6002});
  REQUIRE(asked.size() == 3);
  CHECK(!asked[0].previous.defined());
  CHECK(asked[0].delay == 0);
  CHECK(asked[1].delay == 2);
  CHECK(asked[1].execute == 3);
  // What the chunk before says from step 3 on: its actions 3 and 4, then its last.
  CHECK(asked[1].previous.shape() == Shape{1, 5, 1});
  CHECK(asked[1].previous.to_vector<double>() == std::vector<double>{3, 4, 4, 4, 4});
  CHECK(asked[2].previous.to_vector<double>() == std::vector<double>{3003, 3004, 3004, 3004, 3004});
  // Without execute, all that the delay leaves.
  CHECK(places(counting_policy(4), {.delay = 1}, 5) == std::vector<double>{0, 1, 2, 3, 3001});
}

TEST_CASE("temporal ensembling weighs what all chunks say, the oldest most", "[episodes_test]") {
  const std::vector<double> got =
      places(counting_policy(3), {.ensemble = true, .ensemble_decay = 0.5}, 4);
  const double w = std::exp(-0.5);
  CHECK(got[0] == 0.0);
  CHECK(got[1] == Catch::Approx((1.0 + w * 1000.0) / (1.0 + w)));
  CHECK(got[2] == Catch::Approx((2.0 + w * 1001.0 + w * w * 2000.0) / (1.0 + w + w * w)));
  CHECK(got[3] == Catch::Approx((1002.0 + w * 2001.0 + w * w * 3000.0) / (1.0 + w + w * w)));
}

TEST_CASE("jerk is the mean squared third difference", "[episodes_test]") {
  const auto jerk = [](std::vector<double> actions) {
    const auto steps = static_cast<int64_t>(actions.size());
    const Policy policy = [&](const PolicyInput&) {
      return Tensor::from<double>(actions, {1, steps, 1});
    };
    return evaluate(Line(steps), policy, {.episodes = 1})[0].jerk;
  };
  CHECK(jerk({0, 1, 8, 27, 64}) == Catch::Approx(36.0));  // third differences of cubes are 6
  CHECK(jerk({1, 4, 9, 16, 25}) == Catch::Approx(0.0).margin(1e-12));
  CHECK(jerk({0, 0, 0, 1, 0}) == Catch::Approx((1.0 + 9.0) / 2.0));
  CHECK(jerk({5, 7, 1}) == 0.0);
}

TEST_CASE("the expert solves, chance does not, and an expert that is told another disc fails",
          "[episodes_test]") {
  const EvaluationOptions options{.episodes = 200, .seed = 21, .execute = 4};
  const EvaluationSummary expert = rate(Tabletop(), expert_policy(8), options);
  CHECK(expert.success_rate == 1.0);
  CHECK(expert.score_mean == 1.0);
  CHECK(expert.interval.low > 0.98);
  CHECK(rate(Tabletop(), random_policy(Tabletop().spec(), 8), options).success_rate < 0.05);
  const Tabletop original(WorldOptions{.counterfactual = Counterfactual::original});
  CHECK(rate(original, expert_policy(8), options).success_rate <= 0.01);
  const Tabletop told(WorldOptions{.counterfactual = Counterfactual::told});
  CHECK(rate(told, expert_policy(8), options).success_rate == 1.0);
  for (const Split split : {Split::wording, Split::pair}) {
    CHECK(rate(Tabletop(WorldOptions{.split = split}), expert_policy(8), options).success_rate ==
          1.0);
  }
  const EvaluationSummary fork = rate(Tabletop::fork(), expert_policy(8), options);
  CHECK(fork.success_rate == 1.0);
  CHECK(fork.left + fork.right == 200);
  CHECK(fork.mode_entropy > 0.95);
  CHECK(fork.failures == 0);
  // A chunk of the expert is a plan without feedback; asked at each step it ends up the same.
  CHECK(rate(Tabletop(), expert_policy(1), {.episodes = 50, .seed = 21}).success_rate == 1.0);
}

TEST_CASE("the mean of both ways round the pillar goes nowhere", "[episodes_test]") {
  const Policy mean = [](const PolicyInput& input) {
    std::vector<double> values;
    for (const World* seen : input.worlds) {
      Tabletop left = dynamic_cast<const Tabletop&>(*seen);
      Tabletop right = left;
      for (int h = 0; h < 8; ++h) {
        const Vec2 l = expert_action(left, 1);
        const Vec2 r = expert_action(right, -1);
        values.insert(values.end(), {0.5 * (l.x + r.x), 0.5 * (l.y + r.y)});
        if (!left.done()) left.step(std::array{l.x, l.y});
        if (!right.done()) right.step(std::array{r.x, r.y});
      }
    }
    return Tensor::from<double>(values, {static_cast<int64_t>(input.worlds.size()), 8, 2});
  };
  const EvaluationOptions options{.episodes = 100, .seed = 8, .execute = 4};
  const EvaluationSummary summary = rate(Tabletop::fork(), mean, options);
  CHECK(summary.failures > 90);
  CHECK(summary.success_rate < 0.05);
}

TEST_CASE("results are the same again and in any number of rows", "[episodes_test]") {
  EvaluationOptions options{.episodes = 37, .seed = 2, .execute = 3, .images = {6, 6}, .record = 5};
  const Policy noisy = [](const PolicyInput& input) {
    const Tensor plan = expert_policy(6)(input);
    const Tensor noise = input.noise({6, 2}, 3, DType::float64);
    double* p = plan.data<double>();
    for (int64_t i = 0; i < plan.numel(); ++i) p[i] += 0.02 * noise.data<double>()[i];
    return plan;
  };
  const auto results = evaluate(Tabletop::fork(), noisy, options);
  CHECK(results == evaluate(Tabletop::fork(), noisy, options));
  for (const int64_t rows : {1, 5, 37}) {
    options.lockstep = rows;
    CHECK(results == evaluate(Tabletop::fork(), noisy, options));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    CHECK(results[i].episode == i);
    const auto frames = i < 5 ? static_cast<size_t>(results[i].outcome.steps + 1) * 20 : 0;
    CHECK(results[i].snapshots.size() == frames);
    CHECK(results[i].jerk > 0.0);
  }
  CHECK(results[0] != results[1]);
  // The same episodes are the first of a longer evaluation; another seed has others.
  options.episodes = 10;
  CHECK(evaluate(Tabletop::fork(), noisy, options) ==
        std::vector<EpisodeResult>(results.begin(), results.begin() + 10));
  options.seed = 3;
  CHECK(evaluate(Tabletop::fork(), noisy, options)[0].snapshots != results[0].snapshots);
}

TEST_CASE("noise belongs to seed, episode, step and draw", "[episodes_test]") {
  PolicyInput input;
  input.seed = 5;
  input.step = 12;
  input.episodes = {3, 9};
  const std::vector<double> both = input.noise({2, 2}).to_vector<double>();
  CHECK(input.noise({2, 2}).dtype() == DType::float32);
  input.episodes = {9};
  CHECK(input.noise({4}).to_vector<double>() == std::vector<double>(both.begin() + 4, both.end()));
  const auto first = input.noise({3}).to_vector<double>();
  CHECK(input.noise({3}, 1).to_vector<double>() != first);
  input.step = 13;
  CHECK(input.noise({3}).to_vector<double>() != first);
  CHECK(input.noise({0}).shape() == Shape{1, 0});
  CHECK(contains(error_of<ValueError>([&] { input.noise({1}, 1024); }), "draw is 1024"));
  // Standard normals, to four standard errors.
  const auto many = input.noise({20000}, 7, DType::float64).to_vector<double>();
  double sum = 0.0, squares = 0.0;
  for (const double z : many) {
    sum += z;
    squares += z * z;
  }
  CHECK(std::abs(sum / 20000) < 4.0 / std::sqrt(20000.0));
  CHECK(std::abs(squares / 20000 - 1.0) < 4.0 * std::sqrt(2.0 / 20000.0));
}

TEST_CASE("from one scene a policy shows the ways that it knows", "[episodes_test]") {
  EvaluationOptions options{.episodes = 60, .seed = 4, .one_scene = true, .record = 60};
  const auto results = evaluate(Tabletop::fork(), expert_policy(8), options);
  Tabletop scene = Tabletop::fork();
  scene.reset(4, 0);
  const std::vector<double> start = world_test::saved(scene);
  for (const EpisodeResult& r : results) {
    CHECK(std::equal(start.begin(), start.end(), r.snapshots.begin()));
  }
  CHECK(summarize(results).mode_entropy > 0.9);
  const Policy left_only = [](const PolicyInput& input) {
    const auto rows = static_cast<int64_t>(input.worlds.size());
    std::vector<double> values;
    for (const World* world : input.worlds) {
      const Vec2 a = expert_action(dynamic_cast<const Tabletop&>(*world), 1);
      values.insert(values.end(), {a.x, a.y});
    }
    return Tensor::from<double>(values, {rows, 1, 2});
  };
  const EvaluationSummary left = rate(Tabletop::fork(), left_only, options);
  CHECK(left.left == 60);
  CHECK(left.mode_entropy == 0.0);
}

TEST_CASE("options out of range and wrong answers are refused", "[episodes_test]") {
  const auto refused = [](EvaluationOptions options, const Policy& policy = counting_policy(4)) {
    return error_of<Error>([&] { evaluate(Line(9), policy, options); });
  };
  CHECK(refused({.episodes = 0}) == "evaluate: episodes is 0; accepted is >= 1");
  CHECK(contains(refused({.execute = -1}), "execute is -1; accepted is >= 0"));
  CHECK(contains(refused({.execute = 5}), "execute is 5; accepted is up to the horizon 4"));
  CHECK(contains(refused({.lockstep = 0}), "lockstep is 0"));
  CHECK(contains(refused({.record = -1}), "record is -1"));
  CHECK(contains(refused({.execute = 3, .delay = 2}), "delay is 2; accepted is up to execute (3)"));
  CHECK(contains(refused({.execute = 1, .delay = 2}), "delay is 2; accepted is up to execute (1)"));
  CHECK(contains(refused({.delay = 4}), "delay is 4"));
  CHECK(contains(refused({.ensemble = true, .delay = 1}), "accepted is 0 with ensembling"));
  CHECK(contains(refused({.ensemble_decay = std::nan("")}), "ensemble_decay is not finite"));
  const auto answers = [](const Tensor& t) { return [t](const PolicyInput&) { return t; }; };
  CHECK(contains(refused({.episodes = 2}, answers(Tensor::empty({2, 4}))),
                 "the policy's chunk is (2, 4); accepted is (N, horizon, 1)"));
  CHECK(contains(refused({.episodes = 2}, answers(Tensor::empty({1, 4, 1}))),
                 "the policy's chunk is (1, 4, 1); accepted is (2, 4, 1)"));
  CHECK(
      contains(refused({.episodes = 1}, answers(Tensor::from<double>({0.0, HUGE_VAL}, {1, 2, 1}))),
               "the policy's actions in episode 0 at step 0 are not finite"));
  CHECK(contains(error_of<ValueError>([] { evaluate(Line(2), expert_policy(4)); }),
                 "world is line; accepted are tabletop, fork"));
}

TEST_CASE("Wilson intervals and McNemar's test have their textbook values", "[episodes_test]") {
  // Values of scipy.stats.binomtest(...).proportion_ci(method="wilson").
  const Interval some = wilson_interval(81, 263);
  CHECK(some.low == Catch::Approx(0.2552885).margin(1e-6));
  CHECK(some.high == Catch::Approx(0.3662096).margin(1e-6));
  CHECK(wilson_interval(0, 20).low == 0.0);
  CHECK(wilson_interval(0, 20).high == Catch::Approx(0.1611252).margin(1e-6));
  CHECK(wilson_interval(20, 20).high == 1.0);
  CHECK(wilson_interval(20, 20).low == Catch::Approx(0.8388748).margin(1e-6));
  CHECK(contains(error_of<ValueError>([] { wilson_interval(3, 2); }), "3 successes of 2"));
  CHECK(contains(error_of<ValueError>([] { wilson_interval(0, 0); }), "0 successes of 0"));

  const auto results = [](const std::string& solved) {
    std::vector<EpisodeResult> out(solved.size());
    for (size_t i = 0; i < solved.size(); ++i) {
      out[i].episode = i;
      out[i].outcome.success = solved[i] == '1';
      out[i].outcome.score = solved[i] == '1' ? 1.0 : 0.25;
    }
    return out;
  };
  const PairedTest test = mcnemar(results("1111111100"), results("0000000110"));
  CHECK(test.first_only == 7);
  CHECK(test.second_only == 1);
  CHECK(test.p_value == Catch::Approx(0.0703125));  // 2 (1 + 8) / 2^8
  CHECK(mcnemar(results("10"), results("10")).p_value == 1.0);
  CHECK(mcnemar(results("10"), results("01")).p_value == 1.0);
  const std::string many(2000, '1'), none(2000, '0');
  CHECK(mcnemar(results(many), results(none)).p_value < 1e-300);
  CHECK(contains(error_of<ValueError>([&] { mcnemar(results("10"), results("1")); }),
                 "accepted are the same episodes"));
  const EvaluationSummary summary = summarize(results("1100"));
  CHECK(summary.success_rate == 0.5);
  CHECK(summary.score_mean == Catch::Approx(0.625));
  CHECK(summary.score_error == Catch::Approx(0.375 * std::sqrt(4.0 / 3.0) / 2.0));
  CHECK(contains(error_of<ValueError>([] { summarize({}); }), "no results"));
}
