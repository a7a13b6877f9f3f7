#include <algorithm>
#include <memory>

#include "flowgrad/cli/rollout.h"

namespace flowgrad::cli {
namespace {

std::vector<plot::Image> frames_of(const World& prototype, const EpisodeResult& episode,
                                   int64_t most, int64_t size) {
  const auto width = static_cast<size_t>(prototype.spec().snapshot_dim);
  const auto count = static_cast<int64_t>(episode.snapshots.size() / width);
  const int64_t shown = std::min(most, count);
  std::vector<plot::Image> frames;
  for (int64_t i = 0; i < shown; ++i) {
    const int64_t at = shown == 1 ? 0 : i * (count - 1) / (shown - 1);
    frames.push_back(
        scene(prototype,
              std::span(episode.snapshots).subspan(static_cast<size_t>(at) * width, width), size));
  }
  return frames;
}

}  // namespace

plot::Image scene(const World& prototype, std::span<const double> snapshot, int64_t size) {
  const std::unique_ptr<World> world = prototype.clone();
  std::vector<float> pixels(static_cast<size_t>(3 * size * size));
  world->restore(snapshot);
  world->render(pixels, {size, size});
  return plot::Image::from_rgb(pixels, size, size);
}

plot::Image film_strip(const World& world, std::span<const EpisodeResult> episodes,
                       int64_t columns) {
  constexpr int64_t kSize = 96;
  std::vector<plot::Image> tiles;
  plot::ImageGridOptions options{.columns = static_cast<int>(columns)};
  for (const EpisodeResult& episode : episodes) {
    std::vector<plot::Image> row = frames_of(world, episode, columns, kSize);
    row.resize(static_cast<size_t>(columns), plot::Image(kSize, kSize, 3));
    tiles.insert(tiles.end(), row.begin(), row.end());
  }
  return plot::image_grid(tiles, options);
}

std::string moving_picture(const World& world, const EpisodeResult& episode) {
  constexpr int64_t kMost = 60;
  constexpr int64_t kSize = 160;
  constexpr double kSeconds = 5;
  const std::vector<plot::Image> frames = frames_of(world, episode, kMost, kSize);
  return plot::animated_svg(frames, kSeconds / static_cast<double>(kMost));
}

}  // namespace flowgrad::cli
