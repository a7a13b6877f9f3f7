#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/record.h"
#include "flowgrad/autograd/support.h"
#include "flowgrad/kernels/backend.h"

namespace flowgrad {

using kernels::backend;

namespace {

Tensor normalised(bool logarithm, const char* op, const Tensor& x, int64_t given_axis) {
  check_floating(op, x);
  const int axis = normalize_axis(op, given_axis, x.rank());
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  // Row-major on the way in: kernels choose their path by layout, and one row of a view is
  // row-major where many are not, so that its bits would depend on the batch.
  backend(x.device()).softmax(logarithm, contiguous(x.detach()), axis, out);
  if (recording(x)) {
    record(op, out, {x}, {save_output(out)}, [logarithm, axis](Backward& r) {
      const Tensor& g = r.grad();
      const Tensor y = r.saved(0);
      if (!mode().recording) {
        const Tensor gradient = Tensor::empty(y.shape(), y.dtype(), y.device());
        backend(y.device()).softmax_grad(logarithm, contiguous(g.detach()), y, axis, gradient);
        r.set(0, gradient);
      } else if (logarithm) {
        r.set(0, g - exp(y) * sum(g, {axis}, true));
      } else {
        r.set(0, y * (g - sum(g * y, {axis}, true)));
      }
    });
  }
  return out;
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t axis) { return normalised(false, "softmax", x, axis); }
Tensor log_softmax(const Tensor& x, int64_t axis) {
  return normalised(true, "log_softmax", x, axis);
}

}  // namespace flowgrad
