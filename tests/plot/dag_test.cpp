#include "flowgrad/plot/dag.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "flowgrad/core/error.h"
#include "tests/catch.hpp"
#include "tests/plot/drawing.h"

using namespace flowgrad;
using namespace flowgrad::plot;
using Point = DagLayout::Point;

namespace {

std::vector<Point> boxes(const Dag& dag) {
  return std::vector<Point>(dag.nodes.size(), {60.0, 30.0});
}

Dag chain(size_t n) {
  Dag dag;
  for (size_t i = 0; i < n; ++i) dag.nodes.push_back({"n" + std::to_string(i)});
  for (size_t i = 1; i < n; ++i) dag.edges.push_back({i - 1, i});
  return dag;
}

Dag random_dag(size_t n, unsigned seed) {
  Dag dag = chain(0);
  std::mt19937 random(seed);
  for (size_t i = 0; i < n; ++i) {
    dag.nodes.push_back({"op " + std::to_string(i), "op", i % 2 == 0 ? "(8, 64)" : ""});
    for (size_t k = 0; i > 0 && k < 1 + random() % 3; ++k) dag.edges.push_back({random() % i, i});
  }
  return dag;
}

bool inside(const Point& p, const Point& center, const Point& size) {
  return std::abs(p.x - center.x) < 0.5 * size.x - 0.5 &&
         std::abs(p.y - center.y) < 0.5 * size.y - 0.5;
}

}  // namespace

TEST_CASE("layers follow the longest path", "[dag_test]") {
  Dag dag = chain(4);
  dag.edges.push_back({0, 3});
  dag.nodes.push_back({"leaf"});
  dag.edges.push_back({4, 3});
  dag.nodes.push_back({"alone"});
  const DagLayout layout = layout_dag(dag, boxes(dag));
  CHECK(layout.layer == std::vector<size_t>{0, 1, 2, 3, 2, 0});  // a leaf stands above its use
}

TEST_CASE("boxes do not overlap, arrows point down and miss the boxes", "[dag_test]") {
  for (unsigned seed = 0; seed < 12; ++seed) {
    const Dag dag = random_dag(5 + 6 * seed, seed);
    const std::vector<Point> sizes = boxes(dag);
    const DagLayout layout = layout_dag(dag, sizes);
    CAPTURE(seed);
    for (size_t i = 0; i < sizes.size(); ++i) {
      CHECK(layout.centers[i].x >= 0.5 * sizes[i].x);
      CHECK(layout.centers[i].x <= layout.width - 0.5 * sizes[i].x);
      for (size_t j = 0; j < i; ++j) {
        const double dx = std::abs(layout.centers[i].x - layout.centers[j].x);
        const double dy = std::abs(layout.centers[i].y - layout.centers[j].y);
        CHECK((dx >= 60.0 - 1e-6 || dy >= 30.0 - 1e-6));
      }
    }
    for (size_t e = 0; e < dag.edges.size(); ++e) {
      CHECK(layout.layer[dag.edges[e].from] < layout.layer[dag.edges[e].to]);
      const auto& bends = layout.bends[e];
      for (size_t k = 1; k < bends.size(); ++k) {
        CHECK(bends[k].y > bends[k - 1].y);
        for (size_t i = 0; i < sizes.size(); ++i) {
          const Point mid{0.5 * (bends[k].x + bends[k - 1].x), 0.5 * (bends[k].y + bends[k - 1].y)};
          CHECK_FALSE(inside(bends[k], layout.centers[i], sizes[i]));
          CHECK_FALSE(inside(mid, layout.centers[i], sizes[i]));
        }
      }
    }
  }
}

TEST_CASE("two parallel edges touch the box at two places", "[dag_test]") {
  Dag dag = chain(2);
  dag.edges.push_back({0, 1});
  const DagLayout layout = layout_dag(dag, boxes(dag));
  CHECK(std::abs(layout.bends[0].back().x - layout.bends[1].back().x) > 5.0);
}

TEST_CASE("crossings that can be avoided are", "[dag_test]") {
  Dag dag;
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) dag.nodes.push_back({name});
  dag.edges = {{0, 5}, {1, 4}, {2, 3}};  // drawn in the order of the nodes all three would cross
  const DagLayout layout = layout_dag(dag, boxes(dag));
  for (size_t i = 0; i < 3; ++i)
    CHECK(layout.centers[i].x == Catch::Approx(layout.centers[5 - i].x));
}

TEST_CASE("a chain is straight", "[dag_test]") {
  const Dag dag = chain(20);
  const DagLayout layout = layout_dag(dag, boxes(dag));
  for (const Point& c : layout.centers) CHECK(c.x == Catch::Approx(layout.centers[0].x));
}

TEST_CASE("graphs that are none are refused by name", "[dag_test]") {
  Dag loop = chain(4);
  loop.edges.push_back({3, 1});
  CHECK_THROWS_WITH(loop.svg(),
                    "dag: the edges form a cycle (n1 -> n2 -> n3 -> n1); only acyclic "
                    "graphs can be drawn");
  Dag self = chain(1);
  self.edges.push_back({0, 0});
  CHECK_THROWS_WITH(self.svg(),
                    "dag: the edges form a cycle (n0 -> n0); only acyclic graphs can be drawn");
  Dag far = chain(2);
  far.edges.push_back({0, 9});
  CHECK_THROWS_WITH(far.svg(),
                    "dag: edge 0 -> 9 names a node that does not exist; there are 2 nodes");
  CHECK_THROWS_AS(layout_dag(chain(2), {}), ShapeError);
}

TEST_CASE("a drawn graph names everything and its texts are apart", "[dag_test]") {
  Dag dag = random_dag(25, 5);
  dag.title = "graph of <one> step";
  dag.legend = true;
  dag.nodes[0].kind = "input";
  dag.nodes[1].kind = "something new";
  const std::string svg = dag.svg();
  const drawing::Element root = drawing::read(svg);
  for (const DagNode& node : dag.nodes) CHECK(drawing::has_text(root, node.label));
  CHECK(drawing::has_text(root, "graph of <one> step"));
  CHECK(drawing::has_text(root, "something new"));
  CHECK(drawing::text_trouble(svg) == "");
  CHECK(drawing::all(root, "rect").size() == 26);
  CHECK(drawing::all(root, "path").size() == 2 * dag.edges.size());
  CHECK(dag.svg() == svg);
  CHECK(drawing::has_text(drawing::read(Dag{}.svg()), "no data"));
}
