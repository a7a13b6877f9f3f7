#pragma once

// The one header that CUDA kernels are written against. The same kernel source is compiled in two
// ways: by nvcc for a device, and by the host's C++ compiler on the emulator
// (FLOWGRAD_GPU=EMULATED), where every CUDA thread is a fiber. Kernels are plain CUDA C++ that
// keeps these rules:
//
//   1. gpu::launch(kernel, grid, block, dynamic_shared_bytes, stream, arguments...), never <<<>>>.
//   2. GPU_SHARED(T, name, [A][B]) and GPU_DYN_SHARED(T, name), never __shared__.
//   3. Inline assembly in ptx_*.cuh only.
//   4. No return before a barrier that other threads reach; every thread of the block reaches the
//   same
//      barrier, every lane named in a mask the same warp function.
//   5. Vectors are loaded and stored by load_vec and store_vec.
//   6. Device memory comes from gpu_runtime.h. Floating-point atomics are not used.

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "flowgrad/kernels/gpu_runtime.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

// Shared memory of a block, of static size: GPU_SHARED(float, tile, [32][33]);
#define GPU_SHARED(T, name, dims) __shared__ T name dims
// Shared memory of the size given at the launch, as T*. Aligned to 128 bytes, and to no more.
#define GPU_DYN_SHARED(T, name)                                             \
  extern __shared__ __align__(128) unsigned char flowgrad_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(flowgrad_dynamic_shared)

#define GPU_INLINE __device__ __forceinline__
#define FLOWGRAD_SITE

#elif defined(FLOWGRAD_GPU_EMULATED)
#include <memory>

#include "flowgrad/kernels/emulator/atomics.h"
#include "flowgrad/kernels/emulator/block.h"
#include "flowgrad/kernels/emulator/device.h"
#include "flowgrad/kernels/emulator/math.h"
#include "flowgrad/kernels/emulator/warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static_assert(false, "write GPU_SHARED(T, name, [sizes])")

#define GPU_SHARED(T, name, dims)                                                   \
  typedef T name##_shared_type dims;                                                \
  static const char name##_shared_key = 0;                                          \
  name##_shared_type& name =                                                        \
      *static_cast<name##_shared_type*>(::flowgrad::gpu::emulator::shared_variable( \
          &name##_shared_key, sizeof(name##_shared_type), alignof(name##_shared_type)))
#define GPU_DYN_SHARED(T, name) \
  T* const name = static_cast<T*>(::flowgrad::gpu::emulator::shared_dynamic())

#define GPU_INLINE __forceinline__
// The last parameter of a function that waits: where the kernel called it, for errors.
#define FLOWGRAD_SITE , const emulator::Site& site = emulator::Site::current()

#else
#error "gpu.cuh: compile with nvcc, or for the emulator (cmake -DFLOWGRAD_GPU=EMULATED)"
#endif

namespace flowgrad::gpu {

/// N elements that are loaded and stored as one access of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
  static_assert(N > 0 && (N & (N - 1)) == 0, "the number of elements must be a power of two");
  T v[N];
  __host__ __device__ T& operator[](int i) { return v[i]; }
  __host__ __device__ const T& operator[](int i) const { return v[i]; }
};

/// pointer must be aligned to the size of the vector, 16 bytes at most.
template <int N, class T>
GPU_INLINE Vec<T, N> load_vec(const T* pointer) {
  using V = Vec<T, N>;
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::check_alignment(pointer, alignof(V), "load_vec");
#endif
  return *reinterpret_cast<const V*>(pointer);
}

template <class T, int N>
GPU_INLINE void store_vec(T* pointer, const Vec<T, N>& value) {
  using V = Vec<T, N>;
#if defined(FLOWGRAD_GPU_EMULATED)
  emulator::check_alignment(pointer, alignof(V), "store_vec");
#endif
  *reinterpret_cast<V*>(pointer) = value;
}

#if defined(FLOWGRAD_GPU_EMULATED)
namespace emulator {

template <class... P>
class KernelCall final : public Kernel {
 public:
  template <class... A>
  explicit KernelCall(void (*function)(P...), A&&... arguments)
      : Kernel(reinterpret_cast<const void*>(function)),
        function_(function),
        arguments_(static_cast<P>(arguments)...) {}
  void run() const override { std::apply(function_, arguments_); }
  void check_pointers() const {
    std::apply(
        [this](const P&... p) {
          int index = 0;
          (check(index++, p), ...);
        },
        arguments_);
  }

 private:
  template <class T>
  void check(int index, const T& argument) const {
    if constexpr (std::is_pointer_v<T>) check_argument(*this, index, argument);
  }
  void (*function_)(P...);
  std::tuple<P...> arguments_;
};

}  // namespace emulator
#else
namespace detail {
/// cudaLaunchKernel, or cudaLaunchCooperativeKernel, with checks; in gpu_runtime_cuda.cu.
void launch(const void* kernel, dim3 grid, dim3 block, std::size_t dynamic_shared, Stream stream,
            void** arguments, bool cooperative);
int coresident_blocks(const void* kernel, unsigned threads, std::size_t dynamic_shared);
}  // namespace detail
#endif

namespace detail {
template <class... P, class... A>
void launch_any(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block,
                std::size_t dynamic_shared, Stream stream, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "launch: a wrong number of kernel arguments");
  static_assert((std::is_trivially_copyable_v<P> && ...), "launch: arguments are copied as bytes");
#if defined(FLOWGRAD_GPU_EMULATED)
  (void)stream;  // one queue holds the work of all streams
  auto call = std::make_unique<emulator::KernelCall<P...>>(kernel, std::forward<A>(arguments)...);
  call->check_pointers();
  emulator::enqueue_launch(std::move(call), {grid, block, dynamic_shared, cooperative});
#else
  std::tuple<P...> values(static_cast<P>(std::forward<A>(arguments))...);
  std::apply(
      [&](P&... p) {
        void* pointers[] = {static_cast<void*>(&p)..., nullptr};
        launch(reinterpret_cast<const void*>(kernel), grid, block, dynamic_shared, stream, pointers,
               cooperative);
      },
      values);
#endif
}
}  // namespace detail

/// Queues kernel(arguments...) for grid.x * grid.y * grid.z blocks of block.x * block.y * block.z
/// threads. The arguments are converted to the kernel's parameter types and copied. A grid with no
/// block is refused, as on a device: return early where there is nothing to do.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t dynamic_shared, Stream stream,
            A&&... arguments) {
  detail::launch_any(false, kernel, grid, block, dynamic_shared, stream,
                     std::forward<A>(arguments)...);
}

/// As launch, and all blocks are alive together, so that they may wait for each other
/// (ptx_tagged.cuh). DeviceError for a grid of more than coresident_blocks.
template <class... P, class... A>
void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t dynamic_shared,
                        Stream stream, A&&... arguments) {
  detail::launch_any(true, kernel, grid, block, dynamic_shared, stream,
                     std::forward<A>(arguments)...);
}

/// How many blocks of so many threads the device can hold at a time; 0 where not even one fits.
template <class... P>
int coresident_blocks(void (*kernel)(P...), unsigned threads, std::size_t dynamic_shared) {
#if defined(FLOWGRAD_GPU_EMULATED)
  (void)kernel;
  return dynamic_shared > emulator::kMaxShared
             ? 0
             : static_cast<int>(emulator::kMaxCooperativeThreads / threads);
#else
  return detail::coresident_blocks(reinterpret_cast<const void*>(kernel), threads, dynamic_shared);
#endif
}

/// Blocks of block threads that cover n elements.
inline unsigned blocks_for(std::size_t n, unsigned block) {
  return static_cast<unsigned>((n + block - 1) / block);
}

}  // namespace flowgrad::gpu

namespace gpu = flowgrad::gpu;
