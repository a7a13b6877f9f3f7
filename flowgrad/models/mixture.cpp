#include "flowgrad/models/mixture.h"

#include <fmt/format.h>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/flow.h"

namespace flowgrad {

GaussianMixture::GaussianMixture(int64_t components, int64_t dim, Generator& generator,
                                 DType dtype) {
  if (components < 1 || dim < 1) {
    throw ValueError(
        fmt::format("GaussianMixture: components = {}, dim = {} given; at least 1 is accepted",
                    components, dim));
  }
  logits_ = add_parameter("logits", zeros({components}, dtype));
  means_ = add_parameter("means", randn({components, dim}, generator, dtype));
  log_scales_ = add_parameter("log_scales", zeros({components, dim}, dtype));
}

Tensor GaussianMixture::log_prob(const Tensor& z) const {
  check_rows("GaussianMixture", z, means_.size(1));
  const Tensor unit = (unsqueeze(z, 1) - means_) * exp(-log_scales_);  // (N, K, D)
  const Tensor component = standard_normal_log_prob(unit) - sum(log_scales_, {1});
  return logsumexp(component + log_softmax(logits_), {1});
}

Tensor GaussianMixture::sample(int64_t n, Generator& generator) const {
  NoGrad off;
  return rsample(n, generator);
}

Tensor GaussianMixture::rsample(int64_t n, Generator& generator) const {
  const int64_t components = logits_.size(0);
  const Tensor u = rand({n, 1}, generator, means_.dtype(), 0, 1, means_.device());
  // The component is the number of inner steps of the cumulative weights that u has passed.
  const Tensor steps = slice(cumsum(softmax(logits_.detach()), 0), 0, 0, components - 1);
  const Tensor component = sum(cast(greater_equal(u, steps), DType::int64), {1});
  const Tensor normal = randn({n, means_.size(1)}, generator, means_.dtype(), means_.device());
  const Tensor z =
      index_select(means_, 0, component) + index_select(exp(log_scales_), 0, component) * normal;
  if (components == 1 || !mode().recording || !logits_.requires_grad()) return z;
  const auto refuse = [components](const Tensor&) -> Tensor {
    throw GradError(fmt::format(
        "GaussianMixture: draws from {} components have no gradient in the logits; accepted are "
        "one component and logits without requires_grad",
        components));
  };
  // Nothing but a way to the logits, which refuses a gradient when one is asked for.
  return z + sum(tap(logits_, refuse)) * 0.0;
}

}  // namespace flowgrad
