#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "flowgrad/kernels/cuda/offsets.cuh"

/// Teams of threads that fold a row of elements to one value.
///
/// The order of a fold depends on the length alone, whoever does it: element i belongs to lane
/// i mod L, where L is 1 up to kSerialLength elements, 32 up to kWarpLength and 256 beyond. A lane
/// folds its elements in order. Lanes y, y + 32, y + 64 ... are then folded in order, and the 32
/// that remain pairwise: y with y ^ 16, y ^ 8 ... y ^ 1. So a row's bits depend neither on the rows
/// beside it nor on whether it lies along memory or across.
namespace flowgrad::kernels::cuda {

constexpr int64_t kSerialLength = 16;
constexpr int64_t kWarpLength = 1024;
constexpr int kLanes = 32;
constexpr unsigned kEveryLane = 0xffffffffu;

/// move(word) for a value of any type that shuffles do not know, 8 bytes at a time.
template <class T, class Move>
GPU_INLINE T move_words(T value, Move&& move) {
  if constexpr (std::is_arithmetic_v<T>) {
    return move(value);
  } else {
    static_assert(sizeof(T) % 8 == 0);
    unsigned long long words[sizeof(T) / 8];
    memcpy(words, &value, sizeof(T));
#pragma unroll
    for (unsigned long long& word : words) word = move(word);
    memcpy(&value, words, sizeof(T));
    return value;
  }
}

template <class T>
GPU_INLINE T shuffle_xor(T value, int mask) {
  return move_words(value, [&](auto word) { return __shfl_xor_sync(kEveryLane, word, mask); });
}
template <class T>
GPU_INLINE T shuffle_up(T value, unsigned delta) {
  return move_words(value, [&](auto word) { return __shfl_up_sync(kEveryLane, word, delta); });
}

/// Folds the lanes of a warp; every lane gets the result.
template <class A, class Op>
GPU_INLINE A fold_warp(A value, const Op& op) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value = op(value, shuffle_xor(value, mask));
  return value;
}

struct AddDoubles {
  GPU_INLINE double operator()(double a, double b) const { return a + b; }
};

/// What a team works on: chunk number `chunk` of row number `row`.
struct TeamPlace {
  int64_t row = 0;
  int64_t chunk = 0;
  bool active = false;
};

/// One thread, rows of up to kSerialLength.
struct ThreadTeam : TeamPlace {
  static constexpr unsigned kThreads = kBlock;
  static constexpr int kStreams = 1;
  static constexpr int kStep = 1;
  static constexpr int first = 0;
  GPU_INLINE ThreadTeam(int64_t rows, int64_t) {
    row = thread_number();
    active = row < rows;
  }
  GPU_INLINE bool leads() const { return active; }
  template <class A, class Op>
  GPU_INLINE A fold(const A (&lanes)[1], const Op&) const {
    return lanes[0];
  }
};

/// A warp, rows of up to kWarpLength.
struct WarpTeam : TeamPlace {
  static constexpr unsigned kThreads = kBlock;
  static constexpr int kStreams = 1;
  static constexpr int kStep = kLanes;
  int first;
  GPU_INLINE WarpTeam(int64_t rows, int64_t chunks) : first(threadIdx.x % kLanes) {
    row = thread_number() / kLanes;
    if (chunks > 1) {
      chunk = row % chunks;
      row /= chunks;
    }
    active = row < rows;
  }
  GPU_INLINE bool leads() const { return active && first == 0; }
  template <class A, class Op>
  GPU_INLINE A fold(const A (&lanes)[1], const Op& op) const {
    return fold_warp(lanes[0], op);
  }
};

/// A block of kBlock threads, rows beyond kWarpLength.
struct BlockTeam : TeamPlace {
  static constexpr unsigned kThreads = kBlock;
  static constexpr int kStreams = 1;
  static constexpr int kStep = kBlock;
  int first;
  GPU_INLINE BlockTeam(int64_t rows, int64_t chunks) : first(static_cast<int>(threadIdx.x)) {
    row = static_cast<int64_t>(blockIdx.x) / chunks;
    chunk = static_cast<int64_t>(blockIdx.x) % chunks;
    active = row < rows;
  }
  GPU_INLINE bool leads() const { return active && first == 0; }
  template <class A, class Op>
  GPU_INLINE A fold(const A (&lanes)[1], const Op& op) const {
    GPU_SHARED(A, all, [kBlock]);
    GPU_SHARED(A, result, [1]);
    all[first] = lanes[0];
    __syncthreads();
    if (first < kLanes) {
      A value = all[first];
      for (int l = first + kLanes; l < static_cast<int>(kBlock); l += kLanes)
        value = op(value, all[l]);
      value = fold_warp(value, op);
      if (first == 0) result[0] = value;
    }
    __syncthreads();
    return result[0];
  }
};

/// The rows lie across memory: blockDim.x neighbouring ones (a power of two up to kWidth) share a
/// block of 32 blockDim.x threads, so that loads are coalesced across rows; where registers allow,
/// two of these blocks run side by side on a multiprocessor, one loading while the other folds.
/// Streams = 8 stands for the 256 lanes of rows beyond kWarpLength.
template <int Streams>
struct TileTeam : TeamPlace {
  static constexpr unsigned kWidth = 16;
  static constexpr unsigned kThreads = kLanes * kWidth;
  static constexpr int kStreams = Streams;
  static constexpr int kStep = kLanes;
  int first;
  GPU_INLINE TileTeam(int64_t rows, int64_t) : first(static_cast<int>(threadIdx.y)) {
    const int64_t tiles = (rows + blockDim.x - 1) / blockDim.x;
    chunk = static_cast<int64_t>(blockIdx.x) / tiles;
    row = static_cast<int64_t>(blockIdx.x) % tiles * blockDim.x + threadIdx.x;
    active = row < rows;
  }
  GPU_INLINE bool leads() const { return active && first == 0; }
  template <class A, class Op>
  GPU_INLINE A fold(const A (&lanes)[Streams], const Op& op) const {
    GPU_SHARED(A, tile, [kLanes][kWidth + 1]);
    GPU_SHARED(A, result, [kWidth]);
    A value = lanes[0];
#pragma unroll
    for (int j = 1; j < Streams; ++j) value = op(value, lanes[j]);
    tile[first][threadIdx.x] = value;
    __syncthreads();
    // There are as many warps as rows: warp w folds row w.
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    const unsigned w = thread / kLanes;
    value = fold_warp(tile[thread % kLanes][w], op);
    if (thread % kLanes == 0) result[w] = value;
    __syncthreads();
    return result[threadIdx.x];
  }
};

/// f(stream, i) for the calling thread's elements of a row of n; Unroll loads are under way at
/// once.
template <int Unroll, class Team, class F>
GPU_INLINE void each_element(const Team& team, int64_t n, F&& f) {
  constexpr int streams = Team::kStreams;
  constexpr int step = Team::kStep;
  int64_t i = team.first;
  if constexpr (streams == 1) {
#pragma unroll Unroll
    for (; i < n; i += step) f(0, i);
  } else {
#pragma unroll 1
    for (; i + (streams - 1) * step < n; i += streams * step) {
#pragma unroll
      for (int j = 0; j < streams; ++j) f(j, i + j * step);
    }
#pragma unroll
    for (int j = 0; j < streams; ++j) {
      if (i + j * step < n) f(j, i + j * step);
    }
  }
}

/// Axes of one operand, with what replaces a 64-bit division by their sizes.
struct RowAxes {
  int rank = 0;
  int64_t stride[kMaxRank] = {};
  int64_t size[kMaxRank] = {};
  uint64_t inverse[kMaxRank] = {};  // 2^64 / size, rounded up

  explicit RowAxes(const Axes& axes) : rank(axes.rank) {
    for (int d = 0; d < rank; ++d) {
      size[d] = axes.size[d];
      stride[d] = axes.stride[0][d];
      if (size[d] > 1) inverse[d] = ~uint64_t{0} / static_cast<uint64_t>(size[d]) + 1;
    }
  }
  /// Offset of element i in row-major order.
  GPU_INLINE int64_t place(int64_t i) const {
    int64_t offset = 0;
    for (int d = rank - 1; d > 0; --d) {
      // The quotient, or one more than it.
      auto quotient = static_cast<int64_t>(__umul64hi(inverse[d], static_cast<uint64_t>(i)));
      int64_t rest = i - quotient * size[d];
      if (rest < 0) {
        --quotient;
        rest += size[d];
      }
      offset += rest * stride[d];
      i = quotient;
    }
    return offset + i * stride[0];
  }
};

/// Rows to be folded in chunks of `length` elements each.
struct RowWork {
  int64_t rows = 0;
  int64_t chunks = 1;
  int64_t length = 0;
  bool along_memory = true;
  /// Rows that are neighbours in memory, where they lie across.
  int64_t neighbours = 1;
};

inline unsigned grid_of(int64_t teams, int64_t teams_per_block) {
  const int64_t blocks = (teams + teams_per_block - 1) / teams_per_block;
  if (blocks > 0x7fffffff) {
    throw Error("a launch of " + std::to_string(blocks) + " blocks; a grid holds 2147483647");
  }
  return static_cast<unsigned>(blocks);
}

/// Width of a tile of rows.
inline unsigned tile_width(int64_t neighbours, unsigned limit) {
  unsigned width = 1;
  while (width < limit && width < neighbours) width *= 2;
  return width;
}

/// f(std::type_identity<Team>, grid, block) for the team that suits the work.
template <class F>
void with_team(const RowWork& work, F&& f) {
  if (work.length <= kSerialLength) {
    f(std::type_identity<ThreadTeam>{}, dim3(grid_of(work.rows, kBlock)), dim3(kBlock));
  } else if (work.along_memory && work.length <= kWarpLength) {
    f(std::type_identity<WarpTeam>{}, dim3(grid_of(work.rows * work.chunks, kBlock / kLanes)),
      dim3(kBlock));
  } else if (work.along_memory) {
    f(std::type_identity<BlockTeam>{}, dim3(grid_of(work.rows * work.chunks, 1)), dim3(kBlock));
  } else {
    const auto run = [&](auto tag) {
      const unsigned width = tile_width(work.neighbours, decltype(tag)::type::kWidth);
      const int64_t tiles = (work.rows + width - 1) / width;
      f(tag, dim3(grid_of(tiles * work.chunks, 1)), dim3(width, kLanes));
    };
    if (work.length <= kWarpLength) {
      run(std::type_identity<TileTeam<1>>{});
    } else {
      run(std::type_identity<TileTeam<8>>{});
    }
  }
}

}  // namespace flowgrad::kernels::cuda
