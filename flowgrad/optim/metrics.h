#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flowgrad {

/// One line of metrics.jsonl: {"step":20,"loss":2.5,"learning_rate":0.001,"gradient_norm":1.2,
/// "validation":null,"skipped":0,"seconds":0.8}. A number that is not finite is null there, NaN
/// here.
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
  /// Training time so far, resumed parts added up.
  double seconds = 0;
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
