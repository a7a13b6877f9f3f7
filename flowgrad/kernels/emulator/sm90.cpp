#include "flowgrad/kernels/emulator/sm90.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "flowgrad/kernels/emulator/checker.h"
#include "flowgrad/kernels/emulator/matrix.h"

namespace flowgrad::gpu {
namespace emulator {
namespace {

// The word of an mbarrier; PTX leaves its layout open.
struct BarrierWord {
  std::uint64_t expected : 20;
  std::uint64_t pending : 20;
  std::int64_t bytes : 23;
  std::uint64_t phase : 1;
};
static_assert(sizeof(BarrierWord) == sizeof(std::uint64_t));

struct MapFields {
  const char* data;
  std::uint64_t rows, columns, row_bytes;
  unsigned box_rows, box_columns, size;
  unsigned swizzle_bytes;
};
static_assert(sizeof(MapFields) <= sizeof(TensorMap));

struct TensorCopy {
  char* destination;
  MapFields map;
  int column, row;
  std::uint64_t* barrier;
};

struct Product {
  float* d;
  int n;
  std::uint64_t a, b;
  bool accumulate, tf32;
};

struct Products {
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
};

struct State {
  std::vector<TensorCopy> copies;
  std::vector<Products> products = std::vector<Products>(kMaxThreads);
  bool used = false;
};

State& state() {
  static State instance;
  return instance;
}

BarrierWord load(const std::uint64_t* barrier) {
  shared_offset(barrier);  // must be in shared memory
  check_alignment(barrier, 8, "mbarrier");
  if (*barrier == ~std::uint64_t{0}) fail("mbarrier: used before mbarrier_init");
  return std::bit_cast<BarrierWord>(*barrier);
}

void store(std::uint64_t* barrier, BarrierWord word) {
  if (word.pending == 0 && word.bytes == 0) {
    word.phase ^= 1;
    word.pending = word.expected;
    checker::block_synchronized();
  }
  *barrier = std::bit_cast<std::uint64_t>(word);
}

/// Where swizzling of rows of so many bytes puts a byte of the window: the number of its piece of
/// 16 bytes takes up the bits above 128.
std::size_t swizzle(std::size_t offset, unsigned bytes) {
  return bytes == 0 ? offset : offset ^ (offset >> 7 & (bytes / 16 - 1)) << 4;
}

void land(const TensorCopy& copy) {
  const MapFields& map = copy.map;
  const std::size_t first = shared_offset(copy.destination);
  for (unsigned r = 0; r < map.box_rows; ++r) {
    for (unsigned c = 0; c < map.box_columns; ++c) {
      const std::size_t at = first + (std::size_t{r} * map.box_columns + c) * map.size;
      void* to = shared_pointer(static_cast<unsigned>(swizzle(at, map.swizzle_bytes)));
      const std::int64_t row = std::int64_t{copy.row} + r;
      const std::int64_t column = std::int64_t{copy.column} + c;
      checker::note_write(to, map.size);
      // What lies outside the matrix is zero.
      if (row < 0 || column < 0 || row >= static_cast<std::int64_t>(map.rows) ||
          column >= static_cast<std::int64_t>(map.columns)) {
        std::memset(to, 0, map.size);
        continue;
      }
      const char* from = map.data + static_cast<std::uint64_t>(row) * map.row_bytes +
                         static_cast<std::uint64_t>(column) * map.size;
      checker::note_read(from, map.size);
      std::memcpy(to, from, map.size);
    }
  }
  BarrierWord word = load(copy.barrier);
  word.bytes -= std::int64_t{map.box_rows} * map.box_columns * map.size;
  store(copy.barrier, word);
}

void land_for(const std::uint64_t* barrier) {
  std::vector<TensorCopy> mine;
  std::erase_if(state().copies, [&](const TensorCopy& copy) {
    if (copy.barrier != barrier) return false;
    mine.push_back(copy);
    return true;
  });
  // The engine writes for the thread that asked, whoever happens to wait first.
  if (!mine.empty()) checker::block_synchronized();
  for (const TensorCopy& copy : mine) land(copy);
}

/// Bytes k to k + 15 of a row of the operand that a descriptor shows: K-major, 128-byte swizzle.
const void* operand(std::uint64_t descriptor, int row, int k) {
  if (descriptor >> 62 != 1) fail("wgmma: the descriptor must name the 128-byte swizzle");
  const std::size_t start = (descriptor & 0x3fff) << 4;
  const std::size_t stride = (descriptor >> 32 & 0x3fff) << 4;  // between groups of eight rows
  const std::size_t at = start + static_cast<std::size_t>(row / 8) * stride +
                         static_cast<std::size_t>(row % 8 * 128 + k);
  const void* pointer = shared_pointer(static_cast<unsigned>(swizzle(at, 128)));
  checker::note_read(pointer, 16);
  return pointer;
}

/// One row of an operand as floats; 32 bytes of it take part.
std::vector<float> row_of(std::uint64_t descriptor, int row, bool tf32) {
  std::uint32_t words[8];
  std::memcpy(words, operand(descriptor, row, 0), 16);
  std::memcpy(words + 4, operand(descriptor, row, 16), 16);
  std::vector<float> values;
  for (const std::uint32_t word : words) {
    if (tf32) {
      values.push_back(tf32_value(word));
    } else {
      values.push_back(low_bf16(word));
      values.push_back(high_bf16(word));
    }
  }
  return values;
}

void multiply(const Product& p) {
  const int rank = static_cast<int>(thread_rank() % 128);
  const int top = rank / 32 * 16 + rank % 32 / 4;
  const std::vector<float> a[2] = {row_of(p.a, top, p.tf32), row_of(p.a, top + 8, p.tf32)};
  for (int j = 0; j < p.n / 8; ++j) {
    for (int i = 0; i < 2; ++i) {
      const std::vector<float> b = row_of(p.b, j * 8 + rank % 4 * 2 + i, p.tf32);
      for (int half = 0; half < 2; ++half) {
        float& d = p.d[j * 4 + half * 2 + i];
        double sum = p.accumulate ? static_cast<double>(d) : 0.0;
        for (std::size_t k = 0; k < b.size(); ++k) {
          sum += static_cast<double>(a[half][k]) * static_cast<double>(b[k]);
        }
        d = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace

void mbarrier_init(std::uint64_t* barrier, unsigned count) {
  refuse_cooperative("mbarrier");
  shared_offset(barrier);
  check_alignment(barrier, 8, "mbarrier");
  checker::note_write(barrier, 8);
  BarrierWord word{};
  word.expected = word.pending = count;
  *barrier = std::bit_cast<std::uint64_t>(word);
}

void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes) {
  BarrierWord word = load(barrier);
  if (word.pending == 0) fail("mbarrier: more arrivals than it was made for");
  word.bytes += expected_bytes;
  word.pending -= 1;
  store(barrier, word);
}

void mbarrier_wait(std::uint64_t* barrier, unsigned parity, const Site& site) {
  struct Wait {
    std::uint64_t* barrier;
    unsigned parity;
  } wait{barrier, parity};
  wait_until(
      "mbarrier_wait", site,
      [](void* argument) {
        const auto* w = static_cast<Wait*>(argument);
        if (load(w->barrier).phase != w->parity) return true;
        land_for(w->barrier);
        return load(w->barrier).phase != w->parity;
      },
      &wait);
}

void tensor_load(void* destination, const TensorMap& map, int column, int row,
                 std::uint64_t* barrier) {
  TensorCopy copy{static_cast<char*>(destination), {}, column, row, barrier};
  std::memcpy(&copy.map, &map, sizeof copy.map);
  const std::size_t bytes = std::size_t{copy.map.box_rows} * copy.map.box_columns * copy.map.size;
  check_alignment(destination, copy.map.swizzle_bytes != 0 ? 1024 : 128, "tma_load: destination");
  if (shared_offset(destination) + bytes > kMaxShared + 1024) fail("tma_load: box out of bounds");
  load(barrier);
  checker::note_write(destination, bytes);
  std::memset(destination, 0xFF, bytes);
  state().copies.push_back(copy);
  state().used = true;
}

void wgmma(float* d, int n, std::uint64_t a, std::uint64_t b, bool accumulate, bool tf32) {
  refuse_cooperative("wgmma");
  if (blockDim.x * blockDim.y * blockDim.z % 128 != 0)
    fail("wgmma: needs whole groups of 128 threads");
  state().products[thread_rank()].open.push_back({d, n, a, b, accumulate, tf32});
  state().used = true;
}

void wgmma_commit() {
  Products& mine = state().products[thread_rank()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void wgmma_wait(unsigned n_pending) {
  Products& mine = state().products[thread_rank()];
  while (mine.groups.size() > n_pending) {
    const std::vector<Product> group = std::move(mine.groups.front());
    mine.groups.pop_front();
    for (const Product& product : group) multiply(product);
  }
}

void sm90_start_block() {
  if (!state().used) return;
  state().copies.clear();
  for (Products& products : state().products) {
    products.open.clear();
    products.groups.clear();
  }
  state().used = false;
}

}  // namespace emulator

TensorMap make_tensor_map(const void* data, TensorElement element, std::uint64_t rows,
                          std::uint64_t columns, std::uint64_t row_bytes, unsigned box_rows,
                          unsigned box_columns, Swizzle swizzle) {
  const unsigned size =
      detail::check_tensor_map(data, element, row_bytes, box_rows, box_columns, swizzle);
  const emulator::MapFields fields{
      static_cast<const char*>(data), rows, columns, row_bytes, box_rows, box_columns, size,
      detail::swizzle_bytes(swizzle)};
  TensorMap map{};
  std::memcpy(&map, &fields, sizeof fields);
  return map;
}

}  // namespace flowgrad::gpu
