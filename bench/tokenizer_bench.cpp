// Text to ids and back, for each tokenizer of the test data. The text is the project's own
// documents.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "text/tokenizer.h"

namespace {

using namespace spillway;

std::string documents() {
  std::stringstream text;
  for (const auto& entry : std::filesystem::directory_iterator(SPILLWAY_DOCUMENTS)) {
    if (entry.path().extension() == ".md") text << std::ifstream(entry.path()).rdbuf();
  }
  return text.str();
}

void encode(benchmark::State& state, const std::filesystem::path& folder) {
  const auto tokenizer = load_tokenizer(folder);
  const std::string text = documents();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}

void decode(benchmark::State& state, const std::filesystem::path& folder) {
  const auto tokenizer = load_tokenizer(folder);
  const auto ids = tokenizer->encode(documents());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * ids.size()));
}

}  // namespace

int main(int argc, char** argv) {
  std::error_code error;
  const std::filesystem::path root = SPILLWAY_TOKENIZERS;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    benchmark::RegisterBenchmark(("encode/" + name).c_str(), encode, entry.path());
    benchmark::RegisterBenchmark(("decode/" + name).c_str(), decode, entry.path());
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
