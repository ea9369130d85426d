#include "probe/hardware.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

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

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string joined(const std::vector<std::string>& words, const char* between = " ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

/// A mark glued to the next letters parts them: "Core(TM)2 Duo".
void drop_mark(std::string& text, const std::string& mark) {
  for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
    const size_t next = at + mark.size();
    const bool parts = next < text.size() && text[next] != '-';
    text.replace(at, mark.size(), parts ? " " : "");
  }
}

bool counts_cores(const std::string& word) {
  return word.ends_with("-Core") || word.ends_with("-Cores");
}

/// "275 GB", "2 TB": as drives are sold.
std::string sold_size(uint64_t bytes) {
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  if (gigabytes < 10) return fmt::format("{:.1f} GB", gigabytes);
  if (gigabytes < 1000) return fmt::format("{:.0f} GB", gigabytes);
  return fmt::format("{:.3g} TB", gigabytes / 1000);
}

/// With the size behind it, where the model's own words do not hold one ("2TB", "500G").
std::string with_size(std::string name, const fs::path& device) {
  for (const std::string& word : words_of(name)) {
    const std::string digits = word.substr(0, word.find_first_not_of("0123456789."));
    const std::string unit = word.substr(digits.size());
    if (!digits.empty() && (unit == "GB" || unit == "TB" || unit == "G" || unit == "T")) {
      return name;
    }
  }
  uint64_t sectors = 0;
  const std::string text = first_line(device / "size");
  std::from_chars(text.data(), text.data() + text.size(), sectors);
  return sectors == 0 ? name : fmt::format("{}, {}", name, sold_size(sectors * 512));
}

/// Empty where the vendor makes real drives.
std::string hypervisor_of(const std::string& vendor_and_model) {
  constexpr std::array<std::pair<const char*, const char*>, 6> kHypervisors{{{"QEMU", "QEMU"},
                                                                             {"VBOX", "VirtualBox"},
                                                                             {"VMware", "VMware"},
                                                                             {"Msft", "Hyper-V"},
                                                                             {"Google", "Google"},
                                                                             {"Xen", "Xen"}}};
  for (const auto& [mark, name] : kHypervisors) {
    if (vendor_and_model.find(mark) != std::string::npos) return name;
  }
  return "";
}

std::string nvme_name(const fs::path& device) {
  std::vector<std::string> words = words_of(first_line(device / "device/model"));
  std::erase_if(words, [](const std::string& word) { return word == "SSD" || word == "NVMe"; });
  words.insert(words.begin(), "NVMe");
  return joined(words);
}

std::string scsi_name(const fs::path& device, const std::string& name) {
  const std::string vendor = first_line(device / "device/vendor");
  const std::string model = joined(words_of(first_line(device / "device/model")));
  const std::string both = joined(words_of(vendor + " " + model));
  const std::string hypervisor = hypervisor_of(both);
  if (!hypervisor.empty()) return fmt::format("{} disk {}", hypervisor, name);
  if (vendor == "ATA") return "SATA " + model;
  return both.empty() ? "disk " + name : both;
}

/// Disks that have no model of their own, by how their names begin.
std::string plain_name(const std::string& name) {
  constexpr std::array<std::pair<const char*, const char*>, 7> kKinds{
      {{"vd", "virtio disk"},
       {"xvd", "Xen disk"},
       {"nbd", "network disk"},
       {"rbd", "Ceph disk"},
       {"loop", "loop device"},
       {"zram", "compressed memory"},
       {"mmcblk", "memory card"}}};
  for (const auto& [prefix, kind] : kKinds) {
    if (name.rfind(prefix, 0) == 0) return fmt::format("{} {}", kind, name);
  }
  return "disk " + name;
}

constexpr int kMostLayers = 8;  // of devices on devices

std::string disk_name(const fs::path& device, int layers);

/// What maps onto other devices: encryption, volumes, arrays. Empty for a disk.
std::string stacked_name(const fs::path& device, int layers) {
  std::vector<std::string> below;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(device / "slaves", error)) {
    const fs::path target = fs::canonical(entry.path(), error);
    if (error || layers >= kMostLayers) continue;
    const std::string name = disk_name(target, layers + 1);
    if (std::find(below.begin(), below.end(), name) == below.end()) below.push_back(name);
  }
  if (below.empty()) return "";
  std::sort(below.begin(), below.end());
  const std::string level = first_line(device / "md/level");
  const std::string kind = first_line(device / "dm/uuid");
  const std::string on = !level.empty()                ? level + " of "
                         : kind.rfind("CRYPT", 0) == 0 ? "encrypted "
                         : kind.rfind("LVM", 0) == 0   ? "LVM on "
                                                       : "mapped to ";
  return on + joined(below, " and ");
}

/// `device`: its folder in sysfs, links followed. A partition lies inside of its drive's.
std::string disk_name(const fs::path& device, int layers) {
  std::error_code error;
  if (fs::exists(device / "partition", error)) return disk_name(device.parent_path(), layers);
  const std::string stacked = stacked_name(device, layers);
  if (!stacked.empty()) return stacked;
  const std::string name = device.filename().string();
  const bool has_model = !first_line(device / "device/model").empty();
  if (!has_model) return with_size(plain_name(name), device);
  return with_size(name.rfind("nvme", 0) == 0 ? nvme_name(device) : scsi_name(device, name),
                   device);
}

/// A field of mountinfo: blanks are octal there.
std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(digits, digits + 3, code, 8).ptr == digits + 3) {
      out += static_cast<char>(code);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool lies_under(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

/// What is mounted where a path lies: "/dev/nvme0n1p2", "server:/models", "tmpfs".
std::string mount_source(const fs::path& path, const fs::path& root) {
  std::error_code error;
  const fs::path whole = fs::canonical(path, error);
  std::ifstream in(root / "proc/self/mountinfo");
  std::string source;
  size_t longest = 0;
  for (std::string line; !error && std::getline(in, line);) {
    const std::vector<std::string> words = words_of(line);
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 5 || words.end() - dash < 3) continue;
    const std::string point = unescaped(words[4]);
    // A later mount lies over an earlier one.
    if (point.size() < longest || !lies_under(whole, point)) continue;
    longest = point.size();
    source = unescaped(*(dash + 2));
  }
  return source;
}

/// File systems with no device of their own: btrfs, network, memory.
std::string mounted_name(const fs::path& path, const fs::path& root) {
  const std::string source = mount_source(path, root);
  if (source == "tmpfs") return "memory";
  std::error_code error;
  if (source.rfind("/dev/", 0) == 0) {
    const fs::path node = fs::canonical(root / source.substr(1), error);
    const std::string name = error ? fs::path(source).filename() : node.filename();
    const fs::path device = fs::canonical(root / "sys/class/block" / name, error);
    if (!error) return disk_name(device, 0);
  }
  return source.find_first_of("/:") == std::string::npos ? "unknown drive" : source;
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

std::string known_cpu_name(const std::string& name) {
  std::string text = name.substr(0, name.find('@'));
  const bool marked = text.find("(R)") != std::string::npos;
  for (const char* mark : {"(R)", "(r)", "(TM)", "(tm)"}) drop_mark(text, mark);
  std::vector<std::string> words = words_of(text);
  // "with Radeon Graphics"
  words.erase(std::find(words.begin(), words.end(), "with"), words.end());
  std::erase_if(words, [&](const std::string& word) {
    return counts_cores(word) || (marked && word == "CPU");
  });
  if (words.size() > 1 && words.back() == "Processor") words.pop_back();
  return words.empty() ? name : joined(words);
}

std::string known_drive_name(const fs::path& path, const fs::path& root) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return "unknown drive";
  const std::string number = fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
  std::error_code error;
  const fs::path device = fs::canonical(root / "sys/dev/block" / number, error);
  return error ? mounted_name(path, root) : disk_name(device, 0);
}

std::string hardware_key(const Hardware& hardware) {
  const std::string text = fmt::format("{}\n{}\n{}", hardware.drive, hardware.cpu, hardware.cores);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

}  // namespace spillway
