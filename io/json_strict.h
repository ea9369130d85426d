// JSON from strangers: duplicates rejected, errors that name the file and the byte.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/read_file.h"

namespace spillway {

/// What becomes of a key that stands in one object twice (which the library would settle silently).
enum class DuplicateKeys { kRefused, kMayAgree };

/// What the library complains about at `token`, in words for whoever has the `whole`: a file or a
/// line of one.
std::string json_problem(std::string_view complaint, std::string_view token,
                         const char* whole = "file");

/// Parses `text`; throws Error naming `where` for bad syntax, bad UTF-8 and duplicate keys. Nesting
/// deeper than 64 is refused.
nlohmann::json parse_json_strict(std::string_view text, const std::string& where,
                                 DuplicateKeys duplicates = DuplicateKeys::kRefused);

/// Reads and parses a whole file of at most `max_bytes`. Throws Error.
nlohmann::json load_json_strict(const std::filesystem::path& file, uint64_t max_bytes,
                                DuplicateKeys duplicates = DuplicateKeys::kRefused,
                                FileKind kind = FileKind::kPlain);

}  // namespace spillway
