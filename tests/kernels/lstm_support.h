#pragma once

#include <string>
#include <vector>

#include "flowgrad/kernels/backend.h"
#include "kernels/strided.h"

/// Sequences of every kind: what the CPU's and the device's tests of the LSTM run.
namespace flowgrad::testing {

struct LstmCase {
  int64_t rows, steps, hidden;
  bool reverse = false;
  bool lengths = false;

  Shape gates() const { return {steps, rows, 4 * hidden}; }
  Shape states() const { return {steps, rows, hidden}; }
  Shape state() const { return {rows, hidden}; }
  std::string text() const {
    return std::to_string(rows) + " rows, " + std::to_string(steps) + " steps, " +
           std::to_string(hidden) + " hidden" + (reverse ? ", reverse" : "") +
           (lengths ? ", lengths" : "");
  }
  Tensor weight(DType dtype) const { return values({4 * hidden, hidden}, dtype, 1, -0.4, 0.4); }
  /// Of row i: i modulo one more than the steps, so 0 and all of them are among many rows.
  Tensor row_lengths() const {
    std::vector<int64_t> n;
    for (int64_t i = 0; i < rows; ++i) n.push_back((i + 2) % (steps + 1));
    return Tensor::from(n, {rows}, DType::int64);
  }
};

inline std::vector<LstmCase> lstm_cases() {
  std::vector<LstmCase> all;
  for (const LstmCase& c : {LstmCase{1, 1, 1}, LstmCase{3, 4, 2}, LstmCase{5, 3, 17},
                            LstmCase{33, 2, 8}, LstmCase{7, 5, 40}}) {
    for (const bool reverse : {false, true})
      for (const bool lengths : {false, true})
        all.push_back({c.rows, c.steps, c.hidden, reverse, lengths});
  }
  all.push_back({0, 3, 4});
  all.push_back({3, 0, 4});
  return all;
}

}  // namespace flowgrad::testing
