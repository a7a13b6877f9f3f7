#pragma once

#include "flowgrad/kernels/cuda/rows.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/team.cuh"

/// Scans along an axis of anything associative.
///
/// The order depends on the length alone: a row is cut into chunks of kChunk elements, a chunk into
/// kLanes segments of kSegment neighbours. A lane folds its segment, the lanes' totals are scanned,
/// and the lane walks through its segment once more from what came before it. Rows of several
/// chunks take three launches: totals of the chunks, their scan, and the chunks from their carries.
///
/// An Op has: In, Out and Value (what is folded), kInputs and kOutputs (1 or 2; the second output
/// is int64), identity(), operator()(earlier, later), load(x, x2, position), value(Value),
/// at(Value) where there are two outputs, and is_sound(Value): where this is false, the row is
/// marked.
namespace flowgrad::kernels::cuda {

constexpr int kSegment = 32;
constexpr int64_t kChunk = int64_t{kLanes} * kSegment;

struct ScanRows {
  Axes kept;  // out, out2, x, x2
  int64_t step[4] = {};
  int64_t rows = 0;
  int64_t n = 0;
  int64_t chunks = 1;
};

template <class Op>
struct ScanPointers {
  typename Op::Out* out = nullptr;
  int64_t* out2 = nullptr;
  const typename Op::In* x = nullptr;
  const typename Op::In* x2 = nullptr;

  /// Of element 0 of row number `row`.
  GPU_INLINE void go_to(const ScanRows& rows, int64_t row) {
    int64_t offset[4];
    offsets_at(rows.kept, row, offset);
    out += offset[0];
    x += offset[2];
    if constexpr (Op::kOutputs == 2) out2 += offset[1];
    if constexpr (Op::kInputs == 2) x2 += offset[3];
  }
  GPU_INLINE typename Op::Value load(const Op& op, const ScanRows& rows, int64_t i) const {
    if constexpr (Op::kInputs == 2) {
      return op.load(x[i * rows.step[2]], x2[i * rows.step[3]], i);
    } else {
      return op.load(x[i * rows.step[2]], {}, i);
    }
  }
  GPU_INLINE void store(const Op& op, const ScanRows& rows, int64_t i,
                        const typename Op::Value& v) const {
    out[i * rows.step[0]] = op.value(v);
    if constexpr (Op::kOutputs == 2) out2[i * rows.step[1]] = op.at(v);
  }
};

/// What passes between launches. totals: written, and nothing else, where it is given. carries: the
/// scan of the totals, for chunks after the first. marks: one per row.
template <class A>
struct ScanLinks {
  A* totals = nullptr;
  const A* carries = nullptr;
  int* marks = nullptr;
};

/// Inclusive scan of the lanes' totals.
template <class Op>
GPU_INLINE typename Op::Value scan_warp(const Op& op, typename Op::Value value, int lane) {
#pragma unroll
  for (int delta = 1; delta < kLanes; delta *= 2) {
    const auto before = shuffle_up(value, static_cast<unsigned>(delta));
    if (lane >= delta) value = op(before, value);
  }
  return value;
}

/// One thread per row of up to kSegment elements.
template <class Op>
__global__ void scan_short(Op op, ScanRows rows, ScanPointers<Op> at) {
  const int64_t row = thread_number();
  if (row >= rows.rows) return;
  at.go_to(rows, row);
  auto running = op.identity();
  for (int64_t i = 0; i < rows.n; ++i) {
    running = op(running, at.load(op, rows, i));
    at.store(op, rows, i, running);
  }
}

/// Warps of a block whose chunks fit into 34 KB of shared memory.
template <class Op>
constexpr int scan_warps() {
  constexpr std::size_t bytes =
      sizeof(typename Op::In) * Op::kInputs + (Op::kOutputs == 2 ? sizeof(int64_t) : 0);
  return bytes <= 4 ? 8 : bytes <= 8 ? 4 : 2;
}

/// A warp per chunk, rows along memory: loads and stores go through shared memory, so that they are
/// coalesced and every lane finds its segment in one piece. Results take the places of elements.
template <class Op>
__global__ void __launch_bounds__(scan_warps<Op>() * kLanes, 1)
    scan_along(Op op, ScanRows rows, ScanPointers<Op> at, ScanLinks<typename Op::Value> links) {
  using A = typename Op::Value;
  using In = typename Op::In;
  constexpr int warps = scan_warps<Op>();
  constexpr bool pairs = Op::kInputs == 2;
  constexpr bool located = Op::kOutputs == 2;
  static_assert(std::is_same_v<In, typename Op::Out>);
  constexpr int kAhead = sizeof(In) <= 4 ? 16 : 8;  // loads under way at once
  GPU_SHARED(In, tiles, [warps][kLanes][kSegment + 1]);
  GPU_SHARED(In, tiles2, [pairs ? warps : 1][pairs ? kLanes : 1][pairs ? kSegment + 1 : 1]);
  GPU_SHARED(int64_t, tiles_at,
             [located ? warps : 1][located ? kLanes : 1][located ? kSegment + 1 : 1]);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  auto& tile = tiles[warp];
  auto& tile2 = tiles2[pairs ? warp : 0];
  auto& tile_at = tiles_at[located ? warp : 0];
  const int64_t item = static_cast<int64_t>(blockIdx.x) * warps + warp;
  const int64_t row = item / rows.chunks;
  const int64_t chunk = item % rows.chunks;
  const int64_t begin = chunk * kChunk;
  int count = 0;
  if (row < rows.rows) {
    at.go_to(rows, row);
    count = static_cast<int>(
        min(static_cast<long long>(rows.n - begin), static_cast<long long>(kChunk)));
  }
  const auto take = [&](const In* x, int64_t step, auto& to) {
    x += (begin + lane) * step;
#pragma unroll 1
    for (int k0 = 0; k0 * kLanes < count; k0 += kAhead) {
      In ahead[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k, x += kLanes * step)
        ahead[k] = (k0 + k) * kLanes + lane < count ? *x : In{};
#pragma unroll
      for (int k = 0; k < kAhead; ++k) to[k0 + k][lane] = ahead[k];
    }
  };
  take(at.x, rows.step[2], tile);
  if constexpr (pairs) take(at.x2, rows.step[3], tile2);
  __syncwarp();
  const int own = min(max(count - lane * kSegment, 0), kSegment);
  const auto element = [&](int k) {
    const int64_t i = begin + lane * kSegment + k;
    if constexpr (pairs) {
      return op.load(tile[lane][k], tile2[lane][k], i);
    } else {
      return op.load(tile[lane][k], {}, i);
    }
  };
  A total = op.identity();
  for (int k = 0; k < own; ++k) total = op(total, element(k));
  total = scan_warp(op, total, lane);
  A running = shuffle_up(total, 1);
  if (lane == 0) running = op.identity();
  bool sound = op.is_sound(total);
  if (links.totals != nullptr) {
    if (count > 0 && lane == kLanes - 1) links.totals[item] = total;
  } else {
    if (count > 0 && chunk > 0) running = op(links.carries[item - 1], running);
    sound = sound && op.is_sound(running);
    for (int k = 0; k < own; ++k) {
      running = op(running, element(k));
      tile[lane][k] = op.value(running);
      if constexpr (located) tile_at[lane][k] = op.at(running);
    }
    __syncwarp();
    const auto give = [&](auto* out, int64_t step, const auto& from) {
      out += (begin + lane) * step;
#pragma unroll 8
      for (int i = lane; i < count; i += kLanes, out += kLanes * step)
        *out = from[i / kLanes][lane];
    };
    give(at.out, rows.step[0], tile);
    if constexpr (located) give(at.out2, rows.step[1], tile_at);
  }
  if (links.marks != nullptr && count > 0 && !sound) atomicExch(&links.marks[row], 1);
}

/// A block per chunk of blockDim.x rows that lie across memory. Every thread has a segment.
template <class Op>
__global__ void __launch_bounds__(kLanes* kLanes, 1)
    scan_across(Op op, ScanRows rows, ScanPointers<Op> at, ScanLinks<typename Op::Value> links) {
  using A = typename Op::Value;
  GPU_SHARED(A, tile, [kLanes][kLanes + 1]);
  const int64_t tiles = (rows.rows + blockDim.x - 1) / blockDim.x;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) / tiles;
  const int64_t row = static_cast<int64_t>(blockIdx.x) % tiles * blockDim.x + threadIdx.x;
  const bool active = row < rows.rows;
  const int64_t begin = chunk * kChunk + static_cast<int64_t>(threadIdx.y) * kSegment;
  int64_t end = 0;
  if (active) {
    at.go_to(rows, row);
    end = begin + kSegment < rows.n ? begin + kSegment : rows.n;
  }
  A total = op.identity();
#pragma unroll 4
  for (int64_t i = begin; i < end; ++i) total = op(total, at.load(op, rows, i));
  tile[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  // There are as many warps as rows: warp w scans row w.
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(thread % kLanes);
  const unsigned warp = thread / kLanes;
  tile[lane][warp] = scan_warp(op, tile[lane][warp], lane);
  __syncthreads();
  bool sound = op.is_sound(tile[threadIdx.y][threadIdx.x]);
  if (links.totals != nullptr) {
    if (active && threadIdx.y == kLanes - 1)
      links.totals[row * rows.chunks + chunk] = tile[kLanes - 1][threadIdx.x];
  } else {
    A running = op.identity();
    if (threadIdx.y > 0) running = tile[threadIdx.y - 1][threadIdx.x];
    if (active && chunk > 0) running = op(links.carries[row * rows.chunks + chunk - 1], running);
    sound = sound && op.is_sound(running);
    for (int64_t i = begin; i < end; ++i) {
      running = op(running, at.load(op, rows, i));
      at.store(op, rows, i, running);
    }
  }
  if (links.marks != nullptr && active && !sound) atomicExch(&links.marks[row], 1);
}

/// The scan of Op's totals, of which the chunks' carries are taken.
template <class Op>
struct ScanTotals {
  using Value = typename Op::Value;
  using In = Value;
  using Out = Value;
  static constexpr int kInputs = 1;
  static constexpr int kOutputs = 1;
  Op op;
  GPU_INLINE Value identity() const { return op.identity(); }
  GPU_INLINE Value operator()(const Value& a, const Value& b) const { return op(a, b); }
  GPU_INLINE Value load(const Value& v, const Value&, int64_t) const { return v; }
  GPU_INLINE Value value(const Value& v) const { return v; }
  GPU_INLINE bool is_sound(const Value& v) const { return op.is_sound(v); }
};
/// Totals of totals are of the same kind.
template <class Op>
struct TotalsOf {
  using type = ScanTotals<Op>;
  static type make(const Op& op) { return {op}; }
};
template <class Op>
struct TotalsOf<ScanTotals<Op>> {
  using type = ScanTotals<Op>;
  static type make(const type& op) { return op; }
};

template <class Op>
void launch_scan(const Op& op, const ScanRows& rows, const ScanPointers<Op>& at,
                 const ScanLinks<typename Op::Value>& links, bool along) {
  if (along) {
    constexpr int warps = scan_warps<Op>();
    gpu::launch(scan_along<Op>, dim3(grid_of(rows.rows * rows.chunks, warps)), dim3(warps * kLanes),
                0, gpu::default_stream(), op, rows, at, links);
  } else {
    const unsigned width = tile_width(rows.kept.inner(), kLanes);
    const int64_t tiles = (rows.rows + width - 1) / width;
    gpu::launch(scan_across<Op>, dim3(grid_of(tiles * rows.chunks, 1)), dim3(width, kLanes), 0,
                gpu::default_stream(), op, rows, at, links);
  }
}

/// marks may be null; else they are set for rows in which something unsound was met.
template <class Op>
void scan_rows(const Op& op, ScanRows rows, const ScanPointers<Op>& at, int* marks) {
  using A = typename Op::Value;
  if (rows.n <= kSegment) {
    gpu::launch(scan_short<Op>, dim3(grid_of(rows.rows, kBlock)), dim3(kBlock), 0,
                gpu::default_stream(), op, rows, at);
    return;
  }
  rows.chunks = (rows.n + kChunk - 1) / kChunk;
  const bool along = lies_along_memory(rows.kept, 2, rows.step[2]);
  ScanLinks<A> links;
  links.marks = marks;
  if (rows.chunks == 1) return launch_scan(op, rows, at, links, along);
  const Scratch scratch(static_cast<std::size_t>(rows.rows * rows.chunks) * sizeof(A));
  A* const totals = scratch.as<A>();
  links.totals = totals;
  launch_scan(op, rows, at, links, along);

  using Totals = typename TotalsOf<Op>::type;
  ScanRows chunks;
  chunks.kept.rank = rows.rows > 1 ? 1 : 0;
  chunks.kept.operands = 4;
  chunks.kept.total = chunks.rows = rows.rows;
  chunks.kept.size[0] = rows.rows;
  chunks.n = rows.chunks;
  for (int k : {0, 2}) {
    chunks.kept.stride[k][0] = rows.chunks;
    chunks.step[k] = 1;
  }
  ScanPointers<Totals> in_place;
  in_place.x = in_place.out = totals;
  scan_rows(TotalsOf<Op>::make(op), chunks, in_place, marks);

  links.totals = nullptr;
  links.carries = totals;
  launch_scan(op, rows, at, links, along);
}

}  // namespace flowgrad::kernels::cuda
