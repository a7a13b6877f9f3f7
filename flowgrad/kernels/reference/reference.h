#pragma once

#include "flowgrad/kernels/backend.h"

namespace flowgrad::kernels {

/// Plain loops over any strides: the code to read, and the oracle that faster code is tested
/// against. Every method accepts rank 0 to 8 and zero sizes. Floating arithmetic takes float32 and
/// float64, and sums of float32 are carried in double. Integer arithmetic wraps around. A dtype
/// that a method does not accept raises DTypeError naming the operation.
class ReferenceBackend : public Backend {
 public:
  const char* name() const override { return "reference"; }

  void copy(View in, View out) override;
  void fill(View out, double value) override;
  void arange(View out, double start, double step) override;
  void add_into(View in, View out) override;

  void unary(UnaryOp op, Params params, View x, View out) override;
  void unary_grad(UnaryOp op, Params params, View g, View x, View y, View out) override;
  void binary(BinaryOp op, View a, View b, View out) override;
  void binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) override;
  void multiply_add(View a, View b, View out) override;
  void compare(CompareOp op, View a, View b, View out) override;
  void predicate(PredicateOp op, View x, View out) override;
  void logical(LogicalOp op, View a, View b, View out) override;
  void where(View condition, View a, View b, View out) override;

  void reduce(ReduceOp op, View x, View out) override;
  void arg_reduce(bool maximum, View x, int axis, View out) override;
  void scan(ScanOp op, View x, int axis, bool reverse, View out) override;
  void scan_extreme(bool maximum, View x, int axis, View values, View indices) override;
  void linear_scan(View a, View b, int axis, bool reverse, View out) override;
  void softmax(bool logarithm, View x, int axis, View out) override;
  void softmax_grad(bool logarithm, View g, View y, int axis, View out) override;
  void layer_norm(const LayerNorm& norm, View x, View out, View statistics) override;
  void layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g, View g_x,
                       View g_weight, View g_bias) override;

  void matmul(View a, View b, View bias, bool accumulate, View out) override;
  void conv2d(const Convolution& c, View x, View weight, View bias, View out) override;
  void conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x, View g_weight,
                   View g_bias) override;
  void avg_pool2d(const Pooling& p, View x, View out) override;
  void avg_pool2d_grad(const Pooling& p, View g, View g_x) override;
  void max_pool2d(const Pooling& p, View x, View out, View index) override;
  void max_pool2d_grad(const Pooling& p, View g, View index, View g_x) override;
  void lstm(const LstmSteps& steps, View from_x, View h0, View c0, View out, View h, View c,
            View gates, View h_before, View c_before) override;
  void lstm_grad(const LstmSteps& steps, View gates, View c_before, View c, View g_out, View g_h,
                 View g_c, View g_from_x, View g_h0, View g_c0) override;

  void check_index(View index, int64_t size, View out, View found, View any) override;
  void gather(View x, int axis, View index, View out) override;
  void scatter_add(View index, int axis, View source, View out) override;
  void scatter_max(View index, int axis, View source, View out) override;
  void index_select(View x, int axis, View index, View out) override;
  void index_add(View index, int axis, View source, View out) override;
  void sort(View x, int axis, bool descending, View values, View indices) override;

  void lu(View a, View lu, View pivots, View sign) override;
  void cholesky(View a, View out) override;
  void triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) override;

  void random(RandomKind kind, uint64_t seed, uint64_t stream, Params params, View out) override;

  void coupling(const Coupling& coupling, View z, View out, View log_det) override;
  void coupling_grad(const Coupling& coupling, View z, View g, View g_log_det, View g_z,
                     View g_scale, View g_shift) override;
  bool has_planar(const PlanarStack&) const override { return true; }
  void planar(const PlanarStack& stack, View z, View out, View log_det, View heights) override;
  void planar_grad(const PlanarStack& stack, View z, View heights, View g, View g_log_det, View g_z,
                   View g_weights) override;

  void adam_step(std::span<const OptimizerSlot> slots, const AdamParams& params) override;
  void sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& params) override;
  double sum_of_squares(std::span<const View> views) override;
  void scale(View out, double factor) override;
  void lerp(View average, View value, double decay) override;
};

/// The one reference backend.
Backend& reference_backend();

}  // namespace flowgrad::kernels
