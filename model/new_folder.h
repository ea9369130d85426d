// A folder of files that are made by one run, whole or not at all. Owner: what it wrote is removed
// unless keep() was called. One thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/descriptor.h"

namespace spillway {

/// Throws Error where anything is in the folder but what an unfinished run left.
void check_folder_is_free(const std::filesystem::path& directory);

/// Makes the folder where there is none, and marks it as being written by this process: a marker
/// holds the names of the files, and is locked. What a killed run left is recognised by its marker
/// and removed.
class NewFolder {
 public:
  /// `names`: the files that will be there. Throws Error.
  NewFolder(const std::filesystem::path& directory, const std::vector<std::string>& names);
  NewFolder(const NewFolder&) = delete;
  /// Removes the marker; and the files, and the folders that were made here, unless they are kept.
  ~NewFolder();
  void keep() { kept_ = true; }

 private:
  void make_folder();
  void mark(const std::vector<std::string>& names);
  void remove_leftovers();
  void remove_files();
  void remove_folders();

  std::filesystem::path directory_;
  std::vector<std::filesystem::path> made_;
  std::vector<std::string> names_;
  Descriptor marker_;
  bool kept_ = false;
};

}  // namespace spillway
