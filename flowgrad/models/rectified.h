#pragma once

#include "flowgrad/models/flow_matching.h"

/// Rectified flow (Liu et al. 2023): a flow's own pairs of noise and data make straighter paths
/// than independent ones. Train a student by `student.loss(pairs.x1, pairs.condition, generator,
/// pairs.x0)` to reflow, and with `distillation_times` for t to distil; `straightness` of metrics.h
/// says what was gained.
namespace flowgrad {

/// Row i of x0 (noise) and x1 (N, A) belong together; condition (N, C) or undefined.
struct Pairs {
  Tensor x0, x1, condition = {};
};

/// Where the teacher's flow takes each row of noise (N, A); the same noise gives the same pairs. A
/// condition of one row serves all. Solved in parts of `rows` rows, which change no bit.
Pairs reflow_pairs(FlowMatching& teacher, const Tensor& noise, const Tensor& condition = {},
                   const GenerateOptions& options = {}, int64_t rows = 16384);

/// n pairs drawn from all with replacement: a batch. ValueError where there are none.
Pairs draw_pairs(const Pairs& all, int64_t n, Generator& generator);

/// Times (n) uniform on 0, 1/k, ..., (k-1)/k: those at which a k-step Euler sampler reads the
/// field. A student trained at them alone is distilled to k steps; k = 1 learns the map of noise to
/// data itself. ValueError for k < 1.
Tensor distillation_times(int64_t n, int64_t k, Generator& generator, DType dtype = DType::float32,
                          Device device = Device::cpu());

}  // namespace flowgrad
