#include "flowgrad/kernels/cpu/scratch.h"

#include <cstdlib>
#include <string>

#include "flowgrad/core/error.h"

namespace flowgrad::kernels::cpu {
namespace {

struct Buffers {
  void* data[static_cast<int>(ScratchSlot::count)] = {};
  std::size_t bytes[static_cast<int>(ScratchSlot::count)] = {};
  ~Buffers() {
    for (void* p : data) std::free(p);
  }
};
thread_local Buffers buffers;

}  // namespace

void* scratch(ScratchSlot slot, std::size_t bytes) {
  const auto i = static_cast<std::size_t>(slot);
  if (buffers.bytes[i] >= bytes) return buffers.data[i];
  std::free(buffers.data[i]);
  buffers.data[i] = nullptr;
  buffers.bytes[i] = 0;
  const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
  buffers.data[i] = std::aligned_alloc(4096, rounded);
  if (buffers.data[i] == nullptr)
    throw Error("out of memory: " + std::to_string(rounded) +
                " bytes of working memory for a kernel");
  buffers.bytes[i] = rounded;
  return buffers.data[i];
}

}  // namespace flowgrad::kernels::cpu
