// The kernels of a continuous flow's solve against a plain loop in double, and its derivatives by
// complex steps (Squire & Trapp 1998), which have no error of truncation.
#include <complex>

#include "backend_support.cuh"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using flowgrad::testing::Dice;

namespace {

enum class TraceOf { nothing, probe, exact };

SolveSteps steps_of(const std::string& method, int64_t n_steps, double t0, double t1) {
  SolveSteps s;
  if (method == "euler") s = {1, {0}, {0}, {1}};
  if (method == "midpoint") s = {2, {0, 0.5}, {0, 0.5}, {0, 1}};
  if (method == "heun") s = {2, {0, 1}, {0, 1}, {0.5, 0.5}};
  if (method == "rk4") {
    s = {4, {0, 0.5, 0.5, 1}, {0, 0.5, 0.5, 1}, {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}};
  }
  s.n_steps = n_steps;
  s.t0 = t0;
  s.h = (t1 - t0) / static_cast<double>(n_steps);
  return s;
}

/// y0, x, t, bias, middle, middle_bias, out, out_bias, exact, left, right.
constexpr size_t kOperands = 11;
constexpr size_t kExact = 8, kLeft = 9, kRight = 10;

struct Case {
  int64_t n, d, h;
  TraceOf trace;
  std::string method;
  int64_t n_steps = 2;
  DType dtype = DType::float64;
  double t0 = 0, t1 = 1;

  SolveSteps steps() const { return steps_of(method, n_steps, t0, t1); }
  std::string name() const {
    return std::string(name_of(dtype)) + " N=" + std::to_string(n) + " D=" + std::to_string(d) +
           " H=" + std::to_string(h) + " " + method +
           (trace == TraceOf::probe   ? " probe"
            : trace == TraceOf::exact ? " exact"
                                      : " no trace");
  }
  bool uses(size_t i) const {
    if (i == kExact) return trace == TraceOf::exact;
    return i < kExact || trace == TraceOf::probe;
  }
  Shape shape(size_t i) const {
    const Shape shapes[] = {{n, d}, {h, d}, {h},    {h},    {h, h}, {h},
                            {d, h}, {d},    {h, h}, {n, h}, {n, h}};
    return shapes[i];
  }
  /// Rounded to dtype, of a size that keeps the solution near 1.
  std::vector<Tensor> operands() const {
    Dice dice(static_cast<uint64_t>(n * 131 + d * 17 + h));
    std::vector<Tensor> out;
    for (size_t i = 0; i < kOperands; ++i) {
      const double size = i == 4 || i == 6 || i == 8 ? 2 / std::sqrt(static_cast<double>(h)) : 1;
      std::vector<double> v(static_cast<size_t>(numel(shape(i))));
      for (double& x : v) x = dice.real(-size, size);
      out.push_back(Tensor::from(v, shape(i), dtype));
    }
    return out;
  }
};

/// Values of all operands, one after another for each.
template <class S>
using Values = std::vector<std::vector<S>>;

Values<double> values_of(const std::vector<Tensor>& operands) {
  Values<double> out;
  for (const Tensor& t : operands) out.push_back(t.to_vector<double>());
  return out;
}

/// The solve by the definition, a row at a time: y (N, D), then the integral (N).
template <class S>
std::vector<S> plain_solve(const Case& c, const Values<S>& v) {
  const auto n = static_cast<size_t>(c.n), d = static_cast<size_t>(c.d),
             h = static_cast<size_t>(c.h);
  const SolveSteps steps = c.steps();
  std::vector<S> out(n * d + n);
  for (size_t row = 0; row < n; ++row) {
    std::vector<S> y(v[0].begin() + static_cast<std::ptrdiff_t>(row * d),
                     v[0].begin() + static_cast<std::ptrdiff_t>((row + 1) * d));
    S integral = 0;
    for (int64_t step = 0; step < steps.n_steps; ++step) {
      const std::vector<S> start = y;
      std::vector<S> slope(d, S(0));
      for (int stage = 0; stage < steps.stages; ++stage) {
        const double t = steps.t0 + steps.h * (static_cast<double>(step) + steps.time[stage]);
        std::vector<S> one(h), two(h), x(d);
        for (size_t i = 0; i < d; ++i) x[i] = start[i] + steps.h * steps.previous[stage] * slope[i];
        for (size_t j = 0; j < h; ++j) {
          S sum = v[3][j] + t * v[2][j];
          for (size_t i = 0; i < d; ++i) sum += v[1][j * d + i] * x[i];
          one[j] = std::tanh(sum);
        }
        S trace = 0;
        for (size_t j = 0; j < h; ++j) {
          S sum = v[5][j];
          S along = 0;
          for (size_t k = 0; k < h; ++k) {
            const S d1 = 1.0 - one[k] * one[k];
            sum += v[4][j * h + k] * one[k];
            if (c.trace == TraceOf::exact) along += v[kExact][j * h + k] * d1;
            if (c.trace == TraceOf::probe) along += v[4][j * h + k] * d1 * v[kRight][row * h + k];
          }
          two[j] = std::tanh(sum);
          const S left = c.trace == TraceOf::probe ? v[kLeft][row * h + j] : S(1);
          trace += left * (1.0 - two[j] * two[j]) * along;
        }
        for (size_t i = 0; i < d; ++i) {
          slope[i] = v[7][i];
          for (size_t j = 0; j < h; ++j) slope[i] += v[6][i * h + j] * two[j];
          y[i] += steps.h * steps.weight[stage] * slope[i];
        }
        integral += steps.h * steps.weight[stage] * trace;
      }
    }
    std::copy(y.begin(), y.end(), out.begin() + static_cast<std::ptrdiff_t>(row * d));
    out[n * d + row] = integral;
  }
  return out;
}

/// Operands on the device as a field.
struct Operands {
  std::vector<std::unique_ptr<OnDevice>> arrays;
  CnfField field;
  View y0;

  Operands(const Case& c, const std::vector<Tensor>& host) {
    View views[kOperands];
    for (size_t i = 0; i < kOperands; ++i) {
      arrays.push_back(std::make_unique<OnDevice>(host[i]));
      if (c.uses(i)) views[i] = arrays[i]->view();
    }
    y0 = views[0];
    field = {views[1], views[2], views[3], views[4],  views[5],
             views[6], views[7], views[9], views[10], views[8]};
  }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  const size_t bytes = static_cast<size_t>(a.numel()) * size_of(a.dtype());
  return bytes == 0 || std::memcmp(a.raw(), b.raw(), bytes) == 0;
}

struct Solved {
  Tensor y, integral, states;
};

Solved solve_on_device(const Case& c, const std::vector<Tensor>& host) {
  const Operands in(c, host);
  const OnDevice y(Tensor::empty({c.n, c.d}, c.dtype));
  const OnDevice integral(Tensor::empty({c.n}, c.dtype));
  const OnDevice states(Tensor::empty({c.n_steps, c.n, c.d}, c.dtype));
  REQUIRE(cuda_backend().has_cnf_solve(in.field, c.steps(), false));
  cuda_backend().cnf_solve(in.field, c.steps(), in.y0, y.view(),
                           c.trace == TraceOf::nothing ? View() : integral.view(), states.view());
  for (const auto& array : in.arrays) CHECK(array->is_untouched());
  return {y.back(), integral.back(), states.back()};
}

void check_values(const Case& c) {
  INFO(c.name());
  const std::vector<Tensor> host = c.operands();
  const Values<double> v = values_of(host);
  const std::vector<double> want = plain_solve(c, v);
  const auto middle = want.begin() + static_cast<std::ptrdiff_t>(c.n * c.d);
  const Solved got = solve_on_device(c, host);
  CHECK(normalized_error(got.y, Tensor::from(std::vector<double>(want.begin(), middle),
                                             {c.n, c.d})) <= bound(c.dtype));
  if (c.trace != TraceOf::nothing) {
    CHECK(normalized_error(got.integral, Tensor::from(std::vector<double>(middle, want.end()),
                                                      {c.n})) <= bound(c.dtype));
  }
  // States: the start, and where the solve is after fewer steps.
  const std::vector<double> states = got.states.to_vector<double>();
  Case shorter = c;
  shorter.n_steps = c.n_steps - 1;
  shorter.t1 =
      c.t0 + (c.t1 - c.t0) * static_cast<double>(shorter.n_steps) / static_cast<double>(c.n_steps);
  const std::vector<double> last = plain_solve(shorter, v);
  const auto size = static_cast<std::ptrdiff_t>(c.n * c.d);
  CHECK(std::equal(v[0].begin(), v[0].end(), states.begin()));
  CHECK(normalized_error(
            Tensor::from(std::vector<double>(states.end() - size, states.end()), {c.n, c.d}),
            Tensor::from(std::vector<double>(last.begin(), last.begin() + size), {c.n, c.d})) <=
        bound(c.dtype));
  const Solved again = solve_on_device(c, host);
  CHECK(same_bits(got.y, again.y));
  CHECK((c.trace == TraceOf::nothing || same_bits(got.integral, again.integral)));
}

/// Gradients of y0, x, .. right, in the order of the operands; undefined where the case has none.
std::vector<Tensor> gradients_on_device(const Case& c, const std::vector<Tensor>& host,
                                        const Tensor& g_y, const Tensor& g_integral) {
  const Tensor states = solve_on_device(c, host).states;
  const Operands in(c, host);
  REQUIRE(cuda_backend().has_cnf_solve(in.field, c.steps(), true));
  int64_t n_weights = 0;
  for (size_t i = 1; i <= kExact; ++i) n_weights += c.uses(i) ? numel(c.shape(i)) : 0;
  const OnDevice on_states(states), on_g_y(g_y), on_g_integral(g_integral);
  const OnDevice g_y0(Tensor::empty({c.n, c.d}, c.dtype));
  const OnDevice g_left(Tensor::empty({c.n, c.h}, c.dtype));
  const OnDevice g_right(Tensor::empty({c.n, c.h}, c.dtype));
  const OnDevice g_weights(Tensor::empty({n_weights}, c.dtype));
  const bool probe = c.trace == TraceOf::probe;
  cuda_backend().cnf_solve_grad(in.field, c.steps(), on_states.view(), on_g_y.view(),
                                on_g_integral.view(), g_y0.view(), probe ? g_left.view() : View(),
                                probe ? g_right.view() : View(), g_weights.view());
  for (const auto& array : in.arrays) CHECK(array->is_untouched());
  const Tensor weights = g_weights.back();
  std::vector<Tensor> out{g_y0.back()};
  int64_t at = 0;
  for (size_t i = 1; i <= kExact; ++i) {
    if (!c.uses(i)) {
      out.emplace_back();
      continue;
    }
    const int64_t size = numel(c.shape(i));
    out.push_back(weights.with_layout(sliced("test", weights.layout(), 0, at, at + size, 1)));
    at += size;
  }
  out.push_back(probe ? g_left.back() : Tensor());
  out.push_back(probe ? g_right.back() : Tensor());
  return out;
}

using Complex = std::complex<double>;

/// sum(g * solve) differentiated along the imaginary parts of v.
double derivative(const Case& c, const Values<Complex>& v, const std::vector<double>& g) {
  const std::vector<Complex> out = plain_solve(c, v);
  double sum = 0;
  for (size_t i = 0; i < out.size(); ++i) sum += g[i] * out[i].imag();
  return sum * 1e30;
}

/// Every element of every gradient, or with `along` one derivative in a random direction for each.
void check_gradients(const Case& c, bool along) {
  INFO("gradients of " << c.name());
  const std::vector<Tensor> host = c.operands();
  Values<Complex> v;
  for (const auto& values : values_of(host)) v.emplace_back(values.begin(), values.end());
  Dice dice(77);
  std::vector<double> g(static_cast<size_t>(c.n * (c.d + 1)));
  for (double& x : g) x = static_cast<double>(static_cast<float>(dice.real(-1, 1)));
  const auto middle = g.begin() + static_cast<std::ptrdiff_t>(c.n * c.d);
  const Tensor g_y = Tensor::from(std::vector<double>(g.begin(), middle), {c.n, c.d}, c.dtype);
  const Tensor g_integral = Tensor::from(std::vector<double>(middle, g.end()), {c.n}, c.dtype);
  const std::vector<Tensor> got = gradients_on_device(c, host, g_y, g_integral);
  const std::vector<Tensor> again = gradients_on_device(c, host, g_y, g_integral);
  for (size_t i = 0; i < kOperands; ++i) {
    if (!c.uses(i)) continue;
    INFO("operand " << i);
    CHECK(same_bits(got[i], again[i]));
    const std::vector<double> values = got[i].to_vector<double>();
    std::vector<double> want, have;
    if (along) {
      // Its signs are the gradient's, so that no sum cancels; its sizes are not, or an element that
      // is wrongly zero or NaN would pass.
      double product = 0;
      for (size_t k = 0; k < values.size(); ++k) {
        const double direction = std::copysign(dice.real(0.5, 1.5), values[k]);
        v[i][k] += Complex(0, 1e-30 * direction);
        product += direction * values[k];
      }
      have = {product};
      want = {derivative(c, v, g)};
      for (Complex& x : v[i]) x = x.real();
    } else {
      have = values;
      for (Complex& x : v[i]) {
        x += Complex(0, 1e-30);
        want.push_back(derivative(c, v, g));
        x = x.real();
      }
    }
    const Shape shape{static_cast<int64_t>(want.size())};
    CHECK(normalized_error(Tensor::from(have, shape), Tensor::from(want, shape)) <= bound(c.dtype));
  }
}

constexpr TraceOf kTraces[] = {TraceOf::probe, TraceOf::exact};
const std::vector<std::string> kMethods = {"euler", "midpoint", "heun", "rk4"};

}  // namespace

TEST_CASE("a solve of every method and trace", "[cnf_solve_test]") {
  for (const std::string& method : kMethods) {
    for (TraceOf trace : {TraceOf::nothing, TraceOf::probe, TraceOf::exact}) {
      for (DType dtype : {DType::float32, DType::float64}) {
        check_values({5, 2, 8, trace, method, 3, dtype});
        check_values({3, 3, 33, trace, method, 2, dtype, 1, 0});
      }
    }
  }
}

TEST_CASE("a solve of every size", "[cnf_solve_test]") {
  for (int64_t d : {1, 2, 3, 7, 16, 17, 31, 32, 33, 43, 64, 65}) {
    for (int64_t h : {1, 8, 32, 33, 64, 65, 97}) {
      for (TraceOf trace : kTraces) {
        check_values({2, d, h, trace, "midpoint", 1,
                      h % 2 == 0 || h > 64 ? DType::float32 : DType::float64});
      }
    }
  }
  for (int64_t n : {129, 1030, 2052}) {  // the middle matrix in registers, but for the last
    check_values({n, 2, 64, TraceOf::probe, "midpoint", 1, DType::float32});
    check_values({n, 2, 64, TraceOf::nothing, "euler", 1, DType::float32});
  }
  for (int64_t n : {1, 127, 128, 129, 130, 1025, 1030, 2049, 2052, 4097}) {
    check_values({n, 2, 4, TraceOf::probe, "euler", 1, DType::float32});
    check_values({n, 3, 5, TraceOf::exact, "euler", 2, DType::float64});
    check_values({n, 1, 4, TraceOf::nothing, "euler", 1, DType::float32});
  }
}

TEST_CASE("derivatives of a solve, every element", "[cnf_solve_test]") {
  for (const std::string& method : kMethods) {
    for (TraceOf trace : kTraces) {
      for (DType dtype : {DType::float32, DType::float64}) {
        check_gradients({3, 2, 5, trace, method, 2, dtype}, false);
      }
    }
  }
  check_gradients({2, 5, 3, TraceOf::probe, "rk4", 1, DType::float64, 1, 0}, false);
}

TEST_CASE("derivatives of a solve of every size", "[cnf_solve_test]") {
  for (int64_t d : {1, 2, 3, 7, 33, 43}) {
    for (int64_t h : {1, 8, 32, 33, 64, 65, 97}) {
      for (TraceOf trace : kTraces) {
        if (h > 96 && (d > 7 || trace == TraceOf::exact)) continue;  // too large
        check_gradients({2, d, h, trace, "midpoint", 1,
                         h % 2 == 0 || h > 64 || d * h > 1000 ? DType::float32 : DType::float64},
                        true);
      }
    }
  }
  check_gradients({9, 2, 64, TraceOf::probe, "rk4", 2, DType::float32}, true);
  for (int64_t n : {1, 129, 1023, 1030, 4300}) {  // 4300: blocks with a second tile of rows
    check_gradients({n, 2, 4, TraceOf::probe, "euler", 2, DType::float64}, true);
    check_gradients({n, 3, 5, TraceOf::exact, "midpoint", 1, DType::float32}, true);
  }
}

TEST_CASE("a solve of no rows", "[cnf_solve_test]") {
  for (TraceOf trace : kTraces) {
    const Case c{0, 2, 8, trace, "rk4"};
    const std::vector<Tensor> host = c.operands();
    CHECK(solve_on_device(c, host).y.numel() == 0);
    const Tensor g_y = Tensor::empty({0, 2}, c.dtype);
    const auto gradients = gradients_on_device(c, host, g_y, Tensor::empty({0}, c.dtype));
    for (size_t i = 0; i < kOperands; ++i) {
      if (!c.uses(i)) continue;
      for (double g : gradients[i].to_vector<double>()) CHECK(g == 0);
    }
  }
}

TEST_CASE("the bits of a row do not depend on its batch", "[cnf_solve_test]") {
  for (TraceOf trace : kTraces) {
    const Case many{2100, 2, 6, trace, "midpoint", 2, DType::float32};
    const std::vector<Tensor> host = many.operands();
    const Solved all = solve_on_device(many, host);
    for (int64_t n : {1, 300, 1500}) {
      INFO(n << " rows");
      Case few = many;
      few.n = n;
      std::vector<Tensor> part = host;
      for (size_t i : {size_t{0}, kLeft, kRight}) {
        std::vector<float> rows = host[i].to_vector<float>();
        rows.resize(static_cast<size_t>(numel(few.shape(i))));
        part[i] = Tensor::from(rows, few.shape(i));
      }
      const Solved some = solve_on_device(few, part);
      CHECK(std::equal(some.y.data<float>(), some.y.data<float>() + n * 2, all.y.data<float>()));
      CHECK(std::equal(some.integral.data<float>(), some.integral.data<float>() + n,
                       all.integral.data<float>()));
    }
  }
}

TEST_CASE("what fits is taken, and what does not is declined", "[cnf_solve_test]") {
  const auto has = [](const Case& c, bool gradient) {
    const std::vector<Tensor> host = c.operands();
    const Operands in(c, host);
    return cuda_backend().has_cnf_solve(in.field, c.steps(), gradient);
  };
  CHECK(has({1, 2, 128, TraceOf::probe, "rk4", 1, DType::float32}, true));
  CHECK(has({1, 64, 64, TraceOf::exact, "rk4", 1, DType::float32}, true));
  CHECK(has({1, 2, 160, TraceOf::probe, "rk4", 1, DType::float32}, false));
  CHECK_FALSE(has({1, 2, 300, TraceOf::probe, "rk4", 1, DType::float32}, false));
  CHECK_FALSE(has({1, 2, 200, TraceOf::probe, "rk4", 1, DType::float32}, true));
  CHECK_FALSE(has({1, 2, 8, TraceOf::nothing, "rk4"}, true));
  // The largest that fit do run.
  for (DType dtype : {DType::float32, DType::float64}) {
    for (TraceOf trace : kTraces) {
      int64_t h = 192;
      while (!has({1, 2, h, trace, "rk4", 1, dtype}, true)) h -= 32;
      check_gradients({3, 2, h, trace, "rk4", 1, dtype}, true);
      h = 256;
      while (!has({1, 2, h, trace, "rk4", 1, dtype}, false)) h -= 32;
      check_values({3, 2, h, trace, "rk4", 1, dtype});
    }
  }
  Case c{2, 2, 8, TraceOf::probe, "rk4"};
  Operands in(c, c.operands());
  in.field.left.dtype = DType::float32;
  CHECK_FALSE(cuda_backend().has_cnf_solve(in.field, c.steps(), false));
  CHECK_THROWS_WITH(reference_backend().cnf_solve({}, {}, {}, {}, {}, {}),
                    "cnf_solve: backend reference has no such kernel");
}
