#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/train.h"

namespace flowgrad::cli {
namespace {

/// Noise and what a teacher makes of it, under the conditions of the data: made once, then gone
/// through in epochs. Training a flow on them is reflow (Liu et al. 2023).
class TeacherData final : public TrainingData {
 public:
  TeacherData(std::unique_ptr<TrainingData> base, const TrainArguments& a)
      : base_(std::move(base)), arguments_(a), sampler_(1, 1, 0) {
    const int64_t rows = a.pairs;
    Generator weights = generator_of(a.common.seed, Stream::weights);
    ModelOptions teacher;
    teacher.weights = a.teacher;
    teacher_ = open_model(teacher, a.common, weights);
    check(*teacher_);
    teacher_->module().train(false);
    Generator noise(a.common.seed, kNoise);
    std::vector<Tensor> conditions;
    for (int64_t n = 0; base_->condition_dim() > 0 && n < rows;) {
      conditions.push_back(base_->next().condition);
      n += conditions.back().size(0);
    }
    pairs_ =
        made(conditions.empty() ? Tensor() : slice(concat(conditions, 0), 0, 0, rows), rows, noise);
    const QuantityInputs unseen = base_->held_out();
    held_out_ = made(unseen.condition, unseen.input.size(0), noise);
    sampler_ = EpochSampler(rows, a.batch_size, a.common.seed);
  }
  int64_t dim() const override { return base_->dim(); }
  int64_t condition_dim() const override { return base_->condition_dim(); }
  QuantityInputs next() override {
    NoGrad off;
    const std::vector<int64_t> rows = sampler_.next();
    const Tensor index = Tensor::from(rows, {static_cast<int64_t>(rows.size())});
    QuantityInputs out;
    out.input = index_select(pairs_.input, 0, index);
    out.noise = index_select(pairs_.noise, 0, index);
    if (pairs_.condition.defined()) out.condition = index_select(pairs_.condition, 0, index);
    return out;
  }
  QuantityInputs held_out() const override { return held_out_; }
  StateProvider state() override { return sampler_state(sampler_); }
  std::string description() const override {
    const std::string pairs = fmt::format("{} pairs of {}", sampler_.count(), arguments_.teacher);
    return pairs_.condition.defined() ? pairs + ", for the conditions of " + base_->description()
                                      : pairs;
  }

 private:
  // A stream of the held-out kind that no data set reads.
  static constexpr uint64_t kNoise = (static_cast<uint64_t>(Stream::held_out) << 32) + (1u << 30);

  void check(const Model& teacher) const {
    if (arguments_.pairs < arguments_.batch_size) {
      throw UsageError(
          fmt::format("--pairs: {} given with --batch-size {}; at least a batch is "
                      "accepted",
                      arguments_.pairs, arguments_.batch_size));
    }
    if (!teacher.has("generate") || teacher.name() == "diffusion") {
      throw UsageError(
          fmt::format("--teacher: {} is a {}; models that generate from noise alone are accepted: "
                      "flow_matching, consistency and score",
                      arguments_.teacher, teacher.name()));
    }
    if (teacher.width() != base_->dim()) {
      throw UsageError(fmt::format("--teacher: {} makes rows of {} numbers; the data has {}",
                                   arguments_.teacher, teacher.width(), base_->dim()));
    }
  }
  QuantityInputs made(const Tensor& condition, int64_t rows, Generator& generator) {
    constexpr int64_t kPart = 8192;
    NoGrad off;
    const Device device = device_of(arguments_.common);
    const bool conditional = teacher_->condition_width() > 0;
    const Tensor noise = randn({rows, base_->dim()}, generator, dtype_of(arguments_.common));
    std::vector<Tensor> parts;
    for (int64_t at = 0; at < rows; at += kPart) {
      const int64_t end = std::min(at + kPart, rows);
      QuantityInputs in{.noise = slice(noise, 0, at, end)};
      if (conditional && condition.defined()) in.condition = slice(condition, 0, at, end);
      parts.push_back(
          to(teacher_->evaluate("generate", on_device(in, device), {}, generator), Device::cpu()));
    }
    return {.input = concat(parts, 0), .condition = condition, .noise = noise};
  }

  std::unique_ptr<TrainingData> base_;
  TrainArguments arguments_;
  std::unique_ptr<Model> teacher_;
  QuantityInputs pairs_, held_out_;
  EpochSampler sampler_;
};

}  // namespace

std::unique_ptr<TrainingData> with_teacher(std::unique_ptr<TrainingData> data,
                                           const TrainArguments& a, const std::string& model) {
  if (a.teacher.empty()) return data;
  if (model != "flow_matching" && model != "consistency") {
    throw UsageError(fmt::format(
        "--teacher: given for {}; flow_matching and consistency learn from pairs", model));
  }
  return std::make_unique<TeacherData>(std::move(data), a);
}

}  // namespace flowgrad::cli
