# How tests are found: one program per folder of tests/, one ctest entry per file.

find_package(Catch2 3 QUIET)
if(NOT Catch2_FOUND)
  find_package(Catch2 2.13 QUIET)
endif()
if(NOT Catch2_FOUND)
  message(FATAL_ERROR "flowgrad: Catch2 (2.13 or 3) is missing; install the package catch2 "
                      "(./run test installs everything in packages.txt), or set FLOWGRAD_TESTS=OFF")
endif()

# Running no case at all must fail; Catch2 3 does so by itself and no longer knows the option.
if(Catch2_VERSION VERSION_LESS 3)
  set(FLOWGRAD_CATCH_ARGUMENTS -w NoTests)
endif()

# The precompiled catch.hpp is built once, here, and reused by every test program.
function(flowgrad_test_support)
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/pch.cpp.in" "// carries the precompiled header\n")
  configure_file("${CMAKE_CURRENT_BINARY_DIR}/pch.cpp.in" "${CMAKE_CURRENT_BINARY_DIR}/pch.cpp"
                 COPYONLY)
  add_library(flowgrad_test_pch OBJECT "${CMAKE_CURRENT_BINARY_DIR}/pch.cpp")
  flowgrad_test_rules(flowgrad_test_pch)
  target_precompile_headers(flowgrad_test_pch PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${CMAKE_CURRENT_SOURCE_DIR}/catch.hpp>")
endfunction()

# Same flags for all test programs: a precompiled header is reused only where they are equal.
function(flowgrad_test_rules target)
  flowgrad_compile_rules(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(
    ${target} PRIVATE FLOWGRAD_TEST_DATA="${PROJECT_SOURCE_DIR}/tests"
                      FLOWGRAD_BINARY_FOLDER="${PROJECT_BINARY_DIR}/bin")
  target_link_libraries(${target} PRIVATE flowgrad::flowgrad Catch2::Catch2WithMain fmt::fmt
                                          ZLIB::ZLIB PNG::PNG nlohmann_json::nlohmann_json)
endfunction()

# flowgrad_test_file(<program> <room> <file>): the ctest entry <room>.<stem> runs the cases that
# carry the tag [<stem>]; cases that also carry [nightly] go to <room>.<stem>.nightly instead.
function(flowgrad_test_file program room file)
  cmake_path(GET file STEM stem)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  file(STRINGS "${file}" case_lines REGEX "^(TEMPLATE_|TEMPLATE_LIST_|)TEST_CASE(_METHOD)?\\(")
  file(READ "${file}" text)
  string(REPLACE "[${stem}]" "\n<own tag>\n" text "${text}")
  string(REPLACE "[nightly]" "\n<nightly>\n" text "${text}")
  string(REGEX MATCHALL "\n<own tag>\n" own_tags "${text}")
  string(REGEX MATCHALL "\n<nightly>\n" nightly_tags "${text}")
  list(LENGTH case_lines n_cases)
  list(LENGTH own_tags n_own)
  list(LENGTH nightly_tags n_nightly)
  if(n_cases EQUAL 0)
    return() # helpers shared by the files of the room
  endif()
  if(n_own LESS n_cases)
    message(FATAL_ERROR "flowgrad: ${file} has ${n_cases} test cases but names its own tag "
                        "[${stem}] only ${n_own} times; every TEST_CASE of a file carries the "
                        "file's name as a tag, or ctest would never run it")
  endif()
  if(n_nightly LESS n_cases)
    add_test(NAME ${room}.${stem}
             COMMAND ${program} ${FLOWGRAD_CATCH_ARGUMENTS} "[${stem}]~[nightly]")
    set_tests_properties(${room}.${stem} PROPERTIES LABELS ${room} TIMEOUT 900)
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
  target_precompile_headers(test_${room} REUSE_FROM flowgrad_test_pch)
  foreach(file IN LISTS sources)
    flowgrad_test_file(test_${room} ${room} "${file}")
  endforeach()
endfunction()
