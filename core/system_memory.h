// What memory this machine, its control group and this process really have.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace spillway {

struct SystemMemory {
  uint64_t available_bytes = 0;               ///< MemAvailable of the machine
  std::optional<uint64_t> cgroup_room_bytes;  ///< smallest limit less usage on the way to the root
};

/// Folders of this process's own control groups; empty where there is none.
struct MemoryGroups {
  std::filesystem::path v1;  ///< of the memory controller
  std::filesystem::path v2;
};
MemoryGroups own_memory_groups(const std::filesystem::path& root = "/");

/// Reads /proc and the control groups (v1 and v2) of this process under `root` ("/" in production).
SystemMemory read_system_memory(const std::filesystem::path& root = "/");

/// What `memory.ram: auto` takes: the smaller of both, less a reserve of max(512 MiB, 10 %).
uint64_t automatic_ram_budget(const SystemMemory& memory);

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
