#pragma once

#include <stdexcept>
#include <string>

namespace flowgrad {

/// Base of every error that flowgrad raises. The message names the operation, the argument, what
/// was given and what is accepted.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Sizes, ranks or axes that do not fit.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A dtype that an operation does not accept.
class DTypeError : public Error {
 public:
  using Error::Error;
};

/// A device that is absent, or operands on different devices.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Differentiation that is impossible: no history, freed or overwritten saved values, non-finite
/// gradients under anomaly mode.
class GradError : public Error {
 public:
  using Error::Error;
};

/// A value outside the accepted range (a probability, a step count, an unknown name).
class ValueError : public Error {
 public:
  using Error::Error;
};

/// A file that cannot be read or written, or whose content is malformed.
class IoError : public Error {
 public:
  using Error::Error;
};

}  // namespace flowgrad
