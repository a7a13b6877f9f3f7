#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>

namespace flowgrad::gpu::emulator {

/// What memory holds that nothing was written to.
inline constexpr int kPoison = 0xFF;

inline std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// A piece of device memory. The data end where their last page ends, to 256 bytes, and an unmapped
/// gap follows, so that a kernel that runs past the end faults.
struct Allocation {
  char* pages = nullptr;
  std::size_t page_bytes = 0;
  char* data = nullptr;
  std::size_t bytes = 0;
  bool open = false;  // only used where pages are protected one allocation at a time
};

/// How device memory is kept from the host.
enum class Protection : std::uint8_t {
  keys,   // memory protection keys of the CPU: one register, no cost
  pages,  // mprotect; an allocation is opened when a kernel first touches it
  off
};

/// The device memory of the emulator: a reserved range of addresses. Addresses are not reused
/// before the range is used up, so a pointer to released memory faults too. Not thread-safe: the
/// device holds a lock.
class Arena {
 public:
  static Arena& instance();

  /// Filled with NaN bits; nullptr beyond the limit (FLOWGRAD_EMULATOR_MEMORY bytes, default 8
  /// GiB).
  void* allocate(std::size_t bytes);
  /// The pointer must come from allocate. The memory becomes unreadable for good.
  void release(void* pointer);

  /// Whether address lies in the reserved range, mapped or not.
  bool reserves(const void* address) const;
  /// The allocation that holds all bytes from address on, or nullptr.
  Allocation* holding(const void* address, std::size_t bytes);
  /// "12 bytes past the end of an allocation of 4096 bytes at 0x..."
  std::string describe(const void* address) const;
  /// What was written around the data of an open allocation, or an empty string. Told once.
  std::string overrun();

  /// Lets the calling OS thread at device memory while in scope; scopes nest.
  class Access {
   public:
    Access() { instance().unlock(); }
    ~Access() { instance().lock(); }
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;
  };
  /// Opens the allocation that holds address if protection by pages keeps it shut.
  bool open_page(const void* address);
  /// Opens an allocation ahead of a copy.
  void open(Allocation& allocation);

  std::size_t bytes_in_use() const { return in_use_; }
  std::size_t limit() const { return limit_; }
  Protection protection() const { return protection_; }
  const std::map<std::uintptr_t, Allocation>& allocations() const { return live_; }

 private:
  Arena();
  void lock();
  void unlock();
  char* find_room(std::size_t bytes);

  char* base_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t page_ = 4096;
  std::size_t next_ = 0;  // offset from which room is searched
  std::size_t in_use_ = 0;
  std::size_t limit_ = 0;
  int depth_ = 0;
  int key_ = -1;
  Protection protection_ = Protection::off;
  std::map<std::uintptr_t, Allocation> live_;  // by first page
  std::deque<Allocation> released_;            // the last few, for messages
};

}  // namespace flowgrad::gpu::emulator
