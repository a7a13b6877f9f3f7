# Who compiles the CUDA kernels: nobody (OFF), nvcc (CUDA), or the C++ compiler for the emulator
# (EMULATED). AUTO means CUDA where nvcc and a device are found, else OFF.

option(FLOWGRAD_GPU_CHECKER "EMULATED: watch every access of the kernels for races, bounds and more" OFF)

option(FLOWGRAD_CUBLAS "CUDA: link cuBLAS too, for --matmul cublas" OFF)

if(NOT FLOWGRAD_GPU MATCHES "^(OFF|CUDA|EMULATED|AUTO)$")
  message(FATAL_ERROR "flowgrad: FLOWGRAD_GPU is '${FLOWGRAD_GPU}'; "
                      "accepted are OFF, CUDA, EMULATED and AUTO")
endif()
if(FLOWGRAD_GPU_CHECKER AND NOT FLOWGRAD_GPU STREQUAL "EMULATED")
  message(FATAL_ERROR "flowgrad: FLOWGRAD_GPU_CHECKER needs FLOWGRAD_GPU=EMULATED")
endif()
if(FLOWGRAD_GPU STREQUAL "EMULATED" AND "thread" IN_LIST FLOWGRAD_SANITIZE)
  message(FATAL_ERROR "flowgrad: ThreadSanitizer knows nothing of the emulator's fibers; use "
                      "FLOWGRAD_GPU_CHECKER to find races in kernels")
endif()

# Compute capabilities of the devices here, e.g. "9.0", or nothing.
function(flowgrad_find_devices result)
  set(capabilities)
  find_program(FLOWGRAD_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(FLOWGRAD_NVIDIA_SMI)
  if(FLOWGRAD_NVIDIA_SMI)
    execute_process(COMMAND "${FLOWGRAD_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE output ERROR_QUIET RESULT_VARIABLE code)
    if(code EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${output}")
    endif()
  endif()
  set(${result} "${capabilities}" PARENT_SCOPE)
endfunction()

set(FLOWGRAD_GPU_KIND "${FLOWGRAD_GPU}")
if(FLOWGRAD_GPU STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  flowgrad_find_devices(devices)
  if(CMAKE_CUDA_COMPILER AND devices)
    set(FLOWGRAD_GPU_KIND CUDA)
    message(STATUS "flowgrad: CUDA backend, for the device found here")
  else()
    set(FLOWGRAD_GPU_KIND OFF)
    message(STATUS "flowgrad: no CUDA backend: nvcc or a device is missing")
  endif()
endif()

if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
  # One architecture keeps development fast; name more, e.g. "80-real;90a-real", for a release. 90a has
  # wgmma, which plain 90 lacks. "native" would fail to configure where there is no device.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    flowgrad_find_devices(devices)
    list(REMOVE_DUPLICATES devices)
    list(TRANSFORM devices REPLACE "\\." "")
    list(TRANSFORM devices REPLACE "^90$" "90a")
    if(NOT devices)
      set(devices 90a)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES "${devices}" CACHE STRING "CUDA architectures")
  endif()
  enable_language(CUDA)
  # CMake before 3.25.2 does not know how to ask nvcc for C++20.
  foreach(kind IN ITEMS STANDARD EXTENSION)
    if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
      set(CMAKE_CUDA20_${kind}_COMPILE_OPTION "-std=c++20")
    endif()
  endforeach()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  if(DEFINED CMAKE_CXX_COMPILER_LAUNCHER AND NOT DEFINED CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  endif()
  find_package(CUDAToolkit REQUIRED)
endif()

if(FLOWGRAD_CUBLAS AND NOT FLOWGRAD_GPU_KIND STREQUAL "CUDA")
  message(FATAL_ERROR "flowgrad: FLOWGRAD_CUBLAS needs FLOWGRAD_GPU=CUDA")
endif()
if(FLOWGRAD_CUBLAS AND NOT TARGET CUDA::cublas)
  message(FATAL_ERROR "flowgrad: FLOWGRAD_CUBLAS is ON, and the CUDA toolkit here has no cuBLAS")
endif()

# flowgrad_gpu_sources(<target> <files.cu...>): adds CUDA sources, compiled by whoever does that here.
function(flowgrad_gpu_sources target)
  target_sources(${target} PRIVATE ${ARGN})
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=-Wall;-lineinfo>")
    return()
  endif()
  # Kernels view arrays of one type as vectors of another, and carry pragmas for nvcc.
  set(options -x c++ -fno-strict-aliasing -Wno-unknown-pragmas -Wno-psabi)
  if(FLOWGRAD_GPU_CHECKER)
    # The compiler announces every access to __tsan_* functions, which are the emulator's own. Splitting
    # vectors into scalars would hide what the hardware does in one access.
    list(APPEND options -fsanitize=thread -O1 -g1 -fno-tree-sra)
  endif()
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${options}"
                                                 SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# The kernels of flowgrad/kernels/cuda, the runtime behind gpu_runtime.h, and the macro that tells
# gpu.cuh which of its bodies to show.
function(flowgrad_gpu_kernels room)
  if(FLOWGRAD_GPU_KIND STREQUAL "OFF")
    return()
  endif()
  set(target flowgrad_${room})
  file(GLOB_RECURSE kernels CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/flowgrad/kernels/cuda/*.cu")
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
    list(APPEND kernels "${PROJECT_SOURCE_DIR}/flowgrad/kernels/gpu_runtime_cuda.cu"
                        "${PROJECT_SOURCE_DIR}/flowgrad/kernels/gpu_tensor_map_cuda.cu")
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    if(FLOWGRAD_CUBLAS)
      target_link_libraries(${target} PRIVATE CUDA::cublas)
      target_compile_definitions(${target} PRIVATE FLOWGRAD_CUBLAS=1)
    endif()
  endif()
  if(kernels)
    flowgrad_gpu_sources(${target} ${kernels})
  endif()
  target_compile_definitions(${target} PUBLIC FLOWGRAD_GPU_${FLOWGRAD_GPU_KIND}=1)
  if(FLOWGRAD_GPU_CHECKER)
    target_compile_definitions(${target} PUBLIC FLOWGRAD_GPU_CHECKER=1)
  endif()
endfunction()
