#include "kernels/host/matmul_cut.h"

#include <gtest/gtest.h>

#include <vector>

namespace spillway {
namespace {

/// Whatever is asked for comes once, in order, each piece from the tile it lies in.
TEST(TiledRows, ShowEveryRowOnce) {
  std::vector<std::byte> memory(10000);
  const auto tile = [&](uint64_t at, uint32_t rows) {
    return WeightView{memory.data() + at, WeightFormat::kBF16, rows, 4};
  };
  const std::vector<WeightView> tiles = {tile(5000, 64), tile(0, 128), tile(3000, 7)};
  const TiledRows rows(tiles);
  EXPECT_EQ(rows.rows(), 199u);
  EXPECT_EQ(rows.cols(), 4u);
  std::vector<const std::byte*> places;  // of every row
  for (const WeightView& view : tiles) {
    for (uint32_t r = 0; r < view.rows; ++r) places.push_back(view.data + uint64_t{r} * 8);
  }
  for (const uint32_t slice : {1u, 7u, 32u, 64u, 100u, 199u, 500u}) {
    uint32_t next = 0;
    for (uint32_t first = 0; first < rows.rows(); first += slice) {
      rows.each(first, slice, [&](const WeightView& view, uint32_t at) {
        ASSERT_EQ(at, next);
        ASSERT_GT(view.rows, 0u);
        for (uint32_t r = 0; r < view.rows; ++r) {
          ASSERT_EQ(view.data + uint64_t{r} * 8, places[at + r]);
        }
        next += view.rows;
      });
      ASSERT_EQ(next, std::min(first + slice, rows.rows()));
    }
  }
}

/// The matrices of a layer of a 70B model, as one in RAM and as units of 4 MiB on their way.
struct CutMatrix {
  uint32_t rows;
  uint32_t whole_rows_of_a_unit;
};
constexpr CutMatrix kCutMatrices[] = {{8192, 256}, {1024, 256}, {28672, 256}, {8192, 64}};

TEST(Tasks, OfDecodeKeepEveryThreadBusy) {
  for (const CutMatrix& shape : kCutMatrices) {
    for (uint32_t threads = 1; threads <= 128; ++threads) {
      for (const uint32_t rows : {shape.rows, shape.whole_rows_of_a_unit}) {
        const uint32_t slice = gemv_slice_rows(rows, threads);
        EXPECT_EQ(slice % 8, 0u);
        EXPECT_LE(slice, 32u);
        EXPECT_GE(ceil_div(rows, slice), std::min(threads, rows / 8)) << rows << " " << threads;
      }
      EXPECT_GE(ceil_div(shape.rows, gemv_slice_rows(shape.rows, threads)), threads);
    }
  }
  EXPECT_EQ(gemv_slice_rows(8192, 2), 32u) << "no smaller than they need be";
  EXPECT_EQ(gemv_slice_rows(1, 128), 8u);
}

TEST(Tasks, OfPromptsOnTilesKeepEveryThreadBusy) {
  for (const CutMatrix& shape : kCutMatrices) {
    for (uint32_t threads = 1; threads <= 128; ++threads) {
      for (const uint32_t rows : {shape.rows, shape.whole_rows_of_a_unit, 1u, 33u}) {
        const uint32_t groups = static_cast<uint32_t>(ceil_div(rows, kAmxGroupRows));
        const uint32_t slices = amx_slices(rows, threads);
        ASSERT_GE(slices, 1u);
        ASSERT_LE(slices, groups);
        EXPECT_GE(slices, std::min(threads, groups)) << rows << " " << threads;
        EXPECT_LE(ceil_div(groups, slices) * kAmxGroupRows, kAmxWeightRows) << "a product's most";
        EXPECT_TRUE(slices % threads == 0 || slices <= groups / 2 || slices == groups);
      }
    }
  }
}

}  // namespace
}  // namespace spillway
