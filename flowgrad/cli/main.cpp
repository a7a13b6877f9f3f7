#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <new>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/common.h"
#include "flowgrad/models/config.h"

namespace {

using namespace flowgrad;
using namespace flowgrad::cli;

/// What the exit codes mean is part of the interface: 0 done, 1 failed, 2 usage, 3 bad or incompatible
/// file, 130 interrupted after saving.
int fail(int code, const std::string& message) {
  fmt::print(stderr, "flowgrad: {}\n", message);
  return code;
}

std::string usage_message(CLI::App& app, const CLI::ParseError& e, int argc, char** argv) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  if (app.get_subcommands().empty() && argc > 1 && argv[1][0] != '-') {
    const std::string near = nearest_name(argv[1], names);
    return fmt::format("unknown command \"{}\"{}; accepted are {}", argv[1],
                       near.empty() ? "" : fmt::format(", did you mean \"{}\"?", near), fmt::join(names, ", "));
  }
  return fmt::format("{} (--help lists the options)", e.what());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("flowgrad: tensors, automatic differentiation and flow models");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("flowgrad " FLOWGRAD_VERSION));
  add_eval(app);
  add_init(app);
  add_grad(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const ExitCode& e) {
    return e.code;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return fail(2, usage_message(app, e, argc, argv));
  } catch (const UsageError& e) {
    return fail(2, e.what());
  } catch (const ValueError& e) {
    return fail(2, e.what());
  } catch (const IoError& e) {
    return fail(3, e.what());
  } catch (const ShapeError& e) {
    return fail(3, e.what());
  } catch (const DTypeError& e) {
    return fail(3, e.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& e) {
    return fail(1, e.what());
  }
}
