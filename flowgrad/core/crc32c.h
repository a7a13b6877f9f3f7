#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace flowgrad {

/// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, as in RFC 3720 appendix B.4). The CRC of a
/// concatenation is crc32c(b, crc32c(a)). Uses the processor's instruction where it has one.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);

/// The same by tables only: what processors without the instruction run.
uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t crc = 0);

}  // namespace flowgrad
