#pragma once

#include <cstdint>
#include <cstring>

#include "flowgrad/kernels/gpu.cuh"

#if defined(FLOWGRAD_GPU_EMULATED)
#include "flowgrad/kernels/emulator/tagged.h"
#endif

/// Values that the blocks of a cooperative launch send each other through device memory. Every
/// 8-byte word carries four bytes of the value and a tag; words are written and read whole, so a
/// reader that sees the tag it waits for has the value too, without barrier or fence: the receiver
/// pays one trip to the L2 cache and back where a barrier and a load pay three. (NCCL's protocol
/// "LL" works so.)
///
///     tagged_store(&box[i], value, tag);                 // tags differ from use to use; 0 is none
///     T values[n]; tagged_wait(values, tag, [&](int k) { return &box[k * step]; });
///
/// Whoever writes to a box again must know that its readers are done: they have sent something that
/// they computed from it.
namespace flowgrad::gpu {

/// Memory of zeros holds no value.
template <class T>
struct alignas(2 * sizeof(T)) Tagged {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  static constexpr int kWords = sizeof(T) / 4;
  std::uint64_t words[kWords];
};

namespace detail {

template <class T>
GPU_INLINE Tagged<T> tagged(T value, unsigned tag) {
  std::uint32_t parts[Tagged<T>::kWords];
  memcpy(parts, &value, sizeof value);
  Tagged<T> out;
#pragma unroll
  for (int w = 0; w < Tagged<T>::kWords; ++w) {
    out.words[w] = std::uint64_t{tag} << 32 | parts[w];
  }
  return out;
}

template <class T>
GPU_INLINE bool has_tag(const Tagged<T>& box, unsigned tag) {
  bool yes = true;
#pragma unroll
  for (int w = 0; w < Tagged<T>::kWords; ++w) {
    yes = yes && static_cast<unsigned>(box.words[w] >> 32) == tag;
  }
  return yes;
}

template <class T>
GPU_INLINE T value_of(const Tagged<T>& box) {
  std::uint32_t parts[Tagged<T>::kWords];
#pragma unroll
  for (int w = 0; w < Tagged<T>::kWords; ++w) parts[w] = static_cast<std::uint32_t>(box.words[w]);
  T value;
  memcpy(&value, parts, sizeof value);
  return value;
}

#if !defined(FLOWGRAD_GPU_EMULATED)
/// From the L2 cache, where all multiprocessors meet.
template <class T>
GPU_INLINE Tagged<T> tagged_load(const Tagged<T>* box) {
  Tagged<T> out;
  if constexpr (sizeof(T) == 4) {
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(out.words[0]) : "l"(box) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                 : "=l"(out.words[0]), "=l"(out.words[1])
                 : "l"(box)
                 : "memory");
  }
  return out;
}
#endif

}  // namespace detail

template <class T>
GPU_INLINE void tagged_store(Tagged<T>* box, T value, unsigned tag) {
  const Tagged<T> out = detail::tagged(value, tag);
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::tagged_store(box->words, out.words, Tagged<T>::kWords);
#else
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(box), "l"(out.words[0]) : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(box), "l"(out.words[0]),
                 "l"(out.words[1])
                 : "memory");
  }
#endif
}

/// Waits for n values, all of them on their way at once; box_of(k) points to the k-th, or is
/// nullptr where there is none, and values[k] stays. Only in a cooperative launch: the writers must
/// be alive.
template <class T, int n, class BoxOf>
GPU_INLINE void tagged_wait(T (&values)[n], unsigned tag, BoxOf&& box_of FLOWGRAD_SITE) {
#if defined(FLOWGRAD_GPU_EMULATED)
  for (int k = 0; k < n; ++k) {
    if (const Tagged<T>* box = box_of(k)) {
      Tagged<T> got;
      emulator::tagged_wait(box->words, Tagged<T>::kWords, tag, got.words, site);
      values[k] = detail::value_of(got);
    }
  }
#else
  Tagged<T> boxes[n];
#pragma unroll
  for (int k = 0; k < n; ++k) {
    if (const Tagged<T>* box = box_of(k)) boxes[k] = detail::tagged_load(box);
  }
#pragma unroll
  for (int k = 0; k < n; ++k) {
    const Tagged<T>* box = box_of(k);
    if (box == nullptr) continue;
    while (!detail::has_tag(boxes[k], tag)) boxes[k] = detail::tagged_load(box);
    values[k] = detail::value_of(boxes[k]);
  }
#endif
}

}  // namespace flowgrad::gpu
