// What of a run appears on stdout: texts as they are made, or events as JSON. One thread.
#pragma once

#include <memory>
#include <vector>

#include "cli/terminal.h"
#include "model/generate.h"

namespace spillway {

/// What a run says of itself before its first token.
struct RunStart {
  uint32_t prompts = 0;
  uint32_t most_tokens = 0;  ///< of all prompts
  uint64_t ram_bytes = 0;
  uint64_t gpu_bytes = 0;
  bool embeds_from_nvme = false;  ///< rows as needed
  uint64_t nvme_bytes_per_pass = 0;
  std::optional<double> seconds_per_pass;  ///< predicted, decode
  std::optional<double> seconds;           ///< predicted, all of it
};

class Answers {
 public:
  virtual ~Answers() = default;
  /// Each throws Error where stdout does not take it.
  virtual void begin(const RunStart& start) = 0;
  virtual void show(const GenerationProgress& state) = 0;
  /// What was not shown yet, and the end.
  virtual void finish(const GenerationResult& result) = 0;
  /// The texts go to the terminal or the file that takes the progress, and stand where it would.
  virtual bool takes_the_place_of_progress() const { return false; }
};

/// One prompt: its text as it is made. Several: each text when it ends, under its number. Without a
/// tokenizer, ids at the end. `progress` and `stop` outlive the result.
std::unique_ptr<Answers> live_texts(size_t prompts, bool has_tokenizer, Progress& progress,
                                    const StopFlag& stop);
/// One JSON object a line: "start", "token", "finish" of each prompt, "end".
std::unique_ptr<Answers> json_events(const Clock& clock, Progress& progress, const StopFlag& stop);
/// Nothing: the report says all.
std::unique_ptr<Answers> no_answers();

}  // namespace spillway
