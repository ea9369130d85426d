// spillway quantize: a model as a GGUF file with smaller matrices.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <new>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/one_line.h"
#include "core/units.h"
#include "model/quantize.h"

namespace spillway {
namespace {

constexpr size_t kTensorColumns = 36;

QuantizeOptions quantize_options(const QuantizeCommandOptions& options) {
  QuantizeOptions result;
  result.type = type_of(options.type, "--type");
  if (!can_quantize_to(result.type)) {
    throw Error(fmt::format("--type {}: such matrices can be read but not made; there are {}",
                            result.type.name, fmt::join(quantize_type_names(), ", ")));
  }
  result.ram_bytes = parse_size(options.ram).value();
  result.threads = options.threads;
  if (!options.target.ends_with(".gguf")) {
    throw Error(fmt::format("{}: the new file's name is to end in .gguf", options.target));
  }
  return result;
}

/// A GGUF file stands for itself; all else is a folder or a name in the cache.
std::filesystem::path source_path(const std::string& name) {
  return name.ends_with(".gguf") ? std::filesystem::path(name) : model_folder(name);
}

std::string percent(double share) {
  return share == 0 ? "-" : fmt::format("{:.3f} %", 100 * share);
}

std::string table_of(const QuantizeResult& result) {
  Table table("lllrrr");
  table.row({"tensor", "from", "to", "bytes", "error", "worst row"});
  for (const QuantizedTensor& tensor : result.tensors) {
    table.row({cut_middle(printable(tensor.name), kTensorColumns),
               std::string(format_name(tensor.from)), std::string(format_name(tensor.to)),
               format_bytes(tensor.bytes), percent(tensor.error), percent(tensor.worst_row)});
  }
  return table.text();
}

nlohmann::ordered_json json_of(const QuantizeCommandOptions& options, const QuantizeResult& result,
                               double duration) {
  nlohmann::ordered_json json = {{"source", options.source},
                                 {"file", options.target},
                                 {"type", type_of(options.type, "--type").name},
                                 {"bytes", result.file_bytes},
                                 {"seconds", duration},
                                 {"tokenizer", result.no_tokenizer.empty()},
                                 {"unused", result.unused}};
  if (!result.no_tokenizer.empty()) json["no_tokenizer"] = result.no_tokenizer;
  if (!result.lost_ends.empty()) json["lost_end_tokens"] = result.lost_ends;
  json["tensors"] = nlohmann::ordered_json::array();
  for (const QuantizedTensor& tensor : result.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"from", format_name(tensor.from)},
                               {"to", format_name(tensor.to)},
                               {"bytes", tensor.bytes},
                               {"error", tensor.error},
                               {"worst_row_error", tensor.worst_row}});
  }
  return json;
}

}  // namespace

int quantize_command(const QuantizeCommandOptions& options, StopFlag& stop) {
  const QuantizeOptions quantize_as = quantize_options(options);
  const std::filesystem::path source = source_path(options.source);
  const SteadyClock clock;
  Progress progress(clock, stop, options.quiet);
  const NoticeSink notice = notices_beside(progress);
  const int64_t begin_ns = clock.now_ns();
  QuantizeResult result;
  stop.watch();
  try {
    result = quantize(source, options.target, quantize_as, stop, notice,
                      [&](uint64_t done, uint64_t total) {
                        const double elapsed = seconds(clock.now_ns() - begin_ns);
                        const double left =
                            elapsed * static_cast<double>(total - done) / static_cast<double>(done);
                        progress.show(fmt::format("quantizing {} of {}, {}, {} left",
                                                  format_bytes(done), format_bytes(total),
                                                  rate_text(done, elapsed), format_duration(left)));
                      });
  } catch (const Stopped&) {
    progress.clear();
    progress.say("spillway: stopped; nothing was kept");
    return kExitInterrupted;
  } catch (const std::bad_alloc& error) {
    throw Error(failure_text(error, "--ram"));
  }
  progress.clear();
  const double duration = seconds(clock.now_ns() - begin_ns);
  std::string text;
  if (options.json) {
    text = printed_json(json_of(options, result, duration));
  } else {
    if (!options.quiet) text = table_of(result) + "\n";
    text += fmt::format("{}: {} in {:.1f} s\n", printable(options.target),
                        format_bytes(result.file_bytes), duration);
  }
  print_text_of(options.target, text, stop);
  return 0;
}

}  // namespace spillway
