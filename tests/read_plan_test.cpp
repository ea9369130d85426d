#include "io/read_plan.h"

#include <random>

#include "core/units.h"
#include "tests/support.h"

namespace spillway {
namespace {

struct Case {
  std::vector<FileShape> files;
  std::vector<FileRange> ranges;
  uint64_t chunk_bytes;
};

/// Random non-overlapping ranges with odd offsets, in random order, some at the very end of a file.
Case random_case(std::mt19937_64& random) {
  Case result;
  const auto upto = [&](uint64_t n) { return random() % n; };
  for (uint32_t file = 0; file < 1 + upto(3); ++file) {
    uint64_t at = upto(10000);
    for (uint64_t i = 0; i < 1 + upto(6); ++i) {
      const uint64_t bytes = 1 + upto(upto(2) == 0 ? 100 : 300000);
      result.ranges.push_back({file, at, bytes});
      at += bytes + (upto(2) == 0 ? 0 : upto(200000));
    }
    const uint64_t end = result.ranges.back().offset + result.ranges.back().bytes;
    result.files.push_back({end + (upto(2) == 0 ? 0 : upto(5000)), upto(2) == 0 ? 4096u : 512u});
  }
  std::shuffle(result.ranges.begin(), result.ranges.end(), random);
  result.chunk_bytes = 4096 * (1 + upto(64));
  return result;
}

uint8_t byte_at(uint32_t file, uint64_t offset) {
  return static_cast<uint8_t>((offset * 2654435761u + file * 97) >> 7);
}

void expect_chunks_are_legal(const ReadPlan& plan, const Case& c, uint64_t most_bytes) {
  uint64_t read_bytes = 0;
  for (const ReadChunk& chunk : plan.chunks) {
    const FileShape& file = c.files[chunk.file];
    EXPECT_EQ(chunk.offset % file.alignment, 0u);
    EXPECT_EQ(chunk.bytes % file.alignment, 0u);
    EXPECT_LE(chunk.bytes, most_bytes);
    EXPECT_LE(chunk.offset + chunk.needed, file.bytes);
    EXPECT_LE(chunk.offset + chunk.bytes, align_up(file.bytes, file.alignment));
    EXPECT_GT(chunk.needed, 0u);
    read_bytes += chunk.bytes;
  }
  EXPECT_EQ(read_bytes, plan.read_bytes);
}

std::vector<uint8_t> read_chunk(const ReadChunk& chunk) {
  std::vector<uint8_t> bytes(chunk.bytes, 0xA5);
  for (uint32_t i = 0; i < chunk.needed; ++i) bytes[i] = byte_at(chunk.file, chunk.offset + i);
  return bytes;
}

void expect_views_hold_the_file(const std::vector<uint8_t>& blob, const ReadPlan& plan,
                                const Case& c) {
  for (size_t i = 0; i < c.ranges.size(); ++i) {
    for (uint64_t j = 0; j < c.ranges[i].bytes; ++j) {
      ASSERT_EQ(blob[plan.view_offsets[i] + j], byte_at(c.ranges[i].file, c.ranges[i].offset + j))
          << "range " << i << " byte " << j;
    }
  }
}

TEST(ReadPlan, InPlaceTilesEveryRange) {
  std::mt19937_64 random(test::run_seed());
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(test::seed_note(static_cast<uint64_t>(round)));
    const Case c = random_case(random);
    const ReadPlan plan = plan_in_place(c.ranges, c.files, c.chunk_bytes);
    expect_chunks_are_legal(plan, c, c.chunk_bytes + c.chunk_bytes / 2 + 4096);
    std::vector<uint8_t> blob(plan.blob_bytes, 0xA5);
    for (const ReadChunk& chunk : plan.chunks) {
      ASSERT_EQ(chunk.blob_offset % c.files[chunk.file].alignment, 0u);
      ASSERT_LE(chunk.blob_offset + chunk.bytes, plan.blob_bytes);
      const auto bytes = read_chunk(chunk);
      std::copy(bytes.begin(), bytes.end(),
                blob.begin() + static_cast<ptrdiff_t>(chunk.blob_offset));
    }
    expect_views_hold_the_file(blob, plan, c);
  }
}

TEST(ReadPlan, ScatteredPiecesTileTheBlobExactlyOnce) {
  std::mt19937_64 random(test::run_seed() + 1);
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(test::seed_note(static_cast<uint64_t>(round)));
    const Case c = random_case(random);
    const ReadPlan plan = plan_scattered(c.ranges, c.files, c.chunk_bytes, 256);
    expect_chunks_are_legal(plan, c, c.chunk_bytes);
    std::vector<uint8_t> blob(plan.blob_bytes, 0xA5);
    std::vector<uint8_t> written(plan.blob_bytes, 0);
    uint32_t last_chunk = 0;
    for (const ScatterPiece& piece : plan.pieces) {
      EXPECT_GE(piece.chunk, last_chunk);
      last_chunk = piece.chunk;
      const ReadChunk& chunk = plan.chunks[piece.chunk];
      ASSERT_LE(piece.chunk_offset + piece.bytes, chunk.needed);
      const auto bytes = read_chunk(chunk);
      for (uint32_t i = 0; i < piece.bytes; ++i) {
        blob[piece.blob_offset + i] = bytes[piece.chunk_offset + i];
        EXPECT_EQ(written[piece.blob_offset + i]++, 0);
      }
    }
    uint64_t wanted = 0;
    for (const FileRange& range : c.ranges) wanted += range.bytes;
    EXPECT_EQ(std::count(written.begin(), written.end(), 1), static_cast<ptrdiff_t>(wanted));
    for (const uint64_t offset : plan.view_offsets) EXPECT_EQ(offset % 256, 0u);
    expect_views_hold_the_file(blob, plan, c);
  }
}

TEST(ReadPlan, HostileGapIsNotReadOver) {
  const std::vector<FileShape> files = {{kGiB, 4096}};
  const std::vector<FileRange> ranges = {{0, 0, 100}, {0, kGiB - 100, 100}};
  const ReadPlan plan = plan_in_place(ranges, files, kMiB);
  EXPECT_EQ(plan.read_bytes, 8192u);
}

}  // namespace
}  // namespace spillway
