// spillway probe: measures this machine and keeps the result as a hardware profile.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/profile_path.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/config.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "kernels/registry.h"
#include "probe/profile.h"

namespace spillway {
namespace {

constexpr double kSustainedSeconds = 60;

class Prober {
 public:
  Prober(const ProbeOptions& options, const StopFlag& stop, const Clock& clock, Progress& progress)
      : options_(options), stop_(stop), clock_(clock), progress_(progress) {}

  HardwareProfile run(const Hardware& hardware) {
    HardwareProfile profile;
    profile.hardware = hardware;
    profile.file_system = file_system_name(options_.path);
    // A device that is not there is said in the first second, not after the drive.
    static_cast<void>(open_device(device_name(), {}));
    say("looking for a file to read (a temporary one where there is none)");
    file_.emplace(options_.path, stop_);
    reader_ = choose_reader(EngineChoice::kAuto, notices_beside(progress_));
    probe_drive(profile);
    say("memory");
    profile.memory_bytes_per_second =
        memory_read_rate(profile.hardware.cores, options_.seconds, clock_, stop_);
    probe_devices(profile);
    profile.measured_at = utc_now();
    progress_.clear();
    return profile;
  }

 private:
  void say(const std::string& what) {
    stop_.check();
    progress_.show("probing: " + what);
  }

  void probe_drive(HardwareProfile& profile) {
    say("drive");
    const ReaderFactory& readers = reader_->make;
    const ProbeFile& file = *file_;
    profile.read_engine = reader_->name;
    const int64_t begin_ns = clock_.now_ns();
    profile.reads = sweep_reads(
        file.file(), options_.seconds, readers, clock_, stop_, [&](uint32_t done, uint32_t total) {
          const double left = seconds(clock_.now_ns() - begin_ns) / done * (total - done);
          progress_.show(fmt::format("probing: drive, {} of {}, {:.0f} s left", done, total, left));
        });
    if (!options_.sustained) return;
    say(fmt::format("drive, a sustained {:.0f} s", kSustainedSeconds));
    profile.sustained_bytes_per_second =
        read_rate(file.file(), profile.reads[0].shape, {kSustainedSeconds, UINT64_MAX}, readers,
                  clock_, stop_);
  }

  std::string device_name() const {
    return options_.device == "auto" ? choose_device().name : options_.device;
  }

  void probe_devices(HardwareProfile& profile) {
    const std::string name = device_name();
    measure("host", profile);
    if (name == "host") return;
    measure(name, profile);
  }

  void measure(const std::string& name, HardwareProfile& profile) {
    const auto device = open_device(name, {});
    const auto ops = make_ops(*device, {});
    if (name.rfind("cuda", 0) == 0) profile.hardware.gpu = ops->description();
    const DriveReads reads{&file_->file(), usual_reads(engine_reads(profile)), &reader_->make};
    profile.devices.push_back(
        measure_device(*device, *ops, 0.4 * options_.seconds, cache_bytes(), &reads, clock_, stop_,
                       [&](std::string_view what) { say(fmt::format("{}, {}", name, what)); }));
  }

  const ProbeOptions& options_;
  const StopFlag& stop_;
  const Clock& clock_;
  Progress& progress_;
  std::optional<ProbeFile> file_;
  std::optional<ReaderChoice> reader_;
};

std::string gigabytes(double bytes_per_second) {
  return fmt::format("{:.2f} GB/s", bytes_per_second / 1e9);
}

/// `drive`: as people know it.
std::string profile_text(const HardwareProfile& profile, const std::string& drive) {
  std::string text =
      fmt::format("drive  {} ({}), read with {}\ncpu    {}, {}\n", drive, profile.file_system,
                  profile.read_engine, known_cpu_name(profile.hardware.cpu),
                  counted(profile.hardware.cores, "core"));
  if (!profile.hardware.gpu.empty()) text += fmt::format("gpu    {}\n", profile.hardware.gpu);
  Table table("llr");
  table.row({"measured", "how", "rate"});
  for (const ReadSample& sample : profile.reads) {
    table.row({"drive, direct reads",
               fmt::format("{} x {}{}", format_bytes(sample.shape.chunk_bytes), sample.shape.depth,
                           sample.shape.huge_pages ? "" : ", 4 KiB pages"),
               gigabytes(sample.bytes_per_second)});
  }
  if (profile.sustained_bytes_per_second) {
    table.row({"drive, sustained", fmt::format("{:.0f} s", kSustainedSeconds),
               gigabytes(*profile.sustained_bytes_per_second)});
  }
  table.row({"memory, reads", counted(profile.hardware.cores, "thread"),
             gigabytes(profile.memory_bytes_per_second)});
  for (const DeviceRates& device : profile.devices) {
    if (device.pinned_to_device > 0) {
      table.row(
          {device.device + ", copies", "pinned to device", gigabytes(device.pinned_to_device)});
      table.row({"", "device to pinned", gigabytes(device.device_to_pinned)});
      table.row({"", "pageable to device", gigabytes(device.pageable_to_device)});
    }
    for (const MatmulRate& rate : device.matmuls) {
      const FormatTraits& traits = traits_of(rate.format);
      const std::string name = fmt::format("{}, {} matmul", device.device, traits.name);
      if (has_blocks(rate.format)) {  // there are many of them: --json has all
        table.row({name, "1 row", gigabytes(rate.rows[0].weight_bytes_per_second)});
        continue;
      }
      for (const MatmulRate::Rows& entry : rate.rows) {
        const bool first = &entry == &rate.rows[0];
        const double flops = 2.0 * entry.rows * entry.weight_bytes_per_second / traits.block_bytes;
        table.row({first ? name : "",
                   fmt::format("{} row{}", entry.rows, entry.rows == 1 ? "" : "s"),
                   entry.rows < 16 ? gigabytes(entry.weight_bytes_per_second)
                                   : fmt::format("{:.0f} GFLOP/s", flops / 1e9)});
        if (!first || entry.beside_reads <= 0) continue;
        table.row(
            {"",
             fmt::format("{} row{}, beside drive reads", entry.rows, entry.rows == 1 ? "" : "s"),
             gigabytes(entry.beside_reads)});
      }
    }
  }
  return text + "\n" + table.text();
}

Hardware hardware_of(const ProbeOptions& options) {
  Hardware hardware;
  hardware.cpu = cpu_name();
  hardware.cores = usable_cores();
  hardware.drive = drive_name(options.path);
  return hardware;
}

/// Folders that were made for a profile that then did not come are not left behind.
class ProfileFolder {
 public:
  explicit ProfileFolder(const std::filesystem::path& file) {
    std::error_code error;  // where it cannot be told, nothing was made either
    for (auto folder = file.parent_path();
         !folder.empty() && !std::filesystem::exists(folder, error) && !error;
         folder = folder.parent_path()) {
      missing_.push_back(folder);
    }
  }
  ProfileFolder(const ProfileFolder&) = delete;
  ~ProfileFolder() {
    std::error_code not_empty;
    for (const auto& folder : missing_) std::filesystem::remove(folder, not_empty);
  }

 private:
  std::vector<std::filesystem::path> missing_;  // the deepest first
};

OutputFile open_output(const ProbeOptions& options, const Hardware& hardware, FilesInUse& in_use) {
  if (!options.out.empty()) return open_profile(options.out, false, in_use);
  const std::filesystem::path file = default_profile_path(hardware);
  if (file.empty()) {
    throw Error(
        "no folder to keep the profile in: neither XDG_CACHE_HOME nor HOME is set; give --out "
        "FILE");
  }
  return open_profile(file, true, in_use);
}

}  // namespace

int probe_command(const ProbeOptions& options, StopFlag& stop) {
  stop.watch();
  const Hardware hardware = hardware_of(options);
  FilesInUse in_use;
  in_use.add(options.path, "the file to be read");
  const std::filesystem::path place = options.path;
  std::error_code unknown;
  in_use =
      with_model_files(std::filesystem::is_directory(place, unknown) ? place : place.parent_path(),
                       std::move(in_use));
  in_use.check_stdout();
  const ProfileFolder folder(options.out.empty() ? default_profile_path(hardware)
                                                 : std::filesystem::path(options.out));
  OutputFile output = open_output(options, hardware, in_use);
  output.heed(stop);
  HardwareProfile profile;
  const SteadyClock clock;
  Progress progress(clock, stop, options.quiet);
  try {
    profile = Prober(options, stop, clock, progress).run(hardware);
  } catch (const Stopped&) {
  }
  if (stop.requested()) {
    progress.clear();
    progress.say("spillway: stopped while probing; nothing was kept");
    return kExitInterrupted;
  }
  Failures failures;  // figures that cannot be kept are still shown, and the other way round
  const bool kept = failures.attempt([&] { write_profile(output, profile); });
  failures.attempt([&] {
    if (options.json) return print_text(printed_json(profile_json(profile)), stop);
    std::string text = profile_text(profile, known_drive_name(options.path));
    if (kept) text += fmt::format("\nkept in {}\n", printable(output.path().string()));
    print_text(text, stop);
  });
  failures.throw_if_any();
  return 0;
}

}  // namespace spillway
