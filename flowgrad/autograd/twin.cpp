#include "flowgrad/autograd/twin.h"

#include <algorithm>

namespace flowgrad {

void set_by_twin(Backward& r, std::span<const Tensor> in, const MultiFunction& twin) {
  // Inputs may depend on each other, and each gradient is of its own place alone.
  std::vector<Tensor> arguments(in.begin(), in.end());
  std::vector<Tensor> wanted;
  for (size_t i = 0; i < in.size(); ++i) {
    if (r.needs(static_cast<int>(i))) wanted.push_back(arguments[i] = tap(in[i], {}));
  }
  const std::vector<Tensor> all = twin(arguments);
  std::vector<Tensor> outputs, cotangents;
  for (size_t i = 0; i < all.size(); ++i) {
    const Tensor& cotangent = r.grad(static_cast<int>(i));
    // Not used downstream, or dependent on no input whose gradient is wanted.
    if (!cotangent.defined() || !all[i].requires_grad()) continue;
    outputs.push_back(all[i]);
    cotangents.push_back(cotangent);
  }
  const std::vector<Tensor> gradients =
      grad(outputs, wanted, cotangents, {.create_graph = true, .allow_unused = true});
  size_t next = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!r.needs(static_cast<int>(i))) continue;
    if (gradients[next].defined()) r.set(static_cast<int>(i), gradients[next]);
    ++next;
  }
}

bool alike(std::span<const Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) {
    return !t.defined() || (t.device() == tensors[0].device() && t.dtype() == tensors[0].dtype());
  });
}

}  // namespace flowgrad
