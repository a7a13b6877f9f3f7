#include "flowgrad/kernels/emulator/async.h"

#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/checker.h"

namespace flowgrad::gpu::emulator {
namespace {

struct Copy {
  void* destination;
  const void* source;
  unsigned bytes;
  unsigned valid;
};

struct Copies {
  std::vector<Copy> open;  // not committed yet
  std::deque<std::vector<Copy>> groups;
};

std::vector<Copies>& in_flight() {
  static std::vector<Copies> threads(kMaxThreads);
  return threads;
}
bool anything_started = false;

void land(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.valid > 0) checker::note_read(copy.source, copy.valid);
    checker::note_write(copy.destination, copy.bytes);
    std::memcpy(copy.destination, copy.source, copy.valid);
    std::memset(static_cast<char*>(copy.destination) + copy.valid, 0, copy.bytes - copy.valid);
  }
}

}  // namespace

void async_copy(void* destination, const void* source, unsigned bytes, unsigned valid) {
  refuse_cooperative("cp_async");
  check_alignment(destination, bytes, "cp_async: destination");
  if (valid > 0) check_alignment(source, bytes, "cp_async: source");
  if (valid > bytes)
    fail("cp_async: " + std::to_string(valid) + " valid bytes of " + std::to_string(bytes));
  shared_offset(destination);  // must be in shared memory
  checker::note_write(destination, bytes);
  std::memset(destination, 0xFF, bytes);
  in_flight()[thread_rank()].open.push_back({destination, source, bytes, valid});
  anything_started = true;
}

void async_commit() {
  Copies& mine = in_flight()[thread_rank()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
  anything_started = true;
}

void async_wait(unsigned n_pending) {
  Copies& mine = in_flight()[thread_rank()];
  while (mine.groups.size() > n_pending) {
    const std::vector<Copy> group = std::move(mine.groups.front());
    mine.groups.pop_front();
    land(group);
  }
}

void async_wait_all() {
  async_commit();
  async_wait(0);
}

void async_start_block() {
  if (!anything_started) return;
  for (Copies& copies : in_flight()) {
    copies.open.clear();
    copies.groups.clear();
  }
  anything_started = false;
}

}  // namespace flowgrad::gpu::emulator
