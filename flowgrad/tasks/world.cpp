#include "flowgrad/tasks/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/tasks/pusht.h"
#include "flowgrad/tasks/tabletop.h"

namespace flowgrad {
namespace {

template <class T>
std::span<T> row_of(const Tensor& tensor, int64_t row) {
  const int64_t width = tensor.numel() / std::max<int64_t>(tensor.size(0), 1);
  return {tensor.data<T>() + row * width, static_cast<size_t>(width)};
}

}  // namespace

void World::step(std::span<const double> action) {
  const WorldSpec& sizes = spec();
  if (static_cast<int64_t>(action.size()) != sizes.action_dim) {
    throw ShapeError(fmt::format("{}: action has {} numbers; accepted are {}", sizes.name,
                                 action.size(), sizes.action_dim));
  }
  if (!std::all_of(action.begin(), action.end(), [](double a) { return std::isfinite(a); })) {
    throw ValueError(fmt::format("{}: action is ({}); accepted are finite numbers", sizes.name,
                                 fmt::join(action, ", ")));
  }
  if (done()) {
    throw ValueError(
        fmt::format("{}: step after the end of the episode; accepted is reset first", sizes.name));
  }
  advance(action);
}

const std::vector<std::string>& world_names() {
  static const std::vector<std::string> names{"tabletop", "fork", "pusht"};
  return names;
}

std::unique_ptr<World> make_world(const std::string& name, const WorldOptions& options) {
  if (name == "tabletop") return std::make_unique<Tabletop>(options);
  const bool plain = options.split == Split::seen && options.counterfactual == Counterfactual::none;
  if ((name == "fork" || name == "pusht") && !plain) {
    throw ValueError(fmt::format(
        "make_world: {} has one thing to push; only tabletop has splits and counterfactuals",
        name));
  }
  if (name == "fork") return std::make_unique<Tabletop>(Tabletop::fork());
  if (name == "pusht") return std::make_unique<PushT>();
  throw ValueError(fmt::format("make_world: name is '{}'; accepted are {}", name,
                               fmt::join(world_names(), ", ")));
}

Observer::Observer(const WorldSpec& spec, int64_t rows, ImageSize images) : size_(images) {
  if ((images.height == 0) != (images.width == 0) || images.height < 0 || images.width < 0) {
    throw ValueError(fmt::format("Observer: images are {} x {}; accepted is 0 x 0 or both above 0",
                                 images.height, images.width));
  }
  observations_.state = Tensor::empty({rows, spec.state_dim});
  observations_.robot = Tensor::empty({rows, spec.robot_dim});
  if (spec.token_length > 0) {
    observations_.tokens = Tensor::empty({rows, spec.token_length}, DType::int64);
  }
  if (images.height != 0) {
    observations_.images = Tensor::empty({rows, 3, images.height, images.width});
  }
}

void Observer::look(int64_t row, const World& world) {
  world.state(row_of<float>(observations_.state, row));
  world.robot(row_of<float>(observations_.robot, row));
  if (observations_.tokens.defined()) world.tokens(row_of<int64_t>(observations_.tokens, row));
  if (observations_.images.defined()) {
    world.render(row_of<float>(observations_.images, row), size_);
  }
}

}  // namespace flowgrad
