#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"
#include "flowgrad/tasks/fashion_mnist.h"

namespace flowgrad {
namespace {

constexpr size_t kChunk = size_t{1} << 20;
constexpr uint64_t kMostBytes = uint64_t{1} << 32;

[[noreturn]] void fail_idx(const std::string& path, const std::string& what) {
  throw IoError(fmt::format("idx: {}: {}", path, what));
}

/// Hands out the content of a file, inflating it where it is a gzip file.
class ByteSource {
 public:
  explicit ByteSource(const std::string& path) : path_(path), file_(read_file(path, "idx")) {
    compressed_ = file_.size() >= 2 && file_[0] == std::byte{0x1f} && file_[1] == std::byte{0x8b};
    if (!compressed_) return;
    // 31: the largest window, and a gzip header with its checksum.
    if (inflateInit2(&stream_, 31) != Z_OK) fail_idx(path_, "zlib cannot start (out of memory)");
    stream_.next_in = reinterpret_cast<Bytef*>(file_.data());
    stream_.avail_in = static_cast<uInt>(std::min<size_t>(file_.size(), 0xffffffffu));
  }
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;
  ~ByteSource() {
    if (compressed_) inflateEnd(&stream_);
  }

  /// Appends up to `count` bytes to `out`; fewer only where the content ends.
  size_t read(std::vector<uint8_t>& out, size_t count) {
    const size_t before = out.size();
    while (out.size() - before < count && !done_) {
      const size_t step = std::min(kChunk, count - (out.size() - before));
      const size_t at = out.size();
      out.resize(at + step);
      out.resize(at +
                 (compressed_ ? inflate_some(out.data() + at, step) : copy(out.data() + at, step)));
    }
    total_ += out.size() - before;
    return out.size() - before;
  }

  /// Fails unless the content ends here, with a good checksum and nothing behind it.
  void expect_end() {
    std::vector<uint8_t> rest;
    if (read(rest, 1) != 0) {
      fail_idx(path_,
               fmt::format("there are bytes after the {} that its sizes ask for", total_ - 1));
    }
    if (compressed_ && stream_.avail_in != 0) {
      fail_idx(path_,
               fmt::format("{} bytes follow the end of the compressed data; none are expected",
                           stream_.avail_in));
    }
  }

 private:
  size_t copy(uint8_t* to, size_t count) {
    const size_t n = std::min(count, file_.size() - position_);
    std::transform(file_.begin() + static_cast<std::ptrdiff_t>(position_),
                   file_.begin() + static_cast<std::ptrdiff_t>(position_ + n), to,
                   [](std::byte b) { return std::to_integer<uint8_t>(b); });
    position_ += n;
    done_ = position_ == file_.size();
    return n;
  }

  size_t inflate_some(uint8_t* to, size_t count) {
    stream_.next_out = to;
    stream_.avail_out = static_cast<uInt>(count);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    done_ = status == Z_STREAM_END;
    if (status == Z_BUF_ERROR ||
        (status == Z_OK && stream_.avail_in == 0 && stream_.avail_out != 0)) {
      fail_idx(path_,
               fmt::format("the compressed data breaks off after {} bytes of content; the file is "
                           "truncated",
                           stream_.total_out));
    }
    if (status != Z_OK && status != Z_STREAM_END) {
      fail_idx(path_,
               fmt::format("the compressed data is corrupt after {} bytes of content ({})",
                           stream_.total_out, stream_.msg != nullptr ? stream_.msg : "zlib"));
    }
    return count - stream_.avail_out;
  }

  std::string path_;
  std::vector<std::byte> file_;
  z_stream stream_{};
  bool compressed_ = false;
  bool done_ = false;
  size_t position_ = 0;
  uint64_t total_ = 0;
};

uint32_t big_endian(const std::vector<uint8_t>& bytes, size_t at) {
  return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 | uint32_t{bytes[at + 2]} << 8 |
         bytes[at + 3];
}

}  // namespace

IdxArray read_idx(const std::string& path, int rank) {
  if (rank < 1 || rank > 4) {
    throw ValueError(fmt::format("read_idx: rank is {}; accepted is 1 to 4", rank));
  }
  ByteSource source(path);
  const size_t header_size = 4 + 4 * static_cast<size_t>(rank);
  std::vector<uint8_t> header;
  source.read(header, header_size);
  const uint32_t expected = 0x800u + static_cast<uint32_t>(rank);
  if (header.size() < 4 || big_endian(header, 0) != expected) {
    const std::string found = header.size() < 4
                                  ? fmt::format("{} bytes", header.size())
                                  : fmt::format("magic number 0x{:08x}", big_endian(header, 0));
    fail_idx(path,
             fmt::format("{} found; expected is magic number 0x{:08x} (unsigned bytes, rank {})",
                         found, expected, rank));
  }
  if (header.size() < header_size) {
    fail_idx(path, fmt::format("the header ends after {} bytes; {} are expected", header.size(),
                               header_size));
  }
  IdxArray array;
  uint64_t count = 1;
  std::string text;
  for (size_t axis = 0; axis < static_cast<size_t>(rank); ++axis) {
    const uint32_t size = big_endian(header, 4 + 4 * axis);
    array.sizes.push_back(size);
    text += (axis > 0 ? " x " : "") + std::to_string(size);
    if (size != 0 && count > kMostBytes / size) {
      fail_idx(path,
               fmt::format("sizes {}... found; at most {} bytes are accepted", text, kMostBytes));
    }
    count *= size;
  }
  // Grows with what is really there, so that a lying header cannot ask for the memory.
  if (source.read(array.values, static_cast<size_t>(count)) < count) {
    fail_idx(path, fmt::format("{} bytes of values found; the sizes {} ask for {}",
                               array.values.size(), text, count));
  }
  source.expect_end();
  return array;
}

}  // namespace flowgrad
