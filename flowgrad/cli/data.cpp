#include "flowgrad/cli/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/text.h"
#include "flowgrad/models/config.h"
#include "flowgrad/tasks/fashion_mnist.h"
#include "flowgrad/tasks/sampler.h"
#include "flowgrad/tasks/toy_densities.h"
#include "flowgrad/tasks/tutorial_robot.h"

namespace flowgrad::cli {
namespace {

constexpr int64_t kHeldOut = 10000;
constexpr const char* kGarments = "fashion-mnist";
constexpr const char* kRobot = "tutorial-robot";
constexpr const char* kRobotNoise = "tutorial-noise";

/// Size of the images of "tutorial-robot", "tutorial-robot@32" or their noise; 0 for other names.
int64_t robot_image_size(const std::string& name) {
  const size_t at = name.find('@');
  const std::string base = name.substr(0, at);
  if (base != kRobot && base != kRobotNoise) return 0;
  if (at == std::string::npos) return 224;
  const std::string digits = name.substr(at + 1);
  int64_t size = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
  if (error != std::errc() || end != digits.data() + digits.size() || size < 8 || size > 1024) {
    throw UsageError(
        fmt::format("--data: {} given; after @ a size of images from 8 to 1024 is "
                    "accepted",
                    quote(name)));
  }
  return size;
}

class ToyData final : public TrainingData {
 public:
  explicit ToyData(const DataOptions& o) : options_(o), draws_(generator_of(o.seed, Stream::data)) {
    if (o.batch_size == 0) options_.batch_size = 64;
  }
  int64_t dim() const override { return 2; }
  QuantityInputs next() override {
    return {.input = toy::sample(options_.data, options_.batch_size, draws_, options_.dtype)};
  }
  QuantityInputs held_out() const override {
    Generator own = generator_of(options_.seed, Stream::held_out);
    return {.input = toy::sample(options_.data, options_.rows, own, options_.dtype)};
  }
  StateProvider state() override {
    return integer_state(
        "data", [this] { return std::vector<int64_t>{static_cast<int64_t>(draws_.stream())}; },
        [this](const std::vector<int64_t>& v) {
          draws_.set_state(options_.seed, static_cast<uint64_t>(v.at(0)));
        });
  }
  double floor() const override { return toy::entropy_floor(options_.data); }
  std::string description() const override {
    return fmt::format("{}, fresh draws for every step", options_.data);
  }

 private:
  DataOptions options_;
  Generator draws_;
};

/// Rows of a batch, checked.
int64_t batch_of(int64_t batch_size, int64_t rows) {
  if (batch_size == 0) return std::min<int64_t>(64, rows);
  if (batch_size <= rows) return batch_size;
  throw UsageError(
      fmt::format("--batch-size: {} given; the data has {} rows to train on, 1 to {} are accepted",
                  batch_size, rows, rows));
}

class GarmentData final : public TrainingData {
 public:
  explicit GarmentData(const DataOptions& o)
      : set_(FashionMnist::load(o.folder)),
        dtype_(o.dtype),
        sampler_(set_.train.size(), batch_of(o.batch_size, set_.train.size()), o.seed) {}
  int64_t dim() const override { return ImageSet::kPixels; }
  int64_t condition_dim() const override { return FashionMnist::kClasses; }
  QuantityInputs next() override { return batch(set_.train, sampler_.next()); }
  QuantityInputs held_out() const override {
    std::vector<int64_t> all(static_cast<size_t>(std::min(set_.test.size(), kHeldOut)));
    std::iota(all.begin(), all.end(), 0);
    return batch(set_.test, all);
  }
  StateProvider state() override { return sampler_state(sampler_); }
  std::string description() const override {
    return fmt::format("{}: {} images with their classes", kGarments, set_.train.size());
  }

 private:
  QuantityInputs batch(const ImageSet& set, const std::vector<int64_t>& rows) const {
    NoGrad off;
    return {.input = cast(set.images(rows), dtype_),
            .condition = cast(one_hot(set.labels(rows), FashionMnist::kClasses), dtype_)};
  }
  FashionMnist set_;
  DType dtype_;
  EpochSampler sampler_;
};

/// Images and words with the actions that follow from them, made as they are asked for.
class RobotData final : public TrainingData {
 public:
  RobotData(const DataOptions& o, int64_t size)
      : name_(o.data),
        dtype_(o.dtype),
        set_(size, o.seed, o.data.starts_with(kRobotNoise)),
        sampler_(TutorialRobot::kItems, batch_of(o.batch_size, TutorialRobot::kItems), o.seed) {}
  int64_t dim() const override { return TutorialRobot::kActionDim; }
  bool seen() const override { return true; }
  QuantityInputs next() override { return batch(sampler_.next()); }
  QuantityInputs held_out() const override {
    std::vector<int64_t> items(256);
    std::iota(items.begin(), items.end(), TutorialRobot::kItems);
    return batch(items);
  }
  StateProvider state() override { return sampler_state(sampler_); }
  std::string description() const override {
    return fmt::format("{}: {} items of an image, words and an action", name_,
                       TutorialRobot::kItems);
  }

 private:
  QuantityInputs batch(const std::vector<int64_t>& items) const {
    NoGrad off;
    const TutorialRobot::Batch b = set_.batch(items);
    return {.input = cast(b.actions, dtype_), .images = cast(b.images, dtype_), .tokens = b.tokens};
  }
  std::string name_;
  DType dtype_;
  TutorialRobot set_;
  EpochSampler sampler_;
};

/// Rows of a file, a tenth of them (at most 10,000) held out.
class FileData final : public TrainingData {
 public:
  explicit FileData(const DataOptions& o)
      : path_(o.data),
        all_rows_(o.all_rows),
        rows_(load_rows("--data", o.data, o.dtype)),
        order_(split(o.seed)),
        sampler_(1, 1, 0) {
    if (!o.condition.empty()) {
      condition_ = load_rows("--condition", o.condition, o.dtype);
      if (condition_.size(0) != rows_.size(0)) {
        throw IoError(fmt::format("--condition: {}: {} rows; the {} of {} need as many",
                                  o.condition, condition_.size(0), rows_.size(0), path_));
      }
    }
    sampler_ = EpochSampler(train_rows(), batch_of(o.batch_size, train_rows()), o.seed);
  }
  int64_t dim() const override { return rows_.size(1); }
  int64_t condition_dim() const override { return condition_.defined() ? condition_.size(1) : 0; }
  QuantityInputs next() override {
    std::vector<int64_t> rows = sampler_.next();
    for (int64_t& r : rows) r = order_[static_cast<size_t>(r)];
    return take(rows);
  }
  QuantityInputs held_out() const override {
    return take({order_.begin() + (all_rows_ ? 0 : train_rows()), order_.end()});
  }
  StateProvider state() override { return sampler_state(sampler_); }
  std::string description() const override {
    return fmt::format("{}: {} rows, {} of them held out", path_, rows_.size(0),
                       rows_.size(0) - (all_rows_ ? 0 : train_rows()));
  }

 private:
  static Tensor load_rows(const char* option, const std::string& path, DType dtype) {
    Tensor t;
    try {
      t = load_npy(path);
    } catch (const IoError& e) {
      throw IoError(fmt::format("{}: {}", option, e.what()));
    }
    if (t.rank() != 2 || !is_floating(t.dtype()) || t.size(1) < 1 || t.size(0) < 2) {
      throw IoError(fmt::format(
          "{}: {}: {} {} given; rows (N, D) of float32 or float64 are accepted, at least 2 of them",
          option, path, name_of(t.dtype()), t.shape().to_string()));
    }
    NoGrad off;
    const Tensor rows = cast(t, dtype);
    if (all(isfinite(rows)).item() == 0) {
      throw IoError(fmt::format(
          "{}: {}: holds values that are not finite{}; training needs finite ones", option, path,
          all(isfinite(t)).item() == 0 ? "" : fmt::format(" in {}", name_of(dtype))));
    }
    return rows;
  }
  std::vector<int64_t> split(uint64_t seed) const {
    return random_permutation(rows_.size(0), seed, static_cast<uint64_t>(Stream::held_out) << 32);
  }
  int64_t train_rows() const {
    return rows_.size(0) - std::clamp<int64_t>(rows_.size(0) / 10, 1, kHeldOut);
  }
  QuantityInputs take(const std::vector<int64_t>& rows) const {
    NoGrad off;
    const Tensor index = Tensor::from(rows, {static_cast<int64_t>(rows.size())});
    QuantityInputs out{.input = index_select(rows_, 0, index)};
    if (condition_.defined()) out.condition = index_select(condition_, 0, index);
    return out;
  }

  std::string path_;
  bool all_rows_;
  Tensor rows_;
  Tensor condition_;
  std::vector<int64_t> order_;
  EpochSampler sampler_;
};

}  // namespace

StateProvider sampler_state(EpochSampler& sampler) {
  return integer_state(
      "data",
      [&] {
        return std::vector<int64_t>{sampler.state().epoch, sampler.state().position};
      },
      [&](const std::vector<int64_t>& v) {
        sampler.set_state({v.at(0), v.at(1)});
      });
}

double TrainingData::floor() const { return std::numeric_limits<double>::quiet_NaN(); }

Generator generator_of(uint64_t seed, Stream stream) {
  return Generator(seed, static_cast<uint64_t>(stream) << 32);
}

void add_data(Command& c, DataOptions& o, const char* purpose) {
  c.group("Data");
  c.text("--data", o.data,
         fmt::format("{}: a toy density, fashion-mnist or rows in a .npy file; empty = the data of "
                     "the run, where the weights are from one",
                     purpose)
             .c_str(),
         "NAME|FILE");
  c.text("--data-folder", o.folder,
         "Where the four files of Fashion-MNIST are; empty = the system's package", "FOLDER");
  c.file("--condition", o.condition, "Conditions (N, C) of the rows of --data, .npy");
}

DataOptions data_or_run(DataOptions out, const std::string& run) {
  out.batch_size = 0;
  const std::string path = run + "/config.json";
  if (!out.data.empty() || run.empty() || !std::filesystem::is_regular_file(path)) return out;
  const std::vector<std::byte> bytes = read_file(path, "config");
  const Json json = parse_json_or_null({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const Json train = json.is_object() ? json.value("train", Json()) : Json();
  if (!train.is_object()) return out;
  const auto text = [&](const char* key) {
    return train.contains(key) ? plain_text(train[key]) : std::string();
  };
  out.data = text("data");
  out.folder = text("data-folder");
  out.condition = text("condition");
  if (train.contains("seed") && train["seed"].is_number_unsigned())
    out.seed = train["seed"].get<uint64_t>();
  return out;
}

std::unique_ptr<TrainingData> open_data(const DataOptions& o) {
  std::vector<std::string> names = toy::names();
  const bool toy = std::find(names.begin(), names.end(), o.data) != names.end();
  const bool file = std::filesystem::path(o.data).extension() == ".npy";
  if (!o.condition.empty() && !file) {
    throw UsageError(
        fmt::format("--condition: given with --data {}; it belongs to a .npy file", o.data));
  }
  if (!o.folder.empty() && o.data != kGarments) {
    throw UsageError(
        fmt::format("--data-folder: given with --data {}; it belongs to {}", o.data, kGarments));
  }
  if (o.all_rows && !file) {
    throw UsageError(
        fmt::format("--all-rows: given with --data {}; it belongs to a .npy file", o.data));
  }
  if (toy) return std::make_unique<ToyData>(o);
  if (o.data == kGarments) return std::make_unique<GarmentData>(o);
  if (const int64_t size = robot_image_size(o.data)) return std::make_unique<RobotData>(o, size);
  if (file) return std::make_unique<FileData>(o);
  names.insert(names.end(), {kGarments, kRobot, kRobotNoise});
  const std::string near = nearest_name(o.data, names);
  throw UsageError(fmt::format("--data: {} given{}; {} and .npy files are accepted", quote(o.data),
                               near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                               fmt::join(names, ", ")));
}

}  // namespace flowgrad::cli
