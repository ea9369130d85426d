// The tiers put together: allocates every arena at start, loads the resident homes, then feeds
// units to a model pass after pass. Owner of store, slots, slabs, readers and the feeder's thread.
//
// Thread rule: one model thread calls; the feeder runs on a thread of its own between start() and
// stop().
//
// Life cycle: load() once, then start() and stop() as often as wanted, also after an error: homes
// stay loaded, everything else begins anew. Leases end before the next start().
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "core/stop.h"
#include "io/open_reader.h"
#include "tiers/feeder.h"
#include "tiers/feeder_thread.h"
#include "tiers/layer_feed.h"
#include "tiers/layer_slots.h"
#include "tiers/layer_store.h"
#include "tiers/planner.h"
#include "tiers/row_source.h"
#include "tiers/staging_ring.h"

namespace spillway {

/// What to stream, decided beforehand. Plain data.
struct StreamPlan {
  std::vector<LayerSpec> layers;
  std::vector<Unit> units;        ///< of the layers, in schedule order
  LayerSpec embed;                ///< the input embeddings: one tensor
  std::vector<Unit> embed_units;  ///< empty when tied to the last layer
  int32_t tied_layer = -1;        ///< layer and tensor that hold the input embeddings, when tied
  uint32_t tied_tensor = 0;
  Placement placement;
  uint64_t chunk_bytes = 0;
  uint32_t io_depth = 0;
  bool register_buffers = true;
};

/// Rows of the input embeddings that lie on a discrete device.
struct DeviceRows {
  uint64_t first_row = 0;
  uint64_t rows = 0;
  const std::byte* data = nullptr;
};

struct EngineParts {
  Device* device = nullptr;
  DeviceArena* arena = nullptr;
  ReaderFactory readers;
  std::vector<const ReadFile*> files;
  Trace* trace = nullptr;
  const Clock* clock = nullptr;
  const StopFlag* stop = nullptr;
};

/// Called while loading with what is being done ("pinning", "loading"), bytes done and in all.
using LoadProgress =
    std::function<void(const char* what, uint64_t done_bytes, uint64_t total_bytes)>;

class Engine final : public LayerFeed {
 public:
  /// Allocates. `plan` outlives the engine.
  Engine(const StreamPlan& plan, EngineParts parts);
  ~Engine() override;

  /// Whether a unit is used in a home, for as long as the engine lives. Not those in mappings of
  /// files, which may become shorter.
  bool in_place(uint32_t unit) const { return store_.usable_in_place(unit) && !store_.mapped(); }
  /// Whether the unit to be acquired next may be while those before it are still leased, so that
  /// all are used at once: it is used in place, or lies in a slot by now. Not in a slot of a
  /// discrete device, whose stream uses one after the other in any case.
  bool at_hand(uint32_t unit) const;

  /// Pins the RAM homes for a discrete device and fills all homes through a Feeder, with the home
  /// as the target. Throws Error, Stopped.
  void load(const LoadProgress& progress);
  /// Begins a run, after the end of the one that is on: starts the feeder's thread, which reads
  /// ahead as far as allow_passes() lets it. Passes count from 0, statistics from nothing. Throws
  /// Error.
  void start();
  /// The feeder may read for passes 0..passes-1: nothing is read that no pass will use.
  void allow_passes(uint64_t passes);
  /// Ends the run and the feeder's thread. Idempotent.
  void stop() noexcept;

  LayerLease acquire(uint32_t unit, Stream& compute) override;
  /// As acquire() does. Throws Stopped when a stop was requested.
  void check_stop() const { parts_.stop->check(); }
  FeedStats take_stats() override;
  /// Copies embedding rows to host memory; counts what was read. Not for rows on the device.
  void gather_rows(std::span<const uint32_t> ids, std::byte* out);
  std::span<const DeviceRows> device_rows() const { return device_rows_; }

  const std::string& reader_name() const { return reader_name_; }
  bool buffers_registered() const { return registered_.bytes > 0; }
  const BufferRegistration& registration() const { return registered_; }
  const LayerStore& store() const { return store_; }

 private:
  void release(uint32_t slot, Stream& compute) noexcept override;
  FeederParts feeder_parts(BlockReader& reader, std::span<const Unit> units, bool in_place);
  void load_units(std::span<const Unit> units, std::vector<ScheduledUnit> schedule, bool in_place,
                  uint64_t& done_bytes, uint64_t total_bytes, const LoadProgress& progress);
  void start_feeder(std::vector<ScheduledUnit> schedule);
  void settle_copies() noexcept;
  void abandon_targets() noexcept;
  void place_embedding_rows();
  void add_embedding_units(std::span<const Unit> units, uint32_t tensor,
                           const std::function<const std::byte*(size_t)>& home);

  const StreamPlan& plan_;
  EngineParts parts_;
  LayerStore store_;
  HugeBuffer embed_home_;
  std::vector<std::byte*> embed_homes_;
  LayerSlots slots_;
  std::unique_ptr<StagingRing> staging_;
  std::unique_ptr<Stream> copy_stream_;
  RowSource rows_;
  std::vector<DeviceRows> device_rows_;
  std::string reader_name_;
  BufferRegistration registered_;
  std::unique_ptr<BlockReader> reader_;
  std::unique_ptr<Feeder> feeder_;
  std::unique_ptr<FeederThread> thread_;
  bool running_ = false;
  bool abandoned_ = false;
  uint32_t leases_ = 0;  // of slots
  uint64_t next_sequence_ = 0;
  FeedStats stats_;
  uint64_t mapped_reads_begin_ = 0;
  std::exception_ptr release_error_;  // a lease's end must not throw; the next acquire() does
};

/// One run of an engine: started by its making, stopped by its end.
class EngineRun {
 public:
  EngineRun(Engine& engine, uint64_t passes) : engine_(engine) {
    engine_.start();
    engine_.allow_passes(passes);
  }
  ~EngineRun() { engine_.stop(); }
  EngineRun(const EngineRun&) = delete;
  EngineRun& operator=(const EngineRun&) = delete;

 private:
  Engine& engine_;
};

}  // namespace spillway
