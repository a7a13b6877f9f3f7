#pragma once

/// Marks a small function that kernels call too. Empty but for nvcc.
#if defined(__CUDACC__)
#define FLOWGRAD_HOST_DEVICE __host__ __device__
#else
#define FLOWGRAD_HOST_DEVICE
#endif
