#include "kernels/host/gemm.h"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>

#include "core/error.h"

// From <omp.h>, which not every compiler that reads this file has.
extern "C" void omp_set_num_threads(int threads);

namespace spillway {
namespace {

using Key = std::tuple<DType, uint32_t, uint32_t, uint32_t, uint32_t>;
constexpr size_t kMaxPrimitives = 256;

struct Product {
  dnnl::memory::desc x;
  dnnl::memory::desc w;
  dnnl::memory::desc out;
  dnnl::matmul matmul;
};

}  // namespace

struct Gemm::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::mutex mutex;
  std::map<Key, std::shared_ptr<const Product>> products;

  std::shared_ptr<const Product> product(const Key& key) {
    const std::lock_guard lock(mutex);
    auto& entry = products[key];
    if (entry == nullptr) {
      if (products.size() > kMaxPrimitives) {  // shapes are few; this bounds a hostile mix
        products.clear();
        return products[key] = make(key);
      }
      entry = make(key);
    }
    return entry;
  }

  std::shared_ptr<const Product> make(const Key& key) const {
    const auto [type, rows, w_rows, cols, out_stride] = key;
    const auto data_type =
        type == DType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    using Dims = dnnl::memory::dims;
    auto product = std::make_shared<Product>();
    product->x = {Dims{rows, cols}, data_type, Dims{cols, 1}};
    product->w = {Dims{cols, w_rows}, data_type,
                  Dims{1, cols}};  // transposed view of [w_rows, cols]
    product->out = {Dims{rows, w_rows}, dnnl::memory::data_type::f32, Dims{out_stride, 1}};
    const dnnl::matmul::primitive_desc description(
        dnnl::matmul::desc(product->x, product->w, product->out), engine);
    product->matmul = dnnl::matmul(description);
    return product;
  }
};

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {}
Gemm::~Gemm() = default;

void Gemm::run(DType type, const void* x, const void* w, float* out, uint32_t rows, uint32_t w_rows,
               uint32_t cols, uint32_t out_stride) {
  omp_set_num_threads(1);  // per thread: this call, and the primitive's choice of threads
  try {
    const auto product = impl_->product({type, rows, w_rows, cols, out_stride});
    dnnl::stream stream(impl_->engine);
    const dnnl::memory x_memory(product->x, impl_->engine, const_cast<void*>(x));
    const dnnl::memory w_memory(product->w, impl_->engine, const_cast<void*>(w));
    const dnnl::memory out_memory(product->out, impl_->engine, out);
    product->matmul.execute(
        stream,
        {{DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, w_memory}, {DNNL_ARG_DST, out_memory}});
    stream.wait();
  } catch (const dnnl::error& error) {
    throw Error(
        fmt::format("oneDNN matmul of {}x{}x{} failed: {}", rows, w_rows, cols, error.what()));
  }
}

}  // namespace spillway
