// A policy: its statistics, what it was made for, and what it refuses.
#include "flowgrad/models/robot_policy.h"

#include <cmath>

#include "device/device.h"
#include "flowgrad/optim/optimizer.h"
#include "small_policy.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::small_policy;
using flowgrad::testing::test_device;

namespace {

struct Data {
  PolicyObservation seen;
  Tensor chunks;
};
Data some(int64_t rows, DType dtype = DType::float64) {
  Generator generator(8);
  Data d;
  d.seen.state = randn({rows, 4}, generator, dtype) * 3.0 + 5.0;
  d.seen.robot = rand({rows, 2}, generator, dtype);
  d.chunks = unsqueeze(d.seen.robot, 1) + randn({rows, 3, 2}, generator, dtype) * 0.01;
  return d;
}

std::unique_ptr<RobotPolicy> fitted(const RobotPolicyOptions& o, DType dtype = DType::float64) {
  Generator generator(3);
  auto policy = std::make_unique<RobotPolicy>(o, generator, dtype);
  const Data d = some(200, dtype);
  CHECK(policy->fit_statistics(d.seen, d.chunks).empty());
  return policy;
}

Tensor state_of(const Module& module, const std::string& name) {
  for (const auto& [key, tensor] : module.state_dict()) {
    if (key == name) return tensor;
  }
  return {};
}

}  // namespace

TEST_CASE("statistics of relative chunks are those of the differences", "[robot_policy_test]") {
  RobotPolicyOptions o = small_policy();
  const Data d = some(200);
  const auto policy = fitted(o);
  const Tensor moves = reshape(d.chunks - unsqueeze(d.seen.robot, 1), {200, 6});
  CHECK(distance(state_of(*policy, "statistics.action.mean"), mean(moves, {0})) < 1e-12);
  CHECK(distance(state_of(*policy, "statistics.action.std"), flowgrad::std(moves, {0}, 0)) < 1e-12);
  o.relative = false;
  const auto absolute = fitted(o);
  CHECK(distance(state_of(*absolute, "statistics.action.mean"),
                 mean(reshape(d.chunks, {200, 6}), {0})) < 1e-12);
  CHECK(distance(state_of(*absolute, "statistics.state.mean"), mean(d.seen.state, {0})) < 1e-12);
}

TEST_CASE("what goes in and out does not depend on units or place", "[robot_policy_test]") {
  // The same demonstrations in other units: the same policy in those.
  const auto policy = fitted(small_policy());
  Generator generator(3);
  RobotPolicy scaled(small_policy(), generator, DType::float64);
  const Data d = some(200);
  Data far = d;
  far.seen.state = d.seen.state * 40.0 - 7.0;
  far.seen.robot = d.seen.robot * 512.0 + 3.0;
  far.chunks = d.chunks * 512.0 + 3.0;
  CHECK(scaled.fit_statistics(far.seen, far.chunks).empty());
  const Tensor noise = randn({200, 1, 6}, generator, DType::float64);
  const Tensor here = policy->generate(d.seen, noise);
  CHECK(here.shape() == Shape{200, 3, 2});
  CHECK(distance(here * 512.0 + 3.0, scaled.generate(far.seen, noise)) < 1e-9);
  Generator a(1), b(1);
  CHECK(policy->loss(d.seen, d.chunks, a).item() ==
        Catch::Approx(scaled.loss(far.seen, far.chunks, b).item()).epsilon(1e-9));
}

TEST_CASE("all but constant dimensions are named and not blown up", "[robot_policy_test]") {
  Generator generator(3);
  RobotPolicy policy(small_policy(), generator, DType::float64);
  Data d = some(50);
  d.seen.state = concat({slice(d.seen.state, 1, 0, 3), full({50, 1}, 2.5, DType::float64)}, 1);
  const auto warnings = policy.fit_statistics(d.seen, d.chunks);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], {"all but constant", "state 3"}));
  const auto deviation = state_of(policy, "statistics.state.std").to_vector<double>();
  CHECK(deviation[3] == Catch::Approx(1e-3 * std::max({deviation[0], deviation[1], deviation[2]})));
}

TEST_CASE("a policy without statistics refuses to act and to learn", "[robot_policy_test]") {
  Generator generator(3);
  RobotPolicy policy(small_policy(), generator, DType::float64);
  const Data d = some(2);
  CHECK(contains(raised<ValueError>([&] { policy.loss(d.seen, d.chunks, generator); }),
                 {"no statistics"}));
  CHECK(contains(raised<ValueError>([&] {
                   policy.generate(d.seen, zeros({2, 1, 6}, DType::float64));
                 }),
                 {"no statistics"}));
  // Weights that lost theirs are refused as well.
  const auto whole = fitted(small_policy());
  NamedTensors state = whole->state_dict();
  std::erase_if(state, [](const auto& e) { return e.first == "statistics.action.std"; });
  CHECK(contains(raised<IoError>([&] { policy.load_state_dict(state); }),
                 {"statistics.action.std", "missing"}));
  policy.load_state_dict(whole->state_dict());
  const Tensor noise = randn({2, 1, 6}, generator, DType::float64);
  CHECK(distance(policy.generate(d.seen, noise), whole->generate(d.seen, noise)) == 0);
  // Another horizon is another policy.
  RobotPolicyOptions longer = small_policy();
  longer.horizon = 4;
  RobotPolicy other(longer, generator, DType::float64);
  CHECK(contains(raised<IoError>([&] { other.load_state_dict(whole->state_dict()); }),
                 {"has shape"}));
}

TEST_CASE("several draws share one feature, and the auxiliary loss counts it once",
          "[robot_policy_test]") {
  const auto policy = fitted(small_policy(HeadKind::regression));
  const Data d = some(5);
  Generator generator(1);
  // A head that draws nothing: more draws are the same mean.
  CHECK(policy->loss(d.seen, d.chunks, generator, 3).item() ==
        Catch::Approx(policy->loss(d.seen, d.chunks, generator).item()).epsilon(1e-12));
  RobotPolicyOptions o = small_policy(HeadKind::regression);
  o.auxiliary = 2;
  const auto both = fitted(o);
  CHECK(both->loss(d.seen, d.chunks, generator).item() >
        policy->loss(d.seen, d.chunks, generator).item());
  CHECK(state_of(*both, "auxiliary.weight").shape() == Shape{6, 4});
  CHECK(contains(raised<ValueError>([&] { policy->loss(d.seen, d.chunks, generator, 0); }),
                 {"draws = 0"}));
}

TEST_CASE("pictures and words: hidden words, and rows apart", "[robot_policy_test]") {
  RobotPolicyOptions o = small_policy();
  o.encoder = "tiny";
  o.state_dim = 0;
  o.vocabulary = 20;
  o.token_length = 4;
  o.word_dropout = 0.5;
  Generator generator(3);
  RobotPolicy policy(o, generator);
  Data d = some(3, DType::float32);
  d.seen.state = {};
  d.seen.tokens = randint(1, 20, {3, 4}, generator);
  d.seen.images = rand({3, 3, 48, 48}, generator);
  CHECK(policy.fit_statistics(d.seen, d.chunks).empty());
  Generator a(1), b(2);
  CHECK(policy.loss(d.seen, d.chunks, a).item() != policy.loss(d.seen, d.chunks, b).item());
  // Hidden in training only: a regression draws nothing else.
  o.head = HeadKind::regression;
  RobotPolicy mean(o, generator);
  mean.fit_statistics(d.seen, d.chunks);
  CHECK(mean.loss(d.seen, d.chunks, a).item() != mean.loss(d.seen, d.chunks, b).item());
  mean.train(false);
  CHECK(mean.loss(d.seen, d.chunks, a).item() == mean.loss(d.seen, d.chunks, b).item());
  const Tensor noise = randn({3, 1, 6}, generator);
  const Tensor all = policy.generate(d.seen, noise);
  PolicyObservation one;
  one.robot = slice(d.seen.robot, 0, 1, 2);
  one.tokens = slice(d.seen.tokens, 0, 1, 2);
  one.images = contiguous(slice(d.seen.images, 0, 1, 2));
  CHECK(distance(policy.generate(one, slice(noise, 0, 1, 2)), slice(all, 0, 1, 2)) == 0);
}

TEST_CASE("distillation regresses the teacher's chunks from its noise, at the student's times",
          "[robot_policy_test]") {
  const auto teacher = fitted(small_policy());
  flowgrad::testing::shake(*teacher, 2, 0.5);
  const Data d = some(7);
  // A student that is the teacher: its loss for one step is the squared bend of the flow.
  const auto student = fitted(small_policy());
  student->load_state_dict(teacher->state_dict());
  Generator a(5), b(5);
  const Tensor noise = randn({7, 1, 6}, b, DType::float64);
  const Tensor ten = teacher->generate(d.seen, noise);
  const Tensor one = teacher->generate(d.seen, noise, {.n_steps = 1});
  const Tensor scale = reshape(state_of(*teacher, "statistics.action.std"), {1, 3, 2});
  const double bend = mean(square((ten - one) / scale)).item();
  const Tensor loss = student->distillation_loss(*teacher, d.seen, a);
  CHECK(bend > 1e-4);
  CHECK(loss.item() == Catch::Approx(bend).epsilon(1e-9));
  // The gradient is the student's alone.
  backward(loss);
  for (const auto& [name, p] : student->parameters()) {
    INFO(name);
    CHECK(p.grad().defined());
  }
  for (const auto& [name, p] : teacher->parameters()) CHECK_FALSE(p.grad().defined());
  const auto regression = fitted(small_policy(HeadKind::regression));
  CHECK(contains(raised<ValueError>([&] { regression->distillation_loss(*teacher, d.seen, a); }),
                 {"student with the head regression"}));
  CHECK(contains(raised<ValueError>([&] { student->distillation_loss(*regression, d.seen, a); }),
                 {"teacher with the head regression"}));
  CHECK(contains(raised<ValueError>([&] { student->distillation_loss(*teacher, d.seen, a, 0); }),
                 {"0"}));
}

TEST_CASE("a distilled policy does in one step what its teacher does in ten",
          "[robot_policy_test]") {
  const auto teacher = fitted(small_policy());
  flowgrad::testing::shake(*teacher, 2, 0.5);
  const auto student = fitted(small_policy());
  student->load_state_dict(teacher->state_dict());
  Generator generator(6);
  Adam optimizer({{.parameters = student->parameters()}}, {.lr = 3e-3});
  for (int i = 0; i < 300; ++i) {
    optimizer.zero_grad();
    backward(student->distillation_loss(*teacher, some(64).seen, generator));
    optimizer.step();
  }
  const Data d = some(200);
  const Tensor noise = randn({200, 1, 6}, generator, DType::float64);
  const Tensor wanted = teacher->generate(d.seen, noise);
  const auto gap = [&](RobotPolicy& p) {
    return mean(square(p.generate(d.seen, noise, {.n_steps = 1}) - wanted)).item();
  };
  CHECK(gap(*student) < 0.3 * gap(*teacher));
}

TEST_CASE("options survive a configuration, which refuses other conventions",
          "[robot_policy_test]") {
  RobotPolicyOptions o = small_policy(HeadKind::mip);
  o.world = "fork";
  o.relative = false;
  o.auxiliary = 0.5;
  o.head_options.anchor = 0.8;
  o.head_options.time_law = TimeLaw::beta;
  const Config config = robot_policy_config(o);
  CHECK(robot_policy_config(robot_policy_options(config)) == config);
  CHECK(config.size() == robot_policy_keys().size());
  const auto refused = [&](const char* key, const char* value) {
    Config other = config;
    other[key] = value;
    return raised<ValueError>([&] { robot_policy_options(other); });
  };
  CHECK(contains(refused("base", "uniform"), {"base", "uniform", "normal"}));
  CHECK(contains(refused("time", "data-to-noise"), {"time", "noise-to-data"}));
  CHECK(contains(refused("horizon", "0"), {"horizon"}));
  CHECK(contains(refused("head", "flows"), {"head", "flow"}));
  CHECK(contains(refused("horizn", "3"), {"horizn", "horizon"}));
  o.robot_dim = 1;
  o.relative = true;
  Generator generator;
  CHECK(contains(raised<ValueError>([&] { RobotPolicy(o, generator); }), {"relative", "robot"}));
}

TEST_CASE("parts that do not fit are named", "[robot_policy_test]") {
  const auto policy = fitted(small_policy());
  Data d = some(2);
  const Tensor noise = zeros({2, 1, 6}, DType::float64);
  PolicyObservation seen = d.seen;
  seen.robot = {};
  CHECK(contains(raised<ShapeError>([&] { policy->generate(seen, noise); }), {"robot", "absent"}));
  seen = d.seen;
  seen.state = zeros({2, 5}, DType::float64);
  CHECK(contains(raised<ShapeError>([&] { policy->generate(seen, noise); }), {"state", "(2, 5)"}));
  Generator generator;
  CHECK(contains(raised<ShapeError>([&] {
                   policy->loss(d.seen, zeros({2, 4, 2}, DType::float64), generator);
                 }),
                 {"(2, 4, 2)", "(N, 3, 2)"}));
  CHECK(contains(raised<ShapeError>([&] {
                   policy->fit_statistics(d.seen, zeros({2, 6}, DType::float64));
                 }),
                 {"(2, 6)"}));
  d.chunks = full({2, 3, 2}, std::nan(""), DType::float64);
  CHECK(contains(raised<ValueError>([&] { policy->fit_statistics(d.seen, d.chunks); }),
                 {"action", "finite"}));
}

namespace {

/// Statistics, loss, gradients and decisions of a small policy on a device.
std::vector<Tensor> on(Device device, RobotPolicyOptions o) {
  Generator generator(3);
  o.auxiliary = 1;
  RobotPolicy policy(o, generator, DType::float64);
  Data d = some(6);
  if (o.encoder != "state") {
    d.seen.state = {};
    d.seen.tokens = randint(1, 20, {6, 4}, generator);
    d.seen.images = rand({6, 3, 48, 48}, generator, DType::float64);
  }
  CHECK(policy.fit_statistics(d.seen, d.chunks).empty());
  policy.to(device);
  for (Tensor* t : {&d.seen.state, &d.seen.robot, &d.seen.tokens, &d.seen.images, &d.chunks}) {
    if (t->defined()) *t = to(*t, device);
  }
  // Once more where it is: statistics need no host.
  CHECK(policy.fit_statistics(d.seen, d.chunks).empty());
  const Tensor loss = policy.loss(d.seen, d.chunks, generator, 2);
  CHECK(loss.device() == device);
  backward(loss);
  std::vector<Tensor> out = {loss.detach()};
  for (const auto& [name, p] : policy.parameters()) {
    if (p.grad().defined()) out.push_back(p.grad());
  }
  const Shape row = policy.noise_shape();
  out.push_back(
      policy.generate(d.seen, randn({6, row[0], row[1]}, generator, DType::float64, device)));
  if (o.head == HeadKind::flow) {
    const Tensor noise = randn({6, row[0], row[1]}, generator, DType::float64, device);
    out.push_back(
        policy.generate(d.seen, noise, {}, {.actions = d.chunks, .delay = 1, .execute = 1}));
    out.push_back(policy.distillation_loss(policy, d.seen, generator).detach());
  }
  for (const auto& [name, value] : policy.diagnostics(d.seen, d.chunks)) out.push_back(value);
  for (Tensor& t : out) t = to(t, Device::cpu());
  return out;
}

}  // namespace

TEST_CASE("policies learn and act on a device as on the CPU", "[robot_policy_test][device_only]") {
  std::vector<RobotPolicyOptions> all;
  for (size_t head = 0; head < head_names().size(); ++head)
    all.push_back(small_policy(static_cast<HeadKind>(head)));
  all.push_back(small_policy());
  all.back().encoder = "tiny";
  all.back().state_dim = 0;
  all.back().vocabulary = 20;
  all.back().word_dropout = 0.3;
  for (const RobotPolicyOptions& o : all) {
    INFO(head_names()[static_cast<size_t>(o.head)] << " " << o.encoder);
    const auto there = on(test_device(), o);
    const auto here = on(Device::cpu(), o);
    REQUIRE(there.size() == here.size());
    for (size_t i = 0; i < there.size(); ++i) CHECK(distance(there[i], here[i]) <= 1e-9);
  }
}
