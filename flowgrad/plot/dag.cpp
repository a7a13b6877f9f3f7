#include "flowgrad/plot/dag.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "flowgrad/plot/frame.h"

namespace flowgrad::plot {
namespace {

constexpr double kLabelSize = 13.0;
constexpr double kSubSize = 11.0;
constexpr double kArrow = 8.0;
constexpr const char* kEdge = "#71717a";

struct KindStyle {
  std::string_view kind;
  std::string fill;
  std::string stroke;
  double radius;
};

/// Known kinds have fixed colours, so that all graphs of a document read alike.
KindStyle style_of(const std::string& kind, std::vector<std::string>& unknown) {
  static const std::array<KindStyle, 6> known{{{"input", "#dbeafe", "#2563eb", 14.0},
                                               {"parameter", "#dcfce7", "#15803d", 14.0},
                                               {"constant", "#f4f4f5", "#a1a1aa", 14.0},
                                               {"op", "#ffffff", "#52525b", 6.0},
                                               {"saved", "#fef3c7", "#b45309", 6.0},
                                               {"output", "#fae8ff", "#a21caf", 14.0}}};
  for (const KindStyle& style : known) {
    if (style.kind == kind) return style;
  }
  auto it = std::find(unknown.begin(), unknown.end(), kind);
  if (it == unknown.end()) it = unknown.insert(unknown.end(), kind);
  const Color color = category_color(static_cast<size_t>(it - unknown.begin()) + 1);
  const auto pale = [](uint8_t c) { return static_cast<uint8_t>(255 - (255 - c) / 6); };
  return {kind, to_hex({pale(color.r), pale(color.g), pale(color.b)}), to_hex(color), 6.0};
}

/// A smooth path through the bends that leaves and enters vertically.
std::string edge_path(const std::vector<DagLayout::Point>& bends) {
  std::string data = fmt::format("M{} {}", number(bends[0].x), number(bends[0].y));
  for (size_t k = 1; k < bends.size(); ++k) {
    const auto [x0, y0] = bends[k - 1];
    const auto [x1, y1] = bends[k];
    const double end = k + 1 == bends.size() ? y1 - kArrow + 1.0 : y1;
    const double mid = 0.5 * (y0 + end);
    data += fmt::format("C{} {} {} {} {} {}", number(x0), number(mid), number(x1), number(mid),
                        number(x1), number(end));
  }
  return data;
}

void draw_edge_label(SvgWriter& svg, LabelPlacer& placer, const std::string& label,
                     const std::vector<DagLayout::Point>& bends) {
  if (label.empty()) return;
  const double width = text_width(label, kSubSize);
  std::vector<Box> candidates;
  for (size_t k = 1; k < bends.size(); k += 2) {  // the stretches between layers
    const auto [x0, y0] = bends[k - 1];
    const auto [x1, y1] = bends[k];
    for (double t : {0.5, 0.35, 0.65}) {
      const double smooth = t * t * (3.0 - 2.0 * t);
      const double x = x0 + smooth * (x1 - x0);
      const double y = y0 + t * (y1 - kArrow - y0);
      for (double off : {7.0, 13.0, 20.0}) {
        candidates.push_back({x + off, y - 7.0, width, 14.0});
        candidates.push_back({x - off - width, y - 7.0, width, 14.0});
      }
    }
  }
  const Box box = candidates[placer.place(candidates)];
  svg.text(box.left + box.width / 2.0, box.top + 11.0, label,
           {.size = kSubSize, .color = kText, .anchor = Anchor::middle, .halo = true});
}

std::vector<std::pair<double, double>> sampled(const std::vector<DagLayout::Point>& bends) {
  std::vector<std::pair<double, double>> points;
  for (size_t k = 1; k < bends.size(); ++k) {
    for (int i = 0; i <= 8; ++i) {
      const double t = i / 8.0;
      const double smooth = t * t * (3.0 - 2.0 * t);
      points.emplace_back(bends[k - 1].x + smooth * (bends[k].x - bends[k - 1].x),
                          bends[k - 1].y + t * (bends[k].y - bends[k - 1].y));
    }
  }
  return points;
}

}  // namespace

std::string Dag::svg() const {
  std::vector<DagLayout::Point> sizes;
  std::vector<std::string> unknown;
  std::vector<LegendEntry> kinds;
  for (const DagNode& node : nodes) {
    const double text =
        std::max(text_width(node.label, kLabelSize, true), text_width(node.sublabel, kSubSize));
    sizes.push_back({std::max(text + 22.0, 44.0), node.sublabel.empty() ? 30.0 : 44.0});
    const bool seen = std::any_of(kinds.begin(), kinds.end(),
                                  [&](const LegendEntry& k) { return k.name == node.kind; });
    if (legend && !seen)
      kinds.push_back({node.kind, style_of(node.kind, unknown).stroke, Swatch::dot});
  }
  const DagLayout layout = layout_dag(*this, sizes);
  const double width = std::max({layout.width, text_width(title, kTitleSize, true) + 2.0 * kMargin,
                                 kinds.empty() ? 0.0 : 420.0, 120.0});
  const Header header(title, "", kinds, width - 2.0 * kMargin);
  const double shift = 0.5 * (width - layout.width);
  const double down = header.height() > 0.0 ? header.height() + kMargin - 4.0 : 0.0;

  SvgWriter svg(width, layout.height + down, title.empty() ? "computation graph" : title);
  header.draw(svg, kMargin, kMargin - 4.0);
  if (nodes.empty()) {
    draw_empty(svg, {0.0, down, width, layout.height});
    return svg.finish();
  }
  std::vector<std::vector<DagLayout::Point>> bends = layout.bends;
  LabelPlacer placer({0.0, down, width, layout.height});
  for (auto& line : bends) {
    for (auto& point : line) {
      point.x += shift;
      point.y += down;
    }
    svg.path(edge_path(line), {.color = kEdge, .width = 1.4});
    const auto [x, y] = line.back();
    svg.path(fmt::format("M{} {}L{} {}L{} {}Z", number(x), number(y), number(x - 4.0),
                         number(y - kArrow), number(x + 4.0), number(y - kArrow)),
             {.width = 0.0}, kEdge);
    placer.avoid(sampled(line));
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    const DagNode& node = nodes[i];
    const double x = layout.centers[i].x + shift;
    const double y = layout.centers[i].y + down;
    const Box box{x - 0.5 * sizes[i].x, y - 0.5 * sizes[i].y, sizes[i].x, sizes[i].y};
    const KindStyle style = style_of(node.kind, unknown);
    svg.rect(box.left, box.top, box.width, box.height, style.fill, style.radius, style.stroke, 1.4);
    svg.text(x, node.sublabel.empty() ? y + 4.6 : y - 2.5, node.label,
             {.size = kLabelSize, .color = kInk, .anchor = Anchor::middle, .bold = true});
    svg.text(x, y + 13.0, node.sublabel,
             {.size = kSubSize, .color = kText, .anchor = Anchor::middle});
    placer.avoid(box);
  }
  for (size_t e = 0; e < edges.size(); ++e) draw_edge_label(svg, placer, edges[e].label, bends[e]);
  return svg.finish();
}

}  // namespace flowgrad::plot
