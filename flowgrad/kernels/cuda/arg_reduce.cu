#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/extreme.cuh"
#include "flowgrad/kernels/cuda/reduce.cuh"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// The extreme and its first position.
template <class T>
struct FirstExtreme {
  using Value = Extreme<T>;
  bool maximum;
  GPU_INLINE Value identity() const { return {}; }
  GPU_INLINE Value load(T x, int64_t i) const { return {x, i}; }
  GPU_INLINE Value load(const Value& v, int64_t) const { return v; }
  GPU_INLINE void store(int64_t* out, const Value& v) const { *out = v.at < 0 ? 0 : v.at; }
  GPU_INLINE Value next(const Value& a, T x, int64_t i) const {
    const bool take = (a.at < 0) | beats(maximum, x, a.value);
    return {take ? x : a.value, take ? i : a.at};
  }
  GPU_INLINE Value operator()(const Value& a, const Value& b) const {
    // Without branches, so that loads of later elements need not wait for earlier ones.
    const bool b_beats = beats(maximum, b.value, a.value);
    const bool tie = !b_beats & !beats(maximum, a.value, b.value);
    const bool take_b = (a.at < 0) | ((b.at >= 0) & (b_beats | (tie & (b.at < a.at))));
    return {take_b ? b.value : a.value, take_b ? b.at : a.at};
  }
};

}  // namespace

void CudaBackend::arg_reduce(bool maximum, View x, int axis, View out) {
  const char* op = maximum ? "argmax" : "argmin";
  require_dtype(op, "out", out, DType::int64);
  if (out.numel() == 0) return;
  const Strides* const strides[] = {out.strides, x.strides};
  const Axes kept = ordered_axes(*out.shape, strides, 2, 1, [&](int d) { return d != axis; });
  const Axes reduced = ordered_axes(*x.shape, strides + 1, 1, 0, [&](int d) { return d == axis; });
  visit_numeric(op, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    reduce_axes(FirstExtreme<T>{maximum}, x.as<const T>(), kept, reduced, out.as<int64_t>());
  });
}

}  // namespace flowgrad::kernels
