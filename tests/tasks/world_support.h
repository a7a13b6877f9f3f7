// What the tests of worlds share.
#pragma once

#include <string>
#include <vector>

#include "flowgrad/tasks/world.h"
#include "tests/core/io_support.h"

namespace world_test {

using io_test::contains;
using io_test::error_of;

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
