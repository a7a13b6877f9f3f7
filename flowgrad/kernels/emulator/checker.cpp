#include "flowgrad/kernels/emulator/checker.h"

#if defined(FLOWGRAD_GPU_CHECKER)

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowgrad/kernels/emulator/memory.h"
#include "flowgrad/kernels/emulator/profile.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/emulator/scheduler.h"

namespace flowgrad::gpu::emulator::checker {
namespace {

// Who accessed a byte, and when, in one word. Blocks that are 4096 apart look alike, so a race
// between them may be missed; everything else is exact up to 8192 barriers between the two
// accesses.
struct Moment {
  std::uint64_t launch : 12 = 0;  // 0: by the host, or never
  std::uint64_t block : 12 = 0;
  std::uint64_t rank : 10 = 0;
  std::uint64_t interval : 13 = 0;  // barriers of the block before the access
  std::uint64_t clock : 16 = 0;     // meetings of the lane before it
  std::uint64_t flag : 1 = 0;       // atomic; for the host: has written
};
constexpr unsigned kLaunches = 1u << 12;

// The shadow of one byte: the last write and the last two readers.
struct Cell {
  Moment write;
  Moment reads[2];
  bool written() const { return write.launch != 0 || write.flag != 0; }
};

struct Shadow {
  const char* data = nullptr;
  std::size_t bytes = 0;
  std::vector<Cell> cells;
};

// What each lane knows of the others: the vector clocks of one warp.
struct WarpClocks {
  std::uint16_t known[kWarpSize][kWarpSize];
};

// What is known of one block that is alive.
struct BlockShadow {
  std::vector<Cell> shared = std::vector<Cell>(SharedMemory::kWindow);
  std::array<WarpClocks, kMaxThreads / kWarpSize> clocks;
  std::size_t shared_used = 0;  // bytes of it that hold anything
  unsigned interval = 0;
};

struct State {
  std::map<const char*, std::unique_ptr<Shadow>> device;
  Shadow* recent[4] = {};  // kernels take turns among few arrays
  unsigned next_recent = 0;
  std::vector<std::unique_ptr<BlockShadow>> blocks;
  BlockShadow* block = nullptr;  // of the running thread
  unsigned launch = 0;
};

State& state() {
  static State instance;
  return instance;
}

Shadow* shadow_of(const void* address) {
  State& s = state();
  const auto* a = static_cast<const char*>(address);
  for (Shadow* shadow : s.recent) {
    if (shadow != nullptr && a >= shadow->data && a < shadow->data + shadow->bytes) return shadow;
  }
  auto after = s.device.upper_bound(a);
  if (after == s.device.begin()) return nullptr;
  Shadow* shadow = (--after)->second.get();
  if (a >= shadow->data + shadow->bytes) return nullptr;
  s.recent[s.next_recent++ % 4] = shadow;
  return shadow;
}

Moment now() {
  const Scheduler& scheduler = Scheduler::instance();
  const State& s = state();
  const unsigned rank = thread_rank();
  Moment m;
  m.launch = s.launch;
  m.block = scheduler.block_number();
  m.rank = rank;
  m.interval = s.block->interval;
  m.clock = s.block->clocks[rank / kWarpSize].known[rank % kWarpSize][rank % kWarpSize];
  return m;
}

/// Whether the earlier access is ordered before the present one.
bool ordered(const Moment& before, const Moment& present) {
  if (before.launch != present.launch) return true;  // earlier launches, the host, nobody
  if (before.block != present.block) return false;
  if (before.rank == present.rank || before.interval != present.interval) return true;
  if (before.rank / kWarpSize != present.rank / kWarpSize) return false;
  const WarpClocks& clocks = state().block->clocks[present.rank / kWarpSize];
  const std::uint16_t known = clocks.known[present.rank % kWarpSize][before.rank % kWarpSize];
  return static_cast<std::int16_t>(known - static_cast<std::uint16_t>(before.clock)) > 0;
}

[[noreturn]] void fail_at(const void* pc, const std::string& what) {
  std::string place;
  if (pc != nullptr) place = " (in " + source_line(pc) + ")";
  // Through instrumented functions no exception can pass.
  Scheduler::instance().fail_abruptly(what + place);
}

std::string name_of(const void* address, bool shared) {
  if (!shared) return Arena::instance().describe(address);
  const SharedMemory& memory = Scheduler::instance().shared();
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(address) - memory.base());
  std::string text = "shared memory";
  for (std::size_t i = 0; i < memory.extents().size(); ++i) {
    const auto& extent = memory.extents()[i];
    if (offset < extent.offset) break;
    text = std::to_string(offset - extent.offset) + " bytes into ";
    text += extent.key == nullptr ? "the dynamic shared memory"
                                  : "GPU_SHARED variable number " + std::to_string(i);
    text += " of " + std::to_string(extent.bytes) + " bytes";
  }
  return text;
}

std::string describe_thread(const Moment& m) {
  const unsigned rank = m.rank;
  const uint3 index{rank % blockDim.x, rank / blockDim.x % blockDim.y,
                    rank / (blockDim.x * blockDim.y)};
  const std::uint64_t block = m.block;
  const bool same = block == Scheduler::instance().block_number() % kLaunches;
  return "thread " + describe(index) + (same ? "" : " of block number " + std::to_string(block));
}

void check_race(const Moment& before, const Moment& present, const char* was, const char* is,
                const void* address, bool shared, const void* pc) {
  if (before.flag != 0 && present.flag != 0) return;
  if (ordered(before, present)) return;
  fail_at(pc, std::string("race: ") + is + " " + name_of(address, shared) + ", which " +
                  describe_thread(before) + " " + was + "; nothing orders the two");
}

void visit(Cell& cell, const Moment& present, AccessKind kind, const void* address, bool shared,
           const void* pc) {
  const bool reads = kind != AccessKind::write;
  const bool writes = kind != AccessKind::read;
  if (reads && !cell.written()) {
    fail_at(pc, "uninitialised: reads " + name_of(address, shared) + ", which was never written");
  }
  check_race(cell.write, present, "wrote", writes ? "writes" : "reads", address, shared, pc);
  if (writes) {
    for (const Moment& read : cell.reads) {
      check_race(read, present, "read", "writes", address, shared, pc);
    }
    cell.write = present;
    return;
  }
  if (cell.reads[0].launch != present.launch || cell.reads[0].block != present.block ||
      cell.reads[0].rank != present.rank) {
    cell.reads[1] = cell.reads[0];
  }
  cell.reads[0] = present;
}

Moment by_host() {
  Moment m;
  m.flag = 1;
  return m;
}

/// The cells of bytes of device memory.
Cell* cells_of(const void* data) {
  Shadow* shadow = shadow_of(data);
  return shadow == nullptr ? nullptr
                           : &shadow->cells[static_cast<std::size_t>(
                                 static_cast<const char*>(data) - shadow->data)];
}

bool in_extent(std::size_t offset, std::size_t bytes) {
  for (const auto& extent : Scheduler::instance().shared().extents()) {
    if (offset >= extent.offset && offset + bytes <= extent.offset + extent.bytes) return true;
  }
  return false;
}

}  // namespace

void start_launch() {
  State& s = state();
  if (++s.launch < kLaunches) return;
  // The numbers start again: what was written counts as written by the host.
  s.launch = 1;
  for (auto& [data, shadow] : s.device) {
    for (Cell& cell : shadow->cells) {
      const bool written = cell.written();
      cell = {};
      if (written) cell.write = by_host();
    }
  }
}

void end_launch() { profile_end_launch(); }

void enter_block(unsigned slot) {
  State& s = state();
  while (s.blocks.size() <= slot) s.blocks.push_back(std::make_unique<BlockShadow>());
  s.block = s.blocks[slot].get();
}

void start_block() {
  BlockShadow& s = *state().block;
  s.interval = 0;
  std::fill_n(s.shared.begin(), s.shared_used, Cell{});
  s.shared_used = 0;
  // A lane's own clock runs ahead of what others know of it.
  for (WarpClocks& clocks : s.clocks) {
    clocks = {};
    for (unsigned l = 0; l < kWarpSize; ++l) clocks.known[l][l] = 1;
  }
  profile_start_block();
}

void block_synchronized() { ++state().block->interval; }

void warp_synchronized(unsigned mask) {
  WarpClocks& clocks = state().block->clocks[thread_rank() / kWarpSize];
  std::array<std::uint16_t, kWarpSize> joined{};
  for (unsigned l = 0; l < kWarpSize; ++l) {
    if ((mask >> l & 1) == 0) continue;
    for (unsigned k = 0; k < kWarpSize; ++k) {
      if (static_cast<std::int16_t>(clocks.known[l][k] - joined[k]) > 0) {
        joined[k] = clocks.known[l][k];
      }
    }
  }
  for (unsigned l = 0; l < kWarpSize; ++l) {
    if ((mask >> l & 1) == 0) continue;
    for (unsigned k = 0; k < kWarpSize; ++k) {
      // Others now know all that happened up to here: one more than the clock of the last access.
      clocks.known[l][k] = static_cast<std::uint16_t>(joined[k] + (mask >> k & 1));
    }
  }
}

void allocated(const void* data, std::size_t bytes) {
  auto shadow = std::make_unique<Shadow>();
  shadow->data = static_cast<const char*>(data);
  shadow->bytes = bytes;
  shadow->cells.resize(bytes);
  state().device[shadow->data] = std::move(shadow);
}

void released(const void* data, std::size_t) {
  State& s = state();
  for (Shadow*& shadow : s.recent) shadow = nullptr;
  s.device.erase(static_cast<const char*>(data));
}

void host_wrote(const void* data, std::size_t bytes) {
  Cell written;
  written.write = by_host();
  if (Cell* cells = cells_of(data)) std::fill_n(cells, bytes, written);
}

void device_copied(const void* destination, const void* source, std::size_t bytes) {
  Cell* to = cells_of(destination);
  const Cell* from = cells_of(source);
  if (to == nullptr || from == nullptr) return;
  for (std::size_t i = 0; i < bytes; ++i) {
    const bool written = from[i].written();
    to[i] = {};
    if (written) to[i].write = by_host();
  }
}

void access(const void* address, std::size_t bytes, AccessKind kind, const void* pc) {
  if (!Scheduler::running_here()) return;
  SharedMemory& memory = Scheduler::instance().shared();
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(address) - memory.base());
  const bool shared = offset < SharedMemory::kWindow;
  if (!shared && !Arena::instance().reserves(address)) return;  // a local variable, a constant
  const char* verb = kind == AccessKind::read ? "reads " : "writes ";
  const bool one_instruction = bytes <= 16 && (bytes & (bytes - 1)) == 0;
  if (one_instruction && reinterpret_cast<std::uintptr_t>(address) % bytes != 0) {
    fail_at(pc, std::string("misaligned: ") + verb + std::to_string(bytes) + " bytes " +
                    name_of(address, shared));
  }
  Cell* cells;
  if (shared) {
    if (!in_extent(offset, bytes)) {
      fail_at(pc, std::string("out of bounds: ") + verb + name_of(address, true));
    }
    BlockShadow& block = *state().block;
    cells = &block.shared[offset];
    block.shared_used = std::max(block.shared_used, offset + bytes);
  } else {
    const Shadow* shadow = shadow_of(address);
    const auto* last = static_cast<const char*>(address) + bytes - 1;
    if (shadow == nullptr || last >= shadow->data + shadow->bytes) {
      fail_at(pc, std::string("out of bounds: ") + verb + std::to_string(bytes) + " bytes, " +
                      name_of(shadow == nullptr ? address : last, false));
    }
    cells = cells_of(address);
  }
  Moment present = now();
  present.flag = kind == AccessKind::atomic ? 1 : 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    visit(cells[i], present, kind, static_cast<const char*>(address) + i, shared, pc);
  }
  profile_access(address, offset, bytes, kind, shared, pc);
}

}  // namespace flowgrad::gpu::emulator::checker

#endif
