#pragma once

#include <cstring>

#include "device/device.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/transforms.h"
#include "support.h"

/// What the tests of fused layers of flows share.
namespace flowgrad::testing {

/// Uniform in [-1, 1), on the test's device.
inline Tensor draw(const Shape& shape, uint64_t seed, DType dtype = DType::float64) {
  Generator generator(seed);
  return rand(shape, generator, dtype, -1, 1, test_device());
}

inline Tensor mask_of(int64_t d, DType dtype) {
  std::vector<double> mask;
  for (int64_t j = 0; j < d; ++j) mask.push_back(j % 2 == 0 ? 1 : 0);
  return Tensor::from(mask, {d}, dtype, test_device());
}

/// The outputs, and the gradients of a fixed combination of them.
inline std::vector<Tensor> all_of(const MultiFunction& f, const std::vector<Tensor>& in,
                                  bool fused) {
  const FusedKernels on(fused);
  std::vector<Tensor> leaves;
  for (const Tensor& t : in) leaves.push_back(t.detach().requires_grad_());
  std::vector<Tensor> out = f(leaves);
  const Tensor loss = sum(out[0] * draw(out[0].shape(), 8, in[0].dtype())) +
                      sum(out[1] * draw(out[1].shape(), 9, in[0].dtype()));
  for (const Tensor& g : grad(std::span(&loss, 1), leaves)) out.push_back(g);
  return out;
}

/// Whether the operation of that name made t.
inline bool is_node(const Tensor& t, const char* name) {
  return std::strcmp(static_cast<const Node&>(*t.node()).name(), name) == 0;
}

}  // namespace flowgrad::testing
