#include "flowgrad/tasks/fashion_mnist.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "flowgrad/core/error.h"

namespace flowgrad {
namespace {

constexpr const char* kHowToGet =
    "Debian's package dataset-fashion-mnist holds the data (apt-get install "
    "dataset-fashion-mnist); "
    "or give a folder with the four idx files";

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw IoError(fmt::format("fashion_mnist: {}: {}", path, what));
}

/// The file with or without ".gz".
std::string locate(const std::string& folder, const std::string& name) {
  const std::filesystem::path plain = std::filesystem::path(folder) / name;
  std::filesystem::path packed = plain;
  packed += ".gz";
  std::error_code error;
  if (std::filesystem::exists(packed, error)) return packed.string();
  if (!error && std::filesystem::exists(plain, error)) return plain.string();
  fail(packed.string(), fmt::format("{}. {}", error ? error.message() : "no such file", kHowToGet));
}

ImageSet load_set(const std::string& folder, const std::string& prefix) {
  const std::string image_path = locate(folder, prefix + "-images-idx3-ubyte");
  const std::string label_path = locate(folder, prefix + "-labels-idx1-ubyte");
  IdxArray images;
  IdxArray labels;
  try {
    images = read_idx(image_path, 3);
    labels = read_idx(label_path, 1);
  } catch (const IoError& error) {
    throw IoError(fmt::format("fashion_mnist: {}. {}", error.what(), kHowToGet));
  }
  if (images.sizes[0] == 0) {
    fail(image_path, fmt::format("0 images found; expected is at least one. {}", kHowToGet));
  }
  if (images.sizes[1] != ImageSet::kSide || images.sizes[2] != ImageSet::kSide) {
    fail(image_path,
         fmt::format("images of {} x {} pixels found; expected are {} x {}. {}", images.sizes[1],
                     images.sizes[2], ImageSet::kSide, ImageSet::kSide, kHowToGet));
  }
  if (images.sizes[0] != labels.sizes[0]) {
    fail(label_path, fmt::format("{} labels found; expected are {}, one for each image of {}. {}",
                                 labels.sizes[0], images.sizes[0], image_path, kHowToGet));
  }
  for (size_t i = 0; i < labels.values.size(); ++i) {
    if (labels.values[i] >= FashionMnist::kClasses) {
      fail(label_path, fmt::format("label {} is {}; expected is 0 to {}. {}", i, labels.values[i],
                                   FashionMnist::kClasses - 1, kHowToGet));
    }
  }
  return ImageSet(std::move(images.values), std::move(labels.values));
}

}  // namespace

ImageSet::ImageSet(std::vector<uint8_t> pixels, std::vector<uint8_t> labels)
    : pixels_(std::move(pixels)), labels_(std::move(labels)) {
  if (pixels_.size() != labels_.size() * static_cast<size_t>(kPixels)) {
    throw ShapeError(
        fmt::format("ImageSet: {} pixels given for {} labels; {} pixels a label are "
                    "needed",
                    pixels_.size(), labels_.size(), kPixels));
  }
}

std::span<const uint8_t> ImageSet::image(int64_t i) const {
  return std::span(pixels_).subspan(static_cast<size_t>(i * kPixels), static_cast<size_t>(kPixels));
}

void ImageSet::check(std::span<const int64_t> indices) const {
  for (int64_t i : indices) {
    if (i < 0 || i >= size()) {
      throw ValueError(
          fmt::format("ImageSet: index is {}; accepted is 0 <= index < {}", i, size()));
    }
  }
}

Tensor ImageSet::images(std::span<const int64_t> indices) const {
  check(indices);
  const Tensor out = Tensor::empty({static_cast<int64_t>(indices.size()), kPixels});
  float* to = out.data<float>();
  for (int64_t i : indices) {
    to = std::transform(image(i).begin(), image(i).end(), to,
                        [](uint8_t v) { return static_cast<float>(v) / 127.5f - 1.0f; });
  }
  return out;
}

Tensor ImageSet::labels(std::span<const int64_t> indices) const {
  check(indices);
  const Tensor out = Tensor::empty({static_cast<int64_t>(indices.size())}, DType::int64);
  std::transform(indices.begin(), indices.end(), out.data<int64_t>(),
                 [&](int64_t i) { return label(i); });
  return out;
}

FashionMnist FashionMnist::load(const std::string& folder) {
  const std::string from = folder.empty() ? kDefaultFolder : folder;
  return {load_set(from, "train"), load_set(from, "t10k")};
}

const std::array<std::string, FashionMnist::kClasses>& FashionMnist::class_names() {
  static const std::array<std::string, kClasses> names{
      "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
      "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  return names;
}

ImageBatch Batcher::next() {
  const std::vector<int64_t> indices = sampler_.next();
  return {set_->images(indices), set_->labels(indices)};
}

}  // namespace flowgrad
