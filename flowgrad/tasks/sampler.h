#pragma once

#include <cstdint>
#include <vector>

namespace flowgrad {

/// The numbers 0 to count - 1 in an order given by (seed, stream): Fisher and Yates with one Philox
/// draw a step. Raises ValueError for a negative count.
std::vector<int64_t> random_permutation(int64_t count, uint64_t seed, uint64_t stream);

/// What to save for an exact resume.
struct SamplerState {
  int64_t epoch = 0;
  int64_t position = 0;  ///< items of this epoch already given out
  friend bool operator==(const SamplerState&, const SamplerState&) = default;
};

/// Mini-batches of indices, every index once an epoch, in an order that depends on the seed and the
/// epoch's number alone.
class EpochSampler {
 public:
  /// With drop_last, the items that do not fill a last batch wait for another epoch's order;
  /// without, the last batch is smaller. Raises ValueError unless 1 <= batch_size <= count.
  EpochSampler(int64_t count, int64_t batch_size, uint64_t seed, bool drop_last = true);

  /// The next batch; an epoch follows another without end.
  std::vector<int64_t> next();

  SamplerState state() const { return state_; }
  /// Continues as a sampler of equal arguments did from `state`. Raises ValueError for a state that
  /// such a sampler cannot have.
  void set_state(const SamplerState& state);

  int64_t count() const { return count_; }
  int64_t batch_size() const { return batch_size_; }
  int64_t batches_per_epoch() const;

 private:
  int64_t usable() const { return drop_last_ ? count_ - count_ % batch_size_ : count_; }
  void shuffle();

  int64_t count_;
  int64_t batch_size_;
  uint64_t seed_;
  bool drop_last_;
  SamplerState state_;
  std::vector<int64_t> order_;
  int64_t order_epoch_ = -1;
};

}  // namespace flowgrad
