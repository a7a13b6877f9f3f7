// Blocks of a cooperative launch that hand each other values.
#include "flowgrad/kernels/ptx_tagged.cuh"
#include "support.cuh"

using namespace flowgrad;
using namespace flowgrad::test;

namespace {

constexpr int kRounds = 5;

/// Every round, each block adds up what all blocks sent and sends the sum, scaled, in the next.
template <class T>
__global__ void gossip(gpu::Tagged<T>* boxes, T* sums) {
  GPU_SHARED(T, total, [1]);
  const int n = static_cast<int>(gridDim.x);
  const int me = static_cast<int>(blockIdx.x);
  T mine = T(me + 1);
  for (unsigned round = 1; round <= kRounds; ++round) {
    if (threadIdx.x == 0) {
      gpu::tagged_store(&boxes[me], mine, round);
      T values[4];
      T sum = 0;
      for (int first = 0; first < n; first += 4) {
        gpu::tagged_wait(values, round, [&](int k) -> const gpu::Tagged<T>* {
          return first + k < n ? &boxes[first + k] : nullptr;
        });
        for (int k = 0; k < 4; ++k) sum += first + k < n ? values[k] : T(0);
      }
      total[0] = sum;
      // A second box, so that nobody overwrites the first before all have read it.
      gpu::tagged_store(&boxes[n + me], sum, round);
      for (int first = 0; first < n; first += 4) {
        gpu::tagged_wait(values, round, [&](int k) -> const gpu::Tagged<T>* {
          return first + k < n ? &boxes[n + first + k] : nullptr;
        });
      }
    }
    __syncthreads();
    mine = total[0] * T(0.125) + T(me);
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[me] = mine;
}

template <class T>
void check_gossip(unsigned blocks) {
  CAPTURE(blocks, sizeof(T));
  const DeviceArray<gpu::Tagged<T>> boxes(2 * blocks);
  const DeviceArray<T> sums(blocks);
  gpu::fill_bytes(boxes.get(), 0, boxes.size() * sizeof(gpu::Tagged<T>), gpu::default_stream());
  gpu::launch_cooperative(gossip<T>, blocks, 64, 0, gpu::default_stream(), boxes.get(), sums.get());
  std::vector<T> want(blocks);
  for (unsigned b = 0; b < blocks; ++b) want[b] = static_cast<T>(b + 1);
  for (int round = 0; round < kRounds; ++round) {
    T sum = 0;
    for (T v : want) sum += v;
    for (unsigned b = 0; b < blocks; ++b) want[b] = sum * T(0.125) + static_cast<T>(b);
  }
  CHECK(sums.values() == want);
}

/// Fills a thread's share of a block's own shared memory and waits for the neighbour in between.
__global__ void own_memory(gpu::Tagged<float>* boxes, float* out) {
  GPU_DYN_SHARED(float, values);
  const unsigned n = gridDim.x;
  values[threadIdx.x] = static_cast<float>(blockIdx.x * 1000 + threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) gpu::tagged_store(&boxes[blockIdx.x], values[blockDim.x - 1], 7u);
  float got[1] = {};
  gpu::tagged_wait(got, 7u, [&](int) { return &boxes[(blockIdx.x + 1) % n]; });
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = got[0] + values[blockDim.x - 1 - threadIdx.x];
}

}  // namespace

TEST_CASE("blocks of a cooperative launch hand each other values", "[tagged_test]") {
  for (unsigned blocks : {1u, 2u, 7u, 16u}) {
    check_gossip<float>(blocks);
    check_gossip<double>(blocks);
  }
}

TEST_CASE("blocks that are alive together have their own shared memory", "[tagged_test]") {
  const unsigned blocks = 5;
  const unsigned threads = 96;
  const DeviceArray<gpu::Tagged<float>> boxes(blocks);
  const DeviceArray<float> out(blocks * threads);
  gpu::fill_bytes(boxes.get(), 0, blocks * sizeof(gpu::Tagged<float>), gpu::default_stream());
  gpu::launch_cooperative(own_memory, blocks, threads, threads * sizeof(float),
                          gpu::default_stream(), boxes.get(), out.get());
  const std::vector<float> got = out.values();
  bool right = true;
  for (unsigned b = 0; b < blocks; ++b) {
    for (unsigned t = 0; t < threads; ++t) {
      const unsigned want = (b + 1) % blocks * 1000 + threads - 1 + b * 1000 + threads - 1 - t;
      right = right && got[b * threads + t] == static_cast<float>(want);
    }
  }
  CHECK(right);
}

TEST_CASE("a cooperative launch of more blocks than fit is refused", "[tagged_test]") {
  const int most = gpu::coresident_blocks(gossip<float>, 64, 0);
  CHECK(most >= 1);
  CHECK(gpu::coresident_blocks(gossip<float>, 64, 1 << 20) == 0);
  const DeviceArray<gpu::Tagged<float>> boxes(1);
  const DeviceArray<float> sums(1);
  const std::string message = message_of([&] {
    gpu::launch_cooperative(gossip<float>, static_cast<unsigned>(most) + 1, 64, 0,
                            gpu::default_stream(), boxes.get(), sums.get());
    gpu::synchronize(gpu::default_stream());
  });
  CHECK(contains(message, "gossip"));
}
