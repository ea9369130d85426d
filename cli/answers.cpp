#include "cli/answers.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "core/one_line.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

class LiveTexts final : public Answers {
 public:
  LiveTexts(size_t prompts, bool has_tokenizer, Progress& progress, const StopFlag& stop)
      : out_(STDOUT_FILENO, kToStdout, stop),
        progress_(progress),
        has_tokenizer_(has_tokenizer),
        terminal_(isatty(STDOUT_FILENO) != 0),
        shares_stream_(show_together(STDOUT_FILENO, STDERR_FILENO)),
        shown_(prompts, false) {}

  void begin(const RunStart&) override {}

  void show(const GenerationProgress& state) override {
    if (shown_.size() == 1) {
      if (has_tokenizer_) print_rest(state.outputs[0].text);
      return;
    }
    for (const uint32_t i : state.advanced) {
      if (!state.outputs[i].finish_reason.empty()) print_whole(i, state.outputs[i]);
    }
  }

  void finish(const GenerationResult& result) override {
    const bool whole = !result.interrupted && result.error.empty();
    for (size_t i = 0; i < shown_.size(); ++i) {
      const Output& output = result.outputs[i];
      if (shown_[i] || (output.ids.empty() && !whole)) continue;
      if (shown_.size() > 1) {
        print_whole(i, output);
      } else {
        print_rest(text_of(output));
        print("\n");
      }
    }
  }

  bool takes_the_place_of_progress() const override {
    return shares_stream_ && shown_.size() == 1 && printed_ > 0;
  }

 private:
  std::string text_of(const Output& output) const {
    return has_tokenizer_ ? output.text : Json(output.ids).dump();
  }

  void print_rest(const std::string& text) {
    if (text.size() == printed_) return;
    print(std::string_view(text).substr(printed_));
    printed_ = text.size();
  }

  void print_whole(size_t index, const Output& output) {
    print(fmt::format("--- prompt {} ({})\n", index + 1, output.finish_reason));
    print(text_of(output) + "\n");
    shown_[index] = true;
  }

  void print(std::string_view text) {
    if (shares_stream_) progress_.clear();
    out_.print(terminal_ ? harmless(text) : text);
  }

  LiveText out_;
  Progress& progress_;
  const bool has_tokenizer_;
  const bool terminal_;
  const bool shares_stream_;
  std::vector<bool> shown_;  // whole, by prompt
  size_t printed_ = 0;       // bytes of the only prompt's text
};

class JsonEvents final : public Answers {
 public:
  JsonEvents(const Clock& clock, Progress& progress, const StopFlag& stop)
      : out_(STDOUT_FILENO, kToStdout, stop),
        terminal_(isatty(STDOUT_FILENO) != 0),
        clock_(clock),
        progress_(progress),
        begin_ns_(clock.now_ns()) {}

  void begin(const RunStart& start) override {
    Json event = {{"event", "start"},
                  {"prompts", start.prompts},
                  {"most_tokens", start.most_tokens},
                  {"ram_bytes", start.ram_bytes},
                  {"gpu_bytes", start.gpu_bytes},
                  {"nvme_bytes_per_pass", start.nvme_bytes_per_pass}};
    if (start.seconds_per_pass) event["predicted_seconds_per_pass"] = *start.seconds_per_pass;
    if (start.seconds) event["predicted_seconds"] = *start.seconds;
    say(event);
  }

  void show(const GenerationProgress& state) override {
    know(state.outputs.size());
    for (const uint32_t i : state.advanced) {
      const Output& output = state.outputs[i];
      say({{"event", "token"},
           {"prompt", i},
           {"id", output.ids.back()},
           {"text", rest_of(i, output)},
           {"seconds", seconds(clock_.now_ns() - begin_ns_)}});
      if (!output.finish_reason.empty()) say_end(i, output);
    }
  }

  void finish(const GenerationResult& result) override {
    know(result.outputs.size());
    for (uint32_t i = 0; i < result.outputs.size(); ++i) {
      if (!ended_[i]) say_end(i, result.outputs[i]);
    }
    Json event = {{"event", "end"},
                  {"interrupted", result.interrupted},
                  {"seconds", seconds(clock_.now_ns() - begin_ns_)}};
    if (!result.error.empty()) event["error"] = result.error;
    say(event);
  }

 private:
  void know(size_t prompts) {
    texts_.resize(prompts, 0);
    ended_.resize(prompts, false);
  }

  std::string rest_of(uint32_t index, const Output& output) {
    return output.text.substr(std::exchange(texts_[index], output.text.size()));
  }

  /// With text where the tokens' own did not hold all of it.
  void say_end(uint32_t index, const Output& output) {
    say({{"event", "finish"},
         {"prompt", index},
         {"text", rest_of(index, output)},
         {"tokens", output.ids.size()},
         {"finish_reason", output.finish_reason}});
    ended_[index] = true;
  }

  void say(const Json& event) {
    if (terminal_) progress_.clear();
    const bool ascii = terminal_;  // nothing that could move its cursor
    out_.print(event.dump(-1, ' ', ascii, Json::error_handler_t::replace) + "\n");
  }

  LiveText out_;
  const bool terminal_;
  const Clock& clock_;
  Progress& progress_;
  int64_t begin_ns_;
  std::vector<size_t> texts_;  // bytes said, by prompt
  std::vector<bool> ended_;    // by prompt
};

class NoAnswers final : public Answers {
 public:
  void begin(const RunStart&) override {}
  void show(const GenerationProgress&) override {}
  void finish(const GenerationResult&) override {}
};

}  // namespace

std::unique_ptr<Answers> live_texts(size_t prompts, bool has_tokenizer, Progress& progress,
                                    const StopFlag& stop) {
  return std::make_unique<LiveTexts>(prompts, has_tokenizer, progress, stop);
}

std::unique_ptr<Answers> json_events(const Clock& clock, Progress& progress, const StopFlag& stop) {
  return std::make_unique<JsonEvents>(clock, progress, stop);
}

std::unique_ptr<Answers> no_answers() {
  return std::make_unique<NoAnswers>();
}

}  // namespace spillway
