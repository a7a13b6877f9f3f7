#include <vector>

#include "device/arena_memory.h"
#include "flowgrad/core/error.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::testing {
namespace {

using namespace kernels;

/// The view as a kernel may touch it, checked against its block.
View in(View v) {
  if (!v.defined()) return v;
  const Extent e = extent_of({*v.shape, *v.strides, 0});
  if (e.begin == e.end) return v;  // nothing to touch
  const auto width = static_cast<int64_t>(size_of(v.dtype));
  const char* first = static_cast<const char*>(v.data) + e.begin * width;
  char* there = static_cast<char*>(
      ArenaMemory::instance().inside(first, static_cast<size_t>((e.end - e.begin) * width)));
  v.data = there - e.begin * width;
  return v;
}

std::vector<OptimizerSlot> in(std::span<const OptimizerSlot> slots) {
  std::vector<OptimizerSlot> out;
  for (const OptimizerSlot& s : slots)
    out.push_back({in(s.parameter), in(s.gradient), in(s.moment1), in(s.moment2)});
  return out;
}

Coupling in(const Coupling& c) {
  return {in(c.scale), in(c.shift), in(c.mask), c.bound, c.inverse};
}
LayerNorm in(const LayerNorm& n) { return {in(n.weight), in(n.bias), n.epsilon}; }
LstmSteps in(const LstmSteps& l) { return {in(l.weight), in(l.lengths), l.reverse}; }
PlanarStack in(const PlanarStack& s) {
  return {in(s.w), in(s.b), in(s.u), in(s.margin), s.inverse};
}

/// Every method of the reference backend, on translated views. Derived from Backend and not from
/// ReferenceBackend, so that a method forgotten here does not compile.
class ArenaBackend final : public Backend {
 public:
  const char* name() const override { return "arena"; }

  void copy(View a, View out) override { r_.copy(in(a), in(out)); }
  void fill(View out, double value) override { r_.fill(in(out), value); }
  void arange(View out, double start, double step) override { r_.arange(in(out), start, step); }
  void add_into(View a, View out) override { r_.add_into(in(a), in(out)); }

  void unary(UnaryOp op, Params p, View x, View out) override { r_.unary(op, p, in(x), in(out)); }
  void unary_grad(UnaryOp op, Params p, View g, View x, View y, View out) override {
    r_.unary_grad(op, p, in(g), in(x), in(y), in(out));
  }
  void binary(BinaryOp op, View a, View b, View out) override {
    r_.binary(op, in(a), in(b), in(out));
  }
  void multiply_add(View a, View b, View out) override { r_.multiply_add(in(a), in(b), in(out)); }
  void binary_grad(BinaryOp op, int wrt, View g, View a, View b, View y, View out) override {
    r_.binary_grad(op, wrt, in(g), in(a), in(b), in(y), in(out));
  }
  void compare(CompareOp op, View a, View b, View out) override {
    r_.compare(op, in(a), in(b), in(out));
  }
  void predicate(PredicateOp op, View x, View out) override { r_.predicate(op, in(x), in(out)); }
  void logical(LogicalOp op, View a, View b, View out) override {
    r_.logical(op, in(a), in(b), in(out));
  }
  void where(View condition, View a, View b, View out) override {
    r_.where(in(condition), in(a), in(b), in(out));
  }

  void reduce(ReduceOp op, View x, View out) override { r_.reduce(op, in(x), in(out)); }
  void arg_reduce(bool maximum, View x, int axis, View out) override {
    r_.arg_reduce(maximum, in(x), axis, in(out));
  }
  void scan(ScanOp op, View x, int axis, bool reverse, View out) override {
    r_.scan(op, in(x), axis, reverse, in(out));
  }
  void scan_extreme(bool maximum, View x, int axis, View values, View indices) override {
    r_.scan_extreme(maximum, in(x), axis, in(values), in(indices));
  }
  void linear_scan(View a, View b, int axis, bool reverse, View out) override {
    r_.linear_scan(in(a), in(b), axis, reverse, in(out));
  }
  void softmax(bool logarithm, View x, int axis, View out) override {
    r_.softmax(logarithm, in(x), axis, in(out));
  }
  void softmax_grad(bool logarithm, View g, View y, int axis, View out) override {
    r_.softmax_grad(logarithm, in(g), in(y), axis, in(out));
  }
  void layer_norm(const LayerNorm& norm, View x, View out, View statistics) override {
    r_.layer_norm(in(norm), in(x), in(out), in(statistics));
  }
  void layer_norm_grad(const LayerNorm& norm, View x, View statistics, View g, View g_x,
                       View g_weight, View g_bias) override {
    r_.layer_norm_grad(in(norm), in(x), in(statistics), in(g), in(g_x), in(g_weight), in(g_bias));
  }

  void matmul(View a, View b, View bias, bool accumulate, View out) override {
    r_.matmul(in(a), in(b), in(bias), accumulate, in(out));
  }
  void conv2d(const Convolution& c, View x, View weight, View bias, View out) override {
    r_.conv2d(c, in(x), in(weight), in(bias), in(out));
  }
  void conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x, View g_weight,
                   View g_bias) override {
    r_.conv2d_grad(c, in(x), in(weight), in(g), in(g_x), in(g_weight), in(g_bias));
  }
  void avg_pool2d(const Pooling& p, View x, View out) override { r_.avg_pool2d(p, in(x), in(out)); }
  void avg_pool2d_grad(const Pooling& p, View g, View g_x) override {
    r_.avg_pool2d_grad(p, in(g), in(g_x));
  }
  void max_pool2d(const Pooling& p, View x, View out, View index) override {
    r_.max_pool2d(p, in(x), in(out), in(index));
  }
  void max_pool2d_grad(const Pooling& p, View g, View index, View g_x) override {
    r_.max_pool2d_grad(p, in(g), in(index), in(g_x));
  }
  void lstm(const LstmSteps& l, View from_x, View h0, View c0, View out, View h, View c, View gates,
            View h_before, View c_before) override {
    r_.lstm(in(l), in(from_x), in(h0), in(c0), in(out), in(h), in(c), in(gates), in(h_before),
            in(c_before));
  }
  void lstm_grad(const LstmSteps& l, View gates, View c_before, View c, View g_out, View g_h,
                 View g_c, View g_from_x, View g_h0, View g_c0) override {
    r_.lstm_grad(in(l), in(gates), in(c_before), in(c), in(g_out), in(g_h), in(g_c), in(g_from_x),
                 in(g_h0), in(g_c0));
  }

  void check_index(View index, int64_t size, View out, View found, View any) override {
    r_.check_index(in(index), size, in(out), in(found), in(any));
  }
  void gather(View x, int axis, View index, View out) override {
    r_.gather(in(x), axis, in(index), in(out));
  }
  void scatter_add(View index, int axis, View source, View out) override {
    r_.scatter_add(in(index), axis, in(source), in(out));
  }
  void scatter_max(View index, int axis, View source, View out) override {
    r_.scatter_max(in(index), axis, in(source), in(out));
  }
  void index_select(View x, int axis, View index, View out) override {
    r_.index_select(in(x), axis, in(index), in(out));
  }
  void index_add(View index, int axis, View source, View out) override {
    r_.index_add(in(index), axis, in(source), in(out));
  }
  void sort(View x, int axis, bool descending, View values, View indices) override {
    r_.sort(in(x), axis, descending, in(values), in(indices));
  }

  void lu(View a, View factors, View pivots, View sign) override {
    r_.lu(in(a), in(factors), in(pivots), in(sign));
  }
  void cholesky(View a, View out) override { r_.cholesky(in(a), in(out)); }
  void triangular_solve(View a, View b, bool upper, bool unit_diagonal, View out) override {
    r_.triangular_solve(in(a), in(b), upper, unit_diagonal, in(out));
  }

  void random(RandomKind kind, uint64_t seed, uint64_t stream, Params p, View out) override {
    r_.random(kind, seed, stream, p, in(out));
  }

  void coupling(const Coupling& c, View z, View out, View log_det) override {
    r_.coupling(in(c), in(z), in(out), in(log_det));
  }
  void coupling_grad(const Coupling& c, View z, View g, View g_log_det, View g_z, View g_scale,
                     View g_shift) override {
    r_.coupling_grad(in(c), in(z), in(g), in(g_log_det), in(g_z), in(g_scale), in(g_shift));
  }
  bool has_planar(const PlanarStack& s) const override { return r_.has_planar(s); }
  void planar(const PlanarStack& s, View z, View out, View log_det, View heights) override {
    r_.planar(in(s), in(z), in(out), in(log_det), in(heights));
  }
  void planar_grad(const PlanarStack& s, View z, View heights, View g, View g_log_det, View g_z,
                   View g_weights) override {
    r_.planar_grad(in(s), in(z), in(heights), in(g), in(g_log_det), in(g_z), in(g_weights));
  }

  void adam_step(std::span<const OptimizerSlot> slots, const AdamParams& p) override {
    r_.adam_step(in(slots), p);
  }
  void sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& p) override {
    r_.sgd_step(in(slots), p);
  }
  double sum_of_squares(std::span<const View> views) override {
    std::vector<View> inside;
    for (const View& v : views) inside.push_back(in(v));
    return r_.sum_of_squares(inside);
  }
  void scale(View out, double factor) override { r_.scale(in(out), factor); }
  void lerp(View average, View value, double decay) override {
    r_.lerp(in(average), in(value), decay);
  }

 private:
  Backend& r_ = reference_backend();
};

}  // namespace

void register_arena_backend() {
  static ArenaBackend backend;
  kernels::register_backend(Device::Kind::cuda, &backend);
}

}  // namespace flowgrad::testing
