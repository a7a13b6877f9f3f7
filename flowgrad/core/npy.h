#pragma once

#include <string>

#include "flowgrad/core/file.h"
#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Reads a NumPy .npy file, versions 1.0, 2.0 and 3.0, C or Fortran order, rank 0 to 8.
///
/// '<f4', '<f8', '<i8' and '|b1' become float32, float64, int64 and bool; '<i4' and '|u1' are
/// widened to int64. Everything else is refused: other descriptors (big-endian, float16, strings,
/// objects, structures), headers that are not exactly the dictionary of the format, sizes that do
/// not match the length of the file, bytes other than 0 and 1 in a bool. Raises IoError "load_npy:
/// <path>: ...". Nothing is allocated before the header and the length of the file agree.
Tensor load_npy(const std::string& path);
/// The same from an open file, or from a member of an archive.
Tensor read_npy(const FileReader& file);

/// Writes a tensor of float32, float64, int64 or bool as a .npy file of version 1.0 in C order,
/// whatever its strides and device, by write_file_atomic. (The header of 8 axes fits version 1.0,
/// so 2.0 is never needed.) Raises DTypeError for bfloat16, which the format lacks, IoError when
/// the file cannot be written.
void save_npy(const std::string& path, const Tensor& t);

}  // namespace flowgrad
