// Space on a drive that needs no name: a file in a folder that no path leads to, gone when it is
// closed, so that its space is free again whatever ends the process. Owner: UnnamedFile closes its
// descriptor. Immutable after reserve(), so any thread may read and write through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/config.h"
#include "core/descriptor.h"
#include "io/direct_file.h"

namespace spillway {

class UnnamedFile {
 public:
  /// Made without a name where the file system can (O_TMPFILE), else it loses its name at once.
  /// Throws Error where `folder` takes no file.
  explicit UnnamedFile(const std::filesystem::path& folder);

  /// Past the page cache from now on, unless `choice` is off. With `auto` a file system that
  /// refuses it (or is in memory) is used through the page cache and `refused` says why; with `on`
  /// that is an Error. Sets info().alignment.
  void choose_direct(DirectChoice choice);
  /// Takes the space for `bytes`, a multiple of info().alignment and not 0: writes find room then.
  /// A file system that cannot reserve is only asked whether it has as much. Throws Error naming
  /// folder, bytes wanted and free. Once, after choose_direct().
  void reserve(uint64_t bytes);

  /// `path` is the folder.
  const ReadFile& info() const { return info_; }
  const std::string& refused() const { return refused_; }

  /// Never closes the descriptor: somebody who is not waited for may still write through it, and
  /// must not meet another file under its number.
  void leak() noexcept { static_cast<void>(fd_.release()); }

 private:
  /// Why the file system does no direct IO on this file; empty where it does.
  std::string direct_refusal();

  Descriptor fd_;
  ReadFile info_;
  std::string refused_;
};

}  // namespace spillway
