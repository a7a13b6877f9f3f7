#pragma once

#include <string>
#include <vector>

// Options of `flowgrad train` that reach the figures of docs/training.md, under one name each.
namespace flowgrad::cli {

std::vector<std::string> preset_names();

/// The options as lines of a configuration file (config_file.h); empty for an unknown name.
std::string preset_lines(const std::string& name);

}  // namespace flowgrad::cli
