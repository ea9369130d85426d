// Runs the blocks of a kernel on the CPU: every thread is a fiber that runs until it meets a
// barrier or a warp operation, in an order that changes with the seed. A barrier that not all
// threads reach stops the test. One kernel at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <functional>
#include <type_traits>

namespace spillway::sim_cuda {

struct Index3 {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};
inline Index3 threadIdx;
inline Index3 blockIdx;
inline dim3 gridDim;
inline dim3 blockDim;

/// Aborts with `what` and the place of the running thread unless `condition` holds.
void require(bool condition, const char* what);
inline unsigned lane() {
  return threadIdx.x % 32;
}

void run_kernel(dim3 grid, dim3 block, uint64_t seed, const std::function<void()>& body);
cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, std::function<void()> body);

void block_barrier();
bool block_any(bool mine);

constexpr size_t kMostExchanged = 64;
/// Leaves this lane's bytes for the warp, waits for all lanes; returns where lane 0's lie, 64 bytes
/// a lane, valid until this lane's next exchange but one.
const std::byte* exchange_bytes(const void* mine, size_t bytes);

/// Every lane's value, by lane.
template <typename T>
std::array<T, 32> exchange(const T& mine) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMostExchanged);
  const std::byte* all = exchange_bytes(&mine, sizeof(T));
  std::array<T, 32> values;
  for (size_t i = 0; i < 32; ++i) std::memcpy(&values[i], all + i * kMostExchanged, sizeof(T));
  return values;
}

/// The value of one lane.
template <typename T>
T exchange_with(const T& mine, unsigned from_lane) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMostExchanged);
  T value;
  std::memcpy(&value, exchange_bytes(&mine, sizeof(T)) + from_lane * kMostExchanged, sizeof(T));
  return value;
}

/// Asynchronous copies of 16 bytes to shared memory (zeros where `global` is null): of a block, all
/// happen at once or all when they are waited for.
void start_copy16(void* shared, const void* global);
void commit_copies();
void wait_copies(unsigned groups_left);

}  // namespace spillway::sim_cuda
