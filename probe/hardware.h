// Which machine this is: what a profile is kept for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace spillway {

struct Hardware {
  std::string drive;  ///< model and size of the drive under a path, or its device number
  std::string cpu;    ///< model name
  uint32_t cores = 0;
  std::string gpu;  ///< empty on the host
  bool operator==(const Hardware&) const = default;
};

/// As the system names them; a profile is kept under these, so they stay as they are. Reads /proc
/// and /sys under `root` ("/" in production).
std::string cpu_name(const std::filesystem::path& root = "/");
std::string drive_name(const std::filesystem::path& path, const std::filesystem::path& root = "/");

/// As people know them, for reading only: "Intel Xeon Platinum 8370C" of what cpu_name() gives;
/// "NVMe Samsung 990 PRO 2TB", "virtio disk vda, 275 GB", "LVM on ..." of the drive under a path.
std::string known_cpu_name(const std::string& name);
std::string known_drive_name(const std::filesystem::path& path,
                             const std::filesystem::path& root = "/");

/// Sixteen hex digits for drive, CPU and cores: part of a file name. Not for the GPU, which would
/// have to be opened to know; the profile itself names it.
std::string hardware_key(const Hardware& hardware);

}  // namespace spillway
