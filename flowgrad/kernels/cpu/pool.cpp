#include <algorithm>
#include <limits>
#include <vector>

#include "flowgrad/kernels/checks.h"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

// Pooling, a plane at a time. For means the rows of a window are added as wholes, and what is left
// is one padded row, over which the window's columns move.
namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Sizes of a plane of the large images and of the small ones.
struct Planes {
  int64_t count, height, width, small_height, small_width;
  Planes(const Shape& large, const Shape& small)
      : count(large[0] * large[1]),
        height(large[2]),
        width(large[3]),
        small_height(small[2]),
        small_width(small[3]) {}
};

std::vector<PoolSpan> spans_of_columns(const Pooling& p, const Planes& s) {
  std::vector<PoolSpan> spans;
  for (int64_t i = 0; i < s.small_width; ++i)
    spans.push_back(pool_span(p, 1, i, s.width, s.small_width));
  return spans;
}

/// The windows of a row: the width that all of them have, its padding, or (kernel 0) their spans.
struct Columns {
  int64_t kernel, stride, padding;
  std::vector<PoolSpan> spans;
  Columns(const Pooling& p, const Planes& s)
      : kernel(p.counts_padding || p.padding.columns == 0 ? p.kernel.columns : 0),
        stride(p.stride.columns),
        padding(kernel > 0 ? p.padding.columns : 0) {
    if (kernel == 0) spans = spans_of_columns(p, s);
  }
  /// Whether the one window of a row is all of it.
  bool is_whole(const Planes& s) const {
    return s.small_width == 1 && (kernel == 0 ? spans[0].end - spans[0].begin == s.width
                                              : kernel == s.width && padding == 0);
  }
  /// Places to divide by, but for those of spans.
  int64_t count() const { return std::max<int64_t>(1, kernel); }
};

/// What a loop over windows is written out for: a width, any width, or spans.
constexpr int kAnyWidth = 0, kSpans = -1;

template <class T>
T sum_of(const T* row, int64_t width) {
  T sum = row[0];
  for (int64_t j = 1; j < width; ++j) sum += row[j];
  return sum;
}

/// out[i] = scale times the sum, or the mean over the span, of window i.
template <int Kernel, class T>
void add_columns(const Columns& c, const T* row, int64_t n, T scale, T* out) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (Kernel == kSpans) {
      const PoolSpan& s = c.spans[static_cast<size_t>(i)];
      out[i] = sum_of(row + s.begin, s.count) * scale / static_cast<T>(s.count);
    } else {
      out[i] = sum_of(row + i * c.stride, Kernel > 0 ? Kernel : c.kernel) * scale;
    }
  }
}

/// row[j] += what the windows that see column j hold.
template <int Kernel, class T>
void spread_columns(const Columns& c, const T* g, int64_t n, T scale, T* row) {
  for (int64_t i = 0; i < n; ++i) {
    T *to = row + i * c.stride, value = g[i] * scale;
    int64_t width = Kernel > 0 ? Kernel : c.kernel;
    if constexpr (Kernel == kSpans) {
      const PoolSpan& s = c.spans[static_cast<size_t>(i)];
      to = row + s.begin, width = s.count, value /= static_cast<T>(s.count);
    }
    for (int64_t j = 0; j < width; ++j) to[j] += value;
  }
}

/// The loop for the windows' width, one and all of the usual ones written out.
template <class F>
auto for_width(int64_t width, F&& f) {
  switch (width) {
    case 0: return f(std::integral_constant<int, kSpans>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    default: return f(std::integral_constant<int, kAnyWidth>{});
  }
}

template <class T>
T scale_of(const PoolSpan& rows, const Columns& c) {
  return static_cast<T>(1.0 / static_cast<double>(rows.count * c.count()));
}

template <class T>
void pool(const Pooling& p, const Planes& s, const T* x, T* out) {
  const Columns c(p, s);
  const auto columns = for_width(c.kernel, [](auto k) { return &add_columns<k(), T>; });
  const auto add = elementwise_table<T>().binary[number::binary_add];
  const auto sum = reduce_table<T>().fold[number::fold_sum];
  const int64_t padded = s.width + 2 * c.padding;
  for_tasks(s.count, s.count * s.height * s.width, [&](int64_t plane) {
    T* const row = scratch_of<T>(ScratchSlot::tile, padded);
    T* const inner = row + c.padding;
    std::fill_n(row, padded, T(0));
    const T* const from = x + plane * s.height * s.width;
    for (int64_t y = 0; y < s.small_height; ++y) {
      const PoolSpan rows = pool_span(p, 0, y, s.height, s.small_height);
      const T* const first = from + rows.begin * s.width;
      T* const to = out + (plane * s.small_height + y) * s.small_width;
      if (c.is_whole(s)) {
        *to = static_cast<T>(sum(first, (rows.end - rows.begin) * s.width) /
                             static_cast<double>(rows.count * s.width));
        continue;
      }
      if (rows.end - rows.begin < 2)
        std::copy_n(first, rows.end > rows.begin ? s.width : 0, inner);
      else
        add(first, first + s.width, inner, s.width);
      for (int64_t r = rows.begin + 2; r < rows.end; ++r)
        add(inner, from + r * s.width, inner, s.width);
      columns(c, row, s.small_width, scale_of<T>(rows, c), to);
    }
  });
}

template <class T>
void pool_grad(const Pooling& p, const Planes& s, const T* g, T* g_x) {
  const Columns c(p, s);
  const auto columns = for_width(c.kernel, [](auto k) { return &spread_columns<k(), T>; });
  const auto add = elementwise_table<T>().binary[number::binary_add];
  const int64_t padded = s.width + 2 * c.padding;
  for_tasks(s.count, s.count * s.height * s.width, [&](int64_t plane) {
    T* const row = scratch_of<T>(ScratchSlot::tile, padded);
    T* const to = g_x + plane * s.height * s.width;
    int64_t written = 0;  // rows that hold a sum; a window starts no higher than the one before
    for (int64_t y = 0; y < s.small_height; ++y) {
      const PoolSpan rows = pool_span(p, 0, y, s.height, s.small_height);
      std::fill_n(row, padded, T(0));
      columns(c, g + (plane * s.small_height + y) * s.small_width, s.small_width,
              scale_of<T>(rows, c), row);
      const T* const inner = row + c.padding;
      for (; written < rows.begin; ++written) std::fill_n(to + written * s.width, s.width, T(0));
      for (int64_t r = rows.begin; r < std::min(written, rows.end); ++r)
        add(to + r * s.width, inner, to + r * s.width, s.width);
      for (; written < rows.end; ++written) std::copy_n(inner, s.width, to + written * s.width);
    }
    std::fill_n(to + written * s.width, (s.height - written) * s.width, T(0));
  });
}

/// The largest elements, and their places, of windows of any kind.
template <class T>
void max_of_spans(const Pooling& p, const Planes& s, const T* x, T* out, int64_t* index) {
  const std::vector<PoolSpan> columns = spans_of_columns(p, s);
  for_tasks(s.count, s.count * s.height * s.width, [&](int64_t plane) {
    const T* const from = x + plane * s.height * s.width;
    int64_t to = plane * s.small_height * s.small_width;
    for (int64_t y = 0; y < s.small_height; ++y) {
      const PoolSpan rows = pool_span(p, 0, y, s.height, s.small_height);
      for (const PoolSpan& span : columns) {
        int64_t best = rows.begin * s.width + span.begin;
        for (int64_t r = rows.begin; r < rows.end; ++r) {
          for (int64_t at = r * s.width + span.begin; at < r * s.width + span.end; ++at) {
            // Of equals the first stays, and a NaN before all else.
            if (from[best] == from[best] && !(from[at] <= from[best])) best = at;
          }
        }
        out[to] = from[best];
        index[to++] = best;
      }
    }
  });
}

/// Rows of a plane as windows of one size read them: the columns of a phase of the stride side by
/// side in a run of their own, so that a tap of all windows of a row is one stretch of memory.
template <class T>
class TapRows {
 public:
  TapRows(const Pooling& p, const Planes& s)
      : width_(s.width),
        kernel_(p.kernel),
        step_(p.stride.columns),
        padding_(p.padding.columns),
        phases_(std::min(step_, kernel_.columns)),
        run_(divide_up(s.width + 2 * padding_, step_) + gemm_table<T>().lanes) {}
  /// The plane `from`; what is padding, or beyond the last column, is smaller than any number.
  void start(const T* from) {
    from_ = from;
    next_ = 0;
    const int64_t elements = kernel_.rows * phases_ * run_;
    runs_ = scratch_of<T>(ScratchSlot::tile, elements);
    std::fill_n(runs_, elements, -std::numeric_limits<T>::infinity());
  }
  /// taps[j][i] = what tap j of window i sees of row r; rows come in order, and no window sees more
  /// than its kernel has.
  void take(int64_t r, const T** taps) {
    T* const slot = runs_ + r % kernel_.rows * phases_ * run_;
    if (r >= next_) read(from_ + r * width_, slot);
    next_ = std::max(next_, r + 1);
    for (int64_t j = 0; j < kernel_.columns; ++j) taps[j] = slot + j % step_ * run_ + j / step_;
  }

 private:
  void read(const T* row, T* slot) const {
    for (int64_t phase = 0; phase < phases_; ++phase) {
      int64_t at = divide_up(std::max<int64_t>(0, padding_ - phase), step_);
      T* const run = slot + phase * run_;
      for (int64_t i = at * step_ + phase - padding_; i < width_; i += step_) run[at++] = row[i];
    }
  }

  int64_t width_;
  Size2d kernel_;
  int64_t step_, padding_, phases_, run_;
  const T* from_ = nullptr;
  T* runs_ = nullptr;
  int64_t next_ = 0;
};

/// Taps of windows up to which each has a stretch of memory of its own.
constexpr int64_t kMostTaps = 256;

/// The largest elements, and their places, of windows of one size.
template <class T>
void max_of_windows(const Pooling& p, const Planes& s, const T* x, T* out, int64_t* index) {
  const auto [rows_of_kernel, columns_of_kernel] = p.kernel;
  std::vector<int64_t> place_of_tap;
  for (int64_t tap = 0; tap < rows_of_kernel * columns_of_kernel; ++tap)
    place_of_tap.push_back(tap / columns_of_kernel * s.width + tap % columns_of_kernel);
  const int64_t lanes = gemm_table<T>().lanes, n = divide_up(s.small_width, lanes) * lanes;
  for_tasks(s.count, s.count * s.height * s.width, [&](int64_t plane) {
    TapRows<T> tap_rows(p, s);
    tap_rows.start(x + plane * s.height * s.width);
    T* const best = scratch_of<T>(ScratchSlot::operand, 2 * n);
    T* const tap = best + n;
    std::vector<const T*> taps(static_cast<size_t>(columns_of_kernel));
    for (int64_t y = 0; y < s.small_height; ++y) {
      const PoolSpan rows = pool_span(p, 0, y, s.height, s.small_height);
      const int64_t top = y * p.stride.rows - p.padding.rows;
      // Where all is -infinity, the first that is no padding.
      std::fill_n(best, n, -std::numeric_limits<T>::infinity());
      for (int64_t i = 0; i < n; ++i) {
        const int64_t outside = std::max<int64_t>(0, p.padding.columns - i * p.stride.columns);
        tap[i] = static_cast<T>((rows.begin - top) * columns_of_kernel + outside);
      }
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        tap_rows.take(r, taps.data());
        conv_table<T>().see_taps(taps.data(), columns_of_kernel,
                                 static_cast<T>((r - top) * columns_of_kernel), n, best, tap);
      }
      const int64_t to = (plane * s.small_height + y) * s.small_width;
      std::copy_n(best, s.small_width, out + to);
      for (int64_t i = 0; i < s.small_width; ++i) {
        const int64_t left = i * p.stride.columns - p.padding.columns;
        index[to + i] = top * s.width + left + place_of_tap[static_cast<size_t>(tap[i])];
      }
    }
  });
}

}  // namespace

void CpuBackendFast::avg_pool2d(const Pooling& p, View x, View out) {
  visit_floating("avg_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pool(p, Planes(*x.shape, *out.shape), x.as<const T>(), out.as<T>());
  });
}

void CpuBackendFast::avg_pool2d_grad(const Pooling& p, View g, View g_x) {
  visit_floating("avg_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pool_grad(p, Planes(*g_x.shape, *g.shape), g.as<const T>(), g_x.as<T>());
  });
}

void CpuBackendFast::max_pool2d(const Pooling& p, View x, View out, View index) {
  visit_floating("max_pool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool are_spans =
        p.kernel.rows == 0 || p.kernel.columns == 0 || p.kernel.rows > kMostTaps / p.kernel.columns;
    (are_spans ? max_of_spans<T> : max_of_windows<T>)(p, Planes(*x.shape, *out.shape),
                                                      x.as<const T>(), out.as<T>(),
                                                      index.as<int64_t>());
  });
}

void CpuBackendFast::max_pool2d_grad(const Pooling&, View g, View index, View g_x) {
  visit_floating("max_pool2d_grad", g.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Planes s(*g_x.shape, *g.shape);
    const int64_t size = s.height * s.width, windows = s.small_height * s.small_width;
    for_tasks(s.count, g_x.numel(), [&](int64_t plane) {
      const T* const from = g.as<const T>() + plane * windows;
      const int64_t* const places = index.as<const int64_t>() + plane * windows;
      T* const to = g_x.as<T>() + plane * size;
      std::fill_n(to, size, T(0));
      for (int64_t i = 0; i < windows; ++i) to[places[i]] += from[i];
    });
  });
}

}  // namespace flowgrad::kernels
