#include "flowgrad/models/encoders.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/indices.h"
#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/config.h"

namespace flowgrad {
namespace {

constexpr int64_t kSmallestImage = 8;

void check_at_least(const char* what, const char* option, int64_t given, int64_t least) {
  if (given >= least) return;
  throw ValueError(
      fmt::format("{}: {} = {} given; at least {} is accepted", what, option, given, least));
}

std::string given(const Tensor& t) {
  return t.defined() ? fmt::format("{} {}", name_of(t.dtype()), t.shape().to_string()) : "absent";
}

/// ShapeError or DTypeError unless the part is there and (N, width), floating.
void check_part(const char* name, const Tensor& part, int64_t width) {
  if (!part.defined() || part.rank() != 2 || part.size(1) != width) {
    throw ShapeError(fmt::format("encode: {} {}; (N, {}) is accepted", name, given(part), width));
  }
  if (!is_floating(part.dtype())) {
    throw DTypeError(fmt::format("encode: {} {}; a floating dtype is accepted", name, given(part)));
  }
}

}  // namespace

StateEncoder::StateEncoder(const StateEncoderOptions& o, Generator& generator, DType dtype)
    : options_(o) {
  check_at_least("StateEncoder", "state_dim", o.state_dim, 1);
  check_at_least("StateEncoder", "hidden", o.hidden, 0);
  if (o.hidden == 0) return;
  check_at_least("StateEncoder", "features", o.features, 1);
  net_ = &add_module(
      "net", std::make_unique<MLP>(std::vector<int64_t>{o.state_dim, o.hidden, o.features}, relu,
                                   generator, dtype));
}

Tensor StateEncoder::encode(const PolicyObservation& observation) {
  check_part("state", observation.state, options_.state_dim);
  return net_ ? (*net_)(observation.state) : observation.state;
}

int64_t StateEncoder::features() const { return net_ ? options_.features : options_.state_dim; }

VisionEncoder::VisionEncoder(const VisionLanguageOptions& o, int64_t words, Generator& generator,
                             DType dtype)
    : layers_(add_module("", std::make_unique<Sequential>())), features_(3) {
  int64_t height = o.height, width = o.width;
  for (const int64_t channels : o.channels) {
    const int64_t kernel = convolutions_.empty() ? o.first_kernel : 3;
    convolutions_.push_back(&layers_.add<Conv2d>(features_, channels, kernel, generator, dtype,
                                                 Conv2dOptions{.stride = 2}));
    layers_.add<Activation>(relu);
    features_ = channels;
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  if (o.pooling == Pooling::average) {
    layers_.add<AdaptiveAvgPool2d>(1, 1);
  } else {
    layers_.add<SpatialSoftmax>(height, width, dtype);
    features_ *= 2;
  }
  layers_.add<Activation>([](const Tensor& x) { return flatten(x, 1); });
  if (o.vision_width > 0) {
    layers_.add<Linear>(features_, o.vision_width, generator, dtype);
    features_ = o.vision_width;
  }
  for (size_t i = 0; o.film && i < o.channels.size(); ++i) {
    film_.push_back(
        &add_module(fmt::format("film.{}", i),
                    std::make_unique<Linear>(words, 2 * o.channels[i], generator, dtype)));
  }
}

Tensor VisionEncoder::forward(const Tensor& images, const Tensor& words) {
  if (film_.empty()) return layers_(images);
  Tensor x = images;
  for (size_t i = 0; i < convolutions_.size(); ++i) {
    x = (*convolutions_[i])(x);
    const Tensor scale_and_shift = reshape((*film_[i])(words), {x.size(0), 2, x.size(1), 1, 1});
    x = relu(x * (select(scale_and_shift, 1, 0) + 1.0) + select(scale_and_shift, 1, 1));
  }
  return layers_.forward_from(2 * convolutions_.size(), x);
}

LanguageEncoder::LanguageEncoder(const VisionLanguageOptions& o, Generator& generator, DType dtype)
    : vocabulary_(o.vocabulary),
      hidden_(o.lstm_hidden),
      pad_id_(o.pad_id),
      embedding_(add_module(
          "0", std::make_unique<Embedding>(o.vocabulary, o.embedding, generator, dtype, o.pad_id))),
      lstm_(add_module("1", std::make_unique<Lstm>(o.embedding, o.lstm_hidden, generator, dtype,
                                                   LstmOptions{.bidirectional = true}))) {}

Tensor LanguageEncoder::forward(const Tensor& words) {
  if (!words.defined() || words.rank() != 2 || words.size(1) < 1) {
    throw ShapeError(
        fmt::format("encode: tokens {}; (N, L) with L at least 1 is accepted", given(words)));
  }
  if (words.dtype() != DType::int64)
    throw DTypeError(fmt::format("encode: tokens {}; int64 is accepted", given(words)));
  const int64_t length = words.size(1);
  const Tensor tokens = check_indices(
      words, vocabulary_, [length, last = vocabulary_ - 1](int64_t token, int64_t element) {
        return fmt::format("encode: token {} given in row {} at position {}; 0 to {} are accepted",
                           token, element / length, element % length, last);
      });
  Tensor known;
  if (pad_id_) {
    // A row ends with its last word.
    const Tensor position =
        arange(1, static_cast<double>(length + 1), 1, DType::int64, tokens.device());
    const Tensor is_word = not_equal(tokens, static_cast<double>(*pad_id_));
    known = max(cast(is_word, DType::int64) * position, {1});
  }
  const Tensor last = lstm_.forward(embedding_(tokens), known).h;  // (2, N, H)
  return concat({select(last, 0, 0), select(last, 0, 1)}, 1);
}

VisionLanguageEncoder::VisionLanguageEncoder(const VisionLanguageOptions& o, Generator& generator,
                                             DType dtype)
    : options_(o) {
  const char* me = "VisionLanguageEncoder";
  if (o.channels.empty()) throw ValueError(fmt::format("{}: channels is empty", me));
  check_at_least(me, "height", o.height, kSmallestImage);
  check_at_least(me, "width", o.width, kSmallestImage);
  check_at_least(me, "cameras", o.cameras, 1);
  check_at_least(me, "vocabulary", o.vocabulary, 1);
  check_at_least(me, "vision_width", o.vision_width, 0);
  check_at_least(me, "robot_dim", o.robot_dim, 0);
  if (o.pad_id && (*o.pad_id < 0 || *o.pad_id >= o.vocabulary)) {
    throw ValueError(fmt::format("{}: pad_id = {} given; 0 to {} are accepted, or none", me,
                                 *o.pad_id, o.vocabulary - 1));
  }
  const int64_t smallest = (int64_t{1} << o.channels.size()) + 1;
  if (o.pooling == Pooling::spatial_softmax && std::min(o.height, o.width) < smallest) {
    throw ValueError(fmt::format(
        "{}: height = {}, width = {} given; at least {} is accepted with spatial softmax, as {} "
        "convolutions of stride 2 leave a single row or column of less, which has no positions",
        me, o.height, o.width, smallest, o.channels.size()));
  }
  vision_ = &add_module("vision_encoder",
                        std::make_unique<VisionEncoder>(o, 2 * o.lstm_hidden, generator, dtype));
  language_ =
      &add_module("language_encoder", std::make_unique<LanguageEncoder>(o, generator, dtype));
  const int64_t in = o.cameras * vision_->features() + language_->features() + o.robot_dim;
  fusion_ = &add_module(
      "fusion", std::make_unique<MLP>(std::vector<int64_t>{in, o.fusion_hidden, o.features}, relu,
                                      generator, dtype));
}

void VisionLanguageEncoder::check_images(const Tensor& images) const {
  const VisionLanguageOptions& o = options_;
  const bool one_size = o.pooling == Pooling::spatial_softmax;
  const bool fits = images.defined() && images.rank() == 4 && images.size(1) == 3 * o.cameras &&
                    (one_size ? images.size(2) == o.height && images.size(3) == o.width
                              : std::min(images.size(2), images.size(3)) >= kSmallestImage);
  if (!fits) {
    throw ShapeError(fmt::format(
        "encode: images {}; {} accepted", given(images),
        one_size
            ? fmt::format("(N, {}, {}, {}), the size that the spatial softmax was made for, is",
                          3 * o.cameras, o.height, o.width)
            : fmt::format("(N, {}, H, W) with H and W at least {} are", 3 * o.cameras,
                          kSmallestImage)));
  }
  if (!is_floating(images.dtype()))
    throw DTypeError(fmt::format("encode: images {}; a floating dtype is accepted", given(images)));
}

Tensor VisionLanguageEncoder::encode(const PolicyObservation& in) {
  check_images(in.images);
  const Tensor words = language_->forward(in.tokens);
  const int64_t rows = in.images.size(0), cameras = options_.cameras;
  if (words.size(0) != rows) {
    throw ShapeError(fmt::format("encode: tokens {} beside images {}; as many rows are accepted",
                                 given(in.tokens), given(in.images)));
  }
  // All cameras in one batch: the same weights see through each.
  const Shape each{rows * cameras, 3, in.images.size(2), in.images.size(3)};
  const int64_t width = words.size(1);
  const Tensor for_each =
      reshape(expand(unsqueeze(words, 1), {rows, cameras, width}), {rows * cameras, width});
  const Tensor seen = reshape(vision_->forward(reshape(in.images, each), for_each),
                              {rows, cameras * vision_->features()});
  if (options_.robot_dim == 0) return (*fusion_)(concat({seen, words}, 1));
  check_part("robot", in.robot, options_.robot_dim);
  if (in.robot.size(0) != rows) {
    throw ShapeError(fmt::format("encode: robot {} beside images {}; as many rows are accepted",
                                 given(in.robot), given(in.images)));
  }
  return (*fusion_)(concat({seen, words, in.robot}, 1));
}

const std::vector<std::string>& policy_encoder_presets() {
  static const std::vector<std::string> names{"state", "tutorial", "tiny", "base"};
  return names;
}

PolicyEncoderOptions policy_encoder_preset(const std::string& name) {
  if (name == "state") return StateEncoderOptions{};
  if (name == "tutorial") return VisionLanguageOptions{};
  VisionLanguageOptions tiny{.channels = {16, 32, 64},
                             .first_kernel = 5,
                             .pooling = Pooling::spatial_softmax,
                             .height = 48,
                             .width = 48,
                             .vision_width = 0,
                             .vocabulary = 64,
                             .embedding = 32,
                             .lstm_hidden = 32,
                             .pad_id = 0,
                             .film = true,
                             .fusion_hidden = 256,
                             .features = 128};
  if (name == "tiny") return tiny;
  if (name == "base") {
    tiny.channels = {32, 64, 128};
    tiny.height = tiny.width = 96;
    tiny.embedding = tiny.lstm_hidden = 128;
    tiny.fusion_hidden = 512;
    tiny.features = 256;
    return tiny;
  }
  const auto& names = policy_encoder_presets();
  const std::string near = nearest_name(name, names);
  throw ValueError(fmt::format("encoder preset \"{}\" given{}; accepted are {}", name,
                               near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near),
                               fmt::join(names, ", ")));
}

VisionLanguageOptions vision_language_preset(const std::string& name) {
  const PolicyEncoderOptions options = policy_encoder_preset(name);
  if (const auto* found = std::get_if<VisionLanguageOptions>(&options)) return *found;
  throw ValueError(fmt::format(
      "encoder preset \"{}\" given, which sees and reads nothing; tutorial, tiny and base do",
      name));
}

std::unique_ptr<PolicyEncoder> make_policy_encoder(const PolicyEncoderOptions& options,
                                                   Generator& generator, DType dtype) {
  if (const auto* state = std::get_if<StateEncoderOptions>(&options))
    return std::make_unique<StateEncoder>(*state, generator, dtype);
  return std::make_unique<VisionLanguageEncoder>(std::get<VisionLanguageOptions>(options),
                                                 generator, dtype);
}

}  // namespace flowgrad
