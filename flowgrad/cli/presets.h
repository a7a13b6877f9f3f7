#pragma once

#include <string>
#include <vector>

// Options that reach the figures of docs/training.md (`flowgrad train`) and docs/policy.md
// (`flowgrad imitate`), under one name each.
namespace flowgrad::cli {

std::vector<std::string> preset_names(const std::string& command);

/// The options as lines of a configuration file (config_file.h); empty for an unknown name.
std::string preset_lines(const std::string& name);

}  // namespace flowgrad::cli
