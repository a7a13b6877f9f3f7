// Flows between Gaussians, where everything is known: fields, floors of the losses, what samplers
// make of an exact network.
#include <numbers>

#include "flowgrad/autograd/transforms.h"
#include "flowgrad/models/diffusion.h"
#include "flowgrad/models/flow_matching.h"
#include "flowgrad/models/metrics.h"
#include "flowgrad/optim/optimizer.h"
#include "flowgrad/optim/schedule.h"
#include "support.h"

using namespace flowgrad;
using flowgrad::testing::distance;

namespace {

/// Flow matching's exact field from N(0, 1) to N(mu, s^2) with independent coupling.
struct GaussianFlow {
  double mu, s;
  double spread(double t) const { return std::hypot(1 - t, t * s); }
  Tensor velocity(double t, const Tensor& x) const {
    const double rate = (t * s * s - (1 - t)) / (spread(t) * spread(t));
    return (x - t * mu) * rate + mu;
  }
  std::function<Tensor(double, const Tensor&)> field() const {
    return [*this](double t, const Tensor& x) { return velocity(t, x); };
  }
};

void train(FlowMatching& net, int steps, const std::function<Tensor(Generator&)>& loss) {
  Generator generator(11);
  Adam optimizer({{net.parameters()}}, {.lr = 3e-3});
  const Schedule schedule = cosine_schedule(3e-3, steps);
  for (int step = 0; step < steps; ++step) {
    optimizer.set_learning_rate(schedule(step));
    optimizer.zero_grad();
    backward(loss(generator));
    optimizer.step();
  }
}

FlowMatchingOptions small(int64_t dim) {
  FlowMatchingOptions o;
  o.action_dim = dim;
  o.time_dim = 16;
  o.time_scale = 10;
  o.hidden = 32;
  return o;
}

}  // namespace

TEST_CASE("Euler shrinks a Gaussian as computed; the flow map is exact", "[closed_forms_test]") {
  const GaussianFlow flow{2, 0.5};
  const Tensor x0 = tensor({-1, 0, 1}, DType::float64);
  // A late field is planted below.
  const auto spread = [&](const char* solver, int64_t steps, double late = 0) {
    const Tensor x = odeint([&](double t, const Tensor& at) { return flow.velocity(t + late, at); },
                            x0, 0, 1, {.solver = solver, .n_steps = steps});
    if (late == 0) CHECK(x.at({1}) == Catch::Approx(2).epsilon(1e-12));
    return 0.5 * (x.at({2}) - x.at({0}));
  };
  CHECK(spread("euler", 1) == Catch::Approx(0).margin(1e-15));
  CHECK(spread("euler", 10) == Catch::Approx(0.431).margin(5e-4));
  CHECK(spread("euler", 100) == Catch::Approx(0.4926).margin(5e-5));
  CHECK_FALSE(spread("euler", 100, 0.005) == Catch::Approx(0.4926).margin(5e-5));
  CHECK(spread("rk4", 40) == Catch::Approx(0.5).epsilon(1e-7));
  for (const double t : {0.3, 0.8}) {
    const Tensor x = odeint(flow.field(), x0, 0, t, {.solver = "rk4", .n_steps = 40});
    CHECK(distance(x, x0 * flow.spread(t) + 2 * t) < 1e-8);
  }
}

TEST_CASE("the likelihood of the exact field is the Gaussian's", "[closed_forms_test]") {
  const GaussianFlow flow{2, 0.5};
  const Tensor x = Tensor::from(std::vector<double>{0.6, 1.4, 2, 2.7, 3.5}, {5, 1});
  const auto error = [&](double sign) {
    const OdeState z = odeint(
        [&](double t, const OdeState& y) {
          const auto d = divergence([&](const Tensor& p) { return flow.velocity(t, p); }, y[0]);
          return OdeState{d.value, d.derivative * sign};
        },
        {x, zeros({5}, DType::float64)}, 1, 0, {.solver = "rk4", .n_steps = 60, .integrals = 1});
    const Tensor log_prob = sum(square(z[0]), {1}) * -0.5 + z[1];
    const Tensor exact = sum(square((x - 2.0) / 0.5), {1}) * -0.5 - std::log(0.5);
    return distance(log_prob, exact);
  };
  CHECK(error(1) < 1e-6);
  CHECK(error(-1) > 1e-6);  // planted: the trace subtracted
}

TEST_CASE("training finds the exact field to 2 percent", "[closed_forms_test]") {
  const GaussianFlow flow{2, 0.5};
  const auto data = [](Generator& g) { return randn({1024, 1}, g) * 0.5 + 2.0; };
  const auto error_of = [&](FlowMatching& net) {
    Generator generator(3);
    NoGrad off;
    const auto field = velocity_field(net);
    double error = 0, size = 0;
    for (int k = 0; k <= 20; ++k) {
      const double t = k / 20.0;
      const Tensor x = randn({500, 1}, generator) * flow.spread(t) + 2 * t;
      const Tensor exact = flow.velocity(t, x);
      error += sum(square(field(t, x) - exact)).item();
      size += sum(square(exact)).item();
    }
    return std::sqrt(error / size);
  };
  Generator weights(3);
  FlowMatching net(small(1), weights), reversed(small(1), weights);
  train(net, 2000, [&](Generator& g) { return net.loss(data(g), {}, g); });
  CHECK(error_of(net) < 0.02);
  // Planted: time runs from data to noise.
  train(reversed, 200, [&](Generator& g) {
    return reversed.loss(randn({1024, 1}, g), {}, g, data(g));
  });
  CHECK(error_of(reversed) > 0.02);
}

TEST_CASE("no field has a loss below pi / 2 from noise to independent noise",
          "[closed_forms_test]") {
  const double floor = std::numbers::pi / 2;
  Generator generator(4);
  const int64_t n = 400000;
  const Tensor x0 = randn({n}, generator, DType::float64);
  const Tensor t = rand({n}, generator, DType::float64);
  const Tensor fresh = randn({n}, generator, DType::float64);
  // Distance of the exact field's loss from the floor, and of the mean |x1 - x0|, what a sampler
  // drawing from the exact law is off by, from 2 / sqrt(pi); in standard errors.
  struct Gaps {
    double loss, sampled;
  };
  const auto gaps = [&](const Tensor& x1) {
    const Tensor xt = x0 + t * (x1 - x0);
    const Tensor exact = xt * (t * 2.0 - 1.0) / (square(1.0 - t) + square(t));
    const auto gap = [&](const Tensor& values, double wanted) {
      return std::abs(mean(values).item() - wanted) /
             std::sqrt(var(values).item() / static_cast<double>(n));
    };
    return Gaps{gap(square(exact - (x1 - x0)), floor),
                gap(abs(x1 - x0), 2 / std::sqrt(std::numbers::pi))};
  };
  CHECK(gaps(fresh).loss < 3);
  CHECK(gaps(fresh).sampled < 3);
  // Planted: a fiftieth of the noise reused as data.
  const Tensor reused = fresh * std::sqrt(1 - 0.02 * 0.02) + x0 * 0.02;
  CHECK(gaps(reused).loss > 3);
  CHECK(gaps(reused).sampled > 3);

  FlowMatching net(small(2), generator);
  train(net, 500, [&](Generator& g) { return net.loss(randn({512, 2}, g), {}, g); });
  NoGrad off;
  const double loss = net.loss(randn({200000, 2}, generator), {}, generator).item();
  CHECK(loss > floor - 0.02);
  CHECK(loss < floor + 0.03);
}

TEST_CASE("no network has a noise error below the mean of alpha_bar for normal data",
          "[closed_forms_test]") {
  for (const NoiseSchedule schedule : {NoiseSchedule::linear, NoiseSchedule::squared_cosine}) {
    DiffusionOptions o;
    o.action_dim = 1;
    o.schedule = schedule;
    const double floor = schedule == NoiseSchedule::linear ? 0.7418 : 0.4911;
    // Distance of the exact denoiser's error from the floor; it reads the buffer of that name as
    // alpha_bar.
    const auto gap = [&](const std::string& buffer) {
      Generator generator(5);
      const DiffusionPolicy net(o, generator, DType::float64);
      const int64_t n = 200000;
      const Tensor t = randint(0, o.n_timesteps, {n}, generator);
      const Tensor noise = randn({n, 1}, generator, DType::float64);
      const Tensor x = net.q_sample(randn({n, 1}, generator, DType::float64), t, noise);
      const auto buffers = net.buffers();
      const auto found = std::find_if(buffers.begin(), buffers.end(),
                                      [&](const auto& b) { return b.first == buffer; });
      const Tensor bar = unsqueeze(index_select(found->second, 0, t), 1);
      // x_t is standard normal, with covariance sqrt(1 - alpha_bar) to the noise.
      const Tensor errors = square(noise - sqrt(1.0 - bar) * x);
      const double standard_error = std::sqrt(var(errors).item() / static_cast<double>(n));
      return std::abs(mean(errors).item() - floor) / (3 * standard_error + 5e-5);
    };
    CHECK(gap("alphas_cumprod") < 1);
    CHECK(gap("alphas") > 1);  // planted: the factors in place of their product
  }
}

TEST_CASE("DDPM with the exact denoiser: the tutorial's schedule misses the mean",
          "[closed_forms_test]") {
  // Every step is affine in x, so that mean and variance can be followed exactly.
  const double mu = 2, s = 0.5;
  const auto reached = [&](const std::vector<double>& betas, size_t late) {
    std::vector<double> bars;
    for (const double beta : betas) bars.push_back((bars.empty() ? 1 : bars.back()) * (1 - beta));
    double mean = 0, variance = 1;
    for (size_t t = bars.size(); t-- > 0;) {
      const double beta = betas[std::min(t + late, betas.size() - 1)];
      const double noise = std::sqrt(1 - bars[t]);
      const double slope = noise / (bars[t] * s * s + 1 - bars[t]);  // of the predicted noise
      const double scale = 1 / std::sqrt(1 - beta);
      mean = scale * (mean - beta / noise * slope * (mean - std::sqrt(bars[t]) * mu));
      const double factor = scale * (1 - beta / noise * slope);
      variance = factor * factor * variance + (t > 0 ? beta : 0);
    }
    return std::pair(mean, std::sqrt(variance));
  };
  struct Case {
    NoiseSchedule schedule;
    int64_t steps;
    double times, mean, std;
  };
  for (const Case& c : {Case{NoiseSchedule::linear, 100, 1, 1.750, 0.514},
                        Case{NoiseSchedule::linear, 100, 10, 2.000, 0.508},
                        Case{NoiseSchedule::squared_cosine, 100, 1, 2.000, 0.504},
                        Case{NoiseSchedule::linear, 1000, 1, 2.000, 0.501}}) {
    Generator generator(1);
    DiffusionOptions o;
    o.schedule = c.schedule;
    o.n_timesteps = c.steps;
    o.hidden = 1;
    const DiffusionPolicy net(o, generator, DType::float64);
    auto betas = net.buffers().front().second.to_vector<double>();
    for (double& beta : betas) beta *= c.times;
    const auto off = [&](size_t late) {
      const auto [mean, std] = reached(betas, late);
      return std::max(std::abs(mean - c.mean), std::abs(std - c.std));
    };
    CHECK(off(0) < 6e-4);
    CHECK(off(3) > 6e-4);  // planted: betas three steps late
  }
}

TEST_CASE("a straight flow is exact in one step; straightness tells", "[closed_forms_test]") {
  Generator generator(6);
  const Tensor x0 = randn({100, 2}, generator, DType::float64);
  const double second = mean(sum(square(x0), {1})).item();
  // Optimal transport to N(mu, s^2) moves every point along x0 + t (mu + (s - 1) x0).
  const double mu = 2, s = 0.5;
  const auto optimal = [&](double t, const Tensor& x) {
    return (x - t * mu) * ((s - 1) / (1 - t + t * s)) + mu;
  };
  const Tensor end = x0 * s + mu;
  for (const int64_t steps : {1, 50}) {
    const OdeOptions solver{.solver = "euler", .n_steps = steps};
    const auto error = [&](const VelocityField& v) {
      return std::max(distance(odeint(v, x0, 0, 1, solver), end),
                      std::abs(straightness(v, x0, solver)));
    };
    CHECK(error(optimal) < 1e-12);
    CHECK(error(GaussianFlow{mu, s}.field()) > 1e-3);  // planted: paths that bend
  }
  // Independent coupling bends: with mu = 0 paths are x0 c(t), c^2 = (1 - t)^2 + t^2 s^2.
  const GaussianFlow bent{0, s};
  double integral = 0;
  const int panels = 2000;
  for (int k = 0; k < panels; ++k) {
    const double t = (k + 0.5) / panels;
    const double slope = (t * s * s - (1 - t)) / bent.spread(t);
    integral += (slope - (s - 1)) * (slope - (s - 1)) / panels;
  }
  CHECK(straightness(bent.field(), x0, {.solver = "rk4", .n_steps = 60}) ==
        Catch::Approx(second * integral).epsilon(1e-5));
}

TEST_CASE("mean velocities obey the MeanFlow identity", "[closed_forms_test]") {
  // u(z, r, t) = (z_t - z_r) / (t - r) along the flow; u = v - (t - r) du/dt (Geng et al. 2025).
  const GaussianFlow flow{2, 0.5};
  const double r = 0.2;
  const auto spread = [&](const Tensor& t) { return sqrt(square(1.0 - t) + square(t * flow.s)); };
  // (z, t) in, u out.
  const Function mean_velocity = [&](const Tensor& zt) {
    const Tensor z = select(zt, 0, 0), t = select(zt, 0, 1);
    const Tensor x0 = (z - t * flow.mu) / spread(t);
    return (z - (x0 * flow.spread(r) + r * flow.mu)) / (t - r);
  };
  for (const double t : {0.4, 0.9}) {
    const Tensor z = tensor({-0.5, 0.3, 2.5}, DType::float64);
    const Tensor v = flow.velocity(t, z);
    const Tensor at = stack({z, full({3}, t, DType::float64)}, 0);
    const Tensor along = stack({v, ones({3}, DType::float64)}, 0);
    const double h = 1e-5;
    const Tensor numeric =
        (mean_velocity(at + along * h) - mean_velocity(at - along * h)) / (2 * h);
    // Distances from the identity by automatic and by finite differences.
    const auto error = [&](const Tensor& direction) {
      const auto u = jvp(mean_velocity, at, direction);
      return std::max(distance(u.value, v - u.derivative * (t - r)),
                      distance(u.derivative, numeric));
    };
    CHECK(error(along) < 1e-5);
    // Planted: the partial derivative in t in place of the one along the flow.
    CHECK(error(stack({zeros_like(v), ones({3}, DType::float64)}, 0)) > 1e-5);
  }
}
