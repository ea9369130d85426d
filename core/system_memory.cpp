#include "core/system_memory.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGroupMount = "sys/fs/cgroup";  // of version 2; above those of version 1

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

struct GroupFiles {
  std::vector<const char*> limits;
  const char* usage;
  const char* stat_inactive;  // reclaimable page cache, counted as usage by the kernel
};

/// What a group uses and cannot give back.
uint64_t used_bytes(const fs::path& group, const GroupFiles& files) {
  std::ifstream stat(group / "memory.stat");
  std::string key;
  uint64_t value = 0;
  uint64_t cache = 0;
  while (stat >> key >> value) {
    if (key == files.stat_inactive) cache = value;
  }
  const uint64_t usage = cgroup_number(group / files.usage).value_or(0);
  return usage - std::min(usage, cache);
}

/// Takes the limits of a group and of those above it into account.
void bound(SystemMemory& memory, const OwnGroup& own, const GroupFiles& files) {
  for_each_group(own, [&](const fs::path& group) {
    for (const char* name : files.limits) {
      const auto limit = cgroup_number(group / name);
      if (!limit) continue;
      const uint64_t used = std::min(*limit, used_bytes(group, files));
      const GroupLimit here{group / name, *limit, *limit - used};
      auto& smallest = memory.least_limit;
      if (!smallest || here.limit_bytes < smallest->limit_bytes) smallest = here;
      auto& fullest = memory.least_room;
      if (!fullest || here.room_bytes < fullest->room_bytes) fullest = here;
    }
  });
}

}  // namespace

std::vector<OwnGroup> own_groups(const std::string& controller, const fs::path& root) {
  std::vector<OwnGroup> own;
  std::ifstream groups(root / "proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "4:memory:/path" (v1) or "0::/path" (v2)
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(std::min(second + 2, line.size()));
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find("," + controller + ",") == std::string::npos)
      continue;
    const fs::path mount = v2 ? root / kGroupMount : root / kGroupMount / controller;
    own.push_back({path.empty() ? mount : mount / path, mount, v2});
  }
  return own;
}

void for_each_group(const OwnGroup& own, const std::function<void(const fs::path&)>& visit) {
  for (fs::path group = own.group;; group = group.parent_path()) {
    visit(group);
    if (group == own.mount || !group.has_relative_path()) return;
  }
}

SystemMemory read_system_memory(const fs::path& root) {
  SystemMemory memory;
  memory.total_bytes = field_kb(root / "proc/meminfo", "MemTotal:");
  memory.available_bytes = field_kb(root / "proc/meminfo", "MemAvailable:");
  // Above memory.high the kernel slows a group down until it stands still.
  const GroupFiles v2{{"memory.max", "memory.high"}, "memory.current", "inactive_file"};
  const GroupFiles v1{{"memory.limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file"};
  for (const OwnGroup& own : own_groups("memory", root)) bound(memory, own, own.v2 ? v2 : v1);
  return memory;
}

uint64_t automatic_ram_budget(const SystemMemory& memory) {
  const uint64_t room = memory.least_room
                            ? std::min(memory.available_bytes, memory.least_room->room_bytes)
                            : memory.available_bytes;
  return room - std::min(std::max(512 * kMiB, room / 10), room / 4);
}

std::string automatic_ram_source(const SystemMemory& memory) {
  const auto& group = memory.least_room;
  if (group && group->room_bytes < memory.available_bytes) {
    return fmt::format("{} allows {}, of which {} are free", group->file.string(),
                       format_bytes(group->limit_bytes), format_bytes(group->room_bytes));
  }
  return fmt::format("of {}, {} are available", format_bytes(memory.total_bytes),
                     format_bytes(memory.available_bytes));
}

std::string beyond_the_machine(uint64_t ram_bytes, const SystemMemory& memory) {
  const auto& group = memory.least_limit;
  if (group && ram_bytes > group->limit_bytes) {
    return fmt::format(
        "memory.ram of {} is more than the {} that {} allows; lower it, use auto, or "
        "raise that limit",
        format_bytes(ram_bytes), format_bytes(group->limit_bytes), group->file.string());
  }
  if (memory.total_bytes > 0 && ram_bytes > memory.total_bytes) {
    return fmt::format(
        "memory.ram of {} is more than the {} that this machine has ({} available now); lower it, "
        "or use auto",
        format_bytes(ram_bytes), format_bytes(memory.total_bytes),
        format_bytes(memory.available_bytes));
  }
  return "";
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
