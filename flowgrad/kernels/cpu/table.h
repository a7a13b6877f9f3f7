#pragma once
// What an instruction set offers: tables of plain functions. The files below cpu/isa are compiled
// once per instruction set and export these tables and nothing else; everything around them (views,
// threads, memory) is compiled once and calls through the table that dispatch.h chose.

#include <cstdint>

namespace flowgrad::kernels::cpu {

/// A part of C = A B (+ bias) (+ C): all of k, some rows, some columns starting at a panel.
template <class T>
struct GemmBlock {
  std::int64_t m, n, k;
  const T* a;
  std::int64_t a_row, a_col;
  /// Either B itself, element (k, j) at b[k * b_row + j * b_col] ...
  const T* b;
  std::int64_t b_row, b_col;
  /// ... or B packed: the panel at column j of depth block k0 (length kc) starts at
  /// packed[k0 * packed_width + (packed_column + j) * kc]. Null when b is used.
  const T* packed;
  std::int64_t packed_width, packed_column;
  /// `packed` where the first rows that go over b pack it on their way; null where it is packed.
  T* pack_to;
  T* c;
  std::int64_t ldc;
  /// Of the columns, and of the rows (m) where C is a transposed result; null: none.
  const T *bias, *row_bias;
  bool accumulate;
  /// C becomes its relu, or 0 where `gate`, laid out as C is, is at most 0: the gradient of a relu.
  bool relu;
  const T* gate;
  /// Laid out as C is: what the caller touches after this product, fetched while sums run; or null.
  const T* ahead;
  /// Room for gemm.scratch_elements.
  T* scratch;
};

/// Sizes up to which a product is small.
constexpr std::int64_t kSmallSize = 32;

/// Small products C (m, n) = A (m, k) B (k, n) (+ bias) (+ C), operands of one and the next `item`
/// apart. Any strides on A and B.
template <class T>
struct GemmBatch {
  std::int64_t count, m, n, k;
  const T* a;
  std::int64_t a_row, a_col, a_item;
  const T* b;
  std::int64_t b_row, b_col, b_item;
  T* c;
  std::int64_t ldc, c_item;
  const T* bias;
  bool accumulate;
};

/// c (m, n) = [c +] the sum over runs r and k < depth of
/// a[i * a_row + a_run[r] + k * a_col] b[b_run[r] + k * b_row + j], n at most panel_columns.
/// Registers past column n are read from b and dropped.
template <class T>
struct RunsBlock {
  std::int64_t m, n, depth, runs;
  const T* a;
  std::int64_t a_row, a_col;
  const T* b;
  std::int64_t b_row;
  const std::int64_t *a_run, *b_run;
  T* c;
  std::int64_t ldc;
  bool add;
};

template <class T>
struct GemmTable {
  int tile_rows, panel_columns, lanes;
  /// Length of the blocks that every product sums k in: within a block one running sum, then the
  /// blocks' sums in order. It is part of the result, so all paths and tile shapes share it.
  std::int64_t depth;
  /// Rows that go over the panels of a B with n columns together.
  std::int64_t (*group_rows)(std::int64_t n);
  /// Elements of B that are packed at a time.
  std::int64_t packed_at_once;
  /// out[k * width + j] = b[k * b_row + j * b_col], zeros for n <= j < width. Where width < lanes
  /// and b_row is 1, up to `lanes` elements behind the result are overwritten.
  void (*pack)(const T* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n,
               std::int64_t width, T* out);
  void (*block)(const GemmBlock<T>& block);
  std::int64_t scratch_elements;
  /// The path for few columns (n <= lanes / 2): B transposed and padded, bt[j * k_padded + k];
  /// k_padded, the rows of bt apart, is at least k.
  void (*narrow)(const GemmBlock<T>& block, const T* bt, std::int64_t k_padded);
  void (*runs)(const RunsBlock<T>& block);
  void (*small)(const GemmBatch<T>& batch);
};

struct GemmTables {
  GemmTable<float> f32;
  GemmTable<double> f64;
};

/// A product (rows, count) (count, units) of so few inputs that it is computed where it is used;
/// `rows` null: it lies there already.
template <class T>
struct FewInputs {
  const T* rows;
  std::int64_t count;
  const T* weights;
};

/// The elementwise parts of a continuous flow's solve, see kernels::CnfField, on rows of `units`
/// numbers each. `left` and `right` are null where the trace is exact.
template <class T>
struct CnfTable {
  /// one = tanh(product, or one), tangent = its derivative [times right]; tangent null: no trace is
  /// wanted.
  void (*first)(const FewInputs<T>& product, const T* right, std::int64_t rows, std::int64_t units,
                T* one, T* tangent);
  /// two = tanh(two + bias); trace[r] = sum over the row of [left times] its derivative times
  /// along; along null: no trace is wanted.
  void (*second)(const T* bias, const T* left, const T* along, std::int64_t rows,
                 std::int64_t units, T* two, T* trace);
  /// The adjoint of `second`: the cotangent of two, the product or g, becomes that before the tanh,
  /// g; those of bias and left are added to g_bias and g_left.
  void (*second_grad)(const FewInputs<T>& product, const T* two, const T* left, const T* g_trace,
                      const T* along, std::int64_t rows, std::int64_t units, T* g_along, T* g,
                      T* g_bias, T* g_left);
  /// The adjoint of `first`: g, the cotangent of one, becomes that before the tanh.
  void (*first_grad)(const T* one, const T* right, const T* g_tangent, std::int64_t n, T* g,
                     T* g_right);
};
struct CnfTables {
  CnfTable<float> f32;
  CnfTable<double> f64;
};

template <class T>
struct ConvTable {
  /// out[j * out_stride + j / run * gap + i] = in[i * in_stride + j] (+ bias[j] where bias is not
  /// null).
  void (*transpose)(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns,
                    const T* bias, T* out, std::int64_t out_stride, std::int64_t run,
                    std::int64_t gap);
  /// A panel of every row, one after the other.
  void (*copy_panel)(const T* in, std::int64_t in_stride, std::int64_t rows, T* out);
  /// For i below n, in whole registers: best[i], of the tap with the number tap[i], becomes the
  /// largest of itself and taps[j][i], which has the number first + j. The first of equals stays,
  /// and a NaN before all else.
  void (*see_taps)(const T* const* taps, std::int64_t count, T first, std::int64_t n, T* best,
                   T* tap);
};

struct ConvTables {
  ConvTable<float> f32;
  ConvTable<double> f64;
};

/// A row of an LSTM cell, see kernels::LstmSteps; gates are (4, hidden).
template <class T>
struct LstmTable {
  /// Gates get their values. c may be c_before.
  void (*cell)(T* gates, const T* c_before, std::int64_t hidden, T* c, T* h);
  /// g_c, the cotangent of c, becomes that of c_before.
  void (*cell_grad)(const T* gates, const T* c_before, const T* c, const T* g_h, T* g_c,
                    std::int64_t hidden, T* g_gates);
};

struct LstmTables {
  LstmTable<float> f32;
  LstmTable<double> f64;
};

/// Rows of n numbers, see kernels::LayerNorm.
template <class T>
struct NormRows {
  const T *x, *weight, *bias;  // weight and bias may be null
  std::int64_t rows, n;
};
template <class T>
struct NormTable {
  void (*layer_norm)(const NormRows<T>& r, double epsilon, T* out, double* statistics);
  /// g_x may be null. sums has 2 x `columns` numbers, `columns` a multiple of every register's
  /// lanes from n on; the rows' gradients of weight, then of bias, are added to them by way of
  /// `few`, as long, which adds up a few rows in T. Both may be null.
  void (*layer_norm_grad)(const NormRows<T>& r, const double* statistics, const T* g, T* g_x,
                          double* sums, T* few, std::int64_t columns);
};
struct NormTables {
  NormTable<float> f32;
  NormTable<double> f64;
};

/// Along contiguous rows of n numbers, or down columns, 16 to kMostColumns of them.
template <class T>
struct ScanTable {
  /// First position of the least [0] or largest [1] of each row or column, NaN being the extreme of
  /// all. There is at least one number in each; rows below 2^31.
  void (*arg_rows[2])(const T* x, std::int64_t rows, std::int64_t n, std::int64_t* out);
  void (*arg_columns[2])(const T* x, std::int64_t rows, std::int64_t row_stride,
                         std::int64_t columns, std::int64_t* out);
  /// Running sums, from the end [1]; out may be x, and has its strides.
  void (*cumsum_rows[2])(const T* x, std::int64_t rows, std::int64_t n, T* out);
  void (*cumsum_columns[2])(const T* x, std::int64_t rows, std::int64_t row_stride,
                            std::int64_t columns, T* out);
};
struct ScanTables {
  ScanTable<float> f32;
  ScanTable<double> f64;
};

/// The rungs of cpu/ladder.h.
struct LadderTable {
  using Function = void (*)(const float* a, const float* b, float* c, std::int64_t m,
                            std::int64_t n, std::int64_t k);
  Function naive, loop_order, blocked, register_tile, packed;
};

/// A lower triangle (n, n), element (i, k) at at[i * row + k * column]; upper ones are read from
/// their end. unit: ones on the diagonal, which is not read.
struct Triangle {
  const double* at;
  std::int64_t row, column, n;
  bool unit;
};
/// The most columns that LinalgTable::factor_columns takes.
constexpr std::int64_t kFactorColumns = 16;

/// Few rows or few columns of a matrix whose rows are `row` apart.
struct LinalgTable {
  /// x (n, columns) := t^-1 x.
  void (*solve)(const Triangle& t, double* x, std::int64_t x_row, std::int64_t columns);
  /// Row i changes places with row swaps[i], in order.
  void (*swap_rows)(double* a, std::int64_t row, std::int64_t columns, const std::int64_t* swaps,
                    std::int64_t count);
  /// L and U of a (m, n), m >= n, with partial pivoting. Room for m * kFactorColumns in scratch.
  void (*factor_columns)(double* a, std::int64_t row, std::int64_t m, std::int64_t n,
                         double* scratch, std::int64_t* swaps);
};

/// Numbers of the operations of elementwise.def, in its order; the enumerations of backend.h agree.
namespace number {
enum Unary : int {
#define UNARY(name, saves, zero, value, derivative) unary_##name,
#include "flowgrad/kernels/elementwise.def"
#undef UNARY
  unary_count
};
enum Binary : int {
#define BINARY(name, saves, how, value, grad_a, grad_b) binary_##name,
#include "flowgrad/kernels/elementwise.def"
#undef BINARY
  binary_count
};
enum Compare : int {
#define COMPARE(name, value) compare_##name,
#include "flowgrad/kernels/elementwise.def"
#undef COMPARE
  compare_count
};
enum Predicate : int {
#define PREDICATE(name, value) predicate_##name,
#include "flowgrad/kernels/elementwise.def"
#undef PREDICATE
  predicate_count
};
}  // namespace number

/// Elementwise kernels over n contiguous elements. out may be one of the inputs. Bools are bytes 0
/// or 1.
template <class T>
using UnaryKernel = void (*)(const T* x, T* out, std::int64_t n, T p, T q);
template <class T>
struct ElementwiseTable {
  UnaryKernel<T> unary[number::unary_count];
  /// x and y are read only where the operation saves them.
  void (*unary_grad[number::unary_count])(const T* g, const T* x, const T* y, T* out,
                                          std::int64_t n, T p, T q);
  void (*binary[number::binary_count])(const T* a, const T* b, T* out, std::int64_t n);
  void (*binary_grad[number::binary_count][2])(const T* g, const T* a, const T* b, const T* y,
                                               T* out, std::int64_t n);
  void (*compare[number::compare_count])(const T* a, const T* b, std::uint8_t* out, std::int64_t n);
  void (*predicate[number::predicate_count])(const T* x, std::uint8_t* out, std::int64_t n);
  void (*where)(const std::uint8_t* condition, const T* a, const T* b, T* out, std::int64_t n);
  void (*fill)(T value, T* out, std::int64_t n);
  /// out = a b + c, the product rounded by itself.
  void (*multiply_add)(const T* a, const T* b, const T* c, T* out, std::int64_t n);
  /// out = decay * out + (1 - decay) * value.
  void (*lerp)(const T* value, T* out, std::int64_t n, T decay);
};
struct ElementwiseTables {
  ElementwiseTable<float> f32;
  ElementwiseTable<double> f64;
  void (*f32_to_f64)(const float* in, double* out, std::int64_t n);
  void (*f64_to_f32)(const double* in, float* out, std::int64_t n);
  void (*f32_to_bf16)(const float* in, std::uint16_t* out, std::int64_t n);
  void (*bf16_to_f32)(const std::uint16_t* in, float* out, std::int64_t n);
  void (*bool_to_f32)(const std::uint8_t* in, float* out, std::int64_t n);
  void (*bool_to_f64)(const std::uint8_t* in, double* out, std::int64_t n);
  void (*i64_to_f32)(const std::int64_t* in, float* out, std::int64_t n);
  void (*i64_to_f64)(const std::int64_t* in, double* out, std::int64_t n);
};

/// Numbers of the foldable reductions; the first of ReduceOp agree.
namespace number {
enum Fold : int { fold_sum, fold_prod, fold_min, fold_max, fold_squares, fold_count };
}

struct AdamCoefficients {
  double rate, beta1, beta2, epsilon, decay, inverse_root_correction2;
  /// True: `decay` multiplies the parameter. False: it is the L2 factor added to the gradient.
  bool decoupled;
  double gradient_factor;
};
struct SgdCoefficients {
  double rate, momentum, keep, decay;
  bool nesterov, first_step;
  double gradient_factor;
};

/// The most columns that a kernel of columns with room of its own goes down at once.
constexpr std::int64_t kMostColumns = 512;

/// Reductions carry their sums and products in double, whatever T is.
template <class T>
struct ReduceTable {
  double (*fold[number::fold_count])(const T* x, std::int64_t n);
  /// out[i] = fold of row i.
  void (*fold_rows[number::fold_count])(const T* x, std::int64_t rows, std::int64_t row_stride,
                                        std::int64_t n, T* out);
  /// partial[j] = fold of column j over some rows.
  void (*fold_columns[number::fold_count])(const T* x, std::int64_t rows, std::int64_t row_stride,
                                           std::int64_t columns, double* partial);
  /// Rows of softmax [0] or log_softmax [1], contiguous.
  void (*softmax[2])(const T* x, std::int64_t rows, std::int64_t n, T* out);
  void (*softmax_grad[2])(const T* g, const T* y, std::int64_t rows, std::int64_t n, T* out);
  /// Down columns, at most kMostColumns of them; all arrays have one stride.
  void (*softmax_columns[2])(const T* x, std::int64_t rows, std::int64_t row_stride,
                             std::int64_t columns, T* out);
  void (*softmax_columns_grad[2])(const T* g, const T* y, std::int64_t rows,
                                  std::int64_t row_stride, std::int64_t columns, T* out);
  void (*adam)(T* parameter, const T* gradient, T* moment1, T* moment2, std::int64_t n,
               const AdamCoefficients& c);
  /// `buffer` is read and written only where c.momentum is not zero.
  void (*sgd)(T* parameter, const T* gradient, T* buffer, std::int64_t n, const SgdCoefficients& c);
};
struct ReduceTables {
  ReduceTable<float> f32;
  ReduceTable<double> f64;
};

/// An affine coupling over n elements of whole rows, mask repeated for each; see kernels::Coupling.
template <class T>
struct CouplingRun {
  const T *z, *scale, *shift, *mask;
  std::int64_t n;
  T bound;
  bool inverse;
};

/// Layers of kernels::PlanarStack.
template <class T>
struct PlanarLayers {
  const T *w, *b, *u, *margin;
  std::int64_t layers, dims;
  bool inverse;
};

/// Draws from block `first` of (seed, stream) on, n elements that start it; see core/random.h.
template <class T>
struct RandomTable {
  /// In [low, high); below_high is the largest number below high.
  void (*uniform)(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t n,
                  T low, T high, T below_high, T* out);
  void (*normal)(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t n,
                 T mean, T deviation, T* out);
};
struct RandomTables {
  RandomTable<float> f32;
  RandomTable<double> f64;
  /// The words themselves.
  void (*words)(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t n,
                std::uint32_t* out);
};

template <class T>
struct FlowTable {
  int lanes;
  /// log_scale: s, or -s, and 0 where masked.
  void (*coupling)(const CouplingRun<T>& run, T* out, T* log_scale);
  /// g_log_det: of an element's row.
  void (*coupling_grad)(const CouplingRun<T>& run, const T* g, const T* g_log_det, T* g_z,
                        T* g_scale, T* g_shift);
  /// Up to `lanes` rows. heights[i * stride + row], or null; room for dims * lanes in scratch.
  void (*planar)(const PlanarLayers<T>& p, const T* z, int rows, T* out, T* log_det, T* heights,
                 std::int64_t stride, T* scratch);
  /// The same, adding to sums[(i * (2 dims + 2) + j) * lanes + lane] the gradients of layer i's w,
  /// u, b and margin. Room for (layers + 1) * dims * lanes in scratch.
  void (*planar_grad)(const PlanarLayers<T>& p, const T* z, const T* heights, std::int64_t stride,
                      const T* g, const T* g_log_det, int rows, T* g_z, T* sums, T* scratch);
};
struct FlowTables {
  FlowTable<float> f32;
  FlowTable<double> f64;
};

}  // namespace flowgrad::kernels::cpu
