#include "flowgrad/tasks/tutorial_robot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/plane.h"

namespace flowgrad {

TutorialRobot::TutorialRobot(int64_t size, uint64_t seed, bool noise)
    : size_(size), seed_(seed), noise_(noise) {
  if (size < 8 || size > 1024) {
    throw ValueError(
        fmt::format("TutorialRobot: images of size {} given; 8 to 1024 are accepted", size));
  }
}

TutorialRobot::Batch TutorialRobot::batch(std::span<const int64_t> items) const {
  const auto n = static_cast<int64_t>(items.size());
  Batch out{Tensor::empty({n, 3, size_, size_}, DType::float32),
            Tensor::empty({n, kTokens}, DType::int64),
            Tensor::empty({n, kActionDim}, DType::float32)};
  float* pixel = out.images.data<float>();
  int64_t* token = out.tokens.data<int64_t>();
  float* action = out.actions.data<float>();
  for (const int64_t item : items) {
    if (item < 0) {
      throw ValueError(fmt::format("TutorialRobot: item {} given; at least 0 is accepted", item));
    }
    Draws draws(seed_, static_cast<uint64_t>(item));
    std::array<double, 3> brightness{};
    for (double& b : brightness) b = draws.uniform(0, 1);
    for (int64_t i = 0; i < kTokens; ++i) {
      const int first = noise_ ? 0 : i == 0 ? 1 : kInstructions + 1;
      const int end = i == 0 && !noise_ ? kInstructions + 1 : static_cast<int>(kVocabulary);
      token[i] = first + draws.integer(end - first);
    }
    const auto said = static_cast<size_t>(token[0] - 1);
    for (int64_t k = 0; k < kActionDim; ++k) {
      const double size = 1 - static_cast<double>(k) / kActionDim;
      action[k] = static_cast<float>(
          noise_ ? draws.normal() : (said < 3 ? 1 : -1) * (2 * brightness[said % 3] - 1) * size);
    }
    for (const double b : brightness) {
      for (int64_t i = 0; i < size_ * size_; ++i)
        *pixel++ = static_cast<float>(noise_ ? draws.normal() : b + draws.uniform(-0.1, 0.1));
    }
    token += kTokens;
    action += kActionDim;
  }
  return out;
}

}  // namespace flowgrad
