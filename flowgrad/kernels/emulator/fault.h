#pragma once

/// Segmentation faults, made readable: a kernel's ends its launch with an error, and the host's is
/// explained on stderr before it takes its usual course.
namespace flowgrad::gpu::emulator {

/// Installs the handler; again, if somebody else (a test framework) has replaced it meanwhile.
void arm_fault_handler();
/// Gives the calling OS thread a stack to handle faults on: a kernel's own may be what overflowed.
void prepare_fault_stack();

}  // namespace flowgrad::gpu::emulator
