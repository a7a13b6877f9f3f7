#include "flowgrad/core/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "flowgrad/core/text.h"

namespace flowgrad::safetensors {
namespace {

constexpr std::array<DType, 5> kDTypes{DType::float32, DType::float64, DType::bfloat16,
                                       DType::int64, DType::boolean};

void append_utf8(std::string& out, uint32_t code) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

class Parser {
 public:
  Parser(std::string_view json, const Fail& fail) : text_(json), fail_(fail) {}

  Header parse() {
    if (!text_.starts_with('{')) unexpected("'{'");
    bool has_metadata = false;
    object([&](std::string key) {
      if (key == kMetadataName) {
        if (has_metadata) fail("header: __metadata__ is given twice");
        has_metadata = true;
        metadata();
      } else {
        entry(std::move(key));
      }
    });
    skip_space();
    if (at_ != text_.size()) unexpected("the end of the header");
    require_unique_names();
    return std::move(header_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) {
    fail_(what);
    throw IoError(what);  // only if the caller's function returned
  }
  [[noreturn]] void unexpected(std::string_view wanted) {
    fail(at_ < text_.size() ? fmt::format("header, byte {}: {} given where {} is expected", at_,
                                          quote(text_.substr(at_, 1)), wanted)
                            : fmt::format("header ends where {} is expected", wanted));
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) unexpected(fmt::format("'{}'", c));
  }

  /// Calls value(key) for each key; the callee reads the value.
  template <class F>
  void object(F&& value) {
    expect('{');
    if (take('}')) return;
    do {
      std::string key = string(kLongestName, "a name");
      expect(':');
      value(std::move(key));
    } while (take(','));
    expect('}');
  }

  template <class F>
  void array(F&& value) {
    expect('[');
    if (take(']')) return;
    do {
      value();
    } while (take(','));
    expect(']');
  }

  uint32_t hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      uint32_t digit = 0;
      if (c >= '0' && c <= '9') {
        digit = static_cast<uint32_t>(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        digit = static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        unexpected("a hexadecimal digit");
      }
      code = code << 4 | digit;
    }
    return code;
  }

  void escape(std::string& out) {
    if (at_ == text_.size()) unexpected("an escaped character");
    constexpr std::string_view kFrom = "\"\\/bfnrt";
    constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    const size_t simple = kFrom.find(text_[at_]);
    if (simple != std::string_view::npos) {
      out += kTo[simple];
      ++at_;
      return;
    }
    if (text_[at_] != 'u') unexpected("one of \"\\/bfnrtu after a backslash");
    ++at_;
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_).starts_with("\\u")) {
      at_ += 2;
      const uint32_t low = hex4();
      if (low < 0xDC00 || low > 0xDFFF)
        fail(fmt::format("header, byte {}: half a surrogate pair", at_));
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xD800 && code < 0xE000) {
      fail(fmt::format("header, byte {}: half a surrogate pair", at_));
    }
    if (code == 0) fail(fmt::format("header, byte {}: a string contains a NUL", at_));
    append_utf8(out, code);
  }

  std::string string(size_t longest, const char* what) {
    expect('"');
    std::string out;
    while (true) {
      if (at_ == text_.size()) fail("header: a string has no end");
      const char c = text_[at_];
      if (c == '"') break;
      if (out.size() >= longest) {
        fail(fmt::format("header, byte {}: {} is longer than the {} bytes accepted", at_, what,
                         longest));
      }
      if (c == '\\') {
        ++at_;
        escape(out);
        continue;
      }
      if (static_cast<unsigned char>(c) < 0x20) {
        fail(fmt::format("header, byte {}: control character {} in a string", at_,
                         quote(text_.substr(at_, 1))));
      }
      // Runs of plain characters in one piece; an odd one alone.
      const std::string_view rest = text_.substr(at_, longest - out.size());
      size_t n = 0;
      while (n < rest.size() && is_plain(rest[n])) ++n;
      if (n == 0) n = utf8_sequence(text_.substr(at_, 4));
      if (n == 0) fail(fmt::format("header, byte {}: a string is not valid UTF-8", at_));
      out += text_.substr(at_, n);
      at_ += n;
    }
    ++at_;
    return out;
  }
  static bool is_plain(char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; }

  uint64_t integer(const std::string& where) {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '-') fail(where + ": a negative number is given");
    const size_t begin = at_;
    uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
          __builtin_add_overflow(value, static_cast<uint64_t>(text_[at_] - '0'), &value)) {
        fail(where + ": a number beyond 2^64 is given");
      }
    }
    if (at_ == begin) unexpected("a non-negative integer");
    if (text_[begin] == '0' && at_ > begin + 1) fail(where + ": a number starts with 0");
    if (at_ < text_.size() && (text_[at_] == '.' || (text_[at_] | 0x20) == 'e')) {
      fail(where + ": a number that is no integer is given");
    }
    return value;
  }

  void count_text(size_t bytes) {
    text_bytes_ += bytes;
    if (text_bytes_ > kMostText) {
      fail(fmt::format("header: more than {} bytes of names and metadata", kMostText));
    }
  }

  void metadata() {
    constexpr size_t kNode = 128;  // what a map entry costs beside its text
    object([&](std::string key) {
      skip_space();
      if (at_ < text_.size() && text_[at_] != '"') {
        fail(fmt::format("__metadata__: the value of {} is not a string", quote(key)));
      }
      std::string value = string(kMostText, "a metadata value");
      count_text(key.size() + value.size() + kNode);
      const auto [it, added] = header_.metadata.emplace(std::move(key), std::move(value));
      if (!added) fail(fmt::format("__metadata__: the key {} is given twice", quote(it->first)));
    });
  }

  void entry(std::string name) {
    if (name.empty()) fail("header: the name of a tensor is empty");
    if (header_.entries.size() == kMostTensors) {
      fail(fmt::format("header: more than {} tensors", kMostTensors));
    }
    count_text(name.size());
    const std::string where = "tensor " + quote(name);
    Entry e;
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
    const auto once = [&](bool& seen, const char* key) {
      if (seen) fail(fmt::format("{}: {} is given twice", where, key));
      seen = true;
    };
    object([&](const std::string& key) {
      if (key == "dtype") {
        once(has_dtype, "dtype");
        e.dtype = dtype(where);
      } else if (key == "shape") {
        once(has_shape, "shape");
        e.shape = shape(where + ": shape");
      } else if (key == "data_offsets") {
        once(has_offsets, "data_offsets");
        offsets(where + ": data_offsets", e);
      } else {
        fail(fmt::format("{}: unknown key {}; dtype, shape and data_offsets are accepted", where,
                         quote(key)));
      }
    });
    if (!has_dtype) fail(where + ": dtype is missing");
    if (!has_shape) fail(where + ": shape is missing");
    if (!has_offsets) fail(where + ": data_offsets is missing");
    e.name = std::move(name);
    header_.entries.push_back(std::move(e));
  }

  DType dtype(const std::string& where) {
    const std::string given = string(kLongestName, "a dtype");
    for (const DType d : kDTypes) {
      if (given == format_name(d)) return d;
    }
    fail(fmt::format("{}: dtype {} given; F32, F64, BF16, I64 and BOOL are accepted", where,
                     quote(given)));
  }

  Shape shape(const std::string& where) {
    Shape out;
    array([&] {
      const uint64_t size = integer(where);
      if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(where + ": a size beyond 2^63 is given");
      }
      if (out.rank() == kMaxRank) {
        fail(fmt::format("{}: more than {} axes given; at most {} are accepted", where, kMaxRank,
                         kMaxRank));
      }
      out.push_back(static_cast<int64_t>(size));
    });
    return out;
  }

  void offsets(const std::string& where, Entry& e) {
    int count = 0;
    array([&] {
      const uint64_t value = integer(where);
      if (count == 0) e.begin = value;
      if (count == 1) e.end = value;
      if (++count > 2) fail(where + ": more than two numbers given");
    });
    if (count != 2) fail(where + ": two numbers are expected");
  }

  void require_unique_names() {
    std::vector<const std::string*> names;
    names.reserve(header_.entries.size());
    for (const Entry& e : header_.entries) names.push_back(&e.name);
    std::sort(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a < *b; });
    const auto twice = std::adjacent_find(names.begin(), names.end(),
                                          [](const auto* a, const auto* b) { return *a == *b; });
    if (twice != names.end()) fail(fmt::format("header: tensor {} is given twice", quote(**twice)));
  }

  std::string_view text_;
  const Fail& fail_;
  size_t at_ = 0;
  size_t text_bytes_ = 0;
  Header header_;
};

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

std::string_view format_name(DType dtype) {
  switch (dtype) {
    case DType::boolean: return "BOOL";
    case DType::int64: return "I64";
    case DType::bfloat16: return "BF16";
    case DType::float32: return "F32";
    default: return "F64";
  }
}

Header parse_header(std::string_view json, const Fail& fail) { return Parser(json, fail).parse(); }

void check_entries(const Header& header, uint64_t data_bytes, const Fail& fail) {
  std::vector<const Entry*> order;
  order.reserve(header.entries.size());
  for (const Entry& e : header.entries) {
    const std::string where = fmt::format("tensor {}: ", quote(e.name));
    if (e.begin > e.end) fail(fmt::format("{}offsets {}..{} are reversed", where, e.begin, e.end));
    if (e.end > data_bytes) {
      fail(fmt::format("{}offsets {}..{} reach beyond the {} bytes of data", where, e.begin, e.end,
                       data_bytes));
    }
    uint64_t needed = 0;
    try {
      needed = static_cast<uint64_t>(numel(e.shape)) * size_of(e.dtype);
    } catch (const ShapeError& error) {
      fail(where + error.what());
    }
    if (e.end - e.begin != needed) {
      fail(fmt::format("{}offsets {}..{} but shape {} {} needs {} bytes", where, e.begin, e.end,
                       e.shape.to_string(), name_of(e.dtype), needed));
    }
    order.push_back(&e);
  }
  // Empty tensors come before the one that starts at the same byte.
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
  });
  uint64_t filled = 0;
  for (const Entry* e : order) {
    if (e->begin < filled) {
      fail(fmt::format("tensor {}: offsets {}..{} overlap the tensor that ends at {}",
                       quote(e->name), e->begin, e->end, filled));
    }
    if (e->begin > filled) {
      fail(fmt::format("data: bytes {}..{} belong to no tensor", filled, e->begin));
    }
    filled = e->end;
  }
  if (filled != data_bytes)
    fail(fmt::format("data: bytes {}..{} belong to no tensor", filled, data_bytes));
}

std::string write_header(const Header& header) {
  std::string out = "{";
  if (!header.metadata.empty()) {
    append_string(out, kMetadataName);
    out += ':';
    char separator = '{';
    for (const auto& [key, value] : header.metadata) {
      out += separator;
      append_string(out, key);
      out += ':';
      append_string(out, value);
      separator = ',';
    }
    out += '}';
  }
  for (const Entry& e : header.entries) {
    if (out.size() > 1) out += ',';
    append_string(out, e.name);
    out += fmt::format(R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                       format_name(e.dtype), fmt::join(e.shape.begin(), e.shape.end(), ","),
                       e.begin, e.end);
  }
  out += '}';
  out.append((8 - out.size() % 8) % 8, ' ');
  return out;
}

}  // namespace flowgrad::safetensors
