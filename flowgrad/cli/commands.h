#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

/// One function per subcommand: it declares the options and what runs when the subcommand is given.
namespace flowgrad::cli {

void add_train(CLI::App& app);
void add_sample(CLI::App& app);
void add_eval(CLI::App& app);
void add_init(CLI::App& app);
void add_grad(CLI::App& app);
void add_analyze(CLI::App& app);
void add_verify(CLI::App& app);
void add_inspect(CLI::App& app);
void add_demo(CLI::App& app);
void add_trace(CLI::App& app);
void add_bench(CLI::App& app);
void add_imitate(CLI::App& app);
void add_rollout(CLI::App& app);
void add_compare(CLI::App& app);

/// Everything that main() does, with its exit code: 0 done, 1 failed, 2 usage, 3 bad or
/// incompatible file, 128 + signal interrupted after saving. `declare` adds the subcommands.
int run_command(int argc, const char* const* argv, void (*declare)(CLI::App& app));

/// A command line within another command: options of a preset are put in place, `declare` adds the
/// subcommands, and what they raise is raised here. Returns 0, or 2 for one that cannot be parsed,
/// having told why.
int run_inside(const std::vector<std::string>& arguments,
               const std::function<void(CLI::App&)>& declare);

}  // namespace flowgrad::cli
