#include "compare/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "compare/figures.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Closer than that is the same: repeats differ by as much.
constexpr double kSame = 1.05;

/// What was measured in one budget; 0 = not.
struct Budget {
  uint64_t bytes = 0;
  double spillway = 0;  ///< seconds per token
  double mmap = 0;
  double nvme_bytes = 0;  ///< that Spillway reads for a token
  bool both() const { return spillway > 0 && mmap > 0; }
  /// How many times as fast as mmap.
  double gain() const { return mmap / spillway; }
  std::string size() const { return format_bytes(bytes); }
};

std::vector<Budget> budgets_of(const Comparison& comparison) {
  std::map<uint64_t, Budget> by_bytes;
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != Sweep::kMemory || !result.measured()) continue;
    Budget& budget = by_bytes[result.arm.memory_bytes];
    budget.bytes = result.arm.memory_bytes;
    (result.arm.mapped ? budget.mmap : budget.spillway) = result.seconds().median;
    if (!result.arm.mapped) budget.nvme_bytes = result.nvme_bytes();
  }
  std::vector<Budget> budgets;
  budgets.reserve(by_bytes.size());
  for (const auto& [bytes, budget] : by_bytes) budgets.push_back(budget);
  return budgets;
}

std::string per_token(double seconds) {
  return figure_text(seconds) + " s per token";
}

/// The first that is as fast as the fastest.
template <typename Item>
const Item& enough_of(const std::vector<Item>& items, double Item::*seconds) {
  const auto less = [&](const Item& a, const Item& b) { return a.*seconds < b.*seconds; };
  const double least = (*std::min_element(items.begin(), items.end(), less)).*seconds;
  return *std::find_if(items.begin(), items.end(),
                       [&](const Item& item) { return item.*seconds <= kSame * least; });
}

/// What more memory than `advised` brings. Empty where only one budget was measured.
std::string what_more_brings(const std::vector<Budget>& own, const Budget& enough,
                             uint64_t advised) {
  if (own.size() < 2) return "";
  const bool all_in_ram = own.back().nvme_bytes <= 0;
  if (enough.bytes == own.back().bytes && !all_in_ram) {
    return advised == enough.bytes
               ? "; less is slower, and more was not measured"
               : fmt::format("; it is fastest in {}, the most that was measured", enough.size());
  }
  return advised == enough.bytes ? "; more gains nothing"
                                 : fmt::format("; beyond {} nothing is gained", enough.size());
}

std::string against_mmap(const Budget& budget) {
  return fmt::format("{} as fast as mmap in the same memory ({} instead of {} s)",
                     times_text(budget.gain()), per_token(budget.spillway),
                     figure_text(budget.mmap));
}

/// Of the budgets that more does not beat, the largest at which the gain is about the best.
const Budget& best_against_mmap(const std::vector<Budget>& both, const Budget& enough) {
  const auto best_up_to = [&](uint64_t most) {
    double best = 0;
    for (const Budget& budget : both) {
      if (budget.bytes <= most) best = std::max(best, budget.gain());
    }
    return best;
  };
  const bool gains_below = best_up_to(enough.bytes) >= kSame;
  const uint64_t most = gains_below ? enough.bytes : UINT64_MAX;
  const double limit = std::max(kSame, best_up_to(most) / kSame);
  return *std::find_if(both.rbegin(), both.rend(), [&](const Budget& budget) {
    return budget.bytes <= most && budget.gain() >= limit;
  });
}

/// Budgets in which mmap is the faster one, when it is not so everywhere.
std::string where_mmap_wins(const std::vector<Budget>& both) {
  std::vector<Budget> lost;
  for (const Budget& budget : both) {
    if (budget.gain() * kSame < 1) lost.push_back(budget);
  }
  if (lost.empty()) return "";
  const Budget& worst =
      *std::min_element(lost.begin(), lost.end(),
                        [](const Budget& a, const Budget& b) { return a.gain() < b.gain(); });
  const std::string most = fmt::format("in {} mmap is {} as fast as Spillway", worst.size(),
                                       times_text(1 / worst.gain()));
  return lost.size() == 1 ? "; " + most
                          : fmt::format("; mmap is faster in {} of the {} amounts, {}", lost.size(),
                                        both.size(), most);
}

std::string without_mmap(const std::vector<Budget>& own, const Budget& enough) {
  const Budget& least = own.front();
  if (own.size() == 1) {
    return fmt::format("In {} it takes {}; mmap was not measured", least.size(),
                       per_token(least.spillway));
  }
  const std::string gain =
      enough.bytes == least.bytes
          ? ""
          : fmt::format(", {} as fast as in {}", times_text(least.spillway / enough.spillway),
                        least.size());
  return fmt::format("Give it {}: {}{}{}; mmap was not measured", enough.size(),
                     per_token(enough.spillway), gain, what_more_brings(own, enough, enough.bytes));
}

std::string memory_answer(const std::vector<Budget>& budgets) {
  std::vector<Budget> own;
  std::vector<Budget> both;
  for (const Budget& budget : budgets) {
    if (budget.spillway > 0) own.push_back(budget);
    if (budget.both()) both.push_back(budget);
  }
  if (own.empty()) {
    const Budget& enough = enough_of(budgets, &Budget::mmap);
    return fmt::format("Spillway was not measured; mmap takes {} in {}", per_token(enough.mmap),
                       enough.size());
  }
  const Budget& enough = enough_of(own, &Budget::spillway);
  if (both.empty()) return without_mmap(own, enough);
  const auto gain = [](const Budget& a, const Budget& b) { return a.gain() < b.gain(); };
  const auto [worst, best] = std::minmax_element(both.begin(), both.end(), gain);
  const std::string everywhere = " in every memory measured";
  if (best->gain() >= kSame) {
    const Budget& advised = best_against_mmap(both, enough);
    return fmt::format("{} {}{}{}{}", advised.bytes <= enough.bytes ? "Give it" : "In",
                       advised.size() + (advised.bytes <= enough.bytes ? ": " : " it is "),
                       against_mmap(advised), what_more_brings(own, enough, advised.bytes),
                       where_mmap_wins(both));
  }
  if (worst->gain() * kSame >= 1) {
    return fmt::format("Give it {}: {}; mmap is as fast{}{}", enough.size(),
                       per_token(enough.spillway),
                       both.size() == 1 ? " in " + both[0].size() : everywhere,
                       what_more_brings(own, enough, enough.bytes));
  }
  return fmt::format("mmap is {}{}: {} as fast as Spillway in {} ({} instead of {} s)",
                     best->gain() * kSame < 1 ? "faster" : "at least as fast",
                     both.size() == 1 ? "" : everywhere, times_text(1 / worst->gain()),
                     worst->size(), per_token(worst->mmap), figure_text(worst->spillway));
}

/// Seconds of a pass with a share of the layers in RAM.
struct Share {
  double percent = 0;
  double seconds = 0;
};

/// Of the smallest batch that was measured.
std::vector<Share> shares_of(const Comparison& comparison, Sweep sweep, uint32_t* batch) {
  std::map<uint32_t, std::map<double, double>> by_batch;
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != sweep || !result.measured()) continue;
    by_batch[result.arm.batch][100 * result.arm.ram_share] = result.seconds().median;
  }
  std::vector<Share> shares;
  if (by_batch.empty()) return shares;
  *batch = by_batch.begin()->first;
  for (const auto& [percent, seconds] : by_batch.begin()->second) {
    shares.push_back({percent, seconds});
  }
  return shares;
}

std::string share_text(double percent) {
  return percent >= 100 ? "all layers" : fmt::format("{:.0f} % of the layers", percent);
}

std::string share_answer(const std::vector<Share>& shares, const std::string& pass) {
  const Share& least = shares.front();
  const Share& most = shares.back();
  if (shares.size() == 1) {
    return fmt::format("With {} in RAM a {} takes {} s", share_text(least.percent), pass,
                       figure_text(least.seconds));
  }
  const Share& enough = enough_of(shares, &Share::seconds);
  if (enough.percent == least.percent) {
    return fmt::format(
        "RAM gains nothing: a {} takes {} s with {} in RAM, and not clearly less with {}", pass,
        figure_text(least.seconds), share_text(least.percent), share_text(most.percent));
  }
  const std::string more = enough.percent >= 100            ? ""
                           : enough.percent == most.percent ? "; more was not measured"
                                                            : "; more gains nothing";
  return fmt::format("Keep {} in RAM: {} as fast as with {} ({} s per {} instead of {} s){}",
                     share_text(enough.percent), times_text(least.seconds / enough.seconds),
                     least.percent <= 0 ? "none" : share_text(least.percent),
                     figure_text(enough.seconds), pass, figure_text(least.seconds), more);
}

std::optional<std::string> share_answer(const Comparison& comparison) {
  for (const Sweep sweep : {Sweep::kDecode, Sweep::kPrompt}) {
    uint32_t batch = 1;
    const auto shares = shares_of(comparison, sweep, &batch);
    if (shares.empty()) continue;
    const std::string pass = sweep == Sweep::kPrompt ? "prompt"
                             : batch == 1            ? "decode pass"
                                          : fmt::format("decode pass of {} sequences", batch);
    return share_answer(shares, pass);
  }
  return std::nullopt;
}

/// What was measured of scoring: with everything in RAM, and by tokens per sweep.
struct Scores {
  double in_ram = 0;  ///< tokens per second; 0 = not measured
  struct Point {
    uint64_t tokens = 0;
    double rate = 0;
    double nvme_bytes = 0;
    std::string text() const { return count_text(tokens); }
  };
  std::vector<Point> sweeps;  ///< the shortest first
};

Scores scores_of(const Comparison& comparison) {
  Scores scores;
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != Sweep::kScore || !result.measured()) continue;
    const double rate = result.tokens_per_second();
    if (result.arm.sweep_tokens == 0) {
      scores.in_ram = rate;
    } else {
      scores.sweeps.push_back({result.samples[0].tokens, rate, result.nvme_bytes()});
    }
  }
  std::sort(scores.sweeps.begin(), scores.sweeps.end(),
            [](const auto& a, const auto& b) { return a.tokens < b.tokens; });
  return scores;
}

/// The first sweep from which on all are about as fast as `rate`; the end when none is.
auto fast_from(const std::vector<Scores::Point>& sweeps, double rate) {
  auto first = sweeps.end();
  while (first != sweeps.begin() && (first - 1)->rate * kSame >= rate) --first;
  return first;
}

std::string score_rate(double rate) {
  return figure_text(rate) + " tokens/s";
}

/// Against sweeps alone: nobody measured what the machine computes without reading.
std::string sweeps_answer(const std::vector<Scores::Point>& sweeps) {
  const Scores::Point& shortest = sweeps.front();
  const auto faster = [](const auto& a, const auto& b) { return a.rate < b.rate; };
  const double best = std::max_element(sweeps.begin(), sweeps.end(), faster)->rate;
  const auto enough = std::find_if(sweeps.begin(), sweeps.end(),
                                   [&](const auto& at) { return at.rate * kSame >= best; });
  const std::string tail = "; everything in RAM was not measured";
  if (enough == sweeps.begin()) {
    return fmt::format("With {} tokens per sweep it scores {}{}{}", shortest.text(),
                       score_rate(shortest.rate), sweeps.size() > 1 ? "; more gains nothing" : "",
                       tail);
  }
  return fmt::format(
      "With {} tokens per sweep it scores {}, {} as fast as with {}{}{}", enough->text(),
      score_rate(enough->rate), times_text(enough->rate / shortest.rate), shortest.text(),
      enough + 1 == sweeps.end() ? "; more was not measured" : "; more gains nothing", tail);
}

/// Empty when no scoring was measured.
std::string score_answer(const Scores& scores) {
  const auto& sweeps = scores.sweeps;
  if (sweeps.empty()) {
    return scores.in_ram > 0 ? fmt::format(
                                   "With everything in RAM it scores {}; no sweep that "
                                   "reads was measured",
                                   score_rate(scores.in_ram))
                             : "";
  }
  const bool reads = std::any_of(sweeps.begin(), sweeps.end(),
                                 [](const Scores::Point& at) { return at.nvme_bytes > 0; });
  if (!reads) {
    return fmt::format(
        "The memory holds everything: it scores {}, and reads nothing that longer "
        "sweeps could save; give it less (--ram)",
        score_rate(sweeps.front().rate));
  }
  if (scores.in_ram <= 0) return sweeps_answer(sweeps);
  const Scores::Point& shortest = sweeps.front();
  const auto from = fast_from(sweeps, scores.in_ram);
  if (from == sweeps.end()) {
    const Scores::Point& longest = sweeps.back();
    return fmt::format(
        "With {} tokens per sweep, the most that was measured, this machine scores {}, {} as fast "
        "as with everything in RAM ({})",
        longest.text(), score_rate(longest.rate), times_text(longest.rate / scores.in_ram),
        score_rate(scores.in_ram));
  }
  const double gain = from->rate / shortest.rate;
  const std::string instead =
      gain < kSame ? "" : fmt::format(", {} as fast as with {}", times_text(gain), shortest.text());
  return fmt::format(
      "From {} tokens per sweep on, this machine scores as fast as with everything in RAM ({} "
      "against {}){}",
      from->text(), score_rate(from->rate), figure_text(scores.in_ram), instead);
}

std::string crossing_finding(double tokens) {
  return fmt::format("predicted: computing takes longer than reading from {} tokens per sweep on",
                     count_text(std::max<uint64_t>(1, std::lround(tokens))));
}

std::string mmap_finding(const Budget& budget) {
  return fmt::format("in {}: {}; mmap in the same memory {} s, {} as long", budget.size(),
                     per_token(budget.spillway), figure_text(budget.mmap),
                     times_text(budget.gain()));
}

/// How many predictions held, and how far off the farthest was.
struct PredictionScore {
  uint32_t predicted = 0;
  uint32_t within = 0;
  double farthest = 1;  ///< measured over predicted

  void add(double ratio) {
    const auto distance = [](double r) { return std::abs(std::log(r)); };
    ++predicted;
    within += std::abs(ratio - 1) <= 0.1 ? 1 : 0;
    if (distance(ratio) > distance(farthest)) farthest = ratio;
  }
  std::string text() const {
    const long percent = std::lround(100 * (farthest - 1));
    const std::string far = farthest >= 1.995 ? times_text(farthest) + " what was predicted"
                            : percent == 0
                                ? "what was predicted"
                                : fmt::format("{} % {} than predicted", std::abs(percent),
                                              percent < 0 ? "less" : "more");
    return fmt::format(
        "{} of {} predictions within 10 % of the measured median; the farthest pass took {}",
        within, predicted, far);
  }
};

}  // namespace

std::string answer(const Comparison& comparison) {
  const auto budgets = budgets_of(comparison);
  const auto shares = share_answer(comparison);
  const std::string scored = score_answer(scores_of(comparison));
  const std::string text = !budgets.empty()  ? memory_answer(budgets)
                           : shares          ? *shares
                           : !scored.empty() ? scored
                                             : "Nothing was measured";
  return text + (comparison.interrupted ? " (stopped early)." : ".");
}

std::vector<std::string> findings(const Comparison& comparison) {
  std::vector<std::string> lines;
  for (const Budget& budget : budgets_of(comparison)) {
    if (budget.both()) lines.push_back(mmap_finding(budget));
  }
  const std::string scored = score_answer(scores_of(comparison));
  if (!scored.empty() && answer(comparison).rfind(scored, 0) != 0) lines.push_back(scored);
  if (const double tokens = crossing_tokens(comparison); tokens > 0) {
    lines.push_back(crossing_finding(tokens));
  }
  PredictionScore score;
  for (const ArmResult& result : comparison.arms) {
    if (!result.measured() || result.predicted_seconds() <= 0) continue;
    score.add(result.seconds().median / result.predicted_seconds());
  }
  if (score.predicted > 0) lines.push_back(score.text());
  return lines;
}

}  // namespace spillway
