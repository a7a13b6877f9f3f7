#include "flowgrad/tasks/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "flowgrad/core/error.h"
#include "flowgrad/core/normal.h"

namespace flowgrad {
namespace {

// Orders live in streams of their own, far from those that a Generator of the same seed counts up.
constexpr uint64_t kFirstStream = uint64_t{1} << 63;

}  // namespace

std::vector<int64_t> random_permutation(int64_t count, uint64_t seed, uint64_t stream) {
  if (count < 0) {
    throw ValueError(fmt::format("random_permutation: count is {}; accepted is >= 0", count));
  }
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[integer_at(seed, stream, i - 1, i)]);
  }
  return order;
}

EpochSampler::EpochSampler(int64_t count, int64_t batch_size, uint64_t seed, bool drop_last)
    : count_(count), batch_size_(batch_size), seed_(seed), drop_last_(drop_last) {
  if (batch_size < 1 || batch_size > count) {
    throw ValueError(fmt::format(
        "EpochSampler: batch_size is {} for {} items; accepted is 1 <= batch_size <= items",
        batch_size, count));
  }
}

void EpochSampler::shuffle() {
  if (order_epoch_ == state_.epoch) return;
  order_ = random_permutation(count_, seed_, kFirstStream + static_cast<uint64_t>(state_.epoch));
  order_epoch_ = state_.epoch;
}

std::vector<int64_t> EpochSampler::next() {
  if (state_.position >= usable()) {
    ++state_.epoch;
    state_.position = 0;
  }
  shuffle();
  const int64_t size = std::min(batch_size_, usable() - state_.position);
  const auto begin = order_.begin() + state_.position;
  state_.position += size;
  return {begin, begin + size};
}

void EpochSampler::set_state(const SamplerState& state) {
  const bool at_batch = state.position % batch_size_ == 0 || state.position == usable();
  if (state.epoch < 0 || state.position < 0 || state.position > usable() || !at_batch) {
    throw ValueError(fmt::format(
        "EpochSampler: state is epoch {}, position {}; with {} items in batches of {} the epoch is "
        ">= 0 and the position a multiple of {} up to {}",
        state.epoch, state.position, count_, batch_size_, batch_size_, usable()));
  }
  state_ = state;
}

int64_t EpochSampler::batches_per_epoch() const {
  return (usable() + batch_size_ - 1) / batch_size_;
}

}  // namespace flowgrad
