#pragma once

#include "flowgrad/models/fused_sampler.h"
#include "flowgrad/models/layers.h"

namespace flowgrad {

/// residual: sinusoidal time embedding through an MLP of its own, then Linear-SiLU and two residual
/// blocks. mlp: `depth` hidden layers with SELU on (x, condition, t), the time as it is: the net of
/// torchcfm's examples.
enum class NetKind { residual, mlp };

struct TimeNetOptions {
  int64_t condition_dim = 0;
  int64_t action_dim = 2;
  int64_t time_dim = 128;
  /// Factor on the time before its embedding; 1 reproduces the tutorial, 1000 lets most channels
  /// move.
  double time_scale = 1000;
  int64_t hidden = 512;
  NetKind net = NetKind::residual;
  int64_t depth = 3;
};

/// A network of x (N, A), a flow time t (N), or (1) for all rows, and a condition (N, C), with
/// values (N, A): what flow matching reads as velocity, a consistency model as mean velocity to the
/// end, a score model as noise. Input order x, condition, time. Keys, for a body of that name:
/// residual time_embed.{1,3}.*, <body>.0.*, <body>.{2,3}.block.{0,2}.*, <body>.4.*; mlp
/// <body>.{0,2,...}.*.
class TimeNet : public Module {
 public:
  /// ValueError for an odd time_dim or one below 4, or a size below 1.
  TimeNet(const char* body, const TimeNetOptions& options, Generator& generator, DType dtype);

 protected:
  /// The network's value (N, A). ShapeError, naming `op`, unless x is (N, A), t (N) or (1), and
  /// condition (N, C) or one row of it (undefined where C = 0).
  Tensor evaluate(const char* op, const Tensor& x, const Tensor& t, const Tensor& condition);
  /// x and condition checked; the condition with a row for each of x.
  Tensor check(const char* op, const Tensor& x, const Tensor& condition) const;

  /// The network with everything but x multiplied once: columns of the first layer for x (H, A);
  /// rows (n, H) that n times add to it, its bias included; and (N, H) that conditions add.
  Tensor weight_of_x() const;
  Tensor rows_of_time(const Tensor& t);
  Tensor rows_of_condition(const Tensor& condition) const;
  /// The rest of the network on the first layer's output (N, H).
  Tensor after_first(const Tensor& h) { return body_.forward_from(1, h); }
  /// What a sampler kernel needs; nullptr where the network is none that it knows.
  const ResidualTail* tail() const { return tail_.last ? &tail_ : nullptr; }

 private:
  int64_t action_dim_, condition_dim_;
  Sequential& time_embed_;
  Sequential& body_;
  Linear* first_;  // of the body
  ResidualTail tail_{};
};

/// scale * elu(x, alpha), the self-normalising activation of Klambauer et al. 2017.
Tensor selu(const Tensor& x);

}  // namespace flowgrad
