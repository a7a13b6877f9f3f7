#pragma once

#include <cstring>

#include "flowgrad/kernels/emulator/block.h"

/// Barriers, votes and shuffles under CUDA's names. Each passes the place it was called from, so
/// that an error can name it.
namespace flowgrad::gpu::emulator {

template <class T>
struct ShuffleSlot {
  T value;
  int source;  // lane to read from
  T result;
};

template <class T>
void combine_shuffle(void* const* slots, unsigned lanes) {
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    auto* slot = static_cast<ShuffleSlot<T>*>(slots[i]);
    const auto* source = static_cast<const ShuffleSlot<T>*>(slots[slot->source]);
    if (source == nullptr) {
      fail("shuffle: lane " + std::to_string(i) + " reads from lane " +
           std::to_string(slot->source) + ", which does not take part");
    }
    slot->result = source->value;
  }
}

template <class T>
T shuffle(const char* what, const Site& site, unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> || std::is_trivially_copyable_v<T>);
  ShuffleSlot<T> slot{value, source, value};
  warp_collective(what, site, mask, &slot, combine_shuffle<T>);
  return slot.result;
}

/// The lane that a shuffle reads from, by the PTX rules: lanes talk within segments of width lanes.
inline int segment_end(int width) { return (static_cast<int>(lane()) & ~(width - 1)) + width; }
inline void check_width(int width) {
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0) {
    fail("shuffle: width " + std::to_string(width) + "; a power of two up to 32 is needed");
  }
}

struct VoteSlot {
  unsigned value;
  unsigned result;
};

/// Every lane gets the ballot of the values' truth.
inline void combine_ballot(void* const* slots, unsigned lanes) {
  unsigned ballot = 0;
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    ballot |= (static_cast<VoteSlot*>(slots[i])->value != 0 ? 1u : 0u) << i;
  }
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((lanes >> i & 1) != 0) static_cast<VoteSlot*>(slots[i])->result = ballot;
  }
}

inline unsigned ballot(const char* what, const Site& site, unsigned mask, bool predicate) {
  VoteSlot slot{predicate ? 1u : 0u, 0};
  warp_collective(what, site, mask, &slot, combine_ballot);
  return slot.result;
}

template <class T, class Operation>
T warp_reduce(const char* what, const Site& site, unsigned mask, T value, Operation) {
  struct Slot {
    T value;
  } slot{value};
  warp_collective(what, site, mask, &slot, [](void* const* slots, unsigned lanes) {
    T total{};
    bool first = true;
    for (unsigned i = 0; i < kWarpSize; ++i) {
      if ((lanes >> i & 1) == 0) continue;
      const T v = static_cast<Slot*>(slots[i])->value;
      total = first ? v : Operation{}(total, v);
      first = false;
    }
    for (unsigned i = 0; i < kWarpSize; ++i) {
      if ((lanes >> i & 1) != 0) static_cast<Slot*>(slots[i])->value = total;
    }
  });
  return slot.value;
}

}  // namespace flowgrad::gpu::emulator

// FLOWGRAD_HERE is where the kernel called, as a default argument of the built-in function.
#define FLOWGRAD_HERE \
  const flowgrad::gpu::emulator::Site& site = flowgrad::gpu::emulator::Site::current()

inline void __syncthreads(FLOWGRAD_HERE) {
  flowgrad::gpu::emulator::block_barrier("__syncthreads", site);
}
inline int __syncthreads_count(int predicate, FLOWGRAD_HERE) {
  return static_cast<int>(
      flowgrad::gpu::emulator::block_barrier_count("__syncthreads_count", site, predicate != 0));
}
inline int __syncthreads_and(int predicate, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::block_barrier_count("__syncthreads_and", site, predicate == 0) ==
         0;
}
inline int __syncthreads_or(int predicate, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::block_barrier_count("__syncthreads_or", site, predicate != 0) !=
         0;
}

inline void __syncwarp(unsigned mask = ~0u, FLOWGRAD_HERE) {
  flowgrad::gpu::emulator::warp_collective("__syncwarp", site, mask, nullptr,
                                           [](void* const*, unsigned) {});
}
inline unsigned __activemask() { return flowgrad::gpu::emulator::present_lanes(); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FLOWGRAD_HERE) {
  namespace emu = flowgrad::gpu::emulator;
  emu::check_width(width);
  const int from = emu::segment_end(width) - width + (source & (width - 1));
  return emu::shuffle("__shfl_sync", site, mask, value, from);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FLOWGRAD_HERE) {
  namespace emu = flowgrad::gpu::emulator;
  emu::check_width(width);
  const int own = static_cast<int>(emu::lane());
  const int from = own - static_cast<int>(delta);
  const bool inside = delta < 32 && from >= emu::segment_end(width) - width;
  return emu::shuffle("__shfl_up_sync", site, mask, value, inside ? from : own);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FLOWGRAD_HERE) {
  namespace emu = flowgrad::gpu::emulator;
  emu::check_width(width);
  const int own = static_cast<int>(emu::lane());
  const int from = own + static_cast<int>(delta & 63);
  const bool inside = delta < 32 && from < emu::segment_end(width);
  return emu::shuffle("__shfl_down_sync", site, mask, value, inside ? from : own);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, FLOWGRAD_HERE) {
  namespace emu = flowgrad::gpu::emulator;
  emu::check_width(width);
  const int own = static_cast<int>(emu::lane());
  // A lane may read from its own segment and from those before it, as in PTX.
  const int from = own ^ lane_mask;
  const bool inside = from >= 0 && from < emu::segment_end(width);
  return emu::shuffle("__shfl_xor_sync", site, mask, value, inside ? from : own);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::ballot("__ballot_sync", site, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::ballot("__any_sync", site, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::ballot("__all_sync", site, mask, predicate == 0) == 0;
}
/// The lanes whose value equals the caller's.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, FLOWGRAD_HERE) {
  namespace emu = flowgrad::gpu::emulator;
  struct Slot {
    T value;
    unsigned result;
  } slot{value, 0};
  emu::warp_collective("__match_any_sync", site, mask, &slot,
                       [](void* const* slots, unsigned lanes) {
                         for (unsigned i = 0; i < emu::kWarpSize; ++i) {
                           if ((lanes >> i & 1) == 0) continue;
                           auto* own = static_cast<Slot*>(slots[i]);
                           for (unsigned j = 0; j < emu::kWarpSize; ++j) {
                             if ((lanes >> j & 1) == 0) continue;
                             const bool equal = static_cast<Slot*>(slots[j])->value == own->value;
                             own->result |= (equal ? 1u : 0u) << j;
                           }
                         }
                       });
  return slot.result;
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::warp_reduce("__reduce_add_sync", site, mask, value,
                                              [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value, FLOWGRAD_HERE) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), site));
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::warp_reduce("__reduce_min_sync", site, mask, value,
                                              [](T a, T b) { return a < b ? a : b; });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, FLOWGRAD_HERE) {
  return flowgrad::gpu::emulator::warp_reduce("__reduce_max_sync", site, mask, value,
                                              [](T a, T b) { return a > b ? a : b; });
}

#undef FLOWGRAD_HERE
