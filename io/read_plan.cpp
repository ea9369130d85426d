#include "io/read_plan.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// A run of ranges (indices in file order) that one aligned stretch of the file covers.
struct Extent {
  uint32_t file = 0;
  uint64_t begin = 0;  // aligned
  uint64_t end = 0;    // aligned
  std::vector<size_t> ranges;
};

std::vector<Extent> extents_of(std::span<const FileRange> ranges,
                               std::span<const FileShape> files) {
  std::vector<size_t> order(ranges.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(ranges[a].file, ranges[a].offset) <
           std::pair(ranges[b].file, ranges[b].offset);
  });
  std::vector<Extent> extents;
  for (const size_t index : order) {
    const FileRange& range = ranges[index];
    const FileShape& file = files[range.file];
    CHECK(range.bytes > 0 && range.offset + range.bytes <= file.bytes);
    const uint64_t begin = align_down(range.offset, file.alignment);
    const uint64_t end = align_up(range.offset + range.bytes, file.alignment);
    if (extents.empty() || extents.back().file != range.file || begin > extents.back().end) {
      extents.push_back({range.file, begin, end, {}});
    }
    extents.back().end = std::max(extents.back().end, end);
    extents.back().ranges.push_back(index);
  }
  return extents;
}

/// Cuts an extent into aligned chunks of nearly equal size: a tail of one block would cost a read
/// of its own. `longest` bounds them where they must fit a slab.
void add_chunks(ReadPlan& plan, const Extent& extent, const FileShape& file, uint64_t chunk_bytes,
                bool longest, uint64_t blob_offset) {
  const uint64_t length = extent.end - extent.begin;
  const uint64_t count = longest ? ceil_div(length, chunk_bytes)
                                 : std::max<uint64_t>(1, (length + chunk_bytes / 2) / chunk_bytes);
  const uint64_t each = align_up(ceil_div(length, count), file.alignment);
  for (uint64_t at = extent.begin; at < extent.end; at += each) {
    ReadChunk chunk;
    chunk.file = extent.file;
    chunk.offset = at;
    chunk.bytes = static_cast<uint32_t>(std::min(each, extent.end - at));
    chunk.needed = static_cast<uint32_t>(std::min<uint64_t>(chunk.bytes, file.bytes - at));
    chunk.blob_offset = blob_offset + (at - extent.begin);
    plan.read_bytes += chunk.bytes;
    plan.chunks.push_back(chunk);
  }
}

/// Cuts one range at the chunk borders of its extent.
void add_pieces(ReadPlan& plan, const FileRange& range, size_t first_chunk, uint64_t blob_offset) {
  uint64_t at = range.offset;
  const uint64_t end = range.offset + range.bytes;
  for (size_t i = first_chunk; at < end; ++i) {
    const ReadChunk& chunk = plan.chunks[i];
    const uint64_t chunk_end = chunk.offset + chunk.bytes;
    if (at >= chunk_end) continue;
    ScatterPiece piece;
    piece.chunk = static_cast<uint32_t>(i);
    piece.chunk_offset = static_cast<uint32_t>(at - chunk.offset);
    piece.bytes = static_cast<uint32_t>(std::min(end, chunk_end) - at);
    piece.blob_offset = blob_offset + (at - range.offset);
    plan.pieces.push_back(piece);
    at += piece.bytes;
  }
}

}  // namespace

uint32_t plan_alignment(std::span<const FileShape> files) {
  uint32_t alignment = 1;
  for (const FileShape& file : files) {
    CHECK(std::has_single_bit(file.alignment));  // so that the largest is a multiple of all
    alignment = std::max(alignment, file.alignment);
  }
  return alignment;
}

ReadPlan plan_in_place(std::span<const FileRange> ranges, std::span<const FileShape> files,
                       uint64_t chunk_bytes) {
  ReadPlan plan;
  plan.view_offsets.resize(ranges.size());
  for (const Extent& extent : extents_of(ranges, files)) {
    const FileShape& file = files[extent.file];
    const uint64_t blob_offset = align_up(plan.blob_bytes, file.alignment);
    add_chunks(plan, extent, file, align_up(chunk_bytes, file.alignment), false, blob_offset);
    for (const size_t index : extent.ranges) {
      plan.view_offsets[index] = blob_offset + (ranges[index].offset - extent.begin);
    }
    plan.blob_bytes = blob_offset + (extent.end - extent.begin);
  }
  return plan;
}

ReadPlan plan_scattered(std::span<const FileRange> ranges, std::span<const FileShape> files,
                        uint64_t chunk_bytes, uint64_t view_alignment) {
  ReadPlan plan;
  plan.view_offsets.resize(ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    plan.view_offsets[i] = plan.blob_bytes;
    plan.blob_bytes = align_up(plan.blob_bytes + ranges[i].bytes, view_alignment);
  }
  for (const Extent& extent : extents_of(ranges, files)) {
    const FileShape& file = files[extent.file];
    const size_t first_chunk = plan.chunks.size();
    add_chunks(plan, extent, file, align_up(chunk_bytes, file.alignment), true, 0);
    for (const size_t index : extent.ranges) {
      add_pieces(plan, ranges[index], first_chunk, plan.view_offsets[index]);
    }
  }
  std::stable_sort(plan.pieces.begin(), plan.pieces.end(),
                   [](const ScatterPiece& a, const ScatterPiece& b) { return a.chunk < b.chunk; });
  return plan;
}

}  // namespace spillway
