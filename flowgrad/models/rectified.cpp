#include "flowgrad/models/rectified.h"

#include <fmt/format.h>

#include <algorithm>

#include "flowgrad/autograd/ops.h"

namespace flowgrad {

Pairs reflow_pairs(FlowMatching& teacher, const Tensor& noise, const Tensor& condition,
                   const GenerateOptions& options, int64_t rows) {
  if (rows < 1)
    throw ValueError(fmt::format("reflow_pairs: rows = {} given; at least 1 is accepted", rows));
  if (noise.rank() != 2 || noise.size(0) <= rows)
    return {noise, teacher.generate(noise, condition, options), condition};
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < noise.size(0); at += rows) {
    const int64_t end = std::min(at + rows, noise.size(0));
    const bool each = condition.defined() && condition.size(0) > 1;
    parts.push_back(teacher.generate(slice(noise, 0, at, end),
                                     each ? slice(condition, 0, at, end) : condition, options));
  }
  return {noise, concat(parts, 0), condition};
}

Pairs draw_pairs(const Pairs& all, int64_t n, Generator& generator) {
  const int64_t count = all.x0.size(0);
  if (count < 1) throw ValueError("draw_pairs: no pairs given; at least one is accepted");
  const Tensor index = randint(0, count, {n}, generator, all.x0.device());
  const bool each = all.condition.defined() && all.condition.size(0) > 1;
  return {index_select(all.x0, 0, index), index_select(all.x1, 0, index),
          each ? index_select(all.condition, 0, index) : all.condition};
}

Tensor distillation_times(int64_t n, int64_t k, Generator& generator, DType dtype, Device device) {
  if (k < 1)
    throw ValueError(fmt::format("distillation_times: k = {} given; at least 1 is accepted", k));
  return cast(randint(0, k, {n}, generator, device), dtype) / static_cast<double>(k);
}

}  // namespace flowgrad
