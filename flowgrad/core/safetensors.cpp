#include "flowgrad/core/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>
#include <set>

#include "flowgrad/core/crc32c.h"
#include "flowgrad/core/file.h"
#include "flowgrad/core/safetensors_header.h"
#include "flowgrad/core/tensor_bytes.h"
#include "flowgrad/core/text.h"

namespace flowgrad {
namespace {

using namespace safetensors;

static_assert(std::endian::native == std::endian::little, "files hold little-endian numbers");

constexpr size_t kLengthField = 8;
constexpr std::string_view kNoDigits = "00000000";

std::string digits_of(uint32_t crc) { return fmt::format("{:08x}", crc); }

/// Where the digits of the header's own checksum stand: quotes inside of strings are escaped, so
/// this pattern occurs as a key only.
size_t find_own_digits(std::string_view json) {
  const std::string pattern = fmt::format("\"{}\":\"", kHeaderChecksum);
  const size_t at = json.find(pattern);
  return at == std::string_view::npos ? at : at + pattern.size();
}

/// Checksum of length field and header, its own digits read as zeros. `at` is where they stand.
uint32_t header_crc(uint64_t length, std::string_view json, size_t at) {
  uint32_t crc = crc32c(std::as_bytes(std::span(&length, 1)));
  crc = crc32c(std::as_bytes(std::span(json.substr(0, at))), crc);
  crc = crc32c(std::as_bytes(std::span(kNoDigits)), crc);
  return crc32c(std::as_bytes(std::span(json.substr(at + kChecksumDigits))), crc);
}

/// Takes the checksums out of the metadata, verifies the header's and returns those of the tensors;
/// nothing when the file has none.
std::optional<std::vector<std::string>> take_checksums(const FileReader& file,
                                                       std::string_view json, Header& header) {
  const auto own = header.metadata.extract(std::string(kHeaderChecksum));
  const auto theirs = header.metadata.extract(std::string(kTensorChecksums));
  if (own.empty() && theirs.empty()) return std::nullopt;
  if (own.empty() || theirs.empty()) {
    file.fail(fmt::format("__metadata__: {} is given without {}",
                          own.empty() ? kTensorChecksums : kHeaderChecksum,
                          own.empty() ? kHeaderChecksum : kTensorChecksums));
  }
  const size_t at = find_own_digits(json);
  if (at == std::string_view::npos || own.mapped().size() != kChecksumDigits ||
      json.substr(at, kChecksumDigits) != own.mapped()) {
    file.fail(fmt::format("__metadata__: {} is not written as eight hexadecimal digits",
                          kHeaderChecksum));
  }
  const std::string actual = digits_of(header_crc(json.size(), json, at));
  if (actual != own.mapped()) {
    file.fail(
        fmt::format("header: its CRC-32C is {} but {} says {}; the header was damaged, or changed "
                    "by a tool that kept the old checksums",
                    actual, kHeaderChecksum, quote(own.mapped())));
  }
  std::vector<std::string> crcs;
  const std::string_view list = theirs.mapped();
  for (size_t i = 0; i < list.size(); i += kChecksumDigits + 1) {
    crcs.emplace_back(list.substr(i, kChecksumDigits));
  }
  if (crcs.size() != header.entries.size()) {
    file.fail(fmt::format("__metadata__: {} holds {} checksums for {} tensors", kTensorChecksums,
                          crcs.size(), header.entries.size()));
  }
  return crcs;
}

Tensor read_tensor(const FileReader& file, uint64_t data, const Entry& e) {
  const Tensor t = Tensor::empty(e.shape, e.dtype);
  file.read(data + e.begin, writable_bytes(t));
  return t;
}

void check_tensor(const FileReader& file, const Entry& e, const Tensor& t, const std::string* crc) {
  const std::span<const std::byte> bytes = writable_bytes(t);
  if (crc) {
    const std::string actual = digits_of(crc32c(bytes));
    if (actual != *crc) {
      file.fail(
          fmt::format("tensor {}: the CRC-32C of its data is {} but {} says {}; the data was "
                      "damaged or belongs to another file",
                      quote(e.name), actual, kTensorChecksums, quote(*crc)));
    }
  }
  if (e.dtype == DType::boolean) {
    if (const auto bad = first_bad_bool(bytes)) {
      file.fail(fmt::format("tensor {}: byte {} of a BOOL tensor is {}; 0 and 1 are accepted",
                            quote(e.name), *bad, static_cast<int>(bytes[*bad])));
    }
  }
}

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw ValueError(fmt::format("save_safetensors: {}: {}", path, what));
}

void check_text(const std::string& path, std::string_view what, std::string_view text) {
  if (!is_utf8(text)) refuse(path, fmt::format("{} {} is not valid UTF-8", what, quote(text)));
  if (text.find('\0') != std::string_view::npos) {
    refuse(path, fmt::format("{} {} contains a NUL", what, quote(text)));
  }
}

void check_name(const std::string& path, std::string_view what, std::string_view name) {
  check_text(path, what, name);
  if (name.size() > kLongestName) {
    refuse(path, fmt::format("{} {} has {} bytes; at most {} are accepted", what, quote(name),
                             name.size(), kLongestName));
  }
}

void check_arguments(const std::string& path,
                     const std::vector<std::pair<std::string, Tensor>>& tensors,
                     const std::map<std::string, std::string>& metadata) {
  std::set<std::string_view> names;
  size_t text = 0;
  for (const auto& [name, tensor] : tensors) {
    check_name(path, "tensor name", name);
    if (name.empty()) refuse(path, "a tensor has an empty name");
    if (name == kMetadataName) refuse(path, "the tensor name __metadata__ is reserved");
    if (!names.insert(name).second)
      refuse(path, fmt::format("two tensors are named {}", quote(name)));
    if (!tensor.defined()) refuse(path, fmt::format("tensor {} is undefined", quote(name)));
    text += name.size() + kChecksumDigits + 1;
  }
  if (tensors.size() > kMostTensors) {
    refuse(path,
           fmt::format("{} tensors given; at most {} are accepted", tensors.size(), kMostTensors));
  }
  constexpr size_t kNode = 128;  // counted by loading too
  for (const auto& [key, value] : metadata) {
    check_name(path, "metadata key", key);
    check_text(path, fmt::format("the metadata value of {}:", quote(key)), value);
    if (key == kHeaderChecksum || key == kTensorChecksums) {
      refuse(path, fmt::format("the metadata key {} is reserved for checksums", quote(key)));
    }
    text += key.size() + value.size() + kNode;
  }
  if (text + 1024 > kMostText) {
    refuse(path, fmt::format("{} bytes of names and metadata given; at most {} are accepted", text,
                             kMostText - 1024));
  }
}

/// Gives every entry its bytes: by falling element size, so that all are aligned.
std::vector<size_t> place(std::vector<Entry>& entries) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return size_of(entries[a].dtype) > size_of(entries[b].dtype);
  });
  uint64_t at = 0;
  for (const size_t i : order) {
    Entry& e = entries[i];
    e.begin = at;
    e.end = at += static_cast<uint64_t>(numel(e.shape)) * size_of(e.dtype);
  }
  return order;
}

}  // namespace

const Tensor* SafetensorsFile::find(std::string_view name) const {
  for (const auto& [key, tensor] : tensors) {
    if (key == name) return &tensor;
  }
  return nullptr;
}

SafetensorsFile load_safetensors(const std::string& path, const SafetensorsOptions& options) {
  const FileReader file(path, "load_safetensors");
  const auto fail = [&](const std::string& what) { file.fail(what); };
  if (file.size() < kLengthField) {
    fail(fmt::format("{} bytes long; the header length alone needs {}", file.size(), kLengthField));
  }
  uint64_t length = 0;
  file.read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > kLongestHeader) {
    fail(fmt::format("header length {} given; at most {} is accepted", length, kLongestHeader));
  }
  if (length > file.size() - kLengthField) {
    fail(fmt::format("header length {} given; only {} bytes follow", length,
                     file.size() - kLengthField));
  }
  std::string json(length, '\0');
  file.read(kLengthField, std::as_writable_bytes(std::span(json)));

  Header header = parse_header(json, fail);
  const auto crcs = take_checksums(file, json, header);
  SafetensorsFile out;
  out.checksums = crcs.has_value();
  if (options.require_checksums && !out.checksums) {
    fail(
        "no checksums in the metadata, but they are required here; a file written by another "
        "program can "
        "be imported as weights only");
  }
  const uint64_t data = kLengthField + length;
  check_entries(header, file.size() - data, fail);
  out.metadata = std::move(header.metadata);
  for (size_t i = 0; i < header.entries.size(); ++i) {
    Entry& e = header.entries[i];
    Tensor t = read_tensor(file, data, e);
    check_tensor(file, e, t, crcs ? &(*crcs)[i] : nullptr);
    out.tensors.emplace_back(std::move(e.name), std::move(t));
  }
  file.check_size();
  return out;
}

void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  check_arguments(path, tensors, metadata);
  Header header;
  header.metadata = metadata;
  std::vector<TensorBytes> data;
  std::string crcs;
  for (const auto& [name, tensor] : tensors) {
    header.entries.push_back({name, tensor.dtype(), tensor.shape()});
    data.emplace_back(tensor);
    if (!crcs.empty()) crcs += ' ';
    crcs += digits_of(crc32c(data.back().span()));
  }
  const std::vector<size_t> order = place(header.entries);
  header.metadata.emplace(kTensorChecksums, std::move(crcs));
  header.metadata.emplace(kHeaderChecksum, kNoDigits);
  std::string json = write_header(header);
  const uint64_t length = json.size();
  if (length > kLongestHeader) {
    refuse(path, fmt::format("the header needs {} bytes; at most {} are accepted", length,
                             kLongestHeader));
  }
  const size_t at = find_own_digits(json);
  json.replace(at, kChecksumDigits, digits_of(header_crc(length, json, at)));

  std::vector<std::span<const std::byte>> parts{std::as_bytes(std::span(&length, 1)),
                                                std::as_bytes(std::span(json))};
  for (const size_t i : order) parts.push_back(data[i].span());
  write_file_atomic(path, parts, "save_safetensors");
}

}  // namespace flowgrad
