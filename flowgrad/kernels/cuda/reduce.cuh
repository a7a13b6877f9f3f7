#pragma once

#include "flowgrad/kernels/cuda/rows.h"
#include "flowgrad/kernels/cuda/scratch.h"
#include "flowgrad/kernels/cuda/team.cuh"

/// Reductions over any set of axes. Rows of more than kWarpLength elements are folded in chunks;
/// the chunks' values lie in scratch memory and are the next launch's rows.
///
/// An Op has: Value (what is folded), identity(), operator()(earlier, later), load(element,
/// position) and load(Value, position), store(Value*, Value) and store(result*, Value). Where it
/// loads elements otherwise than its own values, of_partials() is the Op that folds those; where an
/// element that comes after all of a value is folded with less, next(value, element, position)
/// does.
namespace flowgrad::kernels::cuda {

/// Of a row of n elements. Longer ones have at most kWarpLength chunks, so a second launch ends
/// them.
inline int64_t chunk_length(int64_t n) {
  if (n <= kWarpLength) return n;
  constexpr int64_t million = kWarpLength * kWarpLength;
  return (n + million - 1) / million * kWarpLength;
}

/// kept: result, x. reduced: x. Writes to `partial` where there are several chunks, else to `out`.
template <class Team, class Op, class In, class Out>
__global__ void __launch_bounds__(Team::kThreads, 1)
    reduce_rows(Op op, const In* __restrict__ x, Axes kept, RowAxes reduced, int64_t total,
                RowWork work, Out* __restrict__ out, typename Op::Value* __restrict__ partial) {
  using A = typename Op::Value;
  const Team team(work.rows, work.chunks);
  int64_t offset[2] = {};
  int64_t n = 0;
  const int64_t begin = team.chunk * work.length;
  if (team.active) {
    offsets_at(kept, team.row, offset);
    const int64_t rest = total - begin;
    n = rest < work.length ? rest : work.length;
  }
  const In* const row = x + offset[1];
  A lanes[Team::kStreams];
#pragma unroll
  for (int j = 0; j < Team::kStreams; ++j) lanes[j] = op.identity();
  const auto add = [&](A& lane, const In& element, int64_t position) {
    if constexpr (requires { op.next(lane, element, position); })
      lane = op.next(lane, element, position);
    else
      lane = op(lane, op.load(element, position));
  };
  if (reduced.rank <= 1) {
    const int64_t step = reduced.stride[0];
    each_element<8>(team, n,
                    [&](int j, int64_t i) { add(lanes[j], row[(begin + i) * step], begin + i); });
  } else {
    each_element<2>(team, n, [&](int j, int64_t i) {
      add(lanes[j], row[reduced.place(begin + i)], begin + i);
    });
  }
  const A value = team.fold(lanes, op);
  if (team.leads()) {
    if (work.chunks > 1) {
      partial[team.row * work.chunks + team.chunk] = value;
    } else {
      op.store(out + offset[0], value);
    }
  }
}

template <class Op, class In, class Out>
void reduce_axes(const Op& op, const In* x, const Axes& kept, const Axes& reduced, Out* out) {
  using A = typename Op::Value;
  const int64_t n = reduced.total;
  RowWork work;
  work.rows = kept.total;
  work.length = chunk_length(n);
  work.chunks = n == 0 ? 1 : (n + work.length - 1) / work.length;
  work.along_memory = lies_along_memory(kept, 1, reduced.rank == 0 ? 0 : reduced.inner_stride(0));
  work.neighbours = kept.inner();
  const auto run = [&](A* partial) {
    with_team(work, [&](auto tag, dim3 grid, dim3 block) {
      using Team = typename decltype(tag)::type;
      gpu::launch(reduce_rows<Team, Op, In, Out>, grid, block, 0, gpu::default_stream(), op, x,
                  kept, RowAxes(reduced), n, work, out, partial);
    });
  };
  if (work.chunks == 1) return run(nullptr);
  const Scratch scratch(static_cast<std::size_t>(work.rows * work.chunks) * sizeof(A));
  A* const partial = scratch.as<A>();
  run(partial);
  Axes rows = kept;
  int64_t step = work.chunks;
  for (int d = rows.rank - 1; d >= 0; --d) {
    rows.stride[1][d] = step;
    step *= rows.size[d];
  }
  Axes chunks;
  chunks.rank = chunks.operands = 1;
  chunks.total = chunks.size[0] = work.chunks;
  chunks.stride[0][0] = 1;
  if constexpr (requires { op.of_partials(); })
    reduce_axes(op.of_partials(), static_cast<const A*>(partial), rows, chunks, out);
  else
    reduce_axes<Op, A, Out>(op, partial, rows, chunks, out);
}

}  // namespace flowgrad::kernels::cuda
