// Shared by all tests: seeds, temporary folders, test data, small checkpoints.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/weight_format.h"

namespace spillway::test {

/// Seed of this run: SPILLWAY_SEED, else fresh each time. Printed by every failing test that uses
/// it, through SCOPED_TRACE(seed_note(seed)).
uint64_t run_seed();
std::string seed_note(uint64_t seed);

/// A folder that is removed at the end of the test.
class TempDir {
 public:
  TempDir();
  explicit TempDir(const std::filesystem::path& parent);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Real models and tokenizers; empty when they are not on this machine.
std::filesystem::path test_data();

void write_file(const std::filesystem::path& path, const std::string& content);
std::string read_file(const std::filesystem::path& path);

/// True when this program holds the CUDA device: the real one, or the simulated one.
#ifdef SPILLWAY_TEST_CUDA
constexpr bool kCudaBuilt = true;
#else
constexpr bool kCudaBuilt = false;
#endif

/// True when that device is the simulated one, which takes its time.
#ifdef SPILLWAY_CUDA_SIMULATED
constexpr bool kCudaSimulated = true;
#else
constexpr bool kCudaSimulated = false;
#endif

/// `count` values of `format` as it stores them, random in every bit but those of block scales,
/// which make values as large as `magnitude` or so, of either sign where the format has signs.
std::vector<std::byte> random_weights(WeightFormat format, uint64_t count, float magnitude,
                                      std::mt19937_64& random);

/// Message of the Error that `action` throws; fails the test when it throws none.
std::string error_of(const std::function<void()>& action);

/// 40 MB in six layers: more than a budget of 40 MiB holds.
void write_streamed_model(const std::filesystem::path& folder);

/// A notice sink that keeps what it is told.
struct Notices {
  std::vector<std::string> lines;
  std::function<void(const std::string&)> sink() {
    return [this](const std::string& line) { lines.push_back(line); };
  }
};

/// Where a format's blocks have f16 numbers.
std::vector<size_t> half_places(WeightFormat format);

}  // namespace spillway::test

/// Skips with a message where no GPU can be used.
#define SPILLWAY_NEEDS_CUDA()                                          \
  if (const auto chosen = choose_device(); chosen.name.front() != 'c') \
  GTEST_SKIP() << "no CUDA device: " << chosen.reason

/// Skips with a message where the real test data is absent.
#define SPILLWAY_NEEDS_TEST_DATA()                                                     \
  if (::spillway::test::test_data().empty())                                           \
  GTEST_SKIP() << "no test data: set SPILLWAY_TEST_DATA to a folder with models/ and " \
                  "tokenizers/"
