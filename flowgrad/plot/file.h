#pragma once

#include <filesystem>
#include <string_view>

namespace flowgrad::plot {

/// Writes a whole file or nothing: a temporary file in the same folder, flushed to the disk, then
/// renamed over `path`. Raises IoError naming op, the path and the system's reason; the temporary
/// file is removed.
void write_file(const char* op, const std::filesystem::path& path, std::string_view bytes);

}  // namespace flowgrad::plot
