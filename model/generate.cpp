#include "model/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/failure.h"
#include "core/units.h"
#include "model/sampler.h"

namespace spillway {
namespace {

void check_ids(const std::vector<uint32_t>& ids, const Model& model, const std::string& what) {
  if (ids.empty()) throw Error(fmt::format("{} is empty; give at least one token", what));
  for (const uint32_t id : ids) {
    if (id >= model.config.vocab) {
      throw Error(fmt::format("{}: token id {} is outside the vocabulary of {}: ids end at {}",
                              what, id, model.config.vocab, model.config.vocab - 1));
    }
  }
  if (ids.size() >= model.config.context) {
    throw Error(fmt::format("{} has {} tokens but the model's context is {}; shorten it", what,
                            ids.size(), model.config.context));
  }
}

/// The longest text that Phi 3 turns by its short factors; past it all positions turn by the long
/// ones. None where nothing changes with the length, or nothing but the newest token's turn.
std::optional<uint32_t> longest_short_text(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (!is_phi(config) || scaling.kind != RopeScaling::Kind::kLongRope ||
      scaling.short_factors == scaling.long_factors) {
    return std::nullopt;
  }
  return static_cast<uint32_t>(scaling.original_max_positions);
}

SequenceWork sequence_work(const Prompt& prompt, const Config& config, const Model& model) {
  const auto length = static_cast<uint32_t>(prompt.ids.size());
  SequenceWork work{length, std::min(config.max_new_tokens, model.config.context - length), 0};
  const auto border = longest_short_text(model.config);
  const uint32_t most_fed = length + work.new_tokens - 1;  // nothing comes after the last one
  if (border && length <= *border && most_fed > *border) work.again_tokens = *border + 1;
  return work;
}

struct Sequence {
  const Prompt* prompt = nullptr;
  Sampler sampler;
  uint32_t most_new = 0;                ///< bounded by the context
  uint32_t again_tokens = 0;            ///< known ones, with which all are fed again; 0 = never
  uint32_t fed = 0;                     ///< tokens whose keys and values are cached
  std::optional<TextStream> text = {};  ///< none without a tokenizer
  std::vector<uint32_t> again = {};     ///< prompt and output up to there; empty before
  std::span<const uint32_t> ahead() const { return again.empty() ? prompt->ids : again; }
  bool prefilling() const { return fed < ahead().size(); }
};

class Generator {
 public:
  Generator(Runtime& runtime, const Config& config, const std::vector<Prompt>& prompts,
            const GenerationObserver& observer)
      : runtime_(runtime), config_(config), observer_(observer) {
    const SamplingOptions sampling{config.temperature, config.top_k, config.top_p, config.seed};
    for (const Prompt& prompt : prompts) {
      const SequenceWork work = sequence_work(prompt, config, runtime.model());
      Sequence sequence{&prompt, Sampler(sampling, sequences_.size()), work.new_tokens,
                        work.again_tokens};
      if (const Tokenizer* tokenizer = runtime.model().tokenizer.get()) {
        sequence.text.emplace(*tokenizer);
      }
      tokens_ahead_ += static_cast<uint32_t>(prompt.ids.size());
      most_tokens_ += sequence.most_new;
      longest_ = std::max(longest_, sequence.most_new);
      sequences_.push_back(std::move(sequence));
    }
    outputs_.resize(sequences_.size());
  }

  GenerationResult run() {
    GenerationResult result;
    const uint32_t rows = runtime_.plan().limits.max_rows;
    runtime_.engine().start();
    const uint32_t sweep_rows = runtime_.plan().limits.sweep_rows;
    const uint32_t rows_of_pass = sweep_rows == 0 ? rows : whole_chunks(sweep_rows, rows);
    // Prompts give the first tokens.
    allow_passes(ceil_div(tokens_ahead_, rows_of_pass) + longest_ - 1);
    try {
      while (sweep_rows > 0 && tokens_ahead_ > 0) {
        result.passes.push_back(sweep(rows, rows_of_pass));
        tell(result.passes.back());
      }
      while (true) {
        if (tokens_ahead_ == 0) feed_again(rows);
        const bool ahead = tokens_ahead_ > 0;
        const Batch batch = ahead ? prompt_batch(rows) : decode_batch();
        if (batch.ids.empty()) break;
        if (ahead) tokens_ahead_ -= static_cast<uint32_t>(batch.ids.size());
        const auto kind = ahead ? PassRecord::Kind::kPrefill : PassRecord::Kind::kDecode;
        result.passes.push_back(run_pass(runtime_, batch, kind));
        take_tokens(batch, logit_owners_);
        tell(result.passes.back());
      }
    } catch (const Stopped&) {
      result.interrupted = true;
    } catch (const std::exception& failure) {  // whatever it was: the text so far must not be lost
      result.error = failure_text(failure);
    }
    runtime_.engine().stop();
    for (uint32_t i = 0; i < sequences_.size(); ++i) {
      if (!done(i)) end_output(i, result.interrupted ? "interrupted" : "error");
    }
    result.outputs = std::move(outputs_);
    return result;
  }

 private:
  /// Of a sweep: all of what is left, or as many chunks as go in.
  uint32_t whole_chunks(uint32_t sweep_rows, uint32_t rows) const {
    return sweep_rows >= tokens_ahead_ ? tokens_ahead_ : sweep_rows - sweep_rows % rows;
  }

  void tell(const PassRecord& pass) {
    observer_({&pass, outputs_, logit_owners_, new_tokens_, most_tokens_, tokens_ahead_, again_});
  }

  /// Prompts, chunk after chunk through every layer: one pass over all weights.
  PassRecord sweep(uint32_t rows, uint32_t rows_of_sweep) {
    std::vector<SweepBatch> batches;
    std::vector<std::vector<uint32_t>> owners;
    for (uint32_t room = std::min(rows_of_sweep, tokens_ahead_); room > 0;) {
      batches.push_back({prompt_batch(std::min(rows, room)), {}});
      owners.push_back(logit_owners_);
      const auto count = static_cast<uint32_t>(batches.back().batch.ids.size());
      room -= count;
      tokens_ahead_ -= count;
    }
    ForwardObserver observer;
    observer.scored = [&](size_t batch) { take_tokens(batches[batch].batch, owners[batch]); };
    const PassRecord record = run_sweep(runtime_, batches, observer, PassRecord::Kind::kPrefill);
    logit_owners_.clear();
    for (const auto& some : owners) {
      logit_owners_.insert(logit_owners_.end(), some.begin(), some.end());
    }
    return record;
  }

  bool done(uint32_t index) const { return !outputs_[index].finish_reason.empty(); }

  void end_output(uint32_t index, const char* reason) {
    Output& output = outputs_[index];
    output.finish_reason = reason;
    if (auto& text = sequences_[index].text) output.text += text->finish();
  }

  void allow_passes(uint64_t more) {
    passes_ += more;
    runtime_.engine().allow_passes(passes_);
  }

  /// A text whose newest token makes all of it turn otherwise becomes a prompt: its keys are
  /// computed anew, in place.
  void feed_again(uint32_t rows) {
    for (uint32_t i = 0; i < sequences_.size(); ++i) {
      Sequence& sequence = sequences_[i];
      const bool due = sequence.fed + 1 == sequence.again_tokens && sequence.again.empty();
      if (done(i) || !due) continue;
      sequence.again = sequence.prompt->ids;
      const auto& ids = outputs_[i].ids;
      sequence.again.insert(sequence.again.end(), ids.begin(), ids.end());
      CHECK(sequence.again.size() == sequence.again_tokens);
      sequence.fed = 0;
      tokens_ahead_ += sequence.again_tokens;
      again_ = true;
    }
    if (tokens_ahead_ > 0) allow_passes(ceil_div(tokens_ahead_, rows));
  }

  void add_rows(Batch& batch, uint32_t index, std::span<const uint32_t> ids, bool wants_logits) {
    Sequence& sequence = sequences_[index];
    const auto first_row = static_cast<uint32_t>(batch.ids.size());
    const auto rows = static_cast<uint32_t>(ids.size());
    const auto ahead = static_cast<uint32_t>(sequence.ahead().size());
    batch.sequences.push_back(
        {index, first_row, rows, sequence.fed, std::max(ahead, sequence.fed + rows)});
    batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    sequence.fed += rows;
    if (wants_logits) {
      batch.logit_rows.push_back(first_row + rows - 1);
      batch.samples.push_back(sequence.sampler.next());
      logit_owners_.push_back(index);
    }
  }

  /// As many tokens of prompts, or of what is fed again, as one pass holds, sequence after
  /// sequence.
  Batch prompt_batch(uint32_t rows) {
    Batch batch;
    logit_owners_.clear();
    for (uint32_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& sequence = sequences_[i];
      const auto room = rows - static_cast<uint32_t>(batch.ids.size());
      if (!sequence.prefilling() || room == 0) continue;
      const auto left = static_cast<uint32_t>(sequence.ahead().size()) - sequence.fed;
      const uint32_t count = std::min(room, left);
      add_rows(batch, i, sequence.ahead().subspan(sequence.fed, count), count == left);
    }
    return batch;
  }

  /// The newest token of every sequence that goes on.
  Batch decode_batch() {
    Batch batch;
    logit_owners_.clear();
    for (uint32_t i = 0; i < sequences_.size(); ++i) {
      if (!done(i)) add_rows(batch, i, std::span(outputs_[i].ids).last(1), true);
    }
    return batch;
  }

  void take_tokens(const Batch& batch, std::span<const uint32_t> owners) {
    CHECK(batch.logit_rows.size() == owners.size());
    for (uint32_t i = 0; i < owners.size(); ++i) {
      const uint32_t id = runtime_.forward().picked(i);
      if (id == kBadLogits) {
        throw Error(
            "the model computed a logit that is not a number; the checkpoint's weights are damaged "
            "(spillway inspect --verify shows their checksums), or numbers of its configuration");
      }
      take_token(owners[i], id);
    }
  }

  void take_token(uint32_t index, uint32_t id) {
    Sequence& sequence = sequences_[index];
    Output& output = outputs_[index];
    output.ids.push_back(id);
    if (sequence.text) output.text += sequence.text->add(id);
    ++new_tokens_;
    const auto& ends = runtime_.model().config.end_tokens;
    if (!config_.ignore_eos && std::find(ends.begin(), ends.end(), id) != ends.end()) {
      end_output(index, "stop");
    } else if (output.ids.size() >= sequence.most_new) {
      end_output(index, sequence.most_new < config_.max_new_tokens ? "context" : "length");
    }
  }

  Runtime& runtime_;
  const Config& config_;
  const GenerationObserver& observer_;
  std::vector<Sequence> sequences_;
  std::vector<Output> outputs_;
  std::vector<uint32_t> logit_owners_;
  uint64_t passes_ = 0;        // that the engine may read for
  uint32_t tokens_ahead_ = 0;  // of prompts, or of what is fed again, before decoding goes on
  bool again_ = false;         // some text was fed again
  uint32_t most_tokens_ = 0;
  uint32_t longest_ = 0;
  uint32_t new_tokens_ = 0;
};

}  // namespace

std::vector<Prompt> make_prompts(const Config& config, const Model& model) {
  std::vector<Prompt> prompts;
  for (const std::string& text : config.prompts) {
    if (model.tokenizer == nullptr) {
      throw Error(fmt::format("{}; or give generate.prompt_token_ids instead of texts",
                              model.no_tokenizer));
    }
    const std::string what = fmt::format("prompt {}", prompts.size() + 1);
    if (text.empty()) throw Error(fmt::format("{} is empty; write some text", what));
    Prompt prompt{text, {}};
    try {
      prompt.ids = model.tokenizer->encode_prompt(text);
    } catch (const Error& error) {
      throw Error(fmt::format("{}: {}", what, error.what()));
    }
    check_ids(prompt.ids, model, what);
    prompts.push_back(std::move(prompt));
  }
  for (const auto& ids : config.prompt_token_ids) {
    Prompt prompt{"", {ids.begin(), ids.end()}};
    check_ids(prompt.ids, model, fmt::format("prompt {}", prompts.size() + 1));
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) {
    throw Error(config.file.empty() ? "nothing to do: give -p TEXT, -p - or --prompt-file FILE"
                                    : fmt::format("{}: nothing to do: give generate.prompts, "
                                                  "generate.prompt_token_ids or -p TEXT",
                                                  config.file.string()));
  }
  return prompts;
}

Workload generation_workload(const Config& config, const Model& model,
                             const std::vector<Prompt>& prompts) {
  Workload workload;
  uint64_t prompt_tokens = 0;
  uint64_t again_tokens = 0;
  KvLengths kv_lengths;
  for (const Prompt& prompt : prompts) {
    const SequenceWork sequence = sequence_work(prompt, config, model);
    workload.sequences.push_back(sequence);
    prompt_tokens += sequence.prompt_tokens;
    again_tokens += sequence.again_tokens;
    kv_lengths.push_back(sequence.prompt_tokens + sequence.new_tokens);
  }
  workload.fillings = [kv_lengths](uint32_t, const auto& visit) { visit(kv_lengths); };
  workload.pass_counts = [prompt_tokens](uint32_t rows, uint32_t sweep_rows) {
    PassCounts counts{ceil_div(prompt_tokens, rows), 0, 1, 1};
    counts.passes = counts.batches;
    if (sweep_rows == 0) return counts;
    const uint64_t chunks = sweep_rows >= prompt_tokens ? counts.batches : sweep_rows / rows;
    counts.passes = ceil_div(counts.batches, chunks);
    counts.most_batches = counts.bound_batches = static_cast<uint32_t>(chunks);
    return counts;
  };
  workload.min_rows = static_cast<uint32_t>(prompts.size());
  workload.chunk_rows = static_cast<uint32_t>(
      std::min<uint64_t>(std::max(prompt_tokens, again_tokens), config.prefill_chunk_tokens));
  workload.logit_rows = static_cast<uint32_t>(prompts.size());
  return workload;
}

GenerationResult generate(Runtime& runtime, const Config& config,
                          const std::vector<Prompt>& prompts, const GenerationObserver& observer) {
  return Generator(runtime, config, prompts, observer).run();
}

}  // namespace spillway
