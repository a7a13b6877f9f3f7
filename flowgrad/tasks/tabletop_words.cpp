#include "flowgrad/tasks/tabletop_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "flowgrad/core/error.h"
#include "flowgrad/core/text.h"

namespace flowgrad::tabletop {
namespace {

std::vector<std::string> split(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

}  // namespace

const std::vector<std::string>& wordings() {
  static const std::vector<std::string> all{
      "push the {color} disc to the {zone} zone",
      "move the {color} disc to the {zone}",
      "slide the {color} puck into the {zone} area",
      "please push the {color} puck to the {zone} side",
      "the {color} disc should go to the {zone} zone",
      "bring the {color} disc over to the {zone} area",
      "put the {color} puck into the {zone} zone",
      "take the {color} disc over to the {zone} side please",
      "i want the {color} puck in the {zone} area",
      "in the {zone} zone i want the {color} disc",
      "to the {zone} please move the {color} puck",
      "get the {color} disc into the {zone} area",
      "the {zone} zone is where the {color} puck should go",
      "the {zone} area is for the {color} disc",
      "let the {color} puck go to the {zone}",
      "now slide the {color} disc to the {zone} side",
      // Held out.
      "now bring the {color} puck to the {zone} zone",
      "please put the {color} disc in the {zone} area",
      "the {zone} side is where i want the {color} disc",
      "the {color} puck is for the {zone} zone",
      "to the {zone} area please get the {color} puck",
  };
  return all;
}

const std::vector<std::string>& vocabulary() {
  static const std::vector<std::string> words = [] {
    std::vector<std::string> out(kColorNames.begin(), kColorNames.end());
    out.insert(out.end(), kZoneNames.begin(), kZoneNames.end());
    for (const std::string& wording : wordings()) {
      for (const std::string& word : split(wording)) {
        if (word[0] != '{' && std::find(out.begin(), out.end(), word) == out.end()) {
          out.push_back(word);
        }
      }
    }
    return out;
  }();
  return words;
}

std::string instruction(int wording, int color, int zone) {
  const auto check = [](const char* what, int value, int count) {
    if (value < 0 || value >= count) {
      throw ValueError(fmt::format("tabletop::instruction: {} is {}; accepted are 0 to {}", what,
                                   value, count - 1));
    }
  };
  check("wording", wording, static_cast<int>(wordings().size()));
  check("color", color, kColors);
  check("zone", zone, kZones);
  return fmt::format(fmt::runtime(wordings()[static_cast<size_t>(wording)]),
                     fmt::arg("color", kColorNames[static_cast<size_t>(color)]),
                     fmt::arg("zone", kZoneNames[static_cast<size_t>(zone)]));
}

std::array<int64_t, kTokenLength> tokenize(std::string_view text) {
  const std::vector<std::string> words = split(text);
  if (static_cast<int64_t>(words.size()) > kTokenLength) {
    throw ValueError(fmt::format("tabletop::tokenize: {} has {} words; accepted are up to {}",
                                 quote(text), words.size(), kTokenLength));
  }
  std::array<int64_t, kTokenLength> tokens{};
  for (size_t i = 0; i < words.size(); ++i) {
    const auto found = std::find(vocabulary().begin(), vocabulary().end(), words[i]);
    if (found == vocabulary().end()) {
      throw ValueError(fmt::format("tabletop::tokenize: {} is not a known word; accepted are {}",
                                   quote(words[i]), fmt::join(vocabulary(), ", ")));
    }
    tokens[i] = found - vocabulary().begin() + 1;
  }
  return tokens;
}

}  // namespace flowgrad::tabletop
