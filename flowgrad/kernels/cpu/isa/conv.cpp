// Transposition for convolutions, which brings images from planes to pixels and back. See
// cpu/conv.cpp for how it is put together with the products of gemm.cpp.

#include "flowgrad/kernels/cpu/isa/gemm_tile.h"
#include "flowgrad/kernels/cpu/table.h"

namespace flowgrad::kernels::FLOWGRAD_ISA {
namespace {

/// A square of one register by lanes.
template <class T>
FG_INLINE void transpose_square(const T* in, std::int64_t in_stride, int rows, int columns,
                                vec<T> bias, T* out, std::int64_t out_stride) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  V x[W];
  if (rows == W && columns == W) {
    unroll<W>([&](auto i)
                  __attribute__((always_inline)) { x[i] = V::load(in + i * in_stride) + bias; });
    transpose(x);
    unroll<W>([&](auto j) __attribute__((always_inline)) { x[j].store(out + j * out_stride); });
    return;
  }
  unroll<W>([&](auto i) __attribute__((always_inline)) {
    x[i] = i < rows ? V::load(in + i * in_stride, columns) + bias : V(0);
  });
  transpose(x);
  unroll<W>([&](auto j) __attribute__((always_inline)) {
    if (j < columns) x[j].store(out + j * out_stride, rows);
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
               const T* bias, T* out, std::int64_t out_stride) {
  constexpr int W = kLanes<T>;
  using V = vec<T>;
  if (rows == 3 && out_stride == 3 && bias == nullptr)
    return interleave_planes(in, in_stride, columns, out);
  if (rows <= 4 && rows < W && bias == nullptr) {
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t i = 0; i < rows; ++i) out[j * out_stride + i] = in[i * in_stride + j];
    return;
  }
  for_registers<W>(
      columns, [&](std::int64_t j, auto width) __attribute__((always_inline)) {
        const V add = bias == nullptr ? V(0) : take(bias + j, width);
        for (std::int64_t i = 0; i < rows; i += W) {
          const int height = rows - i < W ? static_cast<int>(rows - i) : W;
          transpose_square(in + i * in_stride + j, in_stride, height, static_cast<int>(width), add,
                           out + j * out_stride + i, out_stride);
        }
      });
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
constexpr cpu::ConvTable<T> table_of() {
  return {&transpose<T>, &copy_panel<T>};
}

}  // namespace

extern const cpu::ConvTables conv_tables;
const cpu::ConvTables conv_tables = {table_of<float>(), table_of<double>()};

}  // namespace flowgrad::kernels::FLOWGRAD_ISA
