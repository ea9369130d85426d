// Compiled for CPUs with AMX. As in isa_kernels.inl nothing of the standard library but memcpy and
// memset is called: an inline function compiled here could be the copy that the linker keeps.
#include "kernels/host/amx.h"

#include <immintrin.h>

#include <cstring>

namespace spillway {
namespace {

// Tile registers hold 16 rows of 64 bytes. The first operand of a product is 16 weight rows by 32
// columns as they are; the second 32 columns of 16 input rows, with two columns of all rows side by
// side; the result 16 weight rows by 16 input rows, to be turned at the end. Two of each operand
// make four results at a time.
constexpr uint32_t kTileRows = 16;
constexpr uint32_t kTileCols = 32;
constexpr size_t kTileBytes = 1024;
constexpr size_t kTileNumbers = kTileBytes / sizeof(uint16_t);
constexpr size_t kTileFloats = kTileBytes / sizeof(float);
constexpr size_t kLine = 64;
constexpr uint32_t kPartSteps = kAmxPartCols / kTileCols;
/// Of the input's next part, asked for at every step.
constexpr size_t kLinesAhead = 4;
static_assert(kAmxGroupRows == 2 * kTileRows);

constexpr uint32_t least(uint32_t a, uint32_t b) {
  return a < b ? a : b;
}
constexpr uint32_t parts_of(uint32_t count, uint32_t size) {
  return (count + size - 1) / size;
}
/// Steps of kTileCols of a row, the last of them filled up with zeros.
constexpr uint32_t steps_of(uint32_t cols) {
  return parts_of(cols, kTileCols);
}
/// Tiles of rows, whole groups.
constexpr uint32_t tiles_of(uint32_t rows) {
  return parts_of(rows, kAmxGroupRows) * 2;
}

struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Turns 16 x 16 words of 32 bits. Masked forms: the plain ones warn in GCC 12 (bug 105593).
inline void turn(__m512i (&v)[16]) {
  __m512i w[16];
  for (int i = 0; i < 16; i += 2) {
    w[i] = _mm512_maskz_unpacklo_epi32(0xffff, v[i], v[i + 1]);
    w[i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      v[i + 2 * j] = _mm512_maskz_unpacklo_epi64(0xff, w[i + j], w[i + j + 2]);
      v[i + 2 * j + 1] = _mm512_maskz_unpackhi_epi64(0xff, w[i + j], w[i + j + 2]);
    }
  }
  // v[4 * a + b] now holds columns b, b + 4, ... of rows 4 * a to 4 * a + 3, a quarter each.
  for (int b = 0; b < 4; ++b) {
    w[b] = _mm512_maskz_shuffle_i32x4(0xffff, v[b], v[4 + b], 0x88);
    w[4 + b] = _mm512_maskz_shuffle_i32x4(0xffff, v[b], v[4 + b], 0xdd);
    w[8 + b] = _mm512_maskz_shuffle_i32x4(0xffff, v[8 + b], v[12 + b], 0x88);
    w[12 + b] = _mm512_maskz_shuffle_i32x4(0xffff, v[8 + b], v[12 + b], 0xdd);
  }
  for (int b = 0; b < 4; ++b) {
    v[b] = _mm512_maskz_shuffle_i32x4(0xffff, w[b], w[8 + b], 0x88);
    v[8 + b] = _mm512_maskz_shuffle_i32x4(0xffff, w[b], w[8 + b], 0xdd);
    v[4 + b] = _mm512_maskz_shuffle_i32x4(0xffff, w[4 + b], w[12 + b], 0x88);
    v[12 + b] = _mm512_maskz_shuffle_i32x4(0xffff, w[4 + b], w[12 + b], 0xdd);
  }
}

/// 32 floats from `x` on, of which `count` are there, as bf16.
inline __m512i rounded(const float* x, uint32_t count) {
  const uint32_t bits = count >= 32 ? ~0u : (1u << count) - 1;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(bits & 0xffffu), x);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(bits >> 16), x + 16);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

/// What product() asks for while it computes.
struct Ahead {
  const std::byte* input;
  const std::byte* weights;
  size_t weight_lines;
};

/// Two tiles of weights by two of input, `steps` of each; the results so far are read from `sums`
/// unless they begin, and written there.
inline void product(const std::byte* w, const std::byte* x, uint32_t steps, float* sums,
                    bool begins, const Ahead& ahead) {
  if (begins) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kLine);
    _tile_loadd(1, sums + kTileFloats, kLine);
    _tile_loadd(2, sums + 2 * kTileFloats, kLine);
    _tile_loadd(3, sums + 3 * kTileFloats, kLine);
  }
  for (size_t line = 0; line < ahead.weight_lines; ++line) {
    __builtin_prefetch(ahead.weights + line * kLine, 0, 2);
  }
  const std::byte* w_1 = w + steps * kTileBytes;
  const std::byte* x_1 = x + steps * kTileBytes;
  for (size_t i = 0; i < steps; ++i) {
    for (size_t line = 0; line < kLinesAhead; ++line) {
      __builtin_prefetch(ahead.input + (i * kLinesAhead + line) * kLine, 0, 2);
    }
    _tile_loadd(4, w + i * kTileBytes, kLine);
    _tile_loadd(6, x + i * kTileBytes, kLine);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, x_1 + i * kTileBytes, kLine);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, w_1 + i * kTileBytes, kLine);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kLine);
  _tile_stored(1, sums + kTileFloats, kLine);
  _tile_stored(2, sums + 2 * kTileFloats, kLine);
  _tile_stored(3, sums + 3 * kTileFloats, kLine);
}

/// Asks for what write() will write, which is seldom in a cache: a layer goes over more than that
/// holds before it comes back.
inline void ask_for_outputs(const float* out, uint32_t rows, uint32_t w_rows, uint32_t out_stride) {
  for (uint32_t r = 0; r < least(rows, kAmxGroupRows); ++r) {
    __builtin_prefetch(out + uint64_t{r} * out_stride, 1, 3);
    __builtin_prefetch(out + uint64_t{r} * out_stride + w_rows - 1, 1, 3);
  }
}

/// Writes four results [32 weight rows][32 input rows], as product() leaves them, input rows first.
inline void write(const float* sums, uint32_t rows, uint32_t w_rows, float* out,
                  uint32_t out_stride) {
  for (uint32_t tile = 0; tile < 4; ++tile) {
    const uint32_t n = tile / 2 * kTileRows;
    const uint32_t r = tile % 2 * kTileRows;
    if (n >= w_rows || r >= rows) continue;
    __m512i v[16];
    std::memcpy(v, sums + tile * kTileFloats, kTileBytes);
    turn(v);
    const auto mask = static_cast<__mmask16>((1u << least(w_rows - n, kTileRows)) - 1);
    for (uint32_t i = 0; i < least(rows - r, kTileRows); ++i) {
      _mm512_mask_storeu_epi32(out + uint64_t{r + i} * out_stride + n, mask, v[i]);
    }
  }
}

}  // namespace

uint64_t amx_block_offset(uint32_t block, uint32_t cols) {
  return uint64_t{block} * (kAmxBlockRows / kTileRows) * steps_of(cols) * kTileBytes;
}
uint64_t amx_input_bytes(uint32_t rows, uint32_t cols) {
  // What is asked for ahead of the last part is not read.
  return uint64_t{tiles_of(rows)} * steps_of(cols) * kTileBytes;
}
uint64_t amx_scratch_bytes() {
  return uint64_t{2} * kPartSteps * kTileBytes +
         uint64_t{kAmxWeightRows} * kAmxBlockRows * sizeof(float);
}

/// A block is its parts of columns, each the tiles of its rows in turn.
void amx_pack_input(const float* x, uint32_t rows, uint32_t cols, uint32_t group,
                    std::byte* packed) {
  const uint32_t block = group * kAmxGroupRows / kAmxBlockRows;
  const uint32_t first = block * kAmxBlockRows;
  const uint32_t block_tiles = tiles_of(least(rows - first, kAmxBlockRows));
  std::byte* base = packed + amx_block_offset(block, cols);
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t row = group * kAmxGroupRows + half * kTileRows;
    const uint32_t tile = (row - first) / kTileRows;
    for (uint32_t step = 0; step < steps_of(cols); ++step) {
      const uint32_t part = step / kPartSteps * kPartSteps;
      const uint32_t part_steps = least(kPartSteps, steps_of(cols) - part);
      const size_t at = size_t{part} * block_tiles + size_t{tile} * part_steps + (step - part);
      __m512i v[16];
      for (uint32_t r = 0; r < kTileRows; ++r) {
        const uint32_t col = step * kTileCols;
        v[r] = row + r < rows ? rounded(x + uint64_t{row + r} * cols + col, cols - col)
                              : _mm512_setzero_si512();
      }
      turn(v);
      std::memcpy(base + at * kTileBytes, v, kTileBytes);
    }
  }
}

void amx_product(const AmxWeights& weights, const std::byte* block, uint32_t rows, uint32_t cols,
                 float* out, uint32_t out_stride, std::byte* scratch) {
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  auto* w = reinterpret_cast<uint16_t*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + 2 * kPartSteps * kTileBytes);
  const uint32_t row_tiles = tiles_of(rows);
  const uint32_t w_groups = parts_of(weights.rows, kAmxGroupRows);
  const uint32_t parts = parts_of(cols, kAmxPartCols);
  for (uint32_t part = 0; part < parts; ++part) {
    const uint32_t part_cols = least(kAmxPartCols, cols - part * kAmxPartCols);
    const uint32_t steps = steps_of(part_cols);
    const std::byte* x = block + size_t{part} * kPartSteps * row_tiles * kTileBytes;
    const std::byte* next_x = part + 1 < parts ? x + size_t{row_tiles} * steps * kTileBytes : x;
    for (uint32_t group = 0; group < w_groups; ++group) {
      const uint32_t first = group * kAmxGroupRows;
      const uint32_t w_rows = least(kAmxGroupRows, weights.rows - first);
      const std::byte* from = weights.data + first * weights.row_bytes + part * weights.part_bytes;
      if (part_cols % kTileCols != 0) std::memset(w, 0, 2 * steps * kTileBytes);
      for (uint32_t r = 0; r < w_rows; ++r) {
        weights.to_bf16(from + r * weights.row_bytes,
                        w + (r / kTileRows * steps * kTileRows + r % kTileRows) * kTileCols,
                        part_cols, kTileNumbers);
      }
      // Rows of the group after this one, or of the first one's next part.
      const std::byte* next_w = group + 1 < w_groups
                                    ? from + kAmxGroupRows * weights.row_bytes
                                    : weights.data + (part + 1) * weights.part_bytes;
      const uint32_t input_groups = row_tiles / 2;
      for (uint32_t i = 0; i < input_groups; ++i) {
        const uint32_t begin = i * kAmxGroupRows / input_groups;
        float* results = sums + (size_t{group} * input_groups + i) * 4 * kTileFloats;
        const Ahead ahead{next_x + (size_t{group} * input_groups + i) * steps * kLinesAhead * kLine,
                          next_w + begin * weights.row_bytes, weights.part_bytes / kLine + 1};
        float* outputs = out + uint64_t{i} * kAmxGroupRows * out_stride + first;
        const uint32_t rows_left = rows - i * kAmxGroupRows;
        const bool ends = part + 1 == parts;
        if (ends) ask_for_outputs(outputs, rows_left, w_rows, out_stride);
        product(scratch, x + size_t{i} * 2 * steps * kTileBytes, steps, results, part == 0, ahead);
        if (ends) write(results, rows_left, w_rows, outputs, out_stride);
      }
    }
  }
  _tile_release();
}

}  // namespace spillway
