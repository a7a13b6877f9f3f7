#include <algorithm>
#include <cmath>
#include <vector>

#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/cpu/loop.h"
#include "flowgrad/kernels/cpu/table_of.h"

namespace flowgrad::kernels {

using namespace cpu;

namespace {

/// Many arrays as one sequence of elements, cut into chunks of equal length.
class Sequence {
 public:
  template <class Items, class Count>
  Sequence(const Items& items, const Count& count) : ends_(buffer()) {
    ends_.clear();
    int64_t total = 0;
    for (const auto& item : items) ends_.push_back(total += count(item));
  }
  int64_t chunks() const { return ends_.empty() ? 0 : (ends_.back() + kChunk - 1) / kChunk; }
  /// f(item, begin, n) for the parts of a chunk.
  template <class F>
  void for_parts(int64_t chunk, F&& f) const {
    int64_t at = chunk * kChunk;
    const int64_t end = std::min(ends_.back(), at + kChunk);
    auto item =
        static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin());
    for (; at < end; ++item) {
      const int64_t start = item == 0 ? 0 : ends_[item - 1];
      const int64_t n = std::min(ends_[item], end) - at;
      if (n > 0) f(item, at - start, n);
      at += n;
    }
  }
  template <class F>
  void for_chunks(F&& f) const {
    parallel_for_if(chunks() > 2, chunks(), f);
  }

 private:
  static std::vector<int64_t>& buffer() {
    thread_local std::vector<int64_t> ends;
    return ends;
  }
  std::vector<int64_t>& ends_;
};

bool is_plain(const View& v, DType dtype) {
  return !v.defined() || (v.dtype == dtype && v.is_contiguous());
}

/// All of one floating type and contiguous: the case the kernels are for.
bool is_plain(std::span<const OptimizerSlot> slots) {
  for (const OptimizerSlot& s : slots) {
    const DType d = s.parameter.dtype;
    if ((d != DType::float32 && d != DType::float64) || !is_plain(s.parameter, d) ||
        !is_plain(s.gradient, d) || !is_plain(s.moment1, d) || !is_plain(s.moment2, d))
      return false;
  }
  return true;
}

template <class T>
T* part(const View& v, int64_t begin) {
  return v.defined() ? v.as<T>() + begin : nullptr;
}

/// f(zero of the element type, slot, begin, n) over all elements of all slots.
template <class F>
void for_slots(std::span<const OptimizerSlot> slots, F&& f) {
  const Sequence sequence(slots, [](const OptimizerSlot& s) { return s.parameter.numel(); });
  sequence.for_chunks([&](int64_t chunk) {
    sequence.for_parts(chunk, [&](size_t item, int64_t begin, int64_t n) {
      const OptimizerSlot& s = slots[item];
      if (s.parameter.dtype == DType::float32)
        f(float{}, s, begin, n);
      else
        f(double{}, s, begin, n);
    });
  });
}

}  // namespace

void CpuBackendFast::adam_step(std::span<const OptimizerSlot> slots, const AdamParams& o) {
  if (!is_plain(slots)) return ReferenceBackend::adam_step(slots, o);
  const AdamCoefficients c{o.lr / o.correction1,
                           o.beta1,
                           o.beta2,
                           o.epsilon,
                           o.decoupled ? 1 - o.lr * o.weight_decay : o.weight_decay,
                           1 / std::sqrt(o.correction2),
                           o.decoupled,
                           o.gradient_factor};
  for_slots(slots, [&](auto zero, const OptimizerSlot& s, int64_t begin, int64_t n) {
    using T = decltype(zero);
    reduce_table<T>().adam(part<T>(s.parameter, begin), part<T>(s.gradient, begin),
                           part<T>(s.moment1, begin), part<T>(s.moment2, begin), n, c);
  });
}

void CpuBackendFast::sgd_step(std::span<const OptimizerSlot> slots, const SgdParams& o) {
  if (!is_plain(slots)) return ReferenceBackend::sgd_step(slots, o);
  const SgdCoefficients c{o.lr,       o.momentum,   1 - o.dampening,  o.weight_decay,
                          o.nesterov, o.first_step, o.gradient_factor};
  for_slots(slots, [&](auto zero, const OptimizerSlot& s, int64_t begin, int64_t n) {
    using T = decltype(zero);
    reduce_table<T>().sgd(part<T>(s.parameter, begin), part<T>(s.gradient, begin),
                          part<T>(s.moment1, begin), n, c);
  });
}

double CpuBackendFast::sum_of_squares(std::span<const View> views) {
  for (const View& v : views) {
    const bool floating = v.dtype == DType::float32 || v.dtype == DType::float64;
    if (!floating || !v.is_contiguous()) return ReferenceBackend::sum_of_squares(views);
  }
  const Sequence sequence(views, [](const View& v) { return v.numel(); });
  double* const partial = scratch_of<double>(ScratchSlot::partial, sequence.chunks() + 1);
  sequence.for_chunks([&](int64_t chunk) {
    double sum = 0;
    sequence.for_parts(chunk, [&](size_t item, int64_t begin, int64_t n) {
      const View& v = views[item];
      sum += v.dtype == DType::float32
                 ? reduce_table<float>().fold[number::fold_squares](v.as<float>() + begin, n)
                 : reduce_table<double>().fold[number::fold_squares](v.as<double>() + begin, n);
    });
    partial[chunk] = sum;
  });
  double total = 0;
  for (int64_t i = 0; i < sequence.chunks(); ++i) total += partial[i];
  return total;
}

}  // namespace flowgrad::kernels
