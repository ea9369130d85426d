#include "kernels/cuda/cuda_device.h"

#include <fmt/format.h>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/cuda/check.h"

namespace spillway {
namespace {

/// Large enough to fill the machine with one matmul and to hide what a copy costs to start; a
/// handful of them is little of a GPU's memory.
constexpr uint64_t kUnitBytes = 64 * kMiB;
constexpr int kMinMajor = 8;  // bf16 tensor cores, asynchronous copies to shared memory

/// Streams remember their device: a thread starts on device 0.
void make_current(int ordinal) {
  check_cuda(cudaSetDevice(ordinal), "cudaSetDevice");
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

class CudaEvent final : public Event {
 public:
  CudaEvent() {
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
               "cudaEventCreateWithFlags");
  }
  CudaEvent(const CudaEvent&) = delete;
  ~CudaEvent() override { static_cast<void>(cudaEventDestroy(event_)); }
  bool done() const override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    check_cuda(status, "cudaEventQuery");
    return true;
  }
  void sync() override { check_cuda(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

cudaEvent_t cuda_event(Event& event) {
  return static_cast<CudaEvent&>(event).get();
}

class CudaStream final : public Stream {
 public:
  explicit CudaStream(int ordinal) : ordinal_(ordinal) {
    make_current(ordinal);
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
  }
  CudaStream(const CudaStream&) = delete;
  ~CudaStream() override { static_cast<void>(cudaStreamDestroy(stream_)); }
  void copy(std::byte* target, const std::byte* source, uint64_t bytes) override {
    check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, get()), "cudaMemcpyAsync",
               bytes);
  }
  void record(Event& event) override {
    check_cuda(cudaEventRecord(cuda_event(event), get()), "cudaEventRecord");
  }
  void wait(Event& event) override {
    check_cuda(cudaStreamWaitEvent(get(), cuda_event(event), 0), "cudaStreamWaitEvent");
  }
  void sync() override { check_cuda(cudaStreamSynchronize(get()), "cudaStreamSynchronize"); }
  cudaStream_t get() const {
    make_current(ordinal_);
    return stream_;
  }

 private:
  int ordinal_;
  cudaStream_t stream_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, uint64_t budget_bytes) : ordinal_(ordinal), budget_bytes_(budget_bytes) {
    make_current(ordinal);
  }
  std::string name() const override { return fmt::format("cuda:{}", ordinal_); }
  bool unified() const override { return false; }
  int ordinal() const { return ordinal_; }

  DeviceMemoryInfo memory_info() const override {
    make_current(ordinal_);
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    return {total_bytes, free_bytes};
  }

  Memory allocate(uint64_t bytes) override {
    make_current(ordinal_);
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());  // it would be reported again by the next launch
      const DeviceMemoryInfo memory = memory_info();
      throw Error(
          fmt::format("{} is out of memory: asked for {}, {} of {} are free, memory.gpu is {}; "
                      "lower memory.gpu",
                      name(), format_bytes(bytes), format_bytes(memory.free_bytes),
                      format_bytes(memory.total_bytes),
                      budget_bytes_ == 0 ? "auto" : format_bytes(budget_bytes_)));
    }
    check_cuda(status, "cudaMalloc", bytes);
    return {static_cast<std::byte*>(data), bytes, [ordinal = ordinal_](std::byte* p) {
              static_cast<void>(cudaSetDevice(ordinal));  // a device that failed frees nothing more
              static_cast<void>(cudaFree(p));
            }};
  }

  /// A huge-page mapping registered afterwards: memory of cudaHostAlloc cannot be registered with
  /// io_uring on older kernels. Where the driver registers none, its own memory is the next best.
  Memory allocate_pinned(uint64_t bytes) override {
    HugeBuffer buffer(bytes);
    buffer.touch();
    std::string refusal;
    Memory pinned = pin(buffer.data(), buffer.bytes(), &refusal);
    if (pinned.data() != nullptr) {
      pinned.leak();  // from here on both are held by address alone, so that they can be leaked
      const uint64_t mapped_bytes = buffer.bytes();
      return {buffer.release(), bytes, [mapped_bytes](std::byte* p) {
                const HugeBuffer owner = HugeBuffer::adopt(p, mapped_bytes);
                static_cast<void>(cudaHostUnregister(p));
              }};
    }
    buffer = HugeBuffer();
    void* data = nullptr;
    const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
    if (status == cudaSuccess) {
      return {static_cast<std::byte*>(data), bytes,
              [](std::byte* p) { static_cast<void>(cudaFreeHost(p)); }};
    }
    static_cast<void>(cudaGetLastError());
    throw Error(fmt::format(
        "{}: cannot pin the {} that copies need: {}, and cudaHostAlloc: {}; raise the limit on "
        "locked memory (ulimit -l), in a container --ulimit memlock=-1",
        name(), format_bytes(bytes), refusal, cudaGetErrorString(status)));
  }

  Memory pin(std::byte* data, uint64_t bytes, std::string* refusal) override {
    make_current(ordinal_);
    const cudaError_t status = cudaHostRegister(data, bytes, cudaHostRegisterPortable);
    if (status == cudaSuccess) {
      return {data, bytes, [](std::byte* p) { static_cast<void>(cudaHostUnregister(p)); }};
    }
    static_cast<void>(cudaGetLastError());
    *refusal = fmt::format("cudaHostRegister of {} failed: {} ({})", format_bytes(bytes),
                           cudaGetErrorString(status), cudaGetErrorName(status));
    return {};
  }

  uint64_t stream_unit_bytes() const override { return kUnitBytes; }
  std::unique_ptr<Stream> make_stream(StreamKind) override {
    return std::make_unique<CudaStream>(ordinal_);
  }
  std::unique_ptr<Event> make_event() override {
    make_current(ordinal_);
    return std::make_unique<CudaEvent>();
  }

 private:
  int ordinal_;
  uint64_t budget_bytes_;
};

cudaDeviceProp properties_of(int ordinal) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  return properties;
}

std::string age_problem(int ordinal) {
  const cudaDeviceProp properties = properties_of(ordinal);
  if (properties.major >= kMinMajor) return "";
  return fmt::format("{} has compute capability {}.{}, and {}.0 or later is needed",
                     properties.name, properties.major, properties.minor, kMinMajor);
}

}  // namespace

CudaState cuda_state() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return {0, -1, "no NVIDIA driver is loaded"};
  }
  int runtime = 0;
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    return {0, -1,
            fmt::format("the NVIDIA driver is too old: it offers CUDA {}, this build needs {}",
                        version_text(driver), version_text(runtime))};
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    return {0, -1, "the NVIDIA driver sees no GPU"};
  }
  if (status != cudaSuccess) {
    return {0, -1,
            fmt::format("CUDA cannot start: {} ({})", cudaGetErrorString(status),
                        cudaGetErrorName(status))};
  }
  CudaState state{count, -1, ""};
  for (int i = count - 1; i >= 0; --i) {
    const std::string problem = age_problem(i);
    if (problem.empty()) {
      state.first_usable = i;
    } else {
      state.problem = problem;
    }
  }
  if (state.first_usable >= 0) state.problem.clear();
  return state;
}

std::unique_ptr<Device> make_cuda_device(int ordinal, uint64_t budget_bytes) {
  const CudaState state = cuda_state();
  if (state.devices == 0) {
    throw Error(fmt::format("device cuda:{}: {}; use device: host", ordinal, state.problem));
  }
  if (ordinal >= state.devices) {
    throw Error(
        fmt::format("device cuda:{}: this machine has {} GPU{}: cuda:0{}", ordinal, state.devices,
                    state.devices == 1 ? "" : "s",
                    state.devices == 1 ? "" : fmt::format(" to cuda:{}", state.devices - 1)));
  }
  if (const std::string problem = age_problem(ordinal); !problem.empty()) {
    throw Error(fmt::format("device cuda:{}: {}; use device: host", ordinal, problem));
  }
  return std::make_unique<CudaDevice>(ordinal, budget_bytes);
}

std::string cuda_device_text(int ordinal) {
  const cudaDeviceProp properties = properties_of(ordinal);
  return fmt::format("{}, compute capability {}.{}", properties.name, properties.major,
                     properties.minor);
}

int cuda_ordinal(const Device& device) {
  return static_cast<const CudaDevice&>(device).ordinal();
}

cudaStream_t cuda_stream(Stream& stream) {
  return static_cast<CudaStream&>(stream).get();
}

}  // namespace spillway
