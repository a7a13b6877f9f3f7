#include "flowgrad/cli/presets.h"

#include <map>

namespace flowgrad::cli {
namespace {

/// Policies; --head and --encoder choose among them.
const std::map<std::string, std::string>& policy_presets() {
  // The head alone grounds words slowly; a regression from the same feature shows it where to look.
  static const std::string table = R"(
task = tabletop
encoder = tiny
batch-size = 64
draws = 2
)";
  static const std::string sees = R"([set]
horizon = 8
hidden = 256
auxiliary = 1
)";
  static const std::map<std::string, std::string> all = {
      {"pusht", R"(
task = pusht
mirror = true
learning-rate = 0.002
steps = 28000
[set]
horizon = 16
hidden = 384
)"},
      {"fork", R"(
task = fork
demonstrations = 5000
learning-rate = 0.008
steps = 10000
[set]
horizon = 8
hidden = 256
)"},
      {"tabletop", table + "steps = 20000\n" + sees},
      // What `flowgrad demo vla` trains: minutes of two cores.
      {"tabletop-short",
       table + "steps = 8000\nevaluate-every = 1600\nevaluate-episodes = 40\n" + sees},
  };
  return all;
}

const std::map<std::string, std::string>& training_presets() {
  // Few rows are soon known by heart: the weights that did best on rows held out are kept.
  static const std::string digits = R"(
data = "data/digits_train.npy"
steps = 1000
batch-size = 128
clip = 10
validate-every = 50
keep-best = true
)";
  static const std::map<std::string, std::string> all = {
      // Without a clip: it would scale every step of an affine flow.
      {"realnvp", R"(
model = realnvp
data = moons
steps = 3000
batch-size = 512
learning-rate = 0.002
clip = 0
[set]
hidden = 64
)"},
      {"spline", R"(
model = spline
data = moons
steps = 1500
batch-size = 512
learning-rate = 0.002
[set]
tail = 5
)"},
      // Ten epochs of the tutorial's own set-up; an hour or more.
      {"tutorial-vla", R"(
model = flow_vla
data = tutorial-robot
steps = 10000
batch-size = 32
learning-rate = 0.001
schedule = one-cycle
weight-decay = 0.0001
[set]
preset = tutorial
)"},
      // In the plane the exact trace costs two products; steps by tolerance, because a field learns
      // to be wrong where equal ones do not look.
      {"cnf", R"(
model = cnf
data = moons
steps = 3000
learning-rate = 0.005
[set]
trace = exact
rtol = 1e-4
atol = 1e-4
)"},
      {"digits-realnvp", "model = realnvp" + digits + "[set]\nhidden = 128\n"},
      {"digits-spline", "model = spline" + digits + "[set]\nhidden = 128\ntail = 5\n"},
      {"digits-glow", "model = glow" + digits + "[set]\nheight = 8\nwidth = 8\n"},
      {"digits-cnf", "model = cnf" + digits + "[set]\nhidden = 128\nrtol = 1e-4\natol = 1e-4\n"},
      {"handwriting", R"(
model = spline
data = "data/Angle_points.npy"
steps = 3000
learning-rate = 0.002
[set]
tail = 5
)"},
  };
  return all;
}

}  // namespace

std::vector<std::string> preset_names(const std::string& command) {
  std::vector<std::string> names;
  for (const auto& [name, lines] : command == "imitate" ? policy_presets() : training_presets())
    names.push_back(name);
  return names;
}

std::string preset_lines(const std::string& name) {
  for (const auto* presets : {&training_presets(), &policy_presets()}) {
    if (const auto found = presets->find(name); found != presets->end()) return found->second;
  }
  return "";
}

}  // namespace flowgrad::cli
