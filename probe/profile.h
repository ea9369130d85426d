// A hardware profile: what `spillway probe` measured, for which machine, as JSON. Plain data.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/output_file.h"
#include "probe/compute_rates.h"
#include "probe/hardware.h"
#include "probe/read_rate.h"

namespace spillway {

/// What the drive gave at some time, to probe or to a run that looked before it planned.
struct DriveReading {
  std::string measured_at;
  ReadSample sample;
};

struct HardwareProfile {
  Hardware hardware;
  std::string measured_at;        ///< "2026-11-20T14:00:00Z"
  std::string file_system;        ///< of the drive
  std::string read_engine;        ///< what read it: "io_uring" or "pread"
  std::vector<ReadSample> reads;  ///< best first, never empty
  std::optional<double> sustained_bytes_per_second;
  std::vector<DriveReading> history;  ///< of the drive, oldest first; empty = nothing but `reads`
  double memory_bytes_per_second = 0;
  std::vector<DeviceRates> devices;
};

nlohmann::ordered_json profile_json(const HardwareProfile& profile);
/// Throws Error naming `where` and the key that is missing or wrong.
HardwareProfile parse_profile(const nlohmann::json& json, const std::string& where);

/// The file to keep a profile in, checked and opened; makes the folder. `own_place`: a name that
/// only profiles have, so that what is there may be damaged. Throws Error naming the file.
OutputFile open_profile(const std::filesystem::path& file, bool own_place, FilesInUse& in_use);
/// Replaces what is there; the history of a profile of the same hardware goes on. Throws Error
/// naming the file.
void write_profile(OutputFile& file, HardwareProfile profile);
/// Adds a reading to the history of the profile in `file`, where that is still the one measured at
/// `of`; a reading that is no news (`refresh`) takes the place of the last one of a run. Processes
/// that do this at the same time follow each other. Empty, or why the reading was not kept.
std::string keep_reading(const std::filesystem::path& file, const std::string& of,
                         const DriveReading& reading, bool refresh);
/// Empty when there is no such file. Throws Error when it cannot be read or is damaged.
std::optional<HardwareProfile> read_profile(const std::filesystem::path& file);

/// Reads as the engine makes them: into huge pages, or where the system had none into others. Best
/// first, never empty.
std::vector<ReadSample> engine_reads(const HardwareProfile& profile);
/// Of those, what most plans read with.
ReadShape usual_reads(const std::vector<ReadSample>& reads);

}  // namespace spillway
