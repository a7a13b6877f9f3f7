#pragma once

#include <type_traits>

#include "flowgrad/kernels/emulator/checker.h"

/// Atomics: threads are switched only where they wait, so plain code is atomic. Floating-point sums
/// are missing on purpose: their order, and so their bits, would differ from run to run on a
/// device.
namespace flowgrad::gpu::emulator {

/// Replaces *address by update(old) and returns old. Not instrumented: the checker is told instead.
template <class T, class Update>
__attribute__((no_sanitize("thread"))) T atomically(T* address, Update update) {
  checker::atomic_access(address, sizeof(T));
  auto* target = const_cast<volatile T*>(address);
  const T old = *target;
  *target = update(old);
  return old;
}

/// Sums wrap around, for signed types too.
template <class T>
T wrapping_sum(T a, T b) {
  using U = std::make_unsigned_t<T>;
  return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
}

}  // namespace flowgrad::gpu::emulator

#define FLOWGRAD_ATOMIC(name, T, result)                                                     \
  inline T name(T* address, T value) {                                                       \
    return flowgrad::gpu::emulator::atomically(address, [=](T old) -> T { return result; }); \
  }
#define FLOWGRAD_ATOMICS(T)                                                        \
  FLOWGRAD_ATOMIC(atomicAdd, T, flowgrad::gpu::emulator::wrapping_sum(old, value)) \
  FLOWGRAD_ATOMIC(atomicMax, T, old > value ? old : value)                         \
  FLOWGRAD_ATOMIC(atomicMin, T, old < value ? old : value)                         \
  FLOWGRAD_ATOMIC(atomicExch, T, ((void)old, value))                               \
  FLOWGRAD_ATOMIC(atomicAnd, T, old& value)                                        \
  FLOWGRAD_ATOMIC(atomicOr, T, old | value)                                        \
  FLOWGRAD_ATOMIC(atomicXor, T, old ^ value)                                       \
  inline T atomicCAS(T* address, T compare, T value) {                             \
    return flowgrad::gpu::emulator::atomically(                                    \
        address, [=](T old) -> T { return old == compare ? value : old; });        \
  }
FLOWGRAD_ATOMICS(int)
FLOWGRAD_ATOMICS(unsigned)
FLOWGRAD_ATOMICS(unsigned long long)
FLOWGRAD_ATOMIC(atomicMax, long long, old > value ? old : value)
FLOWGRAD_ATOMIC(atomicMin, long long, old < value ? old : value)
#undef FLOWGRAD_ATOMICS
#undef FLOWGRAD_ATOMIC

inline int atomicSub(int* address, int value) {
  return atomicAdd(address, static_cast<int>(0u - static_cast<unsigned>(value)));
}
inline unsigned atomicSub(unsigned* address, unsigned value) {
  return atomicAdd(address, 0u - value);
}

float atomicAdd(float*, float) = delete;
double atomicAdd(double*, double) = delete;

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
