#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace flowgrad {

/// Numbers by name.
using Measures = std::map<std::string, double>;

/// One line of metrics.jsonl: {"step":20,"loss":2.5,"learning_rate":0.001,"gradient_norm":1.2,
/// "validation":0.4,"skipped":0,"seconds":0.8,"processor_seconds":0.7,"measures":{"success":0.6}}.
/// A number that is not finite is null there, NaN here; without measures the line has none.
struct MetricsRow {
  /// Steps done.
  int64_t step = 0;
  /// Mean over the steps since the row before that counted; NaN when none did.
  double loss = 0;
  double learning_rate = 0;
  /// Mean norm of the gradient before clipping, over the same steps.
  double gradient_norm = 0;
  /// NaN in a row without validation.
  double validation = 0;
  /// Non-finite steps so far.
  int64_t skipped = 0;
  /// Time so far, resumed parts added up.
  double seconds = 0;
  /// Processor time of all threads so far, validations left out: what trainings are compared at.
  /// NaN in rows of older files.
  double processor_seconds = 0;
  /// What a validation measured beside its number.
  Measures measures = {};
};

/// The row as one line of JSON, without the line feed.
std::string to_json(const MetricsRow& row);

/// Rows of a metrics file. An unfinished last line (of a killed run) is left out; any other
/// malformed line raises IoError naming its number. An absent file has no rows.
std::vector<MetricsRow> read_metrics(const std::string& path);

/// Appends rows to a file, each in one write.
class MetricsWriter {
 public:
  /// Keeps the rows of an existing file up to `last_step` and drops the others (of a run that went
  /// on after its last checkpoint). Raises IoError where the file cannot be read or written.
  MetricsWriter(const std::string& path, int64_t last_step);
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;
  ~MetricsWriter();

  /// Rows that were kept.
  const std::vector<MetricsRow>& kept() const { return kept_; }
  /// Raises IoError when the row cannot be written.
  void append(const MetricsRow& row);

 private:
  std::string path_;
  std::vector<MetricsRow> kept_;
  int fd_ = -1;
};

}  // namespace flowgrad
