#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"
#include "flowgrad/tasks/sampler.h"

namespace flowgrad {

/// An idx file: sizes and unsigned bytes, row-major.
struct IdxArray {
  std::vector<int64_t> sizes;
  std::vector<uint8_t> values;
};

/// Reads an idx file of unsigned bytes with the given rank (1 to 4), plain or compressed with gzip.
/// Every byte is accounted for: magic number, rank, sizes against content, gzip's checksum, nothing
/// after the end. Raises IoError "idx: <path>: <what was found>; <what is expected>".
IdxArray read_idx(const std::string& path, int rank);

/// Gray images of 28 by 28 pixels with their classes.
class ImageSet {
 public:
  static constexpr int64_t kSide = 28;
  static constexpr int64_t kPixels = kSide * kSide;

  /// Raises ShapeError where pixels.size() != 784 * labels.size().
  ImageSet(std::vector<uint8_t> pixels, std::vector<uint8_t> labels);

  int64_t size() const { return static_cast<int64_t>(labels_.size()); }
  /// The 784 bytes of image i, which must exist; 0 is background.
  std::span<const uint8_t> image(int64_t i) const;
  int64_t label(int64_t i) const { return labels_[static_cast<size_t>(i)]; }

  /// Images as (k, 784) float32 in [-1, 1], by pixel / 127.5 - 1. Raises ValueError for an index
  /// that does not exist.
  Tensor images(std::span<const int64_t> indices) const;
  /// Their classes as (k,) int64. Raises ValueError as images() does.
  Tensor labels(std::span<const int64_t> indices) const;

 private:
  void check(std::span<const int64_t> indices) const;
  std::vector<uint8_t> pixels_;
  std::vector<uint8_t> labels_;
};

/// Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 training and 10,000 test images of
/// garments in 10 classes.
struct FashionMnist {
  static constexpr int kClasses = 10;
  /// Where Debian's package dataset-fashion-mnist puts the four files.
  static constexpr const char* kDefaultFolder = "/usr/share/datasets/fashion-mnist";

  ImageSet train;
  ImageSet test;

  /// Reads {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, with or without ".gz", from a
  /// folder;
  /// "" is kDefaultFolder. Other sets in this format, such as MNIST, load as well. Raises IoError
  /// naming the file, what was found and expected, and how to get the data.
  static FashionMnist load(const std::string& folder = "");

  /// "T-shirt/top", "Trouser", ..., "Ankle boot".
  static const std::array<std::string, kClasses>& class_names();
};

/// Images and classes of one step.
struct ImageBatch {
  Tensor images;  ///< (k, 784) float32 in [-1, 1]
  Tensor labels;  ///< (k,) int64
};

/// Shuffled mini-batches of an ImageSet, which must outlive it.
class Batcher {
 public:
  /// Raises ValueError as EpochSampler does.
  Batcher(const ImageSet& set, int64_t batch_size, uint64_t seed, bool drop_last = true)
      : set_(&set), sampler_(set.size(), batch_size, seed, drop_last) {}

  ImageBatch next();
  EpochSampler& sampler() { return sampler_; }
  const EpochSampler& sampler() const { return sampler_; }

 private:
  const ImageSet* set_;
  EpochSampler sampler_;
};

}  // namespace flowgrad
