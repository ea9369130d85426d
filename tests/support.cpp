#include "tests/support.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/stop.h"
#include "model/synthetic.h"

namespace spillway::test {

namespace fs = std::filesystem;

uint64_t run_seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("SPILLWAY_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  }();
  return seed;
}

std::string seed_note(uint64_t seed) {
  return "replay with SPILLWAY_SEED=" + std::to_string(run_seed()) + " (case seed " +
         std::to_string(seed) + ")";
}

TempDir::TempDir() : TempDir(fs::temp_directory_path()) {}

TempDir::TempDir(const fs::path& parent) {
  std::string pattern = (parent / "spillway-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code error;
  fs::remove_all(path_, error);
}

fs::path test_data() {
  const char* given = std::getenv("SPILLWAY_TEST_DATA");
  const fs::path path = given != nullptr ? given : SPILLWAY_DEFAULT_TEST_DATA;
  return fs::is_directory(path / "models") ? path : fs::path();
}

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

namespace {

/// Where a format's blocks have f16 scales, and how large a value of scale 1 may be.
struct BlockScales {
  std::vector<size_t> at;
  float largest;
};
BlockScales scales_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
    case WeightFormat::kMXFP4:
      break;
    case WeightFormat::kQ8_0:
    case WeightFormat::kIQ4_NL:
      return {{0}, 128};
    case WeightFormat::kQ4_0:
      return {{0}, 8};
    case WeightFormat::kQ4_1:
      return {{0, 2}, 15};
    case WeightFormat::kQ5_0:
      return {{0}, 16};
    case WeightFormat::kQ5_1:
      return {{0, 2}, 31};
    case WeightFormat::kQ2_K:
      return {{80, 82}, 15 * 3};
    case WeightFormat::kQ3_K:
      return {{108}, 32 * 4};
    case WeightFormat::kQ4_K:
      return {{0, 2}, 63 * 15};
    case WeightFormat::kQ5_K:
      return {{0, 2}, 63 * 31};
    case WeightFormat::kQ6_K:
      return {{208}, 128 * 32};
    case WeightFormat::kIQ4_XS:
      return {{0}, 32 * 127};
  }
  return {{}, 6};
}

}  // namespace

std::vector<std::byte> random_weights(WeightFormat format, uint64_t count, float magnitude,
                                      std::mt19937_64& random) {
  const FormatTraits& traits = traits_of(format);
  std::vector<std::byte> bytes(row_bytes(format, count));
  if (const auto dtype = plain_dtype(format)) {
    std::uniform_real_distribution<float> uniform(-magnitude, magnitude);
    for (size_t at = 0; at < bytes.size(); at += traits.block_bytes) {
      const float value = uniform(random);
      const uint16_t half = dtype == DType::kBF16 ? bf16_from_f32(value) : f16_from_f32(value);
      if (dtype == DType::kF32) std::memcpy(&bytes[at], &value, 4);
      if (dtype != DType::kF32) std::memcpy(&bytes[at], &half, 2);
    }
    return bytes;
  }
  const BlockScales scales = scales_of(format);
  std::uniform_real_distribution<float> around(0.5f, 1.0f);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t at = 0; at < bytes.size(); at += traits.block_bytes) {
    for (const size_t scale : scales.at) {
      const float sign = random() % 2 == 0 ? 1.0f : -1.0f;
      const uint16_t half = f16_from_f32(sign * around(random) * magnitude / scales.largest);
      std::memcpy(&bytes[at + scale], &half, 2);
    }
    if (format == WeightFormat::kMXFP4) {  // a power of two alone
      bytes[at] = static_cast<std::byte>(127 + std::ilogb(magnitude / scales.largest));
    }
  }
  return bytes;
}

void write_streamed_model(const fs::path& folder) {
  SyntheticOptions options;
  options.model = preset_config("tiny");
  options.model.layers = 6;
  options.model.hidden = 512;
  options.model.intermediate = 2048;
  options.model.heads = options.model.kv_heads = 8;
  options.model.head_dim = 64;
  write_synthetic(folder, options, StopFlag(), [](uint64_t, uint64_t) {});
}

std::vector<size_t> half_places(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_1:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
      return {0, 2};
    case WeightFormat::kQ2_K:
      return {80, 82};
    case WeightFormat::kQ3_K:
      return {108};
    case WeightFormat::kQ6_K:
      return {208};
    case WeightFormat::kMXFP4:
      return {};
    default:
      return {0};
  }
}

}  // namespace spillway::test
