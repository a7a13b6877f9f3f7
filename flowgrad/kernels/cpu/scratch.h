#pragma once

#include <cstddef>
#include <cstdint>

namespace flowgrad::kernels::cpu {

/// Working memory of the calling thread, 64-byte aligned, kept and grown between calls. Each slot
/// is one buffer; asking for a slot again invalidates what it held. Raises Error when the system
/// has none.
enum class ScratchSlot : std::uint8_t {
  packed_b,
  tile,
  narrow,
  transposed,
  operand,
  partial,
  solve,
  count
};
void* scratch(ScratchSlot slot, std::size_t bytes);

template <class T>
T* scratch_of(ScratchSlot slot, std::int64_t elements) {
  return static_cast<T*>(scratch(slot, static_cast<std::size_t>(elements) * sizeof(T)));
}

}  // namespace flowgrad::kernels::cpu
