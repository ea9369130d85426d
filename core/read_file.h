// Whole files as text: never blocks on what is no file, never reads without end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace spillway {

/// What may be read: a plain file only; also a pipe or a device, whose bytes come as they come; or
/// these, and standard input by the name "-".
enum class FileKind { kPlain, kStream, kText };

struct TextFile {
  std::string expected;    ///< in errors: "a YAML file (man spillway.yaml)"
  uint64_t max_bytes = 0;  ///< more is refused
  FileKind kind = FileKind::kPlain;
};

/// Of a text that a model reads.
inline constexpr uint64_t kMaxTextBytes = uint64_t{256} << 20;

inline constexpr const char* kStdin = "-";

/// Everything in `file`. Throws Error naming the file, and what was expected: it cannot be opened
/// or read, is a folder or of another kind, or is larger than max_bytes. A file of another kind is
/// refused without being waited for; a pipe that is allowed is read until its writers close it.
std::string read_text_file(const std::filesystem::path& file, const TextFile& wanted);
/// Everything that comes from an open descriptor, which `name` is in messages. Throws Error.
std::string read_text_stream(int fd, const std::string& name, const TextFile& wanted);

}  // namespace spillway
