#pragma once

#include <algorithm>
#include <vector>

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cpu/table_of.h"
#include "flowgrad/kernels/parallel.h"

/// Convolutions as matrix products without a matrix of windows. A block of an image is turned from
/// planes to pixels, channels innermost and zeros around it; there a row of a window is one run of
/// memory, and the register tile of the matrix product walks the runs of a window.
///
///     out                  pixels of out = windows of x times weights
///     gradient of x        pixels of x   = windows of g times weights, by phases of the stride
///     gradient of weights  weights       = planes of g times pixels of x
///
/// Blocks depend on the shape of one image alone, and so does the order of the sums of a pixel.
namespace flowgrad::kernels::cpu {

/// f for every task; `work` is their number of multiplications.
template <class F>
void for_products(int64_t tasks, int64_t work, F&& f) {
  parallel_for_if(work >= kParallelWork, tasks, f);
}

/// `size` in blocks of nearly equal length, at most `most`.
struct Blocks {
  int64_t size, count;
  Blocks(int64_t n, int64_t most) : size(n), count(divide_up(n, std::max<int64_t>(1, most))) {}
  int64_t begin(int64_t i) const { return size * i / count; }
  int64_t longest() const { return divide_up(size, count); }
};

/// Sizes; channels and outputs are those of one group.
struct ConvSizes {
  int64_t images, groups, channels, height, width, outputs, out_height, out_width;
  int64_t kernel_height, kernel_width;
  Size2d stride, padding, dilation;

  ConvSizes(const Convolution& c, const View& x, const View& weight, const View& out)
      : images((*x.shape)[0]),
        groups(c.groups),
        channels((*weight.shape)[1]),
        height((*x.shape)[2]),
        width((*x.shape)[3]),
        outputs((*weight.shape)[0] / c.groups),
        out_height((*out.shape)[2]),
        out_width((*out.shape)[3]),
        kernel_height((*weight.shape)[2]),
        kernel_width((*weight.shape)[3]),
        stride(c.stride),
        padding(c.padding),
        dilation(c.dilation) {}
  int64_t plane() const { return height * width; }
  int64_t out_plane() const { return out_height * out_width; }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t work() const { return images * groups * outputs * out_plane() * channels * taps(); }
};

/// The positions of a kernel along an axis, in the order of the pixels that they read.
struct Taps {
  std::vector<int64_t> index, pixel;
  int64_t count() const { return static_cast<int64_t>(index.size()); }
  bool adjacent() const { return index.empty() || pixel.back() + 1 == count(); }
};

inline Taps all_taps(int64_t kernel, int64_t dilation) {
  Taps t;
  for (int64_t i = 0; i < kernel; ++i) {
    t.index.push_back(i);
    t.pixel.push_back(i * dilation);
  }
  return t;
}

/// Rows and columns of planes as pixels, zeros where there is no image.
template <class T>
struct PixelWindow {
  int64_t channels, height, width;     // of the planes
  int64_t first, rows, left, columns;  // of the window
  int64_t row() const { return columns * channels; }

  void read(const T* planes, T* out) const {
    const int64_t lanes = gemm_table<T>().lanes;
    const int64_t begin = std::clamp<int64_t>(-left, 0, columns);
    const int64_t end = std::clamp<int64_t>(width - left, begin, columns);
    const int64_t top = std::clamp<int64_t>(-first, 0, rows);
    const int64_t bottom = begin == end ? top : std::clamp<int64_t>(height - first, top, rows);
    std::fill_n(out, top * row(), T(0));
    std::fill_n(out + bottom * row(), (rows - bottom) * row(), T(0));
    for (int64_t y = top; y < bottom; ++y) {
      std::fill_n(out + y * row(), begin * channels, T(0));
      std::fill_n(out + y * row() + end * channels, (columns - end) * channels, T(0));
    }
    // A few planes at a time, whose rows follow each other in memory: as one where all of each is
    // wanted.
    const int64_t joined = end - begin == width ? std::max<int64_t>(bottom - top, 1) : 1;
    for (int64_t c = 0; c < channels; c += lanes) {
      for (int64_t y = top; y < bottom; y += joined) {
        conv_table<T>().transpose(planes + (c * height + first + y) * width + left + begin,
                                  height * width, std::min(lanes, channels - c),
                                  joined * (end - begin), nullptr,
                                  out + y * row() + begin * channels + c, channels, end - begin,
                                  row() - (end - begin) * channels);
      }
    }
  }
};

/// The gradients of weight and, unless to_bias is null, of the bias.
template <class T>
void conv_gradient_of_weight(const ConvSizes& s, const T* x, const T* g, T* to, T* to_bias);

}  // namespace flowgrad::kernels::cpu
