#include "core/config.h"

#include <fmt/format.h>

#include "core/units.h"
#include "tests/support.h"

namespace spillway {
namespace {

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "dir/run.yaml", overrides);
}
std::string complaint(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return test::error_of([&] { parse(text, overrides); });
}

constexpr const char* kEverything = R"(
model: {path: m}
device: host-discrete
memory: {ram: 3GiB, gpu: 512MiB}
placement: {policy: nvme, layers: {0-3: ram, 7: gpu, head: nvme}}
io: {engine: pread, direct: off, chunk: 2MiB, depth: 16, register_buffers: false}
stream: {unit: 8MiB, slots: 3, staging_slabs: 5}
compute: {threads: 2}
generate:
  prompts: [Hello, "Two words"]
  prompt_token_ids: [[1, 2], [3]]
  max_new_tokens: 5
  prefill_chunk: 64
  temperature: 0.5
  top_k: 40
  top_p: 0.9
  seed: 7
  ignore_eos: true
score: {chunk: 32, context: 128, logprobs: false}
report: out/r.json
trace: /tmp/t.json
)";

TEST(Config, ReadsEveryKey) {
  const Config c = parse(kEverything);
  EXPECT_EQ(c.model_path, "dir/m");
  EXPECT_EQ(c.device, "host-discrete");
  EXPECT_EQ(c.ram_bytes, 3 * kGiB);
  EXPECT_EQ(c.gpu_bytes, 512 * kMiB);
  EXPECT_EQ(c.policy, PlacementPolicy::kNvme);
  ASSERT_EQ(c.overrides.size(), 3u);
  EXPECT_EQ(c.overrides[0].last, 3u);
  EXPECT_EQ(c.overrides[1].tier, Tier::kGpu);
  EXPECT_EQ(c.overrides[2].name, "head");
  EXPECT_EQ(c.io_engine, EngineChoice::kPread);
  EXPECT_EQ(c.io_direct, DirectChoice::kOff);
  EXPECT_EQ(c.io_chunk_bytes, 2 * kMiB);
  EXPECT_EQ(c.io_depth, 16u);
  EXPECT_EQ(c.io_register_buffers, false);
  EXPECT_EQ(c.stream_unit_bytes, 8 * kMiB);
  EXPECT_EQ(c.stream_slots, 3u);
  EXPECT_EQ(c.stream_staging_slabs, 5u);
  EXPECT_EQ(c.compute_threads, 2u);
  EXPECT_EQ(c.prompts, (std::vector<std::string>{"Hello", "Two words"}));
  EXPECT_EQ(c.prompt_token_ids, (std::vector<std::vector<int64_t>>{{1, 2}, {3}}));
  EXPECT_EQ(c.max_new_tokens, 5u);
  EXPECT_DOUBLE_EQ(c.temperature, 0.5);
  EXPECT_TRUE(c.ignore_eos);
  EXPECT_EQ(c.score_context_tokens, 128u);
  EXPECT_EQ(c.report, "dir/out/r.json");
  EXPECT_EQ(c.trace, "/tmp/t.json");
}

/// Every key that stands in the text comes back, whatever its value.
TEST(Config, TextGivesTheConfigurationAgain) {
  for (const std::string& text : {std::string("model: {path: m}\n"), std::string(kEverything)}) {
    const Config before = parse(text);
    const std::string written = config_text(before);
    Config after = parse(written);
    EXPECT_EQ(config_text(after), written);
    EXPECT_EQ(after.ram_bytes, before.ram_bytes);
    EXPECT_EQ(after.policy, before.policy);
    ASSERT_EQ(after.overrides.size(), before.overrides.size());
    for (size_t i = 0; i < after.overrides.size(); ++i) {
      EXPECT_EQ(after.overrides[i].tier, before.overrides[i].tier);
    }
    EXPECT_EQ(after.io_engine, before.io_engine);
    EXPECT_EQ(after.io_direct, before.io_direct);
    EXPECT_EQ(after.io_chunk_bytes, before.io_chunk_bytes);
    EXPECT_EQ(after.io_register_buffers, before.io_register_buffers);
    EXPECT_EQ(after.stream_slots, before.stream_slots);
    EXPECT_EQ(after.compute_threads, before.compute_threads);
    EXPECT_EQ(after.prompt_math, before.prompt_math);
    EXPECT_EQ(after.prompts, before.prompts);
    EXPECT_EQ(after.prompt_token_ids, before.prompt_token_ids);
    EXPECT_EQ(after.temperature, before.temperature);
    EXPECT_EQ(after.ignore_eos, before.ignore_eos);
    EXPECT_EQ(after.score_context_tokens, before.score_context_tokens);
  }
  for (const char* io : {"engine: io_uring, direct: on", "engine: mmap", "engine: auto"}) {
    const Config before = parse(fmt::format("model: {{path: m}}\nio: {{{}}}\n", io));
    const Config after = parse(config_text(before));
    EXPECT_EQ(after.io_engine, before.io_engine);
    EXPECT_EQ(after.io_direct, before.io_direct);
  }
  Config odd = parse("model: {path: m}\nplacement: {ram_share: 0.3}\n");
  odd.prompts = {"quotes \" and: colons", "two\nlines", ""};
  const Config back = parse(config_text(odd));
  EXPECT_EQ(back.prompts, odd.prompts);
  EXPECT_EQ(back.ram_share, odd.ram_share);
}

TEST(Config, OverridesWin) {
  const Config c = parse("model: {path: m}\nmemory: {ram: 1GiB}\n",
                         {"memory.ram=auto", "generate.prompts=[a, b]", "model.path=/x",
                          "placement.layers={1: ram}", "io.depth=4"});
  EXPECT_FALSE(c.ram_bytes);
  EXPECT_EQ(c.prompts.size(), 2u);
  EXPECT_EQ(c.model_path, "/x");
  EXPECT_EQ(c.overrides.size(), 1u);
  EXPECT_EQ(c.io_depth, 4u);
}

struct BadCase {
  const char* text;
  const char* expected;  // must all be in the message, separated by '|'
};

class BadConfig : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadConfig, NamesFileLineKeyAndWhatWasExpected) {
  const std::string message = complaint(GetParam().text);
  std::string expected = GetParam().expected;
  size_t at = 0;
  while (at != std::string::npos) {
    const size_t bar = expected.find('|', at);
    const std::string part = expected.substr(at, bar - at);
    EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
    at = bar == std::string::npos ? bar : bar + 1;
  }
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfig,
    ::testing::Values(
        BadCase{"model: {path: m}\nmemory:\n  rom: 1GiB\n", "run.yaml:3|memory.rom|memory.ram"},
        BadCase{"model: {path: m}\nmemory:\n  ram: 1GiB\n  ram: 2GiB\n",
                "run.yaml:4|memory.ram|second time"},
        BadCase{"model: {path: m}\nmemory: {ram: 1GiB}\nmemory.ram: 2GiB\n",
                "run.yaml:3|memory.ram|the section"},
        BadCase{"model: {path: m}\nmemory: {ram: .nan}\n", "run.yaml:2|memory.ram|a size"},
        BadCase{"model: {path: m}\nmemory: {ram: 3 gibi}\n", "memory.ram|a size|3 gibi"},
        BadCase{"model: {path: m}\nmemory: {ram: 0}\n", "memory.ram|a size"},
        BadCase{"model: {path: m}\nmemory: {ram: -5GiB}\n", "memory.ram|a size"},
        BadCase{"model: {path: m}\nmemory: 3\n", "run.yaml:2|memory|a section"},
        BadCase{"model: {path: m}\nio: {depth: many}\n", "io.depth|whole number|many"},
        BadCase{"model: {path: m}\nio: {depth: 0}\n", "io.depth|1 to 256"},
        BadCase{"model: {path: m}\nio: {chunk: 100KiB}\n", "io.chunk|multiple of 64KiB"},
        BadCase{"model: {path: m}\nio: {engine: libaio}\n",
                "io.engine|auto, io_uring, pread or mmap"},
        BadCase{"model: {path: m}\ndevice: gpu\n", "device|host-discrete"},
        BadCase{"model: {path: m}\ndevice: cuda:x\n", "device|cuda:N"},
        BadCase{"model: {path: m}\nplacement: {ram_share: 75}\n", "placement.ram_share|0 to 1|75"},
        BadCase{"model: {path: m}\nplacement: {policy: ram, ram_share: 0.5}\n",
                "placement.ram_share|leave placement.policy at auto"},
        BadCase{"model: {path: m}\nplacement: {layers: {x: ram}}\n", "placement.layers.x|range"},
        BadCase{"model: {path: m}\nplacement: {layers: {5-2: ram}}\n", "5-2|range"},
        BadCase{"model: {path: m}\nplacement: {layers: {5: disk}}\n", "gpu, ram or nvme"},
        BadCase{"model: {path: m}\ngenerate: {temperature: .nan}\n", "temperature|0 to 100"},
        BadCase{"model: {path: m}\ngenerate: {prompts: hello}\n", "generate.prompts|a list"},
        BadCase{"model: {path: m}\ngenerate: {prompts: [[a]]}\n", "generate.prompts[0]|a text"},
        BadCase{"model: {path: m}\ngenerate: {prompt_token_ids: [1, -2]}\n", "[1]|whole number"},
        BadCase{"model: {path: m}\ngenerate: {ignore_eos: maybe}\n", "true or false"},
        BadCase{"device: host\n", "model.path|missing"}, BadCase{"", "keys such as model:"},
        BadCase{"[1, 2]", "keys such as model:"}, BadCase{"a: [", "not valid YAML"},
        BadCase{"model: {path: ''}\n", "model.path|a path"}),
    [](const auto& test) { return "case" + std::to_string(test.index); });

TEST(Config, BadOverridesSayWhichOne) {
  const std::string base = "model: {path: m}";
  EXPECT_NE(complaint(base, {"memory.ram"}).find("KEY=VALUE"), std::string::npos);
  EXPECT_NE(complaint(base, {"memory.rm=1"}).find("--set memory.rm=1"), std::string::npos);
  EXPECT_NE(complaint(base, {"io.depth=x"}).find("--set io.depth=x: io.depth"), std::string::npos);
}

TEST(Config, MissingFileIsOneLine) {
  const std::string message = test::error_of([] { load_config("/nowhere/run.yaml", {}); });
  EXPECT_NE(message.find("cannot read /nowhere/run.yaml"), std::string::npos);
}

}  // namespace
}  // namespace spillway
