#include "flowgrad/kernels/cuda/radix_sort.h"

#include <algorithm>

#include "flowgrad/kernels/gpu.cuh"

/// Least significant digit first, eight bits a pass: count the digits of every part of a row, turn
/// the counts into places, move. Within a part elements are ranked in order, so equal digits keep
/// theirs.
namespace flowgrad::kernels::cuda {

namespace {

constexpr int kDigits = 256;
constexpr int kWarps = kDigits / 32;  // one thread a digit
constexpr int kItems = 8;             // elements a thread ranks at once
constexpr int kTile = kDigits * kItems;
constexpr int kMaxParts = 256;  // of a row; one thread adds up the counts of all

struct Split {
  int64_t n;
  int64_t part;  // elements of a part, a multiple of kTile
  int parts;
};

Split split_of(int64_t n) {
  const int64_t tiles = (n + kTile - 1) / kTile;
  const int64_t part = (tiles + kMaxParts - 1) / kMaxParts * kTile;
  return {n, part, static_cast<int>((n + part - 1) / part)};
}

template <class Key>
GPU_INLINE unsigned digit_of(Key key, int shift) {
  return static_cast<unsigned>(key >> shift) & (kDigits - 1u);
}

/// counts[row][part][digit].
template <class Key>
__global__ void __launch_bounds__(kDigits)
    count_digits(const Key* keys, unsigned* counts, Split s, int shift) {
  GPU_SHARED(unsigned, count, [kDigits]);
  count[threadIdx.x] = 0;
  __syncthreads();
  const Key* row = keys + static_cast<int64_t>(blockIdx.y) * s.n;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * s.part;
  const int64_t end = begin + s.part < s.n ? begin + s.part : s.n;
  for (int64_t i = begin + threadIdx.x; i < end; i += kDigits) {
    atomicAdd(&count[digit_of(row[i], shift)], 1u);
  }
  __syncthreads();
  const int64_t at = static_cast<int64_t>(blockIdx.y) * s.parts + blockIdx.x;
  counts[at * kDigits + threadIdx.x] = count[threadIdx.x];
}

/// Counts become the place of each part's first element with that digit.
__global__ void __launch_bounds__(kDigits) place_digits(unsigned* counts, Split s) {
  GPU_SHARED(unsigned, warp_total, [kWarps]);
  unsigned* row = counts + static_cast<int64_t>(blockIdx.x) * s.parts * kDigits + threadIdx.x;
  unsigned total = 0;
#pragma unroll 4
  for (int part = 0; part < s.parts; ++part) total += row[part * kDigits];
  const unsigned lane = threadIdx.x % 32;
  unsigned inclusive = total;
  for (unsigned step = 1; step < 32; step *= 2) {
    const unsigned before = __shfl_up_sync(0xffffffffu, inclusive, step);
    if (lane >= step) inclusive += before;
  }
  if (lane == 31) warp_total[threadIdx.x / 32] = inclusive;
  __syncthreads();
  unsigned at = inclusive - total;
  for (unsigned w = 0; w < threadIdx.x / 32; ++w) at += warp_total[w];
#pragma unroll 4
  for (int part = 0; part < s.parts; ++part) {
    const unsigned count = row[part * kDigits];
    row[part * kDigits] = at;
    at += count;
  }
}

template <class Key>
__global__ void __launch_bounds__(kDigits)
    move_keys(const Key* keys, const uint32_t* order, Key* keys_out, uint32_t* order_out,
              const unsigned* places, Split s, int shift) {
  GPU_SHARED(unsigned, count, [kWarps][kDigits]);
  GPU_SHARED(unsigned, place, [kDigits]);
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * s.n;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * s.part;
  const int64_t end = begin + s.part < s.n ? begin + s.part : s.n;
  place[threadIdx.x] =
      places[(static_cast<int64_t>(blockIdx.y) * s.parts + blockIdx.x) * kDigits + threadIdx.x];

  for (int64_t tile = begin; tile < end; tile += kTile) {
    for (unsigned d = lane; d < kDigits; d += 32) count[warp][d] = 0;
    __syncwarp();
    // A warp owns kItems * 32 neighbours and ranks them 32 at a time.
    Key key[kItems];
    unsigned rank[kItems];
    const int64_t first = tile + warp * (kItems * 32) + lane;
#pragma unroll
    for (int e = 0; e < kItems; ++e) {
      const int64_t i = first + e * 32;
      const bool given = i < end;
      key[e] = given ? keys[row + i] : Key{0};
      const unsigned digit = given ? digit_of(key[e], shift) : kDigits;
      const unsigned equal = __match_any_sync(0xffffffffu, digit);
      const unsigned before = equal & ((1u << lane) - 1u);
      rank[e] = given ? count[warp][digit] + static_cast<unsigned>(__popc(before)) : 0;
      __syncwarp();
      if (given && before == 0) count[warp][digit] += static_cast<unsigned>(__popc(equal));
      __syncwarp();
    }
    __syncthreads();
    unsigned at = place[threadIdx.x];
    for (int w = 0; w < kWarps; ++w) {
      const unsigned c = count[w][threadIdx.x];
      count[w][threadIdx.x] = at;
      at += c;
    }
    place[threadIdx.x] = at;
    __syncthreads();
#pragma unroll
    for (int e = 0; e < kItems; ++e) {
      const int64_t i = first + e * 32;
      if (i < end) {
        const int64_t to = row + count[warp][digit_of(key[e], shift)] + rank[e];
        keys_out[to] = key[e];
        order_out[to] = order[row + i];
      }
    }
    __syncwarp();
  }
}

}  // namespace

std::size_t radix_sort_bytes(int64_t rows, int64_t n) {
  return static_cast<std::size_t>(rows * split_of(n).parts) * kDigits * sizeof(unsigned);
}

template <class Key>
int radix_sort(const SortBuffers<Key>& b, int64_t rows, int64_t n, int bits, void* scratch) {
  int now = 0;
  if (rows == 0 || n == 0) return now;
  const gpu::Stream stream = gpu::default_stream();
  const Split split = split_of(n);
  auto* counts = static_cast<unsigned*>(scratch);
  const dim3 grid(static_cast<unsigned>(split.parts), static_cast<unsigned>(rows));
  for (int shift = 0; shift < bits; shift += 8) {
    gpu::launch(count_digits<Key>, grid, kDigits, 0, stream, b.keys[now], counts, split, shift);
    gpu::launch(place_digits, static_cast<unsigned>(rows), kDigits, 0, stream, counts, split);
    gpu::launch(move_keys<Key>, grid, kDigits, 0, stream, b.keys[now], b.order[now],
                b.keys[1 - now], b.order[1 - now], counts, split, shift);
    now = 1 - now;
  }
  return now;
}

template int radix_sort(const SortBuffers<uint32_t>&, int64_t, int64_t, int, void*);
template int radix_sort(const SortBuffers<uint64_t>&, int64_t, int64_t, int, void*);

}  // namespace flowgrad::kernels::cuda
