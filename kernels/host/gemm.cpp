#include "kernels/host/gemm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/units.h"

// From <omp.h>, which not every compiler that reads this file has.
extern "C" void omp_set_num_threads(int threads);

namespace spillway {
namespace {

using Key = std::tuple<DType, uint32_t, uint32_t, uint32_t, uint32_t>;
constexpr size_t kMaxPrimitives = 256;
constexpr uint64_t kScratchAlignment = 64;
/// Floats between a dense output's rows while oneDNN computes it; see run().
constexpr uint32_t kPadding = 16;

struct Shapes {
  explicit Shapes(const Key& key) {
    const auto [type, rows, w_rows, cols, out_stride] = key;
    using Dims = dnnl::memory::dims;
    using Type = dnnl::memory::data_type;
    const Type input = type == DType::kBF16 ? Type::bf16 : Type::f32;
    x = {Dims{rows, cols}, input, Dims{cols, 1}};
    w = {Dims{cols, w_rows}, input, Dims{1, cols}};  // transposed view of [w_rows, cols]
    out = {Dims{rows, w_rows}, Type::f32, Dims{out_stride, 1}};
  }
  dnnl::memory::desc x;
  dnnl::memory::desc w;
  dnnl::memory::desc out;
};

struct Product {
  Shapes shapes;
  dnnl::memory::desc scratchpad;
  dnnl::matmul matmul;
};

uint64_t padded_bytes(uint32_t rows, uint32_t w_rows) {
  return align_up(uint64_t{rows} * (w_rows + kPadding) * sizeof(float), kScratchAlignment);
}

[[noreturn]] void rethrow(const dnnl::error& error, uint32_t rows, uint32_t w_rows, uint32_t cols) {
  throw Error(
      fmt::format("oneDNN cannot multiply {}x{} by {}x{} ({}); give it more memory (ulimit -v) or "
                  "a shorter chunk (generate.prefill_chunk, score.chunk), or report this",
                  rows, cols, cols, w_rows, error.what()));
}

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
    const Shapes shapes(key);
    const auto description = describe(shapes);
    return std::make_shared<const Product>(
        Product{shapes, description.scratchpad_desc(), dnnl::matmul(description)});
  }

  dnnl::matmul::primitive_desc describe(const Shapes& shapes) const {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {dnnl::matmul::desc(shapes.x, shapes.w, shapes.out), attributes, engine};
  }
};

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {}
Gemm::~Gemm() = default;

uint64_t Gemm::scratch_bytes(DType type, uint32_t rows, uint32_t w_rows, uint32_t cols) const {
  omp_set_num_threads(1);
  uint64_t pad = 0;
  try {
    // What oneDNN wants grows with the shape, but in steps and not everywhere: odd ones are asked
    // too.
    for (const uint32_t r : {rows, std::max(1u, rows - 1), (rows + 1) / 2}) {
      for (const uint32_t n : {w_rows, std::max(1u, w_rows - 1), 1u}) {
        const auto description = impl_->describe(Shapes({type, r, n, cols, n + kPadding}));
        pad = std::max<uint64_t>(pad, description.scratchpad_desc().get_size());
      }
    }
  } catch (const dnnl::error& error) {
    rethrow(error, rows, w_rows, cols);
  }
  return padded_bytes(rows, w_rows) + align_up(pad, kScratchAlignment);
}

void Gemm::run(DType type, const void* x, const void* w, float* out, uint32_t rows, uint32_t w_rows,
               uint32_t cols, uint32_t out_stride, std::span<std::byte> scratch) {
  omp_set_num_threads(1);  // per thread: this call, and the primitive's choice of threads
  // oneDNN takes other kernels, with other sums, where the output is dense. Whether it is depends
  // on how a matrix is cut, and sums must not: a dense output is computed with padded rows and
  // packed.
  const bool dense = out_stride == w_rows;
  const uint32_t stride = dense ? w_rows + kPadding : out_stride;
  const uint64_t padded = dense ? padded_bytes(rows, w_rows) : 0;
  CHECK(padded <= scratch.size());
  auto* target = dense ? reinterpret_cast<float*>(scratch.data()) : out;
  try {
    const auto product = impl_->product({type, rows, w_rows, cols, stride});
    std::vector<std::byte> own;  // for a shape that wants more than its neighbours did
    std::byte* pad = scratch.data() + padded;
    if (product->scratchpad.get_size() > scratch.size() - padded) {
      own.resize(product->scratchpad.get_size() + kScratchAlignment);
      const auto address = reinterpret_cast<uintptr_t>(own.data());
      pad = own.data() + (align_up(address, kScratchAlignment) - address);
    }
    dnnl::stream stream(impl_->engine);
    const auto memory = [&](const dnnl::memory::desc& shape, const void* data) {
      return dnnl::memory(shape, impl_->engine, const_cast<void*>(data));
    };
    product->matmul.execute(stream, {{DNNL_ARG_SRC, memory(product->shapes.x, x)},
                                     {DNNL_ARG_WEIGHTS, memory(product->shapes.w, w)},
                                     {DNNL_ARG_DST, memory(product->shapes.out, target)},
                                     {DNNL_ARG_SCRATCHPAD, memory(product->scratchpad, pad)}});
    stream.wait();
  } catch (const dnnl::error& error) {
    rethrow(error, rows, w_rows, cols);
  }
  if (!dense) return;
  for (uint32_t r = 0; r < rows; ++r) {
    std::memcpy(out + uint64_t{r} * w_rows, target + uint64_t{r} * stride, w_rows * sizeof(float));
  }
}

}  // namespace spillway
