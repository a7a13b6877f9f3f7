#pragma once

#include <string>
#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

/// The two-dimensional densities of FFJORD (Grathwohl et al. 2019; lib/toy_data.py at commit
/// 994864a of rtqichen/ffjord), drawn independently: where the original spreads points evenly over
/// a curve or splits a batch into equal classes, these draw the place and the class of each point.
/// Two of torchcfm's (torchcfm/utils.py at commit cacd4dc of atong01/conditional-flow-matching) are
/// here as well, noise and all as its code has it: its tables are about these.
namespace flowgrad::toy {

/// "moons", "circles", "rings", "swissroll", "8gaussians", "pinwheel", "2spirals", "checkerboard",
/// "torchcfm-8gaussians", "torchcfm-moons".
const std::vector<std::string>& names();

/// n points, shape (n, 2), float32 or float64. Point i depends on the generator's seed, the one
/// stream that this call takes, and i alone: a longer draw begins with the shorter one, and both
/// dtypes hold the same points. Raises ValueError for an unknown name or n < 0, DTypeError for
/// another dtype.
Tensor sample(const std::string& name, int64_t n, Generator& generator,
              DType dtype = DType::float32);

/// Differential entropy in nats, to within 1e-4: the mean negative log-likelihood of the density
/// itself, which no model can beat on fresh points. Raises ValueError for an unknown name.
double entropy_floor(const std::string& name);

}  // namespace flowgrad::toy
