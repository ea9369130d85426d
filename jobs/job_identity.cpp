#include "jobs/job_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>

#include "core/read_file.h"
#include "core/units.h"
#include "data/xxh3.h"
#include "sinks/output_folder.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSampleBytes = 4 * kKiB;
constexpr uint64_t kMostSamples = 65536;  // seconds, of a drive that is asked for one at a time
constexpr uint64_t kMostHeadBytes = 64 * kMiB;
constexpr uint64_t kMostFileBytes = 256 * kMiB;
/// Beside the weights in safetensors: what turns texts to ids, and ids to numbers.
constexpr std::array kConfigurations = {"config.json", "tokenizer.json", "tokenizer.model",
                                        "tokenizer_config.json"};

/// With the length of each piece, so that borders count.
void add(Xxh3& hash, std::string_view bytes) {
  const uint64_t length = bytes.size();
  hash.update({reinterpret_cast<const char*>(&length), sizeof(length)});
  hash.update(bytes);
}

void add_configurations(Xxh3& hash, const fs::path& folder) {
  for (const char* name : kConfigurations) {
    std::error_code error;
    if (!fs::is_regular_file(folder / name, error)) continue;
    add(hash, name);
    add(hash, read_text_file(folder / name, {"a file of the model", kMostFileBytes}));
  }
}

/// What stands in front of a file's weights: their table, and with GGUF all there is to know.
void add_heads(Xxh3& hash, const Checkpoint& checkpoint) {
  std::vector<uint64_t> begins(checkpoint.files().size(), UINT64_MAX);
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    begins[tensor.file] = std::min(begins[tensor.file], tensor.offset);
  }
  for (size_t i = 0; i < begins.size(); ++i) {
    const DirectFile& file = checkpoint.files()[i];
    const uint64_t bytes = std::min({begins[i], file.info().bytes, kMostHeadBytes});
    add(hash, file.read_text(0, bytes));
    add(hash, std::to_string(file.info().bytes));
  }
}

nlohmann::json token_json(const std::optional<uint32_t>& token) {
  return token ? nlohmann::json(*token) : nlohmann::json("auto");
}

const char* pooling_name(Pooling pooling) {
  return pooling == Pooling::kNone ? "none" : pooling == Pooling::kLast ? "last" : "mean";
}

}  // namespace

std::optional<JobPart> parse_part(std::string_view text) {
  JobPart part;
  const char* end = text.data() + text.size();
  const auto number = std::from_chars(text.data(), end, part.index);
  if (number.ec != std::errc() || number.ptr == end || *number.ptr != '/') return std::nullopt;
  const auto count = std::from_chars(number.ptr + 1, end, part.count);
  if (count.ec != std::errc() || count.ptr != end) return std::nullopt;
  if (part.index < 1 || part.index > part.count) return std::nullopt;
  --part.index;
  return part;
}

std::string model_fingerprint(const Model& model, const StopFlag& stop) {
  Xxh3 hash;
  if (model.checkpoint.metadata() == nullptr) {
    add_configurations(hash, model.checkpoint.directory());
  }
  add_heads(hash, model.checkpoint);
  const uint64_t step_bytes = std::max(
      kMiB, align_up(ceil_div(model.checkpoint.payload_bytes(), kMostSamples), kSampleBytes));
  for (const TensorEntry& tensor : model.checkpoint.tensors()) {
    const DirectFile& file = model.checkpoint.files()[tensor.file];
    for (uint64_t at = 0; at < tensor.bytes; at += step_bytes) {
      stop.check();
      const uint64_t piece = std::min(step_bytes, tensor.bytes - at);
      const uint64_t bytes = std::min(piece, kSampleBytes);
      add(hash, file.read_text(tensor.offset + at + (piece - bytes) / 2, bytes));
    }
  }
  return hash.text();
}

nlohmann::json identity_json(const JobIdentity& identity, const ScoreJobConfig& data) {
  nlohmann::json json;
  json["model"] = {{"architecture", identity.architecture}, {"fingerprint", identity.model}};
  // Names may change; what is in the files may not.
  auto files = nlohmann::json::array();
  for (const FileFingerprint& file : identity.data.files) {
    files.push_back({{"bytes", file.bytes}, {"xxh3", file.xxh3}});
  }
  json["data"] = {{"files", files},
                  {"documents", identity.documents},
                  {"skipped", identity.skipped},
                  {"lines", data.lines},
                  {"skip_bad", data.skip_bad},
                  {"end_token", token_json(data.end_token)},
                  {"prefix_token", token_json(data.prefix_token)},
                  {"token_bytes", data.raw_token_bytes}};
  json["score"] = {{"chunk", identity.wanted_chunk},
                   {"chunk_rows", identity.cut.chunk},
                   {"context", identity.cut.window},
                   {"stride", identity.cut.stride}};
  json["records"] = {{"tokens", identity.record_rows}};
  if (!identity.arithmetic.empty()) json["arithmetic"] = identity.arithmetic;
  const JobSinks& sinks = identity.sinks;
  json["sinks"] = {{"logprobs", sinks.logprobs},
                   {"topk", sinks.top_k},
                   {"hidden_states", sinks.hidden_layers},
                   {"hidden_dtype", dtype_name(sinks.hidden_dtype)},
                   {"embeddings", pooling_name(sinks.embeddings)}};
  if (identity.part) {
    json["shard"] = {{"index", identity.part->index}, {"count", identity.part->count}};
  }
  return json;
}

std::string arithmetic_of(const Machine& machine, const RunPlan& plan) {
  const std::string kernels = machine.ops->description();
  if (machine.device->unified() || machine.device->name() == "host-discrete") {
    return kernels.substr(kernels.find(", ") + 2);  // without the number of threads
  }
  // A GPU's library orders sums by shape.
  return fmt::format("{}, units of {}", kernels, format_bytes(plan.unit_bytes));
}

namespace {

/// A number of the job's part `section`; 0 where there is none.
uint64_t number_of(const nlohmann::json& job, const char* section, const char* key) {
  const auto part = job.find(section);
  if (part == job.end() || !part->is_object()) return 0;
  const auto value = part->find(key);
  return value != part->end() && value->is_number_unsigned() ? value->get<uint64_t>() : 0;
}

}  // namespace

std::optional<RecordedJob> recorded_job(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_regular_file(folder / kManifestName, error)) return std::nullopt;
  const Manifest manifest = load_manifest(OutputFolder(folder, OutputFolder::Missing::kRefuse));
  RecordedJob recorded;
  recorded.record_rows = number_of(manifest.job, "records", "tokens");
  recorded.chunk = static_cast<uint32_t>(
      std::min<uint64_t>(number_of(manifest.job, "score", "chunk_rows"), UINT32_MAX));
  if (recorded.record_rows == 0 || recorded.chunk == 0) return std::nullopt;
  return recorded;
}

}  // namespace spillway
