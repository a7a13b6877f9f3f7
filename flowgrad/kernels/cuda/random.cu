#include <cmath>

#include "flowgrad/core/convert.h"
#include "flowgrad/core/device_graph.h"
#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/cuda/backend.h"
#include "flowgrad/kernels/cuda/offsets.cuh"
#include "flowgrad/kernels/names.h"
#include "flowgrad/kernels/reference/loops.h"

namespace flowgrad::kernels {

using namespace cuda;

namespace {

/// One thread a Philox block of four words. A draw turns them into kPerBlock elements: four where
/// an element takes a word, two where it takes two. It holds the parameters.
template <class T, int n>
using Elements = gpu::Vec<T, n>;

/// low + u (high - low), kept below high where rounding reaches it.
template <class T>
struct Between {
  T low, width, high, below_high;
  Between(T from, T to)
      : low(from), width(to - from), high(to), below_high(std::nextafter(to, from)) {}
  GPU_INLINE T at(T u) const {
    const T value = normal::affine(u, width, low);
    return value < high ? value : below_high;
  }
};

struct Uniform32 : Between<float> {
  using Between::Between;
  static constexpr int kPerBlock = 4;
  GPU_INLINE Elements<float, 4> operator()(const Philox::Block& w) const {
    return {{at(uniform24(w[0])), at(uniform24(w[1])), at(uniform24(w[2])), at(uniform24(w[3]))}};
  }
};
struct Uniform64 : Between<double> {
  using Between::Between;
  static constexpr int kPerBlock = 2;
  GPU_INLINE Elements<double, 2> operator()(const Philox::Block& w) const {
    return {{at(uniform53(w[0], w[1])), at(uniform53(w[2], w[3]))}};
  }
};

struct Normal32 {
  static constexpr int kPerBlock = 4;
  float mean, deviation;
  GPU_INLINE Elements<float, 4> operator()(const Philox::Block& w) const {
    const auto a = normal::box_muller32<float>(w[0], w[1]);
    const auto b = normal::box_muller32<float>(w[2], w[3]);
    return {{normal::affine(a.first, deviation, mean), normal::affine(a.second, deviation, mean),
             normal::affine(b.first, deviation, mean), normal::affine(b.second, deviation, mean)}};
  }
};
struct Normal64 {
  static constexpr int kPerBlock = 2;
  double mean, deviation;
  GPU_INLINE Elements<double, 2> operator()(const Philox::Block& w) const {
    const auto z = normal::box_muller64<double>(normal::join(w[0], w[1]), normal::join(w[2], w[3]));
    return {{normal::affine(z.first, deviation, mean), normal::affine(z.second, deviation, mean)}};
  }
};

/// One of two values a word.
template <class T>
struct Bernoulli {
  static constexpr int kPerBlock = 4;
  double p;
  T yes, no;
  GPU_INLINE T at(uint32_t word) const {
    return static_cast<double>(uniform24(word)) < p ? yes : no;
  }
  GPU_INLINE Elements<T, 4> operator()(const Philox::Block& w) const {
    return {{at(w[0]), at(w[1]), at(w[2]), at(w[3])}};
  }
};
template <class T>
struct Rademacher {
  static constexpr int kPerBlock = 4;
  GPU_INLINE static T at(uint32_t word) { return word >> 31 != 0 ? T(1) : T(-1); }
  GPU_INLINE Elements<T, 4> operator()(const Philox::Block& w) const {
    return {{at(w[0]), at(w[1]), at(w[2]), at(w[3])}};
  }
};

template <class T>
struct Integer {
  static constexpr int kPerBlock = 2;
  uint64_t low, count;
  GPU_INLINE T at(uint64_t word) const {
    return static_cast<T>(static_cast<int64_t>(low + integer_of(word, count)));
  }
  GPU_INLINE Elements<T, 2> operator()(const Philox::Block& w) const {
    return {{at(normal::join(w[0], w[1])), at(normal::join(w[2], w[3]))}};
  }
};

/// Seed and stream of a draw. In a graph the stream is what it was when the graph was captured, and
/// `shift` says on the device how far the generator is since.
struct Source {
  uint64_t seed, stream;
  const uint64_t* shift;
  GPU_INLINE Philox::Block block(int64_t index) const {
    return Philox::block(seed, shift == nullptr ? stream : stream + *shift,
                         static_cast<uint64_t>(index));
  }
};

template <class T, class Draw>
__global__ void __launch_bounds__(kBlock)
    draw_contiguous(Draw draw, Source source, T* out, int64_t n, bool aligned) {
  constexpr int k = Draw::kPerBlock;
  const int64_t block = thread_number();
  const int64_t first = block * k;
  if (first >= n) return;
  const Elements<T, k> v = draw(source.block(block));
  if (aligned && first + k <= n) {
    gpu::store_vec(out + first, v);
  } else {
#pragma unroll
    for (int i = 0; i < k; ++i) {
      if (first + i < n) out[first + i] = v[i];
    }
  }
}

template <class T, class Draw>
__global__ void __launch_bounds__(kBlock)
    draw_strided(Draw draw, Source source, T* out, const __grid_constant__ Axes axes) {
  constexpr int k = Draw::kPerBlock;
  const int64_t block = thread_number();
  const int64_t first = block * k;
  if (first >= axes.total) return;
  const Elements<T, k> v = draw(source.block(block));
#pragma unroll
  for (int i = 0; i < k; ++i) {
    if (first + i < axes.total) {
      int64_t o[1];
      offsets_at(axes, first + i, o);
      out[o[0]] = v[i];
    }
  }
}

template <class T, class Draw>
void fill_with(const Draw& draw, const Source& source, const View& out) {
  constexpr int k = Draw::kPerBlock;
  const Axes axes = axes_over(*out.shape, *out.strides);
  if (axes.total == 0) return;
  const unsigned grid = blocks_of((axes.total + k - 1) / k);
  if (axes.is_contiguous(0)) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(out.data) % alignof(Elements<T, k>) == 0;
    gpu::launch(draw_contiguous<T, Draw>, grid, kBlock, 0, gpu::default_stream(), draw, source,
                out.as<T>(), axes.total, aligned);
  } else {
    gpu::launch(draw_strided<T, Draw>, grid, kBlock, 0, gpu::default_stream(), draw, source,
                out.as<T>(), axes);
  }
}

}  // namespace

void CudaBackend::random(RandomKind kind, uint64_t seed, uint64_t stream, Params params, View out) {
  const Source source{seed, stream, captured_stream_shift(seed, stream)};
  const auto p32 = static_cast<float>(params.p);
  const auto q32 = static_cast<float>(params.q);
  switch (kind) {
    case RandomKind::uniform:
      visit_floating(name_of(kind), out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if constexpr (std::is_same_v<T, float>)
          fill_with<float>(Uniform32(p32, q32), source, out);
        else
          fill_with<double>(Uniform64(params.p, params.q), source, out);
      });
      break;
    case RandomKind::normal:
      visit_floating(name_of(kind), out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if constexpr (std::is_same_v<T, float>)
          fill_with<float>(Normal32{p32, q32}, source, out);
        else
          fill_with<double>(Normal64{params.p, params.q}, source, out);
      });
      break;
    case RandomKind::bernoulli:
      visit(out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        fill_with<T>(Bernoulli<T>{params.p, convert<T>(1.0f), convert<T>(0.0f)}, source, out);
      });
      break;
    case RandomKind::rademacher:
      visit_numeric(name_of(kind), out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        fill_with<T>(Rademacher<T>{}, source, out);
      });
      break;
    case RandomKind::integer: {
      const auto low = static_cast<uint64_t>(convert<int64_t>(params.p));
      const uint64_t count = static_cast<uint64_t>(convert<int64_t>(params.q)) - low;
      visit_numeric(name_of(kind), out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        fill_with<T>(Integer<T>{low, count}, source, out);
      });
      break;
    }
  }
}

}  // namespace flowgrad::kernels
