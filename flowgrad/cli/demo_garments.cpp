#include <fmt/format.h>

#include <chrono>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/demo.h"
#include "flowgrad/models/flow_matching.h"

namespace flowgrad::cli {
namespace {

constexpr int64_t kClasses = FashionMnist::kClasses;

/// Share of the images whose most likely class is their label, for each class.
std::vector<double> agreement_by_class(MLP& classifier, const Tensor& images,
                                       const Tensor& labels) {
  NoGrad off;
  std::vector<double> right(kClasses), all(kClasses);
  const auto wanted = labels.to_vector<int64_t>();
  const auto given = argmax(classifier(to(images, classifier.device())), 1).to_vector<int64_t>();
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto c = static_cast<size_t>(wanted[i]);
    all[c] += 1;
    if (given[i] == wanted[i]) right[c] += 1;
  }
  for (size_t c = 0; c < right.size(); ++c) right[c] /= all[c];
  return right;
}

double average(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Standard deviation of every pixel within its class, averaged over pixels and classes.
double deviation_within_classes(const Tensor& images, const Tensor& labels) {
  const auto label = labels.to_vector<int64_t>();
  double total = 0;
  for (int64_t c = 0; c < kClasses; ++c) {
    std::vector<int64_t> rows;
    for (size_t i = 0; i < label.size(); ++i) {
      if (label[i] == c) rows.push_back(static_cast<int64_t>(i));
    }
    const Tensor of_class =
        index_select(images, 0, Tensor::from(rows, {static_cast<int64_t>(rows.size())}));
    total += mean(std(of_class, {0})).item();
  }
  return total / static_cast<double>(kClasses);
}

/// The classes 0, ..., 9, each `n` times in a row.
Tensor classes_in_turn(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t c = 0; c < kClasses; ++c) out.insert(out.end(), static_cast<size_t>(n), c);
  return Tensor::from(out, {static_cast<int64_t>(out.size())});
}

std::unique_ptr<MLP> train_classifier(GarmentsResult& r, const DemoSettings& settings,
                                      const DemoBudget& budget, const FashionMnist& data) {
  Generator generator = demo_generator(settings, DemoStream::classifier);
  auto net = std::make_unique<MLP>(std::vector<int64_t>{ImageSet::kPixels, 256, kClasses}, relu,
                                   generator);
  const Device device = settings.device;
  net->to(device);
  constexpr int64_t kBatch = 256;
  Batcher batches(data.train, kBatch, settings.seed);
  r.classifier_training.name = "classifier";
  r.classifier_training.title = "3/4  classifier of real garments, the judge of the generated ones";
  r.classifier_training.batch = kBatch;
  r.classifier_training.steps = budget.classifier_steps;
  r.classifier_training.learning_rate = 2e-3;
  run_training(
      r.classifier_training, *net, generator,
      [&](int64_t, int64_t) {
        const ImageBatch batch = batches.next();
        return cross_entropy((*net)(to(batch.images, device)), to(batch.labels, device));
      },
      {}, settings);
  return net;
}

void train_flow(GarmentsResult& r, const DemoSettings& settings, const DemoBudget& budget,
                const FashionMnist& data) {
  Generator generator = demo_generator(settings, DemoStream::garments);
  r.model = make_model("flow_matching",
                       {{"condition_dim", std::to_string(kClasses)},
                        {"action_dim", std::to_string(budget.garment_components)},
                        {"time_scale", fmt::format("{}", budget.garment_time_scale)},
                        {"hidden", std::to_string(budget.garment_hidden)}},
                       generator);
  auto& model = dynamic_cast<FlowMatching&>(r.model->module());
  const Device device = settings.device;
  model.to(device);
  constexpr int64_t kRows = 20000;
  r.components =
      principal_components(data.train, kRows, budget.garment_components, generator, device);
  Batcher batches(data.train, budget.garment_batch, settings.seed + 1);
  r.training.name = "garments";
  r.training.title = "4/4  class-conditional flow matching on Fashion-MNIST";
  r.training.batch = budget.garment_batch;
  r.training.steps = budget.garment_steps;
  r.training.learning_rate = budget.garment_rate;
  r.training.ema_decay = budget.garment_ema;
  run_training(
      r.training, model, generator,
      [&](int64_t, int64_t) {
        const ImageBatch batch = batches.next();
        const Tensor labels = to(batch.labels, device);
        const Tensor condition = drop_condition(one_hot(labels, kClasses), 0.1, generator);
        return model.loss(r.components.encode(to(batch.images, device)), condition, generator);
      },
      {}, settings);
}

/// Coefficients of one garment of each class on their way, at the given times.
std::vector<Tensor> garment_path(FlowMatching& model, const Tensor& noise,
                                 const std::vector<double>& times, const DemoBudget& budget) {
  NoGrad off;
  const Tensor condition = one_hot(to(classes_in_turn(1), noise.device()), kClasses);
  const Tensor none = zeros_like(condition);
  const auto field = [&](double t, const Tensor& x) {
    const Tensor time = full({x.size(0)}, t, x.dtype(), x.device());
    const Tensor without = model.velocity(x, time, none);
    return without + (model.velocity(x, time, condition) - without) * budget.guidance;
  };
  std::vector<Tensor> out{noise};
  for (size_t i = 1; i < times.size(); ++i) {
    out.push_back(
        odeint(field, out.back(), times[i - 1], times[i], {.solver = "euler", .n_steps = 5}));
  }
  return out;
}

}  // namespace

GarmentsResult demo_garments(const DemoSettings& settings, const DemoBudget& budget,
                             const FashionMnist& data) {
  GarmentsResult r;
  auto classifier = train_classifier(r, settings, budget, data);
  std::vector<int64_t> every(static_cast<size_t>(data.test.size()));
  std::iota(every.begin(), every.end(), int64_t{0});
  const Tensor real = data.test.images(every);
  const Tensor real_labels = data.test.labels(every);
  r.accuracy_by_class = agreement_by_class(*classifier, real, real_labels);
  r.accuracy = average(r.accuracy_by_class);  // the test set has equally many of each class

  train_flow(r, settings, budget, data);
  auto& model = dynamic_cast<FlowMatching&>(r.model->module());
  NoGrad off;
  Generator generator = demo_generator(settings, DemoStream::generate);
  const Tensor labels = classes_in_turn(budget.garments_per_class);
  const auto start = std::chrono::steady_clock::now();
  GenerateOptions options;
  options.solver = {.solver = "euler", .n_steps = budget.solver_steps};
  options.guidance = budget.guidance;
  const int64_t k = budget.garment_components;
  const Device device = settings.device;
  const Tensor coefficients =
      model.generate(randn({labels.size(0), k}, generator, DType::float32, device),
                     one_hot(to(labels, device), kClasses), options);
  r.images = to(clamp(r.components.decode(coefficients), -1, 1), Device::cpu());
  r.generate_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  r.agreement_by_class = agreement_by_class(*classifier, r.images, labels);
  r.agreement = average(r.agreement_by_class);
  r.variety =
      deviation_within_classes(r.images, labels) / deviation_within_classes(real, real_labels);
  for (int i = 0; i <= 10; ++i) r.times.push_back(i / 10.0);
  const Tensor noise = randn({kClasses, k}, generator, DType::float32, device);
  for (const Tensor& at : garment_path(model, noise, r.times, budget)) {
    r.path.push_back(to(r.components.decode(at), Device::cpu()));
  }
  r.classifier = std::move(classifier);
  return r;
}

}  // namespace flowgrad::cli
