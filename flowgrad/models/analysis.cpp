#include "flowgrad/models/analysis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowgrad/autograd/mode.h"
#include "flowgrad/autograd/ops.h"
#include "flowgrad/models/checks.h"
#include "flowgrad/models/metrics.h"

namespace flowgrad {
namespace {

constexpr int64_t kPart = 8192;
constexpr int64_t kTransport = 2000;  // rows of an exact assignment

Tensor head(const Tensor& t, int64_t n) {
  return t.defined() ? slice(t, 0, 0, std::min(n, t.size(0))) : t;
}

void missing(std::vector<Property>& out, const std::string& name, const std::string& why) {
  out.push_back({.name = name, .note = why});
}

/// Over the first `rows` of the data.
SampleMean log_likelihood(Model& model, const AnalysisOptions& o, int64_t rows) {
  Generator generator(o.seed, uint64_t{21} << 40);
  std::vector<double> all;
  for (int64_t at = 0; at < rows; at += kPart) {
    const int64_t end = std::min(at + kPart, rows);
    QuantityInputs in{.input = slice(o.data, 0, at, end)};
    if (o.condition.defined()) in.condition = slice(o.condition, 0, at, end);
    const auto part = model.evaluate("log_prob", in, {}, generator).to_vector<double>();
    all.insert(all.end(), part.begin(), part.end());
  }
  return sample_mean(all);
}

void describe_maps(std::vector<Property>& out, Model& model, const AnalysisOptions& o) {
  auto* flow = dynamic_cast<Flow*>(&model.module());
  const std::vector<std::string> names = {"reconstruction error", "log-determinant consistency",
                                          "log-determinant error"};
  if (flow == nullptr || model.name() == "cnf") {
    const std::string why = flow == nullptr
                                ? "no inverse map"
                                : "flowgrad verify gives it, with the exact trace and fine steps";
    for (const std::string& name : names) missing(out, name, why);
    return;
  }
  const Tensor x = head(o.data, 2000), condition = head(o.condition, 2000);
  NoGrad off;
  const Tensor z = flow->inverse(x, condition).value;
  const auto add = [&](const std::string& name, const CheckError& e, const std::string& how) {
    out.push_back({.name = name,
                   .value = e.max,
                   .unit = "relative",
                   .note = fmt::format("largest; 99.9 percentile {:.2g}; {}", e.p999, how)});
  };
  add(names[0], reconstruction_error(*flow, x, condition), "x to z to x");
  add(names[1], log_det_consistency(*flow, z, condition), "both directions");
  if (flow->dim() <= 64) {
    const int64_t n = std::max<int64_t>(4, 512 / flow->dim());
    add(names[2], log_det_error(*flow, head(z, n), head(condition, n)),
        fmt::format("against the Jacobian of {} rows", std::min(n, z.size(0))));
  } else {
    missing(out, names[2], fmt::format("{} axes; up to 64 are taken", flow->dim()));
  }
}

void describe_likelihood(std::vector<Property>& out, Model& model, const AnalysisOptions& o) {
  if (!model.has("log_prob")) {
    missing(out, "log-likelihood", "no density");
    return;
  }
  auto* flow = dynamic_cast<Flow*>(&model.module());
  // A solve with an exact trace for every row is dear.
  const int64_t rows = flow != nullptr ? o.data.size(0) : std::min<int64_t>(o.data.size(0), 1000);
  const SampleMean l = log_likelihood(model, o, rows);
  const auto dim = static_cast<double>(o.data.size(1));
  out.push_back(
      {"log-likelihood", l.value, l.error, "nats", fmt::format("{} held-out rows", rows)});
  if (!std::isnan(o.floor)) {
    out.push_back({"above the entropy floor", -l.value - o.floor, l.error, "nats",
                   fmt::format("the floor is {:.4f}", o.floor)});
  }
  if (o.quantum > 0) {
    // A density of rows in units of u levels: p of a level is density times u^D.
    const double per_dim = 1 / (dim * std::numbers::ln2);
    out.push_back({"bits per dimension", -l.value * per_dim - std::log2(o.quantum),
                   l.error * per_dim, "bits", fmt::format("one level is {:.4g}", o.quantum)});
  } else {
    missing(out, "bits per dimension", "for rows of dequantised levels, whose width must be given");
  }
  if (flow == nullptr || flow->dim() != 2 || o.condition.defined()) {
    missing(out, "density integral", "for one density on the plane only");
  } else {
    Generator draws(0);
    const GridOptions first = grid_over(flow->sample(20000, draws), 401);
    const RefinedIntegrals r = refined_integrals(*flow, first, 801, 1e-5);
    out.push_back({.name = "density integral",
                   .value = r.whole.mass,
                   .note = r.where() + ", around samples"});
  }
}

void describe_moments(std::vector<Property>& out, const Tensor& samples, const Tensor& data) {
  const auto n = static_cast<double>(std::min(samples.size(0), data.size(0)));
  const Tensor m = mean(samples, {0}), m0 = mean(data, {0});
  const Tensor s = std(samples, {0}), s0 = std(data, {0});
  const Tensor error = sqrt((square(s) + square(s0)) / n) + 1e-12;
  const auto list = [](const Tensor& t) {
    const auto v = t.to_vector<double>();
    return v.size() <= 4 ? fmt::format("({:.4g})", fmt::join(v, ", "))
                         : fmt::format("{} axes", v.size());
  };
  out.push_back({"mean, largest deviation", max(abs(m - m0) / error).item(),
                 std::numeric_limits<double>::quiet_NaN(), "standard errors",
                 fmt::format("samples {}, data {}", list(m), list(m0))});
  const Tensor ratio = (s + 1e-12) / (s0 + 1e-12);
  const auto ratios = ratio.to_vector<double>();
  const double worst = *std::max_element(ratios.begin(), ratios.end(), [](double a, double b) {
    return std::abs(std::log(a)) < std::abs(std::log(b));
  });
  out.push_back({.name = "deviation, farthest ratio",
                 .value = worst,
                 .note = fmt::format("samples {}, data {}", list(s), list(s0))});
}

void describe_distances(std::vector<Property>& out, const Tensor& samples, const Tensor& data) {
  // Rows of data are needed twice, to say what a perfect model would reach.
  const int64_t n = std::min({samples.size(0), data.size(0) / 2, kTransport});
  if (n < 2) {
    missing(out, "Wasserstein-2", "too few rows of data");
    return;
  }
  const Tensor a = head(samples, n), b = head(data, n), c = slice(data, 0, n, 2 * n);
  out.push_back({.name = "Wasserstein-2",
                 .value = wasserstein2(a, b),
                 .note = fmt::format("{} samples against as many rows; data against data {:.4g}", n,
                                     wasserstein2(c, b))});
  out.push_back(
      {.name = "MMD squared",
       .value = mmd_squared(a, b),
       .note = fmt::format("the same rows; data against data {:.2g}", mmd_squared(c, b))});
}

}  // namespace

Tensor analysis_samples(Model& model, const AnalysisOptions& o) {
  NoGrad off;
  Generator generator(o.seed, uint64_t{22} << 40);
  const int64_t n = std::min(o.samples, o.data.size(0));
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < n; at += kPart) {
    QuantityOptions sampling = o.sampling;
    const int64_t end = std::min(at + kPart, n);
    sampling.n_samples = end - at;
    QuantityInputs in;
    if (o.condition.defined()) in.condition = slice(o.condition, 0, at, end);
    parts.push_back(flatten(model.evaluate("sample", in, sampling, generator), 1));
  }
  return concat(parts, 0);
}

std::vector<Property> analyze(Model& model, const AnalysisOptions& o, const Tensor& given) {
  if (!o.data.defined() || o.data.rank() != 2 || o.data.size(0) < 4 || o.samples < 4) {
    throw ValueError(fmt::format(
        "analyze: data of shape {} and {} samples given; at least 4 rows (N, D) and 4 samples are "
        "accepted",
        o.data.defined() ? o.data.shape().to_string() : "none", o.samples));
  }
  NoGrad off;
  std::vector<Property> out;
  describe_maps(out, model, o);
  describe_likelihood(out, model, o);
  const Tensor drawn = given.defined() ? given : analysis_samples(model, o);
  const Tensor samples = to(cast(drawn, DType::float64), Device::cpu());
  const Tensor data = to(cast(o.data, DType::float64), Device::cpu());
  describe_moments(out, samples, head(data, kPart));
  describe_distances(out, samples, data);
  return out;
}

}  // namespace flowgrad
