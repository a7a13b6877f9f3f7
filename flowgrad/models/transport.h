#pragma once

#include <vector>

#include "flowgrad/core/random.h"
#include "flowgrad/core/tensor.h"

/// Discrete optimal transport between two samples of equal weights. Everything here runs on the
/// host in float64, in one thread and off the tape: arrays of a device are copied first.
namespace flowgrad {

/// Squared Euclidean distances (N, M) between the rows of a (N, D) and b (M, D), float64 on the
/// CPU. ShapeError unless both are matrices of one width.
Tensor squared_distances(const Tensor& a, const Tensor& b);

/// The permutation p that minimises sum_i cost[i, p[i]], for a square cost (N, N). Prices from an
/// auction with falling epsilon (Bertsekas 1988), then augmenting row reduction and shortest
/// augmenting paths (Jonker & Volgenant 1987), which make it exact; O(N^3) without luck.
/// Deterministic, ties included. ShapeError unless square, ValueError for a cost that is not
/// finite.
std::vector<int64_t> assignment(const Tensor& cost);

struct SinkhornOptions {
  /// Entropic regularisation as a fraction of the mean cost: the plan minimises
  /// <plan, cost> - epsilon mean(cost) entropy(plan).
  double epsilon = 0.05;
  int64_t max_iterations = 10000;
  /// Largest relative error of a marginal at which the iteration stops.
  double tolerance = 1e-6;
};

enum class SinkhornStatus { converged, max_iterations };

struct TransportPlan {
  Tensor plan;      // (N, M) float64: rows sum to 1 / N, columns to 1 / M
  double cost = 0;  // <plan, cost>
  /// Largest |N row sum - 1| and |M column sum - 1|.
  double marginal_error = 0;
  int64_t iterations = 0;
  SinkhornStatus status = SinkhornStatus::converged;
};

/// Entropic transport between uniform marginals by Sinkhorn's iteration (Cuturi 2013) on
/// log-domain potentials, stabilised as in Schmitzer (2019): products with a kernel that is made
/// anew from the potentials before a scaling leaves its range. ShapeError unless cost is a matrix
/// (N, M) with N, M >= 1; ValueError for a cost that is negative or not finite, or an option out of
/// range.
TransportPlan sinkhorn(const Tensor& cost, const SinkhornOptions& options = {});

/// How noise meets data in a batch. `independent` leaves the draws as they come; `optimal` is the
/// exact assignment up to kExactCoupling rows, `sinkhorn` beyond; `sinkhorn` draws x0 for each x1
/// from its column of the entropic plan, with replacement.
enum class Coupling { independent, optimal, sinkhorn };
constexpr int64_t kExactCoupling = 512;

/// The rows of x0 (N, D) reordered so that row i goes with row i of x1 (N, D): minibatch optimal
/// transport (Pooladian et al. 2023; Tong et al. 2024). x1 stays in place, and a condition with it.
/// With conditions the pairing makes the noise depend on the condition during training, which
/// sampling does not know of (Cheng & Schwing 2025): use `independent` there. The generator is read
/// by `sinkhorn` alone. Rows that are not finite leave the pairs as they come. ShapeError unless
/// both have one shape.
Tensor couple(const Tensor& x0, const Tensor& x1, Coupling coupling, Generator& generator);

}  // namespace flowgrad
