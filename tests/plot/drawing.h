#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "flowgrad/plot/svg.h"

/// A small strict XML reader, so that tests look at drawings as a viewer would.
namespace drawing {

struct Element {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;
  std::vector<Element> children;

  double number(const std::string& key) const {
    size_t used = 0;
    const double v = std::stod(attributes.at(key), &used);
    if (used != attributes.at(key).size()) throw std::runtime_error("not a number: " + key);
    return v;
  }
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Element document() {
    skip_space();
    Element root = element();
    skip_space();
    if (at_ != text_.size()) fail("content after the root element");
    return root;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw std::runtime_error("not well-formed at " + std::to_string(at_) + ": " + why);
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void expect(std::string_view s) {
    if (text_.substr(at_, s.size()) != s) fail("expected " + std::string(s));
    at_ += s.size();
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \n\t\r").find(text_[at_]) != std::string::npos)
      ++at_;
  }
  std::string name() {
    std::string out;
    while (std::isalnum(static_cast<unsigned char>(peek())) || peek() == '-' || peek() == ':') {
      out += text_[at_++];
    }
    if (out.empty()) fail("expected a name");
    return out;
  }
  std::string text_until(char end) {
    std::string out;
    while (peek() != end) {
      const char c = peek();
      if (c == '\0' || c == '<') fail("bare character in text");
      if (c != '&') {
        out += c;
        ++at_;
        continue;
      }
      const size_t stop = text_.find(';', at_);
      const std::string_view entity = text_.substr(at_, stop - at_ + 1);
      static const std::map<std::string_view, char> known{
          {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&#39;", '\''}};
      if (!known.contains(entity)) fail("unknown entity");
      out += known.at(entity);
      at_ = stop + 1;
    }
    return out;
  }
  Element element() {
    Element e;
    expect("<");
    e.name = name();
    for (;;) {
      skip_space();
      if (peek() == '/') {
        expect("/>");
        return e;
      }
      if (peek() == '>') break;
      const std::string key = name();
      expect("=\"");
      if (e.attributes.contains(key)) fail("repeated attribute " + key);
      e.attributes[key] = text_until('"');
      ++at_;
    }
    expect(">");
    for (;;) {
      e.text += text_until('<');
      if (text_.substr(at_, 2) == "</") {
        expect("</" + e.name + ">");
        return e;
      }
      e.children.push_back(element());
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

inline Element read(const std::string& svg) { return Reader(svg).document(); }

inline void collect(const Element& from, const std::string& name, std::vector<Element>& out) {
  if (from.name == name) out.push_back(from);
  for (const Element& child : from.children) collect(child, name, out);
}

/// All elements of a name, in document order.
inline std::vector<Element> all(const Element& from, const std::string& name) {
  std::vector<Element> out;
  collect(from, name, out);
  return out;
}

inline bool has_text(const Element& svg, const std::string& wanted) {
  for (const Element& t : all(svg, "text")) {
    if (t.text == wanted) return true;
  }
  return false;
}

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

struct Area {
  double left, top, right, bottom;
  std::string text;
};

/// The boxes that level texts take.
inline std::vector<Area> text_areas(const Element& svg) {
  std::vector<Area> out;
  for (const Element& t : all(svg, "text")) {
    if (t.attributes.contains("transform")) continue;
    const double size = t.number("font-size");
    const double width =
        flowgrad::plot::text_width(t.text, size, t.attributes.contains("font-weight"));
    const auto anchor = t.attributes.find("text-anchor");
    const double share = anchor == t.attributes.end() ? 0.0
                         : anchor->second == "middle" ? 0.5
                                                      : 1.0;
    const double left = t.number("x") - share * width;
    out.push_back(
        {left, t.number("y") - 0.8 * size, left + width, t.number("y") + 0.2 * size, t.text});
  }
  return out;
}

/// What is wrong with the texts of a drawing: the first that leaves it or touches another; "" if
/// none.
inline std::string text_trouble(const std::string& svg) {
  const Element root = read(svg);
  const std::vector<Area> areas = text_areas(root);
  for (size_t i = 0; i < areas.size(); ++i) {
    const Area& a = areas[i];
    if (a.left < 0.0 || a.top < 0.0 || a.right > root.number("width") ||
        a.bottom > root.number("height")) {
      return "outside: " + a.text;
    }
    for (size_t j = 0; j < i; ++j) {
      const Area& b = areas[j];
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) {
        return "overlap: " + a.text + " | " + b.text;
      }
    }
  }
  return "";
}

}  // namespace drawing
