// Samplers in one launch against plain loops in double precision.
#include <cmath>
#include <limits>

#include "backend_support.cuh"
#include "flowgrad/core/normal.h"
#include "flowgrad/kernels/cuda/sampler.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

struct Case {
  DType dtype = DType::float32;
  int64_t rows = 5, width = 33, outputs = 3;
  int64_t conditions = -1;  // rows of the condition; 0: none, -1: one for each row
  bool relu = false;
  double guidance = 1;
  bool given_noise = false;
  std::vector<SamplerStage> stages;
  cuda::SamplerPlan plan{};  // columns = 0: the default
  uint64_t seed = 100;       // of the operands' values
  bool odd = false;          // hidden matrices begin at an odd place

  std::string text() const {
    return std::string(name_of(dtype)) + ", " + std::to_string(rows) + " rows, width " +
           std::to_string(width) + ", " + std::to_string(outputs) + " outputs, " +
           std::to_string(conditions) + " conditions, guidance " + std::to_string(guidance) +
           ", plan " + std::to_string(plan.columns) + " " + std::to_string(plan.rows) + " " +
           std::to_string(plan.groups);
  }
};

constexpr uint64_t kSeed = 11;
constexpr uint64_t kStream = 5;

std::vector<SamplerStage> euler(int n) {
  return std::vector<SamplerStage>(static_cast<size_t>(n), {.x_x = 1, .x_v = 1.0 / n});
}
/// Every field takes part.
std::vector<SamplerStage> everything() {
  return {{.sum_v = 0.25, .x_y = 1, .x_v = 0.5},
          {.sum_v = 0.5, .x_y = 1, .x_sum = 0.75, .commit = true},
          {.x_x = 0.5, .x_v = -0.25, .x_clean = 0.5, .clean_x = 1.5, .clean_v = -0.5, .clip = 0.4},
          {.x_x = 0.9, .x_v = 0.1, .x_noise = 0.3, .noise = 1},
          {.sum_v = 0.1,
           .x_x = 0.5,
           .x_y = 0.25,
           .x_clean = 0.25,
           .clean_x = 1,
           .clean_v = 1,
           .x_noise = 0.2},
          {.x_x = 1, .x_sum = 1}};
}

struct Operands {
  std::vector<Tensor> all;  // x, first, times, hidden, bias, last, last_bias, condition, noise
  explicit Operands(const Case& c) {
    const double root = 1 / std::sqrt(static_cast<double>(c.width));
    const auto n = static_cast<int64_t>(c.stages.size());
    const int64_t conditions = c.conditions < 0 ? c.rows : c.conditions;
    uint64_t seed = c.seed;
    const auto add = [&](const Shape& shape, double size) {
      all.push_back(values(shape, c.dtype, ++seed, -size, size));
    };
    add({c.rows, c.outputs}, 1);
    add({c.outputs, c.width}, 1);
    add({n, c.width}, 1);
    add({3, c.width, c.width}, 2 * root);
    if (c.odd) {
      const Tensor whole = values({3 * c.width * c.width + 1}, c.dtype, seed, -root, root);
      all.back() = whole.with_layout({{3, c.width, c.width}, {c.width * c.width, c.width, 1}, 1});
    }
    add({2, c.width}, 1);
    add({3, c.outputs, c.width}, 2 * root);
    add({c.outputs}, 1);
    add({conditions, c.width}, 1);
    add({3, c.rows, c.outputs}, 2);
  }
};

double silu(double x) { return x / (1 + std::exp(-x)); }

/// The unit noise of an element, as the random kernels draw it.
double drawn(DType dtype, uint64_t stream, uint64_t i) {
  if (dtype == DType::float64) return normal_at(kSeed, stream, i);
  const Philox::Block w = Philox::block(kSeed, stream, i / 4);
  const auto z = normal::box_muller32<float>(w[i % 4 / 2 * 2], w[i % 4 / 2 * 2 + 1]);
  return static_cast<double>(i % 2 == 0 ? z.first : z.second);
}

std::vector<double> expected(const Case& c, const Operands& operands) {
  std::vector<std::vector<double>> v;
  for (const Tensor& t : operands.all) v.push_back(t.to_vector<double>());
  const auto& [x0, first, times, hidden, bias, last, last_bias] =
      std::tie(v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
  const auto H = static_cast<size_t>(c.width);
  const auto A = static_cast<size_t>(c.outputs);
  const auto N = static_cast<size_t>(c.rows);
  std::vector<double> out;
  for (size_t row = 0; row < N; ++row) {
    std::vector<double> x(x0.begin() + static_cast<std::ptrdiff_t>(row * A),
                          x0.begin() + static_cast<std::ptrdiff_t>((row + 1) * A));
    std::vector<double> y = x;
    std::vector<double> sum(A, 0.0);
    for (size_t s = 0; s < c.stages.size(); ++s) {
      const auto network = [&](bool with_condition) {
        std::vector<double> h(H), u(H), w(H), result(last_bias);
        for (size_t j = 0; j < H; ++j) {
          double z = times[s * H + j];
          if (with_condition) z += v[7][(c.conditions == 1 ? 0 : row) * H + j];
          for (size_t a = 0; a < A; ++a) z += x[a] * first[a * H + j];
          h[j] = c.relu ? std::max(z, 0.0) : silu(z);
        }
        for (size_t j = 0; j < H; ++j) {
          double z = bias[j];
          for (size_t k = 0; k < H; ++k) z += hidden[j * H + k] * h[k];
          u[j] = silu(z);
        }
        for (size_t j = 0; j < H; ++j) {
          double z = bias[H + j];
          for (size_t k = 0; k < H; ++k)
            z += hidden[(H + j) * H + k] * h[k] + hidden[(2 * H + j) * H + k] * u[k];
          w[j] = silu(z);
        }
        for (size_t a = 0; a < A; ++a) {
          for (size_t j = 0; j < H; ++j)
            result[a] += last[a * H + j] * h[j] + last[(A + a) * H + j] * u[j] +
                         last[(2 * A + a) * H + j] * w[j];
        }
        return result;
      };
      std::vector<double> out_of_net = network(c.conditions != 0);
      if (c.guidance != 1) {
        const std::vector<double> without = network(false);
        for (size_t a = 0; a < A; ++a)
          out_of_net[a] = without[a] + (out_of_net[a] - without[a]) * c.guidance;
      }
      const SamplerStage& g = c.stages[s];
      for (size_t a = 0; a < A; ++a) {
        const double n = out_of_net[a];
        sum[a] += g.sum_v * n;
        double next = g.x_x * x[a] + g.x_y * y[a] + g.x_sum * sum[a] + g.x_v * n;
        double clean = g.clean_x * x[a] + g.clean_v * n;
        if (g.clip > 0) clean = std::clamp(clean, -g.clip, g.clip);
        next += g.x_clean * clean;
        const size_t e = row * A + a;
        const auto draw = static_cast<uint64_t>(g.noise);
        if (g.x_noise != 0)
          next += g.x_noise *
                  (c.given_noise ? v[8][draw * N * A + e] : drawn(c.dtype, kStream + draw, e));
        x[a] = next;
        if (g.commit) {
          y[a] = next;
          sum[a] = 0;
        }
      }
    }
    out.insert(out.end(), x.begin(), x.end());
  }
  return out;
}

Tensor on_device(const Case& c, const Operands& operands) {
  std::vector<std::unique_ptr<OnDevice>> device;
  for (const Tensor& t : operands.all) device.push_back(std::make_unique<OnDevice>(t));
  const auto view = [&](size_t i) { return device[i]->view(); };
  const OnDevice out(Tensor::empty({c.rows, c.outputs}, c.dtype));
  Sampler s;
  s.net = {view(1), view(2), {}, view(3), view(4), view(5), view(6), c.relu};
  if (c.conditions != 0) s.net.condition = view(7);
  s.stages = c.stages;
  s.guidance = c.guidance;
  if (c.given_noise) s.noise = view(8);
  s.seed = kSeed;
  s.first_stream = kStream;
  cuda::sample(c.plan.columns == 0 ? nullptr : &c.plan, s, view(0), out.view());
  const Tensor result = out.back();
  for (const auto& operand : device) CHECK(operand->is_untouched());
  return result;
}

Tensor check(const Case& c) {
  INFO(c.text());
  const Operands operands(c);
  const Tensor got = on_device(c, operands);
  const std::vector<double> want = expected(c, operands);
  const std::vector<double> values = got.to_vector<double>();
  REQUIRE(values.size() == want.size());
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = std::abs(values[i] - want[i]);
    worst = d == d ? std::max(worst, d) : std::numeric_limits<double>::infinity();
  }
  CHECK(worst <=
        (c.dtype == DType::float32 ? 3e-6 : 1e-14) * static_cast<double>(4 + c.stages.size()));
  CHECK(on_device(c, operands).to_vector<double>() == values);
  return got;
}

}  // namespace

TEST_CASE("a sampler in one launch on sizes of every kind", "[sampler_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    for (int64_t width : {1, 8, 33, 64, 70}) {
      for (int64_t outputs : {1, 7}) {
        const int64_t rows = width == 33 ? 5 : width == 64 ? 3 : 1;
        check(
            {.dtype = dtype, .rows = rows, .width = width, .outputs = outputs, .stages = euler(3)});
      }
    }
    check({.dtype = dtype, .rows = 64, .width = 8, .outputs = 7, .stages = euler(2)});
    check({.dtype = dtype, .width = 8, .stages = euler(2), .odd = true});
  }
}

TEST_CASE("a sampler's stages use all of their numbers", "[sampler_test]") {
  for (DType dtype : {DType::float32, DType::float64}) {
    for (bool given_noise : {false, true}) {
      check({.dtype = dtype, .given_noise = given_noise, .stages = everything()});
    }
    check({.dtype = dtype, .rows = 6, .conditions = 0, .relu = true, .stages = everything()});
    check({.dtype = dtype, .rows = 3, .conditions = 1, .stages = everything()});
    check({.dtype = dtype, .rows = 3, .guidance = 2.5, .stages = everything()});
    check({.dtype = dtype, .rows = 5, .conditions = 1, .guidance = 0, .stages = everything()});
  }
}

TEST_CASE("the bits of a sample do not depend on the plan's rows and groups", "[sampler_test]") {
  for (int columns : {2, 4}) {
    for (double guidance : {1.0, 3.0}) {
      Case c{.rows = 33, .width = 40, .outputs = 2, .guidance = guidance, .stages = everything()};
      c.stages.resize(4);
      const int blocks = static_cast<int>((c.width + 8 * columns - 1) / (8 * columns));
      std::vector<double> first;
      for (int rows : {1, 2, 4, 8}) {
        if (rows == 1 && guidance != 1) continue;
        c.plan = {columns, rows, blocks, rows == 4 ? 2 : 5};
        const std::vector<double> got = check(c).to_vector<double>();
        if (first.empty()) first = got;
        CHECK(got == first);
      }
    }
  }
}

TEST_CASE("a sampler's NaN stays in its row", "[sampler_test]") {
  for (bool relu : {false, true}) {
    const Case c{.relu = relu, .stages = euler(2)};
    const Operands operands(c);
    operands.all[0].data<float>()[4] = std::nanf("");  // of row 1
    const std::vector<double> got = on_device(c, operands).to_vector<double>();
    for (size_t i = 0; i < got.size(); ++i) CHECK(std::isnan(got[i]) == (i / 3 == 1));
  }
}

TEST_CASE("a sampler takes nothing for its own that an earlier one sent", "[sampler_test]") {
  // Scratch memory comes back with the boxes of earlier samplers in it, and after a single stage
  // their tag is the one that the next sampler waits for first. Several blocks wait for each other
  // from one more column than a block has. Seeds change what is sent; blocks of memory take turns.
  for (DType dtype : {DType::float32, DType::float64}) {
    const int64_t columns = dtype == DType::float32 ? 32 : 16;
    for (int64_t width : {columns, columns + 1, 2 * columns, 2 * columns + 1}) {
      for (double guidance : {1.0, 2.5}) {
        for (int64_t conditions : {0, 1, -1}) {
          for (uint64_t seed : {100, 200, 300}) {
            Case c{.dtype = dtype,
                   .rows = 3,
                   .width = width,
                   .outputs = 2,
                   .conditions = conditions,
                   .guidance = guidance,
                   .given_noise = seed == 200,
                   .stages = {{.x_x = 0.5, .x_v = 1, .x_noise = 0.25, .noise = 1}},
                   .seed = seed};
            check(c);
            if (seed == 300) {
              c.stages = everything();
              check(c);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a sampler without rows does nothing, and one that does not fit is refused",
          "[sampler_test]") {
  CHECK(on_device({.rows = 0, .stages = euler(1)}, Operands({.rows = 0, .stages = euler(1)}))
            .numel() == 0);
  CHECK(cuda_backend().has_sampler(DType::float32, 512, 7));
  CHECK(cuda_backend().has_sampler(DType::float64, 256, 7));
  CHECK(!cuda_backend().has_sampler(DType::float32, 2048, 7));
  CHECK(!cuda_backend().has_sampler(DType::bfloat16, 64, 7));
  CHECK(!reference_backend().has_sampler(DType::float32, 64, 7));
  const Case large{.rows = 1, .width = 1025, .outputs = 1, .stages = euler(1)};
  CHECK_THROWS_WITH(on_device(large, Operands(large)),
                    "sample: a network of width 1025 with 1 outputs of float32 does not fit the "
                    "device");
}

TEST_CASE("a sampler of the flow matching policy's size", "[sampler_test][slow]") {
  check({.rows = 2, .width = 512, .outputs = 7, .stages = euler(2)});
}
