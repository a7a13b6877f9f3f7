#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/error.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace flowgrad::cli {

/// A command line that cannot be carried out; exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Raised by a subcommand whose result is an exit code other than 0, after it has told why.
struct ExitCode {
  int code = 0;
};

/// Declares a subcommand and its options. Numbers are checked before they are converted, so that
/// every refusal names the option, what was given and what is accepted. An option that is given
/// twice has the last value. Handles are cheap to copy; bound variables must outlive the parsing.
class Command {
 public:
  Command(CLI::App& app, const std::string& name, const std::string& description);

  /// Options that follow stand under this heading in the help text.
  Command& group(const std::string& title);
  /// A whole number from lo to hi, in decimal digits.
  Command& integer(const char* names, int64_t& value, const char* text, int64_t lo, int64_t hi);
  Command& integer(const char* names, int& value, const char* text, int lo, int hi);
  /// 0 to 2^64 - 1.
  Command& seed(const char* names, uint64_t& value, const char* text);
  /// A finite number in [lo, hi], or above lo where `open`; in [lo, hi) where `open_above`.
  struct Ends {
    bool open = false;
    bool open_above = false;
  };
  Command& real(const char* names, double& value, const char* text, double lo, double hi,
                Ends ends);
  Command& real(const char* names, double& value, const char* text, double lo, double hi) {
    return real(names, value, text, lo, hi, Ends{});
  }
  Command& text(const char* names, std::string& value, const char* text,
                const char* value_name = "TEXT");
  Command& file(const char* names, std::string& value, const char* text) {
    return this->text(names, value, text, "FILE");
  }
  Command& choice(const char* names, std::string& value, const char* text,
                  const std::vector<std::string>& accepted);
  /// May be repeated; one value each time.
  Command& list(const char* names, std::vector<std::string>& values, const char* text,
                const char* value_name);
  Command& flag(const char* names, bool& value, const char* text);
  /// The option declared last must be given.
  Command& required();
  /// The option declared last concerns one call only: --print-config and config.json leave it out.
  Command& transient();
  /// Lines below the options in the help text.
  Command& examples(const std::string& lines);
  /// Further lines of --print-config, asked for after parsing.
  Command& config_extra(std::function<std::string()> lines);
  /// What the subcommand does. Declares --print-config as well.
  void run(std::function<void(const Command&)> action);

  /// Options that are not transient with their values after parsing, defaults included, empty ones
  /// left out.
  std::vector<std::pair<std::string, std::string>> values() const;
  /// Whether the option (without its dashes) was given, on the command line or in a configuration
  /// file. An option that the subcommand lacks was not.
  bool given(const std::string& name) const;
  /// Whether its value is a text, though it may look like a number; not a number or a flag.
  bool is_text(const std::string& name) const;
  std::string name() const;

 private:
  Command& add(CLI::Option* option, const char* value_name);
  std::string config_text() const;

  CLI::App* sub_;
  CLI::Option* last_ = nullptr;
  std::string group_ = "Options";
  std::vector<std::string> transient_;
  std::function<std::string()> config_extra_;
};

/// Writes a line to stderr. Nobody reading it is no failure.
void tell(const std::string& line);

/// "a, b and c".
std::string listing(const std::vector<std::string>& words);

}  // namespace flowgrad::cli
