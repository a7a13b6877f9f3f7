// Command lines of random words: whatever they are, they end with a documented exit code, one line
// of message unless they succeed, and without leaving half a file.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/cli/commands.h"
#include "flowgrad/kernels/backend.h"

namespace {

namespace fs = std::filesystem;

/// Working folder and standard descriptors as they were, afterwards.
class Elsewhere {
 public:
  Elsewhere() : folder_(fs::current_path()), out_(::dup(1)), err_(::dup(2)) {
    fs::current_path(scratch_.path());
    redirect("out", 1);
  }
  ~Elsewhere() {
    std::fflush(stdout);
    ::dup2(out_, 1);
    ::dup2(err_, 2);
    ::close(out_);
    ::close(err_);
    fs::current_path(folder_);
    flowgrad::kernels::set_cpu_backend(flowgrad::kernels::CpuBackend::fast);
  }
  static void redirect(const char* file, int fd) {
    const int to = ::open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(to, fd);
    ::close(to);
  }

 private:
  io_test::Scratch scratch_;
  fs::path folder_;
  int out_, err_;
};

void commands_of_models(CLI::App& app) {
  using namespace flowgrad::cli;
  add_train(app);
  add_sample(app);
  add_inspect(app);
  add_eval(app);
  add_grad(app);
  add_init(app);
}

// No line of these words trains: --data has no value that exists.
const std::vector<std::string> kWords = {"train",
                                         "sample",
                                         "inspect",
                                         "eval",
                                         "grad",
                                         "init",
                                         "help",
                                         "--help",
                                         "--version",
                                         "--model",
                                         "planar",
                                         "realnvp",
                                         "cnf",
                                         "flow_matching",
                                         "diffusion",
                                         "flow_vla",
                                         "hierarchical",
                                         "--set",
                                         "dim=2",
                                         "dim=0",
                                         "hidden=4",
                                         "n_flows=2",
                                         "n_steps=1",
                                         "=",
                                         "a=b",
                                         "--config",
                                         "c.toml",
                                         "missing.toml",
                                         "--weights",
                                         "w.safetensors",
                                         "--run",
                                         "--quantity",
                                         "log_prob",
                                         "forward",
                                         "loss",
                                         "--input",
                                         "x.npy",
                                         "--output",
                                         "y.npy",
                                         "y.safetensors",
                                         "--time",
                                         "--n",
                                         "3",
                                         "-1",
                                         "1e9",
                                         "0",
                                         "nan",
                                         "--seed",
                                         "7",
                                         "--dtype",
                                         "float64",
                                         "float16",
                                         "--threads",
                                         "2",
                                         "--device",
                                         "cpu",
                                         "--device=cuda",
                                         "--backend",
                                         "reference",
                                         "--json",
                                         "--quiet",
                                         "--quiet=false",
                                         "--print-config",
                                         "--picture",
                                         "y.svg",
                                         "--graph",
                                         "--dot",
                                         "g.dot",
                                         "--data",
                                         "rows.csv",
                                         "--steps",
                                         "--resume",
                                         "--",
                                         "-",
                                         "-n",
                                         "",
                                         " ",
                                         "\xff\xfe",
                                         "%s%n",
                                         "--set=dim=3",
                                         "--model=planar",
                                         "--output=y.npy",
                                         "--=",
                                         "---",
                                         "--n=2",
                                         "a b",
                                         "\"",
                                         "\n",
                                         "--class",
                                         "all",
                                         "--guidance",
                                         "--n-steps",
                                         "2",
                                         "--solver",
                                         "rk4"};

std::string text_of(const char* file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

bool has_device() {
  try {
    (void)Device::cuda();
    return true;
  } catch (const DeviceError&) {
    return false;
  }
}

}  // namespace

static void try_lines(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::string problem;
  int codes[4] = {};
  {
    const Elsewhere here;
    std::ofstream("c.toml") << "model = planar\nn_flows = 2\nn = 3\n";
    std::ofstream("w.safetensors") << "no tensors";
    std::ofstream("x.npy") << "no array";
    for (int i = 0; i < count && problem.empty(); ++i) {
      std::vector<std::string> words = {"flowgrad"};
      // Half of the lines start as sensible ones do.
      if (random() % 2) words.push_back(kWords[random() % 6]);
      if (random() % 2) words.insert(words.end(), {"--model", kWords[10 + random() % 5]});
      if (random() % 2)
        words.insert(words.end(), {"--output", random() % 2 ? "y.npy" : "y.safetensors"});
      if (random() % 8 == 0) words.push_back("--device=cuda");
      for (size_t n = random() % 6; n > 0; --n) words.push_back(kWords[random() % kWords.size()]);
      std::vector<const char*> argv;
      std::string line;
      for (const std::string& w : words) {
        argv.push_back(w.c_str());
        line += " [" + w + "]";
      }
      Elsewhere::redirect("err", 2);
      const int code = flowgrad::cli::run_command(static_cast<int>(argv.size()), argv.data(),
                                                  commands_of_models);
      if (code < 0 || code > 3) {
        problem = line + " ended with " + std::to_string(code);
        break;
      }
      ++codes[code];
      std::istringstream message(text_of("err"));
      int lines = 0;
      for (std::string m; std::getline(message, m);)
        lines += m.starts_with("flowgrad: ") && !m.starts_with("flowgrad: warning");
      if (lines != (code == 0 ? 0 : 1))
        problem = line + " with code " + std::to_string(code) + " said:\n" + text_of("err");
      // A training on rows that an earlier line sampled is one that may leave a run.
      if (code == 0) fs::remove_all("runs");
      for (const auto& file : fs::directory_iterator(".")) {
        const std::string name = file.path().filename();
        if (name != "out" && name != "err" && name != "c.toml" && name != "w.safetensors" &&
            name != "x.npy" && name != "y.npy" && name != "y.safetensors" && name != "y.svg" &&
            name != "g.dot") {
          problem = line + " made " + name;
        }
      }
    }
  }
  INFO(problem);
  CHECK(problem.empty());
  // The words are such that everything happens.
  CHECK(codes[0] > count / 100);
  CHECK((codes[1] > 0 || has_device()));  // what fails at work is a device that is not there
  CHECK(codes[2] > count / 10);
  CHECK(codes[3] > count / 100);
}

TEST_CASE("random command lines end in order", "[random_argv_test]") { try_lines(1500, 12345); }

TEST_CASE("100,000 random command lines end in order", "[random_argv_test][nightly]") {
  try_lines(100000, 54321);
}
