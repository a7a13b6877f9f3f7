// The LSTM's recurrence of the fast backend against the reference loops, and those against
// formulas.
#include <cmath>

#include "catch.hpp"
#include "flowgrad/kernels/cpu/backend.h"
#include "flowgrad/kernels/reference/reference.h"
#include "kernels/cpu_support.h"
#include "kernels/lstm_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::testing;

namespace {

/// {out, h, c, h_before, c_before, g_from_x, g_h0, g_c0} of seeded values.
std::vector<Tensor> lstm_results(Backend& on, const LstmCase& c, DType dtype) {
  const Tensor weight = c.weight(dtype), lengths = c.row_lengths(),
               from_x = values(c.gates(), dtype, 2), h0 = values(c.state(), dtype, 3),
               c0 = values(c.state(), dtype, 4), g_out = values(c.states(), dtype, 5),
               g_h = values(c.state(), dtype, 6), g_c = values(c.state(), dtype, 7);
  const LstmSteps l{weight, c.lengths ? View(lengths) : View(), c.reverse};
  const Tensor gates = nothing(c.gates(), dtype);
  std::vector<Tensor> r;
  for (const Shape& s :
       {c.states(), c.state(), c.state(), c.states(), c.states(), c.gates(), c.state(), c.state()})
    r.push_back(nothing(s, dtype));
  on.lstm(l, from_x, h0, c0, r[0], r[1], r[2], gates, r[3], r[4]);
  on.lstm_grad(l, gates, r[4], r[2], g_out, g_h, g_c, r[5], r[6], r[7]);
  return r;
}

/// As relative_error, and infinite for any NaN.
double finite_error(const Tensor& got, const Tensor& want) {
  for (const double v : got.to_vector<double>()) {
    if (std::isnan(v)) return HUGE_VAL;
  }
  return relative_error(got, want);
}

}  // namespace

TEST_CASE("the fast LSTM equals the reference loops", "[lstm_test]") {
  fast_equals_reference(lstm_cases(), lstm_results, finite_error, {3e-6, 5e-15});
}

TEST_CASE("an LSTM that keeps nothing has the same results", "[lstm_test]") {
  for (Backend* on : {&reference_backend(), &fast_cpu_backend()}) {
    const LstmCase c{5, 4, 19, true, true};
    const DType f = DType::float32;
    const std::vector<Tensor> want = lstm_results(*on, c, f);
    const Tensor weight = c.weight(f), lengths = c.row_lengths(), from_x = values(c.gates(), f, 2),
                 h0 = values(c.state(), f, 3), c0 = values(c.state(), f, 4);
    const Tensor out = nothing(c.states(), f), h = nothing(c.state(), f), m = nothing(c.state(), f);
    on->lstm({weight, lengths, true}, from_x, h0, c0, out, h, m, View(), View(), View());
    CHECK(bytes_of(out) == bytes_of(want[0]));
    CHECK(bytes_of(h) == bytes_of(want[1]));
    CHECK(bytes_of(m) == bytes_of(want[2]));
  }
}

TEST_CASE("the reference LSTM is its definition", "[lstm_test]") {
  const auto array = [](std::vector<double> v, const Shape& s) {
    return Tensor::from(v, s, DType::float64);
  };
  const Tensor weight = array({0.5, -0.3, 0.7, 0.2}, {4, 1}),
               from_x = array({0.1, 0.4, -0.6, 0.3}, {1, 1, 4}), h0 = array({0.8}, {1, 1}),
               c0 = array({-0.5}, {1, 1});
  const Tensor out = nothing({1, 1, 1}, DType::float64), h = nothing({1, 1}, DType::float64),
               c = nothing({1, 1}, DType::float64);
  reference_backend().lstm({weight, View(), false}, from_x, h0, c0, out, h, c, View(), View(),
                           View());
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double memory = sigmoid(0.4 - 0.24) * -0.5 + sigmoid(0.1 + 0.4) * std::tanh(-0.6 + 0.56);
  CHECK(std::abs(c.to_vector<double>()[0] - memory) < 1e-15);
  CHECK(std::abs(h.to_vector<double>()[0] - sigmoid(0.3 + 0.16) * std::tanh(memory)) < 1e-15);
  CHECK(out.to_vector<double>() == h.to_vector<double>());
}

TEST_CASE("an LSTM has the same bits at any number of threads and in any batch", "[lstm_test]") {
  CpuSettings restore;
  const auto bits = [](const LstmCase& c, int threads) {
    set_num_threads(threads);
    std::string all;
    for (const Tensor& t : lstm_results(fast_cpu_backend(), c, DType::float32)) all += bytes_of(t);
    return all;
  };
  for (const LstmCase& c :
       {LstmCase{33, 5, 64}, LstmCase{1, 5, 96}, LstmCase{13, 7, 48, true, true}}) {
    const std::string one = bits(c, 1);
    CHECK(bits(c, 2) == one);
    CHECK(bits(c, 5) == one);
  }
  // One step, so that the rows of a batch start with those of a smaller one.
  const std::vector<Tensor> few = lstm_results(fast_cpu_backend(), {1, 1, 40}, DType::float32),
                            many = lstm_results(fast_cpu_backend(), {30, 1, 40}, DType::float32);
  for (size_t i = 0; i < few.size(); ++i) {
    const std::string first = bytes_of(few[i]);
    CHECK(bytes_of(many[i]).substr(0, first.size()) == first);
  }
}
