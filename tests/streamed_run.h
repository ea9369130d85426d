// A small model on the host, with a budget that it has to be streamed in.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "core/units.h"
#include "model/generate.h"
#include "tests/support.h"

namespace spillway::test {

class StreamedRun : public ::testing::Test {
 protected:
  void SetUp() override {
    write_streamed_model(dir_ / "model");
    config_.model_path = dir_ / "model";
    config_.device = "host";
    config_.ram_bytes = 40 * kMiB;
    config_.max_new_tokens = 10;
    model_ = std::make_unique<Model>(open_model(config_.model_path, DirectChoice::kAuto, silent_));
    machine_ = open_machine(config_, silent_);
    workload_ = generation_workload(config_, *model_, {{"", {1, 2, 3}}});
  }

  TempDir dir_;
  NoticeSink silent_ = [](const std::string&) {};
  Config config_;
  std::unique_ptr<Model> model_;
  Machine machine_;
  Workload workload_;
};

}  // namespace spillway::test
