#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/consistency.h"
#include "flowgrad/models/hierarchical.h"
#include "flowgrad/models/verify_subject.h"
#include "flowgrad/optim/trainer.h"

// The checks of training: 10, 21, 23 and 25.
namespace flowgrad::verification {
namespace {

constexpr int64_t kTrainedRows = 16;

Tensor loss_of(Subject& s, Model& m, const QuantityInputs& in) {
  Generator draws = s.generator(10);
  return m.evaluate("loss", in, {}, draws);
}

QuantityInputs loss_inputs(Subject& s, DType dtype) {
  QuantityInputs in = s.inputs(kTrainedRows, dtype);
  in.time = {};  // time and noise are drawn by the loss from its own law
  in.noise = {};
  return in;
}

double norm_of(const std::vector<Tensor>& v) {
  double total = 0;
  for (const Tensor& t : v) total += sum(square(t)).item();
  return std::sqrt(total);
}

/// The gradient against a central difference of fourth order along a direction in which every
/// parameter moves: half along the gradient, so that the derivative is large, half random.
void check_gradient(Subject& s) {
  Model& m = *s.wide;
  const QuantityInputs in = loss_inputs(s, DType::float64);
  std::vector<Tensor> leaves;
  for (const auto& [name, p] : m.module().parameters()) leaves.push_back(p);
  const auto gradients_of = [&](const Tensor& objective) {
    return grad(std::span(&objective, 1), leaves, {}, {.allow_unused = true});
  };
  const Tensor loss = loss_of(s, m, in);
  const auto gradients = gradients_of(loss);
  Generator draws_of_all = s.generator(10);
  const auto trained =
      m.training_quantity() == "loss" ? gradients : gradients_of(m.loss(in, draws_of_all));
  NoGrad off;
  int64_t missing = 0;
  std::string first_missing;
  std::vector<Tensor> g, random;
  Generator draws = s.generator(11);
  for (size_t i = 0; i < leaves.size(); ++i) {
    const auto finite = [](const Tensor& t) { return t.defined() && all(isfinite(t)).item() != 0; };
    if (!finite(trained[i]) && missing++ == 0)
      first_missing = ": " + m.module().parameters()[i].first + " has none";
    g.push_back(finite(gradients[i]) ? gradients[i] : zeros_like(leaves[i]));
    random.push_back(randn(leaves[i].shape(), draws, DType::float64, s.device));
  }
  s.judge(21, "parameters without a finite gradient", static_cast<double>(missing), 0,
          fmt::format("of {}{}", leaves.size(), first_missing));

  if (dynamic_cast<Consistency*>(&m.module()) || dynamic_cast<HierarchicalFlow*>(&m.module())) {
    s.skip(10, "gradient of the loss", "its target depends on the weights and is held fixed");
    return;
  }
  const double g_norm = norm_of(g), r_norm = norm_of(random);
  std::vector<Tensor> start, direction;
  double wanted = 0;
  for (size_t i = 0; i < leaves.size(); ++i) {
    start.push_back(contiguous(leaves[i].detach() * 1.0));
    direction.push_back(g[i] * (g_norm > 0 ? 1 / g_norm : 0) + random[i] * (1 / r_norm));
    wanted += sum(g[i] * direction[i]).item();
  }
  // Small, as every ReLU that changes sides between the points leaves an error in proportion to h.
  const double h = 1e-6;
  const auto at = [&](double step) {
    for (size_t i = 0; i < leaves.size(); ++i) copy_(leaves[i], start[i] + direction[i] * step);
    return loss_of(s, m, in).item();
  };
  const double slope = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h);
  at(0);
  // The continuous adjoint is as exact as its solve.
  const auto& config = s.model.config();
  const bool adjoint = config.contains("gradient") && config.at("gradient") == "adjoint";
  const double demanded = adjoint ? std::max(1e-6, 10 * std::stod(config.at("rtol"))) : 1e-6;
  // Rounding of the loss itself limits a difference where the gradient is tiny.
  const double rounding = 1e-13 * (1 + std::abs(loss.item())) / h;
  const double scale = g_norm > 0 ? g_norm : 1;
  s.judge(10, "gradient of the loss against differences", std::abs(slope - wanted) / scale,
          demanded + rounding / scale,
          fmt::format("of its norm {:.3g}; all {} parameters move", g_norm, leaves.size()));
}

/// A warning of the trainer is what the drill is about; nobody needs to read it.
class Silence final : public ProgressSink {
 public:
  void update(const ProgressState&) override {}
  void message(const std::string&) override {}
  void finish(const ProgressState&) override {}
};

/// A short training of a fresh copy.
struct Run {
  /// `poisoned` steps see infinities; it runs to step `steps`, pausing before where asked.
  Run(Subject& s, std::function<bool(int64_t step)> poisoned, int64_t steps,
      const std::string& folder = {}, int64_t pause_at = 0)
      : model(s.copy(DType::float32)),
        optimizer({{model->module().parameters()}}, {.lr = 1e-3}),
        draws(s.generator(12)) {
    model->module().train(true);
    const QuantityInputs good = loss_inputs(s, DType::float32);
    QuantityInputs bad = good;
    {
      NoGrad off;
      bad.input = bad.input * std::numeric_limits<double>::infinity();
    }
    TrainerParts parts;
    parts.model = model->module().state_dict();
    parts.optimizer = &optimizer;
    parts.loss = [this, good, bad, poisoned](int64_t step, int64_t) {
      return model->loss(poisoned(step) ? bad : good, draws);
    };
    parts.generator = &draws;
    TrainerOptions o;
    o.steps = steps;
    o.nan_limit = 3;
    o.run_folder = folder;
    o.pause_at = pause_at;
    o.handle_signals = false;
    o.progress = &silence;
    trainer = std::make_unique<Trainer>(std::move(parts), o);
  }
  std::vector<Tensor> weights() const {
    std::vector<Tensor> out;
    for (const auto& [name, t] : model->module().state_dict()) out.push_back(t.detach());
    return out;
  }
  std::unique_ptr<Model> model;
  Adam optimizer;
  Generator draws;
  Silence silence;
  std::unique_ptr<Trainer> trainer;
};

double difference(const Run& a, const Run& b) {
  double worst = 0;
  const auto x = a.weights(), y = b.weights();
  for (size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, verification::difference(x[i], y[i]));
  return worst;
}

/// An empty folder that goes away again.
struct Folder {
  Folder() {
    std::string path = (std::filesystem::temp_directory_path() / "flowgrad-verify-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr)
      throw IoError(fmt::format("verify: {}: no folder can be made there", path));
    name = path;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(name, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string name;
};

void check_drill(Subject& s) {
  const auto never = [](int64_t) { return false; };
  Run clean(s, never, 2);
  clean.trainer->run();
  Run hurt(
      s, [](int64_t step) { return step == 2; }, 3);
  const TrainResult result = hurt.trainer->run();
  const bool skipped = result.skipped == 1 && result.status == TrainStatus::finished;
  s.judge(25, "a batch with infinities changes no weight",
          skipped ? difference(hurt, clean) : std::numeric_limits<double>::infinity(), 0,
          fmt::format("{} of 3 steps skipped", result.skipped));
  Run lost(
      s, [](int64_t) { return true; }, 20);
  const TrainResult end = lost.trainer->run();
  s.judge(25, "steps until bad batches end the training",
          end.status == TrainStatus::diverged ? static_cast<double>(end.skipped) : 20, 3,
          "batches in a row");

  const Folder folder;
  Run whole(s, never, 4);
  whole.trainer->run();
  {
    Run half(s, never, 4, folder.name, 2);
    half.trainer->run();
  }
  Run rest(s, never, 4, folder.name);
  rest.trainer->resume();
  rest.trainer->run();
  s.judge(23, "training resumed and uninterrupted", difference(rest, whole), 0,
          "largest difference of a weight after 4 steps; equal bits");
}

}  // namespace

void check_training(Subject& s) {
  if (!s.model.has("loss")) {
    s.skip(21, "gradients", "the model has no loss");
    return;
  }
  check_gradient(s);
  check_drill(s);
  NoGrad off;
  const std::string q = s.model.has("sample") ? "sample" : "generate";
  const auto draw = [&] {
    Generator generator = s.generator(13);
    QuantityInputs in = s.inputs(kTrainedRows, DType::float32);
    for (Tensor* t : {&in.input, &in.time, &in.noise, &in.probe_noise}) *t = {};
    return s.narrow->evaluate(q, in, {.n_samples = kTrainedRows}, generator);
  };
  s.judge(23, "equal seeds, equal samples", verification::difference(draw(), draw()), 0,
          "largest difference; equal bits");
}

}  // namespace flowgrad::verification
