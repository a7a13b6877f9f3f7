#include "flowgrad/plot/svg.h"

#include <cmath>

#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad::plot;

TEST_CASE("text is escaped for XML", "[svg_test]") {
  CHECK(escape_xml("a < b && c > \"d\" 'e'") ==
        "a &lt; b &amp;&amp; c &gt; &quot;d&quot; &#39;e&#39;");
  CHECK(escape_xml("x₁ — naïve 日本 😀") == "x₁ — naïve 日本 😀");
  CHECK(escape_xml("tab\tline\n") == "tab\tline\n");
  CHECK(escape_xml(std::string_view("\0\x01\x1f", 3)) == "���");
  CHECK(escape_xml("\xff|\xc3|\xed\xa0\x80") == "�|�|���");
  CHECK(escape_xml("\xEF\xBF\xBE") == "���");  // U+FFFE is UTF-8 but not XML
}

TEST_CASE("coordinates are short and never break a document", "[svg_test]") {
  CHECK(number(12.5) == "12.5");
  CHECK(number(12.0) == "12");
  CHECK(number(100.0, 0) == "100");
  CHECK(number(-0.001) == "0");
  CHECK(number(1.005e3) == "1005");
  CHECK(number(std::nan("")) == "0");
  CHECK(number(HUGE_VAL) == "10000000");
  CHECK(number(-HUGE_VAL) == "-10000000");
}

TEST_CASE("text widths grow with text, size and weight", "[svg_test]") {
  CHECK(text_width("", 12.0) == 0.0);
  CHECK(text_width("WWW", 12.0) > 3.0 * text_width("i", 12.0));
  CHECK(text_width("abc", 24.0) == Catch::Approx(2.0 * text_width("abc", 12.0)));
  CHECK(text_width("abc", 12.0, true) > text_width("abc", 12.0));
  CHECK(text_width("日本", 10.0) > text_width("ab", 10.0));
}

TEST_CASE("text is cut to a width, between characters", "[svg_test]") {
  CHECK(fit_text("short", 200.0, 12.0) == "short");
  for (double width = 20.0; width < 200.0; width += 7.0) {
    const std::string cut = fit_text("größer als x₁₂₃ und länger", width, 12.0);
    CHECK(text_width(cut, 12.0) <= width);
    CHECK(escape_xml(cut) == cut);  // no torn character
  }
}

TEST_CASE("a document is well-formed, titled and clips without ids", "[svg_test]") {
  SvgWriter svg(200.0, 100.0, "a & b");
  svg.open_clip(10, 10, 50, 50);
  svg.line(0, 0, 100, 100, {.color = "#ff0000", .dash = "2 2"});
  svg.close_clip();
  svg.text(5, 20, "<script>", {.anchor = Anchor::end, .bold = true, .halo = true, .rotate = 30});
  svg.path("M0 0L1 1", {.width = 0.0}, "#00ff00", 0.5);
  const std::string text = svg.finish();
  const drawing::Element root = drawing::read(text);
  CHECK(root.number("width") == 200.0);
  CHECK(root.attributes.at("aria-label") == "a & b");
  CHECK(drawing::all(root, "title").at(0).text == "a & b");
  CHECK(drawing::has_text(root, "<script>"));
  CHECK(drawing::all(root, "svg").at(1).attributes.at("overflow") == "hidden");
  CHECK(text.find(" id=") == std::string::npos);
  CHECK(text.find("<style") == std::string::npos);
}
