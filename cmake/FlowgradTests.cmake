# How tests are found: one program per folder of tests/, one ctest entry per file.

find_package(Catch2 3 QUIET)
if(NOT Catch2_FOUND)
  find_package(Catch2 2.13 QUIET)
endif()
if(NOT Catch2_FOUND)
  message(FATAL_ERROR "flowgrad: Catch2 (2.13 or 3) is missing; install the package catch2 "
                      "(./run test installs everything in packages.txt), or set FLOWGRAD_TESTS=OFF")
endif()

find_program(FLOWGRAD_PYTHON python3)
mark_as_advanced(FLOWGRAD_PYTHON)

# Running no case at all must fail; Catch2 3 does so by itself and no longer knows the option.
if(Catch2_VERSION VERSION_LESS 3)
  set(FLOWGRAD_CATCH_ARGUMENTS -w NoTests)
endif()

# The precompiled catch.hpp is built once, here, and reused by every test program.
function(flowgrad_test_support)
  flowgrad_precompiled(flowgrad_test_pch "${CMAKE_CURRENT_SOURCE_DIR}/catch.hpp")
  flowgrad_test_rules(flowgrad_test_pch)
endfunction()

# tests/device: the device that tests compute on, for every test program.
function(flowgrad_test_device)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/device/*.cpp")
  add_library(flowgrad_test_device STATIC ${sources})
  flowgrad_compile_rules(flowgrad_test_device)
  target_include_directories(flowgrad_test_device PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(flowgrad_test_device PUBLIC flowgrad_autograd PRIVATE fmt::fmt)
endfunction()

# Same flags for all test programs: a precompiled header is reused only where they are equal.
function(flowgrad_test_rules target)
  flowgrad_compile_rules(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  # Half the time of -O2 to compile, and what is tested keeps its own flags.
  target_compile_options(${target} PRIVATE $<$<NOT:$<CONFIG:Debug>>:-Og>)
  if("undefined" IN_LIST FLOWGRAD_SANITIZE)
    target_compile_options(${target} PRIVATE -fno-sanitize=undefined) # half of the time again
  endif()
  target_compile_definitions(
    ${target} PRIVATE FLOWGRAD_TEST_DATA="${PROJECT_SOURCE_DIR}/tests"
                      FLOWGRAD_BINARY_FOLDER="${PROJECT_BINARY_DIR}/bin"
                      CATCH_CONFIG_FAST_COMPILE)
  # The rooms by name and before Catch2: its library leaves members of std::string undefined, and the
  # linker would take them, with the whole object around them, from the first room it meets.
  target_link_libraries(
    ${target} PRIVATE flowgrad_test_device flowgrad_models flowgrad_optim flowgrad_autograd flowgrad_kernels flowgrad_tasks
                      flowgrad_plot flowgrad_core Catch2::Catch2WithMain fmt::fmt ZLIB::ZLIB PNG::PNG
                      nlohmann_json::nlohmann_json)
endfunction()

# flowgrad_test_file(<program> <room> <file>): the ctest entry <room>.<stem> runs the cases that
# carry the tag [<stem>]; cases that also carry [nightly] go to <room>.<stem>.nightly instead, and
# cases with [slow] are left out under sanitizers. A file that says [serial] runs alone. Cases with
# [device] run again in <room>.<stem>.device, on the device of FLOWGRAD_TEST_DEVICE=cuda
# (tests/device); cases with [device_only] run there alone.
function(flowgrad_test_file program room file)
  cmake_path(GET file STEM stem)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  file(STRINGS "${file}" case_lines REGEX "^(TEMPLATE_|TEMPLATE_LIST_|)TEST_CASE(_METHOD)?\\(")
  file(READ "${file}" text)
  foreach(tag IN ITEMS ${stem} nightly slow serial device device_only)
    # Square brackets upset CMake's lists, hence the detour over a word of our own.
    string(REPLACE "[${tag}]" "\n<tag ${tag}>\n" text "${text}")
    string(REGEX MATCHALL "\n<tag ${tag}>\n" uses "${text}")
    list(LENGTH uses n_${tag})
  endforeach()
  set(n_own ${n_${stem}})
  list(LENGTH case_lines n_cases)
  if(n_cases EQUAL 0)
    return() # helpers shared by the files of the room
  endif()
  if(n_own LESS n_cases)
    message(FATAL_ERROR "flowgrad: ${file} has ${n_cases} test cases but names its own tag "
                        "[${stem}] only ${n_own} times; every TEST_CASE of a file carries the "
                        "file's name as a tag, or ctest would never run it")
  endif()
  set(excluded "~[nightly]")
  math(EXPR n_excluded "${n_nightly} + ${n_device_only}")
  if(FLOWGRAD_SANITIZE)
    string(APPEND excluded "~[slow]")
    math(EXPR n_excluded "${n_excluded} + ${n_slow}")
  endif()
  if(n_excluded LESS n_cases)
    add_test(NAME ${room}.${stem}
             COMMAND ${program} ${FLOWGRAD_CATCH_ARGUMENTS} "[${stem}]${excluded}~[device_only]")
    set_tests_properties(${room}.${stem} PROPERTIES LABELS ${room} TIMEOUT 900)
    if(n_serial GREATER 0)
      set_tests_properties(${room}.${stem} PROPERTIES RUN_SERIAL ON)
    endif()
  endif()
  set(on_device "")
  foreach(tag IN ITEMS device device_only)
    if(n_${tag} GREATER 0)
      string(APPEND on_device "[${stem}][${tag}]${excluded},")
    endif()
  endforeach()
  if(on_device)
    string(REGEX REPLACE ",$" "" on_device "${on_device}")
    add_test(NAME ${room}.${stem}.device
             COMMAND ${program} ${FLOWGRAD_CATCH_ARGUMENTS} "${on_device}")
    set_tests_properties(${room}.${stem}.device PROPERTIES LABELS "${room};device" TIMEOUT 1800
                         SKIP_RETURN_CODE 77 ENVIRONMENT FLOWGRAD_TEST_DEVICE=cuda)
  endif()
  if(n_nightly GREATER 0)
    add_test(NAME ${room}.${stem}.nightly
             COMMAND ${program} ${FLOWGRAD_CATCH_ARGUMENTS} "[${stem}][nightly]")
    set_tests_properties(${room}.${stem}.nightly PROPERTIES LABELS nightly TIMEOUT 7200)
  endif()
endfunction()

# flowgrad_test_room(<room>): test_<room> from tests/<room>/*.cpp.
function(flowgrad_test_room room)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${room}/*.cpp")
  if(NOT sources)
    return()
  endif()
  add_executable(test_${room} ${sources})
  flowgrad_test_rules(test_${room})
  flowgrad_unity(test_${room})
  if(room STREQUAL "cli")
    target_link_libraries(test_cli PRIVATE flowgrad_command)
  endif()
  target_precompile_headers(test_${room} REUSE_FROM flowgrad_test_pch)
  foreach(file IN LISTS sources)
    flowgrad_test_file(test_${room} ${room} "${file}")
  endforeach()
endfunction()

# test_gpu from tests/gpu/*.cu, compiled as the kernels are. FLOWGRAD_EMULATOR_ORDER=reverse and random
# must pass as well: a test program that depends on the order of threads is wrong.
function(flowgrad_test_gpu_room)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/gpu/*.cu")
  if(FLOWGRAD_GPU_KIND STREQUAL "OFF" OR NOT sources)
    return()
  endif()
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
    list(FILTER sources EXCLUDE REGEX "/emulator_[a-z_]+\\.cu$") # what only an emulator can notice
  endif()
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA" AND NOT CMAKE_CUDA_ARCHITECTURES MATCHES "^90a(-real)?$")
    list(FILTER sources EXCLUDE REGEX "/sm90_[a-z_]+\\.cu$") # no other architecture has wgmma
  endif()
  if(NOT FLOWGRAD_GPU_CHECKER)
    list(FILTER sources EXCLUDE REGEX "/emulator_checker_test\\.cu$")
  endif()
  add_executable(test_gpu)
  flowgrad_gpu_sources(test_gpu ${sources})
  flowgrad_compile_rules(test_gpu)
  target_include_directories(test_gpu PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(test_gpu PRIVATE flowgrad_kernels flowgrad_core Catch2::Catch2WithMain)
  foreach(file IN LISTS sources)
    flowgrad_test_file(test_gpu gpu "${file}")
  endforeach()
  if(FLOWGRAD_GPU_KIND STREQUAL "CUDA")
    get_property(entries DIRECTORY PROPERTY TESTS)
    list(FILTER entries INCLUDE REGEX "^gpu\\.")
    set_tests_properties(${entries} PROPERTIES
      SKIP_REGULAR_EXPRESSION "cudaErrorNoDevice|cudaErrorInsufficientDriver")
  else()
    foreach(order IN ITEMS reverse random)
      add_test(NAME gpu.order.${order} COMMAND test_gpu ${FLOWGRAD_CATCH_ARGUMENTS} "~[nightly]")
      set_tests_properties(gpu.order.${order} PROPERTIES
        LABELS gpu TIMEOUT 900 ENVIRONMENT FLOWGRAD_EMULATOR_ORDER=${order})
    endforeach()
    # What machines without memory protection keys do.
    add_test(NAME gpu.protection.pages
             COMMAND test_gpu ${FLOWGRAD_CATCH_ARGUMENTS} "[emulator_faults_test]")
    set_tests_properties(gpu.protection.pages PROPERTIES
      LABELS gpu TIMEOUT 900 ENVIRONMENT FLOWGRAD_EMULATOR_PROTECTION=pages)
  endif()
endfunction()

# tests/scripts/<name>.sh runs as `sh <name>.sh <flowgrad> <empty folder>`; exit code 77 skips.
function(flowgrad_test_scripts)
  if(NOT TARGET flowgrad_cli)
    return()
  endif()
  file(GLOB scripts CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/scripts/*.sh")
  foreach(script IN LISTS scripts)
    cmake_path(GET script STEM name)
    set(folder "${CMAKE_CURRENT_BINARY_DIR}/scratch/${name}")
    add_test(NAME cli.${name}
             COMMAND sh -c "rm -rf \"$3\" && mkdir -p \"$3\" && exec sh \"$1\" \"$2\" \"$3\"" cli
                     "${script}" "$<TARGET_FILE:flowgrad_cli>" "${folder}")
    set_tests_properties(cli.${name} PROPERTIES LABELS cli TIMEOUT 900 SKIP_RETURN_CODE 77)
    if(name STREQUAL "device")
      set_tests_properties(cli.${name} PROPERTIES LABELS "cli;device")
    endif()
  endforeach()
endfunction()

# The figures of training in docs/figures.json, remade from their first seed; tests/scripts/figures.sh
# does so for the short ones.
function(flowgrad_test_figures)
  if(NOT FLOWGRAD_PYTHON OR NOT TARGET flowgrad_cli)
    return()
  endif()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/scratch/figures.nightly")
  add_test(NAME figures.nightly
           COMMAND sh -c "rm -rf \"$4\" && exec \"$1\" \"$2\" check --bin \"$3\" --work \"$4\"" figures
                   "${FLOWGRAD_PYTHON}" "${PROJECT_SOURCE_DIR}/scripts/figures.py"
                   "$<TARGET_FILE_DIR:flowgrad_cli>" "${folder}")
  set_tests_properties(figures.nightly PROPERTIES LABELS nightly TIMEOUT 14400 SKIP_RETURN_CODE 77)
endfunction()

# Random cases of the operations and models of random sizes against PyTorch, where it is installed.
function(flowgrad_test_random)
  if(NOT FLOWGRAD_PYTHON)
    return()
  endif()
  set(rooms autograd models)
  set(drawn ops models)
  foreach(room what IN ZIP_LISTS rooms drawn)
    add_test(NAME ${room}.random_${what}.nightly
             COMMAND "${FLOWGRAD_PYTHON}" "${CMAKE_CURRENT_SOURCE_DIR}/golden/random_${what}.py"
                     "$<TARGET_FILE:test_${room}>")
    set_tests_properties(${room}.random_${what}.nightly PROPERTIES
      LABELS nightly TIMEOUT 7200 SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# The objects compiled per instruction set must export their one table and nothing weak: a weak
# AVX-512 copy of an inline function could be the one the linker keeps for everybody.
function(flowgrad_test_isa_symbols)
  if(FLOWGRAD_SANITIZE OR FLOWGRAD_COVERAGE OR NOT CMAKE_BUILD_TYPE STREQUAL "Release")
    return()
  endif()
  foreach(isa IN ITEMS baseline avx2 avx512)
    if(TARGET flowgrad_isa_${isa})
      add_test(NAME kernels.isa_symbols.${isa}
               COMMAND sh "${CMAKE_CURRENT_SOURCE_DIR}/kernels/isa_symbols.sh" "${CMAKE_NM}" ${isa}
                       "$<TARGET_OBJECTS:flowgrad_isa_${isa}>" COMMAND_EXPAND_LISTS)
      set_tests_properties(kernels.isa_symbols.${isa} PROPERTIES LABELS kernels)
    endif()
  endforeach()
endfunction()

# What nvcc makes of the kernels, where there is nvcc; no device is needed. The whole table takes a
# quarter of an hour.
function(flowgrad_test_static)
  if(NOT FLOWGRAD_PYTHON)
    return()
  endif()
  set(script "${FLOWGRAD_PYTHON}" "${CMAKE_CURRENT_SOURCE_DIR}/static/registers.py")
  add_test(NAME static.opcodes.nightly COMMAND ${script} --opcodes)
  add_test(NAME static.registers.nightly COMMAND ${script})
  set_tests_properties(static.opcodes.nightly static.registers.nightly PROPERTIES
    LABELS nightly TIMEOUT 7200 SKIP_RETURN_CODE 77)
endfunction()

# Installs into a scratch prefix, then builds and runs tests/consumer against it.
function(flowgrad_test_consumer)
  if(FLOWGRAD_SANITIZE OR FLOWGRAD_COVERAGE)
    return() # the consumer would have to link the same run-time libraries
  endif()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/consumer")
  add_test(NAME consumer.install
           COMMAND "${CMAKE_COMMAND}" --install "${PROJECT_BINARY_DIR}" --prefix "${folder}/prefix")
  add_test(NAME consumer.find_package
           COMMAND "${CMAKE_CTEST_COMMAND}" --build-and-test
                   "${CMAKE_CURRENT_SOURCE_DIR}/consumer" "${folder}/build"
                   --build-generator "${CMAKE_GENERATOR}" --build-options
                   "-DCMAKE_PREFIX_PATH=${folder}/prefix" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}"
                   -DCMAKE_BUILD_TYPE=Release --test-command consumer)
  set_tests_properties(consumer.install consumer.find_package PROPERTIES LABELS consumer)
  set_tests_properties(consumer.install PROPERTIES FIXTURES_SETUP flowgrad_prefix)
  set_tests_properties(consumer.find_package PROPERTIES FIXTURES_REQUIRED flowgrad_prefix)
endfunction()
