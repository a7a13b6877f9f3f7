#include "flowgrad/kernels/cpu/loop.h"

namespace flowgrad::kernels::cpu {

namespace {

/// Repeats the first `done` bytes until there are `bytes`.
void repeat(char* p, size_t done, size_t bytes) {
  while (done < bytes) {
    const size_t more = std::min(done, bytes - done);
    std::memcpy(p + done, p, more);
    done += more;
  }
}

template <class T>
void copy_elements(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t n) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  if (from_stride == 0 && to_stride == 1) {
    const T value = *x;
    const int64_t first = std::min<int64_t>(n, 16);
    for (int64_t i = 0; i < first; ++i) y[i] = value;
    repeat(static_cast<char*>(to), static_cast<size_t>(first) * sizeof(T),
           static_cast<size_t>(n) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < n; ++i) y[i * to_stride] = x[i * from_stride];
}

/// Rows of a few elements each, where a call per row would be most of the work.
template <class T>
void copy_short_rows(const void* from, int64_t row_stride, int64_t stride, int64_t rows, int64_t n,
                     void* to) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  for (int64_t r = 0; r < rows; ++r, x += row_stride, y += n)
    for (int64_t i = 0; i < n; ++i) y[i] = x[i * stride];
}
void copy_short_rows(const void* from, int64_t row_stride, int64_t stride, int64_t rows, int64_t n,
                     void* to, int bytes) {
  switch (bytes) {
    case 1: return copy_short_rows<uint8_t>(from, row_stride, stride, rows, n, to);
    case 2: return copy_short_rows<uint16_t>(from, row_stride, stride, rows, n, to);
    case 4: return copy_short_rows<uint32_t>(from, row_stride, stride, rows, n, to);
    default: return copy_short_rows<uint64_t>(from, row_stride, stride, rows, n, to);
  }
}

}  // namespace

void copy_run(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t n,
              int bytes) {
  if (from_stride == 1 && to_stride == 1) {
    if (n * bytes >= 64) {
      std::memcpy(to, from, static_cast<size_t>(n * bytes));
      return;
    }
  }
  switch (bytes) {
    case 1: return copy_elements<uint8_t>(from, from_stride, to, to_stride, n);
    case 2: return copy_elements<uint16_t>(from, from_stride, to, to_stride, n);
    case 4: return copy_elements<uint32_t>(from, from_stride, to, to_stride, n);
    default: return copy_elements<uint64_t>(from, from_stride, to, to_stride, n);
  }
}

BlockRunner::BlockRunner(const Axes& axes, const Blocking& blocking, const Operand* operands)
    : axes_(axes), blocking_(blocking), operands_(operands), output_(axes, 0) {
  char* buffers = scratch_of<char>(ScratchSlot::operand, kMaxOperands * kBlock * 8);
  for (int i = 0; i < axes.operands; ++i) {
    same_rows_[i] = true;
    for (int d = 0; d + 1 < axes.rank; ++d) same_rows_[i] = same_rows_[i] && axes.stride[i][d] == 0;
    // Rows that follow each other without a gap have been merged unless another operand forbade it.
    bool in_place = axes.inner_stride(i) == 1;
    if (blocking.rows_per_block > 1) {
      int64_t expected = 1;
      for (int d = axes.rank - 1; d >= 0; --d) {
        in_place = in_place && axes.stride[i][d] == expected;
        expected *= axes.size[d];
      }
    }
    if (!in_place) {
      buffer_[i] = buffers + i * kBlock * 8;
      if (i == 0) scatter_ = true;
    }
  }
}

int64_t BlockRunner::gather_rows(int64_t block, RowCursor& cursor, void** pointers) {
  const int64_t inner = axes_.inner();
  const int64_t first = block * blocking_.rows_per_block;
  const int64_t rows = std::min(blocking_.rows_per_block, blocking_.rows - first);
  bool needed[kMaxOperands] = {};
  if (scatter_) output_ = RowCursor(axes_, first);
  for (int i = 0; i < axes_.operands; ++i) {
    if (buffer_[i] == nullptr) {
      pointers[i] = at(i, cursor.offset(i));
      continue;
    }
    pointers[i] = buffer_[i];
    needed[i] = i > 0 && !(same_rows_[i] && filled_[i] >= rows * inner);
    filled_[i] = rows * inner;
  }
  bool walk = false;
  for (int i = 1; i < axes_.operands; ++i) {
    if (!needed[i]) continue;
    const int bytes = operands_[i].bytes;
    if (same_rows_[i]) {
      copy_run(at(i, cursor.offset(i)), axes_.inner_stride(i), buffer_[i], 1, inner, bytes);
      repeat(buffer_[i], static_cast<size_t>(inner * bytes),
             static_cast<size_t>(rows * inner * bytes));
    } else if (axes_.rank == 2 && inner <= 16) {
      copy_short_rows(at(i, cursor.offset(i)), axes_.stride[i][0], axes_.inner_stride(i), rows,
                      inner, buffer_[i], bytes);
    } else {
      walk = true;
      continue;
    }
    needed[i] = false;
  }
  if (!walk && axes_.rank <= 2) {
    cursor.advance_rows(rows);
    return rows * inner;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 1; i < axes_.operands; ++i) {
      if (!needed[i]) continue;
      copy_run(at(i, cursor.offset(i)), axes_.inner_stride(i),
               buffer_[i] + r * inner * operands_[i].bytes, 1, inner, operands_[i].bytes);
    }
    cursor.advance();
  }
  return rows * inner;
}

int64_t BlockRunner::gather_piece(int64_t block, RowCursor& cursor, void** pointers) {
  const int64_t inner = axes_.inner(), piece = block % blocking_.pieces_per_row;
  const int64_t column = piece * kBlock, n = std::min(kBlock, inner - column);
  if (scatter_) {
    output_ = RowCursor(axes_, block / blocking_.pieces_per_row);
    output_column_ = column;
  }
  for (int i = 0; i < axes_.operands; ++i) {
    const int64_t stride = axes_.inner_stride(i);
    void* const place = at(i, cursor.offset(i) + column * stride);
    pointers[i] = buffer_[i] == nullptr ? place : buffer_[i];
    if (buffer_[i] == nullptr || i == 0) continue;
    if (stride == 0 && same_rows_[i] && filled_[i] >= n) continue;
    copy_run(place, stride, buffer_[i], 1, n, operands_[i].bytes);
    filled_[i] = n;
  }
  if (piece == blocking_.pieces_per_row - 1) cursor.advance();
  return n;
}

void BlockRunner::scatter(const void* from, int64_t n) {
  const int64_t inner = axes_.inner(), stride = axes_.inner_stride(0);
  const int bytes = operands_[0].bytes;
  const char* source = static_cast<const char*>(from);
  if (blocking_.rows_per_block == 1) {
    copy_run(source, 1, at(0, output_.offset(0) + output_column_ * stride), stride, n, bytes);
    return;
  }
  for (int64_t done = 0; done < n; done += inner, source += inner * bytes) {
    copy_run(source, 1, at(0, output_.offset(0)), stride, inner, bytes);
    output_.advance();
  }
}

}  // namespace flowgrad::kernels::cpu
