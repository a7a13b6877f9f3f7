#pragma once

#include <cstdint>

#include "flowgrad/core/ref.h"

namespace flowgrad {

/// What a tensor knows of the tape: the node that made it. Its operations live in autograd/.
///
/// Nodes are created in the order of evaluation, so the creation number is a topological order.
/// Release is iterative: a chain of a million nodes must not need a million stack frames.
class TapeNode : public RefCounted {
 public:
  explicit TapeNode(bool is_leaf);

  uint64_t number() const { return number_; }
  bool is_leaf() const { return is_leaf_; }

 protected:
  void release_last() noexcept override;

 private:
  uint64_t number_;
  TapeNode* next_to_release_ = nullptr;
  bool is_leaf_;
};

}  // namespace flowgrad
