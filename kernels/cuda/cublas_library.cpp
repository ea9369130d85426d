#include "kernels/cuda/cublas_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "core/error.h"

// The header renames calls (cublasCreate is cublasCreate_v2): the names to look up follow it.
#define SPILLWAY_TEXT(name) #name
#define SPILLWAY_SYMBOL(name) SPILLWAY_TEXT(name)

namespace spillway {
namespace {

struct Library {
  void* handle = nullptr;
  Cublas calls;
  Library() = default;
  Library(const Library&) = delete;
  ~Library() {
    if (handle != nullptr) dlclose(handle);
  }
};

template <typename Call>
void find(const Library& library, const char* name, Call& call) {
  call = reinterpret_cast<Call>(dlsym(library.handle, name));
  if (call == nullptr) throw Error(fmt::format("cuBLAS has no {}: {}", name, dlerror()));
}

}  // namespace

void Cublas::check(cublasStatus_t status, const char* call) const {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  throw Error(fmt::format("{} failed: {}", call, status_string(status)));
}

std::shared_ptr<const Cublas> load_cublas() {
  auto library = std::make_shared<Library>();
  const std::string name = fmt::format("libcublas.so.{}", CUBLAS_VER_MAJOR);
  constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;  // it may leave threads behind
  library->handle = dlopen(name.c_str(), kFlags);
  if (library->handle == nullptr) {  // not on the loader's path: where this was built
    const std::string there = fmt::format("{}/{}", SPILLWAY_CUDA_LIBRARY_DIR, name);
    library->handle = dlopen(there.c_str(), kFlags);
  }
  if (library->handle == nullptr) {
    throw Error(
        fmt::format("cuBLAS cannot be loaded: {}; install it (CUDA {}) or add its folder to "
                    "LD_LIBRARY_PATH",
                    dlerror(), CUBLAS_VER_MAJOR));
  }
  Cublas& calls = library->calls;
  find(*library, SPILLWAY_SYMBOL(cublasCreate), calls.create);
  find(*library, SPILLWAY_SYMBOL(cublasDestroy), calls.destroy);
  find(*library, SPILLWAY_SYMBOL(cublasSetStream), calls.set_stream);
  find(*library, SPILLWAY_SYMBOL(cublasSetWorkspace), calls.set_workspace);
  find(*library, SPILLWAY_SYMBOL(cublasGemmEx), calls.gemm_ex);
  find(*library, SPILLWAY_SYMBOL(cublasGetStatusString), calls.status_string);
  return {library, &calls};
}

}  // namespace spillway
