#pragma once

#include <array>
#include <memory>

#include "flowgrad/tasks/plane.h"

namespace flowgrad {

/// The bodies of PushT in Chipmunk. Not for users: see PushT.
class PushTPhysics {
 public:
  static bool available();
  /// Raises ValueError where available() is false.
  PushTPhysics();
  ~PushTPhysics();
  PushTPhysics(const PushTPhysics&) = delete;
  PushTPhysics& operator=(const PushTPhysics&) = delete;

  /// Places pusher and block, the block at rest.
  void place(const std::array<double, 5>& state, Vec2 velocity);
  /// One step of the solver, which the published reset ends with: it frees an overlapping block.
  void settle();
  /// A tenth of a second towards `target`.
  void step(Vec2 target);
  std::array<double, 5> state() const;
  /// Of the pusher.
  Vec2 velocity() const;

 private:
  struct Bodies;
  std::unique_ptr<Bodies> bodies_;
};

}  // namespace flowgrad
