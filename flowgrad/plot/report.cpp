#include "flowgrad/plot/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "flowgrad/core/error.h"
#include "flowgrad/core/file.h"
#include "flowgrad/plot/axis.h"
#include "flowgrad/plot/report_style.h"
#include "flowgrad/plot/svg.h"

namespace flowgrad::plot {
namespace {

/// Escaped running text, with `code` between back ticks. A back tick without partner stays itself.
std::string inline_text(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t open = text.find('`');
    const size_t close = open == text.npos ? text.npos : text.find('`', open + 1);
    if (close == text.npos) break;
    out += escape_xml(text.substr(0, open));
    out += fmt::format("<code>{}</code>", escape_xml(text.substr(open + 1, close - open - 1)));
    text.remove_prefix(close + 1);
  }
  return out + escape_xml(text);
}

std::string with_unit(const std::string& value, const std::string& unit) {
  return unit.empty() ? value : value + " " + unit;
}

/// Whether a cell reads as a number, so that columns of numbers are set flush right.
bool numeric(std::string_view cell) {
  if (cell.starts_with("−")) cell.remove_prefix(std::string_view("−").size());
  if (cell.starts_with("-") || cell.starts_with("+")) cell.remove_prefix(1);
  return !cell.empty() && std::isdigit(static_cast<unsigned char>(cell.front())) != 0;
}

std::string lowered(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

void check_svg(const std::string& svg) {
  const std::string low = lowered(svg);
  const size_t end = low.find_last_not_of(" \n\r\t");
  const bool lone =
      low.starts_with("<svg") && end != low.npos && low.substr(0, end + 1).ends_with("</svg>");
  if (!lone || low.find("<script") != low.npos || low.find("<foreignobject") != low.npos) {
    throw ValueError(
        "report: a figure's svg must be one <svg> element without scripts, as the charts "
        "of flowgrad/plot make it");
  }
}

std::string figure_html(const Figure& figure) {
  if (figure.svg.empty() == figure.image.empty()) {
    throw ValueError(fmt::format("report: a figure needs either an svg or an image; {} given",
                                 figure.svg.empty() ? "none" : "both"));
  }
  std::string out = figure.width > 0 ? fmt::format("<figure style=\"width:{}px\">\n", figure.width)
                                     : std::string("<figure>\n");
  if (!figure.svg.empty()) {
    check_svg(figure.svg);
    out += figure.svg;
  } else {
    out += fmt::format("<img width=\"{}\" height=\"{}\" alt=\"{}\" src=\"{}\">\n",
                       figure.image.width(), figure.image.height(), escape_xml(figure.caption),
                       png_data_uri(figure.image));
  }
  if (!figure.caption.empty()) {
    out += fmt::format("<figcaption>{}</figcaption>\n", inline_text(figure.caption));
  }
  return out + "</figure>\n";
}

}  // namespace

bool Check::passed() const {
  switch (demand) {
    case Demand::at_most: return measured <= bound;
    case Demand::at_least: return measured >= bound;
    default: return measured >= bound && measured <= upper;
  }
}

std::string Check::demanded() const {
  switch (demand) {
    case Demand::at_most: return "≤ " + pretty_number(bound);
    case Demand::at_least: return "≥ " + pretty_number(bound);
    default: return fmt::format("{} to {}", pretty_number(bound), pretty_number(upper));
  }
}

Report::Report(std::string title, std::string subtitle)
    : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

Report& Report::heading(std::string_view text, int level) {
  if (level != 2 && level != 3) {
    throw ValueError(fmt::format("report: heading level is {}; accepted are 2 and 3", level));
  }
  if (level == 2) {
    chapters_.emplace_back(text);
    body_ += fmt::format("<h2 id=\"chapter-{}\">{}</h2>\n", chapters_.size(), inline_text(text));
  } else {
    body_ += fmt::format("<h3>{}</h3>\n", inline_text(text));
  }
  return *this;
}

Report& Report::paragraph(std::string_view text) {
  body_ += fmt::format("<p>{}</p>\n", inline_text(text));
  return *this;
}

Report& Report::note(std::string_view text) {
  body_ += fmt::format("<p class=\"note\">{}</p>\n", inline_text(text));
  return *this;
}

Report& Report::list(const std::vector<std::string>& items) {
  body_ += "<ul>\n";
  for (const std::string& item : items) body_ += fmt::format("<li>{}</li>\n", inline_text(item));
  body_ += "</ul>\n";
  return *this;
}

Report& Report::code(std::string_view text, std::string_view caption) {
  if (!caption.empty()) body_ += fmt::format("<p class=\"small\">{}</p>\n", inline_text(caption));
  body_ += fmt::format("<pre><code>{}</code></pre>\n", escape_xml(text));
  return *this;
}

Report& Report::facts(const std::vector<std::pair<std::string, std::string>>& pairs) {
  body_ += "<dl>\n";
  for (const auto& [name, value] : pairs) {
    body_ += fmt::format("<dt>{}</dt><dd>{}</dd>\n", inline_text(name), inline_text(value));
  }
  body_ += "</dl>\n";
  return *this;
}

Report& Report::table(const Table& table) {
  for (size_t r = 0; r < table.rows.size(); ++r) {
    if (table.rows[r].size() != table.columns.size()) {
      throw ShapeError(fmt::format("report: row {} of a table has {} cells; there are {} columns",
                                   r, table.rows[r].size(), table.columns.size()));
    }
  }
  std::vector<const char*> classes;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    const bool numbers = !table.rows.empty() &&
                         std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) {
                           return row[c].empty() || row[c] == "–" || numeric(row[c]);
                         });
    classes.push_back(numbers ? " class=\"number\"" : "");
  }
  body_ += "<div class=\"scroll\"><table>\n";
  if (!table.caption.empty()) {
    body_ += fmt::format("<caption>{}</caption>\n", inline_text(table.caption));
  }
  body_ += "<thead><tr>";
  for (size_t c = 0; c < table.columns.size(); ++c) {
    body_ += fmt::format("<th{}>{}</th>", classes[c], inline_text(table.columns[c]));
  }
  body_ += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    body_ += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) {
      body_ += fmt::format("<td{}>{}</td>", classes[c], inline_text(row[c]));
    }
    body_ += "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
  return *this;
}

Report& Report::checks(const std::vector<Check>& checks) {
  body_ +=
      "<div class=\"scroll\"><table>\n<thead><tr><th>check</th><th class=\"number\">measured</th>"
      "<th class=\"number\">demanded</th><th></th></tr></thead>\n<tbody>\n";
  for (const Check& check : checks) {
    const bool passed = check.passed();
    passed_ += passed ? 1 : 0;
    ++total_;
    std::string name = inline_text(check.name);
    if (!check.note.empty()) {
      name += fmt::format("<span class=\"small\">{}</span>", inline_text(check.note));
    }
    body_ += fmt::format(
        "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>"
        "<td class=\"mark {}\">{}</td></tr>\n",
        name, escape_xml(with_unit(pretty_number(check.measured), check.unit)),
        escape_xml(with_unit(check.demanded(), check.unit)), passed ? "pass" : "fail",
        passed ? "✓ pass" : "✗ fail");
  }
  body_ += "</tbody></table></div>\n";
  return *this;
}

Report& Report::figure(const Figure& figure) {
  body_ += figure_html(figure);
  return *this;
}

Report& Report::figures(const std::vector<Figure>& figures) {
  std::string row = "<div class=\"row\">\n";
  for (const Figure& figure : figures) row += figure_html(figure);
  body_ += row + "</div>\n";
  return *this;
}

std::string Report::html() const {
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{2}</h1>\n",
      escape_xml(title_), kReportStyle, inline_text(title_));
  if (!subtitle_.empty()) {
    out += fmt::format("<p class=\"subtitle\">{}</p>\n", inline_text(subtitle_));
  }
  if (total_ > 0) {
    out += fmt::format("<span class=\"badge {}\">{} of {} checks passed</span>\n",
                       passed_ == total_ ? "good" : "bad", passed_, total_);
  }
  if (chapters_.size() > 2) {
    out += "<nav>\n";
    for (size_t i = 0; i < chapters_.size(); ++i) {
      out += fmt::format("<a href=\"#chapter-{}\">{}</a>\n", i + 1, inline_text(chapters_[i]));
    }
    out += "</nav>\n";
  }
  return out + body_ + "</main>\n</body>\n</html>\n";
}

void Report::write(const std::string& path) const { write_file_atomic(path, html(), "report"); }

}  // namespace flowgrad::plot
