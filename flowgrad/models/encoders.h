#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "flowgrad/models/layers.h"
#include "flowgrad/models/policy_encoder.h"

namespace flowgrad {

struct StateEncoderOptions {
  int64_t state_dim = 0;
  /// Width of Linear-ReLU-Linear over the state; 0 hands the state on as it is.
  int64_t hidden = 0;
  /// Width of the feature where `hidden` is not 0.
  int64_t features = 256;
};

/// The state (N, S) of a policy without eyes, as it is or through a small network (keys
/// net.{0,2}.*). ValueError for sizes below 1.
class StateEncoder final : public PolicyEncoder {
 public:
  StateEncoder(const StateEncoderOptions& options, Generator& generator,
               DType dtype = DType::float32);
  Tensor encode(const PolicyObservation& observation) override;
  int64_t features() const override;

 private:
  StateEncoderOptions options_;
  MLP* net_ = nullptr;
};

/// What turns the last feature map into numbers. average: the mean of each channel, for images of
/// any size from 8 x 8; it forgets where things are. spatial_softmax: where each channel looks
/// (SpatialSoftmax), for images of one size.
enum class Pooling { average, spatial_softmax };

struct VisionLanguageOptions {
  /// Channels of the convolutions, all of stride 2: the first with this kernel, the others with 3.
  std::vector<int64_t> channels = {64, 128, 256};
  int64_t first_kernel = 7;
  Pooling pooling = Pooling::average;
  /// Size of the images, for spatial softmax: above 2 to the number of convolutions. Otherwise any.
  int64_t height = 224, width = 224;
  /// A linear layer from what the pooling gives to this width; 0 = none.
  int64_t vision_width = 768;
  /// Images a moment: their channels stand one after the other, (N, 3 cameras, H, W).
  int64_t cameras = 1;
  /// Tokens are in [0, vocabulary).
  int64_t vocabulary = 10000;
  int64_t embedding = 768;
  /// Width of the LSTM, in each direction.
  int64_t lstm_hidden = 384;
  /// The token that fills a row behind its last word; none = every token is a word.
  std::optional<int64_t> pad_id = {};
  /// The words scale and shift the channels of every convolution (FiLM, Perez et al. 2018).
  bool film = false;
  /// Numbers that the robot knows of itself; 0 = none.
  int64_t robot_dim = 0;
  int64_t fusion_hidden = 512;
  /// Width of the feature.
  int64_t features = 256;
};

/// Convolution-ReLU of stride 2, one after the other, then the pooling and perhaps a linear layer.
/// Keys 0, 2, 4, ... of the convolutions, the linear layer's behind pooling and flattening (8 for
/// three convolutions); film.{i}.* from the words' feature to scale and shift of convolution i:
/// y (1 + scale) + shift before its ReLU.
class VisionEncoder final : public Module {
 public:
  /// `words` is the width of their feature.
  VisionEncoder(const VisionLanguageOptions& options, int64_t words, Generator& generator,
                DType dtype = DType::float32);
  /// (N, features()) of images (N, 3, H, W) and words (N, width), read with FiLM only.
  Tensor forward(const Tensor& images, const Tensor& words);
  int64_t features() const { return features_; }

 private:
  Sequential& layers_;
  std::vector<Conv2d*> convolutions_;
  std::vector<Linear*> film_;
  int64_t features_;
};

/// Embedding and bidirectional LSTM, read at the last state of both directions. (Read at the last
/// position, as the tutorial does, the backward half has seen one token, and padding at that.) Keys
/// 0.weight, 1.* as Lstm.
class LanguageEncoder final : public Module {
 public:
  LanguageEncoder(const VisionLanguageOptions& options, Generator& generator,
                  DType dtype = DType::float32);
  /// (N, features()) of tokens (N, L) int64, L at least 1. ShapeError or DTypeError for others,
  /// ValueError for a token out of range, naming row and position.
  Tensor forward(const Tensor& tokens);
  int64_t features() const { return 2 * hidden_; }

 private:
  int64_t vocabulary_, hidden_;
  std::optional<int64_t> pad_id_;
  Embedding& embedding_;
  Lstm& lstm_;
};

/// What the robot sees, reads and knows of itself, as one feature (system 11 of the tutorial,
/// repaired): vision and language encoder, then Linear-ReLU-Linear on their concatenation with the
/// robot's numbers. Keys vision_encoder.*, language_encoder.*, fusion.{0,2}.*. ValueError for
/// options that do not fit.
class VisionLanguageEncoder final : public PolicyEncoder {
 public:
  VisionLanguageEncoder(const VisionLanguageOptions& options, Generator& generator,
                        DType dtype = DType::float32);
  /// (N, features) of images (N, 3 cameras, H, W), taken as given, tokens (N, L) int64 and, where
  /// robot_dim > 0, robot (N, robot_dim). ShapeError or DTypeError naming a part that is absent or
  /// does not fit, ValueError as LanguageEncoder.
  Tensor encode(const PolicyObservation& observation) override;
  int64_t features() const override { return options_.features; }
  const VisionLanguageOptions& options() const { return options_; }

 private:
  void check_images(const Tensor& images) const;

  VisionLanguageOptions options_;
  VisionEncoder* vision_;
  LanguageEncoder* language_;
  MLP* fusion_;
};

using PolicyEncoderOptions = std::variant<StateEncoderOptions, VisionLanguageOptions>;

/// "state"; "tutorial": 224 x 224 nominally, average pooling, 10000 tokens, none of them padding;
/// "tiny": 48 x 48, spatial softmax, FiLM, 64 tokens, 0 is padding; "base": the same for 96 x 96,
/// wider.
const std::vector<std::string>& policy_encoder_presets();
/// The options of a preset, to be changed where a robot differs. ValueError for an unknown name.
PolicyEncoderOptions policy_encoder_preset(const std::string& name);
/// As policy_encoder_preset, for one that sees and reads; ValueError for "state" as well.
VisionLanguageOptions vision_language_preset(const std::string& name);
std::unique_ptr<PolicyEncoder> make_policy_encoder(const PolicyEncoderOptions& options,
                                                   Generator& generator,
                                                   DType dtype = DType::float32);

}  // namespace flowgrad
