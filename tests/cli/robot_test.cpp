// Policies in their worlds: the same bits at any number of threads and rows.
#include "flowgrad/cli/robot.h"

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/kernels/parallel.h"
#include "tests/catch.hpp"

using namespace flowgrad;
using namespace flowgrad::cli;

namespace {

struct Threads {
  explicit Threads(int n) : before(kernels::num_threads()) { kernels::set_num_threads(n); }
  ~Threads() { kernels::set_num_threads(before); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  int before;
};

Demonstrations demonstrations(const std::string& world) {
  return open_demonstrations({.world = world, .episodes = 6, .file = {}, .seed = 4});
}

std::unique_ptr<RobotPolicy> policy_for(const std::string& world, const std::string& encoder,
                                        HeadKind head) {
  RobotPolicyOptions o;
  o.encoder = encoder;
  o.head = head;
  o.head_options.hidden = 32;
  o.head_options.n_timesteps = 4;
  fit_to_world(o, make_world(world)->spec());
  Generator generator(1);
  auto policy = std::make_unique<RobotPolicy>(o, generator);
  const ImitationData data(demonstrations(world), o.horizon, {}, 8, 0);
  policy->fit_statistics(data.all().seen, data.all().chunks);
  return policy;
}

std::vector<EpisodeResult> act(const std::string& name, RobotPolicy& policy, int64_t lockstep,
                               int threads, double realtime = 0) {
  const Threads some(threads);
  EvaluationOptions options{
      .episodes = 5, .seed = 2, .execute = 4, .delay = 2, .lockstep = lockstep, .record = 5};
  options.images = image_size(policy.options());
  return evaluate(*make_world(name), in_closed_loop(policy, {}, realtime), options);
}

}  // namespace

TEST_CASE("an evaluation has the same bits at any number of threads and rows", "[robot_test]") {
  for (size_t head = 0; head < head_names().size(); ++head) {
    INFO(head_names()[head]);
    const auto policy = policy_for("fork", "state", static_cast<HeadKind>(head));
    const auto one = act("fork", *policy, 1, 1);
    CHECK(act("fork", *policy, 5, 1) == one);
    CHECK(act("fork", *policy, 3, 2) == one);
  }
  const auto eyes = policy_for("tabletop", "tiny", HeadKind::flow);
  const auto one = act("tabletop", *eyes, 1, 1);
  CHECK(act("tabletop", *eyes, 5, 2) == one);
}

TEST_CASE("real-time chunking has the same bits at any number of threads and rows",
          "[robot_test]") {
  const auto policy = policy_for("fork", "state", HeadKind::flow);
  const auto one = act("fork", *policy, 1, 1, 5);
  CHECK(act("fork", *policy, 5, 1, 5) == one);
  CHECK(act("fork", *policy, 3, 2, 5) == one);
  CHECK_FALSE(act("fork", *policy, 5, 1) == one);
}

TEST_CASE("batches have the same bits at any number of threads, and continue", "[robot_test]") {
  const auto batches = [](int threads, int64_t skip) {
    const Threads some(threads);
    ImitationData data(demonstrations("tabletop"), 4, {48, 48}, 19, 7);
    StateProvider state = data.state();
    for (int64_t i = 0; i < skip; ++i) data.next();
    ImitationData again(demonstrations("tabletop"), 4, {48, 48}, 19, 7);
    again.state().load(state.save());
    return again.next();
  };
  const ImitationBatch a = batches(1, 12);
  const ImitationBatch b = batches(2, 12);
  CHECK(a.seen.images.shape() == Shape{19, 3, 48, 48});
  CHECK(a.seen.images.to_vector<float>() == b.seen.images.to_vector<float>());
  CHECK(a.chunks.to_vector<float>() == b.chunks.to_vector<float>());
  CHECK(a.seen.tokens.to_vector<int64_t>() == b.seen.tokens.to_vector<int64_t>());
  CHECK(batches(1, 0).chunks.to_vector<float>() != a.chunks.to_vector<float>());
}

TEST_CASE("a policy is refused in another world", "[robot_test]") {
  const auto policy = policy_for("fork", "state", HeadKind::flow);
  const auto message = [&](const WorldSpec& spec) -> std::string {
    try {
      check_world("runs/x", policy->options(), spec);
    } catch (const IoError& e) {
      return e.what();
    }
    return "accepted";
  };
  CHECK(message(make_world("fork")->spec()) == "accepted");
  CHECK(message(make_world("tabletop")->spec()).find("runs/x") != std::string::npos);
  WorldSpec changed = make_world("fork")->spec();
  changed.state_dim += 1;
  CHECK(message(changed).find("state_dim = 14") != std::string::npos);
}

TEST_CASE("latencies are ordered and counted", "[robot_test]") {
  const auto world = make_world("fork");
  const auto policy = policy_for("fork", "state", HeadKind::regression);
  const Latency l = measure_latency(*world, in_closed_loop(*policy), {}, 30);
  CHECK(l.decisions == 30);
  CHECK(l.p50 > 0);
  CHECK(l.p50 <= l.p90);
  CHECK(l.p90 <= l.p99);
}
