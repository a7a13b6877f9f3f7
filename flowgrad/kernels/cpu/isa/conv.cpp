// Transposition for convolutions, which brings images from planes to pixels and back (cpu/conv.cpp
// puts it together with the products of gemm.cpp), and the largest of a window's taps for pooling.

#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// Where the columns of a transposition go: `gap` further on after every `run` of them.
template <class T>
struct Pixels {
  T* at;
  std::int64_t stride, run, gap, left = run;
  FG_INLINE T* next() {
    T* const to = at;
    at += stride;
    if (--left == 0) {
      at += gap;
      left = run;
    }
    return to;
  }
};

/// A square of one register by lanes.
template <class T>
FG_INLINE void transpose_square(const T* in, std::int64_t in_stride, int rows, int columns,
                                const T* bias, Pixels<T>& out, std::int64_t row) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  V x[W];
  if (rows == W && columns == W) {
    load_transposed(in, in_stride, x);
    if (bias != nullptr)
      unroll<W>([&](auto j) __attribute__((always_inline)) { x[j] = x[j] + V(bias[j]); });
    unroll<W>([&](auto j) __attribute__((always_inline)) { x[j].store(out.next() + row); });
    return;
  }
  const V add = bias != nullptr ? V::load(bias, columns) : V(0);
  unroll<W>([&](auto i) __attribute__((always_inline)) {
    x[i] = i < rows ? V::load(in + i * in_stride, columns) : V(0);
    if (bias != nullptr) x[i] = x[i] + add;
  });
  transpose(x);
  unroll<W>([&](auto j) __attribute__((always_inline)) {
    if (j < columns) x[j].store(out.next() + row, rows);
  });
}

/// Register Part of three interleaved ones: lane i holds element Part * N + i of a0 b0 c0 a1 ...
/// The first shuffle places the lanes of a and b, the second those of c among them.
template <int Part, int N>
struct Interleave {
  struct TwoOfThree {
    static constexpr int lane(int i) {
      const int at = Part * N + i;
      return at % 3 == 1 ? N + at / 3 : at / 3;
    }
  };
  struct Third {
    static constexpr int lane(int i) {
      const int at = Part * N + i;
      return at % 3 == 2 ? N + at / 3 : i;
    }
  };
};
template <int Part, class T, int N>
FG_INLINE vec<T, N> interleave(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  using Of = Interleave<Part, N>;
  return shuffle<typename Of::Third>(shuffle<typename Of::TwoOfThree>(a, b), c);
}

/// The three planes of a colour image.
template <class T>
FG_INLINE void interleave_planes(const T* in, std::int64_t in_stride, std::int64_t columns,
                                 T* out) {
  using V = vec<T>;
  constexpr int W = V::size;
  std::int64_t j = 0;
  for (; j + W <= columns; j += W) {
    const V a = V::load(in + j), b = V::load(in + in_stride + j),
            c = V::load(in + 2 * in_stride + j);
    unroll<3>([&](auto part) __attribute__((always_inline)) {
      interleave<part>(a, b, c).store(out + 3 * j + part * W);
    });
  }
  for (; j < columns; ++j)
    for (int i = 0; i < 3; ++i) out[3 * j + i] = in[i * in_stride + j];
}

template <class T>
void transpose(const T* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns,
               const T* bias, T* out, std::int64_t out_stride, std::int64_t run, std::int64_t gap) {
  constexpr int W = kLanes<T>;
  if (rows <= 4 && rows < W && bias == nullptr) {
    for (; columns > 0; columns -= run, in += run, out += run * out_stride + gap) {
      const std::int64_t n = columns < run ? columns : run;
      if (rows == 3 && out_stride == 3) {
        interleave_planes(in, in_stride, n, out);
        continue;
      }
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t i = 0; i < rows; ++i) out[j * out_stride + i] = in[i * in_stride + j];
    }
    return;
  }
  Pixels<T> pixels{out, out_stride, run, gap};
  for (std::int64_t j = 0; j < columns; j += W) {
    const int width = columns - j < W ? static_cast<int>(columns - j) : W;
    const Pixels<T> first = pixels;
    for (std::int64_t i = 0; i < rows; i += W) {
      const int height = rows - i < W ? static_cast<int>(rows - i) : W;
      pixels = first;
      transpose_square(in + i * in_stride + j, in_stride, height, width,
                       bias == nullptr ? nullptr : bias + j, pixels, i);
    }
  }
}

template <class T>
void copy_panel(const T* in, std::int64_t in_stride, std::int64_t rows, T* out) {
  using V = vec<T>;
  for (std::int64_t i = 0; i < rows; ++i, in += in_stride, out += kPanel * V::size)
    unroll<kPanel>([&](auto j) __attribute__((always_inline)) {
      V::load(in + j * V::size).store(out + j * V::size);
    });
}

template <class T>
void see_taps(const T* const* taps, std::int64_t count, T first, std::int64_t n, T* best, T* tap) {
  using V = vec<T>;
  for (std::int64_t i = 0; i < n; i += V::size) {
    V largest = V::load(best + i), at = V::load(tap + i), number(first);
    for (std::int64_t j = 0; j < count; ++j, number = number + V(1)) {
      const V x = V::load(taps[j] + i);
      const auto stays = x <= largest, is_number = largest == largest;
      at = select(stays, at, select(is_number, number, at));
      largest = select(stays, largest, select(is_number, x, largest));
    }
    largest.store(best + i);
    at.store(tap + i);
  }
}

template <class T>
constexpr cpu::ConvTable<T> table_of() {
  return {&transpose<T>, &copy_panel<T>, &see_taps<T>};
}

}  // namespace

extern const cpu::ConvTables conv_tables;
const cpu::ConvTables conv_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
