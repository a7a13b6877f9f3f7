# Headers, libraries, the command, and a package file for find_package(flowgrad).
include(CMakePackageConfigHelpers)

set(rooms core kernels autograd optim models tasks plot)
list(TRANSFORM rooms PREPEND flowgrad_ OUTPUT_VARIABLE room_targets)
install(TARGETS flowgrad ${room_targets} EXPORT flowgrad
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(TARGET flowgrad_cli)
  install(TARGETS flowgrad_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/flowgrad" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh" PATTERN "*.def" PATTERN "*.inc"
                       PATTERN "cli" EXCLUDE
                       PATTERN "core/json.h" EXCLUDE)

set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/flowgrad")
install(EXPORT flowgrad NAMESPACE flowgrad:: FILE flowgradTargets.cmake
        DESTINATION "${package_folder}")
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/flowgradConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/flowgradConfig.cmake" INSTALL_DESTINATION "${package_folder}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/flowgradConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/flowgradConfig.cmake"
              "${PROJECT_BINARY_DIR}/flowgradConfigVersion.cmake"
        DESTINATION "${package_folder}")
