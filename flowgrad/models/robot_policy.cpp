#include "flowgrad/models/robot_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/config.h"
#include "flowgrad/models/encoders.h"

namespace flowgrad {
namespace {

/// Deviations are at least this part of the largest of their array.
constexpr double kFloor = 1e-3;

std::unique_ptr<PolicyEncoder> make_encoder(const RobotPolicyOptions& o, Generator& generator,
                                            DType dtype) {
  PolicyEncoderOptions encoder = policy_encoder_preset(o.encoder);
  if (auto* state = std::get_if<StateEncoderOptions>(&encoder)) {
    state->state_dim = o.state_dim;
  } else {
    auto& eyes = std::get<VisionLanguageOptions>(encoder);
    eyes.vocabulary = o.vocabulary;
    eyes.robot_dim = o.robot_dim;
  }
  return make_policy_encoder(encoder, generator, dtype);
}

ActionHeadOptions head_options(const RobotPolicyOptions& o, int64_t features) {
  ActionHeadOptions h = o.head_options;
  h.feature_dim = features;
  h.chunk_dim = o.horizon * o.action_dim;
  return h;
}

void check_array(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t width) {
  if (t.defined() && t.rank() == 2 && t.size(0) == rows && t.size(1) == width) return;
  throw ShapeError(fmt::format("{}: {} {} given; ({}, {}) is accepted", op, name,
                               t.defined() ? t.shape().to_string() : "absent", rows, width));
}

}  // namespace

RobotPolicy::RobotPolicy(const RobotPolicyOptions& options, Generator& generator, DType dtype)
    : RobotPolicy(options, make_encoder(options, generator, dtype), generator, dtype) {}

RobotPolicy::RobotPolicy(const RobotPolicyOptions& o, std::unique_ptr<PolicyEncoder> encoder,
                         Generator& generator, DType dtype)
    : options_(o),
      dtype_(dtype),
      encoder_(add_module("encoder", std::move(encoder))),
      head_(add_module("head", make_action_head(o.head, head_options(o, encoder_.features()),
                                                generator, dtype))) {
  if (!(o.word_dropout >= 0 && o.word_dropout < 1)) {
    throw ValueError(
        fmt::format("RobotPolicy: word_dropout = {} given; numbers from 0 to below 1 are accepted",
                    o.word_dropout));
  }
  if (o.horizon < 1 || o.action_dim < 1 || !(o.auxiliary >= 0)) {
    throw ValueError(fmt::format(
        "RobotPolicy: horizon = {}, action_dim = {}, auxiliary = {} given; at least 1, 1 and 0 are "
        "accepted",
        o.horizon, o.action_dim, o.auxiliary));
  }
  if (o.relative && o.robot_dim < o.action_dim) {
    throw ValueError(fmt::format(
        "RobotPolicy: relative given for a robot of {} numbers; at least action_dim = {} are "
        "accepted",
        o.robot_dim, o.action_dim));
  }
  if (o.auxiliary > 0) {
    auxiliary_ = &add_module(
        "auxiliary",
        std::make_unique<Linear>(encoder_.features(), o.horizon * o.action_dim, generator, dtype));
  }
  action_ = add_statistics("action", o.horizon * o.action_dim, dtype);
  state_ = add_statistics("state", o.state_dim, dtype);
  robot_ = add_statistics("robot", o.robot_dim, dtype);
  bound_ = add_state("statistics.action.bound", zeros({1}, dtype));
}

RobotPolicy::Statistics RobotPolicy::add_statistics(const std::string& name, int64_t width,
                                                    DType dtype) {
  if (width == 0) return {};
  // NaN until they are fitted or loaded: nothing runs unnoticed without.
  const double unknown = std::numeric_limits<double>::quiet_NaN();
  return {add_state("statistics." + name + ".mean", full({width}, unknown, dtype)),
          add_state("statistics." + name + ".std", full({width}, unknown, dtype))};
}

std::string RobotPolicy::fit(const char* name, const Statistics& s, const Tensor& given) {
  const Tensor rows = cast(flowgrad::to(given, Device::cpu()), DType::float64);
  if (rows.size(0) < 1 || all(isfinite(rows)).item() == 0) {
    throw ValueError(fmt::format(
        "fit_statistics: {}: {} rows given; finite numbers in at least one row are accepted", name,
        rows.size(0)));
  }
  auto deviation = std(rows, {0}, 0).to_vector<double>();
  const double largest =
      deviation.empty() ? 0 : *std::max_element(deviation.begin(), deviation.end());
  const double least = largest > 0 ? kFloor * largest : 1;
  std::string warning;
  for (size_t i = 0; i < deviation.size(); ++i) {
    if (deviation[i] >= least) continue;
    warning += fmt::format("{}{} {} ({:.3g})", warning.empty() ? "" : ", ", name, i, deviation[i]);
    deviation[i] = least;
  }
  copy_(s.mean, mean(rows, {0}));
  copy_(s.deviation, Tensor::from(deviation, s.deviation.shape(), DType::float64));
  return warning.empty() ? warning
                         : fmt::format("all but constant, scaled as if they deviated by {:.3g}: {}",
                                       least, warning);
}

std::vector<std::string> RobotPolicy::fit_statistics(const PolicyObservation& seen,
                                                     const Tensor& chunks) {
  NoGrad off;
  check_chunks("fit_statistics", chunks);
  const int64_t rows = chunks.size(0);
  if (options_.state_dim > 0)
    check_array("RobotPolicy", "state", seen.state, rows, options_.state_dim);
  if (options_.robot_dim > 0)
    check_array("RobotPolicy", "robot", seen.robot, rows, options_.robot_dim);
  std::vector<std::string> warnings = {
      fit("action", action_, rows_of("fit_statistics", seen, chunks))};
  if (options_.state_dim > 0) warnings.push_back(fit("state", state_, seen.state));
  if (options_.robot_dim > 0) warnings.push_back(fit("robot", robot_, seen.robot));
  std::erase(warnings, "");
  copy_(bound_, reshape(max(abs(normalised("fit_statistics", seen, chunks))), {1}));
  return warnings;
}

void RobotPolicy::check_statistics(const char* op) const {
  // Read again only after they were written: on a device a look means waiting.
  const std::array<uint64_t, 2> versions{action_.mean.storage().version(),
                                         action_.deviation.storage().version()};
  if (checked_ == versions) return;
  for (const Tensor& t : {action_.mean, action_.deviation}) {
    if (all(isfinite(t)).item() == 0) {
      throw ValueError(fmt::format(
          "{}: this policy has no statistics of its actions; fit_statistics or a checkpoint gives "
          "them",
          op));
    }
  }
  checked_ = versions;
}

Tensor RobotPolicy::origin(const char* op, const PolicyObservation& seen, int64_t rows) const {
  check_array(op, "robot", seen.robot, rows, options_.robot_dim);
  return unsqueeze(cast(slice(seen.robot, 1, 0, options_.action_dim), dtype_), 1);
}

void RobotPolicy::check_chunks(const char* op, const Tensor& chunks) const {
  if (chunks.rank() == 3 && chunks.size(1) == options_.horizon &&
      chunks.size(2) == options_.action_dim) {
    return;
  }
  throw ShapeError(fmt::format("{}: chunks of shape {} given; (N, {}, {}) is accepted", op,
                               chunks.shape().to_string(), options_.horizon, options_.action_dim));
}

Tensor RobotPolicy::rows_of(const char* op, const PolicyObservation& seen,
                            const Tensor& chunks) const {
  const int64_t rows = chunks.size(0);
  return reshape(options_.relative ? chunks - origin(op, seen, rows) : chunks,
                 {rows, options_.horizon * options_.action_dim});
}

Tensor RobotPolicy::normalised(const char* op, const PolicyObservation& seen,
                               const Tensor& chunks) const {
  check_chunks(op, chunks);
  return (rows_of(op, seen, cast(chunks, dtype_)) - action_.mean) / action_.deviation;
}

Tensor RobotPolicy::feature(const PolicyObservation& seen) {
  const auto scaled = [&](const char* name, const Tensor& x, const Statistics& s) {
    if (!x.defined() || !s.mean.defined()) return x;
    check_array("RobotPolicy", name, x, x.rank() == 2 ? x.size(0) : 0, s.mean.size(0));
    return (cast(x, dtype_) - s.mean) / s.deviation;
  };
  PolicyObservation input = seen;
  input.state = scaled("state", seen.state, state_);
  input.robot = scaled("robot", seen.robot, robot_);
  if (seen.images.defined()) input.images = cast(seen.images, dtype_);
  return encoder_.encode(input);
}

Tensor RobotPolicy::loss(const PolicyObservation& seen, const Tensor& chunks, Generator& generator,
                         int64_t draws) {
  if (draws < 1)
    throw ValueError(fmt::format("loss: draws = {} given; at least 1 is accepted", draws));
  check_statistics("loss");
  const Tensor target = normalised("loss", seen, chunks);
  PolicyObservation shown = seen;
  if (training() && options_.word_dropout > 0 && seen.tokens.defined()) {
    const Tensor kept = bernoulli(seen.tokens.shape(), 1 - options_.word_dropout, generator,
                                  DType::float32, seen.tokens.device());
    shown.tokens = seen.tokens * cast(kept, DType::int64);
  }
  const Tensor seen_as = feature(shown);
  const Tensor total = head_.loss(draws == 1 ? seen_as : repeat(seen_as, {draws, 1}),
                                  draws == 1 ? target : repeat(target, {draws, 1}), generator);
  return auxiliary_ ? total + mse_loss((*auxiliary_)(seen_as), target) * options_.auxiliary : total;
}

Tensor RobotPolicy::distillation_loss(RobotPolicy& teacher, const PolicyObservation& seen,
                                      Generator& generator, int64_t steps) {
  if (options_.head != HeadKind::flow || teacher.options().head != HeadKind::flow) {
    throw ValueError(fmt::format(
        "distillation_loss: a teacher with the head {} and a student with the head {} given; flow "
        "and flow are accepted",
        head_names()[static_cast<size_t>(teacher.options().head)],
        head_names()[static_cast<size_t>(options_.head)]));
  }
  check_statistics("distillation_loss");
  const Tensor here = feature(seen);
  const Shape row = noise_shape();
  const Tensor noise =
      randn({here.size(0), row[0], row[1]}, generator, here.dtype(), here.device());
  const Tensor target = normalised("distillation_loss", seen, teacher.generate(seen, noise));
  return head_.distillation_loss(here, noise, target, steps, generator);
}

Inpainting RobotPolicy::agreement(const PolicyObservation& seen,
                                  const ChunkUnderWay& before) const {
  const int64_t width = options_.action_dim;
  std::vector<double> weights;
  for (const double w : realtime_weights(options_.horizon, before.delay, before.execute))
    weights.insert(weights.end(), static_cast<size_t>(width), w);
  // Relative to where the robot is now, not to where it was when that chunk was made.
  // Held to what demonstrations span: a robot that was thrown off its plan would be guided far
  // beyond what the flow knows, and the next chunk beyond that one.
  const double bound = bound_.item();
  const Tensor target = clamp(normalised("generate", seen, before.actions), -bound, bound);
  return {target,
          Tensor::from(weights, {options_.horizon * width}, target.dtype(), target.device()),
          before.beta};
}

Tensor RobotPolicy::generate(const PolicyObservation& seen, const Tensor& noise,
                             const HeadSampling& given, const ChunkUnderWay& before) {
  NoGrad off;
  check_statistics("generate");
  HeadSampling sampling = given;
  if (options_.head == HeadKind::diffusion && sampling.clip == 0) sampling.clip = bound_.item();
  if (before.actions.defined()) sampling.inpainting = agreement(seen, before);
  const Tensor chunk = head_.generate(feature(seen), cast(noise, dtype_), sampling);
  const Tensor x = reshape(chunk * action_.deviation + action_.mean,
                           {chunk.size(0), options_.horizon, options_.action_dim});
  return options_.relative ? x + origin("generate", seen, chunk.size(0)) : x;
}

NamedTensors RobotPolicy::diagnostics(const PolicyObservation& seen, const Tensor& chunks) {
  NoGrad off;
  return head_.diagnostics(feature(seen), normalised("diagnostics", seen, chunks));
}

std::vector<ConfigKey> robot_policy_keys() {
  static constexpr std::pair<const char*, const char*> kKeys[] = {
      {"world", "world: tabletop, fork or pusht"},
      {"action_dim", "numbers of an action"},
      {"state_dim", "numbers of the state; 0 = none is read"},
      {"robot_dim", "numbers that the robot knows of itself"},
      {"token_length", "length of an instruction; 0 = no words"},
      {"vocabulary", "tokens are below this"},
      {"horizon", "actions of a chunk"},
      {"relative", "chunks count from where the robot is: true or false"},
      {"auxiliary", "weight of a regression from the feature; 0 = none"},
      {"word_dropout", "share of words hidden in training"},
      {"encoder", "what makes a feature: state, tiny, base or tutorial"},
      {"head", "flow, diffusion, regression, cvae or mip"},
      {"hidden", "width of the head"},
      {"time_dim", "width of the time embedding; flow and mip"},
      {"time_scale", "factor on the time before it; flow and mip"},
      {"time_law", "law of the training time: uniform or beta; flow"},
      {"n_timesteps", "steps of the noise schedule; diffusion"},
      {"latent_dim", "width of the latent; cvae"},
      {"kl_weight", "weight of the KL divergence; cvae"},
      {"anchor", "time of the second step; mip"},
      {"base", "distribution that noise is drawn from: normal"},
      {"time", "direction of flow time: noise-to-data"}};
  const Config defaults = robot_policy_config({});
  std::vector<ConfigKey> keys;
  for (const auto& [name, description] : kKeys)
    keys.push_back({name, defaults.at(name), description});
  return keys;
}

RobotPolicyOptions robot_policy_options(const Config& config) {
  const ConfigReader c("robot_policy", robot_policy_keys(), config);
  RobotPolicyOptions o;
  o.world = c.text("world");
  o.action_dim = c.integer("action_dim", 1);
  o.state_dim = c.integer("state_dim", 0);
  o.robot_dim = c.integer("robot_dim", 0);
  o.token_length = c.integer("token_length", 0);
  o.vocabulary = c.integer("vocabulary", 0);
  o.horizon = c.integer("horizon", 1);
  o.relative = c.boolean("relative");
  o.auxiliary = c.real("auxiliary", 0);
  o.word_dropout = c.real("word_dropout", 0);
  o.encoder = policy_encoder_presets()[c.choice("encoder", policy_encoder_presets())];
  o.head = static_cast<HeadKind>(c.choice("head", head_names()));
  ActionHeadOptions& h = o.head_options;
  h.hidden = c.integer("hidden", 1);
  h.time_dim = c.integer("time_dim", 4);
  h.time_scale = c.real("time_scale", 1e-6);
  h.time_law = static_cast<TimeLaw>(c.choice("time_law", time_law_names()));
  h.n_timesteps = c.integer("n_timesteps", 1);
  h.latent_dim = c.integer("latent_dim", 1);
  h.kl_weight = c.real("kl_weight", 0);
  h.anchor = c.real("anchor", 0);
  c.choice("base", {"normal"});
  c.choice("time", {"noise-to-data"});
  return o;
}

Config robot_policy_config(const RobotPolicyOptions& o) {
  const auto text = [](auto value) { return fmt::format("{}", value); };
  const ActionHeadOptions& h = o.head_options;
  return {{"world", o.world},
          {"action_dim", text(o.action_dim)},
          {"state_dim", text(o.state_dim)},
          {"robot_dim", text(o.robot_dim)},
          {"token_length", text(o.token_length)},
          {"vocabulary", text(o.vocabulary)},
          {"horizon", text(o.horizon)},
          {"relative", text(o.relative)},
          {"auxiliary", text(o.auxiliary)},
          {"word_dropout", text(o.word_dropout)},
          {"encoder", o.encoder},
          {"head", head_names()[static_cast<size_t>(o.head)]},
          {"hidden", text(h.hidden)},
          {"time_dim", text(h.time_dim)},
          {"time_scale", text(h.time_scale)},
          {"time_law", time_law_names()[static_cast<size_t>(h.time_law)]},
          {"n_timesteps", text(h.n_timesteps)},
          {"latent_dim", text(h.latent_dim)},
          {"kl_weight", text(h.kl_weight)},
          {"anchor", text(h.anchor)},
          {"base", "normal"},
          {"time", "noise-to-data"}};
}

}  // namespace flowgrad
