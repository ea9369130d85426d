// Measuring the machine: what is read, what is refused, what is kept.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "kernels/registry.h"
#include "probe/profile.h"
#include "probe/prompt_layer.h"
#include "tests/sim/paced_disk.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

HardwareProfile some_profile() {
  HardwareProfile profile;
  profile.hardware = {"a drive, 100 sectors", "a CPU", 4, ""};
  profile.measured_at = "2026-01-02T03:04:05Z";
  profile.file_system = "ext4";
  profile.read_engine = "pread";
  profile.reads = {{{kMiB, 8, true}, 3e9}, {{kMiB, 8, false}, 1e9}};
  profile.sustained_bytes_per_second = 2.5e9;
  profile.memory_bytes_per_second = 4e10;
  DeviceRates host;
  host.device = "host";
  host.operation_seconds = 1e-6;
  host.attention_seconds = 2e-11;
  host.score_seconds = 4e-10;
  host.value_seconds = 3e-10;
  host.gated_seconds = 5e-10;
  host.layer_share = 1.125;
  host.wide_memory = {512 * kMiB, 2 * kGiB, 4e-12};
  host.matmuls = {{WeightFormat::kBF16, {{1, 2e10, 5e-6, 2e-9, 1e10, 0.9}, {512, 6e8, 0}}}};
  profile.devices = {host};
  return profile;
}

TEST(Profile, MostPlansReadWith) {
  const std::vector<ReadSample> reads = {{{4 * kMiB, 8}, 4e9}, {{kMiB, 8}, 3e9}, {{kMiB, 2}, 2e9}};
  EXPECT_EQ(usual_reads(reads).chunk_bytes, kMiB);
  EXPECT_EQ(usual_reads(reads).depth, 8u);
  EXPECT_EQ(usual_reads({reads[0]}).chunk_bytes, 4 * kMiB) << "where it was not measured, the best";
}

TEST(Profile, SurvivesWritingAndReading) {
  const test::TempDir dir;
  const HardwareProfile profile = some_profile();
  const auto file = dir / "new/folder/p.json";
  EXPECT_FALSE(read_profile(file).has_value());
  FilesInUse in_use;
  OutputFile output = open_profile(file, false, in_use);
  write_profile(output, profile);
  const auto back = read_profile(file);
  ASSERT_TRUE(back.has_value());
  ASSERT_EQ(back->history.size(), 1u) << "what probe measured is the first reading";
  EXPECT_EQ(back->history[0].measured_at, profile.measured_at);
  EXPECT_EQ(back->history[0].sample.bytes_per_second, 3e9);
  HardwareProfile expected = profile;
  expected.history = back->history;
  EXPECT_EQ(profile_json(*back), profile_json(expected));
  EXPECT_EQ(back->hardware, profile.hardware);
  EXPECT_EQ(back->devices[0].operation_seconds, 1e-6);
  EXPECT_EQ(back->devices[0].attention_seconds, 2e-11);
  EXPECT_EQ(back->devices[0].score_seconds, 4e-10);
  EXPECT_EQ(back->devices[0].value_seconds, 3e-10);
  EXPECT_EQ(back->devices[0].gated_seconds, 5e-10);
  EXPECT_EQ(back->devices[0].layer_share, 1.125);
  ASSERT_TRUE(back->devices[0].wide_memory.has_value());
  EXPECT_EQ(back->devices[0].wide_memory->usual_bytes, 512 * kMiB);
  EXPECT_EQ(back->devices[0].wide_memory->bytes, 2 * kGiB);
  EXPECT_EQ(back->devices[0].wide_memory->more_seconds_per_byte, 4e-12);
  EXPECT_EQ(back->devices[0].matmuls[0].rows[0].start_seconds, 5e-6);
  EXPECT_EQ(back->devices[0].matmuls[0].rows[0].output_seconds, 2e-9);
  EXPECT_EQ(back->devices[0].matmuls[0].rows[0].beside_reads, 1e10);
  EXPECT_EQ(back->devices[0].matmuls[0].rows[0].read_share, 0.9);
  EXPECT_EQ(back->devices[0].matmuls[0].rows[1].beside_reads, 0);
  EXPECT_EQ(back->reads[1].shape.huge_pages, false);
  EXPECT_EQ(back->read_engine, "pread");
}

/// Profiles of before starts and readings were kept.
TEST(Profile, OlderOnesAreRead) {
  auto json = profile_json(some_profile());
  json["devices"][0].erase("operation_seconds");
  json["devices"][0].erase("attention_seconds");
  json["devices"][0].erase("score_seconds");
  json["devices"][0].erase("value_seconds");
  json["devices"][0].erase("gated_seconds");
  json["devices"][0].erase("layer_share");
  json["devices"][0].erase("wide_memory");
  json["devices"][0]["matmuls"][0]["by_rows"][0].erase("start_seconds");
  json["devices"][0]["matmuls"][0]["by_rows"][0].erase("output_seconds");
  json["devices"][0]["matmuls"][0]["by_rows"][0].erase("beside_reads");
  json["drive"].erase("history");
  const HardwareProfile profile = parse_profile(nlohmann::json::parse(json.dump()), "p.json");
  EXPECT_EQ(profile.devices[0].operation_seconds, 0);
  EXPECT_EQ(profile.devices[0].attention_seconds, 0);
  EXPECT_EQ(profile.devices[0].score_seconds, 0);
  EXPECT_EQ(profile.devices[0].value_seconds, 0);
  EXPECT_EQ(profile.devices[0].gated_seconds, 0);
  EXPECT_EQ(profile.devices[0].layer_share, 0);
  EXPECT_FALSE(profile.devices[0].wide_memory.has_value());
  EXPECT_EQ(profile.devices[0].matmuls[0].rows[0].start_seconds, 0);
  EXPECT_EQ(profile.devices[0].matmuls[0].rows[0].output_seconds, 0);
  EXPECT_TRUE(profile.history.empty());
}

DriveReading reading(double bytes_per_second, const std::string& at = "2026-01-02T04:00:00Z") {
  return {at, {{kMiB, 8, true}, bytes_per_second}};
}

/// Of the profile in `file`, in GB/s.
std::vector<double> kept_rates(const std::filesystem::path& file) {
  std::vector<double> rates;
  const HardwareProfile profile = read_profile(file).value();
  for (const DriveReading& kept : profile.history) {
    rates.push_back(kept.sample.bytes_per_second / 1e9);
  }
  return rates;
}

TEST(DriveHistory, KeepsProbesRateAndEveryRunsNews) {
  const test::TempDir dir;
  const std::string at = some_profile().measured_at;
  // As an older probe wrote it: without history.
  test::write_file(dir / "p.json", profile_json(some_profile()).dump());
  EXPECT_EQ(keep_reading(dir / "p.json", at, reading(2e9), false), "");
  EXPECT_EQ(kept_rates(dir / "p.json"), (std::vector<double>{3, 2}));
  EXPECT_EQ(keep_reading(dir / "p.json", at, reading(2.1e9, "2026-01-02T05:00:00Z"), true), "");
  EXPECT_EQ(kept_rates(dir / "p.json"), (std::vector<double>{3, 2.1})) << "no news: refreshed";
  EXPECT_EQ(keep_reading(dir / "p.json", at, reading(1e9), false), "");
  EXPECT_EQ(kept_rates(dir / "p.json"), (std::vector<double>{3, 2.1, 1}));
  // Probe goes on with the history of its drive, and a run that planned before probe ended does not
  // write into what it does not know.
  HardwareProfile anew = some_profile();
  anew.measured_at = "2026-01-02T06:00:00Z";
  FilesInUse in_use;
  OutputFile output = open_profile(dir / "p.json", true, in_use);
  write_profile(output, anew);
  EXPECT_EQ(kept_rates(dir / "p.json"), (std::vector<double>{3, 2.1, 1, 3}));
  EXPECT_NE(keep_reading(dir / "p.json", at, reading(5e9), false), "");
  EXPECT_EQ(kept_rates(dir / "p.json").back(), 3);
}

TEST(DriveHistory, IsBounded) {
  const test::TempDir dir;
  HardwareProfile profile = some_profile();
  profile.history.assign(1000, reading(1e9));
  test::write_file(dir / "p.json", profile_json(profile).dump());
  EXPECT_EQ(keep_reading(dir / "p.json", profile.measured_at, reading(2e9), false), "");
  const auto rates = kept_rates(dir / "p.json");
  EXPECT_EQ(rates.size(), 32u);
  EXPECT_EQ(rates.back(), 2);
}

/// Whoever cannot keep a reading says why and goes on.
TEST(DriveHistory, MayFailToBeKept) {
  const test::TempDir dir;
  const std::string at = some_profile().measured_at;
  EXPECT_NE(keep_reading(dir / "no folder/p.json", at, reading(2e9), false), "");
  EXPECT_NE(keep_reading(dir / "p.json", at, reading(2e9), false), "");
  EXPECT_FALSE(std::filesystem::exists(dir / "p.json")) << "nobody asked for a profile";
  test::write_file(dir / "p.json", "{");
  EXPECT_NE(keep_reading(dir / "p.json", at, reading(2e9), false), "");
  EXPECT_EQ(test::read_file(dir / "p.json"), "{");
}

/// Readings of runs that go on at the same time: none that was kept is lost, the file is whole.
TEST(DriveHistory, OfParallelRuns) {
  const test::TempDir dir;
  const std::string at = some_profile().measured_at;
  test::write_file(dir / "p.json", profile_json(some_profile()).dump());
  std::atomic<size_t> kept{0};
  {
    std::vector<std::jthread> runs;
    for (int run = 0; run < 4; ++run) {
      runs.emplace_back([&] {
        for (int i = 0; i < 5; ++i) {
          kept += keep_reading(dir / "p.json", at, reading(2e9), false).empty() ? 1 : 0;
        }
      });
    }
  }
  EXPECT_GT(kept.load(), 0u);
  EXPECT_EQ(kept_rates(dir / "p.json").size(), 1 + kept.load());
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    EXPECT_EQ(entry.path().filename(), "p.json");
  }
}

TEST(Profile, CannotBeWrittenIsOneLine) {
  const test::TempDir dir;
  test::write_file(dir / "file", "x");
  FilesInUse in_use;
  const std::string message =
      test::error_of([&] { open_profile(dir / "file/p.json", false, in_use); });
  EXPECT_NE(message.find("cannot write profile"), std::string::npos) << message;
  EXPECT_NE(message.find("Not a directory"), std::string::npos) << message;
  EXPECT_NE(message.find("--out FILE"), std::string::npos) << message;
}

/// A damaged profile may be measured again; in a place that the user names, any file may lie.
TEST(Profile, ReplacesADamagedOneInItsOwnPlaceOnly) {
  const test::TempDir dir;
  test::write_file(dir / "p.json", "{");
  FilesInUse in_use;
  EXPECT_NE(test::error_of([&] { open_profile(dir / "p.json", false, in_use); }).find("no profile"),
            std::string::npos);
  FilesInUse fresh;
  OutputFile output = open_profile(dir / "p.json", true, fresh);
  write_profile(output, some_profile());
  EXPECT_TRUE(read_profile(dir / "p.json").has_value());
  // Behind a link there may be anything, also where only profiles belong.
  test::write_file(dir / "mine.txt", "my words");
  std::filesystem::create_symlink("mine.txt", dir / "link.json");
  FilesInUse more;
  EXPECT_NE(test::error_of([&] { open_profile(dir / "link.json", true, more); }).find("no profile"),
            std::string::npos);
}

TEST(Profile, DamageIsNamed) {
  const test::TempDir dir;
  const auto complaint = [&](const std::string& text) {
    test::write_file(dir / "p.json", text);
    return test::error_of([&] { read_profile(dir / "p.json"); });
  };
  EXPECT_NE(complaint("{").find("not JSON"), std::string::npos);
  EXPECT_NE(complaint("[]").find("version: missing"), std::string::npos);
  auto json = profile_json(some_profile());
  json["version"] = 99;
  EXPECT_NE(complaint(json.dump()).find("another version"), std::string::npos);
  const auto without = [&](const std::function<void(nlohmann::ordered_json&)>& change) {
    auto broken = profile_json(some_profile());
    change(broken);
    return complaint(broken.dump());
  };
  EXPECT_NE(without([](auto& j) { j.erase("hardware"); }).find("hardware: missing"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["drive"]["reads"] = nlohmann::json::array();
            }).find("drive.reads: empty"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["drive"]["reads"][0]["bytes_per_second"] = -1;
            }).find("drive.reads[0].bytes_per_second: expected a number"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) { j["devices"][0]["matmuls"][0]["dtype"] = "Q4"; }).find("Q4"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["devices"][0]["matmuls"][0]["by_rows"][1]["rows"] = 1;
            }).find("by_rows[1]: expected ascending"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["drive"]["reads"][1]["bytes_per_second"] = 0;
            }).find("drive.reads[1].bytes_per_second: expected bytes per second from 1000"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["devices"][0]["matmuls"][0]["by_rows"][0]["start_seconds"] = "5 us";
            }).find("by_rows[0].start_seconds: expected a number"),
            std::string::npos);
  EXPECT_NE(without([](auto& j) {
              j["drive"]["history"] = {{{"measured_at", "2026-01-02T03:04:05Z"}}};
            }).find("drive.history[0].chunk_bytes: missing"),
            std::string::npos);
  for (const double share : {0.5, 2.5, -1.0}) {
    EXPECT_NE(without([&](auto& j) {
                j["devices"][0]["layer_share"] = share;
              }).find("devices[0].layer_share: expected a number"),
              std::string::npos)
        << share;
  }
  for (const auto& [key, value] : {std::pair<const char*, double>{"bytes", 1.0},
                                   {"usual_bytes", 0.0},
                                   {"more_seconds_per_byte", 60.0},
                                   {"more_seconds_per_byte", -1.0}}) {
    EXPECT_NE(without([&](auto& j) {
                j["devices"][0]["wide_memory"][key] = value;
              }).find("devices[0].wide_memory"),
              std::string::npos)
        << key;
  }
  EXPECT_NE(without([](auto& j) {
              j["drive"]["reads"][0]["depth"] = 1e12;
            }).find("depth: expected a whole number from 1"),
            std::string::npos);
  for (const char* time : {"then", "", "2026-01-02T03:04:05Z\nx", "2026-01-02 03:04:05Z",
                           "2026-01-02T03:04:0\x1bZ", "2026-99-02T03:04:05Z"}) {
    EXPECT_NE(
        without([&](auto& j) { j["measured_at"] = time; }).find("measured_at: expected a time"),
        std::string::npos)
        << time;
  }
  for (const double depth : {0.0, 0.5, 2.5}) {
    EXPECT_NE(without([&](auto& j) {
                j["drive"]["reads"][0]["depth"] = depth;
              }).find("depth: expected a whole number"),
              std::string::npos)
        << depth;
  }
  EXPECT_NE(without([](auto& j) { j["drive"]["reads"][0]["chunk_bytes"] = 0; }).find("chunk_bytes"),
            std::string::npos);
  // Figures that no machine gives would overflow what is computed from them.
  for (const double absurd : {1e-300, 1e17}) {
    EXPECT_NE(without([&](auto& j) {
                j["devices"][0]["matmuls"][0]["by_rows"][0]["weight_bytes_per_second"] = absurd;
              }).find("weight_bytes_per_second: expected bytes per second"),
              std::string::npos);
  }
  EXPECT_NE(without([](auto& j) {
              j["devices"][0]["operation_seconds"] = 1e17;
            }).find("operation_seconds: expected seconds up to 60"),
            std::string::npos);
}

TEST(HardwareNames, ComeFromTheSystem) {
  const test::TempDir root;
  std::filesystem::create_directories(root / "proc");
  test::write_file(root / "proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU @ 3 GHz\n");
  EXPECT_EQ(cpu_name(root.path()), "A CPU @ 3 GHz");
  EXPECT_EQ(cpu_name(root / "nothing"), "unknown CPU");
  EXPECT_EQ(drive_name("/no/such/path"), "unknown drive");
  EXPECT_EQ(drive_name(root.path(), root / "nothing").rfind("device ", 0), 0u);
  const Hardware one{"d", "c", 2, ""};
  Hardware other = one;
  EXPECT_EQ(hardware_key(one), hardware_key(other));
  other.cores = 4;
  EXPECT_NE(hardware_key(one), hardware_key(other));
}

TEST(HardwareNames, OfProcessorsArePeoples) {
  const std::map<std::string, std::string> names = {
      {"Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "Intel Xeon Platinum 8370C"},
      {"Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "Intel Xeon E5-2680 v4"},
      {"Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon"},
      {"12th Gen Intel(R) Core(TM) i7-12700K", "12th Gen Intel Core i7-12700K"},
      {"Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz", "Intel Core 2 Duo E8400"},
      {"AMD Ryzen 9 7950X 16-Core Processor            ", "AMD Ryzen 9 7950X"},
      {"AMD Ryzen 7 5800H with Radeon Graphics", "AMD Ryzen 7 5800H"},
      {"AMD Ryzen Threadripper PRO 5995WX 64-Cores", "AMD Ryzen Threadripper PRO 5995WX"},
      {"AMD FX(tm)-8350 Eight-Core Processor", "AMD FX-8350"},
      {"AMD EPYC", "AMD EPYC"},
      {"QEMU Virtual CPU version 2.5+", "QEMU Virtual CPU version 2.5+"},
      {"unknown CPU", "unknown CPU"},
      {"Processor", "Processor"},
      {" @ ", " @ "},
      {"", ""}};
  for (const auto& [system, known] : names) EXPECT_EQ(known_cpu_name(system), known);
}

/// A /sys with one block device, on which the files of this test seem to lie.
class DriveNames : public ::testing::Test {
 protected:
  DriveNames() {
    struct stat status {};
    EXPECT_EQ(stat(root_.path().c_str(), &status), 0);
    number_ = std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
  }
  void put(const fs::path& file, const std::string& text) {
    fs::create_directories((root_.path() / file).parent_path());
    test::write_file(root_.path() / file, text);
  }
  /// The device under the files.
  void is(const std::string& device) {
    fs::create_directories(root_ / "sys/dev/block");
    fs::create_directories(root_.path() / "sys/devices" / device);
    fs::remove(root_.path() / "sys/dev/block" / number_);
    fs::create_directory_symlink("../../devices/" + device,
                                 root_.path() / "sys/dev/block" / number_);
  }
  std::string name() const { return known_drive_name(root_.path(), root_.path()); }

  test::TempDir root_;
  std::string number_;
};

TEST_F(DriveNames, OfDisksArePeoples) {
  put("sys/devices/nvme0n1/device/model", "Samsung SSD 990 PRO 2TB                 \n");
  put("sys/devices/nvme0n1/size", "3907029168\n");
  put("sys/devices/nvme0n1/nvme0n1p2/partition", "2\n");
  put("sys/devices/nvme0n1/nvme0n1p2/size", "1000\n");
  is("nvme0n1/nvme0n1p2");
  EXPECT_EQ(name(), "NVMe Samsung 990 PRO 2TB") << "a partition is its drive";
  put("sys/devices/nvme0n1/device/model", "Amazon Elastic Block Store\n");
  EXPECT_EQ(name(), "NVMe Amazon Elastic Block Store, 2 TB");
  put("sys/devices/sda/device/vendor", "ATA     \n");
  put("sys/devices/sda/device/model", "CT500MX500SSD1  \n");
  put("sys/devices/sda/size", "976773168\n");
  is("sda");
  EXPECT_EQ(name(), "SATA CT500MX500SSD1, 500 GB");
  put("sys/devices/sda/device/vendor", "QEMU    \n");
  put("sys/devices/sda/device/model", "QEMU HARDDISK   \n");
  EXPECT_EQ(name(), "QEMU disk sda, 500 GB");
  put("sys/devices/sda/device/vendor", "SanDisk\n");
  put("sys/devices/sda/device/model", "Extreme\n");
  EXPECT_EQ(name(), "SanDisk Extreme, 500 GB");
  put("sys/devices/vda/size", "536870912\n");
  is("vda");
  EXPECT_EQ(name(), "virtio disk vda, 275 GB");
  is("xvda");
  EXPECT_EQ(name(), "Xen disk xvda") << "one that does not say its size";
}

TEST_F(DriveNames, OfMappingsNameWhatIsBelow) {
  put("sys/devices/nvme0n1/device/model", "A 1TB\n");
  put("sys/devices/nvme1n1/device/model", "B 1TB\n");
  put("sys/devices/dm-0/dm/uuid", "LVM-abc\n");
  put("sys/devices/dm-1/dm/uuid", "CRYPT-LUKS2-abc\n");
  put("sys/devices/md0/md/level", "raid0\n");
  const auto on = [&](const std::string& upper, const std::string& lower) {
    fs::create_directories(root_.path() / "sys/devices" / upper / "slaves");
    fs::create_directory_symlink("../../" + lower,
                                 root_.path() / "sys/devices" / upper / "slaves" / lower);
  };
  on("dm-0", "dm-1");
  on("dm-1", "nvme0n1");
  is("dm-0");
  EXPECT_EQ(name(), "LVM on encrypted NVMe A 1TB");
  on("md0", "nvme0n1");
  on("md0", "nvme1n1");
  is("md0");
  EXPECT_EQ(name(), "raid0 of NVMe A 1TB and NVMe B 1TB");
  on("nvme0n1", "dm-0");  // no machine has that; it ends all the same
  is("dm-0");
  EXPECT_NE(name(), "");
}

/// btrfs, network and memory have no device number of a disk.
TEST_F(DriveNames, OfMountsComeFromTheirSource) {
  EXPECT_EQ(name(), "unknown drive");
  const auto mounted = [&](const std::string& point, const std::string& kind,
                           const std::string& source) {
    put("proc/self/mountinfo", "1 0 0:30 / / rw - overlay overlay rw\n2 1 0:31 / " + point +
                                   " rw,relatime shared:1 - " + kind + " " + source + " rw\n");
    return name();
  };
  const std::string here = fs::canonical(root_.path()).string();
  put("sys/devices/nvme0n1/device/model", "A 1TB\n");
  put("sys/devices/nvme0n1/nvme0n1p2/partition", "2\n");
  fs::create_directories(root_ / "sys/class/block");
  fs::create_directory_symlink("../../devices/nvme0n1/nvme0n1p2",
                               root_ / "sys/class/block/nvme0n1p2");
  EXPECT_EQ(mounted(here, "btrfs", "/dev/nvme0n1p2"), "NVMe A 1TB");
  EXPECT_EQ(mounted(here, "nfs4", "server:/models"), "server:/models");
  EXPECT_EQ(mounted(here, "tmpfs", "tmpfs"), "memory");
  EXPECT_EQ(mounted(here + "x", "nfs4", "server:/models"), "unknown drive") << "another folder";
  EXPECT_EQ(mounted(here, "btrfs", "/dev/gone"), "/dev/gone");
  EXPECT_EQ(known_drive_name("/no/such/path"), "unknown drive");
}

/// Profiles are kept under the system's names: those of people may change, these may not.
TEST(HardwareNames, ThatKeepProfilesStayAsTheyWere) {
  const Hardware hardware{"Samsung SSD 990 PRO 2TB, 3907029168 sectors",
                          "Intel(R) Xeon(R) CPU @ 2.20GHz", 8, ""};
  EXPECT_EQ(hardware_key(hardware), "d956a723e19ee4a5");
}

TEST(ProbeFiles, AreTheLargestOrTemporary) {
  const StopFlag stop;
  const test::TempDir dir;
  if (file_system_name(dir.path()) == "tmpfs") GTEST_SKIP() << "the temporary folder is in memory";
  {
    const ProbeFile file(dir.path(), stop);
    EXPECT_TRUE(file.temporary());
    EXPECT_GE(file.file().info().bytes, 256 * kMiB);
    EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "whatever ends the program, it goes too";
  }
  for (const char* name : {"small", "large"}) {
    test::write_file(dir / name, "x");
    std::filesystem::resize_file(dir / name, name[0] == 's' ? kMiB : 300 * kMiB);
  }
  const ProbeFile file(dir.path(), stop);
  EXPECT_FALSE(file.temporary());
  EXPECT_EQ(file.file().info().path, (dir / "large").string());
  EXPECT_NE(test::error_of([&] { ProbeFile("/dev/shm", stop); }).find("tmpfs"), std::string::npos);
  EXPECT_NE(test::error_of([&] { ProbeFile(dir / "none", stop); }).find("no such file"),
            std::string::npos);
}

/// A file of 64 MiB, and a disk that keeps time.
class PacedReads : public ::testing::Test {
 protected:
  void SetUp() override {
    test::write_file(dir_ / "f", "x");
    std::filesystem::resize_file(dir_ / "f", 64 * kMiB);
    file_.emplace(dir_ / "f", DirectChoice::kAuto);
  }
  double rate(const ReadShape& shape, const MeasureLimit& limit) {
    return read_rate(
        *file_, shape, limit,
        [&](uint32_t depth) { return std::make_unique<test::PacedDisk>(depth, pace_); },
        pace_.clock, stop_);
  }
  double elapsed() const { return seconds(pace_.clock.now_ns()); }

  test::TempDir dir_;
  std::optional<DirectFile> file_;
  test::Pace pace_;
  StopFlag stop_;
};

/// However deep the queue and short the time: what is in flight at both ends cancels out, and the
/// drive's first answer is not counted.
TEST_F(PacedReads, AreCountedWhileTheQueueIsFull) {
  pace_.first_seconds = 0.05;
  for (const uint32_t depth : {1u, 8u, 32u}) {
    EXPECT_NEAR(rate({kMiB, depth, true}, {0.1, UINT64_MAX}) / 1e9, 1, 1e-6) << depth;
  }
  EXPECT_NEAR(rate({kMiB, 8, true}, {3600, 20 * kMiB}) / 1e9, 1, 1e-6);
}

TEST_F(PacedReads, BeginWhereTheyAreToldAndGoAround) {
  rate({kMiB, 4, true}, {0.05, UINT64_MAX, 1, 0.75});
  ASSERT_GT(pace_.offsets.size(), 20u);
  EXPECT_EQ(pace_.offsets[0], 48 * kMiB);
  EXPECT_EQ(pace_.offsets[16], 0u);
  EXPECT_EQ(pace_.registered, 1u);
  rate({kMiB, 4, true, false}, {0.05, UINT64_MAX});
  EXPECT_EQ(pace_.registered, 1u) << "not where it was not wanted";
}

/// As a pass reads into its slots: what was just read into is read into last.
TEST_F(PacedReads, GoAroundInTheirRoom) {
  for (const uint64_t chunks : {1u, 4u, 7u}) {
    pace_.targets.clear();
    rate({kMiB, 4, true, true, chunks * kMiB}, {0.05, UINT64_MAX});
    const uint64_t room = std::max<uint64_t>(4, chunks);
    ASSERT_GT(pace_.targets.size(), 2 * room);
    for (size_t i = 0; i < pace_.targets.size(); ++i) {
      ASSERT_EQ(pace_.targets[i] - pace_.targets[0], static_cast<int64_t>(i % room * kMiB)) << i;
    }
  }
}

/// A drive that is too slow, or does not answer at all, costs no more than was allowed.
TEST_F(PacedReads, AreGivenUp) {
  pace_.bytes_per_second = 1e6;
  EXPECT_EQ(rate({kMiB, 2, true}, {0.2, UINT64_MAX, 0.3}), 0);
  EXPECT_NEAR(elapsed(), 0.3, 1e-6);
  pace_.hangs = true;
  EXPECT_EQ(rate({kMiB, 2, true}, {0.2, UINT64_MAX, 0.3}), 0);
  EXPECT_NEAR(elapsed(), 0.6, 1e-6);
}

TEST(Calls, OfTwoSizesGiveStartAndRate) {
  const MatmulRate::Rows both =
      rate_of_calls(4, {1000, 15e-6, 15e-6, 99}, {9000, 55e-6, 55e-6, 99});
  EXPECT_EQ(both.rows, 4u);
  EXPECT_NEAR(both.start_seconds, 10e-6, 1e-15);
  EXPECT_NEAR(both.weight_bytes_per_second, 2e8, 1e-3);
  // A neighbour on the cores makes some calls long: it slows the bytes, not the start.
  const MatmulRate::Rows shared =
      rate_of_calls(4, {1000, 95e-6, 15e-6, 99}, {9000, 100e-6, 55e-6, 99});
  EXPECT_NEAR(shared.start_seconds, 10e-6, 1e-15);
  EXPECT_NEAR(shared.weight_bytes_per_second, 1e8, 1e-3);
  const MatmulRate::Rows few = rate_of_calls(4, {1000, 15e-6, 15e-6, 99}, {9000, 55e-6, 55e-6, 3});
  EXPECT_EQ(few.start_seconds, 0) << "the median of three says nothing";
  EXPECT_NEAR(few.weight_bytes_per_second, 9000 / 55e-6, 1e-3);
  // No line, or one below nothing: whatever comes out, a large call takes what it took.
  for (const double large_seconds : {14e-6, 200e-6}) {
    const MatmulRate::Rows odd =
        rate_of_calls(1, {1000, 15e-6, 15e-6, 99}, {9000, large_seconds, large_seconds, 99});
    EXPECT_GE(odd.start_seconds, 0);
    EXPECT_LE(odd.start_seconds, 15e-6);
    EXPECT_NEAR(odd.start_seconds + 9000 / odd.weight_bytes_per_second, large_seconds, 1e-12);
  }
}

/// Rows of weights cost something beside their bytes, as a call with more of them shows.
TEST(Calls, WithMoreOutputsGiveWhatAnOutputCosts) {
  const TimedCall small{1000, 17e-6, 17e-6, 99, 100};
  const TimedCall large{9000, 57e-6, 57e-6, 99, 100};
  const auto rate = [&](double tall_seconds, uint64_t calls = 99) {
    return rate_of_calls(1, small, large, {9000, tall_seconds, tall_seconds, calls, 800});
  };
  const MatmulRate::Rows both = rate(92e-6);
  EXPECT_NEAR(both.output_seconds, 50e-9, 1e-15);
  EXPECT_NEAR(both.start_seconds, 7e-6, 1e-12);
  EXPECT_NEAR(both.weight_bytes_per_second, 2e8, 1e-1);
  for (const MatmulRate::Rows& none : {rate(50e-6), rate(92e-6, 3)}) {
    EXPECT_EQ(none.output_seconds, 0) << "faster, or of few calls";
    EXPECT_NEAR(none.start_seconds, 12e-6, 1e-12);
  }
  const MatmulRate::Rows costly = rate(1);
  EXPECT_NEAR(costly.output_seconds, 170e-9, 1e-12) << "no more than the small call took";
  EXPECT_EQ(costly.start_seconds, 0);
  EXPECT_NEAR(100 * costly.output_seconds + 9000 / costly.weight_bytes_per_second, 57e-6, 1e-12);
}

/// A burst of one round is not the machine.
TEST(Calls, OfRoundsTheMiddleOneCounts) {
  const TimedCall median =
      median_round({{1000, 9e-6, 2e-6, 7}, {1000, 3e-6, 1e-6, 8}, {1000, 1e-6, 1e-6, 9}});
  EXPECT_EQ(median.weight_bytes, 1000u);
  EXPECT_EQ(median.seconds, 3e-6);
  EXPECT_EQ(median.median_seconds, 1e-6);
  EXPECT_EQ(median.calls, 8u) << "its own";
}

/// Company makes nothing faster, and what was not seen is not said.
TEST(Calls, BesideReads) {
  const MatmulRate::Rows alone{1, 2e9, 1e-6};
  MatmulRate::Rows rows = alone;
  set_beside_reads(rows, {1000, 2e-6, 2e-6, 99}, 0.9);
  EXPECT_NEAR(rows.beside_reads, 1e9, 1) << "the start is not slower";
  EXPECT_EQ(rows.read_share, 0.9);
  rows = alone;
  set_beside_reads(rows, {1000, 1.1e-6, 1.1e-6, 99}, 1.2);
  EXPECT_EQ(rows.beside_reads, 2e9);
  EXPECT_EQ(rows.read_share, 1);
  for (const auto& [seconds, share] : {std::pair(0.9e-6, 0.5), std::pair(2e-6, 0.0)}) {
    rows = alone;
    set_beside_reads(rows, {1000, seconds, seconds, 99}, share);
    EXPECT_EQ(rows.beside_reads, 0);
    EXPECT_EQ(rows.read_share, 0);
  }
}

TEST(Calls, ReadsAreSlowedByBurstsOnly) {
  const auto share = [](double together, double alone, double busy_seconds) {
    return read_share_of({{together, 2}, {alone, 1}, busy_seconds, 9});
  };
  EXPECT_NEAR(share(160, 100, 1), 0.6, 1e-12);
  EXPECT_NEAR(share(120, 100, 2), 0.6, 1e-12) << "no pause";
  EXPECT_EQ(share(220, 100, 0.6), 1) << "noise";
  EXPECT_GT(share(40, 100, 1), 0) << "the pauses alone gave more";
  EXPECT_EQ(share(0, 100, 1), 0) << "too short for a read";
  EXPECT_EQ(share(10, 0, 1), 0);
}

TEST_F(PacedReads, GoOnBesideOthersUntilTheyEnd) {
  const SteadyClock clock;
  const ReaderFactory readers = choose_reader(EngineChoice::kAuto, [](const std::string&) {}).make;
  const StopFlag stop;
  BackgroundReads reads(*file_, {kMiB, 4, true}, readers, clock, stop);
  EXPECT_GT(reads.bytes(), 0u);
  const uint64_t wanted = reads.bytes() + 2 * kMiB;
  reads.wait_for(wanted, 1e6);
  EXPECT_GE(reads.bytes(), wanted);
  reads.wait_for(UINT64_MAX, 0);
  reads.finish();
  reads.wait_for(UINT64_MAX, 1e6);  // nobody reads any more
  StopFlag later;
  BackgroundReads stopped(*file_, {kMiB, 4, true}, readers, clock, later);
  const std::jthread stops([&] { later.request(); });
  stopped.wait_for(UINT64_MAX, 1e6);
  EXPECT_NE(test::error_of([&] {
              BackgroundReads bad(*file_, {128 * kMiB, 1, true}, readers, clock, stop);
              bad.finish();
            }).find("smaller than one read"),
            std::string::npos);
  StopFlag requested;
  requested.request();  // nobody waits for the first read then
  const BackgroundReads unseen(*file_, {kMiB, 2, true}, readers, clock, requested);
}

/// A layer of 4,096 values, 8,192 in its MLP, 32 heads of 128 and 8 of keys and values.
TEST(Rates, OfPartsMakeALayer) {
  DeviceRates rates;
  rates.matmuls = {{WeightFormat::kF32, {{512, 1}}}, {WeightFormat::kBF16, {{1, 1}, {512, 2e9}}}};
  const auto seconds = [&] { return PromptLayer::seconds_of_parts(rates, 512, 4 * kMiB); };
  constexpr double kWeights = 2.0 * 4096 * 4096 + 2.0 * 1024 * 4096 + 3.0 * 8192 * 4096;
  EXPECT_EQ(PromptLayer::weight_bytes(), 2 * kWeights);
  EXPECT_DOUBLE_EQ(seconds(), kWeights / 1e9);
  const double bytes_seconds = seconds();
  MatmulRate::Rows& matmul = rates.matmuls[1].rows[1];
  matmul.start_seconds = 1;
  EXPECT_NEAR(seconds() - bytes_seconds, 8 + 2 + 2 + 8 + 16 + 16 + 16, 1e-6) << "tiles of 4 MiB";
  matmul.start_seconds = 0;
  matmul.output_seconds = 1;
  EXPECT_NEAR(seconds() - bytes_seconds, 4096 + 2 * 1024 + 4096 + 2 * 8192 + 4096, 1e-6);
  matmul.output_seconds = 0;
  rates.score_seconds = 1;
  EXPECT_NEAR(seconds() - bytes_seconds, 32 * 512 * 256.5, 1e-6);
  rates.score_seconds = 0;
  rates.attention_seconds = 1;
  EXPECT_NEAR(seconds() - bytes_seconds, 32 * 512 * 256.5 * 2 * 128, 1e-3);
  rates.attention_seconds = 0;
  rates.value_seconds = 1;  // norms, rotation, activation; and inputs of four matmuls
  EXPECT_NEAR(seconds() - bytes_seconds,
              512 * (2 * 4096 + 4096 + 2 * 1024 + 2 * 4096 + 4096 + 8192), 1e-3);
  rates.value_seconds = 0;
  rates.gated_seconds = 1;
  EXPECT_NEAR(seconds() - bytes_seconds, 512 * 8192, 1e-6);
  EXPECT_EQ(layer_share_of(1.5, 1), 1.5);
  EXPECT_EQ(layer_share_of(0.9, 1), 1) << "noise";
  EXPECT_EQ(layer_share_of(2.1, 1), 0) << "a burst";
  EXPECT_EQ(layer_share_of(1, 0), 0);
}

/// Exponents of real weights: what overflows, or is too small for a normal number, may take another
/// time.
TEST(Filled, IsOrdinaryInEveryFormat) {
  const auto device = open_device("host", {});
  const auto stream = device->make_stream(StreamKind::kCompute);
  for (const FormatTraits& traits : kFormats) {
    const uint64_t values =
        12 * kMiB / traits.block_bytes * traits.block_values;  // several periods
    const Memory memory =
        filled_memory(*device, *stream, row_bytes(traits.format, values), traits.format);
    std::vector<float> decoded(values);
    decode_values(traits.format, memory.data(), values, decoded.data());
    uint64_t large = 0;
    uint64_t tiny = 0;
    uint64_t negative = 0;
    for (const float value : decoded) {
      large += std::isfinite(value) && std::abs(value) < 1e5f ? 0 : 1;
      tiny += value != 0 && std::abs(value) < 1e-30f ? 1 : 0;
      negative += value < 0 ? 1 : 0;
    }
    EXPECT_EQ(large, 0u) << traits.name;
    EXPECT_EQ(tiny, 0u) << traits.name;
    EXPECT_GT(negative, values / 8) << traits.name;
    EXPECT_LT(negative, values - values / 8) << traits.name;
  }
}

/// Memory that caches hold a part of is compared with more, where that is more and is to be had.
TEST(Rates, KnowWhatIsBeyondCaches) {
  EXPECT_FALSE(wide_memory_of(32 * kMiB, 64 * kGiB).has_value());
  EXPECT_FALSE(wide_memory_of(255 * kMiB, 64 * kGiB).has_value()) << "hardly more than the usual";
  const auto wide = wide_memory_of(256 * kMiB, 2 * kGiB);
  ASSERT_TRUE(wide.has_value());
  EXPECT_EQ(wide->bytes, kGiB);
  EXPECT_LT(wide->usual_bytes, wide->bytes);
  EXPECT_FALSE(wide_memory_of(256 * kMiB, 2 * kGiB - 1).has_value()) << "no room";
  EXPECT_FALSE(wide_memory_of(kGiB, 2 * kGiB).has_value());
}

TEST(Rates, ArePositiveAndOrdered) {
  const StopFlag stop;
  const SteadyClock clock;
  const test::TempDir dir;
  test::write_file(dir / "f", "x");
  std::filesystem::resize_file(dir / "f", 16 * kMiB);
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  const ReaderFactory readers = choose_reader(EngineChoice::kAuto, [](const std::string&) {}).make;
  uint32_t calls = 0;
  const auto samples =
      sweep_reads(file, 0.01, readers, clock, stop, [&](uint32_t done, uint32_t total) {
        EXPECT_EQ(done, ++calls);
        EXPECT_EQ(total, 30u);
      });
  ASSERT_EQ(samples.size(), 10u);
  for (size_t i = 1; i < samples.size(); ++i) {
    EXPECT_GE(samples[i - 1].bytes_per_second, samples[i].bytes_per_second);
  }
  EXPECT_GT(samples.back().bytes_per_second, 0);
  EXPECT_GT(memory_read_rate(1, 0.01, clock, StopFlag()), 0);
  EXPECT_GT(memory_read_rate(2, 0, clock, StopFlag()), 0) << "over before a thread begins";
  for (const char* name : {"host", "host-discrete"}) {
    const auto device = open_device(name, {});
    const auto ops = make_ops(*device, {});
    const DriveReads beside{&file, {kMiB, 4, true}, &readers};
    const uint64_t cache_bytes = 256 * kMiB;
    const DeviceRates rates = measure_device(*device, *ops, 0.01, cache_bytes, &beside, clock, stop,
                                             [](std::string_view) {});
    EXPECT_FALSE(rates.wide_memory.has_value() && !device->unified());
    if (rates.wide_memory) {  // else the machine has little memory left
      EXPECT_EQ(rates.wide_memory->bytes, 4 * cache_bytes);
    }
    EXPECT_EQ(rates.pinned_to_device > 0, !device->unified());
    EXPECT_GT(rates.operation_seconds, 0);
    EXPECT_GT(rates.attention_seconds, 0);
    EXPECT_GE(rates.score_seconds, 0);
    EXPECT_GT(rates.value_seconds, 0);
    EXPECT_GT(rates.gated_seconds, 0);
    EXPECT_EQ(rates.layer_share >= 1, device->unified());
    ASSERT_EQ(rates.matmuls.size(), kFormats.size());
    for (const MatmulRate& rate : rates.matmuls) {
      ASSERT_EQ(rate.rows.size(), 5u);
      for (const MatmulRate::Rows& entry : rate.rows) {
        EXPECT_GT(entry.weight_bytes_per_second, 0);
        EXPECT_LE(entry.beside_reads, entry.weight_bytes_per_second);
        EXPECT_EQ(entry.beside_reads > 0, entry.read_share > 0);  // a busy machine may read nothing
        EXPECT_TRUE(device->unified() || entry.beside_reads == 0);
        EXPECT_LE(entry.read_share, 1);
      }
    }
  }
  const std::string message = test::error_of([&] {
    read_rate(file, {64 * kMiB, 1, true}, {1, UINT64_MAX}, readers, clock, stop);
  });
  EXPECT_NE(message.find("smaller than one read"), std::string::npos) << message;
}

}  // namespace
}  // namespace spillway
