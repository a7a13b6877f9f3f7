#include <fmt/format.h>

#include <cmath>

#include "flowgrad/autograd/engine.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/data.h"
#include "flowgrad/core/json.h"
#include "flowgrad/models/analysis.h"
#include "flowgrad/models/frechet.h"
#include "flowgrad/models/layers.h"
#include "flowgrad/optim/optimizer.h"

namespace flowgrad::cli {
namespace {

struct AnalyzeArguments {
  CommonOptions common;
  ModelOptions model;
  DataOptions data;
  AnalysisOptions analysis;
  int64_t classifier_steps = 1500;
};

/// A small classifier of the data's own classes: the judge of what a conditional model draws.
class Judge {
 public:
  Judge(TrainingData& data, int64_t steps, uint64_t seed, DType dtype, Device device)
      : generator_(generator_of(seed, Stream::validation)),
        net_({data.dim(), kFeatures, data.condition_dim()}, relu, generator_, dtype) {
    net_.to(device);
    Adam optimizer({{net_.parameters()}}, {.lr = 2e-3});
    for (int64_t step = 0; step < steps; ++step) {
      const QuantityInputs batch = on_device(data.next(), device);
      optimizer.zero_grad();
      backward(cross_entropy(net_(batch.input), argmax(batch.condition, 1)));
      optimizer.step();
    }
  }
  /// What its hidden layer says of each row (N, F).
  Tensor features(const Tensor& x) {
    NoGrad off;
    return relu(net_.linears()[0]->forward(x));
  }
  /// Share of the rows whose most likely class is that of the condition, with its standard error.
  std::pair<double, double> accuracy(const Tensor& x, const Tensor& condition) {
    NoGrad off;
    const Tensor right = equal(argmax(net_(x), 1), argmax(condition, 1));
    const double share = mean(cast(right, DType::float64)).item();
    return {share, std::sqrt(share * (1 - share) / static_cast<double>(x.size(0)))};
  }

 private:
  static constexpr int64_t kFeatures = 128;
  Generator generator_;
  MLP net_;
};

/// Classes as one-hot conditions.
bool has_classes(const Tensor& condition) {
  if (!condition.defined() || condition.size(1) < 2) return false;
  NoGrad off;
  const Tensor ones = equal(condition, 1.0), zeros = equal(condition, 0.0);
  return all(logical_or(ones, zeros)).item() != 0 &&
         all(equal(sum(condition, {1}), 1.0)).item() != 0;
}

/// `classes` are the conditions of the rows, whether the model takes them or not.
void judge_classes(std::vector<Property>& out, const Tensor& samples, TrainingData& data,
                   const Tensor& classes, const AnalyzeArguments& a) {
  if (a.data.all_rows || !has_classes(classes)) {
    out.push_back({.name = "Frechet distance",
                   .note = a.data.all_rows ? "no rows are left to train a classifier on"
                                           : "the data comes without classes"});
    return;
  }
  Judge judge(data, a.classifier_steps, a.common.seed, dtype_of(a.common), device_of(a.common));
  const int64_t n = samples.size(0), rest = a.analysis.data.size(0) - n;
  const Tensor real = slice(a.analysis.data, 0, 0, n);
  std::string beside;
  if (rest >= 2) {
    beside = fmt::format("; data against data {:.4g}",
                         frechet_distance(judge.features(slice(a.analysis.data, 0, n, n + rest)),
                                          judge.features(real)));
  }
  out.push_back(
      {.name = "Frechet distance",
       .value = frechet_distance(judge.features(samples), judge.features(real)),
       .note = fmt::format("features of a classifier of {} steps{}", a.classifier_steps, beside)});
  if (!a.analysis.condition.defined()) return;
  const Tensor condition = slice(classes, 0, 0, n);
  const auto [of_samples, error] = judge.accuracy(samples, condition);
  out.push_back({"classifier agrees on samples", of_samples, error, "",
                 fmt::format("on held-out rows {:.4f}", judge.accuracy(real, condition).first)});
}

std::string number(double value) {
  return std::abs(value) >= 1e-3 && std::abs(value) < 1e5 ? fmt::format("{:.4f}", value)
         : value == 0                                     ? "0"
                                                          : fmt::format("{:.3g}", value);
}

void run_analyze(AnalyzeArguments a) {
  apply(a.common);
  Generator generator(a.common.seed);
  const auto model = open_model(a.model, a.common, generator);
  a.data.seed = a.common.seed;
  DataOptions from = data_or_run(a.data, a.model.weights);
  if (from.data.empty()) {
    throw UsageError(
        "--data: none given, and no run that names its own; a toy density, fashion-mnist or a .npy "
        "file is accepted");
  }
  from.dtype = dtype_of(a.common);
  from.all_rows = a.data.all_rows;
  const auto data = open_data(from);
  const QuantityInputs rows = on_device(data->held_out(), device_of(a.common));
  model->module().train(false);
  a.analysis.seed = a.common.seed;
  a.analysis.data = rows.input;
  if (model->condition_width() > 0) a.analysis.condition = rows.condition;
  a.analysis.floor = data->floor();
  const Tensor samples = analysis_samples(*model, a.analysis);
  std::vector<Property> properties = analyze(*model, a.analysis, samples);
  judge_classes(properties, samples, *data, rows.condition, a);
  if (a.common.json) {
    Json list = Json::array();
    for (const Property& p : properties) {
      list.push_back({{"name", p.name},
                      {"value", p.value},
                      {"standard_error", p.error},
                      {"unit", p.unit},
                      {"note", p.note}});
    }
    print_result(json_text({{"model", model->name()},
                            {"data", from.data},
                            {"seed", a.common.seed},
                            {"properties", list}}) +
                 "\n");
    return;
  }
  std::vector<std::vector<std::string>> lines{{"property", "value", "", "unit", "how"}};
  for (const Property& p : properties) {
    lines.push_back({p.name, std::isnan(p.value) ? "-" : number(p.value),
                     std::isnan(p.error) ? "" : "+- " + number(p.error), p.unit, p.note});
  }
  print_result(table(lines, "<>><<") +
               fmt::format("{} on {}\n", model->name(), data->description()));
}

}  // namespace

void add_analyze(CLI::App& app) {
  auto a = std::make_shared<AnalyzeArguments>();
  Command c(app, "analyze", "Describe what a model has learned: errors, likelihood, distances");
  add_model(c, a->model, Weights::use);
  add_data(c, a->data, "Held-out rows to compare with");
  c.flag("--all-rows", a->data.all_rows,
         "Compare with all rows of a .npy file, which was not trained on, and not a tenth");
  c.integer("--rows", a->data.rows, "Held-out rows of a toy density, drawn from the seed", 4,
            10000000);
  c.integer("--n", a->analysis.samples, "Samples to draw", 4, 1000000);
  c.real("--quantum", a->analysis.quantum,
         "Width of one level, for bits per dimension, where the rows are dequantised levels", 0,
         1e6);
  c.integer("--classifier-steps", a->classifier_steps,
            "Training of the classifier where the condition is a class", 1, 1000000);
  c.group("Solver");
  c.integer("--n-steps", a->analysis.sampling.n_steps, "Steps of the sampler; 0 = the model's own",
            0, 1000000);
  c.text("--solver", a->analysis.sampling.solver, "Solver of the sampler; empty = the model's own",
         "NAME");
  c.real("--guidance", a->analysis.sampling.guidance, "Classifier-free guidance weight; 1 = off", 0,
         1000);
  add_common(c, a->common);
  c.examples("flowgrad analyze --run runs/realnvp-moons");
  c.run([a](const Command&) { run_analyze(*a); });
}

}  // namespace flowgrad::cli
