#include "tests/sim/cuda/simt.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

namespace spillway::sim_cuda {
namespace {

namespace context = boost::context;

struct Copy {
  void* shared;
  const void* global;
  unsigned group;
};

void run_copy(const Copy& copy) {
  if (copy.global == nullptr) {
    std::memset(copy.shared, 0, 16);
  } else {
    std::memcpy(copy.shared, copy.global, 16);
  }
}

enum class Wait : uint8_t { kNone, kWarp, kBlock, kDone };

struct Thread {
  context::fiber fiber;
  Index3 index;
  Wait wait = Wait::kDone;
  unsigned exchanges = 0;
  unsigned votes = 0;
  unsigned group = 0;
  std::vector<Copy> copies;
};

/// The threads of one block at a time; fibers are kept from block to block.
class Block {
 public:
  void run(dim3 size, std::mt19937_64& random, const std::function<void()>& body) {
    count_ = size.x * size.y * size.z;
    require(count_ <= 1024 && count_ % 32 == 0, "blocks of whole warps, 1024 threads at most");
    body_ = &body;
    while (threads_.size() < count_) add_thread();
    for (unsigned i = 0; i < count_; ++i) {
      Thread& thread = *threads_[i];
      thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
      thread.wait = Wait::kNone;
      thread.group = 0;
      thread.copies.clear();
    }
    const uint64_t turn = random();
    early_copies = turn % 2 == 0;
    lanes_backwards_ = turn / 2 % 2 == 0;
    const unsigned warps = count_ / 32;
    const unsigned first = static_cast<unsigned>(turn / 8 % warps);
    const unsigned step = turn / 4 % 2 == 0 ? 1 : warps - 1;
    while (true) {
      bool moved = false;
      // Each warp as far as it gets, in any order: the furthest that barriers allow.
      for (unsigned i = 0; i < warps; ++i) moved |= run_warp((first + i * step) % warps);
      if (all(Wait::kDone, 0, count_)) break;
      moved |= release(Wait::kBlock, 0, count_);
      require(moved, "threads wait at different barriers");
    }
  }

  Thread& current() { return *threads_[current_]; }

  /// Ends this thread's turn until the barrier opens.
  void yield(Wait wait) {
    current().wait = wait;
    sink_ = std::move(sink_).resume();
  }

  std::byte payload[2][1024][kMostExchanged];
  bool vote[2][1024];
  bool early_copies = false;  // asynchronous copies happen at once, or as late as they may
  unsigned count() const { return count_; }
  unsigned current_index() const { return current_; }

 private:
  void add_thread() {
    threads_.push_back(std::make_unique<Thread>());
    Thread* thread = threads_.back().get();
    thread->fiber = context::fiber(std::allocator_arg, context::fixedsize_stack(128 * 1024),
                                   [this](context::fiber&& sink) {
                                     sink_ = std::move(sink);
                                     while (true) {
                                       (*body_)();
                                       yield(Wait::kDone);
                                     }
                                     return std::move(sink_);
                                   });
  }
  void resume(unsigned i) {
    current_ = i;
    threadIdx = threads_[i]->index;
    threads_[i]->fiber = std::move(threads_[i]->fiber).resume();
  }
  bool all(Wait wait, unsigned begin, unsigned end) const {
    return std::all_of(threads_.begin() + begin, threads_.begin() + end,
                       [wait](const auto& thread) { return thread->wait == wait; });
  }
  /// Opens a barrier that every thread of the range that has not ended waits at.
  bool release(Wait wait, unsigned begin, unsigned end) {
    bool any = false;
    for (unsigned i = begin; i < end; ++i) {
      if (threads_[i]->wait == wait)
        any = true;
      else if (threads_[i]->wait != Wait::kDone)
        return false;
    }
    for (unsigned i = begin; any && i < end; ++i) {
      if (threads_[i]->wait == wait) threads_[i]->wait = Wait::kNone;
    }
    return any;
  }
  bool run_warp(unsigned warp) {
    bool any = false;
    for (bool moved = true; moved;) {
      moved = false;
      for (unsigned i = 0; i < 32; ++i) {
        const unsigned thread = warp * 32 + (lanes_backwards_ ? 31 - i : i);
        if (threads_[thread]->wait != Wait::kNone) continue;
        resume(thread);
        moved = true;
      }
      // A whole warp: kernels must not leave lanes behind in a warp operation.
      if (all(Wait::kWarp, warp * 32, warp * 32 + 32)) {
        moved |= release(Wait::kWarp, warp * 32, warp * 32 + 32);
      }
      any |= moved;
    }
    return any;
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  bool lanes_backwards_ = false;
  const std::function<void()>* body_ = nullptr;
  context::fiber sink_;
  unsigned count_ = 0;
  unsigned current_ = 0;
};

/// Fibers never end, so that they can serve the next block; they go with the process.
Block& block() {
  static auto* the_block = new Block;
  return *the_block;
}

}  // namespace

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "simulated CUDA: %s (block %u,%u,%u thread %u)\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x);
  std::abort();
}

void run_kernel(dim3 grid, dim3 size, uint64_t seed, const std::function<void()>& body) {
  require(grid.x > 0 && grid.y > 0 && grid.z > 0, "empty grid");
  std::mt19937_64 random(seed);
  gridDim = grid;
  blockDim = size;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        block().run(size, random, body);
      }
    }
  }
}

void block_barrier() {
  block().yield(Wait::kBlock);
}

bool block_any(bool mine) {
  Block& b = block();
  const unsigned parity = b.current().votes++ % 2;
  b.vote[parity][b.current_index()] = mine;
  b.yield(Wait::kBlock);
  return std::any_of(b.vote[parity], b.vote[parity] + b.count(), [](bool v) { return v; });
}

const std::byte* exchange_bytes(const void* mine, size_t bytes) {
  Block& b = block();
  const unsigned self = b.current_index();
  const unsigned parity = b.current().exchanges++ % 2;
  std::memcpy(b.payload[parity][self], mine, bytes);
  b.yield(Wait::kWarp);
  return b.payload[parity][self / 32 * 32];
}

void start_copy16(void* shared, const void* global) {
  Thread& thread = block().current();
  const Copy copy{shared, global, thread.group};
  if (block().early_copies) {
    run_copy(copy);
  } else {
    thread.copies.push_back(copy);
  }
}

void commit_copies() {
  ++block().current().group;
}

void wait_copies(unsigned groups_left) {
  Thread& thread = block().current();
  std::erase_if(thread.copies, [&](const Copy& copy) {
    if (copy.group + groups_left >= thread.group) return false;
    run_copy(copy);
    return true;
  });
}

}  // namespace spillway::sim_cuda
