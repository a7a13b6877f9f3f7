#include "flowgrad/kernels/emulator/profile.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <tuple>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/report.h"
#include "flowgrad/kernels/gpu_runtime.h"

namespace flowgrad::gpu {
namespace emulator::checker {
namespace {

// The accesses of one warp at one instruction, the n-th time each lane came there in the block.
struct Request {
  std::size_t bytes = 0;                                   // of a lane
  std::vector<std::pair<unsigned, std::uintptr_t>> lanes;  // and their addresses
};

struct Instruction {
  const void* pc;
  bool shared;
  bool write;
  bool operator<(const Instruction& other) const {
    return std::tie(pc, shared, write) < std::tie(other.pc, other.shared, other.write);
  }
};

struct Profiler {
  bool on = false;
  std::map<std::tuple<Instruction, unsigned, std::uint64_t>, Request> requests;  // of this block
  std::map<std::pair<const void*, unsigned>, std::uint64_t> visits;  // instruction, thread
  std::map<Instruction, MemoryProfile> totals;
};

Profiler& profiler() {
  static Profiler instance;
  return instance;
}

std::uint64_t sectors(const Request& request) {
  std::set<std::uintptr_t> touched;
  for (const auto& [lane, address] : request.lanes) {
    for (auto s = address / 32; s <= (address + request.bytes - 1) / 32; ++s) touched.insert(s);
  }
  return touched.size();
}

// Shared memory answers one 4-byte word per bank and pass; lanes that want the same word share it.
// Accesses of 8 bytes go by half warps, those of 16 bytes by quarters.
std::uint64_t bank_passes(const Request& request) {
  const unsigned words = std::max<unsigned>(1, static_cast<unsigned>(request.bytes / 4));
  const unsigned lanes_per_group = kWarpSize / words;
  std::uint64_t passes = 0;
  for (unsigned first = 0; first < kWarpSize; first += lanes_per_group) {
    std::set<std::uintptr_t> wanted;
    for (const auto& [lane, address] : request.lanes) {
      if (lane < first || lane >= first + lanes_per_group) continue;
      for (unsigned w = 0; w < words; ++w) wanted.insert(address / 4 + w);
    }
    std::array<std::uint64_t, 32> per_bank{};
    for (const std::uintptr_t word : wanted) ++per_bank[word % 32];
    passes += *std::max_element(per_bank.begin(), per_bank.end());
  }
  return passes;
}

void add_up() {
  Profiler& p = profiler();
  for (const auto& [key, request] : p.requests) {
    const Instruction& instruction = std::get<0>(key);
    MemoryProfile& total = p.totals[instruction];
    const std::uint64_t bytes = request.bytes * request.lanes.size();
    const std::uint64_t unit = instruction.shared ? 128 : 32;
    total.shared = instruction.shared;
    total.write = instruction.write;
    ++total.requests;
    total.bytes += bytes;
    total.transactions += instruction.shared ? bank_passes(request) : sectors(request);
    total.ideal += (bytes + unit - 1) / unit;
  }
  p.requests.clear();
  p.visits.clear();
}

}  // namespace

void profile_start_block() { add_up(); }
void profile_end_launch() { add_up(); }

void profile_access(const void* address, std::size_t shared_offset, std::size_t bytes,
                    AccessKind kind, bool shared, const void* pc) {
  Profiler& p = profiler();
  if (!p.on || pc == nullptr) return;
  const unsigned rank = block_slot() * kMaxThreads + thread_rank();
  const std::uint64_t visit = p.visits[{pc, rank}]++;
  const Instruction instruction{pc, shared, kind != AccessKind::read};
  Request& request = p.requests[{instruction, rank / kWarpSize, visit}];
  request.bytes = bytes;
  request.lanes.emplace_back(rank % kWarpSize,
                             shared ? shared_offset : reinterpret_cast<std::uintptr_t>(address));
}

}  // namespace emulator::checker

std::vector<MemoryProfile> profile(const std::function<void()>& work) {
#if !defined(FLOWGRAD_GPU_CHECKER)
  (void)work;
  throw DeviceError("profile: needs the checker build (cmake -DFLOWGRAD_GPU_CHECKER=ON)");
#else
  using emulator::checker::profiler;
  synchronize(default_stream());
  profiler().totals.clear();
  profiler().on = true;
  try {
    work();
    synchronize(default_stream());
  } catch (...) {
    profiler().on = false;
    throw;
  }
  profiler().on = false;
  std::vector<MemoryProfile> rows;
  for (auto& [instruction, total] : profiler().totals) {
    total.place = emulator::source_line(instruction.pc);
    rows.push_back(total);
  }
  return rows;
#endif
}

}  // namespace flowgrad::gpu
