#include "flowgrad/optim/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string_view>

namespace flowgrad {
namespace {

using Clock = std::chrono::steady_clock;

/// Days and hours matter more than a false precision of seconds.
std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds > 999.0 * 86400) return "-";
  const auto s = static_cast<int64_t>(std::llround(std::fmax(seconds, 0)));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}d {:02}h", s / 86400, s / 3600 % 24);
}

std::string rate_text(double rate) {
  if (!(rate > 0)) return "- it/s";
  return rate >= 1 ? fmt::format("{:.4g} it/s", rate) : fmt::format("{:.3g} s/it", 1 / rate);
}

class Output {
 public:
  explicit Output(int fd) : fd_(fd) {}
  /// Losing progress must not end a training.
  void write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = ::write(fd_, text.data(), text.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  /// Of a terminal, at least 2.
  size_t columns() const {
    winsize size{};
    return ::ioctl(fd_, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 1000;
  }

 private:
  int fd_;
};

class TerminalProgress final : public ProgressSink {
 public:
  explicit TerminalProgress(int fd) : out_(fd) {}
  ~TerminalProgress() override { end_line(); }

  void update(const ProgressState& state) override {
    const auto now = Clock::now();
    if (drawn_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    draw(state);
  }
  void message(const std::string& text) override {
    // The message takes the line; the next update draws it anew below.
    out_.write((drawn_ ? "\r\033[K" : "") + text + "\n");
    drawn_ = false;
  }
  void finish(const ProgressState& state) override {
    draw(state);
    end_line();
  }

 private:
  void draw(const ProgressState& state) {
    // A line that wraps around could not be redrawn.
    out_.write("\r" + progress_text(state).substr(0, out_.columns() - 1) + "\033[K");
    drawn_ = true;
  }
  void end_line() {
    if (drawn_) out_.write("\n");
    drawn_ = false;
  }

  Output out_;
  Clock::time_point last_;
  bool drawn_ = false;
};

class LineProgress final : public ProgressSink {
 public:
  LineProgress(int fd, double seconds) : out_(fd), seconds_(seconds) {}

  void update(const ProgressState& state) override {
    const auto now = Clock::now();
    if (std::chrono::duration<double>(now - last_).count() < seconds_) return;
    last_ = now;
    out_.write(progress_text(state) + "\n");
    shown_ = state.step;
  }
  void message(const std::string& text) override { out_.write(text + "\n"); }
  void finish(const ProgressState& state) override {
    if (state.step != shown_) out_.write(progress_text(state) + "\n");
    shown_ = state.step;
  }

 private:
  Output out_;
  double seconds_;
  // The first line comes after an interval, not before anything happened.
  Clock::time_point last_ = Clock::now();
  int64_t shown_ = -1;
};

class QuietProgress final : public ProgressSink {
 public:
  explicit QuietProgress(int fd) : out_(fd) {}
  void update(const ProgressState&) override {}
  void message(const std::string& text) override { out_.write(text + "\n"); }
  void finish(const ProgressState&) override {}

 private:
  Output out_;
};

bool is_terminal(int fd) {
  const char* const term = std::getenv("TERM");
  return ::isatty(fd) == 1 && term && std::string_view(term) != "dumb";
}

}  // namespace

std::string progress_text(const ProgressState& state) {
  const double left = static_cast<double>(state.steps - state.step) / state.steps_per_second;
  const std::string loss = std::isnan(state.loss) ? "-" : fmt::format("{:.4g}", state.loss);
  return fmt::format("step {}/{}  loss {}  {}  ETA {}", state.step, state.steps, loss,
                     rate_text(state.steps_per_second),
                     state.step >= state.steps ? "0:00" : duration_text(left));
}

std::unique_ptr<ProgressSink> make_progress(bool quiet, int fd, double seconds_between_lines) {
  if (quiet) return std::make_unique<QuietProgress>(fd);
  if (is_terminal(fd)) return std::make_unique<TerminalProgress>(fd);
  return std::make_unique<LineProgress>(fd, seconds_between_lines);
}

}  // namespace flowgrad
