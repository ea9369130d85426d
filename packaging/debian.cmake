# Run by cpack on what it has installed, before it is packed: what Debian keeps elsewhere or packed.
if(CPACK_SPILLWAY_CUDA)
  message(FATAL_ERROR "the package is built without CUDA, whose libraries Debian 12 does not have: "
    "cmake --preset package")
endif()
set(share ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr/share)
set(documents ${share}/doc/spillway)

file(RENAME ${documents}/CHANGELOG.md ${documents}/changelog)
file(REMOVE ${documents}/LICENSE)  # copyright says where it is on every Debian
file(MAKE_DIRECTORY ${share}/zsh/vendor-completions)
file(RENAME ${share}/zsh/site-functions/_spillway ${share}/zsh/vendor-completions/_spillway)
file(REMOVE_RECURSE ${share}/zsh/site-functions)

file(GLOB pages ${share}/man/man*/*)
execute_process(COMMAND gzip -9nf ${pages} ${documents}/changelog COMMAND_ERROR_IS_FATAL ANY)
file(CHMOD_RECURSE ${share}
  FILE_PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ WORLD_READ
  DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
