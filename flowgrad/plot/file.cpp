#include "flowgrad/plot/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "flowgrad/core/error.h"

namespace flowgrad::plot {

void write_file(const char* op, const std::filesystem::path& path, std::string_view bytes) {
  // Process and counter in the name: two writers of one path must not share a temporary file.
  static std::atomic<int> counter{0};
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}.{}.tmp", ::getpid(), counter++);
  const auto fail = [&](const char* what, int reason) {
    ::unlink(temporary.c_str());
    throw IoError(
        fmt::format("{}: cannot {} {}: {}", op, what, path.string(), std::strerror(reason)));
  };
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) fail("create", errno);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(file, bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const int reason = errno;
      ::close(file);
      fail("write", reason);
    }
    done += static_cast<size_t>(wrote);
  }
  const int synced = ::fsync(file) == 0 ? 0 : errno;
  const int closed = ::close(file) == 0 ? 0 : errno;
  if (synced != 0 && synced != EINVAL) fail("flush", synced);  // EINVAL: a pipe or device
  if (closed != 0) fail("close", closed);
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail("rename onto", errno);
  std::filesystem::path folder = path.parent_path();
  if (folder.empty()) folder = ".";
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {  // some file systems refuse it; the rename itself is done
    ::fsync(directory);
    ::close(directory);
  }
}

}  // namespace flowgrad::plot
