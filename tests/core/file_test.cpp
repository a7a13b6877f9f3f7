#include "flowgrad/core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <functional>
#include <thread>

#include "catch.hpp"
#include "core/io_support.h"
#include "flowgrad/core/text.h"

using namespace io_test;
using flowgrad::FileReader;
using flowgrad::read_file;
using flowgrad::remove_stale_temporaries;
using flowgrad::write_file_atomic;

namespace {

constexpr uid_t kNobody = 65534;

/// Runs f in a child process; true when it returned true there. `signal` receives what killed it.
bool in_child(const std::function<bool()>& f, int* signal = nullptr) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    bool ok = false;
    try {
      ok = f();
    } catch (...) {
    }
    ::_exit(ok ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (signal) *signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Permissions do not bind the superuser, so the child gives that up first.
bool as_user(const std::function<bool()>& f) {
  return in_child([&] {
    if (::geteuid() == 0 && ::setresuid(kNobody, kNobody, kNobody) != 0) return false;
    return f();
  });
}

std::string write_error(const std::string& path, const std::string& text = "new") {
  return error_of([&] { write_file_atomic(path, text); });
}

void limit(int what, rlim_t value) {
  const rlimit l{value, value};
  ::setrlimit(static_cast<decltype(RLIMIT_FSIZE)>(what), &l);
}

}  // namespace

TEST_CASE("read_file gives the bytes of a regular file", "[file_test]") {
  const Scratch dir;
  const std::string text("a\0b\nc", 5);
  put(dir / "x", text);
  put(dir / "empty", "");
  std::filesystem::create_symlink("x", dir / "link");
  for (const char* name : {"x", "link"}) {
    const auto bytes = read_file(dir / name);
    REQUIRE(bytes.size() == text.size());
    CHECK(std::memcmp(bytes.data(), text.data(), text.size()) == 0);
  }
  CHECK(read_file(dir / "empty").empty());
}

TEST_CASE("read_file refuses what is no readable regular file", "[file_test]") {
  const Scratch dir;
  ::mkfifo((dir / "pipe").c_str(), 0600);
  std::filesystem::create_directory(dir / "folder");
  std::filesystem::create_symlink("nowhere", dir / "dangling");
  std::filesystem::create_symlink("loop", dir / "loop");
  const auto message = [](const std::string& path) { return error_of([&] { read_file(path); }); };
  CHECK_THAT(message(dir / "missing"), Contains("read_file: " + (dir / "missing") +
                                                ": cannot be opened: No such file or directory"));
  CHECK_THAT(message(dir / "folder"), Contains("is a folder; a regular file is accepted"));
  CHECK_THAT(message(dir / "pipe"), Contains("is a pipe"));
  CHECK_THAT(message("/dev/zero"), Contains("is a character device"));
  CHECK_THAT(message(dir / "dangling"), Contains("No such file or directory"));
  CHECK_THAT(message(dir / "loop"), Contains("Too many levels of symbolic links"));
  CHECK_THAT(message(dir / std::string(300, 'n')), Contains("File name too long"));
  CHECK_THAT(message(""), Contains("empty path"));
  CHECK_THAT(message(std::string("a\0b", 3)), Contains("contains a NUL"));
  CHECK_THAT(error_of([&] { read_file(dir / "missing", "load_config"); }),
             Catch::Matchers::StartsWith("load_config: "));
}

TEST_CASE("read_file reports a missing permission", "[file_test]") {
  const Scratch dir;
  put(dir / "secret", "x");
  ::chmod(dir.path().c_str(), 0755);
  ::chmod((dir / "secret").c_str(), 0);
  CHECK(as_user(
      [&] { return contains(error_of([&] { read_file(dir / "secret"); }), "Permission denied"); }));
}

TEST_CASE("FileReader notices that its file changes", "[file_test]") {
  const Scratch dir;
  put(dir / "x", std::string(10000, 'x'));
  const FileReader file(dir / "x");
  std::vector<std::byte> out(10000);
  file.read(0, out);
  file.check_size();
  std::filesystem::resize_file(dir / "x", 4096);
  CHECK_THAT(error_of([&] { file.read(0, out); }),
             Contains("ends at byte 4096 while being read; it had 10000 bytes"));
  CHECK_THAT(error_of([&] { file.check_size(); }), Contains("changed from 10000 to 4096 bytes"));
  std::filesystem::resize_file(dir / "x", 20000);
  CHECK_THAT(error_of([&] { file.check_size(); }), Contains("changed from 10000 to 20000 bytes"));
}

TEST_CASE("read_file refuses a file beyond the memory", "[file_test]") {
  const Scratch dir;
  put(dir / "sparse", "");
  std::error_code refused;
  std::filesystem::resize_file(dir / "sparse", uintmax_t{1} << 43, refused);
  if (refused) return;  // a file system without sparse files of 8 TiB
  CHECK(in_child([&] {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    limit(RLIMIT_AS, rlim_t{1} << 40);
    return contains(error_of([&] { read_file(dir / "sparse"); }), "do not fit into the memory");
#else
    return true;
#endif
  }));
}

TEST_CASE("write_file_atomic creates and replaces", "[file_test]") {
  const Scratch dir;
  write_file_atomic(dir / "x", "first");
  CHECK(get(dir / "x") == "first");
  write_file_atomic(dir / "x", std::string(3 << 20, 's'));
  CHECK(get(dir / "x") == std::string(3 << 20, 's'));
  const std::string a = "ab";
  const std::string c = "c";
  const std::array<std::span<const std::byte>, 3> parts{
      std::as_bytes(std::span(a)), std::span<const std::byte>(), std::as_bytes(std::span(c))};
  write_file_atomic(dir / "x", parts);
  CHECK(get(dir / "x") == "abc");
  write_file_atomic(dir / "x", "");
  CHECK(get(dir / "x").empty());
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("write_file_atomic works on a path relative to the working folder", "[file_test]") {
  const Scratch dir;
  CHECK(in_child([&] {
    if (::chdir(dir.path().c_str()) != 0) return false;
    write_file_atomic("bare", "1");
    write_file_atomic("./dotted", "2");
    return get("bare") == "1" && get("dotted") == "2";
  }));
  CHECK(dir.names() == std::vector<std::string>{"bare", "dotted"});
}

TEST_CASE("write_file_atomic keeps permissions and follows links", "[file_test]") {
  const Scratch dir;
  std::filesystem::create_directory(dir / "real");
  put(dir / "real/x", "old");
  ::chmod((dir / "real/x").c_str(), 0640);
  std::filesystem::create_symlink("real/x", dir / "link");
  write_file_atomic(dir / "link", "new");
  CHECK(get(dir / "real/x") == "new");
  CHECK(std::filesystem::is_symlink(dir / "link"));
  struct stat st {};
  REQUIRE(::stat((dir / "real/x").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0640);

  const mode_t old_mask = ::umask(027);
  write_file_atomic(dir / "fresh", "1");
  ::umask(old_mask);
  REQUIRE(::stat((dir / "fresh").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0640);
}

TEST_CASE("write_file_atomic refuses bad places and leaves them alone", "[file_test]") {
  const Scratch dir;
  std::filesystem::create_directory(dir / "folder");
  std::filesystem::create_symlink("nowhere", dir / "dangling");
  ::mkfifo((dir / "pipe").c_str(), 0600);
  put(dir / "file", "old");
  const auto before = dir.names();
  CHECK_THAT(write_error(dir / "missing/x"),
             Contains("write_file_atomic: " + (dir / "missing/x") + ": ") &&
                 Contains("No such file or directory"));
  CHECK_THAT(write_error(dir / "file/x"), Contains("Not a directory"));
  CHECK_THAT(write_error(dir / "folder"), Contains("is a folder; a regular file is accepted"));
  CHECK_THAT(write_error(dir / "new/"), Contains("names a folder"));
  CHECK_THAT(write_error(dir / "dangling"),
             Contains("is a link whose target cannot be resolved: No such file or directory"));
  CHECK_THAT(write_error(dir / "pipe"), Contains("is a pipe"));
  CHECK_THAT(write_error("/dev/full"), Contains("is a character device"));
  CHECK_THAT(write_error(dir / std::string(300, 'n')), Contains("File name too long"));
  CHECK_THAT(write_error(""), Contains("empty path"));
  CHECK_THAT(write_error(std::string("a\0b", 3)), Contains("contains a NUL"));
  CHECK(dir.names() == before);
  CHECK(get(dir / "file") == "old");
}

TEST_CASE("write_file_atomic respects write protection", "[file_test]") {
  const Scratch dir;
  put(dir / "x", "old");
  ::chmod((dir / "x").c_str(), 0444);
  ::chmod(dir.path().c_str(), 0777);
  CHECK(as_user(
      [&] { return contains(write_error(dir / "x"), "cannot be replaced: Permission denied"); }));
  ::chmod((dir / "x").c_str(), 0666);
  ::chmod(dir.path().c_str(), 0555);
  CHECK(as_user([&] {
    return contains(write_error(dir / "x"),
                    "cannot create a temporary file in its folder: Permission denied");
  }));
  CHECK(get(dir / "x") == "old");
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("write_file_atomic keeps the old file when space or descriptors run out", "[file_test]") {
  const Scratch dir;
  put(dir / "x", "old");
  const std::string large(100'000, 'n');
  CHECK(in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    limit(RLIMIT_FSIZE, 65'536);
    return contains(write_error(dir / "x", large),
                    "cannot write the temporary file: File too large") &&
           contains(write_error(dir / "new", large), "File too large");
  }));
  CHECK(in_child([&] {
    limit(RLIMIT_NOFILE, 3);
    return contains(write_error(dir / "x"), "Too many open files");
  }));
  CHECK(in_child([&] {
    limit(RLIMIT_NOFILE, 4);  // room for the folder, none for the file
    return contains(write_error(dir / "x"), "Too many open files");
  }));
  CHECK(get(dir / "x") == "old");
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("a writer killed while writing leaves the old file and a removable rest", "[file_test]") {
  const Scratch dir;
  put(dir / "x", "old");
  int signal = 0;
  in_child(
      [&] {
        limit(RLIMIT_CORE, 0);
        ::signal(SIGXFSZ, SIG_DFL);
        limit(RLIMIT_FSIZE, 65'536);
        write_file_atomic(dir / "x", std::string(100'000, 'n'));  // the second write kills
        return true;
      },
      &signal);
  CHECK(signal == SIGXFSZ);
  CHECK(get(dir / "x") == "old");
  CHECK(dir.names().size() == 2);
  CHECK(remove_stale_temporaries(dir.path()) == 1);
  CHECK(dir.names() == std::vector<std::string>{"x"});
  CHECK(remove_stale_temporaries(dir.path()) == 0);
}

TEST_CASE("a process that ends in the middle of a write can take its temporary file along",
          "[file_test]") {
  const Scratch dir;
  put(dir / "x", "old");
  int signal = 0;
  const bool ended = in_child(
      [&] {
        limit(RLIMIT_CORE, 0);
        ::signal(SIGXFSZ, [](int) {
          flowgrad::remove_own_temporaries();
          ::_exit(0);
        });
        limit(RLIMIT_FSIZE, 65'536);
        write_file_atomic(dir / "x", std::string(100'000, 'n'));
        return false;
      },
      &signal);
  CHECK(ended);
  CHECK(get(dir / "x") == "old");
  CHECK(dir.names() == std::vector<std::string>{"x"});
  write_file_atomic(dir / "x", std::string("new"));
  flowgrad::remove_own_temporaries();  // what was renamed stays
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("a folder is locked by one writer at a time", "[file_test]") {
  const Scratch dir;
  {
    const flowgrad::FolderLock lock(dir.path());
    CHECK_THAT(error_of([&] { const flowgrad::FolderLock second(dir.path(), "--run"); }),
               Contains("--run: ") && Contains("another process writes there"));
    CHECK_FALSE(in_child([&] {
      const flowgrad::FolderLock other(dir.path());
      return true;
    }));
  }
  const flowgrad::FolderLock again(dir.path());
  CHECK(dir.names().empty());
  CHECK_THAT(error_of([&] { const flowgrad::FolderLock none(dir / "missing"); }),
             Contains("No such file or directory"));
}

TEST_CASE("remove_stale_temporaries takes nothing else", "[file_test]") {
  const Scratch dir;
  const std::string live = dir / ".flowgrad-1-1.tmp";
  for (const char* name : {".flowgrad-1-1.tmp", ".flowgrad-1-2.tmp", ".flowgrad-x", "y.tmp", "z"}) {
    put(dir / name, "x");
  }
  std::filesystem::create_directory(dir / ".flowgrad-3-3.tmp");
  std::filesystem::create_symlink("z", dir / ".flowgrad-4-4.tmp");
  const int fd = ::open(live.c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(::flock(fd, LOCK_EX) == 0);
  CHECK(remove_stale_temporaries(dir.path()) == 1);
  ::close(fd);
  CHECK(remove_stale_temporaries(dir.path()) == 1);
  CHECK(dir.names() == std::vector<std::string>{".flowgrad-3-3.tmp", ".flowgrad-4-4.tmp",
                                                ".flowgrad-x", "y.tmp", "z"});
  CHECK_THAT(error_of([&] { remove_stale_temporaries(dir / "missing"); }),
             Contains("No such file or directory"));
}

TEST_CASE("concurrent writers and a cleaner never leave a mixed file", "[file_test]") {
  const Scratch dir;
  constexpr int kWriters = 4;
  constexpr int kRounds = 25;
  std::atomic<bool> stop{false};
  std::thread cleaner([&] {
    while (!stop) remove_stale_temporaries(dir.path());
  });
  std::vector<std::thread> writers;
  std::atomic<int> failures{0};
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < kRounds; ++i) {
        try {
          write_file_atomic(dir / "x", std::string(20'000, static_cast<char>('a' + w)));
        } catch (const flowgrad::IoError&) {
          ++failures;
        }
      }
    });
  }
  for (auto& t : writers) t.join();
  stop = true;
  cleaner.join();
  const std::string text = get(dir / "x");
  CHECK(failures == 0);
  CHECK(text == std::string(20'000, text.at(0)));
  CHECK(dir.names() == std::vector<std::string>{"x"});
}

TEST_CASE("UTF-8 is judged strictly and messages quote safely", "[file_test]") {
  using flowgrad::is_utf8;
  using flowgrad::quote;
  for (const char* good : {"", "a", "gr\xC3\xB6\xC3\x9F", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                           "\xED\x9F\xBF", "\xEE\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    CHECK(is_utf8(good));
  }
  for (const char* bad :
       {"\x80", "\xC3", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\xAF", "\xE2\x82", "\xED\xA0\x80",
        "\xF0\x80\x80\xAF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xC3z"}) {
    CHECK_FALSE(is_utf8(bad));
  }
  CHECK(quote("a\"\\\n\xFFz") == R"("a\"\\\x0a\xffz")");
  CHECK(quote(std::string(1000, 'x')) == '"' + std::string(80, 'x') + "\"... (920 bytes more)");
}
