// The description of a model: a flow that is the identity describes N(0, I) exactly.
#include "flowgrad/models/analysis.h"

#include <cmath>

#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::raised;

namespace {

Property find(const std::vector<Property>& all, const std::string& name) {
  for (const Property& p : all) {
    if (p.name == name) return p;
  }
  FAIL("no property " << name);
  return {};
}

std::unique_ptr<Model> made(const std::string& name, const Config& config) {
  Generator generator(3);
  return make_model(name, config, generator);
}

}  // namespace

TEST_CASE("the identity on normal data", "[analysis_test]") {
  Generator generator(1);
  const auto model = made("realnvp", {{"hidden", "8"}, {"n_flows", "2"}});
  AnalysisOptions o;
  o.data = randn({4000, 2}, generator);
  o.samples = 500;
  o.quantum = 0.25;
  const double entropy = 1 + std::log(2 * 3.14159265358979323846);
  o.floor = entropy;
  const auto all = analyze(*model, o);
  CHECK(find(all, "reconstruction error").value == 0);
  CHECK(find(all, "log-determinant consistency").value == 0);
  const Property l = find(all, "log-likelihood");
  CHECK(l.error == Catch::Approx(1 / std::sqrt(4000.0)).epsilon(0.1));  // deviation sqrt(D / 2)
  CHECK(std::abs(l.value + entropy) < 4 * l.error);
  CHECK(find(all, "above the entropy floor").value == Catch::Approx(-l.value - entropy));
  CHECK(find(all, "bits per dimension").value == Catch::Approx(-l.value / (2 * std::log(2.0)) + 2));
  CHECK(find(all, "density integral").value == Catch::Approx(1).epsilon(1e-5));
  CHECK(find(all, "mean, largest deviation").value < 4);
  CHECK(std::abs(std::log(find(all, "deviation, farthest ratio").value)) < 0.15);
  const double near = find(all, "Wasserstein-2").value;
  CHECK(near < 0.6);

  o.data = o.data + 2.0;
  const auto far = analyze(*model, o);
  CHECK(find(far, "Wasserstein-2").value == Catch::Approx(std::sqrt(8.0)).epsilon(0.1));
  CHECK(find(far, "MMD squared").value > 100 * std::abs(find(all, "MMD squared").value));
  CHECK(find(far, "mean, largest deviation").value > 20);
}

TEST_CASE("what a model has not is said with its reason", "[analysis_test]") {
  Generator generator(1);
  const auto model = made("diffusion", {{"hidden", "8"}, {"state_dim", "3"}, {"action_dim", "5"}});
  AnalysisOptions o;
  o.data = randn({40, 5}, generator);
  o.condition = randn({40, 3}, generator);
  o.samples = 30;
  const auto all = analyze(*model, o);
  for (const char* name : {"reconstruction error", "log-likelihood"}) {
    CHECK(std::isnan(find(all, name).value));
    CHECK(!find(all, name).note.empty());
  }
  CHECK(std::isfinite(find(all, "Wasserstein-2").value));
  CHECK(analysis_samples(*model, o).shape() == Shape{30, 5});
  o.data = zeros({3, 5});
  CHECK(contains(raised<ValueError>([&] { analyze(*model, o); }), {"(3, 5)", "at least 4"}));
}
