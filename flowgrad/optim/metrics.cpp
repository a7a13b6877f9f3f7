#include "flowgrad/optim/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string_view>
#include <system_error>

#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/json.h"
#include "flowgrad/core/text.h"

namespace flowgrad {
namespace {

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

double number(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

Measures measures_of(const Json& row) {
  Measures out;
  const Json measures = row.value("measures", Json::object());
  for (const auto& [name, value] : measures.items()) out[name] = number(value);
  return out;
}

MetricsRow parse(const std::string& path, size_t line_number, std::string_view line) {
  try {
    const Json row = parse_json(line);
    return {row.at("step").get<int64_t>(),
            number(row.at("loss")),
            number(row.at("learning_rate")),
            number(row.at("gradient_norm")),
            number(row.at("validation")),
            row.at("skipped").get<int64_t>(),
            number(row.at("seconds")),
            number(row.value("processor_seconds", Json())),
            measures_of(row)};
  } catch (const Json::exception&) {
    throw IoError(fmt::format("read_metrics: {}: line {} is {}; a row of metrics is accepted", path,
                              line_number, quote(line)));
  }
}

bool is_present(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}

struct Line {
  std::string_view text;
  MetricsRow row;
};

/// The finished lines of `text`; what follows the last line feed was cut off while it was written.
std::vector<Line> finished_lines(const std::string& path, std::string_view text) {
  std::vector<Line> lines;
  for (size_t at = 0;;) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) return lines;
    const std::string_view line = text.substr(at, end - at);
    lines.push_back({line, parse(path, lines.size() + 1, line)});
    at = end + 1;
  }
}

std::string read_text(const std::string& path) {
  const std::vector<std::byte> bytes = read_file(path, "read_metrics");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::string to_json(const MetricsRow& row) {
  Json json{{"step", row.step},
            {"loss", number(row.loss)},
            {"learning_rate", number(row.learning_rate)},
            {"gradient_norm", number(row.gradient_norm)},
            {"validation", number(row.validation)},
            {"skipped", row.skipped},
            {"seconds", number(row.seconds)},
            {"processor_seconds", number(row.processor_seconds)}};
  for (const auto& [name, value] : row.measures) json["measures"][name] = number(value);
  return json_text(json);
}

std::vector<MetricsRow> read_metrics(const std::string& path) {
  std::vector<MetricsRow> rows;
  if (!is_present(path)) return rows;
  const std::string text = read_text(path);
  for (const Line& line : finished_lines(path, text)) rows.push_back(line.row);
  return rows;
}

MetricsWriter::MetricsWriter(const std::string& path, int64_t last_step) : path_(path) {
  if (is_present(path)) {
    const std::string text = read_text(path);
    std::string keep;
    // A fresh start needs nothing of the old file, not even that it is well-formed.
    if (last_step > 0) {
      for (const Line& line : finished_lines(path, text)) {
        if (line.row.step > last_step) continue;
        keep.append(line.text) += '\n';
        kept_.push_back(line.row);
      }
    }
    if (keep != text) write_file_atomic(path, keep, "metrics");
  }
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    throw IoError(fmt::format("metrics: {}: cannot be opened for writing: {}", path,
                              std::generic_category().message(errno)));
  }
}

MetricsWriter::~MetricsWriter() { ::close(fd_); }

void MetricsWriter::append(const MetricsRow& row) {
  const std::string line = to_json(row) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      throw IoError(fmt::format("metrics: {}: cannot be written: {}", path_,
                                std::generic_category().message(errno)));
    }
    done += static_cast<size_t>(n);
  }
}

}  // namespace flowgrad
