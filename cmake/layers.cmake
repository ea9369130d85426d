# One target per folder. DEPS are the folders whose headers this one may include;
# scripts/tidy.py reads these calls and checks every include against them.
add_library(spillway_flags INTERFACE)
target_include_directories(spillway_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(spillway_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion>
  # GCC 12 sees overlaps that cannot be in concatenations of strings (its bug 105651).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>
  # Sources that one unit includes are no headers: what they keep to themselves stays there.
  $<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<BOOL:${CMAKE_UNITY_BUILD}>>:-Wno-subobject-linkage>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SPILLWAY_WERROR}>>:-Werror>)

function(spillway_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  add_library(spillway_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(spillway_${name} PUBLIC spillway_flags ${ARG_LIBS})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(spillway_${name} PUBLIC spillway_${dep})
  endforeach()
endfunction()
