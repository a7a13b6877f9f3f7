// Draws of the CUDA backend: the CPU's bits, whatever the layout or the number of elements.
#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

/// Every byte of the storage, gaps included, is what the reference makes it.
void same_bits(RandomKind kind, uint64_t seed, uint64_t stream, Params params, const Tensor& out) {
  INFO("kind " << static_cast<int>(kind) << " " << name_of(out.dtype()) << " "
               << out.shape().to_string() << " stream " << stream);
  const OnDevice device(out);
  cuda_backend().random(kind, seed, stream, params, device.view());
  const Tensor got = device.back();
  reference_backend().random(kind, seed, stream, params, out);
  CHECK(std::memcmp(got.storage().data(), out.storage().data(), out.storage().bytes()) == 0);
}

Tensor blank(const Shape& shape, DType dtype) {
  return Tensor::from(std::vector<int64_t>(static_cast<size_t>(numel(shape))), shape, dtype);
}

struct Draw {
  RandomKind kind;
  Params params;
  std::vector<DType> dtypes;
};
const std::vector<Draw> kDraws{
    {RandomKind::uniform, {0, 1}, {DType::float32, DType::float64}},
    {RandomKind::uniform, {-3.1, 5.7}, {DType::float32, DType::float64}},
    {RandomKind::normal, {0, 1}, {DType::float32, DType::float64}},
    {RandomKind::normal, {2.3, 0.7}, {DType::float32, DType::float64}},
    {RandomKind::bernoulli,
     {0.3, 0},
     {DType::boolean, DType::int64, DType::bfloat16, DType::float32, DType::float64}},
    {RandomKind::rademacher, {}, {DType::int64, DType::float32, DType::float64}},
    {RandomKind::integer, {-5, 1e6}, {DType::int64, DType::float32, DType::float64}}};

}  // namespace

TEST_CASE("random: the CPU's bits at every size", "[random_test]") {
  for (const Draw& draw : kDraws) {
    for (DType dtype : draw.dtypes) {
      for (int64_t n : {0, 1, 2, 3, 4, 5, 255, 1025, 65537}) {
        same_bits(draw.kind, 2026, 3, draw.params, blank({n}, dtype));
      }
    }
  }
}

TEST_CASE("random: seeds, streams, extreme parameters", "[random_test]") {
  for (const Draw& draw : kDraws) {
    for (uint64_t stream : {uint64_t{0}, uint64_t{1} << 32, ~uint64_t{0}}) {
      for (uint64_t seed : {uint64_t{0}, ~uint64_t{0}}) {
        same_bits(draw.kind, seed, stream, draw.params, blank({1025}, draw.dtypes.back()));
      }
    }
  }
  // An interval with a single float32 beside its end, and the widest range of integers.
  same_bits(RandomKind::uniform, 1, 2, {1, 1.0 + 0x1p-23}, blank({1025}, DType::float32));
  same_bits(RandomKind::integer, 1, 2, {-9e18, 9e18}, blank({1025}, DType::int64));
  same_bits(RandomKind::bernoulli, 1, 2, {0, 0}, blank({255}, DType::float32));
  same_bits(RandomKind::bernoulli, 1, 2, {1, 0}, blank({255}, DType::float32));
  // A probability that is drawn itself: the draw is not below it.
  const double drawn = uniform24(Philox::block(1, 2, 0)[1]);
  same_bits(RandomKind::bernoulli, 1, 2, {drawn, 0}, blank({4}, DType::float32));
}

TEST_CASE("random: row-major order in every layout", "[random_test]") {
  for (const Draw& draw : kDraws) {
    for (DType dtype : draw.dtypes) {
      same_bits(draw.kind, 7, 8, draw.params, blank({}, dtype));
      same_bits(draw.kind, 7, 8, draw.params, blank({3, 0, 2}, dtype));
      for (uint64_t seed = 1; seed < 5; ++seed) {
        same_bits(draw.kind, 7, 8, draw.params, strided(blank({3, 5, 7}, dtype), seed));
      }
      // Contiguous, but not aligned for wide stores.
      const Tensor whole = blank({41}, dtype);
      same_bits(draw.kind, 7, 8, draw.params,
                Tensor::over(whole.storage_ref(), {Shape{40}, Strides{1}, 1}, dtype));
    }
  }
}

TEST_CASE("random: many normals", "[random_test]") {
  same_bits(RandomKind::normal, 99, 5, {0, 1}, blank({300000}, DType::float32));
  same_bits(RandomKind::normal, 99, 5, {0, 1}, blank({300000}, DType::float64));
}

TEST_CASE("random: what is refused", "[random_test]") {
  const auto message = [](RandomKind kind, DType dtype) {
    const Tensor out = blank({2}, dtype);
    return message_of([&] { cuda_backend().random(kind, 1, 2, {0, 1}, out); });
  };
  CHECK(message(RandomKind::normal, DType::int64) ==
        "randn: dtype int64 given; float32 and float64 are accepted");
  CHECK(contains(message(RandomKind::rademacher, DType::boolean), "accepted"));
  CHECK(contains(message(RandomKind::integer, DType::bfloat16), "accepted"));
}
