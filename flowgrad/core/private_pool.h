#pragma once

#include <cstdint>
#include <memory>

#include "flowgrad/core/device.h"

namespace flowgrad {

/// Blocks of a device's pool that are set apart for a captured graph. While a thread allocates
/// through one, blocks come from it and return to it, so that the addresses in the graph are its
/// own; blocks of others that the thread frees meanwhile are kept too, as the graph may read them.
/// The last of the pool and its live blocks to go returns everything to the device's pool. All of
/// it counts as live in the device's statistics.
class PrivatePool {
 public:
  struct Blocks;
  explicit PrivatePool(Device device);
  int64_t bytes() const;

  /// While it lives, this thread allocates through the pool; then as before it.
  class Scope {
   public:
    explicit Scope(const PrivatePool& pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Blocks* previous_;
  };

 private:
  std::shared_ptr<Blocks> blocks_;
};

}  // namespace flowgrad
