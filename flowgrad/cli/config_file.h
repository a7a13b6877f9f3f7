#pragma once

#include <string>
#include <vector>

/// Configuration files: what stands on the command line, written down. Either JSON or a subset of
/// TOML: lines `name = value`, sections `[name]`, comments from `#` to the end of the line; values
/// are numbers, words, or strings in double quotes with \" and \\.
///
///     model = "realnvp"        # any option of the command, without its dashes
///     steps = 2000
///     n_flows = 4              # keys of the model may stand among them,
///     [set]
///     hidden = 64              # or in a section of their own
///     [sample]
///     n = 500                  # read by `flowgrad sample` only
namespace flowgrad::cli {

struct ConfigEntry {
  std::string section;  // empty at the top
  std::string key;
  std::string value;
  /// "<path>:<line>", or the path alone for JSON.
  std::string place;
};

/// Raises UsageError with path and line for text that is neither, and for a key that is given
/// twice.
std::vector<ConfigEntry> parse_config(const std::string& text, const std::string& path);
/// Raises IoError for a file that cannot be read.
std::vector<ConfigEntry> read_config(const std::string& path);

/// A value as parse_config reads it: numbers and true and false bare, everything else in quotes.
std::string config_value(const std::string& value);

/// Entries as arguments to stand before those of the command line: options as --name=value, keys of
/// models as --set=key=value. `options` are the long names of the subcommand, `commands` those of
/// all subcommands, whose sections are passed over. Raises UsageError for what is neither.
std::vector<std::string> config_arguments(const std::vector<ConfigEntry>& entries,
                                          const std::string& command,
                                          const std::vector<std::string>& options,
                                          const std::vector<std::string>& commands);

}  // namespace flowgrad::cli
