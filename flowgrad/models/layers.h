#pragma once

#include <optional>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/module.h"

namespace flowgrad {

/// One value in, one value out.
class Layer : public Module {
 public:
  virtual Tensor forward(const Tensor& x) = 0;
  /// The epilogue of forward(x), by one kernel where this layer's has it.
  virtual Tensor forward_with(const Tensor& x, Epilogue epilogue);
  /// What this layer is to the one before it.
  virtual Epilogue epilogue() const { return Epilogue::none; }
  Tensor operator()(const Tensor& x) { return forward(x); }
};

/// x W^T + b: (..., in) to (..., out). `weight` (out, in) and `bias` (out) uniform within
/// 1/sqrt(in), PyTorch's default.
class Linear final : public Layer {
 public:
  Linear(int64_t in, int64_t out, Generator& generator, DType dtype = DType::float32,
         bool bias = true);
  Tensor forward(const Tensor& x) override { return linear(x, weight_, bias_); }
  Tensor forward_with(const Tensor& x, Epilogue epilogue) override {
    return linear(x, weight_, bias_, epilogue);
  }
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

struct Conv2dOptions {
  Size2d stride = 1;
  /// Zeros around the image; absent: half the kernel, which keeps the size at stride 1.
  std::optional<Size2d> padding = {};
};

/// Convolution of images (N, in, H, W) to (N, out, H', W'), H' = (H + 2 padding - k) / stride + 1.
/// `weight` (out, in, kh, kw) and `bias` (out) uniform within 1/sqrt(in kh kw), PyTorch's default.
/// ValueError for sizes below 1 and for a kernel with an even side without a padding of its own.
class Conv2d final : public Layer {
 public:
  Conv2d(int64_t in, int64_t out, Size2d kernel, Generator& generator, DType dtype = DType::float32,
         const Conv2dOptions& options = {});
  Tensor forward(const Tensor& x) override { return conv2d(x, weight_, bias_, options_); }
  Tensor forward_with(const Tensor& x, Epilogue epilogue) override;
  /// Weight and bias zero: the start of a coupling net's last layer.
  void set_zero();

 private:
  ConvOptions options_;
  Tensor weight_, bias_;
};

/// Means over windows of images (N, C, H, W), padded zeros counted or not; stride 0 is the kernel's
/// size.
class AvgPool2d final : public Layer {
 public:
  explicit AvgPool2d(Size2d kernel, Size2d stride = 0, Size2d padding = 0,
                     bool count_include_pad = true)
      : kernel_(kernel), stride_(stride), padding_(padding), counts_padding_(count_include_pad) {}
  Tensor forward(const Tensor& x) override {
    return avg_pool2d(x, kernel_, stride_, padding_, counts_padding_);
  }

 private:
  Size2d kernel_, stride_, padding_;
  bool counts_padding_;
};

/// Largest elements of windows of images (N, C, H, W), never of the padding; stride 0 is the
/// kernel's size.
class MaxPool2d final : public Layer {
 public:
  explicit MaxPool2d(Size2d kernel, Size2d stride = 0, Size2d padding = 0)
      : kernel_(kernel), stride_(stride), padding_(padding) {}
  Tensor forward(const Tensor& x) override { return max_pool2d(x, kernel_, stride_, padding_); }

 private:
  Size2d kernel_, stride_, padding_;
};

/// Means over height x width windows that cover an image of any size: (N, C, height, width).
class AdaptiveAvgPool2d final : public Layer {
 public:
  AdaptiveAvgPool2d(int64_t height, int64_t width) : height_(height), width_(width) {}
  Tensor forward(const Tensor& x) override { return adaptive_avg_pool2d(x, height_, width_); }

 private:
  int64_t height_, width_;
};

/// Where each channel of a map (N, C, H, W) looks: the mean position under the softmax of its
/// values, x and y in [-1, 1], as (N, 2 C) with x and y of a channel side by side. Unlike an
/// average pool it keeps positions (Levine et al. 2016, "End-to-end training of deep visuomotor
/// policies", section 5.1; temperature 1). ShapeError for a map of another size.
class SpatialSoftmax final : public Layer {
 public:
  SpatialSoftmax(int64_t height, int64_t width, DType dtype = DType::float32);
  Tensor forward(const Tensor& x) override;

 private:
  int64_t height_, width_;
  Tensor positions_;  // (H W, 2)
};

/// Rows of a table: int64 (...) to (..., width). `weight` (entries, width) standard normal; the row
/// of `padding_index` starts at zero and gets no gradient. ValueError for an index out of range,
/// naming its place.
class Embedding final : public Layer {
 public:
  Embedding(int64_t entries, int64_t width, Generator& generator, DType dtype = DType::float32,
            std::optional<int64_t> padding_index = {});
  Tensor forward(const Tensor& index) override { return embedding(weight_, index, padding_index_); }

 private:
  std::optional<int64_t> padding_index_;
  Tensor weight_;
};

struct LstmOptions {
  int64_t layers = 1;
  bool bidirectional = false;
};

/// Long short-term memory over rows of sequences (N, L, in), batch first. Keys weight_ih_l{k}
/// (4H, in), weight_hh_l{k} (4H, H), bias_ih_l{k}, bias_hh_l{k} (4H), gates in the order i, f, g,
/// o, and the same with _reverse; uniform within 1/sqrt(H), PyTorch's default.
class Lstm final : public Module {
 public:
  Lstm(int64_t in, int64_t hidden, Generator& generator, DType dtype = DType::float32,
       const LstmOptions& options = {});
  /// output (N, L, H directions); h and c (layers directions, N, H), the state after each row's
  /// last step. `lengths` (N) int64, or undefined where all steps count; h0 and c0 as h and c, or
  /// undefined for zeros.
  LstmResult forward(const Tensor& x, const Tensor& lengths = {}, const Tensor& h0 = {},
                     const Tensor& c0 = {});

 private:
  bool bidirectional_;
  std::vector<LstmWeights> weights_;
};

/// Trailing axes of the given sizes normalised to mean 0 and variance 1, then times `weight` plus
/// `bias` of that shape, which start at one and zero.
class LayerNorm final : public Layer {
 public:
  explicit LayerNorm(const Shape& normalized_shape, DType dtype = DType::float32,
                     double epsilon = 1e-5);
  Tensor forward(const Tensor& x) override;

 private:
  Shape shape_;
  double epsilon_;
  Tensor weight_, bias_;
};

/// In training, elements are zero with probability p and the rest scaled by 1 / (1 - p); the
/// identity in evaluation. Draws from a generator that it borrows: the one a trainer saves, so that
/// a resumed run drops the same elements, and the one to name in `checkpoint` around the layer, so
/// that its second run does. ValueError unless 0 <= p <= 1.
class Dropout final : public Layer {
 public:
  Dropout(double p, Generator& generator);
  Tensor forward(const Tensor& x) override { return dropout(x, p_, *generator_, training()); }

 private:
  double p_;
  Generator* generator_;
};

/// An activation or any other function without parameters; an epilogue where it is the operation of
/// that name itself.
class Activation final : public Layer {
 public:
  explicit Activation(std::function<Tensor(const Tensor&)> f);
  Tensor forward(const Tensor& x) override { return f_(x); }
  Epilogue epilogue() const override { return epilogue_; }

 private:
  std::function<Tensor(const Tensor&)> f_;
  Epilogue epilogue_ = Epilogue::none;
};

/// Layers one after the other; their names are their positions, activations counted. A linear layer
/// or a convolution and the epilogue behind it are one kernel.
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

}  // namespace flowgrad
