#include "flowgrad/cli/imitate.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/presets.h"
#include "flowgrad/cli/robot.h"
#include "flowgrad/cli/rollout.h"
#include "flowgrad/cli/train.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/models/encoders.h"
#include "flowgrad/optim/interrupt.h"

// imitate: a policy learns from demonstrations.
namespace flowgrad::cli {
namespace {

struct ImitateArguments {
  TrainArguments training;
  std::string preset;  // its options are in place by now
  std::string config_file;
  std::string world, head = "flow", encoder = "state";
  std::vector<std::string> settings;
  DemonstrationSource source;
  int64_t draws = 1;
  std::string teacher;
  int64_t distill_steps = 1;
  int64_t evaluate_every = 0;
  int64_t evaluate_episodes = 50;
};

/// What a resumed run must share with the first one, model and data.
std::string stored_config(const ImitateArguments& a, const Config& config) {
  Json json = parse_json(model_json(kPolicyModel, config));
  json["task"] = a.world;
  json["data"] = a.source.file;
  json["mirror"] = a.source.mirror;
  json["demonstrations"] = a.source.episodes;
  json["demonstration_noise"] = a.source.noise;
  json["batch_size"] = a.training.batch_size;
  json["draws"] = a.draws;
  json["seed"] = a.training.common.seed;
  json["dtype"] = a.training.common.dtype;
  if (!a.teacher.empty())
    json["teacher"] = fmt::format("{} ({} steps)", a.teacher, a.distill_steps);
  return json_text(json);
}

/// Keys of a policy that an option, or the world, has the last word on.
bool is_decided_elsewhere(const std::string& key) {
  const auto keys = {"head",      "encoder",   "world",        "action_dim",
                     "state_dim", "robot_dim", "token_length", "vocabulary"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

RobotPolicyOptions policy_options(const ImitateArguments& a, const WorldSpec& spec) {
  ModelOptions given;
  given.settings = a.settings;
  const Config asked = config_of(given);
  Config config = asked;
  config["head"] = a.head;
  config["encoder"] = a.encoder;
  RobotPolicyOptions options;
  try {
    options = robot_policy_options(config);
  } catch (const ValueError& e) {
    throw UsageError(fmt::format("--set: {}", e.what()));
  }
  fit_to_world(options, spec);
  const Config made = robot_policy_config(options);
  for (const auto& [key, value] : asked) {
    if (!is_decided_elsewhere(key) || value == made.at(key)) continue;
    throw UsageError(fmt::format("--set: {}={} given; {} decides it: {}", key, value,
                                 key == "head" || key == "encoder" ? "--" + key : "--task",
                                 made.at(key)));
  }
  if (options.encoder != "state" && spec.token_length == 0) {
    throw UsageError(fmt::format("--encoder: {} given; {} has no words to read: state is accepted",
                                 options.encoder, spec.name));
  }
  return options;
}

/// The policy that is distilled, whose weights and statistics are the student's start.
std::unique_ptr<RobotPolicy> open_teacher(const ImitateArguments& a, RobotPolicy& student) {
  if (a.draws != 1)
    throw UsageError("--draws: given with --teacher, which draws noise once a row; 1 is accepted");
  auto teacher = open_policy(a.teacher, a.training.common);
  const Config needs = robot_policy_config(student.options());
  for (const auto& [key, value] : robot_policy_config(teacher->options())) {
    if (key == "head" && value != "flow") {
      throw UsageError(
          fmt::format("--teacher: {} has the head {}; flow is accepted", a.teacher, value));
    }
    if (value == needs.at(key)) continue;
    throw UsageError(
        fmt::format("--teacher: {} has {} = {}, the student {}; equal ones are accepted", a.teacher,
                    key, value, needs.at(key)));
  }
  student.load_state_dict(teacher->state_dict());
  return teacher;
}

/// A signal came while the policy acted.
struct Stopped {};

/// The policy in the closed loop, on episodes of a seed of their own; a signal ends it, and the
/// trainer sees to the rest.
Validation evaluation(const World& world, RobotPolicy& policy, int64_t episodes) {
  const RobotPolicyOptions& o = policy.options();
  policy.train(false);
  const Policy acts = [own = in_closed_loop(policy)](const PolicyInput& input) {
    if (InterruptGuard::signal() != 0) throw Stopped{};
    return own(input);
  };
  const EvaluationOptions options =
      evaluation_options({.episodes = episodes}, kValidationSeed, o.horizon, image_size(o));
  Validation out(std::nan(""));
  try {
    const EvaluationSummary s = summarize(evaluate(world, acts, options));
    out = {1 - s.score_mean,
           {{"success", s.success_rate}, {"score", s.score_mean}, {"jerk", s.jerk_mean}}};
  } catch (const Stopped&) {
  }
  policy.train(true);
  return out;
}

std::string json_result(const ImitateResult& r) {
  Json json{{"status", status_name(r.training.status)},
            {"task", r.task},
            {"head", r.head},
            {"encoder", r.encoder},
            {"frames", r.frames},
            {"parameters", r.policy->parameter_count()},
            {"steps", r.training.steps_done},
            {"loss", r.training.loss},
            {"skipped", r.training.skipped},
            {"seconds", r.training.seconds},
            {"cpu_seconds", r.training.processor_seconds},
            {"seed", r.seed},
            {"run", r.run},
            {"weights", r.weights}};
  if (!r.history.empty()) {
    for (const auto& [name, value] : r.history.back().measures) json[name] = value;
  }
  if (r.best_kept) json["best_step"] = r.training.best_step;
  for (const auto& [name, values] : r.diagnostics) json[name] = values;
  return json_text(json) + "\n";
}

std::string text_result(const ImitateResult& r) {
  std::string out = fmt::format(
      "{} on {} from {} frames: {} steps, {} parameters\nloss {:.5g}, {:.1f} s of processor "
      "time\n",
      r.head, r.task, r.frames, r.training.steps_done, r.policy->parameter_count(), r.training.loss,
      r.training.processor_seconds);
  for (const auto& [name, values] : r.diagnostics)
    out += fmt::format("{} {:.3f}\n", name, fmt::join(values, " "));
  out += fmt::format("weights {}", r.weights);
  if (r.best_kept) out += fmt::format(" of step {}", r.training.best_step);
  return out + "\n";
}

void run_imitate(ImitateArguments a, const Command& command,
                 const std::function<void(const ImitateResult&)>& done) {
  TrainArguments& t = a.training;
  if (t.resume && t.run.empty()) throw UsageError("--resume: no run given; --run FOLDER names it");
  if (a.world.empty())
    throw UsageError(fmt::format("--task: none given; {} are accepted", listing(world_names())));
  if (t.run.empty()) t.run = fmt::format("runs/{}-{}", a.world, a.head);
  check_run_folder(t);
  if (t.keep_best && a.evaluate_every == 0) {
    throw UsageError("--keep-best: given without evaluations; --evaluate-every N asks for them");
  }
  // By value: a configuration file gives every option.
  const ImitateArguments own;
  if (a.evaluate_episodes != own.evaluate_episodes && a.evaluate_every == 0) {
    throw UsageError(
        fmt::format("--evaluate-episodes: {} given without evaluations; --evaluate-every N asks "
                    "for them",
                    a.evaluate_episodes));
  }
  if (a.distill_steps != own.distill_steps && a.teacher.empty()) {
    throw UsageError(fmt::format(
        "--distill-steps: {} given without --teacher, whose flow they shorten", a.distill_steps));
  }
  apply(t.common);
  FlowTrainerOptions trainer_o = trainer_options(t);
  const std::unique_ptr<World> world = make_world(a.world);
  const RobotPolicyOptions options = policy_options(a, world->spec());
  a.source.world = a.world;
  a.source.seed = t.common.seed;
  ImitationData data(open_demonstrations(a.source), options.horizon, image_size(options),
                     t.batch_size, t.common.seed);
  Generator generator = generator_of(t.common.seed, Stream::weights);
  auto owned = std::make_unique<RobotPolicy>(options, generator, dtype_of(t.common));
  RobotPolicy& policy = *owned;
  if (a.teacher.empty()) {
    for (const std::string& w : policy.fit_statistics(data.all().seen, data.all().chunks)) tell(w);
  }
  const Device device = device_of(t.common);
  policy.to(device);
  std::unique_ptr<RobotPolicy> teacher;
  if (!a.teacher.empty()) teacher = open_teacher(a, policy);

  Generator draws = generator_of(t.common.seed, Stream::training);
  const Config config = robot_policy_config(options);
  trainer_o.trainer.config = stored_config(a, config);
  make_run_folder(t.run);
  const FolderLock lock(t.run, "--run");
  check_run_folder(t);  // another process may have been faster
  if (t.resume) check_resume(t, trainer_o.trainer.config);
  PolicyObservation seen;
  Tensor chunks;
  const auto fetch = [&] {
    const ImitationBatch batch = data.next();
    PolicyObservation now = on_device(batch.seen, device);
    if (trainer_o.trainer.graph == GraphUse::never) {
      seen = std::move(now);
      chunks = to(batch.chunks, device);
      return;
    }
    keep_in_place(seen.state, now.state);
    keep_in_place(seen.robot, now.robot);
    keep_in_place(seen.tokens, now.tokens);
    keep_in_place(seen.images, now.images);
    keep_in_place(chunks, to(batch.chunks, device));
  };
  const auto loss = [&] {
    if (teacher) return policy.distillation_loss(*teacher, seen, draws, a.distill_steps);
    return policy.loss(seen, chunks, draws, a.draws);
  };
  FlowTrainerData sources{.next = {}, .validate = {}, .states = {data.state()}, .prepare = fetch};
  if (a.evaluate_every > 0) {
    trainer_o.trainer.validate_every = a.evaluate_every;
    sources.validate = [&] { return evaluation(*world, policy, a.evaluate_episodes); };
  }
  FlowTrainer training(policy, loss, std::move(sources), draws, trainer_o);
  if (t.resume) training.resume();
  const InterruptGuard guard;  // as in train: before, there is nothing to lose
  Config settings = config;
  std::erase_if(settings, [](const auto& entry) { return is_decided_elsewhere(entry.first); });
  write_config(t.run, command, "", settings);
  forget_results(t);
  ImitateResult r{.task = a.world, .head = a.head, .encoder = a.encoder};
  r.training = training.run();
  check_result(t, r.training, command);
  // One that came after the last evaluation, too late to end the training.
  if (const int signal = InterruptGuard::signal())
    end_interrupted(t, command, r.training.steps_done, signal);

  r.best_kept = t.keep_best && std::filesystem::exists(best_weights(t.run));
  // The best weights are averaged ones already.
  const EmaScope averages(r.best_kept ? nullptr : training.trainer().ema());
  if (r.best_kept) load_weights(policy, best_weights(t.run), false, t.common.quiet);
  policy.train(false);
  r.run = t.run;
  r.weights = t.run + "/weights.safetensors";
  save_safetensors(r.weights, policy.state_dict(), weights_metadata(kPolicyModel, config));
  r.seed = t.common.seed;
  r.json = t.common.json;
  r.frames = data.frames();
  r.history = training.trainer().history();
  std::vector<int64_t> first(static_cast<size_t>(std::min<int64_t>(data.frames(), 1000)));
  std::iota(first.begin(), first.end(), 0);
  const ImitationBatch some = data.at(first);
  for (const auto& [name, value] :
       policy.diagnostics(on_device(some.seen, device), to(some.chunks, device)))
    r.diagnostics.emplace_back(name, value.to_vector<double>());
  r.policy = std::move(owned);
  done(r);
}

}  // namespace

void add_imitate(CLI::App& app, std::function<void(const ImitateResult&)> done) {
  auto a = std::make_shared<ImitateArguments>();
  a->training.ema = 0.999;
  Command c(app, "imitate", "Train a robot's policy on demonstrations");
  c.group("Policy");
  c.choice("--task", a->world, "World that the policy acts in", world_names());
  c.choice("--head", a->head, "How actions are read off a feature", head_names());
  c.choice("--encoder", a->encoder,
           "What makes the feature: the state's numbers, or pictures and words",
           policy_encoder_presets());
  c.choice("--preset", a->preset,
           fmt::format("Options that reach the figures of docs/policy.md: {}; others given win",
                       listing(preset_names("imitate")))
               .c_str(),
           preset_names("imitate"))
      .transient();
  c.list("--set", a->settings,
         "A key of the policy; may be repeated: horizon, hidden, relative, auxiliary, ...",
         "KEY=VALUE");
  c.file("--config", a->config_file,
         "Options and keys of the policy, as lines name = value or JSON; the command line wins")
      .transient();
  c.group("Demonstrations");
  c.file("--data", a->source.file, "Of pusht: the .npz file of docs/robot.md");
  c.flag("--mirror", a->source.mirror,
         "Of pusht: each demonstration in its mirror image across the goal's axis as well");
  c.integer("--demonstrations", a->source.episodes, "Episodes of the scripted expert", 1, 1000000);
  c.real("--demonstration-noise", a->source.noise,
         "Deviation of what is added to the expert's actions as it acts", 0, 0.1);
  c.integer("--draws", a->draws, "Noise draws a row of the batch", 1, 1000);
  c.group("Distillation");
  c.file("--teacher", a->teacher,
         "Run or weights of a flow policy of the same configuration: learn to do in few steps what "
         "it does in its own, on the demonstrations' observations");
  c.integer("--distill-steps", a->distill_steps, "Euler steps that the student is made for", 1,
            1000);
  add_training(c, a->training);
  c.group("Evaluation");
  c.integer("--evaluate-every", a->evaluate_every,
            "Steps between evaluations in the closed loop, whose rows of metrics.jsonl are the "
            "learning curve; 0 = none",
            0, kMostSteps);
  c.integer("--evaluate-episodes", a->evaluate_episodes,
            "Episodes of each, apart from those of rollout and compare", 1, 1000000);
  c.flag("--keep-best", a->training.keep_best,
         "The result is the weights of the evaluation with the highest score, not the last ones");
  add_common(c, a->training.common);
  c.examples(
      "flowgrad imitate --task fork --head flow --run runs/fork\n"
      "flowgrad imitate --task pusht --data pusht.npz --set horizon=16 --run runs/pusht\n"
      "flowgrad imitate --task fork --teacher runs/fork --run runs/fork-1\n"
      "flowgrad rollout --run runs/fork-1 --n-steps 1");
  c.run([a, done = std::move(done)](const Command& self) { run_imitate(*a, self, done); });
}

void add_imitate(CLI::App& app) {
  add_imitate(
      app, [](const ImitateResult& r) { print_result(r.json ? json_result(r) : text_result(r)); });
}

}  // namespace flowgrad::cli
