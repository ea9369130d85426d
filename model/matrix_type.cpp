#include "model/matrix_type.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "core/error.h"
#include "model/gguf_names.h"

namespace spillway {
namespace {

/// general.file_type: https://github.com/ggml-org/llama.cpp, include/llama.h, llama_ftype.
constexpr auto kMatrixTypes = std::to_array<MatrixType>({
    {"BF16", WeightFormat::kBF16, false, 32},
    {"F16", WeightFormat::kF16, false, 1},
    {"F32", WeightFormat::kF32, false, 0},
    {"Q8_0", WeightFormat::kQ8_0, false, 7},
    {"Q4_0", WeightFormat::kQ4_0, false, 2},
    {"Q4_1", WeightFormat::kQ4_1, false, 3},
    {"Q5_0", WeightFormat::kQ5_0, false, 8},
    {"Q5_1", WeightFormat::kQ5_1, false, 9},
    {"Q2_K", WeightFormat::kQ2_K, false, 10},
    {"Q3_K", WeightFormat::kQ3_K, false, 11},
    {"Q4_K", WeightFormat::kQ4_K, false, 14},
    {"Q4_K_M", WeightFormat::kQ4_K, true, 15},
    {"Q5_K", WeightFormat::kQ5_K, false, 16},
    {"Q6_K", WeightFormat::kQ6_K, false, 18},
    {"IQ4_NL", WeightFormat::kIQ4_NL, false, 25},
    {"IQ4_XS", WeightFormat::kIQ4_XS, false, 30},
    {"MXFP4", WeightFormat::kMXFP4, false, 38},
});

/// The number behind "blk."; empty for tensors outside of layers.
std::optional<uint32_t> layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "blk.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  uint32_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc() ? std::optional(layer) : std::nullopt;
}

/// The first eighth of the layers, the last, and every third between.
bool gets_more_bits(uint32_t layer, uint32_t layers) {
  const uint32_t eighth = layers / 8;
  return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

bool matters_more(std::string_view name, uint32_t layers, bool tied) {
  const auto layer = layer_of(name);
  if (!layer) return name == "output.weight" || (tied && name == "token_embd.weight");
  const bool candidate = name.ends_with(".attn_v.weight") || name.ends_with(".ffn_down.weight");
  return candidate && gets_more_bits(*layer, layers);
}

WeightFormat wanted_format(const MatrixType& type, const ModelConfig& config,
                           const WeightSpec& spec) {
  const auto name = gguf_tensor_name(spec.name, config.architecture);
  CHECK(name);
  return type.format_of(*name, config.layers, config.tied_embeddings);
}

}  // namespace

WeightFormat MatrixType::format_of(std::string_view gguf_name, uint32_t layers, bool tied) const {
  return mixed && matters_more(gguf_name, layers, tied) ? WeightFormat::kQ6_K : format;
}

std::optional<MatrixType> parse_matrix_type(std::string_view name) {
  const auto same = [&](const MatrixType& type) {
    return std::equal(name.begin(), name.end(), type.name.begin(), type.name.end(),
                      [](unsigned char a, unsigned char b) { return std::toupper(a) == b; });
  };
  const auto found = std::find_if(kMatrixTypes.begin(), kMatrixTypes.end(), same);
  return found == kMatrixTypes.end() ? std::nullopt : std::optional(*found);
}

std::vector<std::string> matrix_type_names() {
  std::vector<std::string> names;
  names.reserve(kMatrixTypes.size());
  for (const MatrixType& type : kMatrixTypes) names.emplace_back(type.name);
  return names;
}

MatrixType matrix_type(WeightFormat format) {
  return *std::find_if(kMatrixTypes.begin(), kMatrixTypes.end(), [&](const MatrixType& type) {
    return type.format == format && !type.mixed;
  });
}

WeightFormat format_for_row(WeightFormat format, uint64_t cols) {
  const auto fits = [&](WeightFormat one) { return cols % traits_of(one).block_values == 0; };
  if (fits(format)) return format;
  WeightFormat smaller = WeightFormat::kF16;
  switch (format) {
    case WeightFormat::kQ4_K:
      smaller = WeightFormat::kQ5_0;
      break;
    case WeightFormat::kQ5_K:
      smaller = WeightFormat::kQ5_1;
      break;
    case WeightFormat::kQ6_K:
      smaller = WeightFormat::kQ8_0;
      break;
    case WeightFormat::kQ2_K:
    case WeightFormat::kQ3_K:
    case WeightFormat::kIQ4_XS:
      smaller = WeightFormat::kIQ4_NL;
      break;
    default:
      break;
  }
  return fits(smaller) ? smaller : WeightFormat::kF16;
}

std::string other_formats(const ModelConfig& config, const MatrixType& type) {
  std::array<uint32_t, kFormats.size()> counts{};
  for (const WeightSpec& spec : model_weights(config)) {
    if (spec.vector) continue;
    const WeightFormat wanted = wanted_format(type, config, spec);
    const WeightFormat format = format_for_row(wanted, spec.cols);
    if (format != wanted) ++counts[static_cast<size_t>(format)];
  }
  std::vector<std::string> parts;
  for (const FormatTraits& traits : kFormats) {
    const uint32_t count = counts[static_cast<size_t>(traits.format)];
    if (count > 0) parts.push_back(fmt::format("{} matrices {}", count, traits.name));
  }
  if (parts.empty()) return "";
  return fmt::format("rows are no whole number of blocks: {}", fmt::join(parts, ", "));
}

WeightFormat format_in(const MatrixType& type, const ModelConfig& config, const WeightSpec& spec,
                       bool in_gguf) {
  if (spec.vector && in_gguf) return WeightFormat::kF32;
  return format_for_row(wanted_format(type, config, spec), spec.cols);
}

}  // namespace spillway
