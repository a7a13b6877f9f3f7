#include "flowgrad/kernels/cpu/conv.h"

#include <optional>
#include <set>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/scratch.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Elements of a block of pixels, and of one of outputs, which should stay in the second-level
/// cache.
constexpr int64_t kBlockElements = 3 << 15;

/// Those that reach input pixels i with (i + padding) % stride = phase. Tap k of them reads output
/// (i + padding) / stride - k * dilation / stride; the last of these is pixel 0.
struct PhaseTaps : Taps {
  int64_t phase, reach = 0;
  PhaseTaps(int64_t kernel, int64_t dilation, int64_t stride, int64_t phase) : phase(phase) {
    for (int64_t i = kernel - 1; i >= 0; --i) {
      if (i * dilation % stride != phase) continue;
      const int64_t back = i * dilation / stride;
      if (index.empty()) reach = back;
      index.push_back(i);
      pixel.push_back(reach - back);
    }
  }
};

/// Of every phase that a tap reaches.
std::vector<PhaseTaps> phases_of(int64_t kernel, int64_t dilation, int64_t stride) {
  std::set<int64_t> reached;
  for (int64_t i = 0; i < kernel; ++i) reached.insert(i * dilation % stride);
  std::vector<PhaseTaps> out;
  for (const int64_t phase : reached) out.emplace_back(kernel, dilation, stride, phase);
  return out;
}

/// What a window reads of pixels: runs of `depth` elements, from start[r] of the pixels and
/// packed[r] of the packed weights; `at_once` of them are summed in registers.
struct Runs {
  int64_t depth, at_once;
  std::vector<int64_t> start, packed;

  template <class T>
  Runs(const GemmTable<T>& t, const Taps& y, const Taps& x, int64_t channels, int64_t row) {
    const bool whole = x.adjacent() && x.count() * channels <= t.depth;
    depth = channels * (whole ? x.count() : 1);
    at_once = std::max<int64_t>(1, t.depth / std::max<int64_t>(1, depth));
    for (const int64_t py : y.pixel) {
      for (const int64_t px : x.pixel) {
        if (whole && px > 0) break;
        start.push_back(py * row + px * channels);
      }
    }
    for (int64_t r = 0; r < count(); ++r) packed.push_back(r * depth * t.panel_columns);
  }
  int64_t count() const { return static_cast<int64_t>(start.size()); }
};

/// Weights as the runs read them, in panels of columns: out[panel][tap][channel][column].
template <class T>
void pack_weights(const T* weight, int64_t column_stride, int64_t columns, int64_t channel_stride,
                  int64_t channels, const Taps& y, const Taps& x, int64_t kernel_width,
                  int64_t panel, T* out) {
  for (int64_t j = 0; j < columns; j += panel) {
    const int64_t n = std::min(panel, columns - j);
    for (const int64_t iy : y.index) {
      for (const int64_t ix : x.index) {
        const T* from = weight + iy * kernel_width + ix + j * column_stride;
        for (int64_t c = 0; c < channels; ++c, from += channel_stride, out += panel) {
          for (int64_t i = 0; i < n; ++i) out[i] = from[i * column_stride];
          std::fill(out + n, out + panel, T(0));
        }
      }
    }
  }
}

/// Rows of m results: windows of pixels times packed weights.
template <class T>
struct WindowProduct {
  int64_t rows, m, n;
  const T* pixels;
  int64_t row_step, pixel_step;
  const T* packed;
  T* c;
  int64_t c_row_step, c_pixel_step;

  void run(const Runs& runs) const {
    const GemmTable<T>& t = gemm_table<T>();
    const int64_t panel = t.panel_columns, depth = runs.depth * runs.count();
    for (int64_t j = 0; j < n; j += panel) {
      for (int64_t r = 0; r < runs.count(); r += runs.at_once) {
        RunsBlock<T> b{};
        b.m = m;
        b.n = std::min(panel, n - j);
        b.depth = runs.depth;
        b.runs = std::min(runs.at_once, runs.count() - r);
        b.a_row = pixel_step;
        b.a_col = 1;
        b.b = packed + j * depth;
        b.b_row = panel;
        b.a_run = runs.start.data() + r;
        b.b_run = runs.packed.data() + r;
        b.ldc = c_pixel_step;
        b.add = r > 0;
        for (int64_t i = 0; i < rows; ++i) {
          b.a = pixels + i * row_step;
          b.c = c + i * c_row_step + j;
          t.runs(b);
        }
      }
    }
  }
};

/// out = f(convolution + bias); f may be null, and meets the elements while they are near.
template <class T>
void forward(const ConvSizes& s, const T* x, const T* weight, const T* bias, T* out,
             UnaryKernel<T> f) {
  const int64_t panel = gemm_table<T>().panel_columns, panels = divide_up(s.outputs, panel);
  const Taps ty = all_taps(s.kernel_height, s.dilation.rows),
             tx = all_taps(s.kernel_width, s.dilation.columns);
  const int64_t reach_y = ty.pixel.back(), depth = s.channels * s.taps();
  PixelWindow<T> window{s.channels, s.height, s.width, 0, 0, -s.padding.columns, 0};
  window.columns = (s.out_width - 1) * s.stride.columns + tx.pixel.back() + 1;
  const Runs runs(gemm_table<T>(), ty, tx, s.channels, window.row());
  T* const packed = scratch_of<T>(ScratchSlot::packed_b, s.groups * panels * panel * depth);
  for_products(s.groups * panels, s.work(), [&](int64_t i) {
    const int64_t j = i % panels * panel;
    pack_weights(weight + (i / panels * s.outputs + j) * depth, depth,
                 std::min(panel, s.outputs - j), s.taps(), s.channels, ty, tx, s.kernel_width,
                 panel, packed + i * panel * depth);
  });
  const Blocks blocks(s.out_height,
                      std::min((kBlockElements / window.row() - reach_y) / s.stride.rows,
                               kBlockElements / (s.out_width * s.outputs)));
  for_products(s.images * s.groups * blocks.count, s.work(), [&](int64_t task) {
    const int64_t block = task % blocks.count, group = task / blocks.count % s.groups;
    const int64_t image_and_group = task / blocks.count;
    const int64_t begin = blocks.begin(block), rows = blocks.begin(block + 1) - begin;
    PixelWindow<T> part = window;
    part.first = begin * s.stride.rows - s.padding.rows;
    part.rows = (rows - 1) * s.stride.rows + reach_y + 1;
    T* const pixels = scratch_of<T>(ScratchSlot::tile, part.rows * part.row());
    part.read(x + image_and_group * s.channels * s.plane(), pixels);
    T* const c = scratch_of<T>(ScratchSlot::operand, rows * s.out_width * s.outputs);
    WindowProduct<T>{rows,
                     s.out_width,
                     s.outputs,
                     pixels,
                     s.stride.rows * part.row(),
                     s.stride.columns * s.channels,
                     packed + group * panels * panel * depth,
                     c,
                     s.out_width * s.outputs,
                     s.outputs}
        .run(runs);
    T* const to = out + image_and_group * s.outputs * s.out_plane() + begin * s.out_width;
    conv_table<T>().transpose(c, s.outputs, rows * s.out_width, s.outputs,
                              bias == nullptr ? nullptr : bias + group * s.outputs, to,
                              s.out_plane(), s.outputs, 0);
    for (int64_t o = 0; f != nullptr && o < s.outputs; ++o) {
      T* const plane = to + o * s.out_plane();
      f(plane, plane, rows * s.out_width, T(0), T(0));
    }
  });
}

template <class T>
void gradient_of_x(const ConvSizes& s, const T* weight, const T* g, T* to) {
  const int64_t panel = gemm_table<T>().panel_columns, panels = divide_up(s.channels, panel);
  const auto [step_y, step_x] = s.stride;
  const auto [padding_y, padding_x] = s.padding;
  const int64_t reach_y = (s.kernel_height - 1) * s.dilation.rows / step_y,
                reach_x = (s.kernel_width - 1) * s.dilation.columns / step_x;
  PixelWindow<T> window{s.outputs, s.out_height, s.out_width, 0, 0, 0, 0};
  window.left = padding_x / step_x - reach_x;
  window.columns = (s.width - 1 + padding_x) / step_x - window.left + 1;
  /// Input pixels of one phase of the stride in both axes.
  struct Phase {
    PhaseTaps y, x;
    Runs runs;
    int64_t packed;
  };
  std::vector<Phase> phases;
  const int64_t per_tap = panels * panel * s.outputs;
  int64_t taps = 0;
  const auto of_y = phases_of(s.kernel_height, s.dilation.rows, step_y),
             of_x = phases_of(s.kernel_width, s.dilation.columns, step_x);
  for (const PhaseTaps& y : of_y) {
    for (const PhaseTaps& x : of_x) {
      phases.push_back(
          {y, x, Runs(gemm_table<T>(), y, x, s.outputs, window.row()), taps * per_tap});
      taps += y.count() * x.count();
    }
  }
  const bool gaps = std::ssize(of_y) < step_y || std::ssize(of_x) < step_x;
  T* const packed = scratch_of<T>(ScratchSlot::packed_b, s.groups * taps * per_tap);
  const auto n_phases = std::ssize(phases);
  for_products(s.groups * n_phases, s.work(), [&](int64_t i) {
    const Phase& p = phases[static_cast<size_t>(i % n_phases)];
    const int64_t group = i / n_phases;
    pack_weights(weight + group * s.outputs * s.channels * s.taps(), s.taps(), s.channels,
                 s.channels * s.taps(), s.outputs, p.y, p.x, s.kernel_width, panel,
                 packed + group * taps * per_tap + p.packed);
  });
  const Blocks blocks(s.height, (kBlockElements / window.row() - reach_y) * step_y);
  for_products(s.images * s.groups * blocks.count, s.work(), [&](int64_t task) {
    const int64_t block = task % blocks.count, group = task / blocks.count % s.groups;
    const int64_t image_and_group = task / blocks.count;
    const int64_t begin = blocks.begin(block), end = blocks.begin(block + 1);
    PixelWindow<T> part = window;
    part.first = (begin + padding_y) / step_y - reach_y;
    part.rows = (end - 1 + padding_y) / step_y - part.first + 1;
    T* const pixels = scratch_of<T>(ScratchSlot::tile, part.rows * part.row());
    part.read(g + image_and_group * s.outputs * s.out_plane(), pixels);
    T* const c = scratch_of<T>(ScratchSlot::operand, (end - begin) * s.width * s.channels);
    if (gaps) std::fill_n(c, (end - begin) * s.width * s.channels, T(0));
    for (const Phase& p : phases) {
      const auto first_of = [](int64_t from, int64_t phase, int64_t step, int64_t padding) {
        return from + (phase + step - (from + padding) % step) % step;
      };
      const int64_t y = first_of(begin, p.y.phase, step_y, padding_y),
                    x = first_of(0, p.x.phase, step_x, padding_x);
      if (y >= end || x >= s.width) continue;
      WindowProduct<T>{divide_up(end - y, step_y),
                       divide_up(s.width - x, step_x),
                       s.channels,
                       pixels + ((y + padding_y) / step_y - p.y.reach - part.first) * part.row() +
                           ((x + padding_x) / step_x - p.x.reach - part.left) * s.outputs,
                       part.row(),
                       s.outputs,
                       packed + group * taps * per_tap + p.packed,
                       c + ((y - begin) * s.width + x) * s.channels,
                       step_y * s.width * s.channels,
                       step_x * s.channels}
          .run(p.runs);
    }
    conv_table<T>().transpose(c, s.channels, (end - begin) * s.width, s.channels, nullptr,
                              to + image_and_group * s.channels * s.plane() + begin * s.width,
                              s.plane(), s.channels, 0);
  });
}

/// Whether `forward` takes these, and has: with f from the table of elementwise kernels, or none.
bool convolved(const Convolution& c, const View& x, const View& weight, const View& bias,
               const View& out, std::optional<UnaryOp> op) {
  const ConvSizes s(c, x, weight, out);
  if (out.numel() == 0) return true;
  if (s.channels == 0) return false;
  visit_floating("conv2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    forward<T>(s, x.as<const T>(), weight.as<const T>(),
               bias.defined() ? bias.as<const T>() : nullptr, out.as<T>(), unary_kernel<T>(op));
  });
  return true;
}

}  // namespace

void CpuBackendFast::conv2d(const Convolution& c, View x, View weight, View bias, View out) {
  if (!convolved(c, x, weight, bias, out, {})) ReferenceBackend::conv2d(c, x, weight, bias, out);
}

void CpuBackendFast::conv2d_unary(UnaryOp op, const Convolution& c, View x, View weight, View bias,
                                  View out) {
  if (!convolved(c, x, weight, bias, out, op)) Backend::conv2d_unary(op, c, x, weight, bias, out);
}

void CpuBackendFast::conv2d_grad(const Convolution& c, View x, View weight, View g, View g_x,
                                 View g_weight, View g_bias) {
  visit_floating("conv2d_grad", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const ConvSizes s(c, x, weight, g);
    if (s.work() == 0) return ReferenceBackend::conv2d_grad(c, x, weight, g, g_x, g_weight, g_bias);
    if (g_x.defined()) gradient_of_x(s, weight.as<const T>(), g.as<const T>(), g_x.as<T>());
    if (g_weight.defined())
      conv_gradient_of_weight(s, x.as<const T>(), g.as<const T>(), g_weight.as<T>(),
                              g_bias.defined() ? g_bias.as<T>() : nullptr);
    else if (g_bias.defined())
      ReferenceBackend::conv2d_grad(c, x, weight, g, {}, {}, g_bias);
  });
}

}  // namespace flowgrad::kernels
