// A small regression to train, and a sink that remembers, for the tests of the trainer.
#pragma once

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "core/io_support.h"
#include "device/device.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/optim/trainer.h"
#include "flowgrad/tasks/sampler.h"

namespace optim_test {

using namespace flowgrad;
using flowgrad::testing::test_device;
using io_test::Scratch;

/// Remembers what it is told.
struct Capture final : ProgressSink {
  void update(const ProgressState& state) override { updates.push_back(state); }
  void message(const std::string& text) override { messages.push_back(text); }
  void finish(const ProgressState&) override { ++finished; }
  std::vector<ProgressState> updates;
  std::vector<std::string> messages;
  int finished = 0;
};

/// y = |x| sum by a network of two hidden layers: noisy targets, shuffled mini-batches, AdamW. Wide
/// enough that kernels use several threads.
struct Regression {
  explicit Regression(int64_t width = 160, uint64_t seed = 3)
      : generator(seed),
        x(randn({60, 4}, generator, DType::float32, test_device())),
        y(sum(abs(x), {1}, true)),
        w1((randn({width, 4}, generator, DType::float32, test_device()) * 0.5).requires_grad_()),
        b1(zeros({width}, DType::float32, test_device()).requires_grad_()),
        w2((randn({width, width}, generator, DType::float32, test_device()) * 0.1)
               .requires_grad_()),
        w3((randn({1, width}, generator, DType::float32, test_device()) * 0.1).requires_grad_()),
        buffer(full({3}, 7, DType::float32, test_device())),
        sampler(60, 8, seed),
        optimizer({{{{"w1", w1}, {"w2", w2}, {"w3", w3}}, 1, 0.01}, {{{"b1", b1}}, 0.5, 0}},
                  {.lr = 1e-2}) {}

  Tensor predict(const Tensor& input) const {
    return linear(tanh(linear(tanh(linear(input, w1, b1)), w2)), w3);
  }
  Tensor loss() {
    const std::vector<int64_t> rows = sampler.next();
    const Tensor at =
        Tensor::from(rows, {static_cast<int64_t>(rows.size())}, DType::int64, test_device());
    const Tensor target = index_select(y, 0, at);
    return mse_loss(predict(index_select(x, 0, at)),
                    target + 0.1 * randn(target.shape(), generator, DType::float32, test_device()));
  }
  double validation() const {
    NoGrad off;
    return mse_loss(predict(x), y).item();
  }
  TrainerParts parts() {
    TrainerParts p;
    p.model = {{"w1", w1}, {"b1", b1}, {"w2", w2}, {"w3", w3}, {"buffer", buffer}};
    p.optimizer = &optimizer;
    p.loss = [this](int64_t, int64_t) { return loss(); };
    p.generator = &generator;
    p.validate = [this] { return validation(); };
    p.states = {integer_state(
        "sampler",
        [this] {
          return std::vector<int64_t>{sampler.state().epoch, sampler.state().position};
        },
        [this](const std::vector<int64_t>& v) {
          sampler.set_state({v.at(0), v.at(1)});
        })};
    return p;
  }

  Generator generator;
  Tensor x, y, w1, b1, w2, w3, buffer;
  EpochSampler sampler;
  Adam optimizer;
};

inline std::string bytes_of(const NamedTensors& tensors) {
  std::string out;
  for (const auto& [name, t] : tensors) {
    const TensorBytes bytes(t);
    out += name + ":";
    out.append(reinterpret_cast<const char*>(bytes.span().data()), bytes.span().size());
  }
  return out;
}

/// Rows of metrics but for their times.
inline std::string without_times(std::vector<MetricsRow> rows) {
  std::string out;
  for (MetricsRow& row : rows) {
    row.seconds = 0;
    row.processor_seconds = 0;
    out += to_json(row) + "\n";
  }
  return out;
}

}  // namespace optim_test
