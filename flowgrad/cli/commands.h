#pragma once

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
void add_inspect(CLI::App& app);
void add_demo(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace flowgrad::cli
