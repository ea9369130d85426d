#include "model/weight_map.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>

#include "core/error.h"
#include "kernels/ops.h"
#include "model/gguf_names.h"

namespace spillway {
namespace {

struct Found {
  TensorSpec tensor;
  Weight weight;
};

constexpr const char* kHeadName = "lm_head.weight";

/// The name that the checkpoint has for a tensor: checkpoints of the bare model lack the prefix,
/// and those of texts and images have another one.
std::string stored_name(const std::string& name, const ModelConfig& config,
                        const Checkpoint& checkpoint) {
  if (checkpoint.metadata() != nullptr) {
    return gguf_tensor_name(name, config.architecture).value_or(name);
  }
  if (checkpoint.has(name)) return name;
  constexpr std::string_view kPrefix = "model.";
  const std::string bare = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
  const bool inside = bare != name;
  for (const std::string& other : {inside ? bare : std::string(), "language_model." + name,
                                   inside ? "model.language_model." + bare : std::string()}) {
    if (checkpoint.has(other)) return other;
  }
  return name;
}

/// Where the shapes come from that tensors are held against.
std::string description_of(const Checkpoint& checkpoint) {
  return checkpoint.metadata() != nullptr ? "the file's metadata" : "config.json";
}

/// Vectors are used value by value, not in blocks.
bool can_compute(const WeightSpec& spec, const TensorEntry& entry) {
  return entry.format && !(spec.vector && has_blocks(*entry.format));
}

std::string computable_formats(const WeightSpec& spec, const Checkpoint& checkpoint) {
  if (spec.vector || checkpoint.metadata() == nullptr) return "F32, F16 or BF16";
  std::string list;
  for (const FormatTraits& traits : kFormats) {
    list += list.empty() ? "one of " : ", ";
    list += traits.name;
  }
  return list;
}

Found locate(const WeightSpec& spec, const ModelConfig& config, const Checkpoint& checkpoint) {
  const std::string name = stored_name(spec.name, config, checkpoint);
  const TensorEntry* entry = checkpoint.find(name);
  if (entry == nullptr) {
    throw Error(fmt::format(
        "{}: tensor {} is missing, and {} needs it; {} is of another "
        "model, or the weights are not whole: fetch them again",
        checkpoint.path().string(), name, config.architecture, description_of(checkpoint)));
  }
  const std::string& path = checkpoint.files()[entry->file].info().path;
  const uint32_t rows = spec.stored_rows > 0 ? spec.stored_rows : spec.rows;
  const auto expected =
      spec.vector ? std::vector<uint64_t>{spec.cols} : std::vector<uint64_t>{rows, spec.cols};
  if (entry->shape != expected) {
    throw Error(
        fmt::format("{}: tensor {} has shape [{}] but {} asks for [{}]; one of the two is of "
                    "another model",
                    path, name, fmt::join(entry->shape, ", "), description_of(checkpoint),
                    fmt::join(expected, ", ")));
  }
  if (!can_compute(spec, *entry)) {
    throw Error(fmt::format("{}: tensor {} is {}; {} must be {}", path, name, entry->format_text,
                            spec.vector ? "vectors" : "weights",
                            computable_formats(spec, checkpoint)));
  }
  Found found;
  found.weight = {spec, *entry->format};
  const uint64_t bytes = row_bytes(*entry->format, spec.cols);
  found.tensor = {entry->name, entry->file, entry->offset + spec.first_row * bytes,
                  spec.rows,   bytes,       spec.vector ? 0 : uint64_t{kPanelRows}};
  return found;
}

}  // namespace

uint64_t WeightMap::pass_bytes() const {
  uint64_t bytes = 0;
  for (const LayerSpec& layer : layers) bytes += layer.bytes();
  return bytes;
}

std::vector<FormatBytes> WeightMap::matrix_formats() const {
  std::array<uint64_t, kFormats.size()> bytes{};
  for (const auto& layer : weights) {
    for (const Weight& weight : layer) {
      if (weight.spec.vector) continue;
      bytes[static_cast<size_t>(weight.format)] +=
          weight.spec.rows * row_bytes(weight.format, weight.spec.cols);
    }
  }
  std::vector<FormatBytes> list;
  for (const FormatTraits& traits : kFormats) {
    const uint64_t of_format = bytes[static_cast<size_t>(traits.format)];
    if (of_format > 0) list.push_back({traits.format, of_format});
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const FormatBytes& a, const FormatBytes& b) { return a.bytes > b.bytes; });
  return list;
}

std::optional<DType> WeightMap::matrix_dtype() const {
  const std::vector<FormatBytes> formats = matrix_formats();
  const DType first = compute_dtype(formats.front().format);
  const bool same = std::all_of(formats.begin(), formats.end(), [&](const FormatBytes& entry) {
    return compute_dtype(entry.format) == first;
  });
  return same ? std::optional(first) : std::nullopt;
}

DType WeightMap::kv_dtype() const {
  std::array<double, 3> values{};
  for (const FormatBytes& entry : matrix_formats()) {
    const FormatTraits& traits = traits_of(entry.format);
    values[static_cast<size_t>(compute_dtype(entry.format))] +=
        static_cast<double>(entry.bytes) / traits.block_bytes * traits.block_values;
  }
  return static_cast<DType>(std::max_element(values.begin(), values.end()) - values.begin());
}

namespace {

/// All but what `map` uses, and the rotation speeds that old checkpoints keep and nobody reads.
std::vector<std::string> unused_tensors(const WeightMap& map, const Checkpoint& checkpoint) {
  std::unordered_set<std::string> used = {map.embed.tensors[0].name};
  for (const LayerSpec& layer : map.layers) {
    for (const TensorSpec& tensor : layer.tensors) used.insert(tensor.name);
  }
  std::vector<std::string> unused;
  for (const TensorEntry& entry : checkpoint.tensors()) {
    const bool speeds = entry.name.ends_with("rotary_emb.inv_freq") ||
                        entry.name == kGgufRopeFactors || entry.name == kGgufRopeLong ||
                        entry.name == kGgufRopeShort;
    if (!speeds && !used.contains(entry.name)) unused.push_back(entry.name);
  }
  return unused;
}

}  // namespace

WeightMap map_weights(const ModelConfig& config, const Checkpoint& checkpoint) {
  WeightMap map;
  map.program = model_program(config);
  WeightSpec table = embedding_weight(config);
  const bool has_table = checkpoint.has(stored_name(table.name, config, checkpoint));
  const bool has_head = checkpoint.has(stored_name(kHeadName, config, checkpoint));
  map.tied = config.tied_embeddings && !(has_table && has_head);
  if (map.tied && !has_table && has_head) table.name = kHeadName;
  const auto add_layer = [&](std::string name, const std::vector<WeightSpec>& specs) {
    LayerSpec layer{std::move(name), {}};
    std::vector<Weight> weights;
    for (const WeightSpec& spec : specs) {
      Found found = locate(spec, config, checkpoint);
      layer.tensors.push_back(std::move(found.tensor));
      weights.push_back(std::move(found.weight));
    }
    map.weight_bytes += layer.bytes();
    map.layers.push_back(std::move(layer));
    map.weights.push_back(std::move(weights));
  };
  for (uint32_t i = 0; i < config.layers; ++i) {
    add_layer(fmt::to_string(i), decoder_weights(map.program, i));
  }
  std::vector<WeightSpec> head = head_weights(config);
  head.back() = map.tied ? table : WeightSpec{kHeadName, config.vocab, config.hidden, false};
  add_layer("head", head);
  Found embed = locate(table, config, checkpoint);
  map.embed = {"embed", {embed.tensor}};
  map.embed_weight = embed.weight;
  if (!map.tied) map.weight_bytes += map.embed.bytes();
  map.unused = unused_tensors(map, checkpoint);
  return map;
}

}  // namespace spillway
