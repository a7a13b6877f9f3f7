#pragma once

#include <cstdint>
#include <span>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// The set-up of the tutorial's policy: 224 x 224 images, 20 tokens of 10,000, actions of 7
/// numbers, 32,000 items, so that 10 epochs of batches of 32 are 10,000 steps. The tutorial's own
/// items are noise, from which nothing can be learned. Here the action is a function of image and
/// text: the first token, 1 to 6, says which colour channel counts and with which sign, and a_k =
/// sign (2 brightness - 1) (1 - k / 7), where brightness is the mean of that channel's pixels
/// before their noise. The other tokens, from 7, say nothing.
class TutorialRobot {
 public:
  static constexpr int64_t kItems = 32000;
  static constexpr int64_t kTokens = 20;
  static constexpr int64_t kVocabulary = 10000;
  static constexpr int64_t kActionDim = 7;
  static constexpr int kInstructions = 6;

  struct Batch {
    Tensor images;   ///< (n, 3, size, size) float32
    Tensor tokens;   ///< (n, 20) int64
    Tensor actions;  ///< (n, 7) float32
  };

  /// Images of size x size; `noise` for the tutorial's own items: unit normal pixels and actions,
  /// any tokens, whose matching loss no model brings below pi / 2 (the mean over t of the variance
  /// of x1 - x0 given x_t, 1 / (t^2 + (1 - t)^2)). ValueError for a size outside 8 to 1024.
  explicit TutorialRobot(int64_t size = 224, uint64_t seed = 0, bool noise = false);

  /// Items by number, each from draws of its own; those from kItems on are never trained on.
  /// ValueError for a negative number.
  Batch batch(std::span<const int64_t> items) const;

 private:
  int64_t size_;
  uint64_t seed_;
  bool noise_;
};

}  // namespace flowgrad
