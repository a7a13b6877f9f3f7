#include "flowgrad/kernels/cpu/conv.h"
#include "flowgrad/kernels/cpu/scratch.h"

namespace flowgrad::kernels::cpu {

/// Pixels that are summed in registers.
constexpr int64_t kBlockPixels = 256;
/// Partial sums that threads may share out, and what all of them may hold.
constexpr int64_t kMostPartials = 8, kPartialElements = 5 << 18;

/// Adds up, over blocks of pixels, the gradient of the weights of every group. The columns of a
/// product are the channels under a row of taps, or, where they would leave much of a register
/// empty, the outputs: `sums` is [group][output][tap][channel], or [group][tap][channel][output].
template <class T>
class FilterSums {
 public:
  FilterSums(const ConvSizes& s, const T* x, const T* g)
      : s_(s),
        x_(x),
        g_(g),
        images_(std::max<int64_t>(1, kBlockPixels / std::max<int64_t>(1, s.out_plane()))),
        rows_(s.out_height, kBlockPixels / s.out_width),
        ty_(all_taps(s.kernel_height, s.dilation.rows)),
        tx_(all_taps(s.kernel_width, s.dilation.columns)),
        window_{s.channels, s.height, s.width, 0, 0, -s.padding.columns, 0} {
    window_.columns = (s.out_width - 1) * s.stride.columns + tx_.pixel.back() + 1;
    run_ = s.channels * (tx_.adjacent() ? tx_.count() : 1);
    const auto used = [&](int64_t n) {  // lanes of a register
      const int64_t lanes = gemm_table<T>().lanes;
      return static_cast<double>(n) / static_cast<double>(divide_up(n, lanes) * lanes);
    };
    by_output_ = used(run_) < 0.8 && used(run_) < used(s.outputs);
    if (rows_.count > 1) images_ = 1;
    blocks_ = divide_up(s.images, images_) * rows_.count;
  }
  int64_t blocks() const { return blocks_; }
  int64_t depth() const { return s_.taps() * s_.channels; }
  int64_t elements() const { return s_.groups * s_.outputs * depth(); }
  /// Where the gradient of the group's weight (output, channel, tap) is.
  int64_t at(int64_t output, int64_t channel, int64_t tap) const {
    const int64_t k = tap * s_.channels + channel;
    return by_output_ ? k * s_.outputs + output : output * depth() + k;
  }

  /// Blocks [first, last); the gradient of the bias too, unless to_bias is null.
  void add(int64_t first, int64_t last, T* sums, double* to_bias) const {
    for (int64_t group = 0; group < s_.groups; ++group) {
      T* const of_group = sums + group * s_.outputs * depth();
      double* const bias = to_bias == nullptr ? nullptr : to_bias + group * s_.outputs;
      if (bias != nullptr) std::fill_n(bias, s_.outputs, 0.0);
      for (int64_t i = first; i < last; ++i) {
        const Block block = block_of(group, i);
        if (by_output_)
          add_by_output(block, i > first, of_group);
        else
          add_by_channel(block, i > first, of_group);
        if (bias != nullptr) add_bias(block, bias);
      }
    }
  }

 private:
  /// Rows of one image, or some whole images, as pixels and as planes of g.
  struct Block {
    int64_t images, rows, row, step;  // of pixels: elements of a row, and of an image
    const T *pixels, *g;
  };
  Block block_of(int64_t group, int64_t i) const {
    const int64_t image = i / rows_.count * images_, begin = rows_.begin(i % rows_.count);
    Block b{};
    b.images = std::min(images_, s_.images - image);
    b.rows = rows_.begin(i % rows_.count + 1) - begin;
    PixelWindow<T> window = window_;
    window.first = begin * s_.stride.rows - s_.padding.rows;
    window.rows = (b.rows - 1) * s_.stride.rows + ty_.pixel.back() + 1;
    b.row = window.row();
    b.step = window.rows * b.row;
    T* const pixels =
        scratch_of<T>(ScratchSlot::tile, b.images * b.step + gemm_table<T>().panel_columns);
    for (int64_t n = 0; n < b.images; ++n)
      window.read(x_ + ((image + n) * s_.groups + group) * s_.channels * s_.plane(),
                  pixels + n * b.step);
    b.pixels = pixels;
    b.g = g_ + (image * s_.groups + group) * s_.outputs * s_.out_plane() + begin * s_.out_width;
    return b;
  }
  /// Elements from one image's planes of g to the next one's.
  int64_t g_step() const { return s_.groups * s_.outputs * s_.out_plane(); }
  /// f(first tap of a run, its first element of pixels) for every run that a window sees.
  template <class F>
  void each_run(const Block& block, F&& f) const {
    for (int64_t tap = 0; tap < s_.taps(); tap += run_ / s_.channels)
      f(tap, block.pixels + ty_.pixel[static_cast<size_t>(tap / s_.kernel_width)] * block.row +
                 tx_.pixel[static_cast<size_t>(tap % s_.kernel_width)] * s_.channels);
  }

  /// Planes of g times pixels.
  void add_by_channel(const Block& block, bool add, T* sums) const {
    const GemmTable<T>& t = gemm_table<T>();
    const int64_t panel = t.panel_columns, runs = block.images * block.rows;
    const int64_t pixel = s_.stride.columns * s_.channels;
    // A panel whose pixels lie a power of two apart crowds few places of the first-level cache.
    // Where it is read often, a copy that is denser.
    const bool dense = pixel * static_cast<int64_t>(sizeof(T)) % 512 == 0 && s_.outputs > 32;
    T* const copy =
        dense ? scratch_of<T>(ScratchSlot::operand, runs * s_.out_width * panel) : nullptr;
    std::vector<int64_t> of_g, of_pixels, of_copy;
    for (int64_t r = 0; r < runs; ++r) {
      of_g.push_back(r / block.rows * g_step() + r % block.rows * s_.out_width);
      of_pixels.push_back(r / block.rows * block.step +
                          r % block.rows * s_.stride.rows * block.row);
      of_copy.push_back(r * s_.out_width * panel);
    }
    RunsBlock<T> b{};
    b.m = s_.outputs;
    b.depth = s_.out_width;
    b.runs = runs;
    b.a = block.g;
    b.a_row = s_.out_plane();
    b.a_col = 1;
    b.b_row = dense ? panel : pixel;
    b.a_run = of_g.data();
    b.b_run = dense ? of_copy.data() : of_pixels.data();
    b.ldc = depth();
    b.add = add;
    if (b.a_row * static_cast<int64_t>(sizeof(T)) % 2048 == 0) spread_rows(b, of_g);
    each_run(block, [&](int64_t tap, const T* from) {
      for (int64_t j = 0; j < run_; j += panel) {
        b.n = std::min(panel, run_ - j);
        b.b = dense ? copy : from + j;
        b.c = sums + tap * s_.channels + j;
        for (size_t r = 0; dense && r < of_copy.size(); ++r)
          conv_table<T>().copy_panel(from + j + of_pixels[r], pixel, s_.out_width,
                                     copy + of_copy[r]);
        t.runs(b);
      }
    });
  }
  /// Rows a power of two apart share few places of the first-level cache: a copy that is denser.
  static void spread_rows(RunsBlock<T>& b, std::vector<int64_t>& run) {
    const int64_t row = b.runs * b.depth + 16;
    T* const copy = scratch_of<T>(ScratchSlot::narrow, b.m * row);
    for (int64_t i = 0; i < b.m; ++i)
      for (int64_t r = 0; r < b.runs; ++r)
        std::copy_n(b.a + i * b.a_row + run[static_cast<size_t>(r)], b.depth,
                    copy + i * row + r * b.depth);
    b.a = copy;
    b.a_row = row;
    for (int64_t r = 0; r < b.runs; ++r) run[static_cast<size_t>(r)] = r * b.depth;
  }

  /// Pixels times pixels of g.
  void add_by_output(const Block& block, bool add, T* sums) const {
    const GemmTable<T>& t = gemm_table<T>();
    const int64_t panel = t.panel_columns, pixels = block.rows * s_.out_width;
    const int64_t all = block.images * pixels;
    T* const copy =
        scratch_of<T>(ScratchSlot::operand, (all + 1) * divide_up(s_.outputs, panel) * panel);
    for (int64_t n = 0; n < block.images; ++n)
      for (int64_t j = 0; j < s_.outputs; j += panel)
        conv_table<T>().transpose(block.g + n * g_step() + j * s_.out_plane(), s_.out_plane(),
                                  std::min(panel, s_.outputs - j), pixels, nullptr,
                                  copy + j * all + n * pixels * panel, panel, pixels, 0);
    std::vector<int64_t> of_pixels, of_copy;
    for (int64_t r = 0; r < block.images * block.rows; ++r) {
      of_pixels.push_back(r / block.rows * block.step +
                          r % block.rows * s_.stride.rows * block.row);
      of_copy.push_back(r * s_.out_width * panel);
    }
    RunsBlock<T> b{};
    b.m = run_;
    b.depth = s_.out_width;
    b.runs = block.images * block.rows;
    b.a_row = 1;
    b.a_col = s_.stride.columns * s_.channels;
    b.b_row = panel;
    b.a_run = of_pixels.data();
    b.b_run = of_copy.data();
    b.ldc = s_.outputs;
    b.add = add;
    for (int64_t j = 0; j < s_.outputs; j += panel) {
      b.n = std::min(panel, s_.outputs - j);
      b.b = copy + j * all;
      each_run(block, [&](int64_t tap, const T* from) {
        b.a = from;
        b.c = sums + tap * s_.channels * s_.outputs + j;
        t.runs(b);
      });
    }
  }

  void add_bias(const Block& block, double* bias) const {
    T* const sums = scratch_of<T>(ScratchSlot::operand, s_.outputs);
    for (int64_t n = 0; n < block.images; ++n) {
      reduce_table<T>().fold_rows[number::fold_sum](
          block.g + n * g_step(), s_.outputs, s_.out_plane(), block.rows * s_.out_width, sums);
      for (int64_t i = 0; i < s_.outputs; ++i) bias[i] += static_cast<double>(sums[i]);
    }
  }

  const ConvSizes& s_;
  const T *x_, *g_;
  int64_t images_;
  Blocks rows_;
  Taps ty_, tx_;
  PixelWindow<T> window_;
  int64_t blocks_ = 0, run_ = 0;
  bool by_output_ = false;
};

template <class T>
void conv_gradient_of_weight(const ConvSizes& s, const T* x, const T* g, T* to, T* to_bias) {
  const FilterSums<T> sums(s, x, g);
  const int64_t elements = sums.elements(), outputs = s.groups * s.outputs;
  const int64_t parts =
      std::clamp<int64_t>(kPartialElements / elements, 1, std::min(kMostPartials, sums.blocks()));
  T* const partial = scratch_of<T>(ScratchSlot::partial, parts * elements);
  std::vector<double> bias(to_bias == nullptr ? 0 : static_cast<size_t>(parts * outputs));
  for_products(parts, s.work(), [&](int64_t i) {
    sums.add(sums.blocks() * i / parts, sums.blocks() * (i + 1) / parts, partial + i * elements,
             to_bias == nullptr ? nullptr : bias.data() + i * outputs);
  });
  const Blocks blocks(elements, 1 << 14);
  for_products(blocks.count, parts * elements, [&](int64_t i) {
    const int64_t begin = blocks.begin(i), n = blocks.begin(i + 1) - begin;
    for (int64_t part = 1; part < parts; ++part)
      elementwise_table<T>().binary[number::binary_add](
          partial + begin, partial + part * elements + begin, partial + begin, n);
  });
  for_products(outputs, elements, [&](int64_t output) {
    const T* const of_group = partial + output / s.outputs * s.outputs * sums.depth();
    T* at = to + output * sums.depth();
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t tap = 0; tap < s.taps(); ++tap)
        *at++ = of_group[sums.at(output % s.outputs, c, tap)];
  });
  for (int64_t i = 0; i < outputs && to_bias != nullptr; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part)
      sum += bias[static_cast<size_t>(part * outputs + i)];
    to_bias[i] = static_cast<T>(sum);
  }
}

template void conv_gradient_of_weight(const ConvSizes&, const float*, const float*, float*, float*);
template void conv_gradient_of_weight(const ConvSizes&, const double*, const double*, double*,
                                      double*);

}  // namespace flowgrad::kernels::cpu
