// Scratch folders and malformed files for the tests of readers and writers.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "flowgrad/core/error.h"
#include "flowgrad/core/tensor.h"
#include "flowgrad/core/tensor_bytes.h"

namespace io_test {

/// An empty folder that goes with everything in it.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "flowgrad-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no scratch folder: " + name);
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    std::filesystem::remove_all(path_, ignored);
  }

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  /// Names in the folder, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(path_)) {
      out.push_back(e.path().filename().string());
    }
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  std::string path_;
};

inline void put(const std::string& path, const std::string& bytes) {
  // Truncating an old file would make ext4 write to the disk when it is closed.
  std::filesystem::remove(path);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

inline std::string get(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Message of the E that f throws, "no error" when it throws nothing.
template <class E = flowgrad::IoError, class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Matcher for a part of a message; Catch2 2 and 3 call theirs differently.
inline auto Contains(const std::string& part) {
  return Catch::Matchers::Predicate<std::string>(
      [part](const std::string& text) { return text.find(part) != std::string::npos; },
      "contains: " + part);
}

/// The integer as `bytes` little-endian bytes.
inline std::string little_endian(uint64_t value, size_t bytes) {
  std::string out(bytes, '\0');
  std::memcpy(out.data(), &value, bytes);
  return out;
}

inline std::string data_file(const std::string& name) {
  return FLOWGRAD_TEST_DATA "/core/data/" + name;
}

/// Equal shape, dtype and bits, on whatever devices.
inline bool same_bits(const flowgrad::Tensor& a, const flowgrad::Tensor& b) {
  const flowgrad::TensorBytes x(a);
  const flowgrad::TensorBytes y(b);
  return a.shape() == b.shape() && a.dtype() == b.dtype() && a.is_contiguous() &&
         b.is_contiguous() &&
         std::equal(x.span().begin(), x.span().end(), y.span().begin(), y.span().end());
}

}  // namespace io_test
