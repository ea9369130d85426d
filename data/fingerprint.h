// Which data a job reads: size and checksum of every file, so that a job that goes on later can
// tell that its data is what it began with. Open the source first, then take the fingerprint of its
// files, and call the source's check_unchanged() afterwards: then what was read is what has the
// fingerprint, whenever a file was changed. Plain data and functions; any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/stop.h"

namespace spillway {

struct FileFingerprint {
  std::string name;  ///< as messages name the file
  uint64_t bytes = 0;
  std::string xxh3;  ///< 128 bits, 32 hexadecimal digits as xxhsum -H128 prints them
  bool operator==(const FileFingerprint&) const = default;
};

struct DataFingerprint {
  std::vector<FileFingerprint> files;
  bool operator==(const DataFingerprint&) const = default;
};

/// Called with bytes read so far and in all.
using FingerprintProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

/// Reads every file once, through a buffer of 1 MiB. Throws Error when one cannot be read or
/// changes meanwhile, Stopped when a stop was requested.
DataFingerprint fingerprint_files(const std::vector<std::filesystem::path>& paths,
                                  const StopFlag& stop, const FingerprintProgress& progress);

/// What is another in `now` than it was `then`, for a message; empty when the contents are the
/// same, whatever the files are called.
std::string fingerprint_difference_text(const DataFingerprint& then, const DataFingerprint& now);

/// To be kept with a job's results, and back. Throws Error beginning with `where` for what is none.
nlohmann::ordered_json fingerprint_json(const DataFingerprint& fingerprint);
DataFingerprint parse_fingerprint(const nlohmann::json& json, const std::string& where);

}  // namespace spillway
