#include "compare/memory_group.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
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

// Delegates, so that the destructor steps back where a later step is refused.
MemoryGroup::MemoryGroup(const fs::path& root) : MemoryGroup() {
  const std::vector<OwnGroup> own = own_groups("memory", root);
  if (own.empty()) refuse("/proc/self/cgroup names none");
  const auto v1 = std::find_if(own.begin(), own.end(), [](const OwnGroup& g) { return !g.v2; });
  if (v1 != own.end()) {
    make_v1(v1->group);
  } else {
    make_v2(own.back().group);
  }
}

void MemoryGroup::make_v1(const fs::path& parent) {
  make_group(parent);
}

void MemoryGroup::make_group(const fs::path& parent) {
  const fs::path group = parent / fmt::format("spillway-bench-{}", getpid());
  std::error_code error;
  if (!fs::create_directory(group, error) && error) {
    refuse(fmt::format("{}: {}", group.string(), error.message()));
  }
  group_ = group;
  procs_ = group_ / "cgroup.procs";
}

/// Version 2 lets no group with processes in it have limited children, so that this process steps
/// aside, into a child of its own.
void MemoryGroup::make_v2(const fs::path& parent) {
  v2_ = true;
  if (!lists_memory(parent / "cgroup.controllers")) {
    refuse(parent.string() + ": the memory controller is not delegated");
  }
  if (!lists_memory(parent / "cgroup.subtree_control")) step_aside(parent);
  make_group(parent);
}

void MemoryGroup::step_aside(const fs::path& parent) {
  const std::string self = std::to_string(getpid());
  const fs::path aside = parent / ("spillway-bench-self-" + self);
  std::error_code error;
  if (!fs::create_directory(aside, error) && error) refuse(error.message());
  parent_ = parent;
  aside_ = aside;
  if (!write_value(aside_ / "cgroup.procs", self) ||
      !write_value(parent / "cgroup.subtree_control", "+memory")) {
    refuse(fmt::format("{}: {}", parent.string(), errno_text(errno)));
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
  if (!group_.empty()) {
    if (!v2_) write_value(group_ / "memory.force_empty", "0");
    remove_group(group_);
  }
  if (aside_.empty()) return;
  write_value(parent_ / "cgroup.subtree_control", "-memory");
  write_value(parent_ / "cgroup.procs", std::to_string(getpid()));
  remove_group(aside_);
}

}  // namespace spillway
