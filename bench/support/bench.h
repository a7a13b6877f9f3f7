#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/tensor.h"
#include "flowgrad/kernels/backend.h"

namespace CLI {
class App;
}

/// What the benchmark programs share: each lists cases, and run_cases checks a case before it times
/// it. A case that fails its check is printed as FAIL and has no speed.
namespace flowgrad::bench {

struct Case {
  std::string kernel;  ///< what is computed: "sgemm", "softmax"
  std::string size;    ///< "4096x4096x4096"
  std::string impl;    ///< who computes it; "flowgrad" is the library's own choice
  /// Impl of the same kernel and size whose time is the measure of this one, where there is one; it
  /// is listed earlier.
  std::string peer;
  double flops = 0;
  double bytes = 0;  ///< each input read once, each output written once
  /// All arrays that `apply` reads or writes, on the device that is measured.
  std::vector<Tensor> tensors;
  /// Positions in `tensors` of what is compared, and of the pure outputs among them, which are
  /// filled with NaN, whole numbers with -1, before every checked run.
  std::vector<size_t> results, poisoned;
  /// ||result - reference|| / ||reference|| at most.
  double tolerance = 1e-5;
  std::function<void(const std::vector<Tensor>&)> apply;
  /// The same on the CPU in double, given the tensors there.
  std::function<void(const std::vector<Tensor>&)> reference;
};

/// Work of a backend, after c.flops is set: `apply` on `device`, and the reference by the plain
/// loops of kernels/reference, which share nothing with what is measured; for more than 1e9
/// operations they would take too long, and the CPU's kernels for double, which smaller sizes
/// check, take their place.
using Work = std::function<void(kernels::Backend&, const std::vector<Tensor>&)>;
void set_work(Case& c, Device device, const Work& work);

struct Options {
  Device device;
  std::string sizes;              ///< as given; empty for the program's own
  std::vector<std::string> blas;  ///< as given, see open_blas
};

struct Program {
  std::string description;
  std::string sizes_help;
  std::function<std::vector<Case>(const Options&)> cases;
  bool takes_blas = false;  ///< whether --blas is for this one
};

/// Parses the command line and runs. Returns the exit code: that of `run`, 1 for an error, which is
/// printed, 2 for a wrong command line, and 3 for a file that cannot be read or written.
int run_app(CLI::App& app, int argc, char** argv, const std::function<int()>& run);

/// Parses the command line, runs the cases, prints the table. Returns the exit code: 1 when a check
/// failed, 2 for a wrong command line.
int run_cases(int argc, char** argv, const Program& program);

/// Adds --device, which sets `device`.
void add_device_option(CLI::App& app, Device& device);

/// "512,1024x64" as numbers: one list for each comma. UsageError names --sizes.
std::vector<std::vector<int64_t>> parse_sizes(const std::string& text, size_t least, size_t most);
/// "256x20000" as its two numbers. UsageError names --sizes.
std::pair<int64_t, int64_t> parse_pair(const std::string& text);

/// The measured limits of a device: of float32 multiply-adds outside the matrix units, in GFLOP/s,
/// and of a copy between two arrays beyond the caches, reads and writes counted, in GB/s.
struct Limits {
  double gflops = 0;
  double gbytes = 0;
};
Limits measure_limits(Device device);
/// GB/s of a copy that reads and writes so many bytes in all, again and again: on the CPU they stay
/// in the caches that hold them, and for a device `beyond_caches` is taken.
double copy_rate(Device device, double bytes, double beyond_caches);

/// A row of the table, after the check.
struct Row {
  std::string kernel, size, impl;
  double error = 0;
  std::string failure;         ///< empty: passed
  std::vector<double> rounds;  ///< the median of each
  std::vector<double> shares;  ///< of the limit in each; not finite: not known
  double seconds = 0;          ///< median of the rounds; 0 when not timed
  double gflops = 0, gbytes = 0;
  /// Of the rate at which the multiply-adds or a copy of as many bytes would end, whichever is
  /// later; 0: not known.
  double percent_of_limit = 0, percent_of_peer = 0;
  std::string peer;
  size_t launches = 0;
  int registers = 0;  ///< the most of its kernels
  size_t local_bytes = 0;
};

/// The rows as bars in TFLOP/s, GFLOP/s or GB/s, one chart a program; and in the plane of intensity
/// and rate, under the limits.
std::string bars_svg(const std::vector<Row>& rows, const std::string& title);
std::string roofline_svg(const std::vector<Row>& rows, const Limits& limits,
                         const std::string& title);

}  // namespace flowgrad::bench
