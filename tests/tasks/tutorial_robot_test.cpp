// The tutorial's robot data: what an action follows from, and items apart from one another.
#include "flowgrad/tasks/tutorial_robot.h"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/error.h"

using namespace flowgrad;

namespace {

std::vector<int64_t> items(int64_t first, int64_t n) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(first + i);
  return out;
}

}  // namespace

TEST_CASE("an action follows from image and first token", "[tutorial_robot_test]") {
  constexpr int64_t n = 200, size = 24, pixels = size * size;
  const auto b = TutorialRobot(size, 5).batch(items(0, n));
  const float* image = b.images.data<float>();
  const int64_t* token = b.tokens.data<int64_t>();
  std::vector<int> said(7, 0);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t word = token[i * 20];
    REQUIRE((word >= 1 && word <= 6));
    ++said[static_cast<size_t>(word)];
    for (int64_t k = 1; k < 20; ++k) REQUIRE((token[i * 20 + k] >= 7 && token[i * 20 + k] < 10000));
    double mean = 0;
    for (int64_t p = 0; p < pixels; ++p)
      mean += static_cast<double>(image[(i * 3 + (word - 1) % 3) * pixels + p]) / pixels;
    for (int64_t k = 0; k < 7; ++k) {
      const double want = (word <= 3 ? 1 : -1) * (2 * mean - 1) * (1 - static_cast<double>(k) / 7);
      // Pixels have noise of deviation 0.2 / sqrt(12).
      CHECK(std::abs(static_cast<double>(b.actions.data<float>()[i * 7 + k]) - want) < 0.025);
    }
  }
  for (size_t w = 1; w <= 6; ++w) CHECK(said[w] > 10);
}

TEST_CASE("an item depends on seed and number alone", "[tutorial_robot_test]") {
  const TutorialRobot data(8, 1);
  const std::vector<int64_t> mixed{9, 4, 7};
  const auto some = data.batch(mixed).images.to_vector<float>();
  for (size_t i = 0; i < 3; ++i) {
    const auto alone = data.batch(std::span(&mixed[i], 1)).images.to_vector<float>();
    CHECK(std::equal(alone.begin(), alone.end(), some.begin() + static_cast<ptrdiff_t>(i * 192)));
  }
  CHECK(data.batch(items(3, 1)).actions.to_vector<float>() !=
        TutorialRobot(8, 2).batch(items(3, 1)).actions.to_vector<float>());
  CHECK(data.batch({}).images.shape() == Shape{0, 3, 8, 8});
}

TEST_CASE("the tutorial's own items are unit normal", "[tutorial_robot_test]") {
  const auto b = TutorialRobot(8, 3, true).batch(items(0, 300));
  double sum = 0, squares = 0;
  const auto actions = b.actions.to_vector<double>();
  for (const double a : actions) {
    sum += a;
    squares += a * a;
  }
  const auto n = static_cast<double>(actions.size());
  CHECK(std::abs(sum / n) < 4 / std::sqrt(n));
  CHECK(std::abs(squares / n - 1) < 4 * std::sqrt(2 / n));
}

TEST_CASE("sizes and items that do not exist are refused", "[tutorial_robot_test]") {
  for (const int64_t size : {7, 1025}) CHECK_THROWS_AS(TutorialRobot(size), ValueError);
  CHECK_THROWS_AS(TutorialRobot().batch(items(-1, 1)), ValueError);
}
