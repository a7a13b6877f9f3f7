# cmake [-DPROGRAM=<program> | -DREPLAY=<folder of the command>] [-DEXPECTED=<file>] -P ...
# Runs a program, or replays the `$ command` lines of EXPECTED in an empty folder, and fails with a
# diff when stdout differs from EXPECTED.

if(REPLAY)
  cmake_path(GET EXPECTED STEM name)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${name}.scratch")
  file(REMOVE_RECURSE "${folder}")
  file(MAKE_DIRECTORY "${folder}")
  set(ENV{PATH} "${REPLAY}:$ENV{PATH}")
  set(command sh "${CMAKE_CURRENT_LIST_DIR}/replay.sh" "${EXPECTED}")
else()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}")
  set(command "${PROGRAM}")
endif()

execute_process(COMMAND ${command} WORKING_DIRECTORY "${folder}" RESULT_VARIABLE code
                OUTPUT_VARIABLE actual ERROR_VARIABLE errors)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "exit code ${code}\n${actual}\n${errors}")
endif()
if(NOT DEFINED EXPECTED)
  return()
endif()
file(READ "${EXPECTED}" expected)
if(NOT actual STREQUAL expected)
  file(WRITE "${EXPECTED}.actual" "${actual}")
  execute_process(COMMAND diff -u --label documented --label printed "${EXPECTED}"
                          "${EXPECTED}.actual" OUTPUT_VARIABLE difference)
  message(FATAL_ERROR "the documented output is not what is printed:\n${difference}")
endif()
