#include "tiers/layer_layout.h"

#include <random>

#include "core/units.h"
#include "tests/support.h"

namespace spillway {
namespace {

/// Shards on file systems that ask for 4 KiB to 1 MiB, mixed: nothing aborts, every chunk is legal
/// for its own file and fits the slab that the plan makes, places in the blob have one grain.
TEST(LayerLayout, OneAlignmentPerPlan) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 200; ++round) {
    std::vector<FileShape> files(1 + random() % 4);
    for (FileShape& file : files) file.alignment = 4096u << random() % 9;
    std::vector<LayerSpec> layers(1 + random() % 3);
    for (LayerSpec& layer : layers) {
      for (uint64_t t = 0; t < 1 + random() % 5; ++t) {
        const auto index = static_cast<uint32_t>(random() % files.size());
        TensorSpec tensor{"t",
                          index,
                          files[index].bytes + random() % 9000,
                          1 + random() % 300,
                          2 * (1 + random() % 3000),
                          random() % 2 * 16};
        files[index].bytes = tensor.offset + tensor.bytes();
        layer.tensors.push_back(tensor);
      }
    }
    const uint32_t alignment = plan_alignment(files);
    for (const FileShape& file : files) ASSERT_EQ(alignment % file.alignment, 0u);
    const uint64_t chunk_bytes = align_up(64 * kKiB * (1 + random() % 20), alignment);
    for (const BlobLayout layout : {BlobLayout::kInPlace, BlobLayout::kPacked}) {
      for (const Unit& unit : cut_units(layers, files, {256 * kKiB, chunk_bytes, layout})) {
        ASSERT_LE(unit.plan.blob_bytes, unit.home_bytes);
        for (const ReadChunk& chunk : unit.plan.chunks) {
          ASSERT_EQ(chunk.offset % alignment, 0u);
          ASSERT_EQ(chunk.bytes % alignment, 0u);
          ASSERT_TRUE(layout == BlobLayout::kInPlace || chunk.bytes <= chunk_bytes);
          ASSERT_EQ(chunk.blob_offset % alignment, 0u);
        }
      }
    }
  }
}

}  // namespace
}  // namespace spillway
