// The layout of units in a mapping of their files: byte for byte what reading them gives.
#include "tiers/mapped_units.h"

#include <unistd.h>

#include <memory>
#include <random>

#include "core/error.h"
#include "core/units.h"
#include "tests/sim/denied_calls.h"
#include "tests/sim/sim_disk.h"
#include "tests/support.h"

namespace spillway {
namespace {

TEST(MappedUnits, HoldWhatTheFileHolds) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  test::TempDir dir;
  ReadFile shape;
  shape.path = "model";
  std::vector<LayerSpec> layers;
  for (int i = 0; i < 5; ++i) {
    LayerSpec layer{std::to_string(i), {}};
    for (const uint64_t rows : {uint64_t{1}, 1 + random() % 300, 1 + random() % 50}) {
      layer.tensors.push_back(
          {"t", 0, shape.bytes + random() % 9000, rows, 1 + random() % 900, 16});
      shape.bytes = layer.tensors.back().offset + layer.tensors.back().bytes();
    }
    layers.push_back(layer);
  }
  std::string content(shape.bytes, '\0');
  for (uint64_t i = 0; i < shape.bytes; ++i) {
    content[i] = static_cast<char>(test::sim_byte(shape, i));
  }
  test::write_file(dir / "model", content);
  const DirectFile file(dir / "model", DirectChoice::kAuto);
  const FileShape bytes{shape.bytes, kMappingAlignment};
  const auto units = cut_units(layers, {&bytes, 1}, {100 * kKiB, 64 * kKiB, BlobLayout::kInPlace});
  const ReadFile* files[] = {&file.info()};
  MappedUnits first(units, files);
  const MappedUnits mapped = std::move(first);
  for (uint32_t u = 0; u < units.size(); ++u) {
    for (const Part& part : units[u].parts) {
      const TensorSpec& tensor = layers[units[u].layer].tensors[part.tensor];
      for (uint64_t i = 0; i < part.rows * tensor.row_bytes; ++i) {
        ASSERT_EQ(mapped.blob(u)[part.blob_offset + i],
                  test::sim_byte(shape, tensor.offset + part.first_row * tensor.row_bytes + i));
      }
    }
  }
}

/// Before a kernel reads it: an error like any other. While it reads: one line and exit 1.
TEST(MappedUnits, AFileThatShrankIsAnErrorAndNeverASignal) {
  const test::TempDir dir;
  test::write_file(dir / "model", std::string(kMiB, 'x'));
  const DirectFile file(dir / "model", DirectChoice::kAuto);
  const LayerSpec layer{"0", {{"t", 0, 0, kMiB / 1024, 1024, 0}}};
  const FileShape shape{kMiB, kMappingAlignment};
  const auto units = cut_units({&layer, 1}, {&shape, 1}, {kMiB, kMiB, BlobLayout::kInPlace});
  const ReadFile* files[] = {&file.info()};
  EXPECT_EQ(test::in_child([&] {
              const MappedUnits mapped(units, files);
              mapped.check_files(0);
              if (truncate((dir / "model").c_str(), 4096) != 0) return 5;
              const std::string message = test::error_of([&] { mapped.check_files(0); });
              if (message.find("shorter than when it was opened") == std::string::npos) return 2;
              const volatile std::byte* last = mapped.blob(0) + kMiB - 1;
              return *last == std::byte{} ? 3 : 4;  // ends here
            }),
            1);
}

/// A unit asks the system about the files it lies in, not about all of a model's.
TEST(MappedUnits, AUnitLooksAtItsOwnFiles) {
  const test::TempDir dir;
  std::vector<LayerSpec> layers;
  std::vector<std::unique_ptr<DirectFile>> shards;
  std::vector<const ReadFile*> files;
  for (uint32_t i = 0; i < 2; ++i) {
    const auto path = dir / std::to_string(i);
    test::write_file(path, std::string(64 * kKiB, 'x'));
    shards.push_back(std::make_unique<DirectFile>(path, DirectChoice::kAuto));
    files.push_back(&shards.back()->info());
    layers.push_back({std::to_string(i), {{"t", i, 0, 64, 1024, 0}}});
  }
  const std::vector<FileShape> shapes(2, {64 * kKiB, kMappingAlignment});
  const auto units = cut_units(layers, shapes, {kMiB, kMiB, BlobLayout::kInPlace});
  ASSERT_EQ(units.size(), 2u);
  const MappedUnits mapped(units, files);
  ASSERT_EQ(truncate((dir / "1").c_str(), 4096), 0);
  mapped.check_files(0);
  EXPECT_NE(test::error_of([&] { mapped.check_files(1); }).find("/1: it is shorter"),
            std::string::npos);
}

TEST(MappedUnits, AFileThatCannotBeMappedIsOneError) {
  const ReadFile closed{-1, "gone", 100000, 4096, false};
  const LayerSpec layer{"0", {{"t", 0, 0, 10, 1000, 0}}};
  const FileShape shape{closed.bytes, kMappingAlignment};
  const auto units = cut_units({&layer, 1}, {&shape, 1}, {kMiB, kMiB, BlobLayout::kInPlace});
  const ReadFile* files[] = {&closed};
  const std::string message = test::error_of([&] { MappedUnits(units, files); });
  EXPECT_NE(message.find("cannot map gone"), std::string::npos) << message;
}

}  // namespace
}  // namespace spillway
