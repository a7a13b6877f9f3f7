#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "flowgrad/core/dtype.h"
#include "flowgrad/core/shape.h"

namespace flowgrad::safetensors {

constexpr uint64_t kLongestHeader = 100'000'000;  // as the reference implementation
constexpr size_t kMostTensors = 65'536;
constexpr size_t kMostText = size_t{16} << 20;  // bytes of names and metadata
constexpr size_t kLongestName = 4096;
constexpr std::string_view kMetadataName = "__metadata__";
constexpr std::string_view kHeaderChecksum = "crc32c.header";
constexpr std::string_view kTensorChecksums = "crc32c.tensors";
constexpr size_t kChecksumDigits = 8;

struct Entry {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  uint64_t begin = 0;  // within the data section
  uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

/// Throws an error whose message ends in `what`; the caller knows the file.
using Fail = std::function<void(const std::string& what)>;

/// Reads the header's JSON. Only the grammar of the format is accepted, so that depth and size of
/// the input cannot cost more than one pass over it. Calls `fail` on everything else.
Header parse_header(std::string_view json, const Fail& fail);

/// Checks that sizes match shapes and that the tensors fill `data_bytes` without hole or overlap.
void check_entries(const Header& header, uint64_t data_bytes, const Fail& fail);

/// The header's JSON, padded with spaces so that 8 + size is a multiple of 8.
std::string write_header(const Header& header);

/// "F32", "F64", "BF16", "I64" or "BOOL".
std::string_view format_name(DType dtype);

}  // namespace flowgrad::safetensors
