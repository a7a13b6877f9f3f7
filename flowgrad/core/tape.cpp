#include "flowgrad/core/tape.h"

#include <atomic>

namespace flowgrad {
namespace {
std::atomic<uint64_t> next_number{1};
thread_local TapeNode* release_list = nullptr;
thread_local bool releasing = false;
}  // namespace

TapeNode::TapeNode(bool is_leaf)
    : number_(next_number.fetch_add(1, std::memory_order_relaxed)), is_leaf_(is_leaf) {}

void TapeNode::release_last() noexcept {
  next_to_release_ = release_list;
  release_list = this;
  if (releasing) return;  // the outermost call drains the list
  releasing = true;
  while (release_list) {
    TapeNode* node = release_list;
    release_list = node->next_to_release_;
    delete node;
  }
  releasing = false;
}

}  // namespace flowgrad
