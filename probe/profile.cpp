#include "probe/profile.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/read_file.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kVersion = 2;
constexpr uint64_t kMaxProfileBytes = 16 * kMiB;

Json read_json(const ReadSample& sample) {
  return {{"chunk_bytes", sample.shape.chunk_bytes},
          {"depth", sample.shape.depth},
          {"huge_pages", sample.shape.huge_pages},
          {"bytes_per_second", sample.bytes_per_second}};
}

Json device_json(const DeviceRates& device) {
  Json matmuls = Json::array();
  for (const MatmulRate& rate : device.matmuls) {
    Json rows = Json::array();
    for (const MatmulRate::Rows& entry : rate.rows) {
      rows.push_back(
          {{"rows", entry.rows}, {"weight_bytes_per_second", entry.weight_bytes_per_second}});
    }
    matmuls.push_back({{"dtype", dtype_name(rate.dtype)}, {"by_rows", rows}});
  }
  return {{"device", device.device},
          {"pinned_to_device_bytes_per_second", device.pinned_to_device},
          {"device_to_pinned_bytes_per_second", device.device_to_pinned},
          {"pageable_to_device_bytes_per_second", device.pageable_to_device},
          {"matmuls", matmuls}};
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
  uint64_t count(uint64_t most) const {
    const double value = number();
    if (value > static_cast<double>(most)) throw Error(fmt::format("{}: too large", where_));
    return static_cast<uint64_t>(value);
  }
  [[noreturn]] void fail(const char* why) const { throw Error(where_ + ": " + why); }
  bool has(const char* key) const { return json_.is_object() && json_.contains(key); }

 private:
  const nlohmann::json& json_;
  std::string where_;
};

std::vector<MatmulRate::Rows> parse_rows(const Reader& json) {
  std::vector<MatmulRate::Rows> rows;
  for (const Reader& item : json.list()) {
    rows.push_back({static_cast<uint32_t>(item.at("rows").count(1 << 20)),
                    item.at("weight_bytes_per_second").number()});
    const bool ascending = rows.size() == 1 || rows.back().rows > rows[rows.size() - 2].rows;
    if (!ascending || rows[0].rows == 0 || !(rows.back().weight_bytes_per_second > 0)) {
      item.fail("expected ascending rows and rates above 0");
    }
  }
  if (rows.empty()) json.fail("empty");
  return rows;
}

DeviceRates parse_device(const Reader& json) {
  DeviceRates device;
  device.device = json.at("device").text();
  device.pinned_to_device = json.at("pinned_to_device_bytes_per_second").number();
  device.device_to_pinned = json.at("device_to_pinned_bytes_per_second").number();
  device.pageable_to_device = json.at("pageable_to_device_bytes_per_second").number();
  for (const Reader& item : json.at("matmuls").list()) {
    const auto dtype = parse_dtype(item.at("dtype").text());
    if (!dtype) throw Error("matmuls: an unknown dtype " + item.at("dtype").text());
    device.matmuls.push_back({*dtype, parse_rows(item.at("by_rows"))});
  }
  return device;
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
  if (root.at("version").count(1u << 30) != kVersion) {
    throw Error(where + ": written by another version; run spillway probe again");
  }
  HardwareProfile profile;
  profile.measured_at = root.at("measured_at").text();
  const Reader hardware = root.at("hardware");
  profile.hardware = {hardware.at("drive").text(), hardware.at("cpu").text(),
                      static_cast<uint32_t>(hardware.at("cores").count(1 << 20)),
                      hardware.at("gpu").text()};
  const Reader drive = root.at("drive");
  profile.file_system = drive.at("file_system").text();
  // Older profiles do not say: they could be measured with io_uring only.
  profile.read_engine = drive.has("engine") ? drive.at("engine").text() : "io_uring";
  for (const Reader& item : drive.at("reads").list()) {
    profile.reads.push_back(
        {{item.at("chunk_bytes").count(uint64_t{1} << 40),
          static_cast<uint32_t>(item.at("depth").count(1 << 20)), item.at("huge_pages").flag()},
         item.at("bytes_per_second").number()});
    if (!(profile.reads.back().bytes_per_second > 0)) item.fail("expected a rate above 0");
  }
  if (profile.reads.empty()) throw Error(where + ": drive.reads: empty");
  if (drive.has("sustained_bytes_per_second")) {
    profile.sustained_bytes_per_second = drive.at("sustained_bytes_per_second").number();
  }
  profile.memory_bytes_per_second = root.at("memory_bytes_per_second").number();
  for (const Reader& item : root.at("devices").list()) {
    profile.devices.push_back(parse_device(item));
  }
  return profile;
}

OutputFile open_profile(const fs::path& file, bool own_place, FilesInUse& in_use) {
  std::error_code ignored;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), ignored);
  const std::string begins = own_place ? "" : R"({"version":*,"measured_at":)";
  try {
    return OutputFile(file, {"profile", begins}, in_use);
  } catch (const Error& error) {
    throw Error(fmt::format("{}; --out FILE writes it elsewhere", error.what()));
  }
}

void write_profile(OutputFile& file, const HardwareProfile& profile) {
  file.write(profile_json(profile).dump(1) + "\n");
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
