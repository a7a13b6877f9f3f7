// The verdicts: right models pass every check, and each planted defect fails the check that is
// there for it.
#include "flowgrad/models/verify.h"

#include <algorithm>

#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/registry_entry.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::contains;
using flowgrad::testing::raised;

namespace {

enum class Defect {
  none,
  inverse,          // x -> z misses z
  inverse_log_det,  // of the wrong sign
  both_log_dets,    // consistent and wrong
  rows_mix,         // a row's result depends on its batch
  no_gradient,      // a parameter is left off the tape
  wrong_gradient,   // the value of a parameter's part is right, its derivative is not
  restless,         // another result at every call
  narrow,           // float64 computed in float32
  hides_infinity,   // bad data gives a finite loss
  kernels,          // the fast kernels give another result than the plain loops
  threads,          // the number of threads shows
};

/// x = z exp(a) + b.
class DefectiveAffine final : public Flow {
 public:
  DefectiveAffine(DType dtype, Defect defect)
      : defect_(defect),
        scale_(add_parameter("scale", tensor({0.3, -0.2}, dtype))),
        shift_(add_parameter("shift", tensor({0.5, -1}, dtype))) {}
  int64_t dim() const override { return 2; }
  Transformed forward(const Tensor& z, const Tensor&) override {
    Tensor x = z * exp(scale()) + shift_;
    if (defect_ == Defect::restless) x = x + 1e-6 * ++calls_;
    if (defect_ == Defect::narrow) x = cast(cast(x, DType::float32), z.dtype());
    return {x, log_det(z, defect_ == Defect::both_log_dets ? 1.1 : 1)};
  }
  Transformed inverse(const Tensor& given, const Tensor&) override {
    const Tensor x = defect_ == Defect::hides_infinity
                         ? where(isfinite(given), given, zeros_like(given))
                         : given;
    Tensor z = (x - shift_) * exp(-scale());
    if (defect_ == Defect::inverse) z = z + 1e-4;
    if (defect_ == Defect::rows_mix) z = z - mean(z, {0}, true) * 1e-3;
    if (defect_ == Defect::restless) z = z + 1e-6 * ++calls_;
    if (defect_ == Defect::narrow) z = cast(cast(z, DType::float32), z.dtype());
    if (defect_ == Defect::kernels && kernels::cpu_backend() == kernels::CpuBackend::fast)
      z = z * 1.001;
    if (defect_ == Defect::threads && kernels::num_threads() == 1) z = z * 1.001;
    const double factor = defect_ == Defect::inverse_log_det ? 1
                          : defect_ == Defect::both_log_dets ? -1.1
                                                             : -1;
    return {z, log_det(x, factor)};
  }

 private:
  Tensor scale() const {
    if (defect_ == Defect::no_gradient) return scale_.detach();
    if (defect_ == Defect::wrong_gradient) return scale_ * 1.001 - scale_.detach() * 0.001;
    return scale_;
  }
  Tensor log_det(const Tensor& x, double factor) const {
    return expand(sum(scale()) * factor, {x.size(0)});
  }
  Defect defect_;
  Tensor scale_, shift_;
  int calls_ = 0;
};

std::vector<Verdict> examine(Defect defect, VerifyOptions options = {}) {
  const auto make = [defect](DType dtype, const Config&) -> std::unique_ptr<Model> {
    return std::make_unique<registry::DensityModel>(
        ConfigReader("planar", config_keys("planar"), {}),
        std::make_unique<DefectiveAffine>(dtype, defect));
  };
  options.make = make;
  options.rows = 64;
  return verify(*make(DType::float32, {}), options);
}

std::vector<int> failed(const std::vector<Verdict>& verdicts) {
  std::vector<int> out;
  for (const Verdict& v : verdicts) {
    if (v.outcome == Outcome::failed) out.push_back(v.check);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

/// Whether the check failed, in the verdicts whose names begin so.
bool fails(const std::vector<Verdict>& verdicts, int check, const std::string& name = "") {
  return std::any_of(verdicts.begin(), verdicts.end(), [&](const Verdict& v) {
    return v.outcome == Outcome::failed && v.check == check && v.name.starts_with(name);
  });
}

std::unique_ptr<Model> made_at_random(const std::string& name, const Config& config) {
  Generator generator(3);
  auto model = make_model(name, config, generator);
  flowgrad::testing::shake(model->module(), 4, 0.2);
  return model;
}

}  // namespace

TEST_CASE("a right density passes and each defect fails its check", "[verify_test]") {
  CHECK(failed(examine(Defect::none)).empty());
  CHECK(fails(examine(Defect::inverse), 1));
  CHECK(fails(examine(Defect::inverse_log_det), 2));
  CHECK(fails(examine(Defect::both_log_dets), 3));
  CHECK(fails(examine(Defect::both_log_dets), 5));
  CHECK(fails(examine(Defect::both_log_dets), 6) == false);  // its entropy is wrong both times
  CHECK(fails(examine(Defect::inverse_log_det), 6));
  CHECK(fails(examine(Defect::rows_mix), 22));
  CHECK(fails(examine(Defect::no_gradient), 21));
  CHECK(fails(examine(Defect::wrong_gradient), 10));
  CHECK(fails(examine(Defect::restless), 23, "equal seeds"));
  CHECK(fails(examine(Defect::restless), 23, "training resumed"));
  CHECK(fails(examine(Defect::narrow), 1));
  CHECK(fails(examine(Defect::hides_infinity), 25, "a batch with infinities"));
  CHECK(fails(examine(Defect::hides_infinity), 25, "steps until"));
  CHECK(fails(examine(Defect::kernels), 24));
  const int threads = kernels::num_threads();
  kernels::set_num_threads(2);
  CHECK(fails(examine(Defect::threads), 23, "one thread"));
  kernels::set_num_threads(threads);
}

TEST_CASE("a likelihood below the entropy of the data is refused", "[verify_test]") {
  Generator generator(5);
  const Tensor z = randn({20000, 2}, generator, DType::float64);
  const Tensor x = z * exp(tensor({0.3, -0.2}, DType::float64)) +
                   tensor({0.5, -1}, DType::float64);  // what DefectiveAffine describes
  const double entropy = 0.1 + 1 + std::log(2 * 3.14159265358979323846);
  VerifyOptions options;
  options.data = x;
  options.floor = entropy;
  CHECK(failed(examine(Defect::none, options)).empty());
  options.floor = entropy + 0.05;
  CHECK(failed(examine(Defect::none, options)) == std::vector<int>{7});
  options.data = zeros({8, 3});
  CHECK(contains(raised<ShapeError>([&] { examine(Defect::none, options); }), {"(N, 2)"}));
  CHECK(contains(raised<ValueError>([&] { verify(*made_at_random("planar", {}), {.rows = 3}); }),
                 {"3 rows", "at least 4"}));
}

TEST_CASE("a density too sharp for the first grid is judged on the finest", "[verify_test]") {
  Generator generator(3);
  const auto model = make_model("planar", {{"n_flows", "20"}}, generator);
  for (const Verdict& v : verify(*model, {.rows = 16})) {
    if (v.check != 5) continue;
    CHECK(v.outcome == Outcome::passed);
    CHECK(contains(v.note, {"1601 x 1601 points"}));
  }
}

TEST_CASE("models of every name pass", "[verify_test]") {
  const std::vector<std::pair<std::string, Config>> models = {
      {"planar", {{"n_flows", "3"}}},
      {"realnvp", {{"n_flows", "3"}, {"hidden", "16"}, {"dim", "3"}, {"permute", "true"}}},
      {"realnvp", {{"n_flows", "2"}, {"hidden", "16"}, {"condition_dim", "2"}}},
      {"cnf", {{"hidden", "8"}, {"solver", "rk4"}, {"n_steps", "10"}, {"dim", "3"}}},
      {"spline", {{"n_flows", "2"}, {"hidden", "8"}, {"base_components", "2"}}},
      {"glow", {{"height", "4"}, {"width", "4"}, {"levels", "1"}, {"steps", "2"}, {"hidden", "4"}}},
      {"glow",
       {{"height", "2"}, {"width", "2"}, {"levels", "1"}, {"steps", "1"}, {"condition_dim", "2"}}},
      {"cnf", {{"hidden", "8"}, {"condition_dim", "2"}}},
      {"cnf", {{"hidden", "8"}, {"per_row", "true"}, {"dim", "3"}}},
      {"flow_matching", {{"hidden", "16"}, {"time_dim", "8"}, {"condition_dim", "2"}}},
      {"flow_matching", {{"hidden", "16"}, {"net", "mlp"}, {"sigma", "0.1"}, {"coupling", "ot"}}},

      {"consistency", {{"hidden", "16"}, {"time_dim", "8"}, {"condition_dim", "2"}}},
      {"score", {{"hidden", "16"}, {"time_dim", "8"}, {"condition_dim", "2"}}},
      {"diffusion", {{"hidden", "16"}, {"state_dim", "2"}}},
      {"flow_vla", {{"hidden", "8"}, {"height", "9"}, {"width", "9"}, {"robot_dim", "2"}}},
      {"flow_vla", {{"hidden", "8"}, {"height", "9"}, {"width", "9"}, {"auxiliary", "0"}}},
      {"hierarchical",
       {{"hidden", "8"},
        {"time_dim", "8"},
        {"latent_dim", "4"},
        {"decoder_hidden", "6"},
        {"condition_dim", "2"}}},
  };
  for (const auto& [name, config] : models) {
    for (const Verdict& v : verify(*made_at_random(name, config), {.rows = 32})) {
      INFO(name << ": " << v.check << " " << v.name << ": " << v.measured << " " << v.relation
                << " " << v.demanded << ", " << v.note);
      CHECK(v.outcome != Outcome::failed);
    }
  }
}

TEST_CASE("a schedule that keeps signal falls short", "[verify_test]") {
  const Config config{{"hidden", "8"}, {"schedule", "linear"}};
  const auto verdicts = verify(*made_at_random("diffusion", config), {.rows = 16});
  CHECK(failed(verdicts) == std::vector<int>{17});
  const auto mean = std::find_if(verdicts.begin(), verdicts.end(),
                                 [](const Verdict& v) { return v.check == 17; });
  CHECK(mean->measured == Catch::Approx(0.25).margin(5e-4));  // 1.750 in place of 2
}

TEST_CASE("defects of generators and of solvers fail their checks", "[verify_test]") {
  const auto model = made_at_random("diffusion", {{"hidden", "8"}});
  VerifyOptions options{.rows = 16};
  options.make = [&](DType dtype, const Config&) {
    Generator generator(1);
    auto copy = make_model("diffusion", model->config(), generator, dtype);
    NoGrad off;
    for (auto& [name, t] : copy->module().buffers()) {
      if (name == "alphas_cumprod") copy_(t, t * 0.99);
    }
    return copy;
  };
  CHECK(fails(verify(*model, options), 18));

  const Config small{{"hidden", "8"}, {"solver", "rk4"}, {"n_steps", "10"}};
  const auto cnf = made_at_random("cnf", small);
  const auto cnf_with = [&](const std::function<void(Config&, Module&)>& spoil) {
    VerifyOptions o{.rows = 16};
    o.make = [&](DType dtype, const Config& keys) {
      Config config = small;
      for (const auto& [name, value] : keys) config[name] = value;
      Generator generator(1);
      auto copy = make_model("cnf", config, generator, dtype);
      copy->module().load_state_dict(cnf->module().state_dict());
      spoil(config, copy->module());
      return copy;
    };
    return verify(*cnf, o);
  };
  CHECK(!fails(cnf_with([](Config&, Module&) {}), 12));
  // The estimate of another field than the exact trace's.
  CHECK(fails(cnf_with([](Config& keys, Module& m) {
                if (keys["trace"] != "hutchinson") return;
                NoGrad off;
                const Tensor w = m.parameters().front().second;
                copy_(w, w * 1.5);
              }),
              12));
  // A solver whose steps do not converge to the field's flow.
  CHECK(fails(cnf_with([](Config& keys, Module& m) {
                if (keys["n_steps"] != "512") return;
                NoGrad off;
                const Tensor w = m.parameters().front().second;
                copy_(w, w * 1.001);
              }),
              8));
}

TEST_CASE("a loss that is not its formula's fails", "[verify_test]") {
  class Scaled final : public Model {
   public:
    explicit Scaled(std::unique_ptr<Model> inner)
        : Model(inner->name(), inner->config()), inner_(std::move(inner)) {}
    Module& module() override { return inner_->module(); }
    std::vector<std::string> quantities() const override { return inner_->quantities(); }

   protected:
    Tensor compute(const std::string& q, const QuantityInputs& in, const QuantityOptions& o,
                   Generator& generator) override {
      const Tensor value = inner_->evaluate(q, in, o, generator);
      return q == "loss" ? value * 1.01 : value;
    }

   private:
    std::unique_ptr<Model> inner_;
  };
  const Config config{{"hidden", "8"}, {"time_dim", "8"}};
  VerifyOptions options{.rows = 16};
  options.make = [&](DType dtype, const Config&) -> std::unique_ptr<Model> {
    Generator generator(1);
    return std::make_unique<Scaled>(make_model("flow_matching", config, generator, dtype));
  };
  CHECK(fails(verify(*made_at_random("flow_matching", config), options), 14));
}

TEST_CASE("data without rows is refused", "[verify_test]") {
  const auto model = made_at_random("planar", {});
  CHECK(contains(raised<ValueError>([&] {
                   verify(*model, {.data = zeros({0, 2})});
                 }),
                 {"verify: data (0, 2) given; at least one row is accepted"}));
  CHECK(contains(raised<ValueError>([&] {
                   verify(*model, {.condition = zeros({0, 2})});
                 }),
                 {"verify: condition (0, 2) given; at least one row is accepted"}));
}
