// spillway inspect: what a checkpoint holds; --verify reads all of it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "io/checksum.h"
#include "model/model_config.h"
#include "model/weight_map.h"

namespace spillway {
namespace {

/// As wide as a shape and a size leave of 80 columns; --json has the names whole.
constexpr size_t kNameColumns = 44;

/// ", window 4096 in 32 layers" where layers slide.
std::string window_of(const ModelConfig& config, nlohmann::ordered_json& json) {
  uint32_t sliding = 0;
  for (uint32_t layer = 0; layer < config.layers; ++layer) sliding += config.slides(layer) ? 1 : 0;
  if (sliding == 0) return "";
  json["sliding_window"] = *config.sliding_window;
  json["sliding_layers"] = sliding;
  return fmt::format(", window {} in {}", *config.sliding_window, counted(sliding, "layer"));
}

/// The architecture line, or why the engine cannot run this model; tensors are shown either way.
std::string architecture_of(const Checkpoint& checkpoint, nlohmann::ordered_json& json) {
  try {
    const ModelConfig config = model_config_of(checkpoint);
    json["architecture"] = config.architecture;
    json["layers"] = config.layers;
    json["hidden"] = config.hidden;
    json["heads"] = config.heads;
    json["kv_heads"] = config.kv_heads;
    json["head_dim"] = config.head_dim;
    json["vocab"] = config.vocab;
    json["context"] = config.context;
    const std::string window = window_of(config, json);
    map_weights(config, checkpoint);
    json["supported"] = true;
    return fmt::format("{}: {}, hidden {}, {} ({} KV) of {}, vocabulary {}, context {}{}",
                       config.architecture, counted(config.layers, "layer"), config.hidden,
                       counted(config.heads, "head"), config.kv_heads, config.head_dim,
                       config.vocab, config.context, window);
  } catch (const Error& error) {
    json["supported"] = false;
    json["reason"] = error.what();
    return fmt::format("cannot be run: {}", one_line(error.what()));
  }
}

struct Verification {
  std::map<std::string, std::string> hashes;
  uint64_t bytes = 0;
  double seconds = 0;
};

Verification verify(const Checkpoint& checkpoint, const StopFlag& stop) {
  const SteadyClock clock;
  Progress progress(clock, stop, false);
  Verification result;
  const int64_t begin_ns = clock.now_ns();
  const auto sums = checksum_tensors(
      checkpoint, choose_reader(EngineChoice::kAuto, notices_beside(progress)).make, stop, clock,
      [&](uint64_t done, uint64_t total) {
        const double elapsed = seconds(clock.now_ns() - begin_ns);
        const double left = elapsed * static_cast<double>(total - done) / static_cast<double>(done);
        progress.show(fmt::format("reading {} of {}, {}, {} left", format_bytes(done),
                                  format_bytes(total), rate_text(done, elapsed),
                                  format_duration(left)));
        result.bytes = done;
      });
  result.seconds = seconds(clock.now_ns() - begin_ns);
  for (const TensorChecksum& sum : sums) {
    result.hashes[sum.name] = fmt::format("{:016x}", sum.xxh3);
  }
  return result;
}

}  // namespace

int inspect_command(const InspectOptions& options, const StopFlag& stop) {
  with_model_files(options.directory, {}).check_stdout();
  const NoticeSink notice = stderr_notices();
  const Checkpoint checkpoint = Checkpoint::open(options.directory, DirectChoice::kAuto, notice);
  nlohmann::ordered_json json;
  const std::string architecture = architecture_of(checkpoint, json);
  Verification verification;
  if (options.verify) verification = verify(checkpoint, stop);
  Table table(options.verify ? "lllrl" : "lllr");
  table.row({"tensor", "dtype", "shape", "bytes"});
  if (options.verify) table.row({"", "", "", "", "XXH3"});
  std::map<std::string, uint64_t> by_dtype;
  json["tensors"] = nlohmann::ordered_json::array();
  for (const TensorEntry& entry : checkpoint.tensors()) {
    by_dtype[entry.format_text] += entry.bytes;
    std::vector<std::string> cells = {
        cut_middle(printable(entry.name), kNameColumns), entry.format_text,
        fmt::format("[{}]", fmt::join(entry.shape, ", ")), format_bytes(entry.bytes)};
    nlohmann::ordered_json row = {{"name", entry.name},
                                  {"dtype", entry.format_text},
                                  {"shape", entry.shape},
                                  {"bytes", entry.bytes},
                                  {"file", checkpoint.files()[entry.file].info().path},
                                  {"offset", entry.offset}};
    if (options.verify) {
      cells.push_back(verification.hashes[entry.name]);
      row["xxh3"] = verification.hashes[entry.name];
    }
    table.row(std::move(cells));
    json["tensors"].push_back(std::move(row));
  }
  json["payload_bytes"] = checkpoint.payload_bytes();
  json["bytes_by_dtype"] = by_dtype;
  json["files"] = checkpoint.files().size();
  if (options.verify) {
    json["verify"] = {{"bytes", verification.bytes},
                      {"seconds", verification.seconds},
                      {"bytes_per_second", static_cast<double>(verification.bytes) /
                                               std::max(verification.seconds, 1e-9)}};
  }
  if (options.json) {
    print_text(printed_json(json));
    return 0;
  }
  std::string text =
      fmt::format("{}\n\n{}\n{} tensors in {} file(s), {}", architecture, table.text(),
                  checkpoint.tensors().size(), checkpoint.files().size(),
                  format_bytes(checkpoint.payload_bytes()));
  for (const auto& [dtype, bytes] : by_dtype) {
    text += fmt::format(", {} {}", format_bytes(bytes), dtype);
  }
  text += "\n";
  if (options.verify) {
    text += fmt::format("read {} in {:.2f} s, {}\n", format_bytes(verification.bytes),
                        verification.seconds, rate_text(verification.bytes, verification.seconds));
  }
  print_text(text);
  return 0;
}

}  // namespace spillway
