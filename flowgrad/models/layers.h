#pragma once

#include "flowgrad/models/module.h"

namespace flowgrad {

/// One value in, one value out.
class Layer : public Module {
 public:
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
};

/// x W^T + b: (..., in) to (..., out). `weight` (out, in) and `bias` (out) uniform within
/// 1/sqrt(in), PyTorch's default.
class Linear final : public Layer {
 public:
  Linear(int64_t in, int64_t out, Generator& generator, DType dtype = DType::float32,
         bool bias = true);
  Tensor forward(const Tensor& x) override;
  /// Weight and bias zero: the start of a coupling net's last layer.
  void set_zero();
  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }
  int64_t in_features() const { return in_; }
  int64_t out_features() const { return out_; }

 private:
  int64_t in_, out_;
  Tensor weight_, bias_;
};

/// Convolution of images (N, in, H, W) to (N, out, H, W): odd kernel, stride 1, zeros around.
/// `weight` (out, in, k, k) and `bias` (out) uniform within 1/sqrt(in k^2), PyTorch's default.
class Conv2d final : public Layer {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, Generator& generator,
         DType dtype = DType::float32);
  Tensor forward(const Tensor& x) override;
  /// Weight and bias zero: the start of a coupling net's last layer.
  void set_zero();

 private:
  int64_t padding_;
  Tensor weight_, bias_;
};

/// An activation or any other function without parameters.
class Activation final : public Layer {
 public:
  explicit Activation(std::function<Tensor(const Tensor&)> f) : f_(std::move(f)) {}
  Tensor forward(const Tensor& x) override { return f_(x); }

 private:
  std::function<Tensor(const Tensor&)> f_;
};

/// Layers one after the other; their names are their positions, activations counted.
class Sequential : public Layer {
 public:
  template <class L, class... Args>
  L& add(Args&&... args) {
    L& layer = add_module(std::to_string(layers_.size()),
                          std::make_unique<L>(std::forward<Args>(args)...));
    layers_.push_back(&layer);
    return layer;
  }
  Tensor forward(const Tensor& x) override { return forward_from(0, x); }
  /// The layers from position `first` on, for a caller that has done the earlier ones in its own
  /// way.
  Tensor forward_from(size_t first, const Tensor& x);

 private:
  std::vector<Layer*> layers_;
};

/// Linear layers of the given widths with an activation between them: keys 0, 2, 4, ...
class MLP final : public Sequential {
 public:
  MLP(const std::vector<int64_t>& widths, const std::function<Tensor(const Tensor&)>& activation,
      Generator& generator, DType dtype = DType::float32);
  /// The linear layers in order.
  const std::vector<Linear*>& linears() const { return linears_; }
  /// The last layer, to be set to zero where a model starts as the identity.
  Linear& last() { return *linears_.back(); }

 private:
  std::vector<Linear*> linears_;
};

/// x + Linear-SiLU-Linear(x), keys block.0 and block.2.
class ResidualBlock final : public Layer {
 public:
  ResidualBlock(int64_t width, Generator& generator, DType dtype = DType::float32);
  Tensor forward(const Tensor& x) override;
  const Linear& first() const { return *first_; }
  const Linear& second() const { return *second_; }

 private:
  Sequential& block_;
  Linear *first_, *second_;
};

/// Features of a time t (N): all sines, then all cosines, of t times `scale` times frequencies
/// geometric from 1 to 1/10000 over width / 2 channels. Returns (N, width). ValueError for a width
/// that is odd or below 4.
Tensor sinusoidal_embedding(const Tensor& t, int64_t width, double scale);
void check_embedding_width(const char* op, int64_t width);

}  // namespace flowgrad
