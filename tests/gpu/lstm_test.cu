// The LSTM's recurrence of the CUDA backend against the reference loops.
#include "backend_support.cuh"
#include "kernels/lstm_support.h"

using namespace flowgrad;
using namespace flowgrad::kernels;
using namespace flowgrad::test;
using namespace flowgrad::testing;

namespace {

void check(const LstmCase& c, DType dtype, bool keeps) {
  const std::string what = std::string(name_of(dtype)) + " " + c.text();
  const auto fresh = [&](const Shape& s) { return values(s, dtype, 8); };  // not zero by chance
  const Tensor weight = c.weight(dtype), lengths = c.row_lengths();
  const auto steps = [&](const View& w, const View& n) {
    return LstmSteps{w, c.lengths ? n : View(), c.reverse};
  };
  // Beyond a row's length the gates are whatever they are: zeros on both sides.
  const Tensor gates =
      Tensor::from(std::vector<double>(static_cast<size_t>(numel(c.gates()))), c.gates(), dtype);
  const Tensor h_before = fresh(c.states()), c_before = fresh(c.states());
  std::vector<Tensor> operands = {fresh(c.states()),
                                  fresh(c.state()),
                                  fresh(c.state()),
                                  gates,
                                  h_before,
                                  c_before,
                                  weight,
                                  lengths,
                                  values(c.gates(), dtype, 2),
                                  values(c.state(), dtype, 3),
                                  values(c.state(), dtype, 4)};
  same_as_reference(what, operands, 6, [&](Backend& be, std::vector<View>& v) {
    be.lstm(steps(v[6], v[7]), v[8], v[9], v[10], v[0], v[1], v[2], keeps ? v[3] : View(),
            keeps ? v[4] : View(), keeps ? v[5] : View());
  });
  if (!keeps) return;
  const Tensor last = fresh(c.state());
  reference_backend().lstm(steps(weight, lengths), operands[8], operands[9], operands[10],
                           fresh(c.states()), fresh(c.state()), last, gates, h_before, c_before);
  same_as_reference(
      "gradient of " + what,
      {fresh(c.gates()), fresh(c.state()), fresh(c.state()), weight, lengths, gates, c_before, last,
       values(c.states(), dtype, 5), values(c.state(), dtype, 6), values(c.state(), dtype, 7)},
      3, [&](Backend& be, std::vector<View>& v) {
        be.lstm_grad(steps(v[3], v[4]), v[5], v[6], v[7], v[8], v[9], v[10], v[0], v[1], v[2]);
      });
}

}  // namespace

TEST_CASE("an LSTM of every kind on the device", "[lstm_test]") {
  for (const DType dtype : {DType::float32, DType::float64})
    for (const LstmCase& c : lstm_cases()) check(c, dtype, true);
}

TEST_CASE("a weight that is not finite reaches its unit alone", "[lstm_test]") {
  for (const int64_t hidden : {5, 17}) {
    const LstmCase c{2, 1, hidden};
    const DType f = DType::float32;
    const Tensor weight = c.weight(f);
    weight.data<float>()[3 * hidden + 1] = HUGE_VALF;  // of unit 3, behind those of unit 2
    const auto fresh = [&](const Shape& s) { return values(s, f, 8); };
    same_as_reference("hidden " + std::to_string(hidden),
                      {fresh(c.states()), fresh(c.state()), fresh(c.state()), weight,
                       values(c.gates(), f, 2), values(c.state(), f, 3), values(c.state(), f, 4)},
                      3, [](Backend& be, std::vector<View>& v) {
                        be.lstm({v[3], {}, false}, v[4], v[5], v[6], v[0], v[1], v[2], {}, {}, {});
                      });
  }
}

TEST_CASE("an LSTM on the device that keeps nothing", "[lstm_test]") {
  check({5, 4, 19, true, true}, DType::float32, false);
  check({18, 3, 5}, DType::float64, false);
}
