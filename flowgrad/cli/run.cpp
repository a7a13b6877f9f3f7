#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>
#include <string_view>
#include <system_error>

#include "flowgrad/cli/commands.h"
#include "flowgrad/cli/config_file.h"
#include "flowgrad/cli/options.h"
#include "flowgrad/cli/presets.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/text.h"
#include "flowgrad/models/config.h"

namespace flowgrad::cli {
namespace {

/// Values and their defaults side by side: "--steps N [1000]".
class HelpFormatter final : public CLI::Formatter {
 public:
  static constexpr size_t kColumn = 30;
  static constexpr size_t kWidth = 100;
  HelpFormatter() { column_width(kColumn); }
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    return CLI::Formatter::make_group(group, is_positional, options)
        .substr(group == "Options" ? 0 : 1);
  }
  std::string make_option_desc(const CLI::Option* o) const override {
    std::string out;
    size_t column = kColumn;
    for (const std::string& word : CLI::detail::split(o->get_description(), ' ')) {
      const bool wrap = column + 1 + word.size() > kWidth;
      if (wrap) column = kColumn;
      if (!out.empty()) out += wrap ? "\n" : " ";  // CLI11 indents the lines
      out += word;
      column += 1 + word.size();
    }
    return out;
  }
  std::string make_option_opts(const CLI::Option* o) const override {
    if (o->get_items_expected_max() == 0) return "";
    std::string out = " " + o->get_type_name();
    if (o->get_required()) return out + " (required)";
    return o->get_default_str().empty() || o->get_default_str() == "[]"
               ? out
               : out + " [" + o->get_default_str() + "]";
  }
};

int fail(int code, const std::string& message) {
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  tell(fmt::format("flowgrad: {}", line));
  return code;
}

/// An output file must not get a standard descriptor's number, or results would be printed into it.
void open_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1 && errno == EBADF && ::open("/dev/null", O_RDWR) != fd) return;
  }
}

/// Ends with 130 or 143 and leaves nothing half-written behind; a training has a handler of its
/// own.
void end_on_signal(int number) {
  remove_own_temporaries();
  ::_exit(128 + number);
}

std::string suggestion(const std::string& word, const std::vector<std::string>& candidates,
                       const char* prefix) {
  const std::string near = nearest_name(word, candidates);
  return near.empty() ? "" : fmt::format(", did you mean {}{}?", prefix, near);
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands(nullptr)) names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& sub) {
  std::vector<std::string> names;
  for (const CLI::Option* o : sub.get_options()) {
    for (const std::string& name : o->get_lnames()) names.push_back(name);
  }
  return names;
}

/// Value of the last --name among the arguments; empty where there is none.
std::string value_of(const std::vector<std::string>& args, const std::string& name) {
  std::string value;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == name && i + 1 < args.size()) value = args[i + 1];
    if (args[i].starts_with(name + "=")) value = args[i].substr(name.size() + 1);
  }
  return value;
}

/// What the last --name among the arguments says of a flag.
bool is_on(const std::vector<std::string>& args, const std::string& name) {
  bool on = false;
  for (const std::string& arg : args) {
    if (arg == name || arg.starts_with(name + "=")) on = arg == name || arg == name + "=true";
  }
  return on;
}

/// The arguments with those of the preset, of the run that --resume continues, and of the
/// configuration file put before them, so that the command line wins, then the file, then the run.
std::vector<std::string> with_config(const CLI::App& app, const CLI::App& sub,
                                     std::vector<std::string> args) {
  const std::vector<std::string> options = option_names(sub);
  const auto has = [&](const char* name) {
    return std::find(options.begin(), options.end(), name) != options.end();
  };
  if (!has("config")) return args;
  const auto put_first = [&](const std::vector<ConfigEntry>& entries) {
    const std::vector<std::string> own =
        config_arguments(entries, sub.get_name(), options, command_names(app));
    args.insert(args.begin(), own.begin(), own.end());
  };
  const std::string path = value_of(args, "--config");
  if (!path.empty()) put_first(read_config(path));
  if (is_on(args, "--resume") && has("resume") && !value_of(args, "--preset").empty())
    throw UsageError("--preset: given with --resume; a run goes on with the settings it has");
  const std::string stored = value_of(args, "--run") + "/config.json";
  std::error_code ignored;
  try {
    // The file may ask for it too.
    if (is_on(args, "--resume") && std::filesystem::exists(stored, ignored))
      put_first(read_config(stored));
  } catch (const UsageError& e) {
    // Nobody wrote that file by hand.
    constexpr std::string_view kOption = "--config: ";
    const std::string_view what = e.what();
    throw IoError("--resume: " +
                  std::string(what.substr(what.starts_with(kOption) ? kOption.size() : 0)));
  }
  if (has("preset"))  // the file may name it
    put_first(parse_config(preset_lines(value_of(args, "--preset")), "--preset"));
  return args;
}

/// The first option that the subcommand does not have; empty where all are known.
std::string unknown_option(const CLI::App& sub, const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string name = args[i].substr(0, args[i].find('='));
    if (name.size() < 2 || name[0] != '-' || (name[1] >= '0' && name[1] <= '9')) continue;
    const CLI::Option* option = sub.get_option_no_throw(name);
    if (!option) return name;
    if (option->get_items_expected_max() > 0 && name == args[i]) ++i;  // its value
  }
  return "";
}

std::string usage_message(const CLI::App& app, const CLI::App* sub,
                          const std::vector<std::string>& args, const CLI::ParseError& e) {
  if (!sub) return fmt::format("{} (--help lists the commands)", e.what());
  const std::string help = fmt::format(" (flowgrad {} --help lists the options)", sub->get_name());
  // A misspelt option explains more than the lack of the right one.
  if (const std::string name = unknown_option(*sub, args); !name.empty()) {
    return fmt::format(
        "unknown option {}{}{}", name,
        name.starts_with("--") ? suggestion(name.substr(2), option_names(*sub), "--") : "", help);
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&e)) {  // its name is that of the subcommand
    const std::vector<std::string> left = app.remaining(true);
    if (!left.empty()) return fmt::format("unexpected argument {}{}", quote(left.front()), help);
  }
  const std::string text = e.what();
  if (e.get_name() == "ArgumentMismatch") {
    return fmt::format("{}: one value is needed{}", text.substr(0, text.find(':')), help);
  }
  return e.get_name() == "ValidationError" ? text : text + help;
}

int parse_and_run(CLI::App& app, std::vector<std::string> args) {
  const std::vector<std::string> names = command_names(app);
  const CLI::App* sub = nullptr;
  if (args.empty()) {
    return fail(2, fmt::format("a command is needed: {} (--help tells more)", listing(names)));
  }
  if (args[0] == "help") args[0] = "--help";
  if (std::find(names.begin(), names.end(), args[0]) != names.end()) {
    sub = app.get_subcommand(args[0]);
  } else if (!args[0].starts_with("-")) {
    return fail(2, fmt::format("unknown command {}{}; accepted are {}", quote(args[0]),
                               suggestion(args[0], names, ""), listing(names)));
  } else if (args[0] != "--help" && args[0] != "--version") {
    return fail(
        2,
        fmt::format("unknown option {} before a command; --help and --version are accepted there",
                    quote(args[0])));
  }
  if (sub) {
    std::vector<std::string> own(args.begin() + 1, args.end());
    own = with_config(app, *sub, std::move(own));
    args.resize(1);
    args.insert(args.end(), own.begin(), own.end());
  }
  try {
    std::vector<std::string> reversed(args.rbegin(), args.rend());  // as CLI11 takes them
    app.parse(reversed);
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return fail(2, usage_message(app, sub, {args.begin() + 1, args.end()}, e));
  }
}

int guarded(CLI::App& app, std::vector<std::string> args) {
  try {
    return parse_and_run(app, std::move(args));
  } catch (const ExitCode& e) {
    return e.code;
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

}  // namespace

int run_inside(const std::vector<std::string>& arguments,
               const std::function<void(CLI::App&)>& declare) {
  CLI::App app("", "flowgrad");
  app.require_subcommand(1);
  declare(app);
  return parse_and_run(app, arguments);
}

int run_command(int argc, const char* const* argv, void (*declare)(CLI::App& app)) {
  open_standard_descriptors();
  // A reader that went away (`flowgrad inspect x | head`) shows as EPIPE below.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGINT, end_on_signal);
  std::signal(SIGTERM, end_on_signal);
  // A limit on file sizes shows as an error of write().
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app("flowgrad: tensors, automatic differentiation and flow models", "flowgrad");
  app.formatter(std::make_shared<HelpFormatter>());
  app.set_help_flag("--help", "Print this help and exit");
  app.set_version_flag("--version", std::string("flowgrad " FLOWGRAD_VERSION),
                       "Print the version and exit");
  app.footer(
      "\nflowgrad <command> --help lists the options of a command.\n"
      "Results go to stdout, progress and messages to stderr.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad or incompatible file, 130 or 143 ended "
      "by Ctrl-C or SIGTERM, a training after saving.");
  app.require_subcommand(1);
  declare(app);
  const int code = guarded(app, std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  errno = 0;
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (!written && errno != EPIPE && code == 0) {
    // An earlier write may have failed, whose reason is gone.
    const std::string why = errno == 0 ? "" : ": " + std::generic_category().message(errno);
    return fail(1, "stdout: cannot be written" + why);
  }
  return code;
}

}  // namespace flowgrad::cli
