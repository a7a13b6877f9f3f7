#include "flowgrad/cli/commands.h"

namespace {

/// The order is that of the help text.
void declare(CLI::App& app) {
  using namespace flowgrad::cli;
  add_demo(app);
  add_train(app);
  add_imitate(app);
  add_rollout(app);
  add_compare(app);
  add_sample(app);
  add_analyze(app);
  add_verify(app);
  add_inspect(app);
  add_eval(app);
  add_grad(app);
  add_init(app);
  add_trace(app);
  add_bench(app);
}

}  // namespace

int main(int argc, char** argv) { return flowgrad::cli::run_command(argc, argv, declare); }
