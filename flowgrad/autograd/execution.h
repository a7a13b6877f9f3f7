#pragma once

namespace flowgrad {

/// Plain reference loops in place of the fast CPU kernels, as long as it lives.
class ReferenceKernels {
 public:
  ReferenceKernels();
  ~ReferenceKernels();
  ReferenceKernels(const ReferenceKernels&) = delete;
  ReferenceKernels& operator=(const ReferenceKernels&) = delete;

 private:
  bool were_reference_;
};

/// This many threads, as long as it lives. ValueError for n outside [1, 1024].
class ThreadCount {
 public:
  explicit ThreadCount(int n);
  ~ThreadCount();
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;
  /// What kernels use now.
  static int now();

 private:
  int before_;
};

}  // namespace flowgrad
