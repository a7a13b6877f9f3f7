#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/names.h"
#include "flowgrad/kernels/parallel.h"
#include "kernels/cpu_support.h"
#include "kernels/strided.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

// The fast backend's random numbers have the bits of the plain loops, at every instruction set.

namespace {

struct Draw {
  RandomKind kind;
  Params params;
};

const std::vector<Draw> kDraws{
    {RandomKind::uniform, {0, 1}},         {RandomKind::uniform, {-3.25, 5.5}},
    {RandomKind::uniform, {1, 1 + 1e-15}}, {RandomKind::normal, {0, 1}},
    {RandomKind::normal, {-2.5, 0.3}},     {RandomKind::bernoulli, {0.3, 0}},
    {RandomKind::bernoulli, {0, 0}},       {RandomKind::bernoulli, {1, 0}},
    {RandomKind::bernoulli, {0x1p-24, 0}}, {RandomKind::rademacher, {}},
    {RandomKind::integer, {-2, 5}}};

Tensor drawn(Backend& backend, const Draw& d, const Tensor& out, uint64_t seed, uint64_t stream) {
  backend.random(d.kind, seed, stream, d.params, out);
  return out;
}

void check_bits(const Draw& d, const Shape& shape, DType dtype, uint64_t seed, uint64_t stream) {
  CAPTURE(name_of(d.kind), d.params.p, d.params.q, name_of(dtype), shape.to_string(), seed, stream);
  const Tensor got = drawn(fast_cpu_backend(), d, Tensor::empty(shape, dtype), seed, stream);
  const Tensor want = drawn(reference_backend(), d, Tensor::empty(shape, dtype), seed, stream);
  CHECK((bytes_of(got) == bytes_of(want)));
}

}  // namespace

TEST_CASE("random numbers have the reference's bits at every instruction set",
          "[cpu_random_test]") {
  each_instruction_set([&] {
    for (const Draw& d : kDraws) {
      for (const DType dtype : {DType::float32, DType::float64}) {
        for (int64_t n = 0; n <= 70; ++n) check_bits(d, {n}, dtype, 2026, 3);
        check_bits(d, {5, 4001}, dtype, 0xfedcba9876543210u, 0x123456789abcdefu);
        check_bits(d, {100003}, dtype, 7, uint64_t{1} << 32);
      }
    }
  });
}

TEST_CASE("random numbers fall back for other types and layouts", "[cpu_random_test]") {
  for (const DType dtype : {DType::int64, DType::boolean, DType::float32}) {
    const Draw coins{RandomKind::bernoulli, {0.5, 0}};
    check_bits(coins, {3, 50}, dtype, 1, 2);
    const Tensor odd =
        drawn(fast_cpu_backend(), coins, strided(Tensor::empty({3, 50}, dtype), 11), 1, 2);
    const Tensor plain = drawn(reference_backend(), coins, Tensor::empty({3, 50}, dtype), 1, 2);
    CHECK(odd.to_vector<double>() == plain.to_vector<double>());
  }
}

TEST_CASE("random numbers do not depend on the number of threads", "[cpu_random_test]") {
  CpuSettings restore;
  const Draw d{RandomKind::normal, {0, 1}};
  const auto with = [&](int threads) {
    set_num_threads(threads);
    return bytes_of(drawn(fast_cpu_backend(), d, Tensor::empty({300001}, DType::float32), 5, 6));
  };
  const auto alone = with(1);
  CHECK((with(2) == alone));
  CHECK((with(5) == alone));
}
