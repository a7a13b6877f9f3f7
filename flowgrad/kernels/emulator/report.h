#pragma once

#include <string>

#include "flowgrad/kernels/emulator/block.h"

/// Texts of the emulator's errors.
namespace flowgrad::gpu::emulator {

/// "(1, 0, 0)"
std::string describe(const uint3& index);
/// "reduce.cu:41:5"
std::string describe(const Site& site);
/// "0x0000ffff"
std::string hexadecimal(unsigned value);
/// "0x7f0012345678"
std::string hexadecimal(const void* address);

/// The function at an address, demangled, or an empty string. Local functions are found too.
std::string symbol_at(const void* address);
/// "softmax.cu:51", from the debugging information by way of addr2line, else the function's name.
/// pc is a return address.
std::string source_line(const void* pc);

}  // namespace flowgrad::gpu::emulator
