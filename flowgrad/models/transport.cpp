#include "flowgrad/models/transport.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"

namespace flowgrad {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The linear assignment problem with column prices v: row i bids cost[i, j] - v[j].
class Assignment {
 public:
  Assignment(const double* cost, int64_t n)
      : cost_(cost),
        n_(n),
        price_(static_cast<size_t>(n)),
        row_of_(static_cast<size_t>(n), -1),
        column_of_(static_cast<size_t>(n), -1) {}

  std::vector<int64_t> solve() {
    if (n_ == 1) return {0};
    double epsilon = 0.3 * spread();
    for (int phase = 0; phase < 4 && epsilon > 0; ++phase, epsilon /= 5) {
      std::fill(row_of_.begin(), row_of_.end(), -1);
      bid(all_columns(), epsilon);
    }
    std::vector<int64_t> free = bid(loosen(), 0);
    while (!free.empty()) free = augment(free);
    return column_of_;
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  const double* row(int64_t i) const { return cost_ + i * n_; }
  void assign(int64_t i, int64_t j) {
    column_of_[at(i)] = j;
    row_of_[at(j)] = i;
  }

  /// Mean cost above the least.
  double spread() const {
    double least = kInfinity, sum = 0;
    for (int64_t k = 0; k < n_ * n_; ++k) {
      least = std::min(least, cost_[k]);
      sum += cost_[k];
    }
    return sum / static_cast<double>(n_ * n_) - least;
  }

  /// Rows whose column is not the best at today's prices let it go; returns all free rows.
  std::vector<int64_t> loosen() {
    std::vector<int64_t> free;
    std::fill(row_of_.begin(), row_of_.end(), -1);
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t j = column_of_[at(i)];
      if (j >= 0 && row(i)[j] - price_[at(j)] <= best_of(i).least) {
        row_of_[at(j)] = i;
        continue;
      }
      column_of_[at(i)] = -1;
      free.push_back(i);
    }
    return free;
  }

  /// The least and the second least of a row's bids, and the columns they are for.
  struct TwoBest {
    double least = kInfinity, next = kInfinity;
    int64_t first = 0, second = 0;
    void add(double h, int64_t j) {
      if (h < least) {
        next = least;
        second = first;
        least = h;
        first = j;
      } else if (h < next) {
        next = h;
        second = j;
      }
    }
  };
  TwoBest best_of(int64_t i) const {
    TwoBest best;
    const double* costs = row(i);
    const double* prices = price_.data();
    int64_t j = 0;
    // Most blocks hold nothing new: one comparison tells.
    for (; j + 8 <= n_; j += 8) {
      double low = kInfinity;
      for (int k = 0; k < 8; k += 2) {
        const double a = costs[j + k] - prices[j + k];
        const double b = costs[j + k + 1] - prices[j + k + 1];
        const double c = a < b ? a : b;
        low = c < low ? c : low;
      }
      if (low >= best.next) continue;
      for (int64_t k = j; k < j + 8; ++k) best.add(costs[k] - prices[k], k);
    }
    for (; j < n_; ++j) best.add(costs[j] - prices[j], j);
    return best;
  }

  /// An auction: a free row takes its best column, whose price falls by the lead over the second
  /// best and by epsilon more; the row that is driven out bids at once. With epsilon = 0
  /// (augmenting row reduction) every row keeps a best column, and rows that would bid for too long
  /// are returned as left free.
  std::vector<int64_t> bid(std::vector<int64_t> free, double epsilon) {
    std::vector<int64_t> left;
    int64_t bids = 0;
    while (!free.empty()) {
      const int64_t i = free.back();
      free.pop_back();
      const TwoBest best = best_of(i);
      int64_t j = best.first;
      // A lead lost to rounding lowers nothing: without this test two rows could bid for ever.
      const double lowered = price_[at(j)] - (best.next - best.least) - epsilon;
      const bool lowers = lowered < price_[at(j)];
      if (lowers) {
        price_[at(j)] = lowered;
      } else if (row_of_[at(j)] >= 0) {
        j = best.second;
      }
      const int64_t out = row_of_[at(j)];
      assign(i, j);
      if (out < 0) continue;
      column_of_[at(out)] = -1;
      (lowers && (epsilon > 0 || ++bids < 4 * n_) ? free : left).push_back(out);
    }
    return left;
  }

  /// Shortest augmenting paths from all free rows at once: Dijkstra over reduced costs grows a
  /// forest of alternating trees, one from each free row, until each has met a free column or no
  /// column is left. Prices of the columns passed keep all reduced costs non-negative and make the
  /// trees' own zero, so that every tree that met one is augmented. Returns the rows left free.
  std::vector<int64_t> augment(const std::vector<int64_t>& free) {
    distance_.assign(at(n_), kInfinity);
    from_.resize(at(n_));
    root_.resize(at(n_));
    met_.assign(at(n_), -1);  // the free column that a root's tree met
    for (const int64_t i : free) {
      root_[at(i)] = i;
      double least = kInfinity;
      for (int64_t j = 0; j < n_; ++j) least = std::min(least, row(i)[j] - price_[at(j)]);
      relax(i, least, all_columns());
    }
    open_ = all_columns();
    passed_.clear();
    size_t nearest = nearest_open();
    for (size_t waiting = free.size();;) {
      const int64_t j = open_[nearest];
      open_[nearest] = open_.back();
      open_.pop_back();
      passed_.push_back(j);
      const int64_t root = root_[at(from_[at(j)])];
      const int64_t i = row_of_[at(j)];
      if (i >= 0) {
        root_[at(i)] = root;
      } else if (met_[at(root)] < 0) {
        met_[at(root)] = j;
        --waiting;
      }
      if (waiting == 0 || open_.empty()) break;
      nearest =
          i < 0 ? nearest_open() : relax(i, row(i)[j] - price_[at(j)] - distance_[at(j)], open_);
    }
    const double reach = distance_[at(passed_.back())];
    for (const int64_t j : passed_) price_[at(j)] += distance_[at(j)] - reach;
    std::vector<int64_t> left;
    for (const int64_t root : free) {
      int64_t end = met_[at(root)];
      if (end < 0) left.push_back(root);
      while (end >= 0) {
        const int64_t i = from_[at(end)];
        const int64_t before = column_of_[at(i)];
        assign(i, end);
        end = before;
      }
    }
    return left;
  }

  /// Ways through row i to the given columns; `base` is its dual value less its own distance.
  /// Returns the place of the nearest column among them.
  size_t relax(int64_t i, double base, const std::vector<int64_t>& columns) {
    const double* costs = row(i);
    double least = kInfinity;
    size_t nearest = 0;
    for (size_t k = 0; k < columns.size(); ++k) {
      const size_t j = at(columns[k]);
      const double d = costs[j] - price_[j] - base;
      if (d < distance_[j]) {
        distance_[j] = d;
        from_[j] = i;
      }
      if (distance_[j] < least) {
        least = distance_[j];
        nearest = k;
      }
    }
    return nearest;
  }
  size_t nearest_open() const {
    size_t nearest = 0;
    for (size_t k = 1; k < open_.size(); ++k) {
      if (distance_[at(open_[k])] < distance_[at(open_[nearest])]) nearest = k;
    }
    return nearest;
  }
  std::vector<int64_t> all_columns() const {
    std::vector<int64_t> all(at(n_));
    std::iota(all.begin(), all.end(), int64_t{0});
    return all;
  }

  const double* cost_;
  int64_t n_;
  std::vector<double> price_;
  std::vector<int64_t> row_of_, column_of_;
  // Of the search: distance of each column and the row before it, columns not yet passed and those
  // passed in order, the root of each row's tree and the free column that it met.
  std::vector<double> distance_;
  std::vector<int64_t> from_, open_, passed_, root_, met_;
};

std::vector<double> checked_cost(const char* op, const Tensor& cost, double least) {
  std::vector<double> c = cost.to_vector<double>();
  for (size_t k = 0; k < c.size(); ++k) {
    if (std::isfinite(c[k]) && c[k] >= least) continue;
    const auto m = static_cast<size_t>(cost.size(1));
    throw ValueError(fmt::format("{}: cost[{}, {}] = {} given; {} numbers are accepted", op, k / m,
                                 k % m, c[k], least == 0 ? "finite non-negative" : "finite"));
  }
  return c;
}

}  // namespace

Tensor squared_distances(const Tensor& a, const Tensor& b) {
  if (a.rank() != 2 || b.rank() != 2 || a.size(1) != b.size(1)) {
    throw ShapeError(
        fmt::format("squared_distances: a is {}, b is {}; matrices (N, D) and (M, D) are accepted",
                    a.shape().to_string(), b.shape().to_string()));
  }
  const int64_t n = a.size(0), m = b.size(0), d = a.size(1);
  const std::vector<double> x = a.to_vector<double>();
  const std::vector<double> y = b.to_vector<double>();
  std::vector<double> out(static_cast<size_t>(n * m));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < d; ++k) {
        const double difference =
            x[static_cast<size_t>(i * d + k)] - y[static_cast<size_t>(j * d + k)];
        sum += difference * difference;
      }
      out[static_cast<size_t>(i * m + j)] = sum;
    }
  }
  return Tensor::from(out, {n, m});
}

std::vector<int64_t> assignment(const Tensor& cost) {
  if (cost.rank() != 2 || cost.size(0) != cost.size(1)) {
    throw ShapeError(fmt::format("assignment: cost has shape {}; a square matrix is accepted",
                                 cost.shape().to_string()));
  }
  if (cost.numel() == 0) return {};
  const std::vector<double> c = checked_cost("assignment", cost, -kInfinity);
  return Assignment(c.data(), cost.size(0)).solve();
}

namespace {

/// Sinkhorn's iteration. The plan is u_i K_ij v_j with K_ij = exp(f_i + g_j - c_ij), all in units
/// of epsilon; before a scaling u or v leaves e^+-kRange it is absorbed into the potentials.
class Sinkhorn {
 public:
  Sinkhorn(std::vector<double> cost, size_t n, size_t m)
      : cost_(std::move(cost)), n_(n), m_(m), f_(n, 0), g_(m, 0), u_(n, 1), v_(m, 1), sums_(m) {
    // Potentials of the first two half steps, in the log domain: no row or column underflows.
    for (size_t i = 0; i < n_; ++i) {
      f_[i] = -std::log(static_cast<double>(n_)) -
              log_sum_exp(m_, [&](size_t j) { return -cost_[i * m_ + j]; });
    }
    for (size_t j = 0; j < m_; ++j) {
      g_[j] = -std::log(static_cast<double>(m_)) -
              log_sum_exp(n_, [&](size_t i) { return f_[i] - cost_[i * m_ + j]; });
    }
    make_kernel();
  }

  /// Scales rows, then columns; returns the largest relative error of a row before.
  double step() {
    double error = 0;
    bool wide = false;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    for (size_t i = 0; i < n_; ++i) {
      const double* k = kernel_.data() + i * m_;
      double sum = 0;
      for (size_t j = 0; j < m_; ++j) sum += k[j] * v_[j];
      error = std::max(error, std::abs(u_[i] * sum * static_cast<double>(n_) - 1));
      u_[i] = 1 / (sum * static_cast<double>(n_));
      wide = wide || std::abs(std::log(u_[i])) > kRange;
      for (size_t j = 0; j < m_; ++j) sums_[j] += k[j] * u_[i];
    }
    for (size_t j = 0; j < m_; ++j) {
      v_[j] = 1 / (sums_[j] * static_cast<double>(m_));
      wide = wide || std::abs(std::log(v_[j])) > kRange;
    }
    if (wide) absorb();
    return error;
  }

  /// u_i K_ij v_j, row-major.
  std::vector<double> plan() {
    absorb();
    return kernel_;
  }

 private:
  static constexpr double kRange = 100;

  template <class F>
  static double log_sum_exp(size_t count, const F& value) {
    double most = -kInfinity;
    for (size_t i = 0; i < count; ++i) most = std::max(most, value(i));
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += std::exp(value(i) - most);
    return most + std::log(sum);
  }
  void absorb() {
    for (size_t i = 0; i < n_; ++i) f_[i] += std::log(u_[i]);
    for (size_t j = 0; j < m_; ++j) g_[j] += std::log(v_[j]);
    std::fill(u_.begin(), u_.end(), 1.0);
    std::fill(v_.begin(), v_.end(), 1.0);
    make_kernel();
  }
  void make_kernel() {
    kernel_.resize(n_ * m_);
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = 0; j < m_; ++j)
        kernel_[i * m_ + j] = std::exp(f_[i] + g_[j] - cost_[i * m_ + j]);
    }
  }

  std::vector<double> cost_;
  size_t n_, m_;
  std::vector<double> f_, g_, u_, v_, sums_, kernel_;
};

double marginal_error(const std::vector<double>& plan, size_t n, size_t m) {
  std::vector<double> columns(m, 0);
  double worst = 0;
  for (size_t i = 0; i < n; ++i) {
    double row = 0;
    for (size_t j = 0; j < m; ++j) {
      row += plan[i * m + j];
      columns[j] += plan[i * m + j];
    }
    worst = std::max(worst, std::abs(row * static_cast<double>(n) - 1));
  }
  for (const double c : columns) worst = std::max(worst, std::abs(c * static_cast<double>(m) - 1));
  return worst;
}

}  // namespace

TransportPlan sinkhorn(const Tensor& cost, const SinkhornOptions& o) {
  if (cost.rank() != 2 || cost.numel() == 0) {
    throw ShapeError(fmt::format("sinkhorn: cost has shape {}; (N, M) with N, M >= 1 is accepted",
                                 cost.shape().to_string()));
  }
  if (!(o.epsilon > 0) || !std::isfinite(o.epsilon) || o.max_iterations < 1 || !(o.tolerance > 0)) {
    throw ValueError(fmt::format(
        "sinkhorn: epsilon = {}, max_iterations = {}, tolerance = {} given; numbers above 0 are "
        "accepted",
        o.epsilon, o.max_iterations, o.tolerance));
  }
  const auto n = static_cast<size_t>(cost.size(0));
  const auto m = static_cast<size_t>(cost.size(1));
  const std::vector<double> c = checked_cost("sinkhorn", cost, 0);
  const double mean = std::accumulate(c.begin(), c.end(), 0.0) / static_cast<double>(c.size());
  std::vector<double> scaled = c;
  for (double& x : scaled) x = mean > 0 ? x / (o.epsilon * mean) : 0;
  Sinkhorn iteration(std::move(scaled), n, m);
  TransportPlan out;
  out.status = SinkhornStatus::max_iterations;
  while (out.iterations < o.max_iterations) {
    ++out.iterations;
    // The step that sees a small error has made it smaller still.
    if (iteration.step() > o.tolerance) continue;
    out.status = SinkhornStatus::converged;
    break;
  }
  const std::vector<double> plan = iteration.plan();
  for (size_t k = 0; k < plan.size(); ++k) out.cost += plan[k] * c[k];
  out.marginal_error = marginal_error(plan, n, m);
  out.plan = Tensor::from(plan, cost.shape());
  return out;
}

namespace {

/// For each column of the plan a row, drawn with the column's weights.
std::vector<int64_t> draw_rows(const TransportPlan& transport, Generator& generator) {
  const int64_t n = transport.plan.size(0);
  const int64_t m = transport.plan.size(1);
  const std::vector<double> plan = transport.plan.to_vector<double>();
  const std::vector<double> u = rand({m}, generator, DType::float64).to_vector<double>();
  std::vector<int64_t> rows;
  for (int64_t j = 0; j < m; ++j) {
    double rest = u[static_cast<size_t>(j)] / static_cast<double>(m);
    int64_t i = 0;
    for (; i + 1 < n; ++i) {
      rest -= plan[static_cast<size_t>(i * m + j)];
      if (rest < 0) break;
    }
    rows.push_back(i);
  }
  return rows;
}

}  // namespace

Tensor couple(const Tensor& x0, const Tensor& x1, Coupling coupling, Generator& generator) {
  if (x0.shape() != x1.shape()) {
    throw ShapeError(fmt::format("couple: x0 is {}, x1 is {}; equal shapes are accepted",
                                 x0.shape().to_string(), x1.shape().to_string()));
  }
  if (coupling == Coupling::independent || x0.size(0) < 2) return x0;
  NoGrad off;
  const Tensor cost = squared_distances(x1, x0);
  // Of a batch that is not finite the loss is not either, which is the trainer's to deal with.
  if (all(isfinite(cost)).item() == 0) return x0;
  const int64_t n = x0.size(0);
  std::vector<int64_t> rows;
  if (coupling == Coupling::optimal && n <= kExactCoupling) {
    rows = assignment(cost);
  } else {
    // A pairing needs no more than three digits of the marginals.
    rows = draw_rows(sinkhorn(transpose(cost), {.max_iterations = 1000, .tolerance = 1e-3}),
                     generator);
  }
  return index_select(x0, 0, Tensor::from(rows, {n}, DType::int64, x0.device()));
}

}  // namespace flowgrad
