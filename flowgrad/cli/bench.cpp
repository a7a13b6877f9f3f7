#include "flowgrad/cli/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/cli/options.h"
#include "flowgrad/core/device_memory.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cpu/dispatch.h"
#include "flowgrad/kernels/parallel.h"

namespace flowgrad::cli {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct BenchArguments {
  std::string only, json_file, isa;
  std::string device = "cpu";
  std::string config_file;  // already among the other options when the command runs
  int threads = 0;
  double budget = 2;
  bool list = false;
  bool verify_only = false;
  bool peak_memory = false;
};

/// The process's resident bytes by the key of /proc/self/status: now (VmRSS), or the most since
/// the last reset (VmHWM). Raises Error where the system does not tell.
int64_t resident_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return 1024 * std::stoll(line.substr(key.size() + 1));
  }
  throw Error("bench: --peak-memory reads /proc/self/status, which this system lacks");
}

/// Growth of the resident set in three runs, as the peers count it: set-up is over, nothing ran.
int64_t peak_growth(const BenchCase::Prepared& work) {
  std::ofstream("/proc/self/clear_refs") << "5";
  const int64_t before = resident_bytes("VmRSS");
  for (int i = 0; i < 3; ++i) work.run();
  return std::max<int64_t>(0, resident_bytes("VmHWM") - before);
}

/// Rate, and percent of the measured limit that bounds the case where that share is known (above
/// 0); empty where neither work nor bytes are.
std::string rate_of(const BenchCase& c, double time, double share) {
  if (c.flops == 0 && c.bytes == 0) return "";
  return fmt::format("{:7.1f} {:7s}{}", (c.flops > 0 ? c.flops : c.bytes) / time * 1e-9,
                     c.flops > 0 ? "GFLOP/s" : "GB/s",
                     share > 0 ? fmt::format(" {:3.0f} %", 100 * share) : "");
}

void run_bench(const BenchArguments& a) {
  if (!a.json_file.empty()) check_output("--json", a.json_file, {".json"});
  choose_isa(a.isa);
  if (a.threads > 0) kernels::set_num_threads(a.threads);
  const Device device = a.device == "cuda" ? Device::cuda() : Device::cpu();
  std::vector<BenchCase> cases = kernel_bench_cases(device);
  for (BenchCase& c : model_bench_cases(device)) cases.push_back(std::move(c));
  std::erase_if(cases,
                [&](const BenchCase& c) { return c.name.find(a.only) == std::string::npos; });
  if (cases.empty())
    throw UsageError(
        fmt::format("--only: no case has \"{}\" in its name; --list shows them", a.only));
  if (a.list) {
    for (const BenchCase& c : cases) fmt::print("{}\n", c.name);
    return;
  }
  Json root;
  root["peer"] = fmt::format("flowgrad {}", FLOWGRAD_VERSION);
  root["threads"] = kernels::num_threads();
  root["isa"] = cpu_kernels();
  root["cpu"] = cpu_name();
  root["device"] = device.to_string();
  root["compiler"] = "g++ " __VERSION__;
  if (a.peak_memory) {
    if (cases.size() > 1 || a.verify_only || !device.is_cpu()) {
      throw UsageError(fmt::format(
          "--peak-memory: given with {}; one case by --only on the CPU is accepted, for "
          "memory that others leave in the pool would hide its own",
          cases.size() > 1 ? fmt::format("{} cases", cases.size())
          : a.verify_only  ? "--verify-only"
                           : "--device cuda"));
    }
  }
  Roofline limit;
  if (!device.is_cpu()) {
#if defined(FLOWGRAD_GPU_EMULATED)
    root["emulated"] = true;
    fmt::print("{}, emulated: times say nothing about a device\n", device.to_string());
#else
    fmt::print("{}\n", device.to_string());
#endif
  } else if (!a.verify_only && !a.peak_memory) {
    limit = measure_roofline();
    root["measured_gflops"] = limit.gflops;
    root["measured_gbytes"] = limit.gbytes;
    fmt::print("{}; measured: {:.0f} GFLOP/s fused multiply-add, {:.1f} GB/s copy\n",
               cpu_description(), limit.gflops, limit.gbytes);
  }
  int failed = 0;
  for (const BenchCase& c : cases) {
    const BenchCase::Prepared work = c.prepare();
    if (a.peak_memory) {
      const int64_t bytes = peak_growth(work);
      fmt::print("{:48s} peak {:9.2f} MiB above set-up\n", c.name,
                 static_cast<double>(bytes) / (1 << 20));
      root["cases"][c.name]["peak_bytes"] = bytes;
      continue;
    }
    const std::string wrong = work.verify();
    if (a.verify_only) root["cases"][c.name]["failure"] = wrong;
    if (!wrong.empty()) {
      ++failed;
      fmt::print("{:48s} FAIL {}\n", c.name, wrong);
    } else if (a.verify_only) {
      fmt::print("{:48s} verified\n", c.name);
    } else {
      auto& row = root["cases"][c.name];
      std::vector<double> shares;  // of the rate of multiply-adds right after a sample
      std::function<void(double)> probe;
      if (c.flops > 0 && device.is_cpu())
        probe = [&](double t) { shares.push_back(c.flops / t * 1e-9 / multiply_add_rate()); };
      const Timing t = measure(work.run, a.budget, device, probe);
      const double of_copy = limit.gbytes > 0 ? c.bytes / t.minimum * 1e-9 / limit.gbytes : 0;
      fmt::print("{:48s} min {:10.4f} ms   median {:10.4f} ms   {}\n", c.name, t.minimum * 1e3,
                 t.median * 1e3, rate_of(c, t.minimum, shares.empty() ? of_copy : median(shares)));
      row["min_s"] = t.minimum;
      row["median_s"] = t.median;
      row["samples"] = t.samples;
    }
    std::fflush(stdout);
  }
  if (!a.json_file.empty()) write_file_atomic(a.json_file, json_text(root, 1) + "\n", "bench");
  if (failed > 0) throw ExitCode{1};
}

}  // namespace

void choose_isa(const std::string& name) {
  if (name.empty()) return;
  try {
    kernels::cpu::set_isa(name.c_str(), "--isa");
  } catch (const ValueError& e) {
    throw UsageError(e.what());
  }
}

std::string cpu_kernels() {
  const bool is_plain = kernels::cpu_backend() == kernels::CpuBackend::reference;
  return is_plain ? "plain loops (FLOWGRAD_BACKEND=reference)" : kernels::cpu::isa().name;
}

std::string cpu_description() {
  const int n = kernels::num_threads();
  return fmt::format("{}, {} thread{}, {}", cpu_name(), n, n == 1 ? "" : "s", cpu_kernels());
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

Timing measure(const std::function<void()>& run, double budget, Device device,
               const std::function<void(double)>& after) {
  synchronize(device);
  double start = seconds();
  run();
  run();
  synchronize(device);
  const double once = (seconds() - start) / 2;
  const int inner = std::max(1, static_cast<int>(0.02 / std::max(once, 1e-9)));
  std::vector<double> times;
  const double end = seconds() + budget;
  while (times.size() < 5 || (seconds() < end && times.size() < 200)) {
    start = seconds();
    for (int i = 0; i < inner; ++i) run();
    synchronize(device);
    times.push_back((seconds() - start) / inner);
    if (after) after(times.back());
  }
  return {*std::min_element(times.begin(), times.end()), median(times), times.size()};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[values.size() / 2] + values[(values.size() - 1) / 2]) / 2;
}

void add_bench(CLI::App& app) {
  auto a = std::make_shared<BenchArguments>();
  Command c(app, "bench", "Check and time kernels and training steps");
  c.group("Cases");
  c.text("--only", a->only, "Cases whose name contains this");
  c.flag("--list", a->list, "Print the names and stop");
  c.flag("--verify-only", a->verify_only, "Check every case, time none");
  c.flag("--peak-memory", a->peak_memory,
         "Growth of the resident set in three runs of one case, instead of times");
  c.file("--config", a->config_file, "Options as lines name = value or JSON; the command line wins")
      .transient();
  c.group("Computation");
  c.real("--budget", a->budget, "Seconds per case", 0, 3600);
  c.integer("--threads", a->threads, "Threads; 0 = one per core", 0, 1024);
  c.choice("--device", a->device, "Where the work runs", {"cpu", "cuda"});
  c.choice("--isa", a->isa, "Instruction set: baseline, avx2 or avx512; empty = the widest",
           {"baseline", "avx2", "avx512"});
  c.group("Output");
  c.file("--json", a->json_file,
         "Write the results to this file as well, in the form of the peers' scripts");
  c.examples(
      "flowgrad bench --only planar --threads 1\nflowgrad bench --budget 0.5 --json ours.json");
  c.run([a](const Command&) { run_bench(*a); });
}

}  // namespace flowgrad::cli
