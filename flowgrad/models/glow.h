#pragma once

#include <vector>

#include "flowgrad/models/bijectors.h"
#include "flowgrad/models/layers.h"

/// Glow (Kingma & Dhariwal 2018): flows of images, which travel as rows (N, C H W) in C-order.
namespace flowgrad {

/// Channels, height and width of an image.
struct ImageShape {
  int64_t channels, height, width;
  int64_t positions() const { return height * width; }
  int64_t numel() const { return channels * height * width; }
};

/// Invertible 1x1 convolution: the channels of the data at every position, times
/// W = P L (U + diag(sign exp(log_diagonal))), are those of the base; its log-determinant is the
/// sum of log_diagonal for every position. L is unit lower and U strictly upper triangular. Starts
/// as a random rotation. Keys lower, upper (C, C), log_diagonal (C); buffers permutation (C, C),
/// sign (C), which loading takes from the file.
class InvertibleConv final : public Flow {
 public:
  InvertibleConv(const ImageShape& image, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return image_.numel(); }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  struct Factors {
    Tensor lower, upper;
  };
  Factors factors() const;
  Tensor log_det(int64_t rows, double sign) const;

  ImageShape image_;
  Tensor lower_, upper_, log_diagonal_, permutation_, sign_;
  Tensor unit_;  // (C, C) identity
};

/// Affine coupling of channels: the first half passes and conditions x = z exp(s) + t of the
/// second, with (s, t) from a net of convolutions whose last layer starts at zero, s bounded by
/// c tanh(raw / c) with c = 3. `hidden` channels between 3x3, 1x1 and 3x3 convolutions; with
/// hidden = 0 one 3x3 convolution, which makes the learned prior N(t, exp(2 s)) of a half that is
/// split off. A condition (N, C) enters the net as C constant channels after the first half's. Keys
/// net.{0,2,4}.*, or net.0.*.
class ImageCoupling final : public Flow {
 public:
  ImageCoupling(const ImageShape& image, int64_t hidden, int64_t condition_dim,
                Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return image_.numel(); }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;

 private:
  struct Affine {
    Tensor log_scale, shift;  // (N, second half)
  };
  Affine affine(const Tensor& kept, const Tensor& condition);

  ImageShape image_;
  int64_t kept_, moved_, condition_dim_;  // channels
  Sequential& net_;
};

/// Images to four times the channels at half the height and width: channel 4 c + 2 i + j of the
/// result holds the pixels of row parity i and column parity j. Rows to rows.
Tensor squeeze_image(const Tensor& x, const ImageShape& image);
/// Its inverse; `image` is the shape that squeeze_image was given.
Tensor unsqueeze_image(const Tensor& x, const ImageShape& image);

struct GlowOptions {
  int64_t height = 28, width = 28, channels = 1;
  int64_t levels = 2;
  /// Steps of a level: ActNorm, invertible convolution, coupling.
  int64_t steps = 4;
  /// Channels inside the coupling nets.
  int64_t hidden = 64;
  /// Width C of the condition (N, C) that every coupling and prior reads; 0 = unconditional.
  int64_t condition_dim = 0;
};

/// The model `glow`. Every level squeezes, takes its steps and, but for the last, splits off half
/// of the channels, standardized by a prior learned from the other half: so the whole base is
/// N(0, I), the halves split off one after the other and what is left last. Keys
/// levels.{l}.actnorms.{k}.*, .convs.{k}.*, .couplings.{k}.*, .prior.*. ValueError for a height or
/// width that 2^levels does not divide, for numbers below 1 and for condition_dim below 0.
class Glow final : public Flow {
 public:
  Glow(const GlowOptions& options, Generator& generator, DType dtype = DType::float32);
  int64_t dim() const override { return image_.numel(); }
  Transformed forward(const Tensor& z, const Tensor& condition = {}) override;
  Transformed inverse(const Tensor& x, const Tensor& condition = {}) override;
  void initialize_from(const Tensor& x, const Tensor& condition = {}) override;

 private:
  struct Level {
    ImageShape image;          // before the squeeze
    std::vector<Flow*> steps;  // from data to base, the prior last
    int64_t split;             // values per row that leave
  };
  /// Data to base; `visit` sees every step with its input before it is taken.
  Transformed walk(const Tensor& x, const Tensor& condition,
                   const std::function<void(Flow&, const Tensor&)>& visit);

  ImageShape image_;
  int64_t condition_dim_;
  std::vector<Level> levels_;
};

}  // namespace flowgrad
