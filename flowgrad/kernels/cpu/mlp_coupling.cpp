#include <algorithm>
#include <utility>
#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/product.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

// A coupling layer with both of its nets, a tile of rows at a time: what lies between the products
// never leaves the caches. The weights' gradients are products over all rows.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Rows of a tile, whole register tiles with every instruction set where there are enough to go
/// round the threads; and rows in all from which packing the weights pays.
constexpr int64_t kTileRows = 84, kFewTileRows = 64, kManyRows = 512, kPackRows = 24;
constexpr int kNets = 2, kLayers = 3;

/// What a net leaves for its gradient: hidden layers (N, H) and outputs (N, D).
template <class T>
struct Values {
  T *one, *two, *out;
};

template <class T>
class Layer {
 public:
  const int64_t n, d, h, in, tile_rows;
  const MlpCoupling& c;

  Layer(const MlpCoupling& c, const View& z)
      : n((*z.shape)[0]),
        d((*z.shape)[1]),
        h((*c.nets[0].weight[1].shape)[0]),
        in((*c.nets[0].weight[0].shape)[1]),
        tile_rows(n < kManyRows ? kFewTileRows : kTileRows),
        c(c),
        z_(z.as<const T>()) {
    const int64_t packed = packed_elements<T>(in, h) + packed_elements<T>(h, in) +
                           packed_elements<T>(h, h) + packed_elements<T>(h, d) +
                           packed_elements<T>(d, h);
    memory_ = scratch_of<T>(ScratchSlot::partial, tile_rows * d + kNets * packed);
    T* const repeated = std::exchange(memory_, memory_ + tile_rows * d);
    for (int64_t r = 0; r < tile_rows; ++r) std::copy_n(c.mask.as<const T>(), d, repeated + r * d);
    mask_ = repeated;
  }

  /// f(first row, rows) for every tile.
  template <class F>
  void each_tile(F&& f) const {
    parallel_for(tiles(), [&](int64_t tile) {
      f(tile * tile_rows, std::min(tile_rows, n - tile * tile_rows));
    });
  }
  int64_t tiles() const { return divide_up(n, tile_rows); }

  /// Layer i's weight of a net as the values' products read it, (in, out), or, back, as the
  /// cotangents' do.
  Factor<T> factor(int net, int i, bool back) {
    const int64_t inputs = i == 0 ? in : h, outputs = i == kLayers - 1 ? d : h;
    const T* const weight = c.nets[net].weight[i].as<const T>();
    Factor<T> f = back ? Factor<T>{weight, inputs, 1, outputs, inputs}
                       : Factor<T>{weight, 1, inputs, inputs, outputs};
    if (n >= kPackRows && !is_narrow<T>(f.k, f.n)) f.pack(memory_);
    return f;
  }
  const T* bias(int net, int i) const { return c.nets[net].bias[i].as<const T>(); }

  /// x (rows, in): the masked z and the condition.
  void set_inputs(int64_t row, int64_t rows, T* x) const {
    const T* const condition = c.condition.defined() ? c.condition.as<const T>() : nullptr;
    const int64_t more = in - d;
    for (int64_t r = 0; r < rows; ++r, x += in) {
      // 0 beats infinity and NaN, so that what a mask hides can never show.
      for (int64_t j = 0; j < d; ++j)
        x[j] = mask_[j] == T(0) ? T(0) : mask_[j] * z_[(row + r) * d + j];
      if (more > 0) std::copy_n(condition + (row + r) * more, more, x + d);
    }
  }
  CouplingRun<T> run(int64_t row, int64_t rows, const T* scale, const T* shift) const {
    return {z_ + row * d, scale, shift, mask_, rows * d, static_cast<T>(c.bound), c.inverse};
  }
  const T* mask() const { return mask_; }

 private:
  const T *z_, *mask_;
  T* memory_;
};

/// The part of `kept` that a net has, from row `row` on.
template <class T>
Values<T> values_at(const Layer<T>& l, T* kept, int net, int64_t row) {
  T* const first = kept + net * l.n * (2 * l.h + l.d);
  return {first + row * l.h, first + (l.n + row) * l.h, first + 2 * l.n * l.h + row * l.d};
}

template <class T>
void forward(const MlpCoupling& c, const View& z, T* out, T* log_det, T* kept) {
  Layer<T> l(c, z);
  std::vector<Factor<T>> weights;
  for (int net = 0; net < kNets; ++net)
    for (int i = 0; i < kLayers; ++i) weights.push_back(l.factor(net, i, false));
  const auto relu = elementwise_table<T>().unary[number::unary_relu];
  // The hidden layer written next, far from the caches: a shallow product would wait for it.
  const auto next_one = [&](int64_t row, int64_t rows, int net) -> const T* {
    if (kept == nullptr || (net == kNets - 1 && row + 2 * rows > l.n)) return nullptr;
    return net < kNets - 1 ? values_at(l, kept, net + 1, row).one
                           : values_at(l, kept, 0, row + rows).one;
  };
  l.each_tile([&](int64_t row, int64_t rows) {
    T* at = scratch_of<T>(ScratchSlot::solve, rows * (l.in + 2 * l.h + 3 * l.d));
    const auto take = [&at](int64_t count) { return std::exchange(at, at + count); };
    T* const x = take(rows * l.in);
    const Values<T> own = {take(rows * l.h), take(rows * l.h), nullptr};
    T* const outputs[kNets] = {take(rows * l.d), take(rows * l.d)};
    T* const log_scale = take(rows * l.d);
    l.set_inputs(row, rows, x);
    const T* scale_and_shift[kNets];
    for (int net = 0; net < kNets; ++net) {
      const Values<T> v = kept != nullptr ? values_at(l, kept, net, row)
                                          : Values<T>{own.one, own.two, outputs[net]};
      const Factor<T>* const w = &weights[static_cast<size_t>(net * kLayers)];
      w[0].multiply(rows, x, v.one, l.bias(net, 0), relu);
      w[1].multiply(rows, v.one, v.two, l.bias(net, 1), relu, next_one(row, rows, net));
      w[2].multiply(rows, v.two, v.out, l.bias(net, 2));
      scale_and_shift[net] = v.out;
    }
    flow_table<T>().coupling(l.run(row, rows, scale_and_shift[0], scale_and_shift[1]),
                             out + row * l.d, log_scale);
    reduce_table<T>().fold_rows[number::fold_sum](log_scale, rows, l.d, l.d, log_det + row);
  });
}

/// `work` of mlp_coupling_grad: cotangents of the nets' outputs, the inputs, and cotangents before
/// the two relu of one net at a time.
template <class T>
struct Work {
  T *out[kNets], *x, *one, *two;
  Work(const Layer<T>& l, T* memory)
      : out{memory, memory + l.n * l.d},
        x(memory + 2 * l.n * l.d),
        one(x + l.n * l.in),
        two(one + l.n * l.h) {}
};

/// Fills work.one and work.two, adds to g_z and g_condition what comes through the net, and sets a
/// tile's row of sums (tiles, 2 H + D) to the sums of its columns of one, two and out.
template <class T>
void net_cotangents(Layer<T>& l, int net, T* kept, const Work<T>& work, T* g_z, T* g_condition,
                    double* sums) {
  const Factor<T> first = l.factor(net, 0, true), middle = l.factor(net, 1, true),
                  last = l.factor(net, 2, true);
  const auto fold = reduce_table<T>().fold_columns[number::fold_sum];
  const int64_t more = l.in - l.d;
  l.each_tile([&](int64_t row, int64_t rows) {
    const Values<T> v = values_at(l, kept, net, row);
    T *const one = work.one + row * l.h, *const two = work.two + row * l.h;
    const T* const out = work.out[net] + row * l.d;
    // A relu is above 0 where what it was taken of is.
    last.multiply_gated(rows, out, v.two, two);
    const T* const next_two = row + 2 * rows <= l.n ? v.two + rows * l.h : nullptr;
    middle.multiply_gated(rows, two, v.one, one, next_two);
    double* const to = sums + row / l.tile_rows * (2 * l.h + l.d);
    fold(one, rows, l.h, l.h, to);
    fold(two, rows, l.h, l.h, to + l.h);
    fold(out, rows, l.d, l.d, to + 2 * l.h);
    T* const x = scratch_of<T>(ScratchSlot::solve, rows * l.in);
    first.multiply(rows, one, x, nullptr);
    for (int64_t r = 0; r < rows; ++r) {
      const T* const of_row = x + r * l.in;
      T* const to_z = g_z + (row + r) * l.d;
      for (int64_t j = 0; j < l.d; ++j)
        if (l.mask()[j] != T(0)) to_z[j] += l.mask()[j] * of_row[j];
      if (g_condition == nullptr) continue;
      T* const to_condition = g_condition + (row + r) * more;
      for (int64_t j = 0; j < more; ++j)
        to_condition[j] = of_row[l.d + j] + (net == 0 ? T(0) : to_condition[j]);
    }
  });
}

/// out (m, n) = the sum over all rows of a (rows, m) times b (rows, n).
template <class T>
void sum_of_products(int64_t rows, const T* a, const T* b, const View& out) {
  if (!out.defined()) return;
  const int64_t m = (*out.shape)[0], n = (*out.shape)[1];
  multiply(m, n, rows, transposed(a, m), rows_of(b, n), out.as<T>());
}

template <class T>
void backward(const MlpCoupling& c, const View& z, T* kept, const T* g, const T* g_log_det, T* g_z,
              T* g_condition, const CouplingNet (&g_nets)[kNets], T* memory) {
  Layer<T> l(c, z);
  const Work<T> work(l, memory);
  l.each_tile([&](int64_t row, int64_t rows) {
    l.set_inputs(row, rows, work.x + row * l.in);
    T* const of_rows = scratch_of<T>(ScratchSlot::solve, rows * l.d);
    for (int64_t r = 0; r < rows; ++r) std::fill_n(of_rows + r * l.d, l.d, g_log_det[row + r]);
    const int64_t at = row * l.d;
    flow_table<T>().coupling_grad(
        l.run(row, rows, values_at(l, kept, 0, row).out, values_at(l, kept, 1, row).out), g + at,
        of_rows, g_z + at, work.out[0] + at, work.out[1] + at);
  });
  const int64_t columns = 2 * l.h + l.d;
  for (int net = 0; net < kNets; ++net) {
    std::vector<double> sums(static_cast<size_t>(l.tiles() * columns));
    net_cotangents(l, net, kept, work, g_z, g_condition, sums.data());
    for (size_t i = static_cast<size_t>(columns); i < sums.size(); ++i)
      sums[i % static_cast<size_t>(columns)] += sums[i];
    const auto put_sums = [&](int64_t first, const View& to) {
      for (int64_t j = 0; to.defined() && j < to.numel(); ++j)
        to.as<T>()[j] = static_cast<T>(sums[static_cast<size_t>(first + j)]);
    };
    const Values<T> v = values_at(l, kept, net, 0);
    const CouplingNet& to = g_nets[net];
    sum_of_products<T>(l.n, work.one, work.x, to.weight[0]);
    sum_of_products<T>(l.n, work.two, v.one, to.weight[1]);
    sum_of_products<T>(l.n, work.out[net], v.two, to.weight[2]);
    for (int i = 0; i < kLayers; ++i) put_sums(i * l.h, to.bias[i]);
  }
}

}  // namespace

bool CpuBackendFast::has_mlp_coupling(DType dtype) const {
  return dtype == DType::float32 || dtype == DType::float64;
}

void CpuBackendFast::mlp_coupling(const MlpCoupling& coupling, View z, View out, View log_det,
                                  View kept) {
  if (z.numel() == 0) return fill(log_det, 0);
  visit_floating("mlp_coupling", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward(coupling, z, out.as<T>(), log_det.as<T>(), kept.as<T>());
  });
}

void CpuBackendFast::mlp_coupling_grad(const MlpCoupling& coupling, View z, View kept, View g,
                                       View g_log_det, View g_z, View g_condition,
                                       const CouplingNet (&g_nets)[2], View work) {
  if (z.numel() == 0) {
    for (const CouplingNet& net : g_nets) {
      for (int i = 0; i < kLayers; ++i) {
        if (net.weight[i].defined()) fill(net.weight[i], 0);
        if (net.bias[i].defined()) fill(net.bias[i], 0);
      }
    }
    return;
  }
  visit_floating("mlp_coupling_grad", z.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    backward(coupling, z, kept.as<T>(), g.as<const T>(), g_log_det.as<const T>(), g_z.as<T>(),
             g_condition.as<T>(), g_nets, work.as<T>());
  });
}

}  // namespace flowgrad::kernels
