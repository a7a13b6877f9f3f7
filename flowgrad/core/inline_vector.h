#pragma once

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

namespace flowgrad {

/// A list that keeps its first N elements inside the object: most tape nodes have at most three
/// edges, and a heap block for each would dominate the cost of recording.
template <class T, size_t N>
class InlineVector {
 public:
  void push_back(T value) {
    if (size_ < N) {
      inline_[size_] = std::move(value);
    } else {
      rest_.push_back(std::move(value));
    }
    ++size_;
  }
  void resize(size_t n) {
    if (n > N) rest_.resize(n - N);
    size_ = n;
  }
  void clear() {
    for (size_t i = 0; i < size_ && i < N; ++i) inline_[i] = T();
    rest_.clear();
    size_ = 0;
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return i < N ? inline_[i] : rest_[i - N]; }
  const T& operator[](size_t i) const { return i < N ? inline_[i] : rest_[i - N]; }

 private:
  std::array<T, N> inline_{};
  std::vector<T> rest_;
  size_t size_ = 0;
};

}  // namespace flowgrad
