#include <algorithm>
#include <cmath>

#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/names.h"
#include "flowgrad/kernels/reference/loops.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::kernels {

using namespace reference;

namespace {

/// The words of a stream by element number; the latest block is kept.
class Words {
 public:
  Words(uint64_t seed, uint64_t stream)
      : seed_(seed), stream_(stream), block_(Philox::block(seed, stream, 0)) {}

  const Philox::Block& block(uint64_t index) {
    if (index != index_) {
      index_ = index;
      block_ = Philox::block(seed_, stream_, index);
    }
    return block_;
  }
  /// Four elements share a block.
  uint32_t word(uint64_t element) { return block(element / 4)[element % 4]; }

 private:
  uint64_t seed_, stream_;
  uint64_t index_ = 0;
  Philox::Block block_;
};

/// out[i] = f(i) for i = 0, 1, ... in row-major order.
template <class T, class F>
void generate(const View& out, F&& f) {
  uint64_t i = 0;
  for_each(
      *out.shape, [&](int64_t o) { out.as<T>()[o] = f(i++); }, *out.strides);
}

/// low + u (high - low), kept below high where rounding reaches it.
template <class T>
T between(T u, T low, T high) {
  const T value = normal::affine(u, high - low, low);
  return value < high ? value : std::nextafter(high, low);
}

void draw_uniform(Words words, uint64_t seed, uint64_t stream, Params params, View out) {
  if (out.dtype == DType::float32) {
    const float low = static_cast<float>(params.p);
    const float high = static_cast<float>(params.q);
    generate<float>(out, [&](uint64_t i) { return between(uniform24(words.word(i)), low, high); });
  } else {
    generate<double>(
        out, [&](uint64_t i) { return between(uniform_at(seed, stream, i), params.p, params.q); });
  }
}

void draw_normal(Words words, uint64_t seed, uint64_t stream, Params params, View out) {
  if (out.dtype == DType::float32) {
    const float mean = static_cast<float>(params.p);
    const float deviation = static_cast<float>(params.q);
    generate<float>(out, [&](uint64_t i) {
      const Philox::Block& w = words.block(i / 4);
      const auto pair = i % 4 < 2 ? normal::box_muller32<float>(w[0], w[1])
                                  : normal::box_muller32<float>(w[2], w[3]);
      return normal::affine(i % 2 == 0 ? pair.first : pair.second, deviation, mean);
    });
  } else {
    generate<double>(out, [&](uint64_t i) {
      return normal::affine(normal_at(seed, stream, i), params.q, params.p);
    });
  }
}

void draw_integer(uint64_t seed, uint64_t stream, Params params, View out) {
  const auto low = convert<int64_t>(params.p);
  const auto count = static_cast<uint64_t>(convert<int64_t>(params.q)) - static_cast<uint64_t>(low);
  visit_numeric("randint", out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    generate<T>(out, [&](uint64_t i) {
      const uint64_t offset = integer_at(seed, stream, i, count);
      return convert<T>(static_cast<int64_t>(static_cast<uint64_t>(low) + offset));
    });
  });
}

}  // namespace

// Bernoulli and Rademacher draws use one word an element whatever the dtype: masks and probes are
// the same in float32 and float64.
void ReferenceBackend::random(RandomKind kind, uint64_t seed, uint64_t stream, Params params,
                              View out) {
  Words words(seed, stream);
  switch (kind) {
    case RandomKind::uniform:
    case RandomKind::normal:
      visit_floating(name_of(kind), out.dtype, [&](auto) {
        const auto draw = kind == RandomKind::uniform ? draw_uniform : draw_normal;
        draw(words, seed, stream, params, out);
      });
      break;
    case RandomKind::bernoulli:
      visit(out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        generate<T>(out, [&](uint64_t i) {
          return convert<T>(static_cast<double>(uniform24(words.word(i))) < params.p ? 1.0f : 0.0f);
        });
      });
      break;
    case RandomKind::rademacher:
      visit_numeric(name_of(kind), out.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        generate<T>(out, [&](uint64_t i) { return words.word(i) >> 31 ? T(1) : T(-1); });
      });
      break;
    case RandomKind::integer: draw_integer(seed, stream, params, out); break;
  }
}

}  // namespace flowgrad::kernels
