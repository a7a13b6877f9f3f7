#include "flowgrad/tasks/sampler.h"

#include <algorithm>
#include <map>
#include <set>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"

using namespace flowgrad;

namespace {

std::vector<int64_t> epoch_of(EpochSampler& sampler) {
  std::vector<int64_t> out;
  for (int64_t b = 0; b < sampler.batches_per_epoch(); ++b) {
    const auto batch = sampler.next();
    out.insert(out.end(), batch.begin(), batch.end());
  }
  return out;
}

}  // namespace

TEST_CASE("a permutation holds every number once", "[sampler_test]") {
  for (int64_t n : {0, 1, 2, 17, 1000}) {
    auto order = random_permutation(n, 3, 4);
    CHECK(order == random_permutation(n, 3, 4));
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < n; ++i) CHECK(order[static_cast<size_t>(i)] == i);
  }
  CHECK(random_permutation(50, 3, 4) != random_permutation(50, 3, 5));
  CHECK(random_permutation(50, 3, 4) != random_permutation(50, 4, 4));
  CHECK_THROWS_AS(random_permutation(-1, 0, 0), ValueError);
}

TEST_CASE("all orders of four are equally frequent", "[sampler_test]") {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kDraws = 48000;
  for (uint64_t stream = 0; stream < kDraws; ++stream) ++counts[random_permutation(4, 1, stream)];
  REQUIRE(counts.size() == 24);
  double chi2 = 0.0;
  for (const auto& [order, count] : counts) chi2 += (count - 2000.0) * (count - 2000.0) / 2000.0;
  CHECK(chi2 < 49.7);  // 0.999 quantile, 23 degrees of freedom
}

TEST_CASE("an epoch gives every index once, another epoch another order", "[sampler_test]") {
  EpochSampler sampler(103, 10, 5, false);
  CHECK(sampler.batches_per_epoch() == 11);
  const auto first = epoch_of(sampler);
  const auto second = epoch_of(sampler);
  CHECK(first != second);
  for (const auto& epoch : {first, second}) {
    CHECK(epoch.size() == 103);
    CHECK(std::set<int64_t>(epoch.begin(), epoch.end()).size() == 103);
    CHECK(*std::min_element(epoch.begin(), epoch.end()) == 0);
    CHECK(*std::max_element(epoch.begin(), epoch.end()) == 102);
  }
  EpochSampler other(103, 10, 6, false);
  CHECK(epoch_of(other) != first);
  // The order does not depend on the size of the batches.
  EpochSampler wide(103, 50, 5, false);
  CHECK(epoch_of(wide) == first);
}

TEST_CASE("drop_last leaves out what fills no batch", "[sampler_test]") {
  EpochSampler sampler(103, 10, 5);
  CHECK(sampler.batches_per_epoch() == 10);
  for (int b = 0; b < 25; ++b) CHECK(sampler.next().size() == 10);
  CHECK(sampler.state() == SamplerState{2, 50});
  EpochSampler whole(100, 100, 5);
  CHECK(whole.next().size() == 100);
}

TEST_CASE("a sampler resumes exactly", "[sampler_test]") {
  for (bool drop_last : {true, false}) {
    EpochSampler straight(57, 8, 9, drop_last);
    std::vector<std::vector<int64_t>> batches;
    std::vector<SamplerState> states;
    for (int b = 0; b < 30; ++b) {
      states.push_back(straight.state());
      batches.push_back(straight.next());
    }
    for (size_t from = 0; from < states.size(); ++from) {
      EpochSampler resumed(57, 8, 9, drop_last);
      resumed.next();
      resumed.set_state(states[from]);
      CHECK(resumed.state() == states[from]);
      for (size_t b = from; b < batches.size(); ++b) CHECK(resumed.next() == batches[b]);
    }
  }
}

TEST_CASE("impossible samplers and states are refused", "[sampler_test]") {
  CHECK_THROWS_WITH(EpochSampler(5, 6, 0),
                    "EpochSampler: batch_size is 6 for 5 items; accepted is 1 <= "
                    "batch_size <= items");
  CHECK_THROWS_AS(EpochSampler(5, 0, 0), ValueError);
  CHECK_THROWS_AS(EpochSampler(0, 1, 0), ValueError);
  EpochSampler sampler(25, 10, 0);
  for (SamplerState bad : {SamplerState{-1, 0}, SamplerState{0, -10}, SamplerState{0, 5},
                           SamplerState{0, 30}, SamplerState{0, 25}}) {
    CHECK_THROWS_AS(sampler.set_state(bad), ValueError);
  }
  CHECK_NOTHROW(sampler.set_state({1000000, 20}));
  EpochSampler keep(25, 10, 0, false);
  CHECK_NOTHROW(keep.set_state({0, 25}));
}
