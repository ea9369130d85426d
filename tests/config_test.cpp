#include "core/config.h"
#include "core/error.h"

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
score: {chunk: 32, context: 128, logprobs: false, spill: always, spill_dir: out/states}
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
  EXPECT_EQ(c.score_spill, SpillChoice::kAlways);
  EXPECT_EQ(c.score_spill_dir, "dir/out/states");
  EXPECT_EQ(spill_folder(c), "dir/out/states");
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
    EXPECT_EQ(after.score_spill, before.score_spill);
    EXPECT_EQ(after.score_spill_dir.empty(), before.score_spill_dir.empty());
    EXPECT_EQ(spill_folder(after).filename(), spill_folder(before).filename());
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
  const char* name;
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
        BadCase{"near_key", "model: {path: m}\nmemory:\n  rom: 1GiB\n",
                "run.yaml:3|memory.rom|memory.ram"},
        BadCase{"key_twice", "model: {path: m}\nmemory:\n  ram: 1GiB\n  ram: 2GiB\n",
                "run.yaml:4|memory.ram|second time"},
        BadCase{"dotted_key", "model: {path: m}\nmemory: {ram: 1GiB}\nmemory.ram: 2GiB\n",
                "run.yaml:3|memory.ram|the section"},
        BadCase{"size_nan", "model: {path: m}\nmemory: {ram: .nan}\n",
                "run.yaml:2|memory.ram|a size"},
        BadCase{"size_unit", "model: {path: m}\nmemory: {ram: 3 gibi}\n",
                "memory.ram|a size|3 gibi"},
        BadCase{"size_zero", "model: {path: m}\nmemory: {ram: 0}\n", "memory.ram|a size"},
        BadCase{"size_negative", "model: {path: m}\nmemory: {ram: -5GiB}\n", "memory.ram|a size"},
        BadCase{"size_without_unit", "model: {path: m}\nmemory: {ram: 3}\n",
                "got \"3\"; that is 3 B; did you mean 3GiB?"},
        BadCase{"size_with_comma", "model: {path: m}\nmemory: {ram: '3,5GiB'}\n",
                "got \"3,5GiB\"; write 3.5GiB"},
        BadCase{"no_section", "model: {path: m}\nmemory: 3GiB\n",
                "run.yaml:2|memory|a section|write memory: {ram: 3GiB}"},
        BadCase{"model_is_a_path", "model: /m\n", "run.yaml:1: model: |write model: {path: /m}"},
        BadCase{"natural_word", "model: {path: m}\nio: {depth: many}\n",
                "io.depth|whole number|many"},
        BadCase{"natural_zero", "model: {path: m}\nio: {depth: 0}\n", "io.depth|1 to 256"},
        BadCase{"chunk", "model: {path: m}\nio: {chunk: 100KiB}\n", "io.chunk|multiple of 64KiB"},
        BadCase{"engine", "model: {path: m}\nio: {engine: libaio}\n",
                "io.engine|auto, io_uring, pread or mmap"},
        BadCase{"device", "model: {path: m}\ndevice: gpu\n", "device|host-discrete"},
        BadCase{"device_number", "model: {path: m}\ndevice: cuda:x\n", "device|cuda:N"},
        BadCase{"share", "model: {path: m}\nplacement: {ram_share: 75}\n",
                "placement.ram_share|0 to 1|75"},
        BadCase{"share_and_policy", "model: {path: m}\nplacement: {policy: ram, ram_share: 0.5}\n",
                "placement.ram_share|leave placement.policy at auto"},
        BadCase{"layer_name", "model: {path: m}\nplacement: {layers: {x: ram}}\n",
                "placement.layers.x|range"},
        BadCase{"layers_backwards", "model: {path: m}\nplacement: {layers: {5-2: ram}}\n",
                "5-2|range"},
        BadCase{"tier", "model: {path: m}\nplacement: {layers: {5: disk}}\n", "gpu, ram or nvme"},
        BadCase{"real_nan", "model: {path: m}\ngenerate: {temperature: .nan}\n",
                "temperature|0 to 100"},
        BadCase{"prompts_map", "model: {path: m}\ngenerate: {prompts: {a: b}}\n",
                "generate.prompts|a list"},
        BadCase{"prompts_nested", "model: {path: m}\ngenerate: {prompts: [[a]]}\n",
                "generate.prompts[0]|a text"},
        BadCase{"negative_id", "model: {path: m}\ngenerate: {prompt_token_ids: [1, -2]}\n",
                "[1]|whole number"},
        BadCase{"one_id", "model: {path: m}\ngenerate: {prompt_token_ids: 5}\n", "such as [1, "},
        BadCase{"flag", "model: {path: m}\ngenerate: {ignore_eos: maybe}\n", "true or false"},
        BadCase{"no_model", "device: host\n", "model.path|missing"},
        BadCase{"empty_file", "", "run.yaml: expected keys such as model:"},
        BadCase{"list", "[1, 2]", "run.yaml: expected keys such as model:"},
        BadCase{"open_list", "a: [", "run.yaml:1: not valid YAML: a [ is not closed"},
        BadCase{"open_map", "a: {", "run.yaml:1: not valid YAML: a { is not closed"},
        BadCase{"two_colons", "model: {path: m}\nreport: a: b\n",
                "run.yaml:2: not valid YAML: |in quotes"},
        BadCase{"tab", "model: {path: m}\nmemory:\n\tram: 1GiB\n",
                "run.yaml:3: not valid YAML: the line is indented with a tab; use spaces"},
        BadCase{"after_the_end", "model: {path: m}\n...\nmemory: {ram: 1GiB}\n",
                "run.yaml:3: a second document|one file describes one run"},
        BadCase{"empty_document", "---\n---\nmodel: {path: n}\n",
                "run.yaml:3: a second document|one file describes one run"},
        BadCase{"ended_at_once", "...\nmodel: {path: n}\n",
                "run.yaml:2: a second document|one file describes one run"},
        BadCase{"after_a_map", "{model: {path: m}}\n{memory: {ram: 1GiB}}\n",
                "run.yaml:2: a second document|one file describes one run"},
        BadCase{"after_a_flow_map", "{model: {path: m}}\nmemory: {ram: 1GiB}\n", "run.yaml:2: |"},
        BadCase{"after_a_marked_map", "--- {model: {path: m}}\nmemory: {ram: 1GiB}\n",
                "run.yaml:2: |"},
        BadCase{"behind_an_empty_one", "model: {path: m}\n---\n---\nmodel: {path: n}\n",
                "run.yaml:4: a second document|one file describes one run"},
        BadCase{"behind_a_comma", "{model: {path: m}}, {memory: {ram: 1GiB}}\n",
                "run.yaml:1: a second document|one file describes one run"},
        BadCase{"behind_a_comma_below", "{model: {path: m}}\n, memory: {ram: 1GiB}\n",
                "run.yaml:2: a second document"},
        BadCase{"two_documents", "model: {path: m}\n---\nmodel: {path: n}\n",
                "run.yaml:3: a second document|one file describes one run"},
        BadCase{"alias", "model: {path: *m}\n", "run.yaml:1: not valid YAML: * and & begin"},
        BadCase{"no_path", "model: {path: ''}\n", "model.path|a path"},
        BadCase{"tilde_alone", "model: {path: ~}\n", "model.path|a path|write ~/ for your home"},
        BadCase{"home_of_another", "model: {path: ~me/x}\n", "model.path|~/ or $HOME/|./~me"},
        BadCase{"variable", "model: {path: $MODELS/x}\n", "model.path|~/ or $HOME/|./$MODELS"}),
    [](const auto& test) { return std::string(test.param.name); });

struct ForeignKey {
  const char* key;
  const char* answer;
};

/// What people bring from llama.cpp, vLLM and transformers, and keys in the wrong section.
TEST(Config, KeysOfOtherProgramsAreAnswered) {
  const std::vector<ForeignKey> cases = {
      {"memory.vram", "did you mean memory.gpu?"},
      {"vram", "did you mean memory.gpu?"},
      {"ram", "did you mean memory.ram?"},
      {"n_gpu_layers", "placement.layers places layers by hand"},
      {"device_map", "placement.layers places layers by hand"},
      {"ctx_size", "none is needed: the cache is as long"},
      {"threads", "did you mean compute.threads?"},
      {"n_threads", "did you mean compute.threads?"},
      {"max_tokens", "did you mean generate.max_new_tokens?"},
      {"generate.n_predict", "did you mean generate.max_new_tokens?"},
      {"generate.prompt", "did you mean generate.prompts?"},
      {"temperature", "did you mean generate.temperature?"},
      {"generate.temp", "did you mean generate.temperature?"},
      {"model.name", "did you mean model.path?"},
      {"model.dtype", "weights are used as the checkpoint has them"},
      {"generate.min_p", "it is not offered; temperature, top_k"},
      {"chunk", "did you mean io.chunk or score.chunk?"},
      {"io.dpeth", "did you mean io.depth?"},
      {"sampling.sede", "did you mean generate.seed?"},
      {"quite.another", "man spillway.yaml lists every key"},
  };
  for (const auto& [key, answer] : cases) {
    const std::string said = complaint("model: {path: m}", {std::string(key) + "=1"});
    EXPECT_NE(said.find(std::string(key) + ": unknown key; "), std::string::npos) << said;
    EXPECT_NE(said.find(answer), std::string::npos) << key << ": " << said;
  }
}

TEST(Config, HomeIsReplacedInPaths) {
  const auto path = [](const std::string& text) {
    return parse_config("model: {path: \"" + text + "\"}", "dir/run.yaml", {}, "/home/me")
        .model_path.string();
  };
  EXPECT_EQ(path("~"), "/home/me");
  EXPECT_EQ(path("~/m"), "/home/me/m");
  EXPECT_EQ(path("$HOME/m"), "/home/me/m");
  EXPECT_EQ(path("${HOME}/m"), "/home/me/m");
  EXPECT_EQ(path("a~/$HOME"), "dir/a~/$HOME") << "only where it stands first";
  EXPECT_EQ(path("./~me"), "dir/~me");
}

TEST(Config, HomeMustBeSetWhereItIsAskedFor) {
  EXPECT_NE(complaint("model: {path: ~/m}").find("HOME, which is not set"), std::string::npos);
}

TEST(Config, OnePromptNeedsNoList) {
  EXPECT_EQ(parse("model: {path: m}\ngenerate: {prompts: Hi there}").prompts,
            (std::vector<std::string>{"Hi there"}));
}

TEST(Config, MarksOfOneDocumentAreFine) {
  for (const char* text :
       {"---\nmodel: {path: m}\n", "model: {path: m}\n---\n",
        "%YAML 1.2\n---\nmodel: {path: m}\n...\n", "\xEF\xBB\xBF# my run\n---\nmodel: {path: m}\n",
        "model: {path: m}\r\n---\r\n# the end\r\n", "--- {model: {path: m}}\n"}) {
    EXPECT_EQ(parse(text).model_path, "dir/m") << text;
  }
}

/// The first two hold yaml-cpp's LoadAll() for ever.
TEST(Config, WhatIsNoYamlIsRefused) {
  using namespace std::string_literals;
  for (const std::string& text : {","s, ",\1\0\0\xde\xde\xde\0\1\0\0."s, "]"s, "- a\n,"s}) {
    EXPECT_THROW(static_cast<void>(parse(text)), Error) << text;
  }
}

TEST(Config, OtherEncodingsAreRead) {
  std::string text = "\xFF\xFE";
  for (const char c : std::string("model: {path: m}\n")) (text += c) += '\0';
  EXPECT_EQ(parse(text).model_path, "dir/m");
}

TEST(Config, ADocumentBehindManyEmptyOnesIsFound) {
  std::string text = "model: {path: m}\n";
  for (int i = 0; i < 200; ++i) text += "---\n";
  EXPECT_EQ(parse("model: {path: m}\n---\n---\n...\n# end\n").model_path, "dir/m");
  EXPECT_EQ(parse(text).model_path, "dir/m");
  EXPECT_NE(complaint(text + "memory: {ram: 1}\n").find("run.yaml:202: a second document"),
            std::string::npos);
}

TEST(Config, ANulByteIsNamed) {
  using namespace std::string_literals;
  EXPECT_NE(test::error_of([] {
              static_cast<void>(parse("model: {path: m}\nreport: \0x"s));
            }).find("run.yaml:2: a NUL byte"),
            std::string::npos);
}

/// Values may hold anything and be of any length; what is said of them is a line.
TEST(Config, LongAndHostileValuesAreCutAndEscaped) {
  const std::string said =
      complaint("model: {path: m}\ndevice: \"\\e[31m\\u202e" + std::string(5000, 'x') + "\"\n");
  EXPECT_LT(said.size(), 300u);
  EXPECT_NE(said.find("\\x1b[31m\\u202exxx"), std::string::npos) << said;
}

TEST(Config, BadOverridesSayWhichOne) {
  const std::string base = "model: {path: m}";
  EXPECT_NE(complaint(base, {"memory.ram"}).find("KEY=VALUE"), std::string::npos);
  EXPECT_NE(complaint(base, {"memory.rm=1"}).find("--set memory.rm=1"), std::string::npos);
  EXPECT_NE(
      complaint(base, {"generate.prompt_token_ids=[1,2],[3,4]"}).find("more follows the value"),
      std::string::npos);
  EXPECT_NE(complaint(base, {"io.depth=x"}).find("--set io.depth=x: io.depth"), std::string::npos);
}

TEST(Config, MissingFileIsOneLine) {
  const std::string message = test::error_of([] { load_config("/nowhere/run.yaml", {}); });
  EXPECT_NE(message.find("cannot read /nowhere/run.yaml"), std::string::npos);
}

}  // namespace
}  // namespace spillway
