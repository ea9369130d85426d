#include "probe/profile.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/folder_lock.h"
#include "core/read_file.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kVersion = 2;
constexpr uint64_t kMaxProfileBytes = 16 * kMiB;
constexpr size_t kMostReadings = 32;
constexpr uint64_t kMostChunkBytes = kGiB;
constexpr uint64_t kMostDepth = 4096;
constexpr double kLeastRate = 1e3;
constexpr double kMostRate = 1e15;
constexpr double kMostMomentSeconds = 60;
constexpr double kLeastShare = 1e-3;
/// A profile is read, changed and replaced within milliseconds.
constexpr int kLockAttempts = 100;
constexpr auto kLockPause = std::chrono::milliseconds(5);

Json read_json(const ReadSample& sample) {
  return {{"chunk_bytes", sample.shape.chunk_bytes},
          {"depth", sample.shape.depth},
          {"huge_pages", sample.shape.huge_pages},
          {"bytes_per_second", sample.bytes_per_second}};
}

Json reading_json(const DriveReading& reading) {
  Json json = {{"measured_at", reading.measured_at}};
  json.update(read_json(reading.sample));
  return json;
}

Json device_json(const DeviceRates& device) {
  Json matmuls = Json::array();
  for (const MatmulRate& rate : device.matmuls) {
    Json rows = Json::array();
    for (const MatmulRate::Rows& entry : rate.rows) {
      Json row = {{"rows", entry.rows},
                  {"weight_bytes_per_second", entry.weight_bytes_per_second},
                  {"start_seconds", entry.start_seconds},
                  {"output_seconds", entry.output_seconds}};
      if (entry.beside_reads > 0) {
        row["beside_reads"] = {{"weight_bytes_per_second", entry.beside_reads},
                               {"read_share", entry.read_share}};
      }
      rows.push_back(std::move(row));
    }
    matmuls.push_back({{"dtype", format_name(rate.format)}, {"by_rows", rows}});
  }
  Json json = {{"device", device.device},
               {"pinned_to_device_bytes_per_second", device.pinned_to_device},
               {"device_to_pinned_bytes_per_second", device.device_to_pinned},
               {"pageable_to_device_bytes_per_second", device.pageable_to_device},
               {"operation_seconds", device.operation_seconds},
               {"attention_seconds", device.attention_seconds},
               {"score_seconds", device.score_seconds},
               {"value_seconds", device.value_seconds},
               {"gated_seconds", device.gated_seconds},
               {"layer_share", device.layer_share},
               {"matmuls", matmuls}};
  if (const auto& wide = device.wide_memory) {
    json["wide_memory"] = {{"usual_bytes", wide->usual_bytes},
                           {"bytes", wide->bytes},
                           {"more_seconds_per_byte", wide->more_seconds_per_byte}};
  }
  return json;
}

/// Reads values by path, and says which one is wrong.
class Reader {
 public:
  Reader(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {}

  Reader at(const char* key) const {
    const std::string path = where_ + (where_.back() == ':' ? " " : ".") + key;
    if (!json_.is_object() || !json_.contains(key)) throw Error(path + ": missing");
    return {json_.at(key), path};
  }
  std::vector<Reader> list() const {
    if (!json_.is_array()) throw Error(where_ + ": expected a list");
    std::vector<Reader> items;
    for (size_t i = 0; i < json_.size(); ++i) {
      items.emplace_back(json_[i], fmt::format("{}[{}]", where_, i));
    }
    return items;
  }
  std::string text() const {
    if (!json_.is_string()) throw Error(where_ + ": expected a text");
    return json_.get<std::string>();
  }
  bool flag() const {
    if (!json_.is_boolean()) throw Error(where_ + ": expected true or false");
    return json_.get<bool>();
  }
  double number() const {
    if (!json_.is_number() || !(json_.get<double>() >= 0) || json_.get<double>() > 1e18) {
      throw Error(where_ + ": expected a number of 0 or more");
    }
    return json_.get<double>();
  }
  /// Bytes per second, as there are between a bad line and memory inside a chip.
  double rate() const {
    const double value = number();
    if (value < kLeastRate || value > kMostRate) {
      throw Error(fmt::format("{}: expected bytes per second from {:g} to {:g}", where_, kLeastRate,
                              kMostRate));
    }
    return value;
  }
  /// 0 = there is no such way.
  double rate_or_none() const { return number() == 0 ? 0 : rate(); }
  /// Of a whole, and not nothing.
  double share() const {
    if (!(number() >= kLeastShare) || number() > 1) {
      throw Error(fmt::format("{}: expected a number from {} to 1", where_, kLeastShare));
    }
    return number();
  }
  /// How many times as much; 0 = not measured.
  double times() const {
    const double value = number();
    if (value != 0 && (value < 1 || value > 2)) {
      throw Error(where_ + ": expected a number from 1 to 2");
    }
    return value;
  }
  /// Of one operation, which lasts no minute.
  double moment() const {
    if (number() > kMostMomentSeconds) throw Error(where_ + ": expected seconds up to 60");
    return number();
  }
  /// "2026-11-20T14:00:00Z".
  std::string time() const {
    constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
    std::string value = text();
    std::string form = value;
    for (char& c : form) c = c >= '0' && c <= '9' ? '0' : c;
    std::tm time{};
    const char* end =
        form == kForm ? strptime(value.c_str(), "%Y-%m-%dT%H:%M:%SZ", &time) : nullptr;
    if (end == nullptr || *end != '\0') {
      throw Error(where_ + ": expected a time such as 2026-11-20T14:00:00Z");
    }
    return value;
  }
  uint64_t count(uint64_t least, uint64_t most) const {
    const double value = number();
    if (value < static_cast<double>(least) || value > static_cast<double>(most) ||
        value != std::floor(value)) {
      throw Error(fmt::format("{}: expected a whole number from {} to {}", where_, least, most));
    }
    return static_cast<uint64_t>(value);
  }
  [[noreturn]] void fail(const char* why) const { throw Error(where_ + ": " + why); }
  bool has(const char* key) const { return json_.is_object() && json_.contains(key); }
  /// Profiles of before this was measured lack it.
  double moment_or_none(const char* key) const { return has(key) ? at(key).moment() : 0; }

 private:
  const nlohmann::json& json_;
  std::string where_;
};

std::vector<MatmulRate::Rows> parse_rows(const Reader& json) {
  std::vector<MatmulRate::Rows> rows;
  for (const Reader& item : json.list()) {
    rows.push_back({static_cast<uint32_t>(item.at("rows").count(1, 1 << 20)),
                    item.at("weight_bytes_per_second").rate(), item.moment_or_none("start_seconds"),
                    item.moment_or_none("output_seconds"), 0, 0});
    const bool ascending = rows.size() == 1 || rows.back().rows > rows[rows.size() - 2].rows;
    if (!ascending) item.fail("expected ascending rows");
    if (!item.has("beside_reads")) continue;
    const Reader beside = item.at("beside_reads");
    rows.back().beside_reads =
        std::min(beside.at("weight_bytes_per_second").rate(), rows.back().weight_bytes_per_second);
    rows.back().read_share = beside.at("read_share").share();
  }
  if (rows.empty()) json.fail("empty");
  return rows;
}

WideMemory parse_wide_memory(const Reader& json) {
  constexpr uint64_t kMostBytes = uint64_t{1} << 50;
  const uint64_t usual_bytes = json.at("usual_bytes").count(1, kMostBytes);
  const WideMemory wide{usual_bytes, json.at("bytes").count(usual_bytes + 1, 2 * kMostBytes),
                        json.at("more_seconds_per_byte").number()};
  if (wide.more_seconds_per_byte > 1 / kLeastRate) {
    json.fail("expected at most a thousandth of a second per byte");
  }
  return wide;
}

ReadSample parse_read(const Reader& json) {
  ReadSample sample;
  sample.shape.chunk_bytes = json.at("chunk_bytes").count(512, kMostChunkBytes);
  sample.shape.depth = static_cast<uint32_t>(json.at("depth").count(1, kMostDepth));
  sample.shape.huge_pages = json.at("huge_pages").flag();
  sample.bytes_per_second = json.at("bytes_per_second").rate();
  return sample;
}

DeviceRates parse_device(const Reader& json) {
  DeviceRates device;
  device.device = json.at("device").text();
  device.pinned_to_device = json.at("pinned_to_device_bytes_per_second").rate_or_none();
  device.device_to_pinned = json.at("device_to_pinned_bytes_per_second").rate_or_none();
  device.pageable_to_device = json.at("pageable_to_device_bytes_per_second").rate_or_none();
  device.operation_seconds = json.moment_or_none("operation_seconds");
  device.attention_seconds = json.moment_or_none("attention_seconds");
  device.score_seconds = json.moment_or_none("score_seconds");
  device.value_seconds = json.moment_or_none("value_seconds");
  device.gated_seconds = json.moment_or_none("gated_seconds");
  if (json.has("layer_share")) device.layer_share = json.at("layer_share").times();
  if (json.has("wide_memory")) device.wide_memory = parse_wide_memory(json.at("wide_memory"));
  for (const Reader& item : json.at("matmuls").list()) {
    const auto format = parse_format(item.at("dtype").text());
    if (!format) throw Error("matmuls: an unknown dtype " + item.at("dtype").text());
    device.matmuls.push_back({*format, parse_rows(item.at("by_rows"))});
  }
  return device;
}

/// Processes that change profiles in one folder follow each other while they hold this.
FolderLock lock_profiles(const fs::path& folder) {
  FolderLock lock(folder);
  for (int attempt = 0; lock.state() == FolderLock::State::kElsewhere && attempt < kLockAttempts;
       ++attempt) {
    std::this_thread::sleep_for(kLockPause);
    lock.try_again();
  }
  return lock;
}

/// What probe itself measured, as the first reading.
DriveReading own_reading(const HardwareProfile& profile) {
  return {profile.measured_at, engine_reads(profile)[0]};
}

void add_reading(std::vector<DriveReading>& history, const DriveReading& reading) {
  history.push_back(reading);
  if (history.size() <= kMostReadings) return;
  history.erase(history.begin(), history.end() - kMostReadings);
}

/// Of the profile that is replaced; one that cannot be read has none.
std::vector<DriveReading> history_before(const fs::path& file, const HardwareProfile& profile) {
  try {
    const auto before = read_profile(file);
    if (before && before->hardware.drive == profile.hardware.drive) return before->history;
  } catch (const Error&) {
  }
  return {};
}

void put_reading(HardwareProfile& profile, const DriveReading& reading, bool refresh) {
  std::vector<DriveReading>& history = profile.history;
  if (history.empty()) history.push_back(own_reading(profile));
  const bool of_a_run = history.back().measured_at != profile.measured_at;
  if (refresh && of_a_run) history.pop_back();
  add_reading(history, reading);
}

}  // namespace

Json profile_json(const HardwareProfile& profile) {
  Json reads = Json::array();
  for (const ReadSample& sample : profile.reads) reads.push_back(read_json(sample));
  Json devices = Json::array();
  for (const DeviceRates& device : profile.devices) devices.push_back(device_json(device));
  Json drive = {
      {"file_system", profile.file_system}, {"engine", profile.read_engine}, {"reads", reads}};
  if (profile.sustained_bytes_per_second) {
    drive["sustained_bytes_per_second"] = *profile.sustained_bytes_per_second;
  }
  if (!profile.history.empty()) {
    drive["history"] = Json::array();
    for (const DriveReading& reading : profile.history) {
      drive["history"].push_back(reading_json(reading));
    }
  }
  return {{"version", kVersion},
          {"measured_at", profile.measured_at},
          {"hardware",
           {{"drive", profile.hardware.drive},
            {"cpu", profile.hardware.cpu},
            {"cores", profile.hardware.cores},
            {"gpu", profile.hardware.gpu}}},
          {"drive", drive},
          {"memory_bytes_per_second", profile.memory_bytes_per_second},
          {"devices", devices}};
}

HardwareProfile parse_profile(const nlohmann::json& json, const std::string& where) {
  const Reader root(json, where + ":");
  if (root.at("version").count(0, 1u << 30) != kVersion) {
    throw Error(where + ": written by another version; run spillway probe again");
  }
  HardwareProfile profile;
  profile.measured_at = root.at("measured_at").time();
  const Reader hardware = root.at("hardware");
  profile.hardware = {hardware.at("drive").text(), hardware.at("cpu").text(),
                      static_cast<uint32_t>(hardware.at("cores").count(0, 1 << 20)),
                      hardware.at("gpu").text()};
  const Reader drive = root.at("drive");
  profile.file_system = drive.at("file_system").text();
  // Older profiles do not say: they could be measured with io_uring only.
  profile.read_engine = drive.has("engine") ? drive.at("engine").text() : "io_uring";
  for (const Reader& item : drive.at("reads").list()) profile.reads.push_back(parse_read(item));
  if (profile.reads.empty()) throw Error(where + ": drive.reads: empty");
  if (drive.has("history")) {
    for (const Reader& item : drive.at("history").list()) {
      profile.history.push_back({item.at("measured_at").time(), parse_read(item)});
    }
  }
  if (drive.has("sustained_bytes_per_second")) {
    profile.sustained_bytes_per_second = drive.at("sustained_bytes_per_second").rate();
  }
  profile.memory_bytes_per_second = root.at("memory_bytes_per_second").rate_or_none();
  for (const Reader& item : root.at("devices").list()) {
    profile.devices.push_back(parse_device(item));
  }
  return profile;
}

OutputFile open_profile(const fs::path& file, bool own_place, FilesInUse& in_use) {
  std::error_code ignored;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), ignored);
  const bool ours = own_place && !fs::is_symlink(file, ignored);  // behind a link may be anything
  const std::string begins = ours ? "" : R"({"version":*,"measured_at":)";
  try {
    return OutputFile(file, {"profile", begins}, in_use);
  } catch (const Error& error) {
    throw Error(fmt::format("{}; --out FILE writes it elsewhere", error.what()));
  }
}

void write_profile(OutputFile& file, HardwareProfile profile) {
  const FolderLock lock =
      lock_profiles(file.path().parent_path());  // a run's reading is lost at worst without it
  profile.history = history_before(file.path(), profile);
  add_reading(profile.history, own_reading(profile));
  file.write(profile_json(profile).dump(1) + "\n");
}

std::string keep_reading(const fs::path& file, const std::string& of, const DriveReading& reading,
                         bool refresh) {
  try {
    if (access(file.parent_path().c_str(), W_OK) != 0) return errno_text(errno);
    const FolderLock lock = lock_profiles(file.parent_path());
    // Where there are no locks at all (NFS wants a file opened for writing), a reading of two that
    // are kept at the same time is lost.
    if (lock.state() == FolderLock::State::kElsewhere) return "another process keeps its folder";
    auto profile = read_profile(file);
    if (!profile || profile->measured_at != of) return "it was measured anew";
    put_reading(*profile, reading, refresh);
    FilesInUse in_use;
    OutputFile output = open_profile(file, true, in_use);
    output.write(profile_json(*profile).dump(1) + "\n");
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

std::vector<ReadSample> engine_reads(const HardwareProfile& profile) {
  const auto huge = [](const ReadSample& sample) { return sample.shape.huge_pages; };
  const bool any = std::any_of(profile.reads.begin(), profile.reads.end(), huge);
  std::vector<ReadSample> reads;
  for (const ReadSample& sample : profile.reads) {
    if (huge(sample) == any) reads.push_back(sample);
  }
  return reads;
}

ReadShape usual_reads(const std::vector<ReadSample>& reads) {
  for (const ReadSample& sample : reads) {
    const ReadShape& shape = sample.shape;
    if (shape.chunk_bytes == kUsualChunkBytes && shape.depth == kUsualDepth) return shape;
  }
  return reads[0].shape;
}

std::optional<HardwareProfile> read_profile(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error) && !error) return std::nullopt;
  const TextFile wanted{"a hardware profile (spillway probe)", kMaxProfileBytes, FileKind::kPlain};
  const auto json = nlohmann::json::parse(read_text_file(file, wanted), nullptr, false);
  if (json.is_discarded()) {
    throw Error(fmt::format("{}: not JSON; run spillway probe again", file.string()));
  }
  try {
    return parse_profile(json, file.string());
  } catch (const Error& wrong) {
    const std::string what = wrong.what();
    const bool advised = what.find("spillway probe") != std::string::npos;
    throw Error(advised ? what : what + "; run spillway probe again");
  }
}

}  // namespace spillway
