// What memory this machine, its control group and this process really have.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace spillway {

/// A limit of a control group.
struct GroupLimit {
  std::filesystem::path file;  ///< memory.max, memory.high or memory.limit_in_bytes
  uint64_t limit_bytes = 0;
  uint64_t room_bytes = 0;  ///< less what is in use and cannot be reclaimed
};

struct SystemMemory {
  uint64_t total_bytes = 0;               ///< MemTotal of the machine
  uint64_t available_bytes = 0;           ///< MemAvailable
  std::optional<GroupLimit> least_limit;  ///< the smallest on the way to the root
  std::optional<GroupLimit> least_room;   ///< the one that leaves least
};

/// A control group of this process, and where its hierarchy is mounted.
struct OwnGroup {
  std::filesystem::path group;
  std::filesystem::path mount;
  bool v2 = false;
};
/// Of version 2 and of a version 1 controller ("memory"), as far as there are any.
std::vector<OwnGroup> own_groups(const std::string& controller,
                                 const std::filesystem::path& root = "/");
/// visit(folder) for a group and for those above it, up to the mount.
void for_each_group(const OwnGroup& own,
                    const std::function<void(const std::filesystem::path&)>& visit);

/// Reads /proc and the control groups (v1 and v2) of this process under `root` ("/" in production).
SystemMemory read_system_memory(const std::filesystem::path& root = "/");

/// What `memory.ram: auto` takes: the smaller of both, less a reserve of max(512 MiB, 10 %); where
/// there is little, of a quarter.
uint64_t automatic_ram_budget(const SystemMemory& memory);
/// For messages: what that was taken from.
std::string automatic_ram_source(const SystemMemory& memory);
/// Why a budget is more than this machine, or a control group, can ever give; empty when it is not.
/// What others use at the moment does not count: page cache goes away.
std::string beyond_the_machine(uint64_t ram_bytes, const SystemMemory& memory);

struct ProcessMemory {
  uint64_t rss_bytes = 0;
  uint64_t peak_rss_bytes = 0;
  uint64_t huge_page_bytes = 0;  ///< anonymous memory that huge pages really back
};
ProcessMemory read_process_memory();

/// What the system fetched from storage for this process so far, read-ahead included; 0 where it
/// does not count.
uint64_t process_read_bytes();

/// Heap in use now; frees what the allocator merely keeps. Counts metadata and tokenizer tables.
uint64_t heap_in_use_bytes();

}  // namespace spillway
