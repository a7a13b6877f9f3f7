#include <algorithm>
#include <cstdlib>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/strided.cuh"
#include "flowgrad/kernels/integer.h"

// out += in where out may show an element more than once (broadcast axes, overlapping windows). One
// thread owns each address of out, finds the positions that lie there and adds them in row-major
// order: the sum of the reference loops to the last bit, and no atomics.
//
// The axes are split into enumerated and solved ones. The thread runs through all positions on the
// enumerated axes (the taps of a convolution, a broadcast axis); the rest of the address then has
// at most one solution on the solved axes, found by division from the largest stride down.

namespace flowgrad::kernels {

using namespace loops;

namespace {

struct Add {
  template <class T>
  GPU_INLINE T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      return scalar::wrap(scalar::bits(a) + scalar::bits(b));
    } else {
      return a + b;
    }
  }
};

template <class I>
struct AxisOf {
  I size, out_stride, in_stride;
};

template <class I>
struct OwnerPlan {
  I addresses = 0;  // of out, from its lowest on
  I start = 0;      // what to add to an address before it is solved
  I count = 1;      // positions on the enumerated axes
  bool descending = false;
  int n_enumerated = 0, n_solved = 0;
  AxisOf<I> enumerated[kMaxRank];  // in order
  AxisOf<I> solved[kMaxRank];      // strides positive, descending
};

template <class T, class I>
__global__ void __launch_bounds__(kBlock)
    add_owned_kernel(const __grid_constant__ OwnerPlan<I> p, const T* in, T* out) {
  for (I address = static_cast<I>(blockIdx.x) * kBlock + static_cast<I>(threadIdx.x);
       address < p.addresses; address += static_cast<I>(gridDim.x) * kBlock) {
    T sum = T(0);
    bool owns = false;
    for (I i = 0; i < p.count; ++i) {
      I index = p.descending ? p.count - 1 - i : i;
      I rest = address + p.start;
      I from = 0;
      for (int d = p.n_enumerated - 1; d >= 0; --d) {
        const AxisOf<I>& axis = p.enumerated[d];
        const I at = index % axis.size;
        index /= axis.size;
        rest -= at * axis.out_stride;
        from += at * axis.in_stride;
      }
      bool found = rest >= 0;
      for (int d = 0; d < p.n_solved && found; ++d) {
        const AxisOf<I>& axis = p.solved[d];
        const I at = rest / axis.out_stride;
        found = at < axis.size;
        rest -= at * axis.out_stride;
        from += at * axis.in_stride;
      }
      if (!found || rest != 0) continue;
      sum = Add()(owns ? sum : out[address], in[from]);
      owns = true;
    }
    if (owns) out[address] = sum;
  }
}

/// For views that no split of the axes solves: everything in order.
template <class T>
__global__ void add_in_order_kernel(const __grid_constant__ Axes axes, const T* in, T* out) {
  for (int64_t i = 0; i < axes.total; ++i) {
    int64_t rest = i;
    int64_t to = 0;
    int64_t from = 0;
    for (int d = axes.rank - 1; d >= 0; --d) {
      const int64_t at = rest % axes.size[d];
      rest /= axes.size[d];
      to += at * axes.stride[0][d];
      from += at * axes.stride[1][d];
    }
    out[to] = Add()(out[to], in[from]);
  }
}

/// A choice of enumerated axes (bit d: axis d) and how they are run through.
struct Split {
  unsigned enumerated = 0;
  bool descending = false;
  int64_t count = 0;  // positions on the enumerated axes
  int order[kMaxRank] = {};
  int n_solved = 0;
};

/// Each stride is beyond what the axes after it in the list cover together.
template <class Stride>
bool is_nested(const int* list, int n, const Axes& axes, Stride&& stride) {
  int64_t covered = 0;
  for (int i = n - 1; i >= 0; --i) {
    if (stride(list[i]) <= covered) return false;
    covered += stride(list[i]) * (axes.size[list[i]] - 1);
  }
  return true;
}

/// Whether the positions at one address come in row-major order when the enumerated axes do
/// (ascending), or when they are run through backwards (descending).
bool keeps_order(const Axes& axes, Split& s) {
  const auto stride = [&](int d) { return axes.stride[0][d]; };
  const auto size_of_stride = [&](int d) { return std::abs(axes.stride[0][d]); };
  int list[kMaxRank] = {};
  int n = 0;
  int64_t span = 0;
  int last_enumerated = -1;
  s.n_solved = 0;
  s.count = 1;
  for (int d = 0; d < axes.rank; ++d) {
    if ((s.enumerated >> d & 1u) == 0) {
      s.order[s.n_solved++] = d;
      continue;
    }
    s.count *= axes.size[d];
    span += size_of_stride(d) * (axes.size[d] - 1);
    list[n++] = last_enumerated = d;
  }
  std::stable_sort(s.order, s.order + s.n_solved,
                   [&](int a, int b) { return size_of_stride(a) > size_of_stride(b); });
  if (s.n_solved == 0 || !is_nested(s.order, s.n_solved, axes, size_of_stride)) return false;
  // Ascending: solved axes before an enumerated one must be given by the address alone.
  int64_t covered = span;
  bool given = true;
  s.descending = false;
  for (int i = s.n_solved - 1; i >= 0; --i) {
    const int d = s.order[i];
    const bool alone = size_of_stride(d) > covered;
    if (d < last_enumerated && !alone) given = false;
    // An axis above d that is not given by the address alone leaves d open as well.
    for (int j = i + 1; j < s.n_solved; ++j)
      if (s.order[j] < last_enumerated && !alone) given = false;
    covered += size_of_stride(d) * (axes.size[d] - 1);
  }
  if (given) return true;
  // Descending: all solved axes come first, and addresses grow with positions on either side.
  s.descending = true;
  for (int d = 0; d < axes.rank; ++d) {
    if (stride(d) <= 0) return false;
    if (d < s.n_solved && s.order[d] != d) return false;
  }
  return is_nested(list, n, axes, stride);
}

template <class T, class I>
void add_owned(const Axes& axes, const Split& split, int64_t lowest, int64_t addresses,
               const View& in, const View& out) {
  OwnerPlan<I> p;
  p.addresses = static_cast<I>(addresses);
  p.count = static_cast<I>(split.count);
  p.descending = split.descending;
  const T* from = in.as<T>();
  int64_t start = 0;
  for (int d = 0; d < axes.rank; ++d) {
    if ((split.enumerated >> d & 1u) == 0) continue;
    p.enumerated[p.n_enumerated++] = {static_cast<I>(axes.size[d]),
                                      static_cast<I>(axes.stride[0][d]),
                                      static_cast<I>(axes.stride[1][d])};
    // Position 0 lies above the lowest address where a stride is negative.
    if (axes.stride[0][d] < 0) start += (axes.size[d] - 1) * axes.stride[0][d];
  }
  p.start = static_cast<I>(start);
  for (int i = 0; i < split.n_solved; ++i) {
    const int d = split.order[i];
    const int64_t sign = axes.stride[0][d] < 0 ? -1 : 1;  // solved axes run upwards
    if (sign < 0) from += (axes.size[d] - 1) * axes.stride[1][d];
    p.solved[p.n_solved++] = {static_cast<I>(axes.size[d]),
                              static_cast<I>(sign * axes.stride[0][d]),
                              static_cast<I>(sign * axes.stride[1][d])};
  }
  gpu::launch(add_owned_kernel<T, I>,
              dim3(capped_grid(static_cast<uint64_t>(addresses + kBlock - 1) / kBlock)),
              dim3(kBlock), 0, gpu::default_stream(), p, from, out.as<T>() + lowest);
}

template <class T>
void add_repeated(const View& in, const View& out) {
  const Strides* const strides[] = {out.strides, in.strides};
  const Axes axes = merge_axes(*out.shape, strides, 2);  // in row-major order
  Split best;
  for (unsigned set = 1; set < (1u << axes.rank); ++set) {
    Split s;
    s.enumerated = set;
    if (keeps_order(axes, s) && (best.count == 0 || s.count < best.count)) best = s;
  }
  if (best.count == 0) {
    return gpu::launch(add_in_order_kernel<T>, dim3(1), dim3(1), 0, gpu::default_stream(), axes,
                       in.as<T>(), out.as<T>());
  }
  int64_t lowest = 0;
  int64_t addresses = 1;
  int64_t in_reach = 1;
  for (int d = 0; d < axes.rank; ++d) {
    const int64_t reach = (axes.size[d] - 1) * axes.stride[0][d];
    if (reach < 0) lowest += reach;
    addresses += std::abs(reach);
    in_reach += (axes.size[d] - 1) * std::abs(axes.stride[1][d]);
  }
  if (std::max({addresses, in_reach, best.count}) <= launch_limit()) {
    add_owned<T, int32_t>(axes, best, lowest, addresses, in, out);
  } else {
    add_owned<T, int64_t>(axes, best, lowest, addresses, in, out);
  }
}

}  // namespace

void CudaBackend::add_into(View in, View out) {
  require_dtype("add_into", "in", in, out.dtype);
  visit_numeric("add_into", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (out.numel() == 0) return;
    if (is_one_to_one(*out.shape, *out.strides)) return map<T, T, T>(Add{}, out, out, in);
    add_repeated<T>(in, out);
  });
}

}  // namespace flowgrad::kernels
