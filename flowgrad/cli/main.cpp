#include "flowgrad/cli/commands.h"

namespace {

/// The order is that of the help text.
void declare(CLI::App& app) {
  using namespace flowgrad::cli;
  add_eval(app);
  add_grad(app);
  add_init(app);
  add_bench(app);
}

}  // namespace

int main(int argc, char** argv) { return flowgrad::cli::run_command(argc, argv, declare); }
