#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// The language of the table: wordings of "push the red disc to the north zone".
namespace flowgrad::tabletop {

constexpr int kColors = 3;
constexpr int kZones = 4;
inline constexpr std::array<const char*, kColors> kColorNames{"red", "green", "blue"};
inline constexpr std::array<const char*, kZones> kZoneNames{"north", "east", "south", "west"};

/// Wordings with {color} and {zone}; the last kHeldOutWordings are kept from demonstrations. Every
/// word of those occurs in the others.
const std::vector<std::string>& wordings();
constexpr int kHeldOutWordings = 5;

/// Red to north, green to east and blue to south are kept from demonstrations; every colour and
/// every zone occurs in others.
constexpr bool is_held_out(int color, int zone) { return color == zone; }

/// The words in the order of their tokens, which begin at 1.
const std::vector<std::string>& vocabulary();
/// Length of a row of tokens: that of the longest wording.
constexpr int64_t kTokenLength = 12;

/// "push the red disc to the north zone". Raises ValueError for a number out of range.
std::string instruction(int wording, int color, int zone);
/// Tokens of words separated by spaces, padded with 0. Raises ValueError naming a word that is not
/// in the vocabulary, or for more than kTokenLength words.
std::array<int64_t, kTokenLength> tokenize(std::string_view text);

}  // namespace flowgrad::tabletop
