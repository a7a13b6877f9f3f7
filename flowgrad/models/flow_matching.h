#pragma once

#include <functional>
#include <string>
#include <vector>

#include "flowgrad/models/ode.h"
#include "flowgrad/models/time_net.h"
#include "flowgrad/models/transport.h"

namespace flowgrad {

/// Law of the training time: uniform on [0, 1), or pi0's beta: t = 0.999 (1 - u) with u = v^(2/3),
/// that is u ~ Beta(1.5, 1), which favours the noise end.
enum class TimeLaw { uniform, beta };
/// "uniform", "beta": in the order of TimeLaw.
const std::vector<std::string>& time_law_names();

struct FlowMatchingOptions {
  // The network, as TimeNetOptions.
  int64_t condition_dim = 0;
  int64_t action_dim = 2;
  int64_t time_dim = 128;
  double time_scale = 1000;
  int64_t hidden = 512;
  TimeLaw time_law = TimeLaw::uniform;
  /// How the loss pairs the noise it draws with the data of the batch. Optimal transport pays for
  /// unconditional data; with conditions it skews the prior (see `couple`).
  Coupling coupling = Coupling::independent;
  /// Standard deviation of noise on the path: x_t = (1 - t) x0 + t x1 + sigma z (Tong et al. 2024).
  double sigma = 0;
  NetKind net = NetKind::residual;
  int64_t depth = 3;

  TimeNetOptions network() const {
    return {condition_dim, action_dim, time_dim, time_scale, hidden, net, depth};
  }
};

struct GenerateOptions {
  OdeOptions solver{.solver = "euler", .n_steps = 100};
  /// v = v_without + guidance (v_with - v_without), where "without" is a zero condition (Ho &
  /// Salimans 2022); 1 is off.
  double guidance = 1;
};

/// What the loss of flow matching compares, row by row: the velocity at x (N, A) and t (N) against
/// its target.
struct Matching {
  Tensor x, t, velocity, target;
};

/// Conditional flow matching (Lipman et al. 2023) on the straight path x_t = (1 - t) x0 + t x1 with
/// target x1 - x0; t = 0 is noise, t = 1 data. Keys as TimeNet, of body velocity_net.
class FlowMatching final : public TimeNet {
 public:
  FlowMatching(const FlowMatchingOptions& options, Generator& generator,
               DType dtype = DType::float32);
  const FlowMatchingOptions& options() const { return options_; }

  /// Velocity (N, A) at x (N, A), t (N) or (1), condition (N, C), one row of it for all, or
  /// undefined where C = 0.
  Tensor velocity(const Tensor& x, const Tensor& t, const Tensor& condition = {}) {
    return evaluate("velocity", x, t, condition);
  }
  /// Points on paths to data x1 (N, A), and the velocities there. Noise x0 (N, A) and t (N) are
  /// drawn where undefined, the noise by the option `coupling`; noise that is given stays with its
  /// row. ShapeError for draws of another shape.
  Matching match(const Tensor& x1, const Tensor& condition, Generator& generator,
                 const Tensor& x0 = {}, const Tensor& t = {});
  /// Mean squared error of the velocity at those points.
  Tensor loss(const Tensor& x1, const Tensor& condition, Generator& generator,
              const Tensor& x0 = {}, const Tensor& t = {});
  /// Integrates from noise (N, A) to data, off the tape; in one kernel where the device has it.
  /// ValueError for guidance without a condition.
  Tensor generate(const Tensor& noise, const Tensor& condition = {},
                  const GenerateOptions& options = {});
  /// n training times.
  Tensor draw_times(int64_t n, Generator& generator, DType dtype = DType::float32,
                    Device device = Device::cpu()) const;

 private:
  FlowMatchingOptions options_;
  FoldedTail folded_;
};

/// The condition with whole rows set to zero with probability p: training for guidance.
Tensor drop_condition(const Tensor& condition, double p, Generator& generator);

/// The velocity as a field for odeint and metrics.h, with one time for all rows. Borrows the model.
VelocityField velocity_field(FlowMatching& model, const Tensor& condition = {});

/// ValueError for guidance without a condition.
void check_guidance(const GenerateOptions& options, const Tensor& condition);
/// What a solve starts from: the noise, in the widest dtype of it, the model and the condition.
Tensor state_of(const Module& model, const Tensor& noise, const Tensor& condition);

/// ShapeError, naming the argument of a loss, unless a given draw has the shape wanted.
void check_draw(const char* name, const Tensor& draw, const Shape& wanted);

}  // namespace flowgrad
