#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "flowgrad/core/error.h"
#include "flowgrad/plot/dag.h"

namespace flowgrad::plot {
namespace {

constexpr double kDagMargin = 20.0;
constexpr double kLayerGap = 46.0;
constexpr double kNodeGap = 26.0;
constexpr double kBendWidth = 12.0;

/// A node, or the place where a long edge passes through a layer.
struct Vertex {
  size_t layer = 0;
  double width = 0.0;
  double x = 0.0;
  bool bend = false;
  std::vector<size_t> above = {};
  std::vector<size_t> below = {};
};

struct Graph {
  std::vector<Vertex> vertices;
  std::vector<std::vector<size_t>> layers;  ///< vertices from left to right
  std::vector<std::vector<size_t>> chains;  ///< the vertices of every edge, from top to bottom
};

[[noreturn]] void report_cycle(const Dag& dag, const std::vector<size_t>& waiting) {
  // Every node left over has a predecessor among them, so walking back must come round.
  std::vector<size_t> path;
  size_t at = 0;
  while (waiting[at] == 0) ++at;
  while (std::find(path.begin(), path.end(), at) == path.end()) {
    path.push_back(at);
    for (const DagEdge& edge : dag.edges) {
      if (edge.to == at && waiting[edge.from] > 0) {
        at = edge.from;
        break;
      }
    }
  }
  std::string text = dag.nodes[at].label;
  for (auto it = path.rbegin(); it != path.rend(); ++it) {
    text += " -> " + dag.nodes[*it].label;
    if (*it == at) break;
  }
  throw ValueError(
      fmt::format("dag: the edges form a cycle ({}); only acyclic graphs can be drawn", text));
}

std::vector<size_t> longest_path_layers(const Dag& dag) {
  const size_t n = dag.nodes.size();
  std::vector<size_t> layer(n, 0);
  std::vector<size_t> waiting(n, 0);
  std::vector<size_t> fan_out(n, 0);
  std::vector<std::vector<size_t>> next(n);
  for (const DagEdge& edge : dag.edges) {
    if (edge.from >= n || edge.to >= n) {
      throw ValueError(
          fmt::format("dag: edge {} -> {} names a node that does not exist; there are "
                      "{} nodes",
                      edge.from, edge.to, n));
    }
    ++waiting[edge.to];
    next[edge.from].push_back(edge.to);
  }
  const std::vector<size_t> fan_in = waiting;
  std::vector<size_t> order;
  for (size_t i = 0; i < n; ++i) {
    if (waiting[i] == 0) order.push_back(i);
  }
  for (size_t k = 0; k < order.size(); ++k) {
    for (size_t to : next[order[k]]) {
      layer[to] = std::max(layer[to], layer[order[k]] + 1);
      if (--waiting[to] == 0) order.push_back(to);
    }
  }
  if (order.size() < n) report_cycle(dag, waiting);
  for (size_t i = 0; i < n; ++i) {  // a leaf stands right above its first use, not at the top
    if (fan_in[i] > 0 || next[i].empty()) continue;
    size_t first = layer[next[i][0]];
    for (size_t to : next[i]) first = std::min(first, layer[to]);
    layer[i] = first - 1;
  }
  return layer;
}

Graph build(const Dag& dag, const std::vector<size_t>& layer,
            const std::vector<DagLayout::Point>& sizes) {
  Graph graph;
  size_t depth = 0;
  for (size_t l : layer) depth = std::max(depth, l + 1);
  graph.layers.resize(depth);
  const auto add = [&](size_t at, double width, bool bend) {
    graph.vertices.push_back({.layer = at, .width = width, .bend = bend});
    graph.layers[at].push_back(graph.vertices.size() - 1);
    return graph.vertices.size() - 1;
  };
  for (size_t i = 0; i < dag.nodes.size(); ++i) add(layer[i], sizes[i].x, false);
  for (const DagEdge& edge : dag.edges) {
    std::vector<size_t> chain{edge.from};
    for (size_t l = layer[edge.from] + 1; l < layer[edge.to]; ++l) {
      chain.push_back(add(l, kBendWidth, true));
    }
    chain.push_back(edge.to);
    for (size_t k = 1; k < chain.size(); ++k) {
      graph.vertices[chain[k - 1]].below.push_back(chain[k]);
      graph.vertices[chain[k]].above.push_back(chain[k - 1]);
    }
    graph.chains.push_back(std::move(chain));
  }
  return graph;
}

std::vector<size_t> positions(const Graph& graph) {
  std::vector<size_t> position(graph.vertices.size(), 0);
  for (const auto& layer : graph.layers) {
    for (size_t i = 0; i < layer.size(); ++i) position[layer[i]] = i;
  }
  return position;
}

/// Crossings between a layer and the one below, by counting inversions.
size_t crossings(const Graph& graph, const std::vector<size_t>& position, size_t l) {
  std::vector<size_t> ends;
  for (size_t v : graph.layers[l]) {
    std::vector<size_t> mine;
    for (size_t w : graph.vertices[v].below) mine.push_back(position[w]);
    std::sort(mine.begin(), mine.end());
    ends.insert(ends.end(), mine.begin(), mine.end());
  }
  size_t count = 0;
  for (size_t i = 0; i < ends.size(); ++i) {
    for (size_t j = i + 1; j < ends.size(); ++j) count += ends[i] > ends[j] ? 1 : 0;
  }
  return count;
}

size_t all_crossings(const Graph& graph) {
  const std::vector<size_t> position = positions(graph);
  size_t count = 0;
  for (size_t l = 0; l + 1 < graph.layers.size(); ++l) count += crossings(graph, position, l);
  return count;
}

/// Sorts a layer by the mean position of its neighbours on one side; those without keep their
/// place.
void sort_layer(Graph& graph, size_t l, bool by_above, std::vector<size_t>& position) {
  std::vector<size_t>& layer = graph.layers[l];
  std::vector<std::pair<double, size_t>> keyed;
  for (size_t i = 0; i < layer.size(); ++i) {
    const Vertex& v = graph.vertices[layer[i]];
    const auto& neighbours = by_above ? v.above : v.below;
    double sum = 0.0;
    for (size_t w : neighbours) sum += static_cast<double>(position[w]);
    const auto own = static_cast<double>(i);
    keyed.emplace_back(neighbours.empty() ? own : sum / static_cast<double>(neighbours.size()),
                       layer[i]);
  }
  std::stable_sort(keyed.begin(), keyed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < layer.size(); ++i) {
    layer[i] = keyed[i].second;
    position[layer[i]] = i;
  }
}

void order_layers(Graph& graph) {
  std::vector<std::vector<size_t>> best = graph.layers;
  size_t fewest = all_crossings(graph);
  std::vector<size_t> position = positions(graph);
  for (int sweep = 0; sweep < 24 && fewest > 0; ++sweep) {
    const bool down = sweep % 2 == 0;
    for (size_t k = 1; k < graph.layers.size(); ++k) {
      sort_layer(graph, down ? k : graph.layers.size() - 1 - k, down, position);
    }
    const size_t count = all_crossings(graph);
    if (count < fewest) {
      fewest = count;
      best = graph.layers;
    }
  }
  graph.layers = std::move(best);
}

/// Nearest places to `wanted` that keep order and gaps: a weighted isotonic regression, solved
/// exactly by pooling neighbours that would overlap.
void place_layer(Graph& graph, size_t l, const std::vector<double>& wanted,
                 const std::vector<double>& weights) {
  struct Pool {
    double mean, weight;
    size_t count;
  };
  const std::vector<size_t>& layer = graph.layers[l];
  std::vector<double> offset(layer.size(), 0.0);
  std::vector<Pool> pools;
  for (size_t i = 0; i < layer.size(); ++i) {
    const Vertex& v = graph.vertices[layer[i]];
    if (i > 0) {
      const Vertex& u = graph.vertices[layer[i - 1]];
      const double gap = u.bend && v.bend ? 8.0 : kNodeGap;
      offset[i] = offset[i - 1] + 0.5 * (u.width + v.width) + gap;
    }
    pools.push_back({wanted[i] - offset[i], weights[i], 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean > pools.back().mean) {
      const Pool last = pools.back();
      pools.pop_back();
      Pool& p = pools.back();
      p.mean = (p.mean * p.weight + last.mean * last.weight) / (p.weight + last.weight);
      p.weight += last.weight;
      p.count += last.count;
    }
  }
  size_t i = 0;
  for (const Pool& pool : pools) {
    for (size_t k = 0; k < pool.count; ++k, ++i) graph.vertices[layer[i]].x = pool.mean + offset[i];
  }
}

/// Mean place of the bends of every edge: where the edge would run straight.
std::vector<double> straight_lines(const Graph& graph) {
  std::vector<double> line(graph.vertices.size(), 0.0);
  for (const auto& chain : graph.chains) {
    if (chain.size() < 3) continue;
    double sum = 0.0;
    for (size_t k = 1; k + 1 < chain.size(); ++k) sum += graph.vertices[chain[k]].x;
    for (size_t k = 1; k + 1 < chain.size(); ++k) {
      line[chain[k]] = sum / static_cast<double>(chain.size() - 2);
    }
  }
  return line;
}

void place(Graph& graph) {
  for (size_t l = 0; l < graph.layers.size(); ++l) {
    const size_t n = graph.layers[l].size();
    place_layer(graph, l, std::vector<double>(n, 0.0), std::vector<double>(n, 1.0));
  }
  constexpr int kSweeps = 30;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    // Early sweeps follow one side; later ones balance both and pull long edges straight.
    const bool late = sweep >= 10;
    const std::vector<double> line = straight_lines(graph);
    for (size_t k = 0; k < graph.layers.size(); ++k) {
      const size_t l = sweep % 2 == 0 ? k : graph.layers.size() - 1 - k;
      std::vector<double> wanted;
      std::vector<double> weights;
      for (size_t id : graph.layers[l]) {
        const Vertex& v = graph.vertices[id];
        double sum = 0.0;
        double weight = 0.0;
        const auto pull = [&](double x, double strength) {
          sum += strength * x;
          weight += strength;
        };
        for (size_t w : v.above) pull(graph.vertices[w].x, sweep % 2 == 0 || late ? 1.0 : 0.05);
        for (size_t w : v.below) pull(graph.vertices[w].x, sweep % 2 == 1 || late ? 1.0 : 0.05);
        if (v.bend && late) pull(line[id], 12.0);
        wanted.push_back(weight > 0.0 ? sum / weight : v.x);
        weights.push_back(std::max(weight, 0.1));
      }
      place_layer(graph, l, wanted, weights);
    }
  }
}

/// Where the edges of one side of a box touch it: spread over its middle, in the order of the other
/// ends.
std::vector<double> ports(const Graph& graph, size_t node, bool top) {
  const Vertex& v = graph.vertices[node];
  const std::vector<size_t>& others = top ? v.above : v.below;
  std::vector<size_t> order(others.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return graph.vertices[others[a]].x < graph.vertices[others[b]].x;
  });
  const auto count = static_cast<double>(others.size());
  const double step = std::min(16.0, 0.7 * v.width / std::max(count, 1.0));
  std::vector<double> x(others.size());
  for (size_t k = 0; k < order.size(); ++k) {
    x[order[k]] = v.x + (static_cast<double>(k) - 0.5 * (count - 1.0)) * step;
  }
  return x;
}

}  // namespace

DagLayout layout_dag(const Dag& dag, const std::vector<DagLayout::Point>& sizes) {
  if (sizes.size() != dag.nodes.size()) {
    throw ShapeError(fmt::format("layout_dag: {} sizes given for {} nodes; one a node is needed",
                                 sizes.size(), dag.nodes.size()));
  }
  DagLayout layout;
  layout.layer = longest_path_layers(dag);
  layout.sizes = sizes;
  Graph graph = build(dag, layout.layer, sizes);
  order_layers(graph);
  place(graph);

  double left = 1e300;
  double right = -1e300;
  for (const Vertex& v : graph.vertices) {
    left = std::min(left, v.x - 0.5 * v.width);
    right = std::max(right, v.x + 0.5 * v.width);
  }
  if (graph.vertices.empty()) left = right = 0.0;
  for (Vertex& v : graph.vertices) v.x += kDagMargin - left;
  layout.width = right - left + 2.0 * kDagMargin;

  std::vector<DagLayout::Point> bands;  // upper and lower edge of every layer
  double y = kDagMargin;
  for (const auto& layer : graph.layers) {
    double height = 0.0;
    for (size_t v : layer) {
      if (v < sizes.size()) height = std::max(height, sizes[v].y);
    }
    bands.push_back({y, y + height});
    y += height + kLayerGap;
  }
  layout.height = graph.layers.empty() ? 2.0 * kDagMargin : y - kLayerGap + kDagMargin;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto [top, bottom] = bands[layout.layer[i]];
    layout.centers.push_back({graph.vertices[i].x, 0.5 * (top + bottom)});
  }

  // Vertices list their edges in the order of dag.edges, so counting up finds each edge's port.
  std::vector<std::vector<double>> out_ports;
  std::vector<std::vector<double>> in_ports;
  for (size_t i = 0; i < sizes.size(); ++i) {
    out_ports.push_back(ports(graph, i, false));
    in_ports.push_back(ports(graph, i, true));
  }
  std::vector<size_t> used_out(sizes.size(), 0);
  std::vector<size_t> used_in(sizes.size(), 0);
  for (size_t e = 0; e < dag.edges.size(); ++e) {
    const size_t from = dag.edges[e].from;
    const size_t to = dag.edges[e].to;
    std::vector<DagLayout::Point> bends;
    bends.push_back(
        {out_ports[from][used_out[from]++], layout.centers[from].y + 0.5 * sizes[from].y});
    for (size_t v : graph.chains[e]) {
      if (!graph.vertices[v].bend) continue;
      const auto [top, bottom] = bands[graph.vertices[v].layer];
      bends.push_back({graph.vertices[v].x, top});
      bends.push_back({graph.vertices[v].x, bottom});
    }
    bends.push_back({in_ports[to][used_in[to]++], layout.centers[to].y - 0.5 * sizes[to].y});
    layout.bends.push_back(std::move(bends));
  }
  return layout;
}

}  // namespace flowgrad::plot
