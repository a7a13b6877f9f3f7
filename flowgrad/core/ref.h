#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

namespace flowgrad {

/// Known to the C library from version 2.32 on; false where it is not known.
inline bool is_only_thread() {
#if __has_include(<sys/single_threaded.h>)
  return __libc_single_threaded != 0;
#else
  return false;
#endif
}

/// Memory of handles and tape nodes, which come and go by the thousand. Freed blocks wait in lists
/// of the thread that freed them, a bounded number of each size, and taking one needs no lock.
void* object_allocate(size_t bytes);
void object_free(void* object, size_t bytes) noexcept;

/// Base of objects with an intrusive reference count. `release_last` is called when the last
/// reference goes; the default deletes at once.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;
  static void* operator new(size_t bytes) { return object_allocate(bytes); }
  static void operator delete(void* object, size_t bytes) noexcept { object_free(object, bytes); }

  // A new object's first owner and an old one's last are alone with it and need no locked
  // instruction; nor does anybody before a second thread starts.
  void retain() const noexcept {
    const uint32_t count = count_.load(std::memory_order_relaxed);
    if (count == 0 || is_only_thread())
      count_.store(count + 1, std::memory_order_relaxed);
    else
      count_.fetch_add(1, std::memory_order_relaxed);
  }
  void release() const noexcept {
    const uint32_t count = count_.load(std::memory_order_acquire);
    if (count != 1 && is_only_thread())
      count_.store(count - 1, std::memory_order_relaxed);
    else if (count == 1 || count_.fetch_sub(1, std::memory_order_acq_rel) == 1)
      const_cast<RefCounted*>(this)->release_last();
  }
  uint32_t use_count() const noexcept { return count_.load(std::memory_order_acquire); }

 protected:
  virtual void release_last() noexcept { delete this; }

 private:
  mutable std::atomic<uint32_t> count_{0};
};

/// Shared ownership of a RefCounted object.
template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}
  explicit Ref(T* p) noexcept : p_(p) {
    if (p_) p_->retain();
  }
  Ref(const Ref& o) noexcept : Ref(o.p_) {}
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <class U>
  Ref(const Ref<U>& o) noexcept : Ref(static_cast<T*>(o.get())) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() {
    if (p_) p_->release();
  }

  T* get() const noexcept { return p_; }
  T* operator->() const noexcept { return p_; }
  T& operator*() const noexcept { return *p_; }
  explicit operator bool() const noexcept { return p_ != nullptr; }
  friend bool operator==(const Ref& a, const Ref& b) noexcept { return a.p_ == b.p_; }
  void reset() noexcept { *this = Ref(); }

 private:
  T* p_ = nullptr;
};

template <class T, class... Args>
Ref<T> make_ref(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

}  // namespace flowgrad
