#pragma once

#include <string>

#include "flowgrad/core/tensor.h"

namespace flowgrad {

/// Reads the arrays of a NumPy .npz archive (a ZIP file of .npy members, stored or deflated) in the
/// order of its directory, each under its member's name without ".npy". Arrays are accepted and
/// refused as load_npy does; checksums are checked. Encrypted, split and ZIP64 archives (members
/// beyond 4 GiB) are refused, as are members that are no .npy files. Raises IoError "load_npz:
/// <path>: ...".
NamedTensors load_npz(const std::string& path);

}  // namespace flowgrad
