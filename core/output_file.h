// What a command writes for its user: checked before the work starts, replaced whole when there is
// something to write, and never what the user did not mean.
//
// Refused: a file that the same run reads or writes elsewhere, whatever it is called (links count),
// and a file with content that does not begin like what is to be written. Regular files are
// replaced through a temporary one in the same folder, so that a failure leaves what was there;
// behind a symbolic link it is the target that is replaced. Devices, FIFOs and open descriptors
// (/dev/stdout, /dev/fd/N) are written as they are. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/descriptor.h"
#include "core/live_text.h"
#include "core/stop.h"

namespace spillway {

struct OutputFormat {
  std::string what;    ///< "report": for messages
  std::string begins;  ///< how one begins, blanks left out; "*" stands for anything
};

/// Where a name leads: a file that exists, or a name in a folder.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  std::string name;  ///< in that folder; empty = the file itself
  bool operator==(const FileIdentity&) const = default;
};

/// The files of one run: what it reads, and what it writes so far.
class FilesInUse {
 public:
  /// `role`: "the configuration", for messages. A file that is not there yet counts by its name.
  void add(const std::filesystem::path& file, const std::string& role);
  /// One that may be "-", standard input.
  void add_text(const std::filesystem::path& file, const std::string& role);
  /// Names in `folder` that end in `ending` (".safetensors"; all where it is empty), there already
  /// or not.
  void add_names(const std::filesystem::path& folder, const std::string& ending,
                 const std::string& role);
  /// Throws Error where the text would go into one of them: `spillway run c.yaml >> c.yaml`.
  void check_stdout() const;

 private:
  friend class OutputFile;
  struct Entry {
    FileIdentity identity;
    std::string role;
    std::optional<std::string> ending;  // of any name in the folder that `identity` is
    bool has(const FileIdentity& file) const;
  };
  std::vector<Entry> entries_;
};

class OutputFile {
 public:
  /// No file: nothing is written.
  OutputFile() = default;
  /// Checks that `file` may and can be written, without changing it; an empty path is no file.
  /// Throws Error.
  OutputFile(const std::filesystem::path& file, OutputFormat format, FilesInUse& in_use);
  OutputFile(OutputFile&&) noexcept = default;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  /// Streams are waited for, but not past a request of `stop`, which outlives this.
  void heed(const StopFlag& stop);
  bool wanted() const { return !file_.empty(); }
  const std::filesystem::path& path() const { return file_; }

  /// The next piece of the content. Throws Error.
  void append(std::string_view text);
  /// The content is whole and takes the place of what was there. Throws Error.
  void finish();
  void write(std::string_view text) {
    append(text);
    finish();
  }

 private:
  enum class Way {
    kReplace,  ///< through a temporary file and a rename
    kInPlace,  ///< a regular file in a folder that takes no new files
    kThrough   ///< device, FIFO, descriptor
  };
  [[noreturn]] void fail(const std::string& cause) const;
  [[noreturn]] void fail(int error_number) const;
  [[noreturn]] void give_up(int error_number);
  void open_regular();
  void open_device(const std::filesystem::path& target);
  void take_descriptor(int fd);
  void check_in_use(FilesInUse& in_use, const FileIdentity& identity, bool device) const;
  void refuse_foreign() const;
  int make_temporary();  ///< 0, or the errno
  void begin();
  void publish();
  void write_in_place();
  void copy_over();

  std::filesystem::path file_;  // as the user named it
  OutputFormat format_;
  Way way_ = Way::kReplace;
  std::filesystem::path folder_path_;
  Descriptor folder_;
  std::string name_;                   // in the folder, links followed
  std::string temporary_;              // in the folder while it is being written; empty = none
  Descriptor out_;                     // open while something is being written; always for kThrough
  std::unique_ptr<LiveText> through_;  // kThrough, where a stop is heeded; writes into out_
  std::string whole_;  // kInPlace: all of it, for what is there goes only when there is room
};

}  // namespace spillway
