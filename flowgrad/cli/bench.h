#pragma once

#include <functional>
#include <string>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad::cli {

/// A piece of work that is checked before it is timed. The names are those of the peers' scripts.
struct BenchCase {
  struct Prepared {
    /// One iteration.
    std::function<void()> run;
    /// Empty when the result is right, else what is wrong; runs before the timing.
    std::function<std::string()> verify;
  };
  std::string name;
  std::function<Prepared()> prepare;
  /// Work of one iteration, 0 where it does not apply.
  double flops = 0;
  double bytes = 0;
};

/// Cases whose work runs on a device. A run returns when its work has been handed over.
std::vector<BenchCase> kernel_bench_cases(Device device);
std::vector<BenchCase> model_bench_cases(Device device);

/// The machine's limits, measured: fused multiply-add rate (GFLOP/s, float32) and copy rate (GB/s,
/// read plus write) with the current number of threads.
struct Roofline {
  double gflops = 0;
  double gbytes = 0;
};
Roofline measure_roofline();
/// The first of these from one run of about a millisecond, to be taken after each sample of what is
/// held against it: a machine that slows down for a while slows both.
double multiply_add_rate();

/// Seconds of one iteration.
struct Timing {
  double minimum = 0;
  double median = 0;
  size_t samples = 0;
};
/// The peers' rule: two runs to warm up, samples of about 20 ms, at least 5, until the budget in
/// seconds is spent. A sample on a device ends when its work has. `after` runs after each, given
/// the seconds of an iteration in it.
Timing measure(const std::function<void()>& run, double budget, Device device,
               const std::function<void(double)>& after = nullptr);
/// The middle of an odd number of values, the mean of the middle two of an even one.
double median(std::vector<double> values);

/// What a result is held against: computed on the CPU in double.
Tensor exact(const Tensor& x);
/// a b in double by plain loops on all threads: no product of the library takes part.
Tensor product_in_loops(const Tensor& a, const Tensor& b);
/// ||got - want|| / ||want||; both have the same length.
double relative_error(const std::vector<double>& got, const std::vector<double>& want);

/// As the operating system names the processor.
std::string cpu_name();
/// The instruction set, or that FLOWGRAD_BACKEND chose the plain loops.
std::string cpu_kernels();
/// "<processor>, 2 threads, avx2".
std::string cpu_description();
/// Chooses an instruction set; empty leaves it. UsageError naming --isa.
void choose_isa(const std::string& name);

}  // namespace flowgrad::cli
