#include "flowgrad/core/npz.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "flowgrad/core/file.h"
#include "flowgrad/core/npy.h"
#include "flowgrad/core/text.h"

// ZIP: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.16.
namespace flowgrad {
namespace {

constexpr uint32_t kEndMagic = 0x06054b50;
constexpr uint32_t kEntryMagic = 0x02014b50;
constexpr uint32_t kLocalMagic = 0x04034b50;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEntryBytes = 46;
constexpr uint64_t kLocalBytes = 30;
constexpr uint64_t kLongestComment = 0xffff;
/// More than deflate can ever make of a byte.
constexpr uint64_t kMostExpansion = 1032;

class Archive {
 public:
  explicit Archive(const std::string& path) : file_(path, "load_npz") {}

  NamedTensors read() const {
    const uint64_t end = find_end();
    const Bytes tail = bytes(end, kEndBytes, "the end record");
    const uint64_t count = u16(tail, 10);
    uint64_t at = u32(tail, 16);
    if (u16(tail, 4) != 0 || u16(tail, 8) != count || at == 0xffffffffu) {
      file_.fail("a split or ZIP64 archive; single archives below 4 GiB are accepted");
    }
    NamedTensors out;
    std::set<std::string> names;
    Ranges taken;
    for (uint64_t i = 0; i < count; ++i) {
      const Bytes entry = bytes(at, kEntryBytes, "a directory entry");
      if (u32(entry, 0) != kEntryMagic) file_.fail("the directory is damaged");
      const uint64_t name_bytes = u16(entry, 28);
      const Bytes name_read = bytes(at + kEntryBytes, name_bytes, "a member's name");
      const std::string name(reinterpret_cast<const char*>(name_read.data()), name_read.size());
      if (!names.insert(name).second)
        file_.fail(fmt::format("member {}: it is there twice; one is accepted", quote(name)));
      out.push_back(member(entry, name, taken));
      at += kEntryBytes + name_bytes + u16(entry, 30) + u16(entry, 32);
    }
    file_.check_size();
    return out;
  }

 private:
  using Bytes = std::vector<std::byte>;
  using Ranges = std::map<uint64_t, uint64_t>;  // begin to end

  /// False where a range before it has some of these bytes.
  static bool take(Ranges& taken, uint64_t begin, uint64_t end) {
    const auto next = taken.lower_bound(begin);
    if (next != taken.end() && next->first < end) return false;
    if (next != taken.begin() && std::prev(next)->second > begin) return false;
    taken.emplace_hint(next, begin, end);
    return true;
  }

  static uint32_t u16(const Bytes& b, size_t at) {
    return std::to_integer<uint32_t>(b[at]) | std::to_integer<uint32_t>(b[at + 1]) << 8;
  }
  static uint32_t u32(const Bytes& b, size_t at) { return u16(b, at) | u16(b, at + 2) << 16; }

  Bytes bytes(uint64_t at, uint64_t count, const char* what) const {
    if (at > file_.size() || count > file_.size() - at) {
      file_.fail(fmt::format("{} bytes long; {} needs bytes {} to {}", file_.size(), what, at,
                             at + count));
    }
    Bytes out(count);
    file_.read(at, out);
    return out;
  }

  /// The end record is the last thing but for a comment.
  uint64_t find_end() const {
    const uint64_t size = file_.size();
    const uint64_t window = std::min(size, kEndBytes + kLongestComment);
    const Bytes tail = bytes(size - window, window, "the end record");
    for (uint64_t at = window < kEndBytes ? 0 : window - kEndBytes + 1; at-- > 0;) {
      if (u32(tail, at) == kEndMagic && at + kEndBytes + u16(tail, at + 20) == window) {
        return size - window + at;
      }
    }
    file_.fail("not a .npz file: it has no end record of a ZIP archive, or is truncated");
  }

  std::pair<std::string, Tensor> member(const Bytes& entry, std::string name, Ranges& taken) const {
    const auto fail = [&](const std::string& what) {
      file_.fail(fmt::format("member {}: {}", quote(name), what));
    };
    if (!name.ends_with(".npy")) fail("not a .npy file; archives of these are accepted");
    const uint32_t method = u16(entry, 10);
    const uint64_t packed_size = u32(entry, 20);
    const uint64_t plain_size = u32(entry, 24);
    if ((u16(entry, 8) & 1) != 0) fail("it is encrypted; plain members are accepted");
    if (method != 0 && method != 8) {
      fail(fmt::format("compression method {}; 0 (stored) and 8 (deflate) are accepted", method));
    }
    if (method == 0 ? plain_size != packed_size : plain_size / kMostExpansion > packed_size) {
      fail(fmt::format("{} bytes are said to become {}", packed_size, plain_size));
    }
    const uint64_t at = u32(entry, 42);
    const Bytes local = bytes(at, kLocalBytes, "a member's header");
    if (u32(local, 0) != kLocalMagic) fail("its header is damaged");
    const uint64_t begin = at + kLocalBytes + u16(local, 26) + u16(local, 28);
    Bytes content = bytes(begin, packed_size, "a member");
    // Otherwise a small archive could stand for any number of bytes.
    if (!take(taken, at, begin + packed_size)) fail("it shares bytes with another member");
    if (method == 8) {
      Bytes plain(plain_size);
      if (!inflate_all(content, plain)) fail("the compressed data is damaged");
      content = std::move(plain);
    }
    const auto sum = crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
    if (sum != u32(entry, 16)) fail("its checksum differs");
    const FileReader inside(fmt::format("{}({})", file_.path(), name), std::move(content),
                            "load_npz");
    name.resize(name.size() - 4);
    return {name, read_npy(inside)};
  }

  /// Inflates to exactly the size of `plain`.
  static bool inflate_all(Bytes& packed, Bytes& plain) {
    z_stream stream{};
    if (inflateInit2(&stream, -15) != Z_OK) return false;
    Bytef nothing = 0;
    stream.next_in = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_in = static_cast<uInt>(packed.size());
    stream.next_out = plain.empty() ? &nothing : reinterpret_cast<Bytef*>(plain.data());
    stream.avail_out = static_cast<uInt>(plain.size());
    const int status = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return status == Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 0;
  }

  FileReader file_;
};

}  // namespace

NamedTensors load_npz(const std::string& path) { return Archive(path).read(); }

}  // namespace flowgrad
