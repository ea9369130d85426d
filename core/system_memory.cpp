#include "core/system_memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMountV1 = "sys/fs/cgroup/memory";
constexpr const char* kMountV2 = "sys/fs/cgroup";

/// Value of a "Key:   123 kB" line, in bytes.
uint64_t field_kb(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind(key, 0) == 0) {
      return std::strtoull(line.c_str() + key.size(), nullptr, 10) * kKiB;
    }
  }
  return 0;
}

/// A number in a control-group file; empty for "max", absent files and v1's "no limit".
std::optional<uint64_t> cgroup_number(const fs::path& file) {
  std::ifstream in(file);
  std::string text;
  if (!(in >> text) || text == "max") return std::nullopt;
  const uint64_t value = std::strtoull(text.c_str(), nullptr, 10);
  if (value >= (uint64_t{1} << 60)) return std::nullopt;
  return value;
}

struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* stat_inactive;  // reclaimable page cache, counted as usage by the kernel
};

std::optional<uint64_t> room_below(fs::path directory, const fs::path& stop,
                                   const CgroupFiles& files) {
  std::optional<uint64_t> room;
  while (true) {
    const auto limit = cgroup_number(directory / files.limit);
    if (limit) {
      const uint64_t usage = cgroup_number(directory / files.usage).value_or(0);
      std::ifstream stat(directory / "memory.stat");
      std::string key;
      uint64_t value = 0;
      uint64_t cache = 0;
      while (stat >> key >> value) {
        if (key == files.stat_inactive) cache = value;
      }
      const uint64_t used = usage > cache ? usage - cache : 0;
      const uint64_t here = *limit > used ? *limit - used : 0;
      room = std::min(room.value_or(here), here);
    }
    if (directory == stop || !directory.has_relative_path()) break;
    directory = directory.parent_path();
  }
  return room;
}

}  // namespace

MemoryGroups own_memory_groups(const fs::path& root) {
  MemoryGroups own;
  std::ifstream groups(root / "proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "4:memory:/path" (v1) or "0::/path" (v2)
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(std::min(second + 2, line.size()));
    const auto below = [&](const fs::path& mount) { return path.empty() ? mount : mount / path; };
    if (controllers.empty()) {
      own.v2 = below(root / kMountV2);
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      own.v1 = below(root / kMountV1);
    }
  }
  return own;
}

SystemMemory read_system_memory(const fs::path& root) {
  SystemMemory memory;
  memory.available_bytes = field_kb(root / "proc/meminfo", "MemAvailable:");
  const MemoryGroups own = own_memory_groups(root);
  const auto bound = [&](const fs::path& group, const fs::path& mount, const CgroupFiles& files) {
    if (group.empty()) return;
    const auto room = room_below(group, mount, files);
    if (room) memory.cgroup_room_bytes = std::min(memory.cgroup_room_bytes.value_or(*room), *room);
  };
  bound(own.v2, root / kMountV2, {"memory.max", "memory.current", "inactive_file"});
  bound(own.v1, root / kMountV1,
        {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"});
  return memory;
}

uint64_t automatic_ram_budget(const SystemMemory& memory) {
  const uint64_t room =
      std::min(memory.available_bytes, memory.cgroup_room_bytes.value_or(memory.available_bytes));
  const uint64_t reserve = std::max(512 * kMiB, room / 10);
  return room > reserve ? room - reserve : 0;
}

ProcessMemory read_process_memory() {
  ProcessMemory memory;
  memory.rss_bytes = field_kb("/proc/self/status", "VmRSS:");
  memory.peak_rss_bytes = field_kb("/proc/self/status", "VmHWM:");
  memory.huge_page_bytes = field_kb("/proc/self/smaps_rollup", "AnonHugePages:");
  return memory;
}

uint64_t process_read_bytes() {
  std::ifstream in("/proc/self/io");
  std::string key;
  uint64_t value = 0;
  while (in >> key >> value) {
    if (key == "read_bytes:") return value;
  }
  return 0;
}

uint64_t heap_in_use_bytes() {
  malloc_trim(0);
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace spillway
