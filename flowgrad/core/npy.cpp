#include "flowgrad/core/npy.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "flowgrad/core/file.h"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/core/text.h"

namespace flowgrad {
namespace {

static_assert(std::endian::native == std::endian::little, "files hold little-endian numbers");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr uint64_t kLongestNpyHeader = uint64_t{1} << 20;
constexpr size_t kHeaderAlignment = 64;  // as NumPy: the data can be mapped

struct Encoding {
  std::string_view descr;
  DType dtype;
  size_t bytes;
};
constexpr std::array<Encoding, 6> kEncodings{{{"<f4", DType::float32, 4},
                                              {"<f8", DType::float64, 8},
                                              {"<i8", DType::int64, 8},
                                              {"|b1", DType::boolean, 1},
                                              {"<i4", DType::int64, 4},
                                              {"|u1", DType::int64, 1}}};

struct NpyHeader {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;
};

/// The header is a Python dictionary of three known keys; this reads that and nothing else.
class HeaderParser {
 public:
  HeaderParser(const FileReader& file, std::string_view text) : file_(file), text_(text) {}

  NpyHeader parse() {
    NpyHeader h;
    expect('{');
    while (!take('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        once(key, h.descr.has_value());
        if (peek() != '\'' && peek() != '"') {
          file_.fail("descr: a structure is given; a single type such as '<f4' is accepted");
        }
        h.descr = string();
      } else if (key == "fortran_order") {
        once(key, h.fortran_order.has_value());
        h.fortran_order = boolean();
      } else if (key == "shape") {
        once(key, h.shape.has_value());
        h.shape = shape();
      } else {
        file_.fail(fmt::format(
            "header: unknown key {}; descr, fortran_order and shape are accepted", quote(key)));
      }
      if (take(',')) continue;
      expect('}');
      break;
    }
    if (peek() != '\0' || at_ != text_.size()) unexpected("the end of the header");
    if (!h.descr) file_.fail("header: the key descr is missing");
    if (!h.fortran_order) file_.fail("header: the key fortran_order is missing");
    if (!h.shape) file_.fail("header: the key shape is missing");
    return h;
  }

 private:
  /// Next character that is not white space, NUL at the end.
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) unexpected(fmt::format("'{}'", c));
  }
  [[noreturn]] void unexpected(std::string_view wanted) {
    peek();
    file_.fail(at_ < text_.size()
                   ? fmt::format("header, character {}: {} given where {} is expected", at_,
                                 quote(text_.substr(at_, 1)), wanted)
                   : fmt::format("header ends where {} is expected", wanted));
  }
  void once(const std::string& key, bool seen) {
    if (seen) file_.fail(fmt::format("header: the key {} is given twice", key));
  }

  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') unexpected("a string");
    const size_t end = text_.find(quote, ++at_);
    if (end == std::string_view::npos) file_.fail("header: a string has no end");
    std::string out(text_.substr(at_, end - at_));
    at_ = end + 1;
    return out;
  }
  bool boolean() {
    peek();
    for (const std::string_view word : {"True", "False"}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    }
    file_.fail("fortran_order: True or False is accepted");
  }
  Shape shape() {
    Shape out;
    expect('(');
    while (!take(')')) {
      if (out.rank() == kMaxRank) {
        file_.fail(fmt::format("shape: more than {} axes given; at most {} are accepted", kMaxRank,
                               kMaxRank));
      }
      out.push_back(size());
      if (take(',')) continue;
      // (3) is a number in Python; a tuple of one needs its comma.
      if (out.rank() == 1) unexpected("','");
      expect(')');
      break;
    }
    return out;
  }
  int64_t size() {
    if (peek() == '-') file_.fail("shape: a negative size is given; sizes are at least 0");
    const size_t begin = at_;
    int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, 10, &value) ||
          __builtin_add_overflow(value, text_[at_] - '0', &value)) {
        file_.fail("shape: a size beyond 2^63 is given");
      }
    }
    if (at_ == begin) unexpected("a size");
    if (text_[begin] == '0' && at_ > begin + 1) file_.fail("shape: a size starts with 0");
    return value;
  }

  const FileReader& file_;
  std::string_view text_;
  size_t at_ = 0;
};

const Encoding& find_encoding(const FileReader& file, const std::string& descr) {
  for (const Encoding& e : kEncodings) {
    if (descr == e.descr) return e;
  }
  file.fail(fmt::format("descr: {} given{}; <f4, <f8, <i8, |b1, <i4 and |u1 are accepted",
                        quote(descr), descr.starts_with('>') ? ", which is big-endian" : ""));
}

template <class From>
void widen(std::span<const std::byte> in, int64_t* out) {
  for (size_t i = 0; i < in.size() / sizeof(From); ++i) {
    From value;
    std::memcpy(&value, in.data() + i * sizeof(From), sizeof(From));
    out[i] = value;
  }
}

/// Reads `count` elements at `offset` into a new row-major tensor.
Tensor read_elements(const FileReader& file, uint64_t offset, const Encoding& encoding,
                     const Shape& shape) {
  Tensor t = Tensor::empty(shape, encoding.dtype);
  if (encoding.bytes == size_of(encoding.dtype)) {
    file.read(offset, writable_bytes(t));
  } else {
    std::vector<std::byte> raw(static_cast<size_t>(t.numel()) * encoding.bytes);
    file.read(offset, raw);
    encoding.bytes == 1 ? widen<uint8_t>(raw, t.data<int64_t>())
                        : widen<int32_t>(raw, t.data<int64_t>());
  }
  if (encoding.dtype == DType::boolean) {
    if (const auto bad = first_bad_bool(writable_bytes(t))) {
      file.fail(fmt::format("data: byte {} of a |b1 array is {}; 0 and 1 are accepted", *bad,
                            static_cast<int>(writable_bytes(t)[*bad])));
    }
  }
  return t;
}

Tensor from_fortran_order(const FileReader& file, uint64_t offset, const Encoding& encoding,
                          const Shape& shape) {
  Shape reversed;
  Dims axes;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    reversed.push_back(shape[i]);
    axes.push_back(i);
  }
  const Tensor columns = read_elements(file, offset, encoding, reversed);
  const Tensor view = columns.with_layout(permuted("load_npy", columns.layout(), axes));
  const TensorBytes rows(view);
  Tensor out = Tensor::empty(shape, encoding.dtype);
  if (out.numel() > 0) std::memcpy(out.raw(), rows.span().data(), rows.span().size());
  return out;
}

}  // namespace

Tensor load_npy(const std::string& path) { return read_npy(FileReader(path, "load_npy")); }

Tensor read_npy(const FileReader& file) {
  const auto require = [&](uint64_t bytes, std::string_view what) {
    if (file.size() < bytes) {
      file.fail(fmt::format("{} bytes long; {} needs {}", file.size(), what, bytes));
    }
  };
  std::array<std::byte, 12> start{};
  require(10, "the start of a .npy file");
  file.read(0, std::span(start).first(10));
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) {
    file.fail("not a .npy file: it does not start with \\x93NUMPY");
  }
  const int major = static_cast<int>(start[6]);
  const int minor = static_cast<int>(start[7]);
  if (major < 1 || major > 3 || minor != 0) {
    file.fail(fmt::format("version {}.{} given; 1.0, 2.0 and 3.0 are accepted", major, minor));
  }
  const size_t prefix = major == 1 ? 10 : 12;
  require(prefix, "the header length of this version");
  file.read(0, std::span(start).first(prefix));
  uint32_t header_bytes = 0;
  std::memcpy(&header_bytes, start.data() + 8, prefix - 8);
  if (header_bytes > kLongestNpyHeader) {
    file.fail(fmt::format("header length {} given; at most {} is accepted", header_bytes,
                          kLongestNpyHeader));
  }
  require(prefix + header_bytes, "the header");
  std::string text(header_bytes, '\0');
  file.read(prefix, std::as_writable_bytes(std::span(text)));

  const NpyHeader header = HeaderParser(file, text).parse();
  const Encoding& encoding = find_encoding(file, *header.descr);
  int64_t count = 0;
  try {
    count = numel(*header.shape);
  } catch (const ShapeError& e) {
    file.fail(e.what());
  }
  const uint64_t data = prefix + header_bytes;
  const uint64_t bytes = static_cast<uint64_t>(count) * encoding.bytes;
  if (file.size() - data != bytes) {
    file.fail(fmt::format("{} bytes of data, but shape {} of {} needs {}", file.size() - data,
                          header.shape->to_string(), *header.descr, bytes));
  }
  const Tensor t = *header.fortran_order && header.shape->rank() > 1
                       ? from_fortran_order(file, data, encoding, *header.shape)
                       : read_elements(file, data, encoding, *header.shape);
  file.check_size();
  return t;
}

void save_npy(const std::string& path, const Tensor& t) {
  const auto refused = [&](const std::string& what) {
    return fmt::format("save_npy: {}: {}", path, what);
  };
  std::string_view descr;
  for (const Encoding& e : kEncodings) {
    if (e.dtype == t.dtype() && e.bytes == size_of(e.dtype)) descr = e.descr;
  }
  if (descr.empty()) {
    throw DTypeError(refused(fmt::format(
        "dtype {} given; float32, float64, int64 and bool are accepted", name_of(t.dtype()))));
  }
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                   descr, t.shape().to_string());
  constexpr size_t kPrefix = 10;
  const size_t used = kPrefix + header.size() + 1;
  header.append((kHeaderAlignment - used % kHeaderAlignment) % kHeaderAlignment, ' ');
  header += '\n';
  std::string start(kMagic);
  start += {'\x01', '\x00', static_cast<char>(header.size() & 0xFF),
            static_cast<char>(header.size() >> 8)};
  start += header;
  const TensorBytes data(t);
  const std::array<std::span<const std::byte>, 2> parts{std::as_bytes(std::span(start)),
                                                        data.span()};
  write_file_atomic(path, parts, "save_npy");
}

}  // namespace flowgrad
