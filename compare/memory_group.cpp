#include "compare/memory_group.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/system_memory.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// False with errno set when the kernel refuses.
bool write_value(const fs::path& file, const std::string& value) {
  errno = 0;
  std::ofstream out(file);
  out << value;
  out.close();
  return static_cast<bool>(out);
}

bool lists_memory(const fs::path& file) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    if (word == "memory") return true;
  }
  return false;
}

/// The kernel may hold a group for a moment after its last process ended.
void remove_group(const fs::path& group) {
  constexpr int kAttempts = 50;
  constexpr auto kPause = std::chrono::milliseconds(10);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (rmdir(group.c_str()) == 0 || errno != EBUSY) return;
    std::this_thread::sleep_for(kPause);
  }
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(fmt::format(
      "no memory control group can be made ({}); run as root, or as systemd-run --user --scope -p "
      "Delegate=yes spillway bench ...",
      what));
}

}  // namespace

MemoryGroup::MemoryGroup(const fs::path& root) {
  const MemoryGroups own = own_memory_groups(root);
  if (!own.v1.empty()) {
    make_v1(own.v1);
  } else if (!own.v2.empty()) {
    make_v2(own.v2);
  } else {
    refuse("/proc/self/cgroup names none");
  }
}

void MemoryGroup::make_v1(const fs::path& parent) {
  group_ = parent / fmt::format("spillway-bench-{}", getpid());
  procs_ = group_ / "cgroup.procs";
  std::error_code error;
  if (!fs::create_directory(group_, error) && error) {
    refuse(fmt::format("{}: {}", group_.string(), error.message()));
  }
}

/// Version 2 lets no group with processes in it have limited children, so that this process steps
/// aside, into a child of its own.
void MemoryGroup::make_v2(const fs::path& parent) {
  v2_ = true;
  const std::string self = std::to_string(getpid());
  if (!lists_memory(parent / "cgroup.controllers")) {
    refuse(parent.string() + ": the memory controller is not delegated");
  }
  std::error_code error;
  if (!lists_memory(parent / "cgroup.subtree_control")) {
    aside_ = parent / ("spillway-bench-self-" + self);
    if (!fs::create_directory(aside_, error) && error) refuse(error.message());
    parent_ = parent;
    if (!write_value(aside_ / "cgroup.procs", self) ||
        !write_value(parent / "cgroup.subtree_control", "+memory")) {
      const std::string cause = errno_text(errno);
      write_value(parent / "cgroup.procs", self);
      fs::remove(aside_, error);
      refuse(fmt::format("{}: {}", parent.string(), cause));
    }
  }
  group_ = parent / ("spillway-bench-" + self);
  procs_ = group_ / "cgroup.procs";
  if (!fs::create_directory(group_, error) && error) {
    refuse(fmt::format("{}: {}", group_.string(), error.message()));
  }
}

void MemoryGroup::limit(uint64_t bytes) {
  const std::string value = std::to_string(bytes);
  bool set = false;
  if (v2_) {
    write_value(group_ / "memory.reclaim", value);  // newer kernels; without it the limit does
    set = write_value(group_ / "memory.max", value);
    write_value(group_ / "memory.swap.max", "0");
  } else {
    write_value(group_ / "memory.force_empty", "0");
    write_value(group_ / "memory.swappiness", "0");
    set = write_value(group_ / "memory.limit_in_bytes", value);
  }
  if (!set) refuse(fmt::format("{}: {}", group_.string(), errno_text(errno)));
}

MemoryGroup::~MemoryGroup() {
  if (!v2_) write_value(group_ / "memory.force_empty", "0");
  remove_group(group_);
  if (aside_.empty()) return;
  write_value(parent_ / "cgroup.subtree_control", "-memory");
  write_value(parent_ / "cgroup.procs", std::to_string(getpid()));
  remove_group(aside_);
}

}  // namespace spillway
