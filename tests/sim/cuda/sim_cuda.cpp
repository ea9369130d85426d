#include "tests/sim/cuda/sim_cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/cuda/simt.h"

struct SimCudaEvent {
  uint64_t recorded = 0;
  uint64_t passed = 0;
};

namespace spillway::sim_cuda {
namespace {

struct Op {
  std::function<void()> run;
  SimCudaEvent* event = nullptr;  // with run empty: waited for, until `mark` was passed
  uint64_t mark = 0;
  bool runnable() const { return event == nullptr || run || event->passed >= mark; }
};

}  // namespace
}  // namespace spillway::sim_cuda

struct SimCudaStream {
  std::deque<spillway::sim_cuda::Op> ops;
};

namespace spillway::sim_cuda {
namespace {

constexpr size_t kMaxPending = 256;
constexpr size_t kAlignment = 256;
constexpr size_t kPageBytes = 4096;  // of cudaHostAlloc's memory

Machine machine_from_environment() {
  Machine machine;
  const char* text = std::getenv("SPILLWAY_SIM_CUDA");
  std::istringstream words(text == nullptr ? "" : text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    require(equals != std::string::npos, "SPILLWAY_SIM_CUDA: expected name=number");
    const std::string name = word.substr(0, equals);
    const uint64_t value = std::stoull(word.substr(equals + 1));
    if (name == "devices")
      machine.devices = static_cast<int>(value);
    else if (name == "driver")
      machine.driver_version = static_cast<int>(value);
    else if (name == "major")
      machine.major = static_cast<int>(value);
    else if (name == "code")
      machine.has_code = value != 0;
    else if (name == "memory")
      machine.memory_bytes = value << 20;
    else if (name == "pin")
      machine.pin_limit_bytes = value << 20;
    else if (name == "fail")
      machine.fail_after_kernels = value;
    else
      require(false, "SPILLWAY_SIM_CUDA: unknown name");
  }
  return machine;
}

struct State {
  std::recursive_mutex mutex;
  Machine machine = machine_from_environment();
  std::mt19937_64 random{machine.seed};
  std::vector<SimCudaStream*> streams;
  std::map<std::byte*, size_t> device;
  std::map<std::byte*, size_t> pinned;
  Counts counts;
  cudaError_t broken = cudaSuccess;  // sticky: the device stopped
  cudaError_t last = cudaSuccess;
};

State& state() {
  static auto* the_state = new State;
  return *the_state;
}

using Guard = std::lock_guard<std::recursive_mutex>;

cudaError_t result(cudaError_t error) {
  State& s = state();
  if (s.broken != cudaSuccess) error = s.broken;
  if (error != cudaSuccess && error != cudaErrorNotReady) s.last = error;
  return error;
}

/// Runs one operation of a random stream that is not waiting. False when there is none.
bool run_one() {
  State& s = state();
  std::vector<SimCudaStream*> ready;
  for (SimCudaStream* stream : s.streams) {
    if (!stream->ops.empty() && stream->ops.front().runnable()) ready.push_back(stream);
  }
  if (ready.empty()) return false;
  SimCudaStream* stream = ready[s.random() % ready.size()];
  Op op = std::move(stream->ops.front());
  stream->ops.pop_front();
  if (op.run && s.broken == cudaSuccess) op.run();
  if (op.run && op.event != nullptr) op.event->passed = op.mark;
  return true;
}

void enqueue(SimCudaStream* stream, Op op) {
  stream->ops.push_back(std::move(op));
  while (stream->ops.size() > kMaxPending) require(run_one(), "streams wait for each other");
}

template <typename Done>
void run_until(const Done& done) {
  while (!done()) require(run_one(), "waiting for what was never recorded");
}

/// The entry that holds `p`, or null.
const std::pair<std::byte* const, size_t>* entry_of(const std::map<std::byte*, size_t>& map,
                                                    const void* pointer) {
  auto* p = static_cast<std::byte*>(const_cast<void*>(pointer));
  auto next = map.upper_bound(p);
  if (next == map.begin()) return nullptr;
  --next;
  return p < next->first + next->second ? &*next : nullptr;
}

enum class Place { kDevice, kPinned, kPageable };

Place place_of(const void* pointer, size_t bytes) {
  State& s = state();
  const auto* at = static_cast<const std::byte*>(pointer);
  if (const auto* entry = entry_of(s.device, pointer)) {
    require(at + bytes <= entry->first + entry->second, "a copy beyond its allocation");
    return Place::kDevice;
  }
  const auto* entry = entry_of(s.pinned, pointer);
  if (entry == nullptr) {
    require(bytes == 0 || entry_of(s.pinned, at + bytes - 1) == nullptr,
            "a copy that begins outside of pinned memory and ends in it");
    return Place::kPageable;
  }
  require(at + bytes <= entry->first + entry->second, "a copy across the border of a pin");
  return Place::kPinned;
}

}  // namespace

Machine& machine() {
  return state().machine;
}

void reset(uint64_t seed) {
  State& s = state();
  const Guard guard(s.mutex);
  require(s.device.empty() && s.pinned.empty() && s.streams.empty(), "something was not freed");
  s.machine = machine_from_environment();
  s.machine.seed = seed;
  s.random.seed(seed);
  s.counts = {};
  s.broken = cudaSuccess;
  s.last = cudaSuccess;
}

Counts counts() {
  const Guard guard(state().mutex);
  return state().counts;
}

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, std::function<void()> body) {
  State& s = state();
  const Guard guard(s.mutex);
  if (s.broken != cudaSuccess) return result(s.broken);
  constexpr uint32_t kMostInYAndZ = 65535;  // of every compute capability
  if (config.gridDim.x == 0 || config.gridDim.y == 0 || config.gridDim.z == 0 ||
      config.gridDim.y > kMostInYAndZ || config.gridDim.z > kMostInYAndZ) {
    return result(cudaErrorInvalidValue);
  }
  const uint64_t seed = s.random();
  s.counts.early_kernels += config.numAttrs;
  enqueue(config.stream, {[config, seed, body = std::move(body)] {
            State& now = state();
            if (now.machine.fail_after_kernels &&
                now.counts.kernels >= *now.machine.fail_after_kernels) {
              now.broken = cudaErrorIllegalAddress;
              return;
            }
            ++now.counts.kernels;
            run_kernel(config.gridDim, config.blockDim, seed, body);
          }});
  return result(cudaSuccess);
}

}  // namespace spillway::sim_cuda

using namespace spillway::sim_cuda;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorInsufficientDriver:
      return "the driver is older than the runtime";
    case cudaErrorNoDevice:
      return "no device";
    case cudaErrorInvalidDevice:
      return "no such device";
    default:
      return "another error";
  }
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaErrorOther";
  }
}

cudaError_t cudaGetLastError() {
  const Guard guard(state().mutex);
  return std::exchange(state().last, state().broken);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().devices;
  if (machine().driver_version < 13000) return cudaErrorInsufficientDriver;
  return machine().devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= machine().devices) return cudaErrorInvalidDevice;
  std::snprintf(properties->name, sizeof(properties->name), "Simulated GPU %d", device);
  properties->major = machine().major;
  properties->minor = 0;
  return cudaSuccess;
}

cudaError_t sim_cuda_function_attributes(cudaFuncAttributes* attributes) {
  *attributes = {10 * machine().major, machine().code_for};
  return machine().has_code ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

cudaError_t cudaSetDevice(int device) {
  const Guard guard(state().mutex);
  return result(device >= 0 && device < machine().devices ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  State& s = state();
  const Guard guard(s.mutex);
  *total_bytes = s.machine.memory_bytes;
  *free_bytes = s.machine.memory_bytes - s.counts.device_bytes;
  return result(cudaSuccess);
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  State& s = state();
  const Guard guard(s.mutex);
  if (s.broken != cudaSuccess) return result(s.broken);
  if (bytes > s.machine.memory_bytes - s.counts.device_bytes) {
    return result(cudaErrorMemoryAllocation);
  }
  auto* memory = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment}));
  std::memset(memory, 0xa5, bytes);
  s.device[memory] = bytes;
  s.counts.device_bytes += bytes;
  ++s.counts.allocations;
  *data = memory;
  return result(cudaSuccess);
}

cudaError_t cudaFree(void* data) {
  State& s = state();
  const Guard guard(s.mutex);
  if (data == nullptr) return result(cudaSuccess);
  while (run_one()) continue;  // freeing waits for the device
  const auto found = s.device.find(static_cast<std::byte*>(data));
  require(found != s.device.end(), "cudaFree of what was not allocated");
  s.counts.device_bytes -= found->second;
  ::operator delete(data, std::align_val_t{kAlignment});
  s.device.erase(found);
  return result(cudaSuccess);
}

cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned) {
  State& s = state();
  const Guard guard(s.mutex);
  auto* memory = static_cast<std::byte*>(data);
  const auto next = s.pinned.lower_bound(memory);
  const bool overlaps = entry_of(s.pinned, data) != nullptr ||
                        (next != s.pinned.end() && next->first < memory + bytes);
  if (overlaps) return result(cudaErrorHostMemoryAlreadyRegistered);
  if (s.machine.pin_limit_bytes && s.counts.pinned_bytes + bytes > *s.machine.pin_limit_bytes) {
    return result(cudaErrorMemoryAllocation);
  }
  s.pinned[memory] = bytes;
  s.counts.pinned_bytes += bytes;
  return result(cudaSuccess);
}

cudaError_t cudaHostUnregister(void* data) {
  State& s = state();
  const Guard guard(s.mutex);
  const auto found = s.pinned.find(static_cast<std::byte*>(data));
  if (found == s.pinned.end()) return result(cudaErrorHostMemoryNotRegistered);
  s.counts.pinned_bytes -= found->second;
  s.pinned.erase(found);
  return result(cudaSuccess);
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  State& s = state();
  const Guard guard(s.mutex);
  if (s.machine.refuse_host_alloc) return result(cudaErrorMemoryAllocation);
  *data = ::operator new(bytes, std::align_val_t{kPageBytes});
  s.pinned[static_cast<std::byte*>(*data)] = bytes;
  ++s.counts.host_allocations;
  return result(cudaSuccess);
}

cudaError_t cudaFreeHost(void* data) {
  State& s = state();
  const Guard guard(s.mutex);
  require(s.pinned.erase(static_cast<std::byte*>(data)) == 1, "cudaFreeHost of what is not pinned");
  ::operator delete(data, std::align_val_t{kPageBytes});
  return result(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  State& s = state();
  const Guard guard(s.mutex);
  *stream = new SimCudaStream;
  s.streams.push_back(*stream);
  return result(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  State& s = state();
  const Guard guard(s.mutex);
  run_until([&] { return stream->ops.empty(); });
  std::erase(s.streams, stream);
  delete stream;
  return result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Guard guard(state().mutex);
  run_until([&] { return stream->ops.empty(); });
  return result(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Guard guard(state().mutex);
  enqueue(stream, {nullptr, event, event->recorded});
  return result(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  const Guard guard(state().mutex);
  *event = new SimCudaEvent;
  return result(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Guard guard(state().mutex);
  while (run_one()) continue;
  delete event;
  return result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Guard guard(state().mutex);
  if (state().broken != cudaSuccess) return result(state().broken);
  enqueue(stream, {[] {}, event, ++event->recorded});
  return result(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  State& s = state();
  const Guard guard(s.mutex);
  for (uint64_t i = s.random() % 3; i > 0; --i) run_one();
  return result(event->passed == event->recorded ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Guard guard(state().mutex);
  run_until([&] { return event->passed == event->recorded; });
  return result(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  State& s = state();
  const Guard guard(s.mutex);
  if (s.broken != cudaSuccess) return result(s.broken);
  const Place from = place_of(source, bytes);
  const Place to = place_of(target, bytes);
  if (from == Place::kPageable || to == Place::kPageable) ++s.counts.pageable_copies;
  if (from == Place::kPageable) {  // CUDA takes the bytes before the call returns
    const auto* begin = static_cast<const std::byte*>(source);
    enqueue(stream, {[target, kept = std::vector<std::byte>(begin, begin + bytes)] {
              std::memcpy(target, kept.data(), kept.size());
            }});
  } else {
    enqueue(stream, {[target, source, bytes] { std::memcpy(target, source, bytes); }});
  }
  if (to == Place::kPageable) run_until([&] { return stream->ops.empty(); });
  return result(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  State& s = state();
  const Guard guard(s.mutex);
  if (s.broken != cudaSuccess) return result(s.broken);
  require(place_of(data, bytes) == Place::kDevice, "cudaMemsetAsync of host memory");
  enqueue(stream, {[=] { std::memset(data, value, bytes); }});
  return result(cudaSuccess);
}
