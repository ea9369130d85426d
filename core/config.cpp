#include "core/config.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/nearest.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "core/units.h"
#include "core/user_path.h"

namespace spillway {
namespace {

constexpr uint64_t kLeastMemoryBytes = kMiB;
constexpr uint64_t kMostMemoryBytes = uint64_t{1} << 50;

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 64 * kMiB;

/// One YAML value with where it stands, so that every complaint can name file, line and key.
struct Value {
  YAML::Node node;
  std::string key;
  std::string where;  ///< "run.yaml:12" or "--set a.b=c"
};

/// `hint`: what was probably meant.
[[noreturn]] void fail(const Value& value, const std::string& expected,
                       const std::string& hint = {}) {
  std::string got;
  if (value.node.IsScalar()) {
    got = ", got " + in_quotes(value.node.Scalar());
  } else if (value.node.IsNull()) {
    got = ", got nothing";
  } else {
    got = value.node.IsMap() ? ", got a map" : ", got a list";
  }
  throw Error(fmt::format("{}: {}expected {}{}{}", value.where,
                          value.key.empty() ? "" : value.key + ": ", expected, got,
                          hint.empty() ? "" : "; " + hint));
}

std::string text_of(const Value& value, const std::string& expected) {
  if (!value.node.IsScalar()) fail(value, expected);
  return value.node.Scalar();
}

uint64_t integer(const Value& value, uint64_t low, uint64_t high) {
  const std::string expected = fmt::format("a whole number from {} to {}", low, high);
  const std::string text = text_of(value, expected);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < low || number > high) {
    fail(value, expected);
  }
  return number;
}

double real(const Value& value, double low, double high) {
  const std::string expected = fmt::format("a number from {} to {}", low, high);
  const std::string text = text_of(value, expected);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !(number >= low) ||
      !(number <= high)) {
    fail(value, expected);
  }
  return number;
}

bool boolean(const Value& value) {
  const std::string text = text_of(value, "true or false");
  if (text == "true") return true;
  if (text == "false") return false;
  fail(value, "true or false");
}

/// "3,5GiB", and "3" for 3 GiB.
std::string size_hint(std::string text, uint64_t low) {
  const auto plain = parse_size(text);
  if (plain && *plain > 0 && *plain < low && *plain < 1024 &&
      text.find_first_not_of("0123456789.") == std::string::npos) {
    return fmt::format("that is {} B; did you mean {}GiB?", *plain, text);
  }
  std::replace(text.begin(), text.end(), ',', '.');
  if (!plain && parse_size(text)) return fmt::format("write {}", text);
  return "";
}

std::string size_words(uint64_t low, uint64_t high) {
  return fmt::format("a size from {} to {} such as 512MiB, 3GiB, 8GB or plain bytes",
                     format_bytes(low), format_bytes(high));
}

/// Empty where it is none, or out of range.
std::optional<uint64_t> size_within(const std::string& text, uint64_t low, uint64_t high) {
  const auto bytes = parse_size(text);
  return bytes && *bytes >= low && *bytes <= high ? bytes : std::nullopt;
}

uint64_t size(const Value& value, uint64_t low, uint64_t high) {
  const std::string expected = size_words(low, high);
  const std::string text = text_of(value, expected);
  const auto bytes = size_within(text, low, high);
  if (!bytes) fail(value, expected, size_hint(text, low));
  return *bytes;
}

/// The words of an enumeration, for reading and for writing.
template <typename Enum>
using Names = std::vector<std::pair<std::string, Enum>>;

Names<PlacementPolicy> policy_names() {
  return {{"auto", PlacementPolicy::kAuto},
          {"ram", PlacementPolicy::kRam},
          {"nvme", PlacementPolicy::kNvme}};
}
Names<EngineChoice> engine_names() {
  return {{"auto", EngineChoice::kAuto},
          {"io_uring", EngineChoice::kUring},
          {"pread", EngineChoice::kPread},
          {"mmap", EngineChoice::kMmap}};
}
Names<DirectChoice> direct_names() {
  return {{"auto", DirectChoice::kAuto}, {"on", DirectChoice::kOn}, {"off", DirectChoice::kOff}};
}
Names<uint32_t> token_type_names() {
  return {{"auto", 0}, {"u16", 2}, {"u32", 4}};
}
Names<DType> dtype_names() {
  return {{"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}};
}
Names<Pooling> pooling_names() {
  return {{"none", Pooling::kNone}, {"last", Pooling::kLast}, {"mean", Pooling::kMean}};
}
Names<PromptMath> math_names() {
  return {{"auto", PromptMath::kAuto}, {"bf16", PromptMath::kBf16}, {"f32", PromptMath::kF32}};
}
Names<SpillChoice> spill_names() {
  return {{"auto", SpillChoice::kAuto},
          {"never", SpillChoice::kNever},
          {"always", SpillChoice::kAlways}};
}

template <typename Enum>
Enum choice(const Value& value, const Names<Enum>& options) {
  std::string expected;
  for (const auto& [name, option] : options) {
    expected += (expected.empty() ? "" : &option == &options.back().second ? " or " : ", ") + name;
  }
  const std::string text = text_of(value, expected);
  for (const auto& [name, option] : options) {
    if (text == name) return option;
  }
  fail(value, expected);
}

bool is_auto(const Value& value) {
  return value.node.IsScalar() && value.node.Scalar() == "auto";
}

fs::path path_value(const Value& value, const Config& config, const std::string& home) {
  if (value.node.IsNull()) {
    fail(value, "a path", "~ alone is nothing in YAML: write ~/ for your home folder");
  }
  const std::string text = text_of(value, "a path");
  if (text.empty() || text.find('\0') != std::string::npos) fail(value, "a path");
  fs::path path;
  try {
    path = expand_home(text, home);
  } catch (const Error& error) {
    fail(value, "a path", error.what());
  }
  return path.is_absolute() ? path : (config.file.parent_path() / path).lexically_normal();
}

std::string device_value(const Value& value) {
  const std::string expected(kDeviceNames);
  std::string text = text_of(value, expected);
  if (!is_device_name(text)) fail(value, expected);
  return text;
}

Value element(const Value& list, size_t index) {
  // Built anew: assigning to a YAML::Node would overwrite the document it refers to.
  return {list.node[index], fmt::format("{}[{}]", list.key, index), list.where};
}

/// A text alone is a list of one.
std::vector<std::string> text_list(const Value& value) {
  const std::string expected = "a text or a list of texts";
  if (value.node.IsScalar()) return {value.node.Scalar()};
  if (!value.node.IsSequence()) fail(value, expected);
  std::vector<std::string> texts;
  for (size_t i = 0; i < value.node.size(); ++i) {
    texts.push_back(text_of(element(value, i), "a text"));
  }
  return texts;
}

std::vector<std::vector<int64_t>> id_lists(const Value& value) {
  if (!value.node.IsSequence()) {
    fail(value, "a list of token ids such as [1, 15043], or a list of such lists");
  }
  const auto ids_of = [](const Value& list) {
    std::vector<int64_t> ids;
    for (size_t i = 0; i < list.node.size(); ++i) {
      ids.push_back(static_cast<int64_t>(integer(element(list, i), 0, UINT32_MAX)));
    }
    return ids;
  };
  if (value.node.size() > 0 && value.node[0].IsScalar()) return {ids_of(value)};
  std::vector<std::vector<int64_t>> lists;
  for (size_t i = 0; i < value.node.size(); ++i) {
    const Value item = element(value, i);
    if (!item.node.IsSequence()) fail(item, "a list of token ids");
    lists.push_back(ids_of(item));
  }
  return lists;
}

LayerOverride layer_override(const Value& value) {
  const std::string expected = "a layer (12), a range (0-7), embed or head, with a tier";
  LayerOverride result;
  const std::string name = value.key.substr(value.key.rfind('.') + 1);
  if (name == "embed" || name == "head") {
    result.name = name;
  } else {
    const char* end = name.data() + name.size();
    const auto first = std::from_chars(name.data(), end, result.first);
    if (first.ec != std::errc()) fail(value, expected);
    result.last = result.first;
    if (first.ptr != end) {
      if (*first.ptr != '-') fail(value, expected);
      const auto last = std::from_chars(first.ptr + 1, end, result.last);
      if (last.ec != std::errc() || last.ptr != end) fail(value, expected);
    }
    if (result.last < result.first) fail(value, expected);
  }
  result.tier =
      choice<Tier>(value, {{"gpu", Tier::kGpu}, {"ram", Tier::kRam}, {"nvme", Tier::kNvme}});
  return result;
}

using Setter = std::function<void(Config&, const Value&)>;

/// Wraps a setter so that "auto" resets the option.
template <typename Option, typename Read>
Setter or_auto(Option Config::*member, Read read) {
  return [member, read](Config& config, const Value& value) {
    if (is_auto(value)) {
      (config.*member).reset();
    } else {
      config.*member = read(value);
    }
  };
}

using Keys = std::map<std::string, Setter, std::less<>>;

void add_path_keys(Keys& keys, const std::string& home) {
  const auto path_key = [&](const char* key, fs::path Config::*member) {
    keys[key] = [home, member](Config& c, const Value& v) { c.*member = path_value(v, c, home); };
  };
  path_key("model.path", &Config::model_path);
  path_key("report", &Config::report);
  path_key("trace", &Config::trace);
  keys["score.spill_dir"] = [home](Config& c, const Value& v) {
    c.score_spill_dir = is_auto(v) ? fs::path() : path_value(v, c, home);
  };
}

void add_machine_keys(Keys& keys) {
  keys["device"] = [](Config& c, const Value& v) { c.device = device_value(v); };
  const auto memory_size = [](const Value& v) {
    return size(v, kLeastMemoryBytes, kMostMemoryBytes);
  };
  keys["memory.ram"] = or_auto(&Config::ram_bytes, memory_size);
  keys["memory.gpu"] = or_auto(&Config::gpu_bytes, memory_size);
  keys["placement.policy"] = [](Config& c, const Value& v) {
    c.policy = choice(v, policy_names());
  };
  keys["placement.ram_share"] =
      or_auto(&Config::ram_share, [](const Value& v) { return real(v, 0, 1); });
  keys["compute.prompt_math"] = [](Config& c, const Value& v) {
    c.prompt_math = choice(v, math_names());
  };
  keys["compute.threads"] = [](Config& c, const Value& v) {
    c.compute_threads = is_auto(v) ? 0 : static_cast<uint32_t>(integer(v, 1, 1024));
  };
}

void add_stream_keys(Keys& keys) {
  keys["io.engine"] = [](Config& c, const Value& v) { c.io_engine = choice(v, engine_names()); };
  keys["io.direct"] = [](Config& c, const Value& v) { c.io_direct = choice(v, direct_names()); };
  keys["io.chunk"] = or_auto(&Config::io_chunk_bytes, [](const Value& v) {
    const uint64_t bytes = size(v, 64 * kKiB, 64 * kMiB);
    if (bytes % (64 * kKiB) != 0) fail(v, "a multiple of 64KiB");
    return bytes;
  });
  keys["io.depth"] = or_auto(
      &Config::io_depth, [](const Value& v) { return static_cast<uint32_t>(integer(v, 1, 256)); });
  keys["io.register_buffers"] = or_auto(&Config::io_register_buffers, boolean);
  keys["stream.unit"] = or_auto(&Config::stream_unit_bytes,
                                [](const Value& v) { return size(v, 64 * kKiB, 4 * kGiB); });
  keys["stream.slots"] = or_auto(&Config::stream_slots, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 2, 1024));
  });
  keys["stream.staging_slabs"] = or_auto(&Config::stream_staging_slabs, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 1, 1024));
  });
}

void add_work_keys(Keys& keys) {
  keys["generate.prompts"] = [](Config& c, const Value& v) { c.prompts = text_list(v); };
  keys["generate.prompt_token_ids"] = [](Config& c, const Value& v) {
    c.prompt_token_ids = id_lists(v);
  };
  keys["generate.max_new_tokens"] = [](Config& c, const Value& v) {
    c.max_new_tokens = static_cast<uint32_t>(integer(v, 1, 1u << 24));
  };
  keys["generate.prefill_chunk"] = [](Config& c, const Value& v) {
    c.prefill_chunk_tokens = static_cast<uint32_t>(integer(v, 1, 65536));
  };
  keys["generate.prefill_sweep"] = or_auto(&Config::prefill_sweep_tokens, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 1, 1u << 24));
  });
  keys["generate.temperature"] = [](Config& c, const Value& v) { c.temperature = real(v, 0, 100); };
  keys["generate.top_k"] = [](Config& c, const Value& v) {
    c.top_k = static_cast<uint32_t>(integer(v, 0, 1u << 24));
  };
  keys["generate.top_p"] = [](Config& c, const Value& v) { c.top_p = real(v, 1e-6, 1); };
  keys["generate.seed"] = [](Config& c, const Value& v) { c.seed = integer(v, 0, UINT64_MAX); };
  keys["generate.ignore_eos"] = [](Config& c, const Value& v) { c.ignore_eos = boolean(v); };
  keys["score.chunk"] = [](Config& c, const Value& v) {
    c.score_chunk_tokens = static_cast<uint32_t>(integer(v, 1, 65536));
  };
  keys["score.sweep"] = or_auto(&Config::score_sweep_tokens, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 1, 1u << 24));
  });
  keys["score.context"] = or_auto(&Config::score_context_tokens, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 2, 1u << 24));
  });
  keys["score.stride"] = or_auto(&Config::score_stride_tokens, [](const Value& v) {
    return static_cast<uint32_t>(integer(v, 1, 1u << 24));
  });
  keys["score.logprobs"] = [](Config& c, const Value& v) { c.score_logprobs = boolean(v); };
  keys["score.spill"] = [](Config& c, const Value& v) { c.score_spill = choice(v, spill_names()); };
}

/// A path alone is a list of one.
std::vector<fs::path> path_list(const Value& value, const Config& config, const std::string& home) {
  if (value.node.IsScalar()) return {path_value(value, config, home)};
  if (!value.node.IsSequence()) fail(value, "a path or a list of paths");
  std::vector<fs::path> paths;
  for (size_t i = 0; i < value.node.size(); ++i) {
    paths.push_back(path_value(element(value, i), config, home));
  }
  return paths;
}

/// A number alone is a list of one. Sorted, each once.
std::vector<uint32_t> layer_list(const Value& value) {
  std::vector<uint32_t> layers;
  const auto add = [&](const Value& item) {
    layers.push_back(static_cast<uint32_t>(integer(item, 0, 65536)));
  };
  if (value.node.IsSequence()) {
    for (size_t i = 0; i < value.node.size(); ++i) add(element(value, i));
  } else {
    add(value);
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

/// A token's id, or nothing with `auto`.
std::optional<uint32_t> token_or_auto(const Value& value) {
  if (is_auto(value)) return std::nullopt;
  return static_cast<uint32_t>(integer(value, 0, UINT32_MAX - 1));
}

void add_job_keys(Keys& keys, const std::string& home) {
  keys["score.data"] = [home](Config& c, const Value& v) { c.job.data = path_list(v, c, home); };
  keys["score.lengths"] = [home](Config& c, const Value& v) {
    c.job.lengths = path_list(v, c, home);
  };
  keys["score.out"] = [home](Config& c, const Value& v) { c.job.out = path_value(v, c, home); };
  keys["score.lines"] = [](Config& c, const Value& v) { c.job.lines = boolean(v); };
  keys["score.skip_bad"] = [](Config& c, const Value& v) { c.job.skip_bad = boolean(v); };
  keys["score.end_token"] = [](Config& c, const Value& v) { c.job.end_token = token_or_auto(v); };
  keys["score.prefix_token"] = [](Config& c, const Value& v) {
    c.job.prefix_token = token_or_auto(v);
  };
  keys["score.token_type"] = [](Config& c, const Value& v) {
    c.job.raw_token_bytes = choice(v, token_type_names());
  };
  keys["score.shard_tokens"] = [](Config& c, const Value& v) {
    c.job.shard_tokens.reset();
    if (!is_auto(v)) c.job.shard_tokens = integer(v, 1, uint64_t{1} << 32);
  };
  keys["score.topk"] = [](Config& c, const Value& v) {
    c.job.top_k = static_cast<uint32_t>(integer(v, 0, kMostTopK));
  };
  keys["score.hidden_states"] = [](Config& c, const Value& v) {
    c.job.hidden_layers = layer_list(v);
  };
  keys["score.hidden_dtype"] = [](Config& c, const Value& v) {
    c.job.hidden_dtype = choice(v, dtype_names());
  };
  keys["score.embeddings"] = [](Config& c, const Value& v) {
    c.job.embeddings = choice(v, pooling_names());
  };
}

const Setter* find_setter(const Keys& keys, const std::string& key) {
  const auto found = keys.find(key);
  return found == keys.end() ? nullptr : &found->second;
}

bool is_section(const Keys& keys, const std::string& key) {
  if (key == "placement.layers") return true;
  const auto next = keys.lower_bound(key + ".");
  return next != keys.end() && next->first.rfind(key + ".", 0) == 0;
}

/// Words that people bring from other programs, by the last part of a key.
struct ForeignWord {
  std::string_view word;
  std::string_view answer;  ///< one of our keys, or a sentence
};
constexpr std::string_view kNoContext =
    "none is needed: the cache is as long as prompt and answer; score.context is the window of "
    "score";
constexpr std::string_view kNoDtype = "none is needed: weights are used as the checkpoint has them";
constexpr std::string_view kNotOffered = "it is not offered; temperature, top_k and top_p are";
constexpr std::string_view kLayers =
    "placement.layers places layers by hand, memory.gpu bounds what the GPU holds";
constexpr std::array kForeignWords = {
    ForeignWord{"vram", "memory.gpu"},
    ForeignWord{"gpu_memory", "memory.gpu"},
    ForeignWord{"gpu_memory_utilization", "memory.gpu"},
    ForeignWord{"max_gpu_memory", "memory.gpu"},
    ForeignWord{"cpu", "memory.ram"},
    ForeignWord{"host", "memory.ram"},
    ForeignWord{"memory_limit", "memory.ram"},
    ForeignWord{"max_memory", "memory.ram"},
    ForeignWord{"cpu_memory", "memory.ram"},
    ForeignWord{"max_cpu_memory", "memory.ram"},
    ForeignWord{"cpu_offload_gb", "memory.ram"},
    ForeignWord{"n_gpu_layers", kLayers},
    ForeignWord{"ngl", kLayers},
    ForeignWord{"gpu_layers", kLayers},
    ForeignWord{"num_gpu", kLayers},
    ForeignWord{"device_map", kLayers},
    ForeignWord{"ctx_size", kNoContext},
    ForeignWord{"n_ctx", kNoContext},
    ForeignWord{"num_ctx", kNoContext},
    ForeignWord{"max_model_len", kNoContext},
    ForeignWord{"max_seq_len", kNoContext},
    ForeignWord{"context_length", kNoContext},
    ForeignWord{"n_threads", "compute.threads"},
    ForeignWord{"num_threads", "compute.threads"},
    ForeignWord{"num_thread", "compute.threads"},
    ForeignWord{"max_tokens", "generate.max_new_tokens"},
    ForeignWord{"n_predict", "generate.max_new_tokens"},
    ForeignWord{"num_predict", "generate.max_new_tokens"},
    ForeignWord{"max_length", "generate.max_new_tokens"},
    ForeignWord{"prompt", "generate.prompts"},
    ForeignWord{"text", "generate.prompts"},
    ForeignWord{"temp", "generate.temperature"},
    ForeignWord{"do_sample", "generate.temperature above 0 samples"},
    ForeignWord{"batch_size", "generate.prefill_chunk"},
    ForeignWord{"n_batch", "generate.prefill_chunk"},
    ForeignWord{"ubatch_size", "generate.prefill_chunk"},
    ForeignWord{"mmap", "io.engine"},
    ForeignWord{"use_mmap", "io.engine"},
    ForeignWord{"model_path", "model.path"},
    ForeignWord{"model_name", "model.path"},
    ForeignWord{"model_id", "model.path"},
    ForeignWord{"model_dir", "model.path"},
    ForeignWord{"name", "model.path"},
    ForeignWord{"dtype", kNoDtype},
    ForeignWord{"torch_dtype", kNoDtype},
    ForeignWord{"quantization", kNoDtype},
    ForeignWord{"load_in_8bit", kNoDtype},
    ForeignWord{"load_in_4bit", kNoDtype},
    ForeignWord{"stop", kNotOffered},
    ForeignWord{"min_p", kNotOffered},
    ForeignWord{"repeat_penalty", kNotOffered},
    ForeignWord{"repetition_penalty", kNotOffered},
    ForeignWord{"num_beams", kNotOffered},
};

std::string last_part(const std::string& key) {
  return key.substr(key.rfind('.') + 1);  // npos + 1 is 0
}

/// What to do about a key that there is not; empty where nothing comes near.
std::string advice_on(const Keys& keys, const std::string& unknown) {
  const std::string name = last_part(unknown);
  std::vector<std::string> all;
  std::vector<std::string> same_name;
  std::vector<std::string> names;
  for (const auto& [key, setter] : keys) {
    all.push_back(key);
    names.push_back(last_part(key));
    if (names.back() == name) same_name.push_back(key);
  }
  if (!same_name.empty()) return fmt::format("did you mean {}?", fmt::join(same_name, " or "));
  for (const ForeignWord& word : kForeignWords) {
    if (word.word != name) continue;
    const bool is_key = word.answer.find(' ') == std::string_view::npos;
    return is_key ? fmt::format("did you mean {}?", word.answer) : std::string(word.answer);
  }
  if (const std::string near = nearest_word(unknown, all); !near.empty()) {
    return fmt::format("did you mean {}?", near);
  }
  const auto near_name = std::find(names.begin(), names.end(), nearest_word(name, names));
  if (near_name == names.end()) return "";
  return fmt::format("did you mean {}?", all[static_cast<size_t>(near_name - names.begin())]);
}

[[noreturn]] void unknown_key(const Keys& keys, const Value& value) {
  const std::string advice = advice_on(keys, value.key);
  throw Error(fmt::format("{}: {}: unknown key; {}", value.where, value.key,
                          advice.empty() ? "man spillway.yaml lists every key" : advice));
}

/// What stands below a section, for those who write "memory: 3GiB".
std::string section_example(const std::string& section, const Value& map) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kFirst = {
      {{"model", "path"}, {"memory", "ram"}, {"generate", "prompts"}}};
  for (const auto& [name, key] : kFirst) {
    if (name != section || !map.node.IsScalar()) continue;
    return fmt::format("write {}: {{{}: {}}}", name, key,
                       cut_middle(printable(map.node.Scalar()), 60));
  }
  return "";
}

void apply(Config& config, const Keys& keys, const Value& value);

void apply_map(Config& config, const Keys& keys, const Value& map) {
  if (map.node.IsNull() && !map.key.empty()) return;  // an empty section
  if (!map.node.IsMap()) {
    fail(map, map.key.empty() ? "keys such as model:" : "a section of keys",
         section_example(map.key, map));
  }
  std::set<std::string> seen;
  for (const auto& entry : map.node) {
    const bool in_file = map.where.rfind("--set", 0) != 0;
    const std::string where =
        in_file ? fmt::format("{}:{}", config.file.string(), entry.first.Mark().line + 1)
                : map.where;
    if (!entry.first.IsScalar()) fail({entry.first, map.key, where}, "plain keys");
    const std::string name = entry.first.Scalar();
    const Value child{entry.second, map.key.empty() ? name : map.key + "." + name, where};
    if (!seen.insert(name).second) {
      throw Error(fmt::format("{}: {}: the key stands here a second time; keep one", child.where,
                              child.key));
    }
    if (in_file && name.find('.') != std::string::npos && find_setter(keys, child.key) != nullptr) {
      throw Error(fmt::format("{}: {}: unknown key; write the section and then the key below it",
                              where, child.key));
    }
    apply(config, keys, child);
  }
}

void apply(Config& config, const Keys& keys, const Value& value) {
  if (const Setter* setter = find_setter(keys, value.key)) return (*setter)(config, value);
  if (value.key.rfind("placement.layers.", 0) == 0) {
    config.overrides.push_back(layer_override(value));
    return;
  }
  if (is_section(keys, value.key)) return apply_map(config, keys, value);
  unknown_key(keys, value);
}

/// What the YAML library complains about, in words for whoever wrote the file.
std::string yaml_problem(const std::string& complaint) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 13> kProblems = {{
      {"end of sequence flow", "a [ is not closed"},
      {"end of map flow", "a { is not closed"},
      {"illegal flow end", "a ] or } that closes nothing"},
      {"illegal EOF in scalar", "a quote is not closed"},
      {"document indicator in scalar", "a quote is not closed before --- or ..."},
      {"end of sequence", "the indentation does not match the list above"},
      {"end of map", "the indentation does not match the lines above"},
      {"illegal map value",
       "a \": \" where no value may stand; put a text that holds one in quotes, "
       "and indent the lines of a section alike"},
      {"illegal block entry",
       "a list item (-) where none may stand; put each on a line of its own"},
      {"unknown escape",
       "a \\ before a letter that means nothing there; write \\\\, or use single quotes"},
      {"anchor", "* and & begin references; put a text that begins with one in quotes"},
      {"alias", "* and & begin references; put a text that begins with one in quotes"},
      {"unknown token", "a character that no value may begin with; put the text in quotes"},
  }};
  for (const auto& [part, problem] : kProblems) {
    if (complaint.find(part) != std::string::npos) return std::string(problem);
  }
  return "check quotes, brackets and indentation here and on the line before";
}

/// Is the line, counted from 0, indented with a tab?
bool begins_with_tab(const std::string& text, int line) {
  size_t at = 0;
  for (int i = 0; i < line && at != std::string::npos; ++i) {
    at = text.find('\n', at);
    if (at != std::string::npos) ++at;
  }
  if (at == std::string::npos) return false;
  const size_t end = text.find_first_not_of(" \t", at);
  return text.substr(at, end == std::string::npos ? end : end - at).find('\t') != std::string::npos;
}

[[noreturn]] void bad_yaml(const std::string& text, const std::string& where, bool has_lines,
                           const YAML::Exception& error) {
  const std::string not_valid = "not valid YAML: ";
  if (error.mark.is_null() || !has_lines) {
    throw Error(fmt::format("{}: {}{}", where, not_valid, yaml_problem(error.msg)));
  }
  for (const int line : {error.mark.line, error.mark.line - 1}) {
    if (line < 0 || !begins_with_tab(text, line)) continue;
    throw Error(fmt::format("{}:{}: {}the line is indented with a tab; use spaces", where, line + 1,
                            not_valid));
  }
  throw Error(
      fmt::format("{}:{}: {}{}", where, error.mark.line + 1, not_valid, yaml_problem(error.msg)));
}

/// Where a document's content begins, and where there is none.
class ContentMark final : public YAML::EventHandler {
 public:
  std::optional<YAML::Mark> mark;
  std::optional<YAML::Mark> null;  // a --- with nothing behind it, for one

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& at, YAML::anchor_t) override { null = at; }
  void OnAlias(const YAML::Mark& at, YAML::anchor_t) override { note(at); }
  void OnScalar(const YAML::Mark& at, const std::string&, YAML::anchor_t,
                const std::string&) override {
    note(at);
  }
  void OnSequenceStart(const YAML::Mark& at, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    note(at);
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& at, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    note(at);
  }
  void OnMapEnd() override {}

 private:
  void note(const YAML::Mark& at) {
    if (!mark) mark = at;
  }
};

/// The line of what follows the first document, from 1; 0 = nothing does. YAML::Load() alone would
/// leave it out in silence, and LoadAll() does not come back from some texts, a comma behind a
/// closing bracket for one: there yaml-cpp finds nothing, at the same place, again and again.
int line_of_second_document(const std::string& text) {
  // A mark takes a line, so that there are no more; a fuse, should yaml-cpp turn in another circle.
  const auto most = 4 + std::count(text.begin(), text.end(), '\n');
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  ContentMark last;
  if (!parser.HandleNextDocument(last)) return 0;
  for (ptrdiff_t i = 1; i < most; ++i) {
    ContentMark next;
    if (!parser.HandleNextDocument(next)) return 0;
    if (next.mark) return next.mark->line + 1;
    const bool stuck = last.null && next.null && last.null->pos == next.null->pos;
    if (stuck) return next.null->line + 1;
    last = next;
  }
  return 1;
}

/// yaml-cpp reads UTF-16 and UTF-32, where a NUL byte is half a character.
bool is_wide(std::string_view text) {
  using namespace std::string_view_literals;
  return text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF") ||
         text.starts_with("\0\0\xFE\xFF"sv);
}

/// The one document of `text`. `has_lines`: it is a file's, not an argument's.
YAML::Node parse_yaml(const std::string& text, const std::string& where, bool has_lines) {
  try {
    if (const size_t at = text.find('\0'); at != std::string::npos && !is_wide(text)) {
      const auto line =
          1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n');
      throw Error(fmt::format("{}:{}: a NUL byte, which no text holds; save the file as UTF-8",
                              where, line));
    }
    YAML::Node document = YAML::Load(text);
    if (const int line = line_of_second_document(text)) {
      if (!has_lines) throw Error(fmt::format("{}: more follows the value; give one value", where));
      throw Error(
          fmt::format("{}:{}: a second document begins here or above; one file describes one run: "
                      "remove it, or the ---, the ... or the closing bracket before it",
                      where, line));
    }
    return document;
  } catch (const YAML::Exception& error) {
    bad_yaml(text, where, has_lines, error);
  }
}

Keys all_keys(const std::string& home) {
  Keys keys;
  add_path_keys(keys, home);
  add_machine_keys(keys);
  add_stream_keys(keys);
  add_work_keys(keys);
  add_job_keys(keys, home);
  return keys;
}

void check_placement(const Config& config, const std::string& where) {
  if (!config.ram_share || config.policy == PlacementPolicy::kAuto) return;
  throw Error(fmt::format(
      "{}: placement.ram_share: places every layer itself; leave placement.policy at auto", where));
}

void apply_override(Config& config, const Keys& keys, const std::string& text) {
  const size_t equals = text.find('=');
  const std::string where = "--set " + text;
  if (equals == std::string::npos || equals == 0) {
    throw Error(fmt::format("{}: expected KEY=VALUE, such as memory.ram=3GiB", where));
  }
  Value value{parse_yaml(text.substr(equals + 1), where, false), text.substr(0, equals), where};
  if (value.key == "placement.layers") config.overrides.clear();
  try {
    apply(config, keys, value);
  } catch (const YAML::Exception& error) {
    bad_yaml(text, where, false, error);
  }
}

}  // namespace

bool is_device_name(std::string_view name) {
  if (name == "auto" || name == "host" || name == "host-discrete" || name == "cuda") return true;
  return name.rfind("cuda:", 0) == 0 && name.size() > 5 && name.size() < 9 &&
         name.find_first_not_of("0123456789", 5) == std::string_view::npos;
}

std::string memory_size_problem(const std::string& text) {
  if (size_within(text, kLeastMemoryBytes, kMostMemoryBytes)) return "";
  const std::string hint = size_hint(text, kLeastMemoryBytes);
  return fmt::format("expected {}, got {}{}", size_words(kLeastMemoryBytes, kMostMemoryBytes),
                     in_quotes(text), hint.empty() ? "" : "; " + hint);
}

std::vector<std::string> config_keys() {
  std::vector<std::string> names{"placement.layers"};
  for (const auto& [name, setter] : all_keys("")) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

std::string_view tier_name(Tier tier) {
  return tier == Tier::kGpu ? "gpu" : tier == Tier::kRam ? "ram" : "nvme";
}

Config default_config(const fs::path& model_path, const std::vector<std::string>& overrides,
                      const std::string& home) {
  const Keys keys = all_keys(home);
  Config config;
  config.model_path = model_path;
  for (const std::string& item : overrides) apply_override(config, keys, item);
  check_placement(config, "--set");
  return config;
}

Config parse_config(const std::string& text, const fs::path& file,
                    const std::vector<std::string>& overrides, const std::string& home) {
  const Keys keys = all_keys(home);
  Config config;
  config.file = file;
  try {
    apply_map(config, keys, {parse_yaml(text, file.string(), true), "", file.string()});
    for (const std::string& item : overrides) apply_override(config, keys, item);
  } catch (const YAML::Exception& error) {
    bad_yaml(text, file.string(), true, error);
  }
  if (config.model_path.empty()) {
    throw Error(
        fmt::format("{}: model.path: missing; expected a .gguf file, or the folder of a Hugging "
                    "Face checkpoint",
                    file.string()));
  }
  check_placement(config, file.string());
  return config;
}

Config load_config(const fs::path& file, const std::vector<std::string>& overrides,
                   const std::string& home) {
  const TextFile wanted{"a YAML file (man spillway.yaml)", kMaxConfigBytes, FileKind::kStream};
  return parse_config(read_text_file(file, wanted), file, overrides, home);
}

namespace {

template <typename T>
void emit(YAML::Emitter& out, const char* key, const T& value) {
  out << YAML::Key << key << YAML::Value << value;
}

template <typename T>
void emit_or_auto(YAML::Emitter& out, const char* key, const std::optional<T>& value) {
  if (value) {
    emit(out, key, *value);
  } else {
    emit(out, key, "auto");
  }
}

template <typename Enum>
void emit_choice(YAML::Emitter& out, const char* key, Enum value, const Names<Enum>& names) {
  for (const auto& [name, option] : names) {
    if (option == value) emit(out, key, name);
  }
}

void begin_section(YAML::Emitter& out, const char* name) {
  out << YAML::Key << name << YAML::Value << YAML::BeginMap;
}

void emit_placement(YAML::Emitter& out, const Config& config) {
  begin_section(out, "placement");
  emit_choice(out, "policy", config.policy, policy_names());
  emit_or_auto(out, "ram_share", config.ram_share);
  if (!config.overrides.empty()) {
    begin_section(out, "layers");
    for (const LayerOverride& item : config.overrides) {
      const std::string name =
          item.name.empty() ? fmt::format("{}-{}", item.first, item.last) : item.name;
      emit(out, name.c_str(), std::string(tier_name(item.tier)));
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
}

void emit_streaming(YAML::Emitter& out, const Config& config) {
  begin_section(out, "io");
  emit_choice(out, "engine", config.io_engine, engine_names());
  emit_choice(out, "direct", config.io_direct, direct_names());
  emit_or_auto(out, "chunk", config.io_chunk_bytes);
  emit_or_auto(out, "depth", config.io_depth);
  emit_or_auto(out, "register_buffers", config.io_register_buffers);
  out << YAML::EndMap;
  begin_section(out, "stream");
  emit_or_auto(out, "unit", config.stream_unit_bytes);
  emit_or_auto(out, "slots", config.stream_slots);
  emit_or_auto(out, "staging_slabs", config.stream_staging_slabs);
  out << YAML::EndMap;
  begin_section(out, "compute");
  if (config.compute_threads != 0) emit(out, "threads", config.compute_threads);
  emit_choice(out, "prompt_math", config.prompt_math, math_names());
  out << YAML::EndMap;
}

void emit_paths(YAML::Emitter& out, const char* key, const std::vector<fs::path>& paths) {
  if (paths.empty()) return;
  out << YAML::Key << key << YAML::Value << YAML::BeginSeq;
  for (const fs::path& path : paths) out << fs::absolute(path).string();
  out << YAML::EndSeq;
}

void emit_job(YAML::Emitter& out, const ScoreJobConfig& job) {
  emit_paths(out, "data", job.data);
  emit_paths(out, "lengths", job.lengths);
  if (!job.out.empty()) emit(out, "out", fs::absolute(job.out).string());
  emit(out, "lines", job.lines);
  emit(out, "skip_bad", job.skip_bad);
  emit_or_auto(out, "end_token", job.end_token);
  emit_or_auto(out, "prefix_token", job.prefix_token);
  emit_choice(out, "token_type", job.raw_token_bytes, token_type_names());
  emit_or_auto(out, "shard_tokens", job.shard_tokens);
  emit(out, "topk", job.top_k);
  out << YAML::Key << "hidden_states" << YAML::Value << YAML::Flow << job.hidden_layers;
  emit_choice(out, "hidden_dtype", job.hidden_dtype, dtype_names());
  emit_choice(out, "embeddings", job.embeddings, pooling_names());
}

void emit_work(YAML::Emitter& out, const Config& config) {
  begin_section(out, "generate");
  if (!config.prompts.empty()) {
    out << YAML::Key << "prompts" << YAML::Value << YAML::BeginSeq;
    for (const std::string& text : config.prompts) out << YAML::DoubleQuoted << text;
    out << YAML::EndSeq;
  }
  if (!config.prompt_token_ids.empty()) {
    out << YAML::Key << "prompt_token_ids" << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const auto& ids : config.prompt_token_ids) out << YAML::Flow << ids;
    out << YAML::EndSeq;
  }
  emit(out, "max_new_tokens", config.max_new_tokens);
  emit(out, "prefill_chunk", config.prefill_chunk_tokens);
  emit_or_auto(out, "prefill_sweep", config.prefill_sweep_tokens);
  emit(out, "temperature", config.temperature);
  emit(out, "top_k", config.top_k);
  emit(out, "top_p", config.top_p);
  emit(out, "seed", config.seed);
  emit(out, "ignore_eos", config.ignore_eos);
  out << YAML::EndMap;
  begin_section(out, "score");
  emit(out, "chunk", config.score_chunk_tokens);
  emit_or_auto(out, "sweep", config.score_sweep_tokens);
  emit_or_auto(out, "context", config.score_context_tokens);
  emit_or_auto(out, "stride", config.score_stride_tokens);
  emit(out, "logprobs", config.score_logprobs);
  emit_job(out, config.job);
  emit_choice(out, "spill", config.score_spill, spill_names());
  const fs::path& folder = config.score_spill_dir;
  emit(out, "spill_dir", folder.empty() ? "auto" : fs::absolute(folder).string());
  out << YAML::EndMap;
}

}  // namespace

std::string config_text(const Config& config) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  begin_section(out, "model");
  emit(out, "path", std::filesystem::absolute(config.model_path).string());
  out << YAML::EndMap;
  emit(out, "device", config.device);
  begin_section(out, "memory");
  emit_or_auto(out, "ram", config.ram_bytes);
  emit_or_auto(out, "gpu", config.gpu_bytes);
  out << YAML::EndMap;
  emit_placement(out, config);
  emit_streaming(out, config);
  emit_work(out, config);
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace spillway
