#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/cnf.h"
#include "flowgrad/models/verify_subject.h"

// The checks of densities: 1 to 8 and 12.
namespace flowgrad::verification {
namespace {

/// Elements of the Jacobians of a check together: 64 rows of 64 columns.
constexpr int64_t kJacobianElements = int64_t{1} << 18;

bool is_cnf(const Subject& s) { return s.model.name() == "cnf"; }

/// Keys under which a continuous flow's log-determinant is no estimate and its solver does not
/// show: what is checked is the mathematics, not the solver's tolerance.
Config exact_keys(int64_t n_steps = 100) {
  return {{"trace", "exact"}, {"solver", "rk4"}, {"n_steps", fmt::format("{}", n_steps)}};
}

Flow& flow_of(Model& model) { return dynamic_cast<Flow&>(model.module()); }

struct Tolerances {
  double narrow, wide;
};

/// What rounding leaves: maps in closed form, those with a root to find, and solves of an equation.
Tolerances tolerances(const Subject& s) {
  if (is_cnf(s)) return {1e-4, 1e-6};
  return {1e-5, s.model.name() == "spline" ? 1e-9 : 1e-12};
}

void check_maps(Subject& s, Flow& wide, Flow& narrow) {
  const QuantityInputs in = s.inputs(s.options.rows, DType::float64);
  const QuantityInputs in32 = s.inputs(s.options.rows, DType::float32);
  const Tolerances tolerance = tolerances(s);
  Tensor z;
  {
    NoGrad off;
    z = wide.inverse(in.input, in.condition).value;
  }
  const Tensor z32 = cast(z, DType::float32);
  const auto both = [&](const std::string& what, int check, const CheckError& e,
                        const CheckError& e32) {
    s.judge(check, what + ", float64", e.max, tolerance.wide,
            fmt::format("99.9 percentile {:.1e}, {} rows", e.p999, s.options.rows));
    s.judge(check, what + ", float32", e32.max, tolerance.narrow,
            fmt::format("99.9 percentile {:.1e}", e32.p999));
  };
  both("round trip", 1, reconstruction_error(wide, in.input, in.condition),
       reconstruction_error(narrow, in32.input, in32.condition));
  both("log-determinants of both directions", 2, log_det_consistency(wide, z, in.condition),
       log_det_consistency(narrow, z32, in32.condition));
  // A Jacobian is as many backward passes as the model has columns: wide models get fewer rows.
  const int64_t most = s.options.rows / 4;
  const int64_t n =
      std::clamp(kJacobianElements / (s.dim * s.dim), std::min<int64_t>(most, 2), most);
  const auto first = [n](const Tensor& t) { return t.defined() ? slice(t, 0, 0, n) : t; };
  s.judge(3, "log-determinant against the Jacobian, float64",
          log_det_error(wide, first(z), first(in.condition)).max, is_cnf(s) ? 1e-6 : 1e-9,
          fmt::format("{} rows of {} columns by automatic differentiation", n, s.dim));
  s.judge(3, "log-determinant against the Jacobian, float32",
          log_det_error(narrow, first(z32), first(in32.condition)).max, is_cnf(s) ? 1e-3 : 1e-4,
          fmt::format("{} rows", n));
}

void check_mass(Subject& s, Flow& narrow) {
  const std::string integral = "density integrates to 1",
                    entropy = "entropy of own samples against the grid's";
  const auto skip = [&](const std::string& why) {
    s.skip(5, integral, why);
    s.skip(6, entropy, why);
  };
  if (s.dim != 2) return skip(fmt::format("a grid needs 2 dimensions, not {}", s.dim));
  if (s.condition_dim != 0) return skip("one density for each condition");
  NoGrad off;
  constexpr int64_t n = 20000;
  Generator draws = s.generator(5);
  const Tensor own = narrow.sample(n, draws);
  // Fresh weights of a planar flow are no identity: its folds are as sharp as trained ones.
  const double demanded = s.options.trained || s.model.name() == "planar" ? 1e-3 : 1e-5;
  // Small models can afford the finest grid.
  const int64_t finest = s.model.module().parameter_count() < 10000 ? 1601 : 801;
  const RefinedIntegrals r = refined_integrals(narrow, grid_over(own, 401), finest, demanded);
  const double off_by = std::abs(r.whole.mass - 1);
  // An integral that still moves says nothing about the density.
  if (off_by > demanded && r.change > demanded) {
    return skip(fmt::format("too sharp for {}: the finest two integrals differ by {:.2g}",
                            r.where(), r.change));
  }
  s.judge(5, integral, off_by, demanded, "|integral - 1|, " + r.where());

  const SampleMean log_prob = sample_mean(narrow.log_prob(own).to_vector<double>());
  s.judge(6, entropy, std::abs(-log_prob.value - r.whole.entropy) / log_prob.error, 4,
          fmt::format("standard errors between {:.4f} (of {} samples) and {:.4f}", -log_prob.value,
                      n, r.whole.entropy));
}

void check_samples(Subject& s, Flow& wide) {
  NoGrad off;
  Generator draws = s.generator(6);
  const Tensor condition = s.inputs(s.options.rows, DType::float64).condition;
  const Sampled d = wide.sample_and_log_prob(s.options.rows, draws, condition);
  s.judge(6, "density of a sample by both directions",
          error_of(d.log_prob, wide.log_prob(d.value, condition)), is_cnf(s) ? 1e-6 : 1e-9,
          "as it was drawn and by log_prob");
}

void check_floor(Subject& s, Flow& narrow) {
  if (!s.options.data.defined()) {
    s.skip(7, "likelihood below the data's entropy", "no data given");
    return;
  }
  if (s.options.data.size(0) < 2) {
    s.skip(7, "likelihood below the data's entropy", "one row has no standard error");
    return;
  }
  NoGrad off;
  const int64_t n = s.options.data.size(0);
  const QuantityInputs in = s.inputs(n, DType::float32);
  std::vector<double> all;
  constexpr int64_t kPart = 8192;
  for (int64_t at = 0; at < n; at += kPart) {
    const int64_t end = std::min(at + kPart, n);
    const Tensor condition =
        in.condition.defined() ? slice(in.condition, 0, at, end) : in.condition;
    const auto part = narrow.log_prob(slice(in.input, 0, at, end), condition).to_vector<double>();
    all.insert(all.end(), part.begin(), part.end());
  }
  const auto [mean, error] = sample_mean(all);
  const double nll = -mean;
  if (std::isnan(s.options.floor)) {
    s.skip(
        7, "likelihood below the data's entropy",
        fmt::format("the entropy is not known; {:.4f} +- {:.4f} nats on {} rows", nll, error, n));
    return;
  }
  s.judge(7, "likelihood below the data's entropy", (nll - s.options.floor) / error, -3,
          fmt::format("standard errors; {:.4f} +- {:.4f} nats, floor {:.4f}", nll, error,
                      s.options.floor),
          ">=");
}

}  // namespace

void check_density(Subject& s) {
  if (dynamic_cast<Flow*>(&s.wide->module()) == nullptr) {
    s.skip(1, "checks of a density, 1 to 7", fmt::format("{} has no inverse", s.model.name()));
    return;
  }
  const Config keys = is_cnf(s) ? exact_keys() : Config{};
  const auto wide = s.copy(DType::float64, keys), narrow = s.copy(DType::float32, keys);
  check_maps(s, flow_of(*wide), flow_of(*narrow));
  const auto coarse = s.copy(DType::float32, is_cnf(s) ? exact_keys(20) : Config{});
  check_mass(s, flow_of(*coarse));
  check_samples(s, flow_of(*wide));
  check_floor(s, flow_of(*s.narrow));
}

void check_solver(Subject& s) {
  if (!is_cnf(s)) {
    s.skip(8, "order of the solver", "no continuous flow");
    s.skip(12, "Hutchinson's estimate", "no continuous flow");
    return;
  }
  NoGrad off;
  const int64_t n = 16;
  const QuantityInputs in = s.inputs(n, DType::float64);
  const auto reference =
      s.copy(DType::float64, {{"trace", "exact"}, {"solver", "rk4"}, {"n_steps", "512"}});
  const Tensor end = flow_of(*reference).forward(in.input, in.condition).value;
  // Small steps, so that the next order does not show; rk4 reaches rounding sooner.
  for (const auto& [solver, order, steps] :
       {std::tuple{"euler", 1, 128}, {"midpoint", 2, 64}, {"heun", 2, 64}, {"rk4", 4, 16}}) {
    const auto solved = [&, solver = solver](int count) {
      const auto model =
          s.copy(DType::float64,
                 {{"trace", "exact"}, {"solver", solver}, {"n_steps", fmt::format("{}", count)}});
      return difference(flow_of(*model).forward(in.input, in.condition).value, end);
    };
    const double coarse = solved(steps), fine = solved(2 * steps);
    const double slope = std::log2(coarse / fine);
    // A field that is nearly constant leaves no error but that of the sums.
    const bool is_rounding = coarse < 1e-13 * (1 + max(abs(end)).item());
    s.judge(8, fmt::format("order of {} on this field", solver),
            is_rounding ? 0 : std::abs(slope - order), 0.35,
            is_rounding ? fmt::format("error {:.1e} of {} steps is rounding", coarse, steps)
                        : fmt::format("slope {:.2f} from {} to {} steps", slope, steps, 2 * steps));
  }

  const auto exact = s.copy(DType::float64, exact_keys());
  Config estimate = exact_keys();
  estimate["trace"] = "hutchinson";
  const auto hutchinson = s.copy(DType::float64, estimate);
  const int64_t probes = 1024, rows = 4;
  const Tensor x = slice(in.input, 0, 0, rows);
  const Tensor condition = in.condition.defined() ? slice(in.condition, 0, 0, rows) : in.condition;
  const Tensor wanted = flow_of(*exact).forward(x, condition).log_det;
  const auto repeated = [&](const Tensor& t) {
    return reshape(expand(unsqueeze(t, 1), {rows, probes, t.size(1)}), {rows * probes, t.size(1)});
  };
  const Tensor draws =
      reshape(flow_of(*hutchinson)
                  .forward(repeated(x), condition.defined() ? repeated(condition) : condition)
                  .log_det,
              {rows, probes});
  const Tensor error = std(draws, {1}) / std::sqrt(static_cast<double>(probes)) + 1e-12;
  const auto off_by = (abs(mean(draws, {1}) - wanted) / error).to_vector<double>();
  s.judge(12, "Hutchinson's estimate is unbiased", *std::max_element(off_by.begin(), off_by.end()),
          4, fmt::format("standard errors of {} probes, worst of {} rows", probes, rows));
}

}  // namespace flowgrad::verification
