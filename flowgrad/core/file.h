#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowgrad {

/// A regular file opened for reading at any offset. Everything that is not one (folder, pipe,
/// device), that cannot be opened, or that shrinks while it is read raises IoError
/// "<op>: <path>: <what>: <errno text>". Nothing is mapped, so a shrinking file is no SIGBUS.
class FileReader {
 public:
  /// `op` names the caller in messages and has static lifetime.
  explicit FileReader(const std::string& path, const char* op = "read_file");
  /// Reads from memory instead: a file's content inside of an archive, say. `name` stands for the
  /// path in messages.
  FileReader(std::string name, std::vector<std::byte> content, const char* op);
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  ~FileReader();

  /// Size when it was opened.
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Fills `out` from the bytes at `offset`.
  void read(uint64_t offset, std::span<std::byte> out) const;
  /// Raises IoError when the file has another size now.
  void check_size() const;
  /// Throws IoError "<op>: <path>: <what>".
  [[noreturn]] void fail(std::string_view what) const;

 private:
  std::string path_;
  const char* op_;
  int fd_ = -1;
  std::vector<std::byte> content_;
  uint64_t size_ = 0;
};

/// The whole content of a regular file; raises IoError as FileReader does, and where the file is
/// too large for the memory or changes its size meanwhile.
std::vector<std::byte> read_file(const std::string& path, const char* op = "read_file");

/// Replaces `path` by the concatenation of `parts`, so that after a crash at any moment the path
/// holds either the old or the new content: a temporary file in the same folder, fsync, rename,
/// fsync of the folder. An existing file keeps its permissions; a link is followed.
///
/// Raises IoError "<op>: <path>: <what>: <errno text>" when the folder is missing or not writable,
/// the path is a folder, a device, a dangling link or write-protected, the device is full, and so
/// on. Then the old file is untouched and the temporary file is gone; the one exception is a
/// failing fsync of the folder, after the new content took its place, and the message says so.
void write_file_atomic(const std::string& path, std::span<const std::span<const std::byte>> parts,
                       const char* op = "write_file_atomic");
void write_file_atomic(const std::string& path, std::string_view text,
                       const char* op = "write_file_atomic");

/// Removes temporary files that crashed writers left in `folder` and returns their number. Files of
/// writers that are alive, in any process, are locked and stay. Raises IoError when the folder
/// cannot be read.
int remove_stale_temporaries(const std::string& folder);
/// Removes what writers of this process have not renamed yet. For signal handlers that end the
/// process.
void remove_own_temporaries() noexcept;

/// Keeps other processes from writing into a folder while it lives: an advisory lock on the folder
/// itself, which ends with the process and leaves nothing behind. File systems without locks grant
/// it to everyone.
class FolderLock {
 public:
  /// Raises IoError "<op>: <folder>: ..." where another process, or another lock of this one, holds
  /// it.
  explicit FolderLock(const std::string& folder, const char* op = "FolderLock");
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

}  // namespace flowgrad
