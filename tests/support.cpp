#include "tests/support.h"

#include <unistd.h>

#include <cstdlib>
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

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "spillway-test-XXXXXX").string();
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

}  // namespace spillway::test
