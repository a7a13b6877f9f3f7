#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Content of a .safetensors file.
struct SafetensorsFile {
  /// In the order of the header; names are unique.
  std::vector<std::pair<std::string, Tensor>> tensors;
  /// Free text of the writer, without the checksums.
  std::map<std::string, std::string> metadata;
  /// True when the file carried CRC-32C checksums; they were verified then.
  bool checksums = false;

  /// The tensor of that name, nullptr when there is none.
  const Tensor* find(std::string_view name) const;
};

struct SafetensorsOptions {
  /// Refuse a file without checksums: resuming needs them, importing foreign weights does not.
  bool require_checksums = false;
};

/// Reads a .safetensors file (https://github.com/huggingface/safetensors, format section) of F32,
/// F64, BF16, I64 and BOOL tensors of rank 0 to 8.
///
/// Strict: a header of at most 100 MB, 65,536 tensors and 16 MB of names and metadata, valid UTF-8,
/// no duplicate or unknown key, no name that is empty or beyond 4,096 bytes; tensors that fill the
/// data without hole, overlap or rest and whose lengths equal shape times element size; bools of 0
/// and 1. Checksums that are present must match. Data that is not aligned to its element size is
/// accepted. Raises IoError "load_safetensors: <path>: ...". No tensor is allocated before the
/// whole header agrees with the length of the file.
SafetensorsFile load_safetensors(const std::string& path, const SafetensorsOptions& options = {});

/// Writes tensors of any dtype, strides and device by write_file_atomic, with checksums: the
/// metadata key "crc32c.tensors" holds eight hexadecimal digits a tensor in the order of the
/// header, separated by spaces; "crc32c.header" those of length field and header with its own eight
/// digits set to 0. Any single flipped bit is found by loading with require_checksums.
///
/// The data starts at a multiple of 8 and is laid out by falling element size, so that every tensor
/// is aligned. Raises ValueError for undefined tensors, for names and metadata that loading would
/// refuse and for the metadata keys above, IoError when the file cannot be written.
void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace flowgrad
