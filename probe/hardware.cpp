#include "probe/hardware.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// First line of a file without the blanks around it; empty when there is none.
std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  return line.substr(begin, line.find_last_not_of(" \t") - begin + 1);
}

}  // namespace

std::string cpu_name(const fs::path& root) {
  std::ifstream in(root / "proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(std::min(colon + 2, line.size()));
    }
  }
  return "unknown CPU";
}

std::string drive_name(const fs::path& path, const fs::path& root) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return "unknown drive";
  const std::string number = fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
  const fs::path device = root / "sys/dev/block" / number;
  // A partition lies inside of its drive's folder.
  for (const fs::path& candidate : {device, device / ".."}) {
    const std::string model = first_line(candidate / "device/model");
    const std::string sectors = first_line(candidate / "size");
    if (!model.empty()) return fmt::format("{}, {} sectors", model, sectors);
  }
  const std::string sectors = first_line(device / "size");
  return sectors.empty() ? "device " + number
                         : fmt::format("device {}, {} sectors", number, sectors);
}

std::string hardware_key(const Hardware& hardware) {
  const std::string text = fmt::format("{}\n{}\n{}", hardware.drive, hardware.cpu, hardware.cores);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

}  // namespace spillway
