#pragma once

#include <span>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

/// Arithmetic without a tape. A backend is one object per device with a method per family of
/// kernels; it sees views (address, sizes, strides, dtype), never the tape. Shapes and dtypes have
/// been checked by the caller (autograd/), which also allocates every output.
namespace flowgrad::kernels {

enum class UnaryOp : uint8_t {
#define UNARY(name, saves, zero, value, derivative) name,
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
};
enum class BinaryOp : uint8_t {
#define BINARY(name, saves, how, value, grad_a, grad_b) name,
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
};
enum class CompareOp : uint8_t {
#define COMPARE(name, value) name,
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
};
enum class PredicateOp : uint8_t {
#define PREDICATE(name, value) name,
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE
};
enum class LogicalOp : uint8_t { logical_and, logical_or, logical_xor };
enum class ReduceOp : uint8_t { sum, prod, min, max, sum_squares, any, all };
enum class ScanOp : uint8_t { sum, prod, logsumexp };
enum class RandomKind : uint8_t { uniform, normal, bernoulli, rademacher, integer };

/// Parameters p and q of an elementwise line, or of a random draw.
struct Params {
  double p = 0;
  double q = 0;
};

/// A strided array as a kernel sees it. Borrowed: sizes and strides belong to the tensor.
struct View {
  void* data = nullptr;
  const Shape* shape = nullptr;
  const Strides* strides = nullptr;
  DType dtype = DType::float32;

  View() = default;
  View(const Tensor& t) {  // NOLINT(google-explicit-constructor): a tensor is a view of itself
    if (!t.defined()) return;
    data = t.raw();
    shape = &t.shape();
    strides = &t.strides();
    dtype = t.dtype();
  }
  bool defined() const { return shape != nullptr; }
  int rank() const { return shape->rank(); }
  int64_t numel() const { return flowgrad::numel(*shape); }
  bool is_contiguous() const { return flowgrad::is_contiguous(*shape, *strides); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// One parameter of an optimiser step: all contiguous, of one dtype, same element count. Fields
/// that an optimiser does not use are undefined.
struct OptimizerSlot {
  View parameter, gradient, moment1, moment2;
};

/// What of an update changes from step to step, as kernels use it. Each reads what it needs.
struct StepNumbers {
  double rate = 0;        // lr, for Adam over correction1
  double shrink = 1;      // factor of the parameter, AdamW's decay
  double root = 1;        // 1 / sqrt(correction2)
  double first_step = 0;  // 1: the momentum's buffer starts here
  double decay = 0;       // of an average
};

/// What a step came to before its update.
struct StepVerdict {
  double loss, norm;
  /// Of the gradients, so that their norm is at most the largest one; 1: they are left alone.
  double factor;
  /// 0 where loss or norm is not finite or the step refused: then the update changes nothing.
  double counts;
};

/// For an update that is captured (DeviceGraph), on the device: the numbers of each run, which
/// replace those of the arguments, and the verdict of judge_step. For backends that record only.
struct CapturedStep {
  const StepNumbers* numbers = nullptr;
  const StepVerdict* verdict = nullptr;
};

struct AdamParams {
  double lr, beta1, beta2, epsilon, weight_decay;
  /// 1 - beta^step.
  double correction1, correction2;
  /// True: AdamW's decay, applied to the parameter. False: L2 added to the gradient.
  bool decoupled;
  /// Of the gradients, which stay as they are; a captured step has the verdict's.
  double gradient_factor = 1;
  CapturedStep captured = {};
};
StepNumbers numbers_of(const AdamParams& params);

struct SgdParams {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, first_step;
  double gradient_factor = 1;
  CapturedStep captured = {};
};
StepNumbers numbers_of(const SgdParams& params);

/// An average and what it is of: of one dtype and shape.
struct AverageSlot {
  View average, value;
};

struct AverageParams {
  double decay;
  CapturedStep captured = {};
};

/// n_steps steps of size h from t0 by an explicit Runge-Kutta method whose stages read the slope of
/// the stage before them alone: Euler, midpoint, Heun, the classical one of order 4.
struct SolveSteps {
  static constexpr int kMaxStages = 4;
  int stages = 0;
  double time[kMaxStages] = {};      // of a stage, in steps
  double previous[kMaxStages] = {};  // weight of the slope before in the stage's input
  double weight[kMaxStages] = {};    // of the stage's slope in the step
  int64_t n_steps = 0;
  double t0 = 0;
  double h = 0;
};

/// v(t, y) = W3 tanh(W2 tanh(W1 y + t w + b1) + b2) + b3, the field of a continuous flow, and what
/// its trace reads. With d1, d2 the derivatives of the two tanh, the trace is
/// sum(left * d2 * W2 (d1 * right)) when left and right are given, sum(d2 * exact d1) when exact
/// is, and left out when neither is. All contiguous, of one dtype.
struct CnfField {
  View x, t, bias;           // W1 (H, D), w (H), b1 (H)
  View middle, middle_bias;  // W2 (H, H), b2 (H)
  View out, out_bias;        // W3 (D, H), b3 (D)
  View left, right;          // (N, H)
  View exact;                // (H, H)
};

/// What every kernel of a solve asks: arrays that are contiguous and of one dtype, float32 or
/// float64, at least one unit and dimension, known stages, and a trace where a gradient is wanted.
bool is_solvable(const CnfField& field, const SolveSteps& steps, bool gradient);

/// How a sampler moves x (N, A) after an evaluation v (N, A) of its network, in this order:
///
///     sum = sum + sum_v v
///     x = x_x x + x_y y + x_sum sum + x_v v + x_clean clamp(clean_x x + clean_v v, -clip, clip)
///         + x_noise z
///     if commit: y = x, sum = 0                      (at the start, y = x and sum = 0)
///
/// Explicit Runge-Kutta methods whose stages read the slope before them, DDPM and DDIM are all of
/// this form. z is unit noise: draw `noise` of Sampler, or row `noise` of what it was given.
struct SamplerStage {
  double sum_v = 0, x_x = 0, x_y = 0, x_sum = 0, x_v = 0;
  double x_clean = 0, clean_x = 0, clean_v = 0, clip = 0;
  double x_noise = 0;
  int64_t noise = 0;
  bool commit = false;
};

/// A network of two residual blocks, folded so that products of weights are ready made:
///
///     h = act(x first + times[stage] + condition)
///     u = silu(hidden[0] h + bias[0])
///     w = silu(hidden[1] h + hidden[2] u + bias[1])
///     v = last[0] h + last[1] u + last[2] w + last_bias
///
/// All contiguous and of one dtype.
struct SamplerNet {
  View first;      // (A, H)
  View times;      // (stages, H)
  View condition;  // (N, H), (1, H), or undefined
  View hidden;     // (3, H, H), each out, in
  View bias;       // (2, H)
  View last;       // (3, A, H)
  View last_bias;  // (A)
  bool relu;       // act is relu, else silu
};

/// A whole solve. guidance: v + guidance (v with condition - v), where v lacks the condition; 1 is
/// off.
struct Sampler {
  SamplerNet net;
  std::span<const SamplerStage> stages;
  double guidance = 1;
  View noise;  // (rows, N, A), or undefined: draw i is that of stream first_stream + i
  uint64_t seed = 0, first_stream = 0;
};

/// An affine coupling (Dinh et al. 2017, eq. 7 and 8). Where mask is 0,
///
///     out = z exp(s) + shift, or, inverse, (z - shift) exp(-s);  s = bound tanh(scale / bound)
///
/// with s = scale where bound is 0; elsewhere out = z, and neither scale nor shift is read. The
/// log-determinant is the row's sum of s, or of -s. All contiguous, of one dtype.
struct Coupling {
  View scale, shift;  // (N, D)
  View mask;          // (D)
  double bound = 0;
  bool inverse = false;
};

/// A net of a coupling layer: weight[2] relu(weight[1] relu(weight[0] x + bias[0]) + bias[1]) +
/// bias[2].
struct CouplingNet {
  View weight[3], bias[3];  // (H, D + C), (H, H), (D, H); (H), (H), (D)
};

/// A Coupling whose scale and shift are nets of the row's masked z, mask z where mask is not 0, and
/// of its condition beside it. All contiguous, of one dtype.
struct MlpCoupling {
  CouplingNet nets[2];  // scale, shift
  View condition;       // (N, C), or undefined
  View mask;            // (D)
  double bound = 0;
  bool inverse = false;
};

/// Normalisation of rows x (N, D) (Ba et al. 2016, eq. 4):
///
///     out = (x - mean) scale weight + bias;  scale = (variance + epsilon)^-1/2
///
/// with the mean and the variance (of D, not D - 1) of every row. All contiguous, of one dtype;
/// beside them the rows' statistics, float64 (N, 2): mean and scale.
struct LayerNorm {
  View weight, bias;  // (D), or undefined: 1 and 0
  double epsilon = 0;
};

/// K planar layers (Rezende & Mohamed 2015, eq. 10), layer 0 first:
///
///     h = tanh(w.x + b), x = x + u h, log-determinant log(h^2 + (1 - h^2) (1 + w.u))
///
/// or, inverse, their inverses, layer K - 1 first: h = tanh(s) with s + (w.u) tanh(s) = w.x + b.
/// The margin is 1 + w.u, which u itself cannot tell where it is small beside u's rounding. All
/// contiguous, of one dtype.
struct PlanarStack {
  View w, b, u, margin;  // (K, D), (K), (K, D), (K)
  bool inverse = false;
};

/// A convolution of images x (N, C, H, W) with weight (O, C / groups, kh, kw) to out (N, O, h, w):
/// the window's element (i, j) at place (y, x) is x[y * stride + i * dilation - padding, ...], 0
/// outside of the image. All contiguous, of one dtype.
struct Convolution {
  Size2d stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
};

/// Windows over images x (N, C, H, W), one for each place of out (N, C, h, w), all contiguous.
/// Along each axis a window of `kernel` places moves in steps of `stride` over the image and
/// `padding` places around it; or, where kernel is 0, window i of n spans floor(i size / n) to
/// ceil((i + 1) size / n).
struct Pooling {
  Size2d kernel, stride, padding;
  bool counts_padding = true;  ///< for means: as zeros; else a window is what it sees of the image
};

/// What a window sees of an axis, and how many places it divides its sum by.
struct PoolSpan {
  int64_t begin, end, count;
};
/// Of window `i` of `windows` over axis 0 (rows) or 1 of `size` places.
inline PoolSpan pool_span(const Pooling& p, int axis, int64_t i, int64_t size, int64_t windows) {
  if (p.kernel[axis] == 0) {
    const int64_t begin = i * size / windows, end = ((i + 1) * size - 1) / windows + 1;
    return {begin, end, end - begin};
  }
  const int64_t first = i * p.stride[axis] - p.padding[axis], last = first + p.kernel[axis];
  const int64_t begin = first < 0 ? 0 : first, end = last < size ? last : size;
  return {begin, end, p.counts_padding ? p.kernel[axis] : end - begin};
}

/// The recurrence of an LSTM over a sequence (L, N, ...), time first. Gates are i, f, g, o in the
/// order of PyTorch; with gates = from_x[t] + h weight^T,
///
///     c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), out[t] = h
///
/// Beyond a row's length out is 0 and the state stays. All contiguous; all of one dtype but
/// lengths.
struct LstmSteps {
  View weight;           // (4H, H)
  View lengths;          // (N) int64, or undefined
  bool reverse = false;  // the last step first
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;

  // Copies. Shapes are equal; `copy` converts between any two dtypes.
  virtual void copy(View in, View out) = 0;
  virtual void fill(View out, double value) = 0;
  /// out[i] = start + i * step for rank 1.
  virtual void arange(View out, double start, double step) = 0;
  /// out[i] += in[i], in row-major order, so out may show an element more than once.
  virtual void add_into(View in, View out) = 0;

  // Elementwise. Inputs have been expanded (stride 0) to the output's shape.
  virtual void unary(UnaryOp op, Params params, View x, View out) = 0;
  /// out = g * f'(x), where x or y is undefined if the table's line does not save it. Which 0
  /// wins over what is infinite, its line says.
  virtual void unary_grad(UnaryOp op, Params params, View g, View x, View y, View out) = 0;
  virtual void binary(BinaryOp op, View a, View b, View out) = 0;
  /// Gradient of a (wrt = 0) or b (wrt = 1), before the sum over broadcast axes.
  virtual void binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) = 0;
  /// out[i] += a[i] * b[i], the product rounded by itself, for floating dtypes.
  virtual void multiply_add(View a, View b, View out) = 0;
  virtual void compare(CompareOp op, View a, View b, View out) = 0;
  virtual void predicate(PredicateOp op, View x, View out) = 0;
  virtual void logical(LogicalOp op, View a, View b, View out) = 0;
  virtual void where(View condition, View a, View b, View out) = 0;

  // Reductions: out has x's rank, with size 1 on every reduced axis. An empty reduction gives the
  // identity (min and max over nothing are refused by the caller). NaN propagates through min and
  // max.
  virtual void reduce(ReduceOp op, View x, View out) = 0;
  /// First position of the extreme along axis; out is int64 with size 1 on axis. NaN counts as
  /// extreme.
  virtual void arg_reduce(bool maximum, View x, int axis, View out) = 0;
  virtual void scan(ScanOp op, View x, int axis, bool reverse, View out) = 0;
  /// Running extreme and the index of its latest occurrence.
  virtual void scan_extreme(bool maximum, View x, int axis, View values, View indices) = 0;
  /// out_i = a_i * out_(i-1) + b_i along axis (from the end when reverse), out_(-1) = 0.
  virtual void linear_scan(View a, View b, int axis, bool reverse, View out) = 0;
  /// softmax or log_softmax along axis.
  virtual void softmax(bool logarithm, View x, int axis, View out) = 0;
  virtual void softmax_grad(bool logarithm, View g, View y, int axis, View out) = 0;

  virtual void layer_norm(const LayerNorm& norm, View x, View out, View statistics) = 0;
  /// From the cotangent g of out to those of x, weight and bias; any of them may be undefined.
  virtual void layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g, View g_x,
                               View g_weight, View g_bias) = 0;

  /// out (..., M, N) = a (..., M, K) b (..., K, N) [+ bias (N)] [+ out]. Batch axes of a and b have
  /// out's sizes (stride 0 where broadcast). Any strides on a and b; out is contiguous.
  virtual void matmul(View a, View b, View bias, bool accumulate, View out) = 0;
  /// out = op(a b [+ bias]), the operation as unary does it without parameters.
  virtual void matmul_unary(UnaryOp op, View a, View b, View bias, View out);

  /// out = the convolution of x with weight [+ bias (O)].
  virtual void conv2d(const Convolution& c, View x, View weight, View bias, View out) = 0;
  /// out = op(the convolution [+ bias]), likewise.
  virtual void conv2d_unary(UnaryOp op, const Convolution& c, View x, View weight, View bias,
                            View out);
  /// From the cotangent g of out to those of x, weight and bias; any of them may be undefined.
  virtual void conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x,
                           View g_weight, View g_bias) = 0;

  /// Means over the windows.
  virtual void avg_pool2d(const Pooling& p, View x, View out) = 0;
  /// From the cotangent g of out to that of x.
  virtual void avg_pool2d_grad(const Pooling& p, View g, View g_x) = 0;
  /// The largest element that a window sees, the first NaN before all else, and index (int64), its
  /// place y W + x within its plane; the first of equals. Every window must see an element.
  virtual void max_pool2d(const Pooling& p, View x, View out, View index) = 0;
  /// From the cotangent g of out to that of x, by the places that max_pool2d gave.
  virtual void max_pool2d_grad(const Pooling& p, View g, View index, View g_x) = 0;

  /// From from_x (L, N, 4H), h0 and c0 (N, H) to out (L, N, H) and the last states. What lstm_grad
  /// reads, all three or none: gates (L, N, 4H), the gates' values inside of the lengths; h_before
  /// and c_before (L, N, H), the states at the start of every step.
  virtual void lstm(const LstmSteps& steps, View from_x, View h0, View c0, View out, View h, View c,
                    View gates, View h_before, View c_before) = 0;
  /// From the cotangents of out, h and c to those of from_x, h0 and c0; c is the last state.
  virtual void lstm_grad(const LstmSteps& steps, View gates, View c_before, View c, View g_out,
                         View g_h, View g_c, View g_from_x, View g_h0, View g_c0) = 0;

  // Indexing. Indices are int64, checked and non-negative.
  /// The check, without a host that waits: out (contiguous) = index, or 0 where that is outside of
  /// [0, size). found (parts, 2), contiguous: the indices in row-major order are cut into as many
  /// equal parts (the last may be short), and the element and the index of the first outside in
  /// each are kept there, unless its element is not negative already; any () is then 1.
  virtual void check_index(View index, int64_t size, View out, View found, View any) = 0;
  virtual void gather(View x, int axis, View index, View out) = 0;
  /// out[..index..] += source, in row-major order of source.
  virtual void scatter_add(View index, int axis, View source, View out) = 0;
  virtual void scatter_max(View index, int axis, View source, View out) = 0;
  virtual void index_select(View x, int axis, View index, View out) = 0;
  virtual void index_add(View index, int axis, View source, View out) = 0;
  /// Stable; NaN is the largest. values and indices may be shorter along the axis: they get the
  /// first of the order.
  virtual void sort(View x, int axis, bool descending, View values, View indices) = 0;

  // Small dense linear algebra on the last two axes; inputs and outputs contiguous.
  /// PA = LU with partial pivoting; pivots (..., N) int64 is the row permutation P as indices, sign
  /// (...) its determinant.
  virtual void lu(View a, View lu, View pivots, View sign) = 0;
  /// Lower factor; raises ValueError naming the batch entry that is not positive definite.
  virtual void cholesky(View a, View out) = 0;
  /// Solves a x = b with a triangular; only the named triangle of a is read.
  virtual void triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) = 0;

  /// Element i of out, in row-major order, is draw i of (seed, stream): uniform in [p, q), normal
  /// with mean p and deviation q, bernoulli with probability p, +-1, or an integer in [p, q).
  virtual void random(RandomKind kind, uint64_t seed, uint64_t stream, Params params, View out) = 0;

  // A continuous flow's solve as one kernel. A backend may lack it; operations have a twin.
  /// Whether cnf_solve, and cnf_solve_grad too where a gradient is wanted, take this field.
  virtual bool has_cnf_solve(const CnfField& field, const SolveSteps& steps, bool gradient) const;
  /// Numbers that cnf_solve leaves for cnf_solve_grad: the state (N, D) at the start of every step
  /// at least.
  virtual int64_t cnf_kept(const CnfField& field, const SolveSteps& steps, int64_t rows) const;
  /// y0 (N, D) to y (N, D), and the trace's integral (N), undefined where the field has no trace.
  /// kept (cnf_kept) may be undefined.
  virtual void cnf_solve(const CnfField& field, const SolveSteps& steps, View y0, View y,
                         View integral, View kept);
  /// From the cotangents g_y (N, D) and g_integral (N) to those of y0, left and right (undefined
  /// where the field has none) and, one after the other in one array, of x, t, bias, middle,
  /// middle_bias, out, out_bias and exact. The field must have a trace.
  virtual void cnf_solve_grad(const CnfField& field, const SolveSteps& steps, View kept, View g_y,
                              View g_integral, View g_y0, View g_left, View g_right,
                              View g_weights);
  /// Whether `sample` takes a network of this width H and number A of outputs. It never depends on
  /// the number of rows.
  virtual bool has_sampler(DType dtype, int64_t width, int64_t outputs) {
    (void)dtype, (void)width, (void)outputs;
    return false;
  }
  /// All stages, from x (N, A) to out (N, A), both contiguous. DeviceError without has_sampler.
  virtual void sample(const Sampler& sampler, View x, View out);

  // Layers of discrete flows: a map of rows z (N, D) with its log-determinant (N), and its
  // gradient.
  virtual void coupling(const Coupling& coupling, View z, View out, View log_det) = 0;
  /// From the cotangents g (N, D) and g_log_det (N) to those of z, scale and shift.
  virtual void coupling_grad(const Coupling& coupling, View z, View g, View g_log_det, View g_z,
                             View g_scale, View g_shift) = 0;
  /// A coupling together with its nets. A backend may lack it; operations have a twin.
  virtual bool has_mlp_coupling(DType dtype) const {
    (void)dtype;
    return false;
  }
  /// What mlp_coupling_grad reads and it may have to leave, `kept`: for either net, hidden layers
  /// (2, N, H) and outputs (N, D). DeviceError without has_mlp_coupling.
  virtual void mlp_coupling(const MlpCoupling& coupling, View z, View out, View log_det, View kept);
  /// From g (N, D) and g_log_det (N) to the cotangents of z, condition (undefined where there is
  /// none) and the nets' weights and biases; an undefined weight or bias of g_nets is left out.
  /// `work`, numbers to compute with: N (2 H + 3 D + C).
  virtual void mlp_coupling_grad(const MlpCoupling& coupling, View z, View kept, View g,
                                 View g_log_det, View g_z, View g_condition,
                                 const CouplingNet (&g_nets)[2], View work);
  /// Whether `planar` and `planar_grad` take this stack. It never depends on the number of rows.
  virtual bool has_planar(const PlanarStack& stack) const = 0;
  /// heights (K, N), which may be undefined, gets the layers' h, which planar_grad reads.
  virtual void planar(const PlanarStack& stack, View z, View out, View log_det, View heights) = 0;
  /// From g (N, D) and g_log_det (N) to the cotangents of z and, one after the other in one array,
  /// of w, b, u and the margin, which count as independent of each other.
  virtual void planar_grad(const PlanarStack& stack, View z, View heights, View g, View g_log_det,
                           View g_z, View g_weights) = 0;

  // Optimiser steps over many parameters in one call.
  virtual void adam_step(std::span<const OptimizerSlot> slots, const AdamParams& params) = 0;
  virtual void sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& params) = 0;
  /// Sum of squares of all elements of all views, in double.
  virtual double sum_of_squares(std::span<const View> views) = 0;
  /// In place: out *= factor.
  virtual void scale(View out, double factor) = 0;
  /// In place: average = decay * average + (1 - decay) * value.
  virtual void lerp(View average, View value, double decay) = 0;
  /// lerp of many averages in one call.
  virtual void average_step(std::span<const AverageSlot> slots, const AverageParams& params);
  /// Of a captured step: the verdict from the loss, one number, all gradients, whose norm clip_norm
  /// bounds (0: nothing does), and `refused`, int64 (), which is 0 for a step that may count. A
  /// backend that does not record lacks it.
  virtual void judge_step(View loss, std::span<const View> gradients, double clip_norm,
                          View refused, StepVerdict* verdict);
};

/// The backend for a device. The CPU has two: the fast one (default) and the plain reference loops,
/// chosen by set_cpu_backend or FLOWGRAD_BACKEND=fast|reference. DeviceError where none is
/// registered for the device's kind.
Backend& backend(Device device);
/// Makes `instance`, which must live as long as the process, the backend of a kind of device; at
/// start-up, beside register_device_memory. ValueError for the CPU.
void register_backend(Device::Kind kind, Backend* instance);
enum class CpuBackend : uint8_t { fast, reference };
void set_cpu_backend(CpuBackend which);
CpuBackend cpu_backend();

}  // namespace flowgrad::kernels
