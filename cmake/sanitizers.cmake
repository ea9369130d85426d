# SPILLWAY_SANITIZER=address|thread instruments every target of the build.
if(SPILLWAY_SANITIZER STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(SPILLWAY_SANITIZER STREQUAL "thread")
  # GCC warns that fences are not instrumented; libraries use them, our code does not.
  add_compile_options(-fsanitize=thread -Wno-tsan)
  add_link_options(-fsanitize=thread)
elseif(NOT SPILLWAY_SANITIZER STREQUAL "")
  message(FATAL_ERROR "SPILLWAY_SANITIZER must be address, thread or empty")
endif()
