#include "text/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/error.h"
#include "core/one_line.h"
#include "text/gguf_pre_tokenizer.h"
#include "text/gguf_sentencepiece.h"
#include "text/gguf_vocabulary.h"
#include "text/json_tokenizer.h"

namespace spillway {
namespace {

/// Control tokens that end an answer in the models that have them.
constexpr std::array<std::string_view, 9> kEndTexts = {
    "<|im_end|>",    "<|eot_id|>",      "<|eom_id|>",         "<end_of_turn>",         "<|end|>",
    "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
};

const GgufPreTokenizer& pre_tokenizer_of(const GgufMetadata& metadata) {
  const std::optional<std::string> name = metadata.text(gguf_keys::kPre);
  const GgufPreTokenizer* known = name ? find_gguf_pre_tokenizer(*name) : nullptr;
  if (known == nullptr) {
    throw Error(fmt::format(
        "{}: {}: {}, and a guess would change tokens silently; fetch the model as safetensors with "
        "its tokenizer.json",
        metadata.path(), gguf_keys::kPre,
        name ? fmt::format("how {} splits text is not known", in_quotes(*name))
             : "it is missing, so that how text is split is not known"));
  }
  return *known;
}

/// The parts of "a b".
void add_merges(const GgufMetadata& metadata, const GgufTexts& merges, Bpe& bpe) {
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
        !bpe.add_merge(merge.substr(0, space), merge.substr(space + 1))) {
      refuse_gguf(
          metadata, gguf_keys::kMerges,
          fmt::format("merge {}, {}, does not join two tokens into a third", i, in_quotes(merge)));
    }
  }
}

Bpe read_bpe(const GgufVocabulary& vocabulary, bool ignores_merges) {
  const GgufMetadata& metadata = vocabulary.metadata();
  const GgufTexts* merges = metadata.texts(gguf_keys::kMerges);
  if (merges == nullptr) refuse_gguf(metadata, gguf_keys::kMerges, "it is missing");
  BpeOptions options;
  options.ignore_merges = ignores_merges;
  Bpe bpe(options);
  bpe.reserve(vocabulary.size(), merges->size());
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) != GgufTokenType::kUnused) {
      bpe.add_token(std::string(vocabulary.token(id)), id);
    }
  }
  add_merges(metadata, *merges, bpe);
  return bpe;
}

std::unique_ptr<Tokenizer> gguf_byte_level(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata();
  const GgufPreTokenizer& pre = pre_tokenizer_of(metadata);
  if (metadata.flag(gguf_keys::kAddSpacePrefix).value_or(false)) {
    refuse_gguf(metadata, gguf_keys::kAddSpacePrefix,
                "a space before a text is not supported with the tokenizer \"gpt2\"");
  }
  TokenizerParts parts{read_bpe(vocabulary, pre.ignores_merges), {}, {}, false, {}};
  if (pre.composes) parts.normalizer.add_form(NormalForm::kNfc);
  pre.build(parts);
  DecoderStep bytes{};
  bytes.kind = DecoderStep::Kind::kByteLevel;
  parts.decoder.steps.push_back(bytes);
  auto tokenizer = std::make_unique<JsonTokenizer>(std::move(parts));
  tokenizer->add_tokens(vocabulary.added());
  tokenizer->set_bos(vocabulary.bos(pre.adds_bos));
  return tokenizer;
}

/// In answers of the kind that goes on behind `<|end|>` that ends a message only.
bool ends_messages_only(const GgufVocabulary& vocabulary) {
  return vocabulary.control("<|return|>") && vocabulary.control("<|call|>");
}

void add_ends_by_text(const GgufVocabulary& vocabulary, std::set<uint32_t>& ends) {
  const bool messages = ends_messages_only(vocabulary);
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) != GgufTokenType::kControl) continue;
    const std::string_view text = vocabulary.token(id);
    if (messages && text == "<|end|>") continue;
    if (std::find(kEndTexts.begin(), kEndTexts.end(), text) != kEndTexts.end() ||
        (messages && (text == "<|return|>" || text == "<|call|>"))) {
      ends.insert(id);
    }
  }
}

/// "gpt2", "llama", or a name that is not supported; nothing where there is no tokenizer.
std::optional<std::string> tokenizer_kind(const GgufMetadata& metadata) {
  std::optional<std::string> kind = metadata.text(gguf_keys::kModel);
  if (kind == "none" || kind == "no_vocab") return std::nullopt;
  return kind;
}

bool is_supported(const std::optional<std::string>& kind) {
  return kind == "gpt2" || kind == "llama";
}

/// Those that the file names.
std::set<uint32_t> named_ends(const GgufMetadata& metadata) {
  std::set<uint32_t> ends;
  for (const std::string_view key : {gguf_keys::kEos, gguf_keys::kEot, gguf_keys::kEom}) {
    const std::optional<uint64_t> id = metadata.whole(key);
    if (id && *id > UINT32_MAX) refuse_gguf(metadata, key, fmt::format("{} is no token id", *id));
    if (id) ends.insert(static_cast<uint32_t>(*id));
  }
  return ends;
}

}  // namespace

std::unique_ptr<Tokenizer> gguf_tokenizer(const GgufMetadata& metadata) {
  const std::optional<std::string> kind = tokenizer_kind(metadata);
  if (!kind) return nullptr;
  if (!is_supported(kind)) {
    throw Error(fmt::format(
        "{}: {}: the tokenizer {} is not supported; supported are \"gpt2\" and \"llama\"",
        metadata.path(), gguf_keys::kModel, in_quotes(*kind)));
  }
  const GgufVocabulary vocabulary(metadata);
  vocabulary.check_tokens();
  return kind == "gpt2" ? gguf_byte_level(vocabulary) : gguf_sentencepiece(vocabulary);
}

std::vector<uint32_t> gguf_end_tokens(const GgufMetadata& metadata) {
  std::set<uint32_t> ends = named_ends(metadata);
  if (is_supported(tokenizer_kind(metadata))) {
    const GgufVocabulary vocabulary(metadata);
    for (const std::string_view key : {gguf_keys::kEos, gguf_keys::kEot, gguf_keys::kEom}) {
      (void)vocabulary.id_at(key);  // refuses what is no token
    }
    if (!metadata.has(gguf_keys::kEos)) {
      if (const auto id = vocabulary.control("</s>")) ends.insert(*id);
    }
    add_ends_by_text(vocabulary, ends);
  }
  return {ends.begin(), ends.end()};
}

}  // namespace spillway
