#include "flowgrad/cli/robot.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/data.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/encoders.h"
#include "flowgrad/tasks/pusht.h"

namespace flowgrad::cli {

Demonstrations open_demonstrations(const DemonstrationSource& s) {
  if (s.world != "pusht") {
    if (!s.file.empty())
      throw UsageError(
          fmt::format("--data: given for {}, whose demonstrator is scripted", s.world));
    if (s.mirror)
      throw UsageError(fmt::format("--mirror: given for {}; pusht is accepted", s.world));
    return scripted_demonstrations(s.world,
                                   {.episodes = s.episodes, .seed = s.seed, .noise = s.noise});
  }
  if (s.file.empty()) {
    throw UsageError(
        "--data: none given; pusht learns from people: the .npz file of docs/robot.md is accepted");
  }
  // By value: a configuration file gives every option.
  const DemonstrationSource own;
  if (s.episodes != own.episodes) {
    throw UsageError(fmt::format(
        "--demonstrations: {} given for pusht, whose demonstrations are those of --data",
        s.episodes));
  }
  if (s.noise != own.noise) {
    throw UsageError(fmt::format(
        "--demonstration-noise: {} given for pusht, whose demonstrations are those of --data",
        s.noise));
  }
  return pusht_demonstrations(s.file, s.mirror);
}

PolicyObservation policy_observation(const Observations& seen) {
  return {.state = seen.state, .robot = seen.robot, .tokens = seen.tokens, .images = seen.images};
}

PolicyObservation on_device(PolicyObservation seen, Device device) {
  for (Tensor* t : {&seen.state, &seen.robot, &seen.tokens, &seen.images}) {
    if (t->defined()) *t = to(*t, device);
  }
  return seen;
}

namespace {

int64_t checked_batch(int64_t batch, int64_t frames) {
  if (batch <= frames) return batch;
  throw UsageError(
      fmt::format("--batch-size: {} given; the demonstrations have {} frames, 1 to that are "
                  "accepted",
                  batch, frames));
}

Tensor rows_of(const Tensor& t, const Tensor& index) {
  return t.defined() ? index_select(t, 0, index) : t;
}

}  // namespace

ImitationData::ImitationData(const Demonstrations& demonstrations, int64_t horizon,
                             ImageSize images, int64_t batch_size, uint64_t seed)
    : demonstrations_(demonstrations),
      horizon_(horizon),
      images_(images),
      sampler_(demonstrations.size(), checked_batch(batch_size, demonstrations.size()), seed) {
  std::vector<int64_t> frames(static_cast<size_t>(demonstrations.size()));
  std::iota(frames.begin(), frames.end(), 0);
  const ChunkBatch batch = demonstrations.batch(frames, horizon);
  all_ = {policy_observation(batch.observations), batch.actions};
}

ImitationBatch ImitationData::next() { return at(sampler_.next()); }

ImitationBatch ImitationData::at(const std::vector<int64_t>& frames) const {
  NoGrad off;
  const auto n = static_cast<int64_t>(frames.size());
  const Tensor index = Tensor::from<int64_t>(frames, {n}, DType::int64);
  ImitationBatch out{{.state = rows_of(all_.seen.state, index),
                      .robot = rows_of(all_.seen.robot, index),
                      .tokens = rows_of(all_.seen.tokens, index),
                      .images = {}},
                     rows_of(all_.chunks, index)};
  if (images_.height == 0) return out;
  constexpr int64_t kGroup = 8;
  std::vector<Tensor> parts(static_cast<size_t>((n + kGroup - 1) / kGroup));
  kernels::parallel_for(static_cast<int64_t>(parts.size()), [&](int64_t i) {
    const auto group = std::span(frames).subspan(
        static_cast<size_t>(i * kGroup), static_cast<size_t>(std::min(kGroup, n - i * kGroup)));
    parts[static_cast<size_t>(i)] =
        demonstrations_.batch(group, horizon_, images_).observations.images;
  });
  out.seen.images = concat(parts, 0);
  return out;
}

StateProvider ImitationData::state() { return sampler_state(sampler_); }

ImageSize image_size(const RobotPolicyOptions& o) {
  const PolicyEncoderOptions encoder = policy_encoder_preset(o.encoder);
  const auto* eyes = std::get_if<VisionLanguageOptions>(&encoder);
  return eyes ? ImageSize{eyes->height, eyes->width} : ImageSize{};
}

void fit_to_world(RobotPolicyOptions& o, const WorldSpec& spec) {
  o.world = spec.name;
  o.action_dim = spec.action_dim;
  o.state_dim = o.encoder == "state" ? spec.state_dim : 0;
  o.robot_dim = spec.robot_dim;
  o.token_length = spec.token_length;
  o.vocabulary = spec.vocabulary;
}

void check_world(const std::string& run, const RobotPolicyOptions& o, const WorldSpec& spec) {
  RobotPolicyOptions wanted = o;
  fit_to_world(wanted, spec);
  const Config has = robot_policy_config(o);
  const Config needs = robot_policy_config(wanted);
  for (const auto& [key, value] : has) {
    if (value == needs.at(key)) continue;
    throw IoError(fmt::format("{}: this policy was made for {} = {}; the world {} has {}", run, key,
                              value, spec.name, needs.at(key)));
  }
}

std::unique_ptr<RobotPolicy> open_policy(const std::string& path, const CommonOptions& common,
                                         bool raw) {
  const auto [name, config] = stored_model(path);
  if (name != kPolicyModel) {
    throw IoError(fmt::format("{}: holds {}; a policy of flowgrad imitate is accepted", path,
                              name.empty() ? "no model of this project" : "a " + name));
  }
  std::unique_ptr<RobotPolicy> policy;
  Generator unused;  // the weights come from the file
  try {
    policy = std::make_unique<RobotPolicy>(robot_policy_options(config), unused, dtype_of(common));
  } catch (const ValueError& e) {
    throw IoError(fmt::format("{}: {}", path, e.what()));
  }
  load_weights(*policy, path, raw, common.quiet);
  policy->to(device_of(common));
  policy->train(false);
  return policy;
}

Policy in_closed_loop(RobotPolicy& policy, const HeadSampling& sampling, double realtime) {
  return [&policy, sampling, realtime, device = policy.device()](const PolicyInput& input) {
    const Tensor noise = input.noise(policy.noise_shape(sampling));
    ChunkUnderWay before;
    if (realtime > 0 && input.previous.defined())
      before = {to(input.previous, device), input.delay, input.execute, realtime};
    return policy.generate(on_device(policy_observation(input.observations), device),
                           to(noise, device), sampling, before);
  };
}

Latency measure_latency(const World& world, const Policy& policy, const EvaluationOptions& options,
                        int64_t decisions) {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kWarmUp = 20;
  Observer observer(world.spec(), 1, options.images);
  observer.look(0, world);
  PolicyInput input;
  input.observations = observer.observations();
  input.episodes = {0};
  input.worlds = {&world};
  input.previous = cast(to(policy(input), Device::cpu()), DType::float32);
  input.delay = options.delay;
  input.execute = options.execute;
  std::vector<double> times;
  for (int64_t i = -kWarmUp; i < decisions; ++i) {
    input.step = i + kWarmUp;
    const auto begin = Clock::now();
    policy(input).to_vector<double>();  // waits for a device
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    if (i >= 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double p) {
    return times[static_cast<size_t>(std::ceil(p * static_cast<double>(decisions))) - 1];
  };
  return {.decisions = decisions, .p50 = at(0.5), .p90 = at(0.9), .p99 = at(0.99)};
}

}  // namespace flowgrad::cli
