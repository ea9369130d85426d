#include "kernels/cuda/cuda_device.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <atomic>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

void check_cuda(cudaError_t status, const std::string& call) {
  if (status == cudaSuccess) return;
  throw Error(fmt::format("{} failed: {} ({})", call, cudaGetErrorString(status),
                          cudaGetErrorName(status)));
}

class CudaEvent final : public Event {
 public:
  CudaEvent() {
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
               "cudaEventCreateWithFlags");
  }
  CudaEvent(const CudaEvent&) = delete;
  ~CudaEvent() override { cudaEventDestroy(event_); }
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
  CudaStream() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
  }
  CudaStream(const CudaStream&) = delete;
  ~CudaStream() override { cudaStreamDestroy(stream_); }
  void copy(std::byte* target, const std::byte* source, uint64_t bytes) override {
    check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_),
               fmt::format("cudaMemcpyAsync of {}", format_bytes(bytes)));
  }
  void record(Event& event) override {
    check_cuda(cudaEventRecord(cuda_event(event), stream_), "cudaEventRecord");
  }
  void wait(Event& event) override {
    check_cuda(cudaStreamWaitEvent(stream_, cuda_event(event), 0), "cudaStreamWaitEvent");
  }
  void sync() override { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, uint64_t budget_bytes)
      : ordinal_(ordinal),
        budget_bytes_(budget_bytes),
        used_bytes_(std::make_shared<std::atomic<uint64_t>>(0)) {
    check_cuda(cudaSetDevice(ordinal), fmt::format("cudaSetDevice({})", ordinal));
  }
  std::string name() const override { return fmt::format("cuda:{}", ordinal_); }
  bool unified() const override { return false; }
  DeviceMemoryInfo memory_info() const override {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    return {total_bytes, free_bytes};
  }
  Memory allocate(uint64_t bytes) override {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status != cudaSuccess) {
      throw Error(
          fmt::format("cudaMalloc: asked for {}, {} are free and {} budgeted: {}; lower memory.gpu",
                      format_bytes(bytes), format_bytes(memory_info().free_bytes),
                      format_bytes(budget_bytes_), cudaGetErrorString(status)));
    }
    used_bytes_->fetch_add(bytes);
    return Memory(static_cast<std::byte*>(data), bytes, [bytes, used = used_bytes_](std::byte* p) {
      cudaFree(p);
      used->fetch_sub(bytes);
    });
  }
  /// Huge-page mapping registered afterwards: cudaHostAlloc memory cannot be registered with
  /// io_uring on older kernels.
  Memory allocate_pinned(uint64_t bytes) override {
    auto buffer = std::make_shared<HugeBuffer>(bytes);
    buffer->touch();
    check_cuda(cudaHostRegister(buffer->data(), buffer->bytes(), cudaHostRegisterPortable),
               fmt::format("cudaHostRegister of {}", format_bytes(bytes)));
    std::byte* data = buffer->data();
    return Memory(data, bytes, [buffer](std::byte* p) { cudaHostUnregister(p); });
  }
  std::unique_ptr<Stream> make_stream(StreamKind) override {
    return std::make_unique<CudaStream>();
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CudaEvent>(); }

 private:
  int ordinal_;
  uint64_t budget_bytes_;
  std::shared_ptr<std::atomic<uint64_t>> used_bytes_;
};

}  // namespace

std::string cuda_state() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no NVIDIA driver is loaded";
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return fmt::format("CUDA: {}", cudaGetErrorString(status));
  return fmt::format("{} CUDA device(s) found", count);
}

std::unique_ptr<Device> make_cuda_device(int ordinal, uint64_t budget_bytes) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (ordinal < 0 || ordinal >= count) {
    throw Error(fmt::format("device cuda:{}: this machine has {} CUDA device(s)", ordinal, count));
  }
  return std::make_unique<CudaDevice>(ordinal, budget_bytes);
}

}  // namespace spillway
