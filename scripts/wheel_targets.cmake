# Passed as CMAKE_PROJECT_INCLUDE when interfaces are built against the ROS wheels from PyPI.
#
# The wheels' exported targets name an include folder of the machine that built the wheels; CMake refuses targets whose
# include folders do not exist. Drop those entries from every imported target once the project has been read.
function(chorus_drop_foreign_includes)
  get_property(targets DIRECTORY ${CMAKE_SOURCE_DIR} PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL chorus_drop_foreign_includes)
