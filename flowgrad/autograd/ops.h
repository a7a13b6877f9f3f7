#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

/// All mathematics that a user calls. Every function here records itself on the tape when an input
/// requires gradients, and every differentiable one can be differentiated to any order.
///
/// Binary operations broadcast as NumPy does and promote mixed dtypes (bool < int64 < bfloat16 <
/// float32 < float64); a plain number never changes a floating dtype, and a fraction turns int64
/// into float32. Axes may be negative.
/// Bad shapes raise ShapeError, bad dtypes DTypeError, bad values ValueError, each naming the
/// function.
namespace flowgrad {

// ------------------------------------------------------------------ creation (nothing to record)
// What is made lies on `device`; zeros_like and ones_like take x's. Every other operation works
// where its operands are, and raises DeviceError naming both devices where they are on two.
Tensor zeros(const Shape& shape, DType dtype = DType::float32, Device device = Device::cpu());
Tensor ones(const Shape& shape, DType dtype = DType::float32, Device device = Device::cpu());
Tensor full(const Shape& shape, double value, DType dtype = DType::float32,
            Device device = Device::cpu());
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
/// Rank-0 tensor.
Tensor scalar(double value, DType dtype = DType::float32, Device device = Device::cpu());
/// Rank-1 tensor of the given values.
Tensor tensor(std::initializer_list<double> values, DType dtype = DType::float32,
              Device device = Device::cpu());
/// start, start + step, ... below stop.
Tensor arange(double start, double stop, double step = 1, DType dtype = DType::float32,
              Device device = Device::cpu());
/// n points from start to stop, both included.
Tensor linspace(double start, double stop, int64_t n, DType dtype = DType::float32,
                Device device = Device::cpu());
Tensor eye(int64_t n, DType dtype = DType::float32, Device device = Device::cpu());
/// x on another device, row-major there, or x itself where it is there already. The gradient goes
/// back to x's device.
Tensor to(const Tensor& x, Device device);

// ------------------------------------------------------------------ random (counter-addressed)
// Each call takes one stream of the generator; element i of the result depends on (seed, stream,
// i), and on no device.
/// Uniform in [low, high), a range that the type can hold.
Tensor rand(const Shape& shape, Generator& generator, DType dtype = DType::float32, double low = 0,
            double high = 1, Device device = Device::cpu());
Tensor randn(const Shape& shape, Generator& generator, DType dtype = DType::float32,
             Device device = Device::cpu());
/// int64 in [low, high).
Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator,
               Device device = Device::cpu());
/// A random order of 0 .. n - 1, int64.
Tensor randperm(int64_t n, Generator& generator, Device device = Device::cpu());
/// 1 with probability p, else 0.
Tensor bernoulli(const Shape& shape, double p, Generator& generator, DType dtype = DType::float32,
                 Device device = Device::cpu());
/// +1 or -1 with equal probability.
Tensor rademacher(const Shape& shape, Generator& generator, DType dtype = DType::float32,
                  Device device = Device::cpu());

// ------------------------------------------------------------------ elementwise
// The functions of one argument without parameters, from the table: neg, abs, sign, floor, ceil,
// round, exp, expm1, log, log1p, sqrt, rsqrt, square, reciprocal, sin, cos, tan, tanh, sinh, cosh,
// asin, acos, atan, asinh, acosh, atanh (NaN outside their domains), erf, erfc, sigmoid, softplus,
// logsigmoid, relu, silu, gelu (by erf), mish.
#define UNARY(name, saves, zero, value, derivative) Tensor name(const Tensor& x);
#define UNARY_P(name, saves, zero, value, derivative)
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
#undef UNARY_P
// add, sub, mul, div, pow, maximum, minimum, atan2, remainder (the divisor's sign), logaddexp, and
// mul_zero: a product where an exact zero in a wins over an infinite b.
#define BINARY(name, saves, how, value, grad_a, grad_b) \
  Tensor name(const Tensor& a, const Tensor& b);
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
// equal, not_equal, less, less_equal, greater, greater_equal: bool results.
#define COMPARE(name, value)                     \
  Tensor name(const Tensor& a, const Tensor& b); \
  Tensor name(const Tensor& a, double b);
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
// isfinite, isinf, isnan: bool results.
#define PREDICATE(name, value) Tensor name(const Tensor& x);
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE

Tensor leaky_relu(const Tensor& x, double slope = 0.01);
Tensor elu(const Tensor& x, double alpha = 1);
/// Values outside [low, high] become the bound; the gradient at a bound is 1.
Tensor clamp(const Tensor& x, double low, double high);
/// As clamp, with gradient 0 at a bound.
Tensor hardtanh(const Tensor& x, double low = -1, double high = 1);
Tensor pow(const Tensor& x, double exponent);

Tensor operator-(const Tensor& x);
Tensor operator+(const Tensor& a, const Tensor& b);
Tensor operator-(const Tensor& a, const Tensor& b);
Tensor operator*(const Tensor& a, const Tensor& b);
Tensor operator/(const Tensor& a, const Tensor& b);
Tensor operator+(const Tensor& a, double b);
Tensor operator-(const Tensor& a, double b);
Tensor operator*(const Tensor& a, double b);
Tensor operator/(const Tensor& a, double b);
Tensor operator+(double a, const Tensor& b);
Tensor operator-(double a, const Tensor& b);
Tensor operator*(double a, const Tensor& b);
Tensor operator/(double a, const Tensor& b);

Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);
Tensor logical_xor(const Tensor& a, const Tensor& b);
Tensor logical_not(const Tensor& x);
/// a where condition (bool) holds, else b; all three broadcast.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
/// Converts to another dtype; the gradient is converted back.
Tensor cast(const Tensor& x, DType dtype);

// ------------------------------------------------------------------ reductions
// `axes` empty means all axes. keepdim leaves size 1 on the reduced axes.
Tensor sum(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
Tensor mean(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
/// Product; its gradient is exact with zeros among the factors.
Tensor prod(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
/// Variance with `correction` degrees of freedom removed (1 = unbiased); NaN for too few elements.
Tensor var(const Tensor& x, const Dims& axes = {}, double correction = 1, bool keepdim = false);
/// Standard deviation; its gradient at 0 is 0.
Tensor std(const Tensor& x, const Dims& axes = {}, double correction = 1, bool keepdim = false);
/// The same, for who has the names of both flowgrad and namespace std.
inline Tensor stddev(const Tensor& x, const Dims& axes = {}, double correction = 1,
                     bool keepdim = false) {
  return flowgrad::std(x, axes, correction, keepdim);
}
/// Extremes; ties share the gradient equally. Over no elements: ShapeError.
Tensor max(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
Tensor min(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
/// Extremes along one axis with the int64 position of the first; the gradient goes to that
/// position.
std::pair<Tensor, Tensor> max_with_index(const Tensor& x, int64_t axis, bool keepdim = false);
std::pair<Tensor, Tensor> min_with_index(const Tensor& x, int64_t axis, bool keepdim = false);
Tensor argmax(const Tensor& x, int64_t axis, bool keepdim = false);
Tensor argmin(const Tensor& x, int64_t axis, bool keepdim = false);
Tensor any(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
Tensor all(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
Tensor logsumexp(const Tensor& x, const Dims& axes = {}, bool keepdim = false);
/// Euclidean norm (p = 2), sum of absolute values (p = 1), largest absolute value (p = infinity) or
/// any p >= 1; gradient 0 at the zero vector.
Tensor norm(const Tensor& x, const Dims& axes = {}, double p = 2, bool keepdim = false);
/// Lower median over all elements; ties share the gradient.
Tensor median(const Tensor& x);
/// Lower median along an axis with its position.
std::pair<Tensor, Tensor> median(const Tensor& x, int64_t axis, bool keepdim = false);

// ------------------------------------------------------------------ scans
Tensor cumsum(const Tensor& x, int64_t axis);
Tensor cumprod(const Tensor& x, int64_t axis);
Tensor logcumsumexp(const Tensor& x, int64_t axis);
/// Running extremes with the position of the latest occurrence.
std::pair<Tensor, Tensor> cummax(const Tensor& x, int64_t axis);
std::pair<Tensor, Tensor> cummin(const Tensor& x, int64_t axis);
/// out_i = a_i out_(i-1) + b_i along axis, out_(-1) = 0; from the far end when reverse.
Tensor linear_scan(const Tensor& a, const Tensor& b, int64_t axis, bool reverse = false);

// ------------------------------------------------------------------ shape (views where possible)
/// A view where strides allow it, else a copy; one size may be -1.
Tensor reshape(const Tensor& x, const Shape& shape);
/// As reshape, but ShapeError where a copy would be needed.
Tensor view(const Tensor& x, const Shape& shape);
Tensor permute(const Tensor& x, const Dims& axes);
Tensor transpose(const Tensor& x, int64_t axis0 = -2, int64_t axis1 = -1);
/// Sizes of 1 repeat to the given size without copying; -1 keeps a size.
Tensor expand(const Tensor& x, const Shape& shape);
/// Sums over broadcast axes down to `shape`: the reverse of expand.
Tensor sum_to(const Tensor& x, const Shape& shape);
Tensor squeeze(const Tensor& x, int64_t axis);
Tensor unsqueeze(const Tensor& x, int64_t axis);
Tensor flatten(const Tensor& x, int64_t first_axis = 0, int64_t last_axis = -1);
/// Elements start, start + step, ... below stop along axis; Python's rules, step at least 1.
Tensor slice(const Tensor& x, int64_t axis, int64_t start, int64_t stop, int64_t step = 1);
/// The sub-tensor at one index of an axis, which is removed.
Tensor select(const Tensor& x, int64_t axis, int64_t index);
/// x with the elements of the slice replaced by `source`.
Tensor slice_scatter(const Tensor& x, const Tensor& source, int64_t axis, int64_t start,
                     int64_t stop, int64_t step = 1);
Tensor flip(const Tensor& x, const Dims& axes);
Tensor roll(const Tensor& x, int64_t shift, int64_t axis);
/// `pads` lists (before, after) for each axis, first axis first; `value` fills.
Tensor pad(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& pads, double value = 0);
Tensor concat(std::span<const Tensor> parts, int64_t axis = 0);
Tensor concat(std::initializer_list<Tensor> parts, int64_t axis = 0);
Tensor stack(std::span<const Tensor> parts, int64_t axis = 0);
Tensor stack(std::initializer_list<Tensor> parts, int64_t axis = 0);
/// Parts of the given sizes, which must add up.
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t axis = 0);
/// At most n parts of equal size (the last may be smaller).
std::vector<Tensor> chunk(const Tensor& x, int64_t n, int64_t axis = 0);
std::vector<Tensor> unbind(const Tensor& x, int64_t axis = 0);
Tensor repeat(const Tensor& x, const Dims& counts);
/// Lower or upper triangle of the last two axes, others zero; diagonal k.
Tensor tril(const Tensor& x, int64_t k = 0);
Tensor triu(const Tensor& x, int64_t k = 0);
/// Rank 1: the matrix with x on diagonal k. Rank 2 or more: diagonal k of the last two axes.
Tensor diag(const Tensor& x, int64_t k = 0);
/// Any view of x's storage, overlapping ones included; strides and offset in elements.
Tensor as_strided(const Tensor& x, const Shape& shape, const Strides& strides, int64_t offset = 0);
/// x itself where contiguous, else a copy in row-major order.
Tensor contiguous(const Tensor& x);
/// A copy in row-major order.
Tensor clone(const Tensor& x);

// ------------------------------------------------------------------ indexing
// Indices are int64 tensors; out of range raises ValueError naming the index and the accepted
// range. They are checked on the host: those on a device are copied there, which waits for the
// device. While a graph is captured the device checks its own, and DeviceGraph::check raises.
/// out[i][j] = x[index[i][j]][j] for axis 0, and so on (PyTorch's gather).
Tensor gather(const Tensor& x, int64_t axis, const Tensor& index);
/// x with source added at index along axis; repeated indices add up, in order.
Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& source);
/// x with the maximum of x and source at index; ties share the gradient.
Tensor scatter_max(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& source);
/// Sub-tensors at the indices (rank 1) of an axis.
Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index);
/// x with source's sub-tensors added at the indices (rank 1) of an axis.
Tensor index_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& source);
/// Rows of weight (V, D) at index (any shape); rows at padding_index get no gradient.
Tensor embedding(const Tensor& weight, const Tensor& index,
                 std::optional<int64_t> padding_index = {});
Tensor one_hot(const Tensor& index, int64_t classes, DType dtype = DType::float32);
/// Sorted values and their positions; stable, NaN last in ascending order.
std::pair<Tensor, Tensor> sort(const Tensor& x, int64_t axis = -1, bool descending = false);
std::pair<Tensor, Tensor> topk(const Tensor& x, int64_t k, int64_t axis = -1, bool largest = true);

// ------------------------------------------------------------------ linear algebra
/// NumPy's matmul: the last two axes multiply, leading axes broadcast, rank 1 is a vector.
/// Transposed operands are read in place.
Tensor matmul(const Tensor& a, const Tensor& b);
/// c + a b, with c broadcast to the product.
Tensor addmm(const Tensor& c, const Tensor& a, const Tensor& b);
/// A function that linear and conv2d apply to their values, on the CPU while these are near: the
/// bits of the operation of that name afterwards, without its pass over memory. While a tape is
/// recorded, silu and gelu take that pass all the same: their gradients read what they were taken
/// of. That of relu reads its result then, which must not be overwritten before.
enum class Epilogue : uint8_t { none, relu, tanh, sigmoid, silu, gelu };
/// x W^T + b for x (..., in), weight (out, in), bias (out) or undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              Epilogue epilogue = Epilogue::none);
Tensor outer(const Tensor& a, const Tensor& b);
/// Einstein summation: "ij,jk->ik", "...i,i", "ii" (repeated letters in one operand take the
/// diagonal).
Tensor einsum(const std::string& equation, std::span<const Tensor> operands);
Tensor einsum(const std::string& equation, std::initializer_list<Tensor> operands);
/// Contracts the last n axes of a with the first n of b.
Tensor tensordot(const Tensor& a, const Tensor& b, int64_t n = 2);
/// Pairwise Euclidean distances of rows: (..., N, D) and (..., M, D) give (..., N, M); gradient 0
/// at 0.
Tensor cdist(const Tensor& a, const Tensor& b);
// Square matrices on the last two axes, leading axes a batch.
Tensor det(const Tensor& a);
/// Sign and log of the absolute determinant.
std::pair<Tensor, Tensor> slogdet(const Tensor& a);
/// ValueError for a singular matrix.
Tensor inverse(const Tensor& a);
/// Solves a x = b for b (..., N) where a has rank 2 and b rank 1, else (..., N, M).
Tensor solve(const Tensor& a, const Tensor& b);
/// Lower factor L of a = L L^T; reads both triangles as (a + a^T) / 2.
Tensor cholesky(const Tensor& a);
/// Permutation P (as a matrix), unit lower L and upper U with a = P L U; differentiable in a.
struct LuFactors {
  Tensor p, l, u;
};
LuFactors lu(const Tensor& a);
/// Solves a x = b for a triangular a; only the named triangle is read.
Tensor triangular_solve(const Tensor& a, const Tensor& b, bool upper, bool unit_diagonal = false);

// ------------------------------------------------------------------ networks
Tensor softmax(const Tensor& x, int64_t axis = -1);
Tensor log_softmax(const Tensor& x, int64_t axis = -1);
/// Normalises over the trailing axes of weight's shape; weight and bias may be undefined.
Tensor layer_norm(const Tensor& x, const Shape& normalized_shape, const Tensor& weight = {},
                  const Tensor& bias = {}, double epsilon = 1e-5);
/// Zeroes elements with probability p and scales the rest by 1 / (1 - p).
Tensor dropout(const Tensor& x, double p, Generator& generator, bool training = true);
enum class Reduction { none, mean, sum };
Tensor mse_loss(const Tensor& input, const Tensor& target, Reduction reduction = Reduction::mean);
/// Logits (N, C) and int64 classes (N); `ignore_index` rows count for nothing.
Tensor cross_entropy(const Tensor& logits, const Tensor& target,
                     Reduction reduction = Reduction::mean, int64_t ignore_index = -100);
/// Images (N, C, H, W), or one (C, H, W), here and in pooling; weight (O, C / groups, kh, kw), bias
/// (O) or undefined. One number stands for both image axes, {rows, columns} for each: a sequence
/// (N, C, L) is convolved as (N, C, 1, L), with padding {0, n}.
struct ConvOptions {
  Size2d stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
  Epilogue epilogue = Epilogue::none;
};
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});
/// Means over windows; a stride of 0 is the kernel's size, and the padding at most half of it.
/// Padding counts as zeros, or not at all.
Tensor avg_pool2d(const Tensor& x, Size2d kernel, Size2d stride = 0, Size2d padding = 0,
                  bool count_include_pad = true);
/// Largest elements of windows, the first NaN before all else, and never padding; stride and
/// padding as above. The gradient goes to the first of equals.
Tensor max_pool2d(const Tensor& x, Size2d kernel, Size2d stride = 0, Size2d padding = 0);
/// The same with the int64 places y W + x of the largest in their planes.
std::pair<Tensor, Tensor> max_pool2d_with_index(const Tensor& x, Size2d kernel, Size2d stride = 0,
                                                Size2d padding = 0);
/// Output size (height, width); window i covers floor(i H / h) to ceil((i + 1) H / h).
Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width);
Tensor adaptive_max_pool2d(const Tensor& x, int64_t height, int64_t width);
/// One direction of one layer as PyTorch stores it: gates in the order i, f, g, o.
struct LstmWeights {
  Tensor weight_ih, weight_hh, bias_ih, bias_hh;  // (4H, in), (4H, H), (4H), (4H)
};
/// output (N, L, H * directions); h and c (layers * directions, N, H).
struct LstmResult {
  Tensor output, h, c;
};
/// x (N, L, in), batch first. `weights` lists layer 0 forward, layer 0 reverse, layer 1 forward,
/// ... `lengths` (N) int64 or undefined: positions beyond a row's length give zeros and leave its
/// state.
LstmResult lstm(const Tensor& x, std::span<const LstmWeights> weights, bool bidirectional = false,
                const Tensor& lengths = {}, const Tensor& h0 = {}, const Tensor& c0 = {});

// ------------------------------------------------------------------ outside the tape
/// Writes source into x, in place. GradError when x is tracked: only leaves outside of a graph's
/// saved values may change, as optimisers do; use slice_scatter or where inside a graph. The two
/// may have different dtypes, live on different devices, and be parts of one storage that overlap.
/// ValueError when x is expanded: it shows one element in several places.
void copy_(const Tensor& x, const Tensor& source);
void fill_(const Tensor& x, double value);

}  // namespace flowgrad
