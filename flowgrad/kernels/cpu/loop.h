#pragma once

#include <algorithm>
#include <cstring>

#include "flowgrad/kernels/axes.h"
#include "flowgrad/kernels/backend.h"
#include "flowgrad/kernels/cpu/scratch.h"
#include "flowgrad/kernels/parallel.h"

/// The one loop behind every elementwise kernel: axes are merged, then blocks of rows are handed to
/// a kernel as contiguous runs. Operands that are contiguous are read and written in place; others
/// pass through small buffers that stay in the first-level cache.
namespace flowgrad::kernels::cpu {

/// Elements of one block, and of one chunk of work for a thread. They do not depend on the number
/// of threads, and no elementwise value depends on them.
constexpr int64_t kBlock = 2048, kChunk = 16384;

/// f(i) for i < tasks over `elements` in all.
template <class F>
void for_tasks(int64_t tasks, int64_t elements, F&& f) {
  parallel_for_if(elements >= 2 * kChunk, tasks, f);
}

/// One operand: its first element and the bytes of an element. Operand 0 is the output.
struct Operand {
  void* data;
  int bytes;
};

/// A position in the rows of some Axes (all axes but the innermost), with every operand's offset.
class RowCursor {
 public:
  RowCursor(const Axes& axes, int64_t row) : axes_(&axes) {
    for (int d = axes.rank - 2; d >= 0; --d) {
      index_[d] = row % axes.size[d];
      row /= axes.size[d];
      for (int i = 0; i < axes.operands; ++i) offset_[i] += index_[d] * axes.stride[i][d];
    }
  }
  int64_t offset(int operand) const { return offset_[operand]; }
  /// Several rows at once, where there is at most one axis of rows.
  void advance_rows(int64_t rows) {
    for (int i = 0; i < axes_->operands && axes_->rank == 2; ++i)
      offset_[i] += rows * axes_->stride[i][0];
  }
  void advance() {
    for (int d = axes_->rank - 2; d >= 0; --d) {
      for (int i = 0; i < axes_->operands; ++i) offset_[i] += axes_->stride[i][d];
      if (++index_[d] < axes_->size[d]) return;
      for (int i = 0; i < axes_->operands; ++i) offset_[i] -= axes_->stride[i][d] * axes_->size[d];
      index_[d] = 0;
    }
  }

 private:
  const Axes* axes_;
  int64_t index_[kMaxRank] = {};
  int64_t offset_[kMaxOperands] = {};
};

/// Copies n elements of `bytes` each; strides in elements.
void copy_run(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t n,
              int bytes);

/// How the rows of some Axes are grouped into blocks and chunks.
struct Blocking {
  /// Rows in a block; when 1, a row is cut into pieces of kBlock elements.
  int64_t rows_per_block, pieces_per_row, blocks, blocks_per_chunk, rows;

  explicit Blocking(const Axes& axes) {
    const int64_t inner = std::max<int64_t>(axes.inner(), 1);
    rows = axes.total / inner;
    rows_per_block = inner >= kBlock / 4 ? 1 : kBlock / 2 / inner;
    pieces_per_row = rows_per_block > 1 ? 1 : (inner + kBlock - 1) / kBlock;
    blocks =
        rows_per_block > 1 ? (rows + rows_per_block - 1) / rows_per_block : rows * pieces_per_row;
    const int64_t block_elements =
        rows_per_block > 1 ? rows_per_block * inner : std::min(inner, kBlock);
    blocks_per_chunk = std::max<int64_t>(1, kChunk / block_elements);
  }
  int64_t chunks() const { return (blocks + blocks_per_chunk - 1) / blocks_per_chunk; }
};

/// Runs of one chunk of blocks: which operands need a buffer, and the buffers.
class BlockRunner {
 public:
  BlockRunner(const Axes& axes, const Blocking& blocking, const Operand* operands);

  /// kernel(pointers, n) for every block of [first, last); pointers[0] is the output.
  template <class Kernel>
  void run(int64_t first, int64_t last, Kernel& kernel) {
    RowCursor cursor(axes_, blocking_.rows_per_block > 1 ? first * blocking_.rows_per_block
                                                         : first / blocking_.pieces_per_row);
    for (int64_t block = first; block < last; ++block) {
      void* pointers[kMaxOperands];
      const int64_t n = blocking_.rows_per_block > 1 ? gather_rows(block, cursor, pointers)
                                                     : gather_piece(block, cursor, pointers);
      kernel(pointers, n);
      if (scatter_) scatter(pointers[0], n);
    }
  }

 private:
  int64_t gather_rows(int64_t block, RowCursor& cursor, void** pointers);
  int64_t gather_piece(int64_t block, RowCursor& cursor, void** pointers);
  void scatter(const void* from, int64_t n);
  char* at(int operand, int64_t offset) const {
    return static_cast<char*>(operands_[operand].data) + offset * operands_[operand].bytes;
  }

  const Axes& axes_;
  const Blocking& blocking_;
  const Operand* operands_;
  bool scatter_ = false;
  /// The output's place in the current block, kept for scatter.
  RowCursor output_;
  int64_t output_column_ = 0;
  /// Elements already in the buffer of an operand that is the same for every row.
  int64_t filled_[kMaxOperands] = {};
  bool same_rows_[kMaxOperands] = {};
  char* buffer_[kMaxOperands] = {};
};

/// kernel(void* const* pointers, int64_t n) over elements that follow each other in every operand,
/// in parallel when there are many.
template <class Kernel>
void for_run(int64_t total, const Operand* operands, int count, Kernel& kernel) {
  const auto run = [&](int64_t begin, int64_t end) {
    void* pointers[kMaxOperands];
    for (int i = 0; i < count; ++i)
      pointers[i] = static_cast<char*>(operands[i].data) + begin * operands[i].bytes;
    kernel(pointers, end - begin);
  };
  if (total == 0) return;
  if (total < 2 * kChunk) return run(0, total);
  parallel_for(divide_up(total, kChunk),
               [&](int64_t chunk) { run(chunk * kChunk, std::min(total, (chunk + 1) * kChunk)); });
}

/// The same over a few rows that are contiguous in every operand: a call each costs less than
/// buffers, as for a bias that is added to a small matrix. False where they are not so.
template <class Kernel>
bool for_few_rows(const Axes& axes, const Operand* operands, Kernel& kernel) {
  if (axes.rank != 2 || axes.size[0] > 8) return false;
  for (int i = 0; i < axes.operands; ++i)
    if (axes.stride[i][1] != 1) return false;
  for (int64_t r = 0; r < axes.size[0]; ++r) {
    void* pointers[kMaxOperands];
    for (int i = 0; i < axes.operands; ++i)
      pointers[i] =
          static_cast<char*>(operands[i].data) + r * axes.stride[i][0] * operands[i].bytes;
    kernel(pointers, axes.size[1]);
  }
  return true;
}

/// The same over operands with any strides.
template <class Kernel>
void for_blocks(const Axes& axes, const Operand* operands, Kernel&& kernel) {
  if (axes.total == 0) return;
  bool contiguous = true;
  for (int i = 0; i < axes.operands; ++i) contiguous = contiguous && axes.is_contiguous(i);
  if (contiguous) return for_run(axes.total, operands, axes.operands, kernel);
  if (axes.total < kChunk && for_few_rows(axes, operands, kernel)) return;
  const Blocking blocking(axes);
  const auto run = [&](int64_t chunk) {
    BlockRunner runner(axes, blocking, operands);
    const int64_t first = chunk * blocking.blocks_per_chunk;
    runner.run(first, std::min(blocking.blocks, first + blocking.blocks_per_chunk), kernel);
  };
  parallel_for_if(blocking.chunks() > 2, blocking.chunks(), run);
}

/// The same for views of equal shape; the first is the output.
template <class Kernel, class... Views>
void for_views(Kernel&& kernel, const View& out, const Views&... in) {
  const Operand operands[] = {{out.data, static_cast<int>(size_of(out.dtype))},
                              {in.data, static_cast<int>(size_of(in.dtype))}...};
  constexpr int kCount = 1 + static_cast<int>(sizeof...(in));
  // Most calls are so; the merging of axes would be a third of the time of a small one.
  if (out.is_contiguous() && ((*in.strides == *out.strides) && ...))
    return for_run(out.numel(), operands, kCount, kernel);
  const Strides* const strides[] = {out.strides, in.strides...};
  for_blocks(merge_axes(*out.shape, strides, kCount), operands, kernel);
}

}  // namespace flowgrad::kernels::cpu
