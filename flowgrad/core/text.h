#pragma once

#include <string>
#include <string_view>

namespace flowgrad {

/// Length of the well-formed UTF-8 sequence that `text` starts with (1 to 4), 0 where there is
/// none: no overlong forms, no surrogates, nothing above U+10FFFF.
size_t utf8_sequence(std::string_view text);

/// True when all of `text` is well-formed UTF-8.
bool is_utf8(std::string_view text);

/// `text` in double quotes for a message: control characters and bytes that are not UTF-8 are
/// escaped, more than about 80 bytes are abbreviated.
std::string quote(std::string_view text);

}  // namespace flowgrad
