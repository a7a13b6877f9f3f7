# One static library per room, the per-instruction-set kernel objects, the command, the benchmarks.

# Options of every translation unit of the house. Contraction is off so that a host without FMA and
# one with it round alike; the kernels of flowgrad/kernels/cpu/isa choose their own fused operations.
function(flowgrad_compile_rules target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:flowgrad_warnings>)
endfunction()

# flowgrad_precompiled(<target> <headers...>): an object library that holds one precompiled header, for
# targets of the same flags to reuse: target_precompile_headers(<other> REUSE_FROM <target>).
function(flowgrad_precompiled target)
  set(source "${PROJECT_BINARY_DIR}/${target}.cpp")
  if(NOT EXISTS "${source}")
    file(WRITE "${source}" "// carries the precompiled header\n")
  endif()
  add_library(${target} OBJECT "${source}")
  flowgrad_compile_rules(${target})
  target_link_libraries(${target} PRIVATE Threads::Threads fmt::fmt)
  list(TRANSFORM ARGN REPLACE "(.+)" "$<$<COMPILE_LANGUAGE:CXX>:\\1>")
  target_precompile_headers(${target} PRIVATE ${ARGN})
endfunction()

# flowgrad_unity(<targets>): a few files become one, which reads headers and makes templates once. What two
# files of a room hide in anonymous namespaces needs names of its own.
function(flowgrad_unity)
  set_target_properties(${ARGN} PROPERTIES UNITY_BUILD ${FLOWGRAD_UNITY} UNITY_BUILD_BATCH_SIZE 16)
endfunction()

# flowgrad_room(<name> [DEPENDS rooms...] [LIBRARIES public...] [PRIVATE_LIBRARIES private...])
# makes flowgrad_<name>, alias flowgrad::<name>, from every .cpp below flowgrad/<name>. A room that
# has headers only becomes an INTERFACE library, so that the chain of rooms stays whole.
function(flowgrad_room name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LIBRARIES;PRIVATE_LIBRARIES" ${ARGN})
  set(folder "${PROJECT_SOURCE_DIR}/flowgrad/${name}")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${folder}/*.cpp")
  list(FILTER sources EXCLUDE REGEX "/kernels/cpu/isa/")
  if(FLOWGRAD_GPU_KIND STREQUAL "OFF")
    list(FILTER sources EXCLUDE REGEX "/kernels/cuda/")
  endif()
  if(NOT FLOWGRAD_GPU_KIND STREQUAL "EMULATED")
    list(FILTER sources EXCLUDE REGEX "/kernels/emulator/")
  endif()
  set(target flowgrad_${name})
  set(scope PUBLIC)
  if(sources)
    add_library(${target} STATIC ${sources})
    flowgrad_compile_rules(${target})
    target_precompile_headers(${target} REUSE_FROM flowgrad_pch)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>
                                            ${ARG_PRIVATE_LIBRARIES})
  else()
    set(scope INTERFACE)
    add_library(${target} INTERFACE)
    target_compile_features(${target} INTERFACE cxx_std_20)
  endif()
  add_library(flowgrad::${name} ALIAS ${target})
  target_include_directories(${target} ${scope} $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${target} ${scope} ${ARG_LIBRARIES})
  foreach(room IN LISTS ARG_DEPENDS)
    target_link_libraries(${target} ${scope} flowgrad_${room})
  endforeach()
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
endfunction()

# Compiles flowgrad/kernels/cpu/isa/*.cpp once per instruction set; FLOWGRAD_ISA is the name of the
# namespace each copy lives in, and the objects end up inside the library of the room.
function(flowgrad_isa_kernels room)
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/flowgrad/kernels/cpu/isa/*.cpp")
  get_target_property(type flowgrad_${room} TYPE)
  if(NOT sources OR type STREQUAL "INTERFACE_LIBRARY")
    return()
  endif()
  # Its loops are unrolled by templates: -O3 adds nothing but a third of its time.
  set_source_files_properties("${PROJECT_SOURCE_DIR}/flowgrad/kernels/cpu/isa/gemm.cpp"
                              PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O2>)
  # What has no vector kernels, such as integers, is left to the compiler's.
  foreach(file elementwise reduce scan)
    set_source_files_properties("${PROJECT_SOURCE_DIR}/flowgrad/kernels/cpu/${file}.cpp"
                                PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O3>)
  endforeach()
  set(variants baseline)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(march_baseline -march=x86-64-v2)
  endif()
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT FLOWGRAD_BASELINE_ONLY)
    set(variants baseline avx2 avx512)
    set(march_avx2 -march=x86-64-v3)
    set(march_avx512 -march=x86-64-v4)
    if(FLOWGRAD_EMULATED_AVX512)
      set(march_avx512 ${march_avx2} -DFLOWGRAD_EMULATED_AVX512 -Wno-maybe-uninitialized)
      target_compile_definitions(flowgrad_${room} PRIVATE FLOWGRAD_EMULATED_AVX512=1)
    endif()
  endif()
  foreach(isa IN LISTS variants)
    set(target flowgrad_isa_${isa})
    add_library(${target} OBJECT ${sources})
    target_compile_features(${target} PRIVATE cxx_std_20)
    target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
    target_compile_definitions(${target} PRIVATE FLOWGRAD_ISA=${isa})
    # -O1 outside Release: unoptimised vector code would make the other builds crawl. No function
    # that passes vectors crosses an instruction set, so GCC's warning about that ABI is noise.
    target_compile_options(${target} PRIVATE ${march_${isa}} -fno-math-errno -fno-trapping-math
                                             -ffp-contract=off -Wno-psabi
                                             $<IF:$<CONFIG:Release>,-O3,-O1>)
    if(FLOWGRAD_SANITIZE)
      # Checks on the local arrays that stand for registers cost minutes of compile time and keep them
      # in memory. Every load and store of a tensor is still checked, and so is integer arithmetic.
      target_compile_options(${target} PRIVATE -fno-sanitize-address-use-after-scope
                                               -fno-sanitize=alignment,object-size,bounds)
    endif()
    target_link_libraries(${target} PRIVATE flowgrad_warnings)
    target_sources(flowgrad_${room} PRIVATE $<TARGET_OBJECTS:${target}>)
  endforeach()
  target_compile_definitions(flowgrad_${room} PRIVATE
    $<$<IN_LIST:avx2,${variants}>:FLOWGRAD_HAVE_X86_ISA=1>)
  set(FLOWGRAD_ISA_VARIANTS ${variants} PARENT_SCOPE)
endfunction()

# Chipmunk is the engine of PushT. Without it that task is there and refuses to start.
function(flowgrad_chipmunk room)
  if(NOT FLOWGRAD_CHIPMUNK)
    return()
  endif()
  find_path(FLOWGRAD_CHIPMUNK_INCLUDE chipmunk/chipmunk.h)
  find_library(FLOWGRAD_CHIPMUNK_LIBRARY NAMES chipmunk)
  mark_as_advanced(FLOWGRAD_CHIPMUNK_INCLUDE FLOWGRAD_CHIPMUNK_LIBRARY)
  if(NOT FLOWGRAD_CHIPMUNK_INCLUDE OR NOT FLOWGRAD_CHIPMUNK_LIBRARY)
    message(STATUS "flowgrad: no PushT: Chipmunk is missing (package libchipmunk-dev)")
    return()
  endif()
  target_compile_definitions(flowgrad_${room} PRIVATE FLOWGRAD_HAVE_CHIPMUNK=1)
  target_include_directories(flowgrad_${room} SYSTEM PRIVATE "${FLOWGRAD_CHIPMUNK_INCLUDE}")
  target_link_libraries(flowgrad_${room} PRIVATE "${FLOWGRAD_CHIPMUNK_LIBRARY}")
endfunction()

# flowgrad::flowgrad links every room.
function(flowgrad_umbrella)
  add_library(flowgrad INTERFACE)
  add_library(flowgrad::flowgrad ALIAS flowgrad)
  list(TRANSFORM ARGN PREPEND flowgrad_ OUTPUT_VARIABLE targets)
  target_link_libraries(flowgrad INTERFACE ${targets})
endfunction()

# All of the command but main.cpp is a library, so that tests can call it in process.
function(flowgrad_command)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/flowgrad/cli/*.cpp")
  if(NOT sources)
    return()
  endif()
  list(FILTER sources EXCLUDE REGEX "/cli/main\\.cpp$")
  # `demo vla` shows the committed figures beside its own, wherever it is installed.
  set(figures "${PROJECT_SOURCE_DIR}/docs/figures.json")
  file(READ "${figures}" FLOWGRAD_FIGURES)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${figures}")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/committed_figures.cpp.in"
                 "${PROJECT_BINARY_DIR}/committed_figures.cpp" @ONLY)
  list(APPEND sources "${PROJECT_BINARY_DIR}/committed_figures.cpp")
  # The two files that read CLI11 come into one group.
  set(with_cli11 ${sources})
  list(FILTER with_cli11 INCLUDE REGEX "/cli/(options|run)\\.cpp$")
  list(REMOVE_ITEM sources ${with_cli11})
  list(PREPEND sources ${with_cli11})
  add_library(flowgrad_command STATIC ${sources})
  # -Og saves half of these files' time, most of it CLI11's and JSON's; the benchmarks measure.
  target_compile_options(flowgrad_command PRIVATE $<$<NOT:$<CONFIG:Debug>>:-Og>)
  list(FILTER sources INCLUDE REGEX "/cli/bench[a-z_]*\\.cpp$")
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O2>)
  flowgrad_compile_rules(flowgrad_command)
  flowgrad_unity(flowgrad_command)
  target_precompile_headers(flowgrad_command REUSE_FROM flowgrad_pch)
  target_compile_definitions(flowgrad_command PRIVATE FLOWGRAD_VERSION="${PROJECT_VERSION}")
  target_link_libraries(flowgrad_command PUBLIC flowgrad::flowgrad
                                         PRIVATE CLI11::CLI11 fmt::fmt ZLIB::ZLIB
                                                 nlohmann_json::nlohmann_json)
  add_executable(flowgrad_cli "${PROJECT_SOURCE_DIR}/flowgrad/cli/main.cpp")
  flowgrad_compile_rules(flowgrad_cli)
  target_link_libraries(flowgrad_cli PRIVATE flowgrad_command)
  set_target_properties(flowgrad_cli PROPERTIES OUTPUT_NAME flowgrad
                                                RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()

# bench/<name>.cpp becomes the program bench_<name>; bench/support is what they share.
function(flowgrad_benchmarks)
  file(GLOB support CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/support/*.cpp")
  add_library(flowgrad_bench STATIC ${support})
  flowgrad_compile_rules(flowgrad_bench)
  target_include_directories(flowgrad_bench PUBLIC "${PROJECT_SOURCE_DIR}/bench")
  target_link_libraries(flowgrad_bench PUBLIC flowgrad_command fmt::fmt ${CMAKE_DL_LIBS}
                                       PRIVATE CLI11::CLI11 nlohmann_json::nlohmann_json)
  if(NOT FLOWGRAD_GPU_KIND STREQUAL "OFF")
    file(GLOB kernels CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/support/*.cu")
    flowgrad_gpu_sources(flowgrad_bench ${kernels})
  endif()
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
    target_link_libraries(flowgrad_bench PRIVATE CUDA::cublas)
  endif()
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/*.cpp")
  foreach(source IN LISTS sources)
    cmake_path(GET source STEM name)
    add_executable(bench_${name} ${source})
    flowgrad_compile_rules(bench_${name})
    target_link_libraries(bench_${name} PRIVATE flowgrad_bench CLI11::CLI11)
    set_target_properties(bench_${name} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
    if(FLOWGRAD_TESTS AND FLOWGRAD_GPU_KIND STREQUAL "EMULATED")
      # On a device ./run gpu-check runs them. Trainings would take minutes on the emulator.
      set(device cuda)
      if(name STREQUAL "matching")
        set(device cpu)
      endif()
      add_test(NAME bench.${name}
               COMMAND bench_${name} --device ${device} --verify-only --sizes 33x40)
      set_tests_properties(bench.${name} PROPERTIES LABELS gpu TIMEOUT 300)
    endif()
  endforeach()
endfunction()
