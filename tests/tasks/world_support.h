// What the tests of worlds share.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "flowgrad/tasks/world.h"

namespace world_test {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

template <class E>
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "no error of this type";
}

inline std::vector<double> saved(const flowgrad::World& world) {
  std::vector<double> out(static_cast<size_t>(world.spec().snapshot_dim));
  world.snapshot(out);
  return out;
}

inline std::vector<float> features(const flowgrad::World& world) {
  std::vector<float> out(static_cast<size_t>(world.spec().state_dim));
  world.state(out);
  return out;
}

inline std::vector<float> picture(const flowgrad::World& world, flowgrad::ImageSize size) {
  std::vector<float> out(static_cast<size_t>(3 * size.height * size.width));
  world.render(out, size);
  return out;
}

}  // namespace world_test
