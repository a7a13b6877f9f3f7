#include "support/bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "flowgrad/autograd/ops.h"
#include "flowgrad/cli/bench.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/options.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/kernels/cpu/dispatch.h"
#include "flowgrad/kernels/gpu_runtime.h"
#include "flowgrad/kernels/parallel.h"
#include "flowgrad/kernels/reference/reference.h"

namespace flowgrad::bench {
namespace {

using Tensors = std::vector<Tensor>;

struct Arguments {
  Device device;
  std::string impl = "all", only, sizes, json, markdown, bars, roofline, isa;
  std::vector<std::string> blas;
  int threads = 0, rounds = 3;
  double budget = 0.5;
  bool verify_only = false, list = false;
};

/// Operations up to which plain loops are waited for.
constexpr double kMostInLoops = 1e9;

std::string device_name([[maybe_unused]] Device device) {
#if defined(FLOWGRAD_GPU_CUDA) || defined(FLOWGRAD_GPU_EMULATED)
  if (!device.is_cpu()) return gpu::device_info(device.index).name;
#endif
  return cli::cpu_description();
}

/// The emulator's times say nothing about a device.
bool is_emulated([[maybe_unused]] Device device) {
#if defined(FLOWGRAD_GPU_EMULATED)
  return !device.is_cpu();
#else
  return false;
#endif
}

Tensors copies(const Case& c) {
  Tensors out;
  for (const Tensor& t : c.tensors) out.push_back(clone(t));
  for (size_t i : c.poisoned) {
    if (out[i].dtype() == DType::boolean) continue;
    fill_(out[i], is_floating(out[i].dtype()) ? std::numeric_limits<double>::quiet_NaN() : -1);
  }
  return out;
}

std::vector<std::vector<double>> results_of(const Case& c, const Tensors& tensors) {
  std::vector<std::vector<double>> out;
  for (size_t i : c.results) out.push_back(tensors[i].to_vector<double>());
  return out;
}

/// Results on the CPU in double, once for all impls of a kernel and size.
const std::vector<std::vector<double>>& reference_of(const Case& c) {
  static std::map<std::string, std::vector<std::vector<double>>> known;
  const std::string key = c.kernel + " " + c.size;
  if (const auto found = known.find(key); found != known.end()) return found->second;
  known.clear();  // cases come in groups, and large results should not pile up
  Tensors exact;
  for (const Tensor& t : c.tensors) {
    exact.push_back(is_floating(t.dtype()) ? cli::exact(t) : clone(to(t, Device::cpu())));
  }
  c.reference(exact);
  return known[key] = results_of(c, exact);
}

void check(const Case& c, Row& row) {
  const Tensors first = copies(c), second = copies(c);
  c.apply(first);
  const auto got = results_of(c, first);
  const auto& want = reference_of(c);
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = cli::relative_error(got[i], want[i]);
    if (std::isnan(error) || error > row.error) row.error = error;  // once NaN, it stays
  }
  if (!(row.error <= c.tolerance)) {
    row.failure = fmt::format("relative error {:.2g}; {:.0e} is demanded", row.error, c.tolerance);
    return;
  }
  c.apply(second);
  if (results_of(c, second) != got) row.failure = "two runs differ in their bits";
}

void count_launches(const Case& c, Row& row) {
  std::vector<gpu::LaunchRecord> records;
  gpu::launch_records = &records;
  c.apply(c.tensors);
  gpu::launch_records = nullptr;
  row.launches = records.size();
  for (const gpu::LaunchRecord& r : records) {
    row.registers = std::max(row.registers, r.registers);
    row.local_bytes = std::max(row.local_bytes, r.local_bytes);
  }
}

std::string rate_of(const Row& r) {
  if (r.gflops >= 1e3) return fmt::format("{:.4g} TFLOP/s", r.gflops * 1e-3);
  if (r.gflops > 0) return fmt::format("{:.4g} GFLOP/s", r.gflops);
  if (r.gbytes > 0) return fmt::format("{:.4g} GB/s", r.gbytes);
  return "";
}

std::string percent(double value) { return value > 0 ? fmt::format("{:.0f} %", value) : ""; }

std::string number(double value) { return value > 0 ? fmt::format("{:.0f}", value) : ""; }

/// The columns of the table, as text.
std::vector<std::string> columns(const Row& r) {
  if (!r.failure.empty())
    return {r.kernel, r.size, r.impl, "FAIL " + r.failure, "", "", "", "", "", "", ""};
  return {r.kernel,
          r.size,
          r.impl,
          fmt::format("{:.1e}", r.error),
          r.seconds > 0 ? fmt::format("{:.4g}", r.seconds * 1e3) : "",
          rate_of(r),
          percent(r.percent_of_limit),
          r.percent_of_peer > 0 ? fmt::format("{:.0f} % {}", r.percent_of_peer, r.peer) : "",
          number(static_cast<double>(r.launches)),
          number(r.registers),
          r.launches > 0 ? fmt::format("{}", r.local_bytes) : ""};
}

const std::vector<std::string> kHeads{"kernel",   "size",      "impl",       "error",
                                      "ms",       "rate",      "limit",      "peer",
                                      "launches", "registers", "local bytes"};

/// The columns that say something about the device.
size_t columns_of(Device device) { return device.is_cpu() ? 8 : kHeads.size(); }

void print_row(std::vector<std::string> c, Device device) {
  constexpr int kWidths[] = {-18, 18, -26, 8, 9, 14, 6, 18, 8, 9, 6};
  if (c[10] == kHeads[10]) c[10] = "local";
  std::string line;
  for (size_t i = 0; i < columns_of(device); ++i) {
    line += kWidths[i] < 0 ? fmt::format("{:<{}} ", c[i], -kWidths[i])
                           : fmt::format("{:>{}} ", c[i], kWidths[i]);
  }
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

std::string markdown(const std::vector<Row>& rows, Device device) {
  const auto joined = [&](std::vector<std::string> c) {
    c.resize(columns_of(device));
    return fmt::format("| {} |\n", fmt::join(c, " | "));
  };
  std::string out = joined(kHeads);
  out += "|";
  for (size_t i = 0; i < columns_of(device); ++i) out += "---|";
  out += "\n";
  for (const Row& r : rows) out += joined(columns(r));
  return out;
}

Json json_of(const std::vector<Row>& rows, const Limits& limits, Device device) {
  Json root;
  root["device"] = device_name(device);
  root["threads"] = kernels::num_threads();
  root["isa"] = cli::cpu_kernels();
  root["measured_gflops"] = limits.gflops;
  root["measured_gbytes"] = limits.gbytes;
  for (const Row& r : rows) {
    Json row;
    row["kernel"] = r.kernel;
    row["size"] = r.size;
    row["impl"] = r.impl;
    row["error"] = r.error;
    row["failure"] = r.failure;
    row["median_s"] = r.seconds;
    row["round_medians_s"] = r.rounds;
    row["gflops"] = r.gflops;
    row["gbytes"] = r.gbytes;
    row["percent_of_limit"] = r.percent_of_limit;
    row["percent_of_peer"] = r.percent_of_peer;
    row["launches"] = r.launches;
    row["registers"] = r.registers;
    row["local_bytes"] = r.local_bytes;
    root["rows"].push_back(row);
  }
  return root;
}

using cli::median;

/// Percent of the peer's rate: the median over the rounds, for a busy machine is equally busy for
/// both in a round.
void compare(const Case& c, const std::vector<Row>& rows, Row& row) {
  for (const Row& other : rows) {
    if (c.peer.empty() || row.seconds == 0 || other.seconds == 0 || other.impl != c.peer ||
        other.kernel != row.kernel || other.size != row.size) {
      continue;
    }
    row.peer = other.impl;
    std::vector<double> ratios;
    for (size_t i = 0; i < row.rounds.size(); ++i)
      ratios.push_back(other.rounds[i] / row.rounds[i]);
    row.percent_of_peer = 100 * median(ratios);
  }
}

Row checked_row(const Case& c) {
  Row row;
  row.kernel = c.kernel;
  row.size = c.size;
  row.impl = c.impl;
  check(c, row);
  if (row.failure.empty()) count_launches(c, row);
  return row;
}

void set_rates(const Case& c, Row& row) {
  row.seconds = median(row.rounds);
  row.gflops = c.flops / row.seconds * 1e-9;
  row.gbytes = c.bytes / row.seconds * 1e-9;
  const double share = median(row.shares);
  if (std::isfinite(share)) row.percent_of_limit = 100 * share;
}

/// A round of a case: on the CPU each sample is held against a probe of multiply-adds right after.
void time_round(const Case& c, double budget, const Limits& limits, Device device, Row& row) {
  // Of float64 a register holds half as many.
  const double flops = c.tensors[c.results[0]].dtype() == DType::float64 ? 2 * c.flops : c.flops;
  const double copied = c.bytes / copy_rate(device, c.bytes, limits.gbytes);
  const auto share = [&](double rate, double time) {
    return std::max(flops / rate, copied) * 1e-9 / time;
  };
  std::vector<double> shares;
  std::function<void(double)> probe;
  if (c.flops > 0 && device.is_cpu())
    probe = [&](double t) { shares.push_back(share(cli::multiply_add_rate(), t)); };
  row.rounds.push_back(cli::measure([&] { c.apply(c.tensors); }, budget, device, probe).median);
  row.shares.push_back(probe ? median(shares) : share(limits.gflops, row.rounds.back()));
}

/// All implementations of a kernel and size: checked first, then timed in turn, round by round.
std::vector<Row> run_group(std::vector<Case>::iterator first, std::vector<Case>::iterator last,
                           const Arguments& a, Device device, const Limits& limits, bool timed) {
  std::vector<Row> rows;
  for (auto c = first; c != last; ++c) rows.push_back(checked_row(*c));
  for (int round = 0; timed && round < a.rounds; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const Case& c = first[static_cast<ptrdiff_t>(i)];
      if (!rows[i].failure.empty()) continue;
      time_round(c, a.budget / a.rounds, limits, device, rows[i]);
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    Case& c = first[static_cast<ptrdiff_t>(i)];
    if (!rows[i].rounds.empty()) set_rates(c, rows[i]);
    compare(c, rows, rows[i]);
    print_row(columns(rows[i]), device);
    c.tensors.clear();
    c.apply = c.reference = nullptr;  // they may hold tensors as well
  }
  return rows;
}

/// Before anything is measured.
void check_arguments(const Arguments& a) {
  if (!(a.budget >= 0))
    throw cli::UsageError(fmt::format("--budget: {}; 0 to 3600 are accepted", a.budget));
  const auto file = [](const char* option, const std::string& path, const char* ending) {
    if (!path.empty()) cli::check_output(option, path, {ending});
  };
  file("--json", a.json, ".json");
  file("--markdown", a.markdown, ".md");
  file("--bars", a.bars, ".svg");
  file("--roofline", a.roofline, ".svg");
  cli::choose_isa(a.isa);
}

int run(const Arguments& a, const Program& program) {
  const Device device = a.device;
  const bool verify_only = a.verify_only || is_emulated(device);
  check_arguments(a);
  if (!a.blas.empty() && !program.takes_blas)
    throw cli::UsageError("--blas: no product here has such a peer; bench_matmul takes them");
  if (a.threads > 0) kernels::set_num_threads(a.threads);
  std::vector<Case> cases = program.cases({device, a.sizes, a.blas});
  std::erase_if(cases, [&](const Case& c) {
    return c.kernel.find(a.only) == std::string::npos ||
           (a.impl != "all" && c.impl.find(a.impl) == std::string::npos);
  });
  if (cases.empty()) throw cli::UsageError("--only, --impl: no case is left; --list shows them");
  if (a.list) {
    for (const Case& c : cases) fmt::print("{:18} {:>18} {}\n", c.kernel, c.size, c.impl);
    return 0;
  }
  if (verify_only && !(a.bars.empty() && a.roofline.empty())) {
    throw cli::UsageError(fmt::format("{}: nothing is timed {}, so there is no rate to draw",
                                      a.bars.empty() ? "--roofline" : "--bars",
                                      a.verify_only ? "with --verify-only" : "on the emulator"));
  }
  if (!a.roofline.empty() &&
      std::none_of(cases.begin(), cases.end(), [](const Case& c) { return c.flops > 0; }))
    throw cli::UsageError("--roofline: none of these cases counts operations; --bars draws GB/s");
  Limits limits;
  if (!verify_only) limits = measure_limits(device);
  fmt::print("{}", device_name(device));
  if (!verify_only)
    fmt::print("; measured: {:.4g} GFLOP/s float32 multiply-add, {:.0f} GB/s copy", limits.gflops,
               limits.gbytes);
  fmt::print("\n");
  print_row(kHeads, device);
  std::vector<Row> rows;
  for (auto first = cases.begin(); first != cases.end();) {
    const auto last = std::find_if(first, cases.end(), [&](const Case& c) {
      return c.kernel != first->kernel || c.size != first->size;
    });
    for (Row& row : run_group(first, last, a, device, limits, !verify_only))
      rows.push_back(std::move(row));
    first = last;
  }
  if (!a.json.empty())
    write_file_atomic(a.json, json_text(json_of(rows, limits, device), 1) + "\n", "--json");
  if (!a.markdown.empty()) write_file_atomic(a.markdown, markdown(rows, device), "--markdown");
  const std::string title = fmt::format("{} on {}", program.description, device_name(device));
  if (!a.bars.empty()) write_file_atomic(a.bars, bars_svg(rows, title), "--bars");
  if (!a.roofline.empty())
    write_file_atomic(a.roofline, roofline_svg(rows, limits, title), "--roofline");
  return std::any_of(rows.begin(), rows.end(), [](const Row& r) { return !r.failure.empty(); });
}

}  // namespace

void set_work(Case& c, Device device, const Work& work) {
  c.apply = [work, device](const Tensors& t) { work(kernels::backend(device), t); };
  kernels::Backend& plain =
      c.flops <= kMostInLoops ? kernels::reference_backend() : kernels::backend(Device::cpu());
  c.reference = [work, &plain](const Tensors& t) { work(plain, t); };
}

std::vector<std::vector<int64_t>> parse_sizes(const std::string& text, size_t least, size_t most) {
  const auto split = [](const std::string& given, char at) {
    std::vector<std::string> parts = CLI::detail::split(given, at);
    if (given.ends_with(at)) parts.emplace_back();  // which it drops
    return parts;
  };
  std::vector<std::vector<int64_t>> out;
  for (const std::string& word : split(text, ',')) {
    std::vector<int64_t> sizes;
    for (const std::string& part : split(word, 'x')) {
      int64_t value = 0;
      if (!CLI::detail::lexical_cast(part, value) || value < 1 || value > INT32_MAX)
        throw cli::UsageError(
            fmt::format("--sizes: \"{}\" in \"{}\"; 1 to {} is accepted", part, text, INT32_MAX));
      sizes.push_back(value);
    }
    if (sizes.size() < least || sizes.size() > most)
      throw cli::UsageError(fmt::format("--sizes: \"{}\" has {} numbers; {} to {} are accepted",
                                        word, sizes.size(), least, most));
    out.push_back(std::move(sizes));
  }
  return out;
}

std::pair<int64_t, int64_t> parse_pair(const std::string& text) {
  const auto sizes = parse_sizes(text, 2, 2);
  if (sizes.size() != 1)
    throw cli::UsageError(
        fmt::format("--sizes: {} pairs given in \"{}\"; one is accepted", sizes.size(), text));
  return {sizes[0][0], sizes[0][1]};
}

void add_device_option(CLI::App& app, Device& device) {
  app.add_option_function<std::string>(
         "--device",
         [&device](const std::string& name) {
           device = name == "cuda" ? Device::cuda() : Device::cpu();
         },
         "Where the work runs: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}));
}

int run_app(CLI::App& app, int argc, char** argv, const std::function<int()>& run) {
  try {
    app.parse(argc, argv);
    return run();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const cli::UsageError& e) {
    fmt::print(stderr, "{}: {}\n", argv[0], e.what());
    return 2;
  } catch (const IoError& e) {
    fmt::print(stderr, "{}: {}\n", argv[0], e.what());
    return 3;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}: {}\n", argv[0], e.what());
    return 1;
  }
}

int run_cases(int argc, char** argv, const Program& program) {
  Arguments a;
  CLI::App app(program.description);
  add_device_option(app, a.device);
  app.add_option("--impl", a.impl, "Implementations whose name contains this, or all");
  app.add_option("--only", a.only, "Kernels whose name contains this");
  app.add_option("--sizes", a.sizes, program.sizes_help);
  app.add_option("--threads", a.threads, "Threads on the CPU; 0 = one per core")
      ->check(CLI::Range(0, 1024));
  app.add_option("--isa", a.isa, "Instruction set: baseline, avx2 or avx512; empty = the widest");
  app.add_option(
      "--blas", a.blas,
      "A peer of products on the CPU: NAME=LIBRARY[:SYMBOL], a shared library with sgemm_ "
      "or dnnl_sgemm; repeatable");
  app.add_option("--budget", a.budget, "Seconds per case")->check(CLI::Range(0.0, 3600.0));
  app.add_option("--rounds", a.rounds,
                 "Rounds that share the budget; in each, the implementations of a case take turns")
      ->check(CLI::Range(1, 1000));
  app.add_option("--json", a.json, "Write the rows to this file");
  app.add_option("--markdown", a.markdown, "Write the table to this file");
  app.add_option("--bars", a.bars, "Draw the rates to this SVG file");
  app.add_option("--roofline", a.roofline, "Draw rates over intensity to this SVG file");
  app.add_flag("--verify-only", a.verify_only,
               "Check every case, time none; always so on the emulator");
  app.add_flag("--list", a.list, "Print the cases and stop");
  return run_app(app, argc, argv, [&] { return run(a, program); });
}

}  // namespace flowgrad::bench
