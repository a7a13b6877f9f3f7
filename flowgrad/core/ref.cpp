#include "flowgrad/core/ref.h"

#include <new>
#include <utility>

namespace flowgrad {
namespace {

constexpr size_t kStep = 32, kLargest = 640;
/// As many as a step of a large model has of one kind.
constexpr uint32_t kMostOfASize = 1024;

struct Block {
  Block* next;
};

/// Constant-initialised and without a destructor, so that every access is a plain one.
struct Lists {
  enum class State : uint8_t { unused, open, closed };
  Block* first[kLargest / kStep] = {};
  uint32_t count[kLargest / kStep] = {};
  State state = State::unused;
};
thread_local constinit Lists lists;

/// Empties the lists when the thread ends. What is freed after that goes back to the system.
struct Closer {
  ~Closer() {
    lists.state = Lists::State::closed;
    for (Block* block : lists.first) {
      while (block != nullptr) ::operator delete(std::exchange(block, block->next));
    }
  }
};

bool opened() {
  if (lists.state == Lists::State::unused) {
    thread_local Closer closer;
    lists.state = Lists::State::open;
  }
  return lists.state == Lists::State::open;
}

// A checker of addresses should see every object come and go.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kReuses = false;
#else
constexpr bool kReuses = true;
#endif

size_t list_of(size_t bytes) { return (bytes - 1) / kStep; }

}  // namespace

void* object_allocate(size_t bytes) {
  if (!kReuses || bytes > kLargest) return ::operator new(bytes);
  const size_t list = list_of(bytes);
  Block* const block = lists.first[list];
  if (block == nullptr) return ::operator new((list + 1) * kStep);
  lists.first[list] = block->next;
  --lists.count[list];
  return block;
}

void object_free(void* object, size_t bytes) noexcept {
  const size_t list = list_of(bytes);
  if (!kReuses || bytes > kLargest || lists.count[list] == kMostOfASize || !opened())
    return ::operator delete(object);
  lists.first[list] = new (object) Block{lists.first[list]};
  ++lists.count[list];
}

}  // namespace flowgrad
