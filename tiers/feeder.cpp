#include "tiers/feeder.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint32_t kLoadingFills = 4;

uint64_t tag_of(uint32_t fill, uint32_t chunk) {
  return (uint64_t{fill} << 32) | chunk;
}

}  // namespace

Feeder::Feeder(const FeederParts& parts, std::vector<ScheduledUnit> schedule, bool cyclic)
    : parts_(parts),
      schedule_(std::move(schedule)),
      cyclic_(cyclic),
      pump_(*parts.reader, *parts.clock),
      fills_(cyclic ? parts.slots->count() : kLoadingFills),
      slab_uses_(parts.staging == nullptr ? 0 : parts.staging->count()) {
  if (!cyclic_) allow(schedule_.size());
}

bool Feeder::step() {
  bool moved = collect_reads();
  if (parts_.staging != nullptr) moved |= parts_.staging->recycle();
  moved |= publish();
  moved |= submit_reads();
  return moved;
}

FeederWait Feeder::waits_for() const {
  const bool copies = parts_.staging != nullptr && parts_.staging->copying_count() > 0;
  if (copies && slab_wanted_) return FeederWait::kCopy;
  if (reads_in_flight()) return FeederWait::kRead;
  if (copies) return FeederWait::kCopy;
  return refused_ ? FeederWait::kMoment : FeederWait::kModel;
}

bool Feeder::collect_reads() {
  if (pump_.active() == 0) return false;
  const auto finished = pump_.poll();
  for (const uint64_t tag : finished) {
    if (parts_.staging == nullptr) {
      finish_chunk(static_cast<uint32_t>(tag >> 32), static_cast<uint32_t>(tag));
    } else {
      scatter(static_cast<uint32_t>(tag));
    }
  }
  return !finished.empty();
}

/// Copies a slab's pieces to their places; the slab is free again once they ran.
void Feeder::scatter(uint32_t slab) {
  const SlabUse use = slab_uses_[slab];
  const Fill& fill = fills_[use.fill];
  const auto& pieces = unit_of(fill).plan.pieces;
  auto piece =
      std::lower_bound(pieces.begin(), pieces.end(), use.chunk,
                       [](const ScatterPiece& p, uint32_t chunk) { return p.chunk < chunk; });
  const bool on_host = scheduled(fill.sequence).target_on_host;
  for (; piece != pieces.end() && piece->chunk == use.chunk; ++piece) {
    std::byte* target = fill.target + piece->blob_offset;
    const std::byte* source = parts_.staging->data(slab) + piece->chunk_offset;
    if (on_host) {
      std::memcpy(target, source, piece->bytes);
    } else {
      parts_.copy_stream->copy(target, source, piece->bytes);
    }
  }
  if (on_host) {
    parts_.staging->put_back(slab);
  } else {
    parts_.staging->copying(slab, *parts_.copy_stream);
  }
  finish_chunk(use.fill, use.chunk);
}

void Feeder::finish_chunk(uint32_t index, uint32_t chunk) {
  Fill& fill = fills_[index];
  const uint32_t chunks = chunk_count(fill);
  CHECK(chunk < chunks);
  if (++fill.chunks_done == chunks) complete(fill);
}

/// All bytes are there, or on the copy stream in front of `ready`.
void Feeder::complete(Fill& fill) {
  fill.complete = true;
  const bool to_slot = scheduled(fill.sequence).target == nullptr;
  if (to_slot && parts_.copy_stream != nullptr) {
    parts_.copy_stream->record(parts_.slots->ready(fill.slot));
  }
  if (parts_.trace->on()) {
    const bool copied = scheduled(fill.sequence).ram_home != nullptr;
    parts_.trace->span(copied ? TraceLane::kCopy : TraceLane::kRead, scheduled(fill.sequence).unit,
                       fill.begin_ns, parts_.trace->now_ns(), unit_of(fill).bytes);
  }
}

bool Feeder::publish() {
  bool any = false;
  while (fill_count_ > 0 && fills_[first_fill_].complete) {
    const Fill& fill = fills_[first_fill_];
    CHECK(fill.sequence == published_);
    if (scheduled(fill.sequence).target == nullptr) {
      parts_.slots->publish(fill.slot, fill.sequence);
    }
    ++published_;
    first_fill_ = fill_index(1);
    --fill_count_;
    --submitting_;
    any = true;
  }
  return any;
}

bool Feeder::begin_fill() {
  if (fill_count_ == fills_.size() || next_sequence_ >= limit_.load(std::memory_order_acquire)) {
    return false;
  }
  const ScheduledUnit& scheduled_unit = scheduled(next_sequence_);
  Fill fill;
  fill.sequence = next_sequence_;
  fill.target = scheduled_unit.target;
  if (fill.target == nullptr) {
    const bool unified = parts_.copy_stream == nullptr;
    const auto slot = parts_.slots->take_free(unified);
    if (!slot) return false;
    fill.slot = *slot;
    fill.target = parts_.slots->data(*slot);
    // The copies wait for the slot's last use on the device; the CPU goes on.
    if (!unified) parts_.copy_stream->wait(parts_.slots->consumed(*slot));
  }
  if (parts_.trace->on()) fill.begin_ns = parts_.trace->now_ns();
  const uint32_t index = fill_index(fill_count_);
  fills_[index] = fill;
  ++fill_count_;
  ++next_sequence_;
  if (scheduled_unit.ram_home != nullptr) {
    CHECK(parts_.copy_stream != nullptr);
    if (scheduled_unit.home_pinned) {
      copy_home(fill);
      complete(fills_[index]);
    }
  }
  return true;
}

void Feeder::copy_home(const Fill& fill) {
  const ScheduledUnit& from = scheduled(fill.sequence);
  const uint64_t bytes = unit_of(fill).plan.blob_bytes;
  const uint64_t first = from.home_border_bytes == 0 ? bytes : from.home_border_bytes;
  parts_.copy_stream->copy(fill.target, from.ram_home, std::min(first, bytes));
  if (first < bytes) {
    parts_.copy_stream->copy(fill.target + first, from.ram_home + first, bytes - first);
  }
}

uint32_t Feeder::chunk_count(const Fill& fill) const {
  const ScheduledUnit& from = scheduled(fill.sequence);
  if (through_slabs(from)) {
    const uint64_t slab_bytes = parts_.staging->slab_bytes();
    return static_cast<uint32_t>(ceil_div(unit_of(fill).plan.blob_bytes, slab_bytes));
  }
  return from.ram_home != nullptr ? 0 : static_cast<uint32_t>(unit_of(fill).plan.chunks.size());
}

std::optional<uint32_t> Feeder::take_slab() {
  const auto slab = parts_.staging->take_free();
  slab_wanted_ = !slab;
  return slab;
}

/// A slab's worth of a home that could not be pinned: the CPU copies it, the device goes on from
/// there.
bool Feeder::stage_home(uint32_t index) {
  const auto slab = take_slab();
  if (!slab) return false;
  Fill& fill = fills_[index];
  const uint64_t slab_bytes = parts_.staging->slab_bytes();
  const uint64_t at = fill.next_chunk * slab_bytes;
  const uint64_t bytes = std::min(slab_bytes, unit_of(fill).plan.blob_bytes - at);
  std::memcpy(parts_.staging->data(*slab), scheduled(fill.sequence).ram_home + at, bytes);
  parts_.copy_stream->copy(fill.target + at, parts_.staging->data(*slab), bytes);
  parts_.staging->copying(*slab, *parts_.copy_stream);
  finish_chunk(index, fill.next_chunk++);
  return true;
}

/// A unit is begun only when all reads before it are on their way: while the disk is the bottleneck
/// few slots are in use, and the ones just used are used again while they are still in cache.
bool Feeder::submit_reads() {
  bool any = false;
  slab_wanted_ = false;
  refused_ = false;
  while (true) {
    while (submitting_ < fill_count_) {
      const uint32_t index = fill_index(submitting_);
      const Fill& fill = fills_[index];
      const uint32_t chunks = chunk_count(fill);
      const bool staged = through_slabs(scheduled(fill.sequence));
      while (fill.next_chunk < chunks) {
        if (!(staged ? stage_home(index) : submit_chunk(index))) return any;
        any = true;
      }
      ++submitting_;
    }
    if (pump_.full() || !begin_fill()) return any;
    any = true;
  }
}

bool Feeder::start(const ReadRequest& request) {
  refused_ = !pump_.start(request);
  return !refused_;
}

bool Feeder::submit_chunk(uint32_t index) {
  if (pump_.full()) return false;
  Fill& fill = fills_[index];
  const ReadChunk& chunk = unit_of(fill).plan.chunks[fill.next_chunk];
  ReadRequest request;
  request.file = parts_.files[chunk.file];
  request.offset = chunk.offset;
  request.bytes = chunk.bytes;
  request.needed = chunk.needed;
  if (parts_.staging == nullptr) {
    request.target = fill.target + chunk.blob_offset;
    request.tag = tag_of(index, fill.next_chunk);
    if (!start(request)) return false;
  } else {
    const auto slab = take_slab();
    if (!slab) return false;
    request.target = parts_.staging->data(*slab);
    request.tag = *slab;
    CHECK(chunk.bytes <= parts_.staging->slab_bytes());
    slab_uses_[*slab] = {index, fill.next_chunk};
    if (!start(request)) {
      parts_.staging->put_back(*slab);
      return false;
    }
  }
  ++fill.next_chunk;
  return true;
}

}  // namespace spillway
