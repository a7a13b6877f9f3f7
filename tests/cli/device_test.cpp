// The command on a device: what it writes equals what the CPU's reference kernels give.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "catch.hpp"
#include "core/io_support.h"
#include "device/device.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/safetensors.h"
#include "flowgrad/kernels/backend.h"

using namespace flowgrad;

namespace {

void commands_of_devices(CLI::App& app) {
  cli::add_train(app);
  cli::add_sample(app);
  cli::add_eval(app);
  cli::add_grad(app);
  cli::add_init(app);
  cli::add_bench(app);
}

/// Exit code of `flowgrad <words>`, with standard output out of the way.
int flowgrad_command(std::vector<std::string> words) {
  words.insert(words.begin(), "flowgrad");
  std::vector<const char*> argv;
  for (const std::string& w : words) argv.push_back(w.c_str());
  std::fflush(stdout);
  const int out = ::dup(1);
  const int nowhere = ::open("/dev/null", O_WRONLY);
  ::dup2(nowhere, 1);
  const int code =
      cli::run_command(static_cast<int>(argv.size()), argv.data(), commands_of_devices);
  std::fflush(stdout);
  ::dup2(out, 1);
  ::close(out);
  ::close(nowhere);
  kernels::set_cpu_backend(kernels::CpuBackend::fast);
  return code;
}

/// The words with the device and the kernels to compare.
std::vector<std::string> on(const std::string& device, std::vector<std::string> words) {
  words.insert(words.end(), {"--device", device, "--backend", "reference", "--quiet"});
  return words;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const auto x = a.to_vector<double>();
  const auto y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

double largest_difference(const std::string& a, const std::string& b) {
  const auto x = load_safetensors(a).tensors;
  const auto y = load_safetensors(b).tensors;
  REQUIRE(x.size() == y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(x[i].first == y[i].first);
    worst = std::max(worst, largest_difference(x[i].second, y[i].second));
  }
  return worst;
}

}  // namespace

TEST_CASE("init, eval, grad, sample and train give the same on both devices",
          "[device_test][device_only]") {
  REQUIRE_FALSE(testing::test_device().is_cpu());
  const io_test::Scratch s;
  const std::vector<std::string> model = {"--model", "realnvp",   "--set",  "hidden=8",
                                          "--set",   "n_flows=2", "--seed", "4"};
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  for (const std::string d : {"cpu", "cuda"}) {
    const std::string w = s / (d + ".safetensors");
    CHECK(flowgrad_command(on(d, with({"init", "--output", w}, model))) == 0);
    CHECK(flowgrad_command(on(d, with({"sample", "--n", "50", "--output", s / (d + "_x.npy"),
                                       "--picture", s / (d + ".svg")},
                                      model))) == 0);
    CHECK(flowgrad_command(on(d, with({"eval", "--quantity", "log_prob", "--input", s / "cpu_x.npy",
                                       "--output", s / (d + "_y.npy")},
                                      model))) == 0);
    CHECK(flowgrad_command(on(
              d, with({"grad", "--input", s / "cpu_x.npy", "--output", s / (d + "_g.safetensors")},
                      model))) == 0);
    CHECK(flowgrad_command(
              on(d, with({"train", "--data", "moons", "--steps", "6", "--batch-size", "32", "--ema",
                          "0.9", "--run", s / (d + "_run"), "--pause-at", "3"},
                         model))) == 0);
    CHECK(flowgrad_command(on(d, {"train", "--run", s / (d + "_run"), "--resume"})) == 0);
  }
  CHECK(largest_difference(s / "cpu.safetensors", s / "cuda.safetensors") == 0);
  CHECK(largest_difference(load_npy(s / "cpu_x.npy"), load_npy(s / "cuda_x.npy")) < 1e-5);
  CHECK(largest_difference(load_npy(s / "cpu_y.npy"), load_npy(s / "cuda_y.npy")) < 1e-5);
  CHECK(largest_difference(s / "cpu_g.safetensors", s / "cuda_g.safetensors") < 1e-5);
  CHECK(largest_difference(s / "cpu_run/weights.safetensors", s / "cuda_run/weights.safetensors") <
        1e-4);
}

TEST_CASE("bench verifies its cases on a device", "[device_test][device_only]") {
  for (const char* some :
       {"autograd", "planar/train/d2_b128", "matmul/f32/64x64x64", "diffusion/sample100/b1"}) {
    CHECK(flowgrad_command({"bench", "--device", "cuda", "--verify-only", "--only", some}) == 0);
  }
}
