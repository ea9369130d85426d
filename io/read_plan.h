// How scattered byte ranges of files become few aligned reads. Plain data from a pure function.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/direct_file.h"

namespace spillway {

/// Bytes that somebody wants, anywhere in a file.
struct FileRange {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

/// One aligned read. `needed` is smaller than `bytes` only where the file ends.
struct ReadChunk {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;
  uint32_t needed = 0;
  uint64_t blob_offset = 0;  ///< in place: where it lands in the blob
};

/// In a scattered plan: part of a chunk that is copied to its place in the blob.
struct ScatterPiece {
  uint32_t chunk = 0;
  uint32_t chunk_offset = 0;
  uint32_t bytes = 0;
  uint64_t blob_offset = 0;
};

struct ReadPlan {
  std::vector<ReadChunk> chunks;
  std::vector<ScatterPiece> pieces;    ///< by chunk, ascending; empty in place
  std::vector<uint64_t> view_offsets;  ///< where each wanted range starts in the blob
  uint64_t blob_bytes = 0;
  uint64_t read_bytes = 0;  ///< sum of chunk bytes, alignment included
};

/// What a plan must know of each file.
struct FileShape {
  uint64_t bytes = 0;
  uint32_t alignment = 4096;
};

/// The one alignment of a plan over all these files: the largest of theirs.
uint32_t plan_alignment(std::span<const FileShape> files);

/// Chunks are of about `chunk_bytes`, half as much again at most.
/// Reads land in the blob in the file's own extents and ranges are viewed there (unified memory).
/// Ranges whose aligned blocks touch share an extent; gaps are never read over, so that a blob
/// never exceeds the sum of its ranges, each rounded out to its blocks.
ReadPlan plan_in_place(std::span<const FileRange> ranges, std::span<const FileShape> files,
                       uint64_t chunk_bytes);

/// Reads land in slabs of `chunk_bytes`; pieces are copied so that each range starts at a multiple
/// of `view_alignment` in the blob (a device with memory of its own).
ReadPlan plan_scattered(std::span<const FileRange> ranges, std::span<const FileShape> files,
                        uint64_t chunk_bytes, uint64_t view_alignment);

}  // namespace spillway
