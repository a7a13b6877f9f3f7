#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace flowgrad::plot {

/// A box of a drawn graph. `kind` chooses the colour: "input", "parameter", "constant", "op",
/// "saved" and "output" have their own, any other text one from the palette. `sublabel` is a second
/// line in smaller letters, such as a shape.
struct DagNode {
  std::string label = {};
  std::string kind = "op";
  std::string sublabel = {};
};

struct DagEdge {
  size_t from = 0;
  size_t to = 0;
  std::string label = {};
};

/// A directed acyclic graph drawn from the top down in layers: a node lies below everything it is
/// computed from (longest path), long edges are led around boxes, and the order inside a layer
/// keeps crossings few (barycentres; Sugiyama, Tagawa and Toda 1981). Meant for graphs a reader can
/// follow, up to a few hundred nodes; the same graph always gives the same text.
struct Dag {
  std::string title = {};
  std::vector<DagNode> nodes = {};
  std::vector<DagEdge> edges = {};
  bool legend = false;  ///< names the kinds that occur
  /// Raises ValueError for an edge to a node that does not exist and for a cycle, naming them.
  std::string svg() const;
};

/// Where the layout puts things; for tests and for other ways to draw.
struct DagLayout {
  struct Point {
    double x = 0.0;
    double y = 0.0;
  };
  std::vector<size_t> layer;   ///< of every node
  std::vector<Point> centers;  ///< of every node
  std::vector<Point> sizes;    ///< width and height of every node
  std::vector<std::vector<Point>>
      bends;  ///< of every edge: border of `from`, bends, border of `to`
  double width = 0.0;
  double height = 0.0;
};

/// Lays out boxes of the given sizes. Raises ValueError as Dag::svg does, and ShapeError where
/// there is not one size for each node.
DagLayout layout_dag(const Dag& dag, const std::vector<DagLayout::Point>& sizes);

}  // namespace flowgrad::plot
