#include "flowgrad/kernels/emulator/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "flowgrad/core/error.h"
#include "flowgrad/kernels/emulator/checker.h"
#include "flowgrad/kernels/emulator/environment.h"
#include "flowgrad/kernels/emulator/report.h"

namespace flowgrad::gpu::emulator {
namespace {

constexpr std::size_t kAlignment = 256;  // of cudaMalloc
constexpr std::size_t kMinimumGap = std::size_t{1} << 20;
constexpr std::size_t kFrontSlack = 64;  // bytes before the data that are looked at for overruns
constexpr std::size_t kRemembered = 64;

enum class Wish : std::size_t { keys, pages, off };

/// Of kAlignment bytes or fewer. Asked of every allocation after every launch, so in one
/// comparison.
bool is_poison(const char* from, const char* to) {
  static const auto poison = [] {
    std::array<unsigned char, kAlignment> bytes;
    bytes.fill(kPoison);
    return bytes;
  }();
  return std::memcmp(from, poison.data(), static_cast<std::size_t>(to - from)) == 0;
}

}  // namespace

Arena& Arena::instance() {
  static Arena arena;
  return arena;
}

Arena::Arena()
    : limit_(number_from_environment("FLOWGRAD_EMULATOR_MEMORY", std::uint64_t{8} << 30)) {
  const auto wish = static_cast<Wish>(
      choice_from_environment("FLOWGRAD_EMULATOR_PROTECTION", {"keys", "pages", "off"}));
  page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  // Address space only; less of it where the system limits that.
  for (reserved_ = std::size_t{1} << 40; base_ == nullptr; reserved_ /= 4) {
    if (reserved_ < std::size_t{1} << 32) throw Error("CUDA emulator: no address space left");
    void* range =
        mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) continue;
    base_ = static_cast<char*>(range);
    break;
  }
  if (wish == Wish::off) return;
  protection_ = Protection::pages;
#if defined(PKEY_DISABLE_ACCESS)
  if (wish == Wish::keys) key_ = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  if (key_ > 0) protection_ = Protection::keys;
#endif
}

void Arena::unlock() {
  if (depth_++ > 0) return;
#if defined(PKEY_DISABLE_ACCESS)
  if (protection_ == Protection::keys) pkey_set(key_, 0);
#endif
}

void Arena::lock() {
  if (--depth_ > 0) return;
#if defined(PKEY_DISABLE_ACCESS)
  if (protection_ == Protection::keys) pkey_set(key_, PKEY_DISABLE_ACCESS);
#endif
  if (protection_ != Protection::pages) return;
  for (auto& [first, allocation] : live_) {
    if (!allocation.open) continue;
    mprotect(allocation.pages, allocation.page_bytes, PROT_NONE);
    allocation.open = false;
  }
}

void Arena::open(Allocation& allocation) {
  if (protection_ != Protection::pages || allocation.open) return;
  mprotect(allocation.pages, allocation.page_bytes, PROT_READ | PROT_WRITE);
  allocation.open = true;
}

bool Arena::open_page(const void* address) {
  if (protection_ != Protection::pages) return false;
  const auto a = reinterpret_cast<std::uintptr_t>(address);
  auto after = live_.upper_bound(a);
  if (after == live_.begin()) return false;
  Allocation& allocation = (--after)->second;
  if (a - after->first >= allocation.page_bytes || allocation.open) return false;
  open(allocation);
  return true;
}

// First fit from where the last one ended, so that addresses come back as late as possible.
char* Arena::find_room(std::size_t bytes) {
  for (int round = 0; round < 2; ++round) {
    const auto base = reinterpret_cast<std::uintptr_t>(base_);
    auto at = live_.lower_bound(base + next_);
    while (next_ + bytes <= reserved_) {
      if (at == live_.end() || at->first >= base + next_ + bytes) {
        char* room = base_ + next_;
        next_ += bytes;
        return room;
      }
      const std::size_t taken = at->second.page_bytes;
      next_ = at->first - base + taken + std::max(kMinimumGap, taken);
      ++at;
    }
    next_ = 0;
  }
  return nullptr;
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t room = round_up(std::max<std::size_t>(bytes, 1), kAlignment);
  if (room < bytes || bytes > limit_ || in_use_ + bytes > limit_) return nullptr;
  Allocation allocation;
  allocation.page_bytes = round_up(room, page_);
  // The gap is as large as the allocation, so that a wrong stride or a wrong batch falls into it.
  char* pages = find_room(allocation.page_bytes + std::max(kMinimumGap, allocation.page_bytes));
  if (pages == nullptr) return nullptr;
  allocation.pages = pages;
  allocation.data = pages + allocation.page_bytes - room;
  allocation.bytes = bytes;
  if (mprotect(pages, allocation.page_bytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
  std::memset(pages, kPoison, allocation.page_bytes);
#if defined(PKEY_DISABLE_ACCESS)
  if (protection_ == Protection::keys) {
    pkey_mprotect(pages, allocation.page_bytes, PROT_READ | PROT_WRITE, key_);
  }
#endif
  if (protection_ == Protection::pages) mprotect(pages, allocation.page_bytes, PROT_NONE);
  in_use_ += bytes;
  live_.emplace(reinterpret_cast<std::uintptr_t>(pages), allocation);
  checker::allocated(allocation.data, bytes);
  return allocation.data;
}

void Arena::release(void* pointer) {
  Allocation* found = holding(pointer, 0);
  if (found == nullptr || found->data != pointer) {
    throw DeviceError("release: " + hexadecimal(pointer) + " is not the start of device memory");
  }
  const Allocation allocation = *found;
  checker::released(allocation.data, allocation.bytes);
  // A fresh mapping drops the pages and the key, and merges with the gaps beside it.
  mmap(allocation.pages, allocation.page_bytes, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  in_use_ -= allocation.bytes;
  live_.erase(reinterpret_cast<std::uintptr_t>(allocation.pages));
  released_.push_back(allocation);
  if (released_.size() > kRemembered) released_.pop_front();
}

bool Arena::reserves(const void* address) const {
  const auto* a = static_cast<const char*>(address);
  return a >= base_ && a < base_ + reserved_;
}

Allocation* Arena::holding(const void* address, std::size_t bytes) {
  const auto* a = static_cast<const char*>(address);
  auto after = live_.upper_bound(reinterpret_cast<std::uintptr_t>(address));
  if (after == live_.begin()) return nullptr;
  Allocation& allocation = (--after)->second;
  const char* end = allocation.data + allocation.bytes;
  const bool inside =
      a >= allocation.data && a <= end && bytes <= static_cast<std::size_t>(end - a);
  return inside ? &allocation : nullptr;
}

std::string Arena::describe(const void* address) const {
  const auto* a = static_cast<const char*>(address);
  const auto text = [](const Allocation& allocation) {
    return "memory of " + std::to_string(allocation.bytes) + " bytes at " +
           hexadecimal(allocation.data);
  };
  for (const Allocation& allocation : released_) {
    if (a >= allocation.data && a < allocation.data + allocation.bytes) {
      return std::to_string(a - allocation.data) + " bytes into released " + text(allocation);
    }
  }
  auto after = live_.upper_bound(reinterpret_cast<std::uintptr_t>(address));
  const Allocation* above = after != live_.end() ? &after->second : nullptr;
  if (after != live_.begin()) {
    const Allocation& below = (--after)->second;
    const char* end = below.data + below.bytes;
    if (a >= below.data && a < end) {
      return std::to_string(a - below.data) + " bytes into device " + text(below);
    }
    if (a < below.data)
      return std::to_string(below.data - a) + " bytes before device " + text(below);
    if (above == nullptr || a - end <= above->data - a) {
      return std::to_string(a - end) + " bytes past the end of device " + text(below);
    }
  }
  if (above == nullptr) return "in device memory that holds nothing";
  return std::to_string(above->data - a) + " bytes before device " + text(*above);
}

std::string Arena::overrun() {
  std::string found;
  for (auto& [first, allocation] : live_) {
    if (protection_ == Protection::pages && !allocation.open) continue;
    char* end = allocation.data + allocation.bytes;
    char* last = allocation.pages + allocation.page_bytes;
    char* front = std::max(allocation.pages, allocation.data - kFrontSlack);
    if (!is_poison(front, allocation.data)) {
      found = "a write just before device memory of ";
    } else if (!is_poison(end, last)) {
      found = "a write just past the end of device memory of ";
    } else {
      continue;
    }
    found += std::to_string(allocation.bytes) + " bytes at " + hexadecimal(allocation.data);
    std::memset(front, kPoison, static_cast<std::size_t>(allocation.data - front));
    std::memset(end, kPoison, static_cast<std::size_t>(last - end));
  }
  return found;
}

}  // namespace flowgrad::gpu::emulator
