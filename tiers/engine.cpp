#include "tiers/engine.h"

#include <algorithm>

#include "core/error.h"
#include "core/system_memory.h"

namespace spillway {
namespace {

const TensorSpec& embedding_table(const StreamPlan& plan) {
  if (plan.tied_layer < 0) return plan.embed.tensors[0];
  return plan.layers[static_cast<size_t>(plan.tied_layer)].tensors[plan.tied_tensor];
}

}  // namespace

Engine::Engine(const StreamPlan& plan, EngineParts parts)
    : plan_(plan),
      parts_(std::move(parts)),
      store_(*parts_.device, *parts_.arena, plan.units, plan.placement, parts_.files),
      slots_(*parts_.device, *parts_.arena, plan.placement.slots, plan.placement.slot_bytes),
      rows_(embedding_table(plan), *parts_.files[embedding_table(plan).file], parts_.readers,
            *parts_.clock, *parts_.stop) {
  if (!parts_.device->unified()) {
    staging_ =
        std::make_unique<StagingRing>(*parts_.device, plan.placement.slabs, plan.chunk_bytes);
    copy_stream_ = parts_.device->make_stream(StreamKind::kCopy);
  }
  if (!plan.embed_units.empty() && plan.placement.embed_tier == Tier::kRam) {
    uint64_t bytes = 0;
    for (const Unit& unit : plan.embed_units) bytes += unit.home_bytes;
    embed_home_ = HugeBuffer(bytes);
    std::byte* next = embed_home_.data();
    for (const Unit& unit : plan.embed_units) {
      embed_homes_.push_back(next);
      next += unit.home_bytes;
    }
  }
}

Engine::~Engine() {
  stop();
}

FeederParts Engine::feeder_parts(BlockReader& reader, std::span<const Unit> units, bool in_place) {
  FeederParts parts;
  parts.units = units;
  parts.files = parts_.files;
  parts.reader = &reader;
  parts.slots = &slots_;
  parts.clock = parts_.clock;
  parts.trace = parts_.trace;
  if (!in_place) {
    parts.staging = staging_.get();
    parts.copy_stream = copy_stream_.get();
  }
  return parts;
}

void Engine::load(const LoadProgress& progress) {
  std::vector<ScheduledUnit> resident;
  std::vector<ScheduledUnit> embed;
  uint64_t total_bytes = 0;
  for (uint32_t u = 0; u < plan_.units.size(); ++u) {
    if (store_.home(u) == nullptr || store_.mapped()) continue;
    ScheduledUnit unit{u, nullptr, store_.home(u)};
    unit.target_on_host = store_.tier(u) == Tier::kRam;
    resident.push_back(unit);
    total_bytes += plan_.units[u].bytes;
  }
  for (uint32_t u = 0; u < embed_homes_.size(); ++u) {
    embed.push_back({u, nullptr, embed_homes_[u]});
    total_bytes += plan_.embed_units[u].bytes;
  }
  uint64_t done_bytes = 0;
  const bool unified = parts_.device->unified();
  if (!unified) {
    store_.pin(*parts_.device, [&](uint64_t pinned_bytes) {
      progress("pinning", std::min(pinned_bytes, store_.ram_bytes()), store_.ram_bytes());
      return !parts_.stop->requested();
    });
    if (parts_.stop->requested()) throw Stopped{};
  }
  load_units(plan_.units, std::move(resident), unified, done_bytes, total_bytes, progress);
  load_units(plan_.embed_units, std::move(embed), true, done_bytes, total_bytes, progress);
  place_embedding_rows();
  rows_.prepare();
}

void Engine::load_units(std::span<const Unit> units, std::vector<ScheduledUnit> schedule,
                        bool in_place, uint64_t& done_bytes, uint64_t total_bytes,
                        const LoadProgress& progress) {
  if (schedule.empty()) return;
  const auto reader = parts_.readers(plan_.io_depth);
  Feeder feeder(feeder_parts(*reader, units, in_place), std::move(schedule), false);
  const StopSubscription wakes = parts_.stop->on_request([&feeder] { feeder.wake(); });
  try {
    for (uint64_t published = 0; !feeder.done();) {
      if (parts_.stop->requested()) throw Stopped{};
      if (!feeder.step()) {
        const FeederWait wait = feeder.waits_for();
        if (wait == FeederWait::kRead) feeder.wait_for_read();
        if (wait == FeederWait::kCopy) feeder.wait_for_copy();
      }
      for (; published < feeder.published(); ++published) {
        done_bytes += units[feeder.scheduled(published).unit].bytes;
        progress("loading", done_bytes, total_bytes);
      }
    }
  } catch (...) {
    if (!feeder.drain()) abandon_targets();
    settle_copies();
    throw;
  }
  if (copy_stream_ != nullptr) {  // the slabs and homes are at rest before anybody uses them
    copy_stream_->sync();
    if (staging_ != nullptr) staging_->recycle();
  }
}

/// Rows of the input embeddings that lie in RAM need no reads.
void Engine::place_embedding_rows() {
  if (plan_.tied_layer < 0) {
    if (embed_homes_.empty()) return;
    return add_embedding_units(plan_.embed_units, 0, [&](size_t u) { return embed_homes_[u]; });
  }
  for (uint32_t u = 0; u < plan_.units.size(); ++u) {
    const Unit& unit = plan_.units[u];
    const bool holds = unit.layer == static_cast<uint32_t>(plan_.tied_layer);
    if (!holds || parts_.device->unified() || store_.tier(u) != Tier::kGpu) continue;
    for (const Part& part : unit.parts) {
      if (part.tensor != plan_.tied_tensor) continue;
      device_rows_.push_back({part.first_row, part.rows, store_.home(u) + part.blob_offset});
    }
  }
  add_embedding_units(plan_.units, plan_.tied_tensor, [&](size_t u) -> const std::byte* {
    const bool holds = plan_.units[u].layer == static_cast<uint32_t>(plan_.tied_layer);
    const bool host =
        parts_.device->unified() || store_.tier(static_cast<uint32_t>(u)) == Tier::kRam;
    return holds && host ? store_.home(static_cast<uint32_t>(u)) : nullptr;
  });
}

void Engine::add_embedding_units(std::span<const Unit> units, uint32_t tensor,
                                 const std::function<const std::byte*(size_t)>& home) {
  for (size_t u = 0; u < units.size(); ++u) {
    const std::byte* blob = home(u);
    if (blob == nullptr) continue;
    for (const Part& part : units[u].parts) {
      if (part.tensor == tensor) {
        rows_.add_resident(part.first_row, part.rows, blob + part.blob_offset);
      }
    }
  }
}

/// Reads that a drive has not answered may still write there, at any time: it is never freed.
void Engine::abandon_targets() noexcept {
  abandoned_ = true;
  slots_.leak();
  if (staging_ != nullptr) staging_->leak();
  store_.leak();
  embed_home_.leak();
}

void Engine::start() {
  stop();
  CHECK(leases_ == 0);
  if (abandoned_) {
    throw Error("the drive has not answered reads of the run before; start the program again");
  }
  // The old run's, in the order of their needs; a ring belongs to the thread that used it.
  thread_.reset();
  feeder_.reset();
  reader_.reset();
  slots_.reset();
  if (staging_ != nullptr) staging_->reset();
  registered_ = {};
  next_sequence_ = 0;
  stats_ = {};
  release_error_ = nullptr;
  std::vector<ScheduledUnit> schedule;
  for (uint32_t u = 0; u < plan_.units.size(); ++u) {
    if (store_.usable_in_place(u)) continue;
    ScheduledUnit unit{u, store_.home(u), nullptr};
    if (unit.ram_home != nullptr) {
      unit.home_pinned = store_.pinned(u);
      unit.home_border_bytes = store_.pin_border(u);
    }
    schedule.push_back(unit);
  }
  reader_ = parts_.readers(plan_.io_depth);
  reader_name_ = store_.mapped() ? "mmap" : reader_->name();
  mapped_reads_begin_ = process_read_bytes();
  if (!schedule.empty()) start_feeder(std::move(schedule));
  running_ = true;
}

/// All or nothing: where the thread cannot be had there is no feeder either.
void Engine::start_feeder(std::vector<ScheduledUnit> schedule) {
  const FeederParts parts = feeder_parts(*reader_, plan_.units, parts_.device->unified());
  const std::span<std::byte> arena = staging_ != nullptr ? staging_->arena() : slots_.arena();
  if (plan_.register_buffers) registered_ = reader_->register_buffers({&arena, 1});
  auto feeder = std::make_unique<Feeder>(parts, std::move(schedule), true);
  thread_ = std::make_unique<FeederThread>(*feeder, *parts_.stop);
  feeder_ = std::move(feeder);
}

void Engine::allow_passes(uint64_t passes) {
  if (feeder_ == nullptr) return;
  feeder_->allow(passes * feeder_->schedule_size());
  thread_->wake();
}

void Engine::stop() noexcept {
  if (thread_ != nullptr && !thread_->stop() && !abandoned_) abandon_targets();
  settle_copies();
  running_ = false;
}

/// Copies under way read slabs and homes that may go next. A device that failed has none.
void Engine::settle_copies() noexcept {
  try {
    if (copy_stream_ != nullptr) copy_stream_->sync();
  } catch (...) {
    return;  // the error that led here was reported already, or the next use of the device reports
  }
}

bool Engine::at_hand(uint32_t unit) const {
  if (store_.usable_in_place(unit)) return !store_.mapped();
  return parts_.device->unified() && slots_.holds(next_sequence_);
}

LayerLease Engine::acquire(uint32_t unit, Stream& compute) {
  parts_.stop->check();  // always: while nothing stalls, nothing else looks
  if (release_error_ != nullptr) std::rethrow_exception(release_error_);
  const Unit& wanted = plan_.units[unit];
  if (store_.usable_in_place(unit)) {
    if (store_.mapped()) store_.check_mapped_files(unit);
    return LayerLease(nullptr, &wanted, store_.home(unit), 0, nullptr);
  }
  CHECK(running_);
  const uint64_t sequence = next_sequence_++;
  CHECK(feeder_->scheduled(sequence).unit == unit);
  auto slot = slots_.try_acquire(sequence);
  if (!slot) {
    const int64_t begin_ns = parts_.clock->now_ns();
    thread_->wait_published(sequence);
    slot = slots_.try_acquire(sequence);
    CHECK(slot.has_value());
    const int64_t end_ns = parts_.clock->now_ns();
    stats_.stall_ns += end_ns - begin_ns;
    parts_.trace->span(TraceLane::kStall, unit, begin_ns, end_ns, wanted.bytes);
  }
  if (store_.home(unit) == nullptr) stats_.nvme_bytes += wanted.plan.read_bytes;
  if (!parts_.device->unified()) {
    stats_.copied_bytes += wanted.bytes;
    compute.wait(slots_.ready(*slot));
  }
  ++leases_;
  return LayerLease(this, &wanted, slots_.data(*slot), *slot, &compute);
}

void Engine::release(uint32_t slot, Stream& compute) noexcept {
  --leases_;
  try {
    compute.record(slots_.consumed(slot));
  } catch (...) {
    if (release_error_ == nullptr) release_error_ = std::current_exception();
    return;  // the slot stays leased: nobody may write it
  }
  slots_.release(slot);
  thread_->wake();
}

FeedStats Engine::take_stats() {
  if (store_.mapped()) {  // only the system knows what it read
    const uint64_t reads = process_read_bytes();
    stats_.nvme_bytes = reads - std::exchange(mapped_reads_begin_, reads);
  }
  return std::exchange(stats_, {});
}

void Engine::gather_rows(std::span<const uint32_t> ids, std::byte* out) {
  const int64_t begin_ns = parts_.clock->now_ns();
  const uint64_t read_bytes = rows_.gather(ids, out);
  if (read_bytes == 0) return;  // copied from RAM
  stats_.nvme_bytes += read_bytes;
  stats_.stall_ns += parts_.clock->now_ns() - begin_ns;
}

}  // namespace spillway
