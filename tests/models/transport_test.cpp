// Discrete optimal transport and the distances of samples, against brute force and the numbers of
// POT 0.9.7 (ot.emd2, ot.sinkhorn).
#include "flowgrad/models/transport.h"

#include <algorithm>
#include <numeric>

#include "device/device.h"
#include "flowgrad/models/metrics.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::distance;
using flowgrad::testing::raised;
using flowgrad::testing::test_device;

namespace {

/// Points that any program can make again: fractional parts of multiples of square roots.
Tensor weyl(int64_t n, int64_t d, double offset) {
  std::vector<double> x;
  for (int64_t i = 1; i <= n; ++i) {
    for (int64_t j = 1; j <= d; ++j) {
      double whole = 0;
      const auto place = static_cast<double>(j);
      const double part = std::modf(static_cast<double>(i) * std::sqrt(2 * place + offset), &whole);
      x.push_back(3 * part - 1.5 * place);
    }
  }
  return Tensor::from(x, {n, d});
}
Tensor sources(int64_t n, int64_t d) { return weyl(n, d, 1); }
Tensor targets(int64_t n, int64_t d) {
  const Tensor b = weyl(n, d, 6);
  return sin(b * 2.0) + b * 0.25;
}

double cost_of(const Tensor& cost, const std::vector<int64_t>& p) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += cost.at({static_cast<int64_t>(i), p[i]});
  return sum;
}

std::vector<int64_t> identity(int64_t n) {
  std::vector<int64_t> p(static_cast<size_t>(n));
  std::iota(p.begin(), p.end(), int64_t{0});
  return p;
}

double brute_force(const Tensor& cost) {
  std::vector<int64_t> p = identity(cost.size(0));
  double best = cost_of(cost, p);
  while (std::next_permutation(p.begin(), p.end())) best = std::min(best, cost_of(cost, p));
  return best;
}

bool is_permutation_of_all(std::vector<int64_t> p) {
  std::sort(p.begin(), p.end());
  return p == identity(static_cast<int64_t>(p.size()));
}

}  // namespace

namespace {

using Matching = std::function<std::vector<int64_t>(const Tensor& cost)>;

/// A defect: every row takes the cheapest partner that is left.
std::vector<int64_t> greedy(const Tensor& cost) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < cost.size(0); ++i) {
    int64_t best = -1;
    for (int64_t j = 0; j < cost.size(1); ++j) {
      if (std::find(out.begin(), out.end(), j) != out.end()) continue;
      if (best < 0 || cost.at({i, j}) < cost.at({i, best})) best = j;
    }
    out.push_back(best);
  }
  return out;
}

/// Small costs for which a matching is no permutation or dearer than brute force finds.
int dear(const Matching& match) {
  Generator generator(1);
  int out = 0;
  for (int64_t n = 1; n <= 8; ++n) {
    for (int trial = 0; trial < 20; ++trial) {
      // Whole numbers make ties; the others may be negative.
      const Tensor cost = trial % 2 == 0 ? cast(randint(0, 4, {n, n}, generator), DType::float64)
                                         : randn({n, n}, generator, DType::float64);
      const auto p = match(cost);
      out += !is_permutation_of_all(p) || match(cost) != p ||
             std::abs(cost_of(cost, p) - brute_force(cost)) > 1e-12;
    }
  }
  return out;
}

/// Pairings of rows, of 100 random ones and the identity, that cost less.
int cheaper(const Matching& match, int64_t n) {
  Generator generator(2);
  const Tensor cost = squared_distances(randn({n, 2}, generator), randn({n, 2}, generator));
  const double best = cost_of(cost, match(cost));
  int out = best > cost_of(cost, identity(n));
  for (int trial = 0; trial < 100; ++trial)
    out += best > cost_of(cost, randperm(n, generator).to_vector<int64_t>());
  return out;
}

}  // namespace

TEST_CASE("the assignment equals brute force up to eight rows", "[transport_test]") {
  CHECK(dear(assignment) == 0);
  CHECK(dear(greedy) > 0);
  CHECK(assignment(zeros({0, 0})).empty());
}

TEST_CASE("no other pairing costs less than the assignment", "[transport_test]") {
  Generator generator(2);
  for (const int64_t n : {17, 64, 257}) {
    const Tensor cost = squared_distances(randn({n, 2}, generator), randn({n, 2}, generator));
    const auto p = assignment(cost);
    REQUIRE(is_permutation_of_all(p));
    CHECK(cheaper(assignment, n) == 0);
    CHECK(cheaper([](const Tensor& c) { return identity(c.size(0)); }, n) > 0);  // planted
    // Optimal: no exchange of two partners helps either.
    for (size_t i = 0; i < p.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        auto q = p;
        std::swap(q[i], q[j]);
        const auto at = [&](size_t r, int64_t c) { return cost.at({static_cast<int64_t>(r), c}); };
        if (at(i, p[i]) + at(j, p[j]) > at(i, q[i]) + at(j, q[j]) + 1e-9) FAIL("not optimal");
      }
      if (n > 64) break;
    }
  }
  // Points of a lattice: many equal costs, a bidding war without end if rounding were ignored.
  std::vector<double> lattice;
  for (int i = 0; i < 144; ++i) lattice.insert(lattice.end(), {0.1 * (i % 12), 0.1 * (i / 12)});
  const Tensor grid = Tensor::from(lattice, {144, 2});
  const Tensor cost = squared_distances(grid, flip(grid, {0}) + 0.3);
  CHECK(cost_of(cost, assignment(cost)) == Catch::Approx(144 * 0.18).epsilon(1e-12));
}

TEST_CASE("Wasserstein-2 equals POT's", "[transport_test]") {
  struct Case {
    int64_t n, d;
    double value;
  };
  for (const Case& c : {Case{6, 2, 1.551576704734036}, Case{40, 2, 1.3136374268258606},
                        Case{64, 3, 2.624956991025332}, Case{150, 5, 6.572234848796853}}) {
    const Tensor a = sources(c.n, c.d), b = targets(c.n, c.d);
    CHECK(std::abs(wasserstein2(a, b) - c.value) < 1e-9);
    // Planted: pairs that a greedy search finds.
    const Tensor cost = squared_distances(a, b);
    const double found = cost_of(cost, greedy(cost)) / static_cast<double>(c.n);
    CHECK(std::abs(std::sqrt(found) - c.value) > 1e-9);
  }
  const Tensor x = sources(30, 2);
  CHECK(wasserstein2(x, flip(x, {0})) == 0);
  CHECK(wasserstein2(x, x + 2.0) == Catch::Approx(2 * std::sqrt(2.0)).epsilon(1e-12));
  CHECK(contains(raised<ShapeError>([&] { wasserstein2(x, sources(29, 2)); }),
                 {"wasserstein2", "(30, 2)", "(29, 2)"}));
  CHECK(contains(raised<ValueError>([] {
                   wasserstein2(zeros({0, 2}), zeros({0, 2}));
                 }),
                 {"empty"}));
}

TEST_CASE("Sinkhorn's plan has its marginals and equals POT's", "[transport_test]") {
  const Tensor cost = squared_distances(sources(40, 2), targets(40, 2));
  struct Case {
    double epsilon, cost, element, most;
  };
  for (const Case& c :
       {Case{0.05, 1.8276777890844187, 7.2018820285562805e-06, 0.010496200895875184},
        Case{0.02, 1.7576884578444725, 7.994408837478016e-10, 0.018210645928256202}}) {
    const TransportPlan p = sinkhorn(cost, {.epsilon = c.epsilon, .tolerance = 1e-12});
    CHECK(p.status == SinkhornStatus::converged);
    CHECK(p.marginal_error < 1e-11);
    CHECK(p.cost == Catch::Approx(c.cost).epsilon(1e-9));
    CHECK(p.plan.at({3, 5}) == Catch::Approx(c.element).epsilon(1e-6));
    CHECK(max(p.plan).item() == Catch::Approx(c.most).epsilon(1e-9));
  }
  // Any shape; costs so far apart that plain Sinkhorn would divide 0 by 0.
  const Tensor wide = squared_distances(sources(7, 2) * 100.0, targets(31, 2) + 500.0);
  const TransportPlan p = sinkhorn(wide, {.epsilon = 1e-3, .max_iterations = 200000});
  CHECK(p.status == SinkhornStatus::converged);
  CHECK(distance(sum(p.plan, {1}) * 7.0, ones({7}, DType::float64)) < 1e-6);
  CHECK(distance(sum(p.plan, {0}) * 31.0, ones({31}, DType::float64)) < 1e-6);
  const TransportPlan early = sinkhorn(cost, {.epsilon = 0.01, .max_iterations = 2});
  CHECK(early.status == SinkhornStatus::max_iterations);
  CHECK(early.iterations == 2);
  CHECK(early.marginal_error > 1e-6);
  const TransportPlan same = sinkhorn(zeros({3, 4}));
  CHECK(distance(same.plan, full({3, 4}, 1.0 / 12, DType::float64)) < 1e-15);
}

TEST_CASE("coupling pairs noise with data and leaves the data", "[transport_test][device]") {
  Generator generator(3);
  const Device device = test_device();
  const Tensor x1 = randn({64, 3}, generator, DType::float32, device);
  const Tensor x0 = randn({64, 3}, generator, DType::float32, device);
  const auto energy = [&](const Tensor& a) { return mean(square(a - x1)).item(); };
  CHECK(couple(x0, x1, Coupling::independent, generator).same_as(x0));
  const uint64_t stream = generator.stream();
  const Tensor paired = couple(x0, x1, Coupling::optimal, generator);
  CHECK(generator.stream() == stream);
  CHECK(paired.device() == device);
  CHECK(distance(sort(reshape(paired, {-1})).first, sort(reshape(x0, {-1})).first) == 0);
  CHECK(energy(paired) * 3 == Catch::Approx(std::pow(wasserstein2(x0, x1), 2)).epsilon(1e-6));
  const Tensor soft = couple(x0, x1, Coupling::sinkhorn, generator);
  CHECK(generator.stream() == stream + 1);
  CHECK(energy(soft) < 0.75 * energy(x0));
  CHECK(energy(soft) > energy(paired));
  // Large batches go by Sinkhorn.
  const Tensor many = randn({600, 2}, generator, DType::float32, device);
  const Tensor data = randn({600, 2}, generator, DType::float32, device);
  CHECK(mean(square(couple(many, data, Coupling::optimal, generator) - data)).item() <
        0.3 * mean(square(many - data)).item());
  CHECK(couple(zeros({0, 2}), zeros({0, 2}), Coupling::optimal, generator).size(0) == 0);
  CHECK(couple(x0, x1 / 0.0, Coupling::optimal, generator).same_as(x0));
  CHECK(contains(
      raised<ShapeError>([&] { couple(x0, slice(x1, 0, 0, 3), Coupling::optimal, generator); }),
      {"couple", "(64, 3)", "(3, 3)"}));
}

TEST_CASE("draws from the entropic plan follow it", "[transport_test]") {
  // Two places of data, three of noise, many copies each: frequencies are the plan's columns.
  const Tensor x1 = repeat(Tensor::from(std::vector<double>{-1, 1}, {2, 1}), {300, 1});
  const Tensor x0 = repeat(Tensor::from(std::vector<double>{-1, 0, 1}, {3, 1}), {200, 1});
  Generator generator(4);
  const TransportPlan p = sinkhorn(squared_distances(x0, x1), {.tolerance = 1e-3});
  const Tensor mass = sum(reshape(p.plan, {200, 3, 300, 2}), {0, 2}) * 2.0;  // columns sum to 1
  const Tensor drawn = couple(x0, x1, Coupling::sinkhorn, generator);
  for (int64_t j = 0; j < 2; ++j) {
    for (int64_t i = 0; i < 3; ++i) {
      const double share = mass.at({i, j});
      const Tensor own = slice(drawn, 0, j, 600, 2);
      const double found =
          mean(cast(equal(own, static_cast<double>(i - 1)), DType::float64)).item();
      CHECK(std::abs(found - share) < 4 * std::sqrt(share * (1 - share) / 300) + 2e-3);
    }
  }
}

TEST_CASE("maximum mean discrepancy", "[transport_test]") {
  const Tensor a = sources(20, 2);
  const Tensor b = targets(30, 2);
  CHECK(mmd_squared(a, b, {0.5, 1, 2}) == Catch::Approx(0.1925010051165509).epsilon(1e-12));
  CHECK(mmd_squared(a, b) == Catch::Approx(0.13701594069257458).epsilon(1e-12));
  Generator generator(5);
  const Tensor x = randn({400, 2}, generator), y = randn({400, 2}, generator);
  CHECK(std::abs(mmd_squared(x, y)) < 5e-3);
  CHECK(mmd_squared(x, y + 1.0) > 0.1);
  CHECK(mmd_squared(zeros({5, 1}), zeros({5, 1})) == 0);
  CHECK(contains(raised<ValueError>([&] { mmd_squared(a, b, {1, 0}); }), {"bandwidth 0"}));
  CHECK(contains(raised<ValueError>([&] { mmd_squared(slice(a, 0, 0, 1), b); }), {"1 and 30"}));
  CHECK(
      contains(raised<ShapeError>([&] { mmd_squared(a, sources(4, 3)); }), {"(20, 2)", "(4, 3)"}));
}

TEST_CASE("path energy of known flows", "[transport_test]") {
  const Tensor x = sources(50, 2);
  // A translation is optimal: its energy is the squared distance.
  const double pe = path_energy([](double, const Tensor& y) { return ones_like(y) * 3.0; }, x);
  CHECK(pe == Catch::Approx(18).epsilon(1e-12));
  CHECK(normalised_path_energy(pe, wasserstein2(x, x + 3.0)) < 1e-12);
  CHECK(normalised_path_energy(3, 1) == Catch::Approx(2));
  // v = x: |x0|^2 int e^(2t) dt.
  const double grown =
      path_energy([](double, const Tensor& y) { return y; }, x, {.solver = "rk4", .n_steps = 40});
  CHECK(grown ==
        Catch::Approx(mean(sum(square(x), {1})).item() * (std::exp(2.0) - 1) / 2).epsilon(1e-7));
  CHECK(contains(raised<ValueError>([] { normalised_path_energy(1, 0); }), {"wasserstein2 = 0"}));
}

TEST_CASE("impossible transport is refused", "[transport_test]") {
  CHECK(contains(raised<ShapeError>([] { assignment(zeros({2, 3})); }), {"(2, 3)", "square"}));
  CHECK(contains(raised<ShapeError>([] { sinkhorn(zeros({0, 3})); }), {"(0, 3)"}));
  CHECK(contains(raised<ShapeError>([] {
                   squared_distances(zeros({2, 3}), zeros({2, 2}));
                 }),
                 {"(2, 3)", "(2, 2)"}));
  const Tensor bad = tensor({1, 2, 3, std::nan("")});
  CHECK(contains(raised<ValueError>([&] {
                   assignment(reshape(bad, {2, 2}));
                 }),
                 {"cost[1, 1] = nan"}));
  CHECK(contains(raised<ValueError>([] {
                   sinkhorn(ones({2, 2}) * -1.0);
                 }),
                 {"cost[0, 0] = -1", "non-negative"}));
  CHECK(contains(raised<ValueError>([] {
                   sinkhorn(ones({2, 2}), {.epsilon = 0});
                 }),
                 {"epsilon = 0"}));
}
