#include "flowgrad/core/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "flowgrad/core/error.h"
#include "flowgrad/core/text.h"

namespace flowgrad {
namespace {

constexpr std::string_view kTemporaryPrefix = ".flowgrad-";
constexpr std::string_view kTemporarySuffix = ".tmp";
constexpr size_t kLargestTransfer = size_t{1} << 30;  // Linux moves at most 0x7ffff000 bytes a call

[[noreturn]] void fail(const char* op, const std::string& path, std::string_view what) {
  throw IoError(fmt::format("{}: {}: {}", op, path.empty() ? "\"\"" : path, what));
}

[[noreturn]] void fail_errno(const char* op, const std::string& path, std::string_view what,
                             int error) {
  fail(op, path, fmt::format("{}: {}", what, std::generic_category().message(error)));
}

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

const char* kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "regular file";
    case S_IFDIR: return "folder";
    case S_IFIFO: return "pipe";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "character device";
    default: return "block device";
  }
}

void require_regular(const char* op, const std::string& path, const struct stat& st) {
  if (S_ISREG(st.st_mode)) return;
  fail(op, path, fmt::format("is a {}; a regular file is accepted", kind_of(st.st_mode)));
}

void require_path(const char* op, const std::string& path) {
  if (path.empty()) fail(op, path, "empty path given");
  if (path.find('\0') != std::string::npos) {
    throw IoError(fmt::format("{}: {}: the path contains a NUL", op, quote(path)));
  }
}

struct Target {
  std::string folder;
  std::string name;
  mode_t mode = 0;  // permissions of the file to replace, 0 when there is none
};

/// Where the new content goes: links followed, everything refused that rename would wrongly
/// replace.
Target resolve_target(const char* op, const std::string& path) {
  require_path(op, path);
  std::string real = path;
  Target target;
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0) {
    if (S_ISLNK(st.st_mode)) {
      const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr),
                                                                 &std::free);
      if (!resolved) fail_errno(op, path, "is a link whose target cannot be resolved", errno);
      real = resolved.get();
      if (::lstat(real.c_str(), &st) != 0) fail_errno(op, path, "cannot be examined", errno);
    }
    require_regular(op, path, st);
    // rename needs no permission on the file itself; a write-protected one is meant to stay.
    if (::faccessat(AT_FDCWD, real.c_str(), W_OK, AT_EACCESS) != 0) {
      fail_errno(op, path, "cannot be replaced", errno);
    }
    target.mode = st.st_mode & 0777;
  } else if (errno != ENOENT) {
    fail_errno(op, path, "cannot be written", errno);
  }
  const size_t slash = real.rfind('/');
  target.folder = slash == std::string::npos ? "." : slash == 0 ? "/" : real.substr(0, slash);
  target.name = slash == std::string::npos ? real : real.substr(slash + 1);
  if (target.name.empty()) fail(op, path, "names a folder; the name of a file is accepted");
  return target;
}

/// Temporary files of this process, where a signal handler can read them.
struct Pending {
  std::atomic<int> state{0};  // 0 free, 1 being filled, 2 complete
  int folder = -1;
  std::array<char, 64> name{};
};
std::array<Pending, 16> pending;
static_assert(std::atomic<int>::is_always_lock_free);

/// Null where all places are taken; the file is then not known to signal handlers.
Pending* remember(int folder, const std::string& name) {
  for (Pending& p : pending) {
    int free = 0;
    if (name.size() >= p.name.size() || !p.state.compare_exchange_strong(free, 1)) continue;
    p.folder = folder;
    std::copy_n(name.c_str(), name.size() + 1, p.name.begin());
    p.state = 2;
    return &p;
  }
  return nullptr;
}

/// A new file with a unique name, locked while this process lives and removed unless renamed.
class Temporary {
 public:
  Temporary(const char* op, const std::string& path, int folder) : folder_(folder) {
    static std::atomic<uint64_t> counter{0};
    constexpr int kAttempts = 1000;
    for (int i = 0; i < kAttempts; ++i) {
      name_ = fmt::format("{}{}-{}{}", kTemporaryPrefix, ::getpid(), counter++, kTemporarySuffix);
      forget();
      pending_ = remember(folder_, name_);
      file_ = Descriptor(uninterrupted([&] {
        return ::openat(folder_, name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      }));
      if (file_.get() < 0) {
        if (errno == EEXIST) continue;  // left by a crashed process of the same number
        fail_errno(op, path, "cannot create a temporary file in its folder", errno);
      }
      // Where locks are not supported, stale files simply stay.
      uninterrupted([&] { return ::flock(file_.get(), LOCK_EX); });
      struct stat st {};
      if (::fstat(file_.get(), &st) == 0 && st.st_nlink > 0) return;
      // A cleaner took the file between its creation and its lock.
    }
    name_.clear();
    fail(op, path, "no free name for a temporary file in its folder");
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (!name_.empty()) ::unlinkat(folder_, name_.c_str(), 0);
    forget();
  }

  int fd() const { return file_.get(); }
  bool rename_to(const std::string& name) {
    if (uninterrupted([&] { return ::renameat(folder_, name_.c_str(), folder_, name.c_str()); }) !=
        0) {
      return false;
    }
    name_.clear();
    forget();
    return true;
  }

 private:
  void forget() {
    if (pending_) pending_->state = 0;
    pending_ = nullptr;
  }

  Pending* pending_ = nullptr;
  int folder_;
  std::string name_;
  Descriptor file_{-1};
};

void write_all(const char* op, const std::string& path, int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t ask = std::min(bytes.size(), kLargestTransfer);
    const ssize_t n = uninterrupted([&] { return ::write(fd, bytes.data(), ask); });
    if (n < 0) fail_errno(op, path, "cannot write the temporary file", errno);
    if (n == 0) fail(op, path, "cannot write the temporary file: nothing was taken");
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

}  // namespace

FileReader::FileReader(const std::string& path, const char* op) : path_(path), op_(op) {
  require_path(op, path);
  struct stat st {};
  // Examined before it is opened, because opening a device can act on it.
  if (::stat(path.c_str(), &st) != 0) fail_errno(op, path, "cannot be opened", errno);
  require_regular(op, path, st);
  Descriptor file(uninterrupted(
      [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); }));
  if (file.get() < 0) fail_errno(op, path, "cannot be opened", errno);
  if (::fstat(file.get(), &st) != 0) fail_errno(op, path, "cannot be examined", errno);
  require_regular(op, path, st);
  size_ = static_cast<uint64_t>(st.st_size);
  fd_ = file.release();
}

FileReader::FileReader(std::string name, std::vector<std::byte> content, const char* op)
    : path_(std::move(name)), op_(op), content_(std::move(content)), size_(content_.size()) {}

FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

void FileReader::fail(std::string_view what) const { flowgrad::fail(op_, path_, what); }

void FileReader::read(uint64_t offset, std::span<std::byte> out) const {
  if (fd_ < 0) {
    if (offset > size_ || out.size() > size_ - offset) {
      fail(fmt::format("ends at byte {} while being read", size_));
    }
    std::copy_n(content_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
    return;
  }
  while (!out.empty()) {
    const size_t ask = std::min(out.size(), kLargestTransfer);
    const ssize_t n =
        uninterrupted([&] { return ::pread(fd_, out.data(), ask, static_cast<off_t>(offset)); });
    if (n < 0) fail_errno(op_, path_, fmt::format("cannot be read at byte {}", offset), errno);
    if (n == 0) {
      fail(fmt::format("ends at byte {} while being read; it had {} bytes when it was opened",
                       offset, size_));
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
}

void FileReader::check_size() const {
  if (fd_ < 0) return;
  struct stat st {};
  if (::fstat(fd_, &st) != 0) fail_errno(op_, path_, "cannot be examined", errno);
  if (static_cast<uint64_t>(st.st_size) != size_) {
    fail(fmt::format("changed from {} to {} bytes while being read", size_, st.st_size));
  }
}

std::vector<std::byte> read_file(const std::string& path, const char* op) {
  const FileReader file(path, op);
  std::vector<std::byte> bytes;
  try {
    bytes.resize(file.size());
  } catch (const std::bad_alloc&) {
    file.fail(fmt::format("{} bytes do not fit into the memory", file.size()));
  } catch (const std::length_error&) {
    file.fail(fmt::format("{} bytes do not fit into the memory", file.size()));
  }
  file.read(0, bytes);
  file.check_size();
  return bytes;
}

void write_file_atomic(const std::string& path, std::span<const std::span<const std::byte>> parts,
                       const char* op) {
  const Target target = resolve_target(op, path);
  const Descriptor folder(uninterrupted(
      [&] { return ::open(target.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (folder.get() < 0) {
    fail_errno(op, path, fmt::format("cannot open its folder {}", target.folder), errno);
  }
  Temporary temporary(op, path, folder.get());
  for (const auto part : parts) write_all(op, path, temporary.fd(), part);
  // File systems without permissions refuse this; the content matters more.
  if (target.mode != 0 && ::fchmod(temporary.fd(), target.mode) != 0) errno = 0;
  if (uninterrupted([&] { return ::fsync(temporary.fd()); }) != 0) {
    fail_errno(op, path, "cannot flush the temporary file", errno);
  }
  if (!temporary.rename_to(target.name)) {
    fail_errno(op, path, "cannot rename the temporary file", errno);
  }
  // EINVAL: a file system whose folders need no flushing.
  if (uninterrupted([&] { return ::fsync(folder.get()); }) != 0 && errno != EINVAL) {
    fail_errno(op, path, "was replaced, but flushing its folder failed; a power cut may undo it",
               errno);
  }
}

void write_file_atomic(const std::string& path, std::string_view text, const char* op) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  write_file_atomic(path, std::span(&part, 1), op);
}

int remove_stale_temporaries(const std::string& folder) {
  constexpr const char* kOp = "remove_stale_temporaries";
  require_path(kOp, folder);
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) fail_errno(kOp, folder, "cannot be opened", errno);
  const int fd = ::dirfd(dir.get());
  int removed = 0;
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view name = entry->d_name;
    if (!name.starts_with(kTemporaryPrefix) || !name.ends_with(kTemporarySuffix)) continue;
    const Descriptor file(uninterrupted(
        [&] { return ::openat(fd, entry->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); }));
    struct stat st {};
    if (file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 &&
        ::fstat(file.get(), &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink > 0 &&
        ::unlinkat(fd, entry->d_name, 0) == 0) {
      ++removed;
    }
    errno = 0;
  }
  if (errno != 0) fail_errno(kOp, folder, "cannot be read", errno);
  return removed;
}

void remove_own_temporaries() noexcept {
  for (const Pending& p : pending) {
    if (p.state == 2) ::unlinkat(p.folder, p.name.data(), 0);
  }
}

FolderLock::FolderLock(const std::string& folder, const char* op)
    : fd_(uninterrupted(
          [&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); })) {
  if (fd_ < 0) fail_errno(op, folder, "cannot be opened", errno);
  if (uninterrupted([&] { return ::flock(fd_, LOCK_EX | LOCK_NB); }) == 0) return;
  if (errno != EWOULDBLOCK) return;
  ::close(fd_);
  fail(op, folder, "another process writes there");
}

FolderLock::~FolderLock() { ::close(fd_); }

}  // namespace flowgrad
