// Space of a drive for files. Any thread.
#pragma once

#include <cstdint>

namespace spillway {

/// Takes the space for the first `bytes` of an open file. 0; EOPNOTSUPP where the file system
/// cannot, and writing will tell; or another errno. Takes a while where much is reserved: a signal
/// may come in between, and is passed over some hundred times.
int reserve_space(int fd, uint64_t bytes);

/// Of the file system that an open file lies in, for us; 0 where it cannot say.
uint64_t free_space(int fd);

}  // namespace spillway
