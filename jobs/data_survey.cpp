#include "jobs/data_survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace spillway {

DataSurvey survey_documents(DocumentSource& source, const StopFlag& stop,
                            const SurveyProgress& progress) {
  DataSurvey survey;
  std::vector<TextShape> shapes;
  const DataPosition begin = source.position();
  Document document;
  while (true) {
    stop.check();
    if (shapes.size() % DataSurvey::kMarkDocuments == 0) {
      survey.marks.push_back(source.position());
      progress(shapes.size(), survey.tokens);
    }
    if (!source.next(document)) break;
    CHECK(document.number == shapes.size());
    shapes.push_back({static_cast<uint32_t>(document.ids.size()), document.scored_from});
    survey.tokens += document.ids.size();
    survey.longest = std::max<uint64_t>(survey.longest, document.ids.size());
  }
  source.check_unchanged();
  survey.skipped = source.skipped();
  survey.shapes = std::make_shared<const std::vector<TextShape>>(std::move(shapes));
  source.seek(begin);
  return survey;
}

void HeldDocuments::hold(uint64_t first, uint64_t end) {
  CHECK(first <= end && end <= survey_->documents());
  const uint64_t held_end = first_ + held_.size();
  if (first < first_ || first > held_end || held_.empty()) {
    held_.clear();
    first_ = first;
    go_to(first);
  } else {
    held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(first - first_));
    first_ = first;
  }
  while (first_ + held_.size() < end) held_.push_back(read_next());
}

const Document& HeldDocuments::operator[](uint64_t number) const {
  CHECK(number >= first_ && number - first_ < held_.size());
  return held_[number - first_];
}

void HeldDocuments::go_to(uint64_t number) {
  if (positioned_ && next_ == number) return;
  const uint64_t mark = number / DataSurvey::kMarkDocuments;
  source_->seek(survey_->marks[mark]);
  positioned_ = true;
  for (next_ = mark * DataSurvey::kMarkDocuments; next_ < number;) read_next();
}

Document HeldDocuments::read_next() {
  Document document;
  const bool found = source_->next(document);
  const TextShape& was = (*survey_->shapes)[next_];
  if (!found || document.number != next_ || document.ids.size() != was.tokens ||
      document.scored_from != was.scored_from) {
    throw Error(fmt::format(
        "{}: the data was changed while the job ran: document {} is another now; put it back, and "
        "the same command goes on",
        found ? document.place : "the data", next_));
  }
  ++next_;
  return document;
}

}  // namespace spillway
