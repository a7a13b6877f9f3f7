# Packages, flags and the warnings target: what every room of the house shares.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ${PROJECT_IS_TOP_LEVEL})
set(CMAKE_THREAD_PREFER_PTHREAD ON)

# A missing package should name the Debian package, not only the CMake file nobody has.
function(flowgrad_find package debian)
  find_package(${package} ${ARGN} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "flowgrad: ${package} is missing; install the package ${debian} "
                        "(./run test installs everything in packages.txt)")
  endif()
endfunction()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
flowgrad_find(fmt libfmt-dev 9 GLOBAL)
flowgrad_find(nlohmann_json nlohmann-json3-dev 3.11 GLOBAL)
flowgrad_find(CLI11 libcli11-dev 2.1 GLOBAL)
flowgrad_find(ZLIB zlib1g-dev GLOBAL)
flowgrad_find(PNG libpng-dev GLOBAL)

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(FLOWGRAD_CCACHE ccache)
  mark_as_advanced(FLOWGRAD_CCACHE)
  if(FLOWGRAD_CCACHE)
    # Without this sloppiness ccache refuses every file that uses a precompiled header.
    set(CMAKE_CXX_COMPILER_LAUNCHER
        "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros;${FLOWGRAD_CCACHE}")
  endif()
endif()

add_library(flowgrad_warnings INTERFACE)
# nvcc does not take these options; it gets its own in FlowgradGpu.cmake.
set(in_cxx $<COMPILE_LANGUAGE:CXX>)
target_compile_options(
  flowgrad_warnings INTERFACE "$<${in_cxx}:-Wall;-Wextra;-Wdouble-promotion>"
                              $<$<AND:${in_cxx},$<BOOL:${FLOWGRAD_WERROR}>>:-Werror>)

if(FLOWGRAD_SANITIZE)
  list(JOIN FLOWGRAD_SANITIZE "," sanitizers)
  add_compile_options("$<${in_cxx}:-fsanitize=${sanitizers};-fno-sanitize-recover=all>"
                      $<${in_cxx}:-fno-omit-frame-pointer>)
  # Two checks cost a third of the compile time and find what address sanitizer finds at the access;
  # a null pointer in a kernel the emulator explains, and goes on.
  if("undefined" IN_LIST FLOWGRAD_SANITIZE)
    add_compile_options($<${in_cxx}:-fno-sanitize=null,vptr>)
  endif()
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
  add_link_options(-fsanitize=${sanitizers})
endif()
if(FLOWGRAD_COVERAGE)
  add_compile_options("$<${in_cxx}:--coverage;-fprofile-update=atomic>")
  add_link_options(--coverage)
endif()
