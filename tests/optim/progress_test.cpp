#include "flowgrad/optim/progress.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cmath>

#include "catch.hpp"

using namespace flowgrad;

namespace {

/// What is waiting to be read from a descriptor.
std::string drain(int fd) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string out;
  std::array<char, 4096> buffer;
  for (ssize_t n; (n = ::read(fd, buffer.data(), buffer.size())) > 0;) {
    out.append(buffer.data(), static_cast<size_t>(n));
  }
  return out;
}

struct Pipe {
  Pipe() { REQUIRE(::pipe(ends) == 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  int ends[2];
};

}  // namespace

TEST_CASE("the progress line", "[progress_test]") {
  CHECK(progress_text({1200, 5000, 2.43125, 812.3}) ==
        "step 1200/5000  loss 2.431  812.3 it/s  ETA 0:05");
  CHECK(progress_text({1, 10, 0.5, 0.125}) == "step 1/10  loss 0.5  8 s/it  ETA 1:12");
  CHECK(progress_text({0, 10000, 1, 1}) == "step 0/10000  loss 1  1 it/s  ETA 2:46:40");
  CHECK(progress_text({0, 1000000, 1, 1}) == "step 0/1000000  loss 1  1 it/s  ETA 11d 13h");
  CHECK(progress_text({0, 10, 1, 0}) == "step 0/10  loss 1  - it/s  ETA -");
  CHECK(progress_text({5, 10, std::nan(""), 1}) == "step 5/10  loss -  1 it/s  ETA 0:05");
  CHECK(progress_text({10, 10, 1, 0}) == "step 10/10  loss 1  - it/s  ETA 0:00");
}

TEST_CASE("without a terminal progress is plain lines", "[progress_test]") {
  const Pipe pipe;
  const auto every = make_progress(false, pipe.ends[1], 0);
  every->update({1, 3, 1, 1});
  every->message("warning: look");
  every->update({3, 3, 1, 1});
  every->finish({3, 3, 1, 1});
  CHECK(drain(pipe.ends[0]) ==
        "step 1/3  loss 1  1 it/s  ETA 0:02\nwarning: look\nstep 3/3  loss 1  1 it/s  ETA 0:00\n");
  const auto seldom = make_progress(false, pipe.ends[1], 3600);
  for (int64_t s = 1; s <= 3; ++s) seldom->update({s, 3, 1, 1});
  seldom->finish({3, 3, 1, 1});
  CHECK(drain(pipe.ends[0]) == "step 3/3  loss 1  1 it/s  ETA 0:00\n");
}

TEST_CASE("quiet shows messages only", "[progress_test]") {
  const Pipe pipe;
  const auto quiet = make_progress(true, pipe.ends[1], 0);
  quiet->update({1, 3, 1, 1});
  quiet->message("warning: look");
  quiet->finish({3, 3, 1, 1});
  CHECK(drain(pipe.ends[0]) == "warning: look\n");
}

TEST_CASE("on a terminal one line is redrawn", "[progress_test]") {
  const int main_end = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(main_end >= 0);
  REQUIRE(::grantpt(main_end) == 0);
  REQUIRE(::unlockpt(main_end) == 0);
  const int terminal = ::open(::ptsname(main_end), O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  const char* const before = ::getenv("TERM");
  const std::string kept = before ? before : "";
  ::setenv("TERM", "xterm", 1);
  {
    const auto progress = make_progress(false, terminal);
    // Two updates in a moment draw once.
    progress->update({1, 3, 1, 1});
    progress->update({2, 3, 1, 1});
    progress->message("warning: look");
    progress->finish({3, 3, 1, 1});
  }
  CHECK(drain(main_end) ==
        "\rstep 1/3  loss 1  1 it/s  ETA 0:02\033[K"
        "\r\033[Kwarning: look\r\n"
        "\rstep 3/3  loss 1  1 it/s  ETA 0:00\033[K\r\n");
  // A line left open, by an exception say, is closed.
  make_progress(false, terminal)->update({1, 3, 1, 1});
  CHECK(drain(main_end) == "\rstep 1/3  loss 1  1 it/s  ETA 0:02\033[K\r\n");
  // A narrow terminal gets a line that does not wrap.
  const winsize narrow{.ws_row = 24, .ws_col = 16, .ws_xpixel = 0, .ws_ypixel = 0};
  REQUIRE(::ioctl(terminal, TIOCSWINSZ, &narrow) == 0);
  make_progress(false, terminal)->update({1, 3, 1, 1});
  CHECK(drain(main_end) == "\rstep 1/3  loss \033[K\r\n");
  ::setenv("TERM", "dumb", 1);
  make_progress(false, terminal, 0)->update({1, 3, 1, 1});
  CHECK(drain(main_end) == "step 1/3  loss 1  1 it/s  ETA 0:02\r\n");
  if (before)
    ::setenv("TERM", kept.c_str(), 1);
  else
    ::unsetenv("TERM");
  ::close(terminal);
  ::close(main_end);
}

TEST_CASE("a closed pipe and a full device are no errors", "[progress_test]") {
  const auto previous = ::signal(SIGPIPE, SIG_IGN);
  {
    Pipe pipe;
    ::close(pipe.ends[0]);
    const auto progress = make_progress(false, pipe.ends[1], 0);
    progress->update({1, 3, 1, 1});
    progress->message("lost");
    progress->finish({3, 3, 1, 1});
    pipe.ends[0] = ::open("/dev/null", O_RDONLY);
  }
  ::signal(SIGPIPE, previous);
  const int full = ::open("/dev/full", O_WRONLY);
  make_progress(false, full, 0)->update({1, 3, 1, 1});
  ::close(full);
}
