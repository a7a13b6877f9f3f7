# Documentation that runs. In docs/*.md and README.md a fence
#
#     ```cpp test=name        followed by        ```output
#
# becomes a program linked to flowgrad::flowgrad whose stdout must equal the output block (none: it
# must only exit with 0), and a fence ```console test=name is replayed: what each `$ command` prints
# must follow it. Both are ctest entries docs.<page>.<name>. Fences must not hold backticks.

add_custom_target(flowgrad_docs ALL)

# Same flags for all programs, which share one precompiled header.
function(flowgrad_doc_rules target)
  flowgrad_compile_rules(${target})
  target_compile_options(${target} PRIVATE -Wno-unused-variable $<$<CONFIG:Release>:-Og>)
  target_link_libraries(${target} PRIVATE flowgrad::flowgrad fmt::fmt)
endfunction()
flowgrad_precompiled(flowgrad_doc_pch "${PROJECT_SOURCE_DIR}/flowgrad/flowgrad.h" <cstdio> <iostream>)
flowgrad_doc_rules(flowgrad_doc_pch)

# CMake lists break at these characters; they travel as names of their own.
macro(flowgrad_doc_escape text)
  string(REPLACE ";" "{FG-SEMICOLON}" ${text} "${${text}}")
  string(REPLACE "[" "{FG-OPEN}" ${text} "${${text}}")
  string(REPLACE "]" "{FG-CLOSE}" ${text} "${${text}}")
endmacro()
macro(flowgrad_doc_unescape text)
  string(REPLACE "{FG-SEMICOLON}" ";" ${text} "${${text}}")
  string(REPLACE "{FG-OPEN}" "[" ${text} "${${text}}")
  string(REPLACE "{FG-CLOSE}" "]" ${text} "${${text}}")
endmacro()

# Touches the file only when its text changes, so that an edited page rebuilds only its own blocks.
function(flowgrad_doc_write path text)
  if(EXISTS "${path}")
    file(READ "${path}" old)
    if(old STREQUAL text)
      return()
    endif()
  endif()
  file(WRITE "${path}" "${text}")
endfunction()

# A block without main becomes the body of one; its #include lines go above it.
function(flowgrad_doc_program code result)
  set(text "#include \"flowgrad/flowgrad.h\"\n#include <cstdio>\n#include <iostream>\n")
  if(code MATCHES "(^|\n)int main\\(")
    set(${result} "${text}${code}" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCHALL "(^|\n)#include[^\n]*" includes "${code}")
  string(REGEX REPLACE "(^|\n)#include[^\n]*" "\n" body "${code}")
  string(CONCAT text "${text}" ${includes} "\nusing namespace flowgrad;\nint main() {\n" "${body}"
         "}\n")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

# flowgrad_executed_page(<page.md>): its programs and ctest entries.
function(flowgrad_executed_page page)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${page}")
  cmake_path(GET page STEM stem)
  string(TOLOWER "${stem}" stem)
  set(folder "${PROJECT_BINARY_DIR}/docs/${stem}")
  file(READ "${page}" text)
  flowgrad_doc_escape(text)

  string(REGEX MATCHALL "```cpp test=[a-z0-9_]+\n[^`]*```(\n+```output\n[^`]*```)?" blocks "${text}")
  foreach(block IN LISTS blocks)
    string(REGEX MATCH "^```cpp test=([a-z0-9_]+)\n([^`]*)```" found "${block}")
    set(name "${CMAKE_MATCH_1}")
    set(code "${CMAKE_MATCH_2}")
    flowgrad_doc_unescape(code)
    flowgrad_doc_program("${code}" program)
    flowgrad_doc_write("${folder}/${name}.cpp" "${program}")
    set(expected)
    if(block MATCHES "```output\n([^`]*)```$")
      set(output "${CMAKE_MATCH_1}")
      flowgrad_doc_unescape(output)
      flowgrad_doc_write("${folder}/${name}.expected" "${output}")
      set(expected "-DEXPECTED=${folder}/${name}.expected")
    endif()
    set(target doc_${stem}_${name})
    add_executable(${target} "${folder}/${name}.cpp")
    flowgrad_doc_rules(${target})
    target_precompile_headers(${target} REUSE_FROM flowgrad_doc_pch)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${folder}")
    add_dependencies(flowgrad_docs ${target})
    flowgrad_docs_test(docs.${stem}.${name} "${folder}" "${expected}"
                       "-DPROGRAM=$<TARGET_FILE:${target}>")
  endforeach()

  string(REGEX MATCHALL "```console test=[a-z0-9_]+\n[^`]*```" blocks "${text}")
  foreach(block IN LISTS blocks)
    string(REGEX MATCH "^```console test=([a-z0-9_]+)\n([^`]*)```" found "${block}")
    set(name "${CMAKE_MATCH_1}")
    set(session "${CMAKE_MATCH_2}")
    flowgrad_doc_unescape(session)
    flowgrad_doc_write("${folder}/${name}.expected" "${session}")
    if(TARGET flowgrad_cli)
      add_dependencies(flowgrad_docs flowgrad_cli)
      flowgrad_docs_test(docs.${stem}.${name} "${folder}" "-DEXPECTED=${folder}/${name}.expected"
                         "-DREPLAY=$<TARGET_FILE_DIR:flowgrad_cli>")
    endif()
  endforeach()
endfunction()

function(flowgrad_docs_test name folder)
  list(REMOVE_ITEM ARGN "")
  add_test(NAME ${name} WORKING_DIRECTORY "${folder}"
           COMMAND "${CMAKE_COMMAND}" ${ARGN} -P "${PROJECT_SOURCE_DIR}/cmake/CompareOutput.cmake")
  set_tests_properties(${name} PROPERTIES LABELS docs TIMEOUT 300)
endfunction()

file(GLOB pages CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/docs/*.md" "${PROJECT_SOURCE_DIR}/README.md")
foreach(page IN LISTS pages)
  flowgrad_executed_page("${page}")
endforeach()

# The checker itself is checked: what is wrong in the fixture must be refused, and for its reason.
if(FLOWGRAD_TESTS)
  flowgrad_executed_page("${PROJECT_SOURCE_DIR}/tests/docs/fixture.md")
  set(refused "CMake Error.*the documented output is not what is printed:.*-5.*[+]4")
  set_tests_properties(docs.fixture.wrong_output PROPERTIES PASS_REGULAR_EXPRESSION "${refused}")
  set_tests_properties(docs.fixture.wrong_exit PROPERTIES
    PASS_REGULAR_EXPRESSION "CMake Error.*exit code 3")
  if(TARGET flowgrad_cli)
    set_tests_properties(docs.fixture.wrong_session PROPERTIES PASS_REGULAR_EXPRESSION "${refused}")
  endif()
endif()
