// What a job has to do, found before it begins: how long every document is. Reads all of the data
// once, document by document; a bad one is named before anything was computed. Plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/stop.h"
#include "data/document_source.h"
#include "model/score.h"

namespace spillway {

struct DataSurvey {
  TextShapes shapes;                ///< of every document, by its number
  std::vector<DataPosition> marks;  ///< before every kMarkDocuments-th document
  SkippedDocuments skipped;
  uint64_t tokens = 0;
  uint64_t longest = 0;  ///< tokens of the longest document

  static constexpr uint64_t kMarkDocuments = 1024;
  uint64_t documents() const { return shapes->size(); }
};

/// Called now and then.
using SurveyProgress = std::function<void(uint64_t documents, uint64_t tokens)>;

/// From where the source stands, which is its beginning; it goes back there. Throws what the source
/// throws, Stopped.
DataSurvey survey_documents(DocumentSource& source, const StopFlag& stop,
                            const SurveyProgress& progress);

/// Documents of a survey, by number, for whoever goes through them in order: those of a record are
/// held, those before are let go. One thread.
class HeldDocuments {
 public:
  HeldDocuments(DocumentSource& source, const DataSurvey& survey)
      : source_(&source), survey_(&survey) {}
  /// Lets go of all before `first` and reads all before `end`. Throws Error, also where a document
  /// is another than the survey saw: the data was changed.
  void hold(uint64_t first, uint64_t end);
  const Document& operator[](uint64_t number) const;

 private:
  void go_to(uint64_t number);
  Document read_next();

  DocumentSource* source_;
  const DataSurvey* survey_;
  std::vector<Document> held_;
  uint64_t first_ = 0;  // held_[0]'s number
  uint64_t next_ = 0;   // that the source gives next
  bool positioned_ = false;
};

}  // namespace spillway
