#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "jobs/bounded_queue.h"
#include "jobs/job_identity.h"
#include "jobs/job_records.h"
#include "jobs/job_writer.h"
#include "tests/support.h"

namespace spillway {
namespace {

/// Random texts and a random cut of them.
struct RandomJob {
  explicit RandomJob(std::mt19937_64& random) {
    std::vector<TextShape> texts;
    for (uint64_t i = 0; i < 1 + random() % 40; ++i) {
      const auto tokens = static_cast<uint32_t>(random() % 5 == 0 ? random() % 2 : random() % 90);
      const auto from = static_cast<uint32_t>(random() % (tokens + 1));
      texts.push_back({tokens, 1 + (random() % 3 == 0 ? from : 0)});
    }
    shapes = std::make_shared<const std::vector<TextShape>>(std::move(texts));
    cut.chunk = static_cast<uint32_t>(1 + random() % 40);
    cut.window = static_cast<uint32_t>(2 + random() % 60);
    cut.stride = static_cast<uint32_t>(1 + random() % (cut.window - 1));
    cut.feed_all = random() % 2 == 0;
    record_rows = 1 + random() % 200;
  }
  TextShapes shapes;
  ScoreCut cut;
  uint64_t record_rows = 0;
};

bool same(const ScoreBatch& a, const ScoreBatch& b) {
  if (a.slices.size() != b.slices.size() || a.kv_lengths != b.kv_lengths) return false;
  for (size_t i = 0; i < a.slices.size(); ++i) {
    const ScoreSlice& one = a.slices[i];
    const ScoreSlice& other = b.slices[i];
    if (one.text != other.text || one.begin != other.begin || one.count != other.count ||
        one.scored_from != other.scored_from || one.new_from != other.new_from) {
      return false;
    }
  }
  return true;
}

std::vector<JobRecord> all_records(const RandomJob& job, DocumentRange documents) {
  JobRecords records(job.shapes, job.cut, documents, job.record_rows);
  std::vector<JobRecord> all;
  for (JobRecord record; records.next(record);) all.push_back(record);
  return all;
}

/// Records tile the documents, hold whole ones, and their batches are those of all texts.
TEST(JobRecords, TileTheDocuments) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 400; ++round) {
    const RandomJob job(random);
    const auto batches = plan_scoring(*job.shapes, job.cut);
    size_t batch = 0;
    uint64_t document = 0;
    for (const JobRecord& record : all_records(job, {0, job.shapes->size()})) {
      ASSERT_EQ(record.documents.first, document);
      ASSERT_GT(record.documents.count, 0u);
      document = record.documents.end();
      uint64_t rows = 0;
      for (const ScoreBatch& one : record.batches) {
        ASSERT_LT(batch, batches.size());
        ASSERT_TRUE(same(one, batches[batch++]));
        rows += one.rows();
        for (const ScoreSlice& slice : one.slices) {
          ASSERT_GE(slice.text, record.documents.first);
          ASSERT_LT(slice.text, record.documents.end());
        }
      }
      ASSERT_EQ(rows, record.rows);
      uint64_t before = 0;  // it is too long only where it could not have ended before
      for (size_t i = 0; i < record.batches.size(); ++i) {
        const ScoreBatch& one = record.batches[i];
        const bool border = i > 0 && one.begins_text && one.slices[0].text > record.documents.first;
        ASSERT_TRUE(!border || before + one.rows() <= job.record_rows);
        before += one.rows();
      }
      uint64_t fed = 0;
      uint64_t scored = 0;
      for (uint64_t d = record.documents.first; d < record.documents.end(); ++d) {
        fed += counts_of((*job.shapes)[d], job.cut).fed;
        scored += counts_of((*job.shapes)[d], job.cut).scored;
      }
      ASSERT_EQ(record.fed, fed);
      ASSERT_EQ(record.scored, scored);
    }
    ASSERT_EQ(document, job.shapes->size());
    ASSERT_EQ(batch, batches.size());
  }
}

/// Bits depend on what lies in a batch: parts of a job compute the batches of the whole.
TEST(JobRecords, PartsComputeTheBatchesOfTheWhole) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 400; ++round) {
    const RandomJob job(random);
    const auto batches = plan_scoring(*job.shapes, job.cut);
    const uint64_t count = 1 + random() % 6;
    uint64_t document = 0;
    for (uint64_t part = 0; part < count; ++part) {
      const DocumentRange mine = shard_documents(job.shapes->size(), part, count);
      std::vector<const ScoreBatch*> wanted;
      for (const ScoreBatch& batch : batches) {
        const bool any =
            std::any_of(batch.slices.begin(), batch.slices.end(), [&](const ScoreSlice& slice) {
              return slice.text >= mine.first && slice.text < mine.end();
            });
        if (any) wanted.push_back(&batch);
      }
      size_t next = 0;
      for (const JobRecord& record : all_records(job, mine)) {
        ASSERT_EQ(record.documents.first, document);
        document = record.documents.end();
        ASSERT_LE(record.texts().first, record.documents.first);
        ASSERT_GE(record.texts().end(), record.documents.end());
        for (const ScoreBatch& batch : record.batches) {
          ASSERT_LT(next, wanted.size());
          ASSERT_TRUE(same(batch, *wanted[next++]));
        }
      }
      ASSERT_EQ(next, wanted.size());
      ASSERT_EQ(document, mine.end());
    }
  }
}

TEST(JobPart, IsReadAsOneOfSoMany) {
  const auto part = parse_part("2/8");
  ASSERT_TRUE(part);
  EXPECT_EQ(part->index, 1u);
  EXPECT_EQ(part->count, 8u);
  for (const char* none : {"", "/", "1", "1/", "/2", "0/2", "3/2", "1/2x", "a/2", "-1/2", "1/0",
                           "1 /2", "99999999999999999999/3"}) {
    EXPECT_FALSE(parse_part(none)) << none;
  }
}

TEST(BoundedQueue, HandsOnInOrderAndEndsWithAStop) {
  BoundedQueue<int> queue(2);
  StopFlag stop;
  std::vector<int> taken;
  {
    const std::jthread reader([&] {
      while (auto item = queue.pop()) taken.push_back(*item);
    });
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(queue.push(i, stop));
    queue.close(BoundedQueue<int>::Rest::kStays);
  }
  ASSERT_EQ(taken.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(taken[i], i);
  EXPECT_FALSE(queue.push(1, stop)) << "closed";

  BoundedQueue<int> full(1);
  ASSERT_TRUE(full.push(1, stop));
  const std::jthread stopper([&] { stop.request(); });
  EXPECT_FALSE(full.push(2, stop)) << "waits for room until a stop is asked for";
  full.close(BoundedQueue<int>::Rest::kStays);
  EXPECT_EQ(full.pop(), 1);
  EXPECT_EQ(full.pop(), std::nullopt);
}

class JobWriting : public ::testing::Test {
 protected:
  std::unique_ptr<JobFolder> open(uint64_t documents) {
    return std::make_unique<JobFolder>(dir_ / "out", nlohmann::json{{"a", 1}},
                                       DocumentRange{0, documents}, JobFolder::Check::kHashes,
                                       stop_);
  }
  static ScoredRows rows(std::vector<DocumentRows> parts, float logprob) {
    ScoredRows rows;
    rows.parts = std::move(parts);
    for (const DocumentRows& part : rows.parts) {
      for (uint32_t r = 0; r < part.rows; ++r) {
        rows.ids.push_back(r);
        rows.logprobs.push_back(logprob);
        rows.greedy.push_back(part.document != 1);
      }
    }
    return rows;
  }
  static JobSinks sinks() {
    JobSinks sinks;
    sinks.logprobs = true;
    sinks.embeddings = Pooling::kMean;
    sinks.hidden = 2;
    sinks.final_layer = 4;
    return sinks;
  }

  test::TempDir dir_;
  StopFlag stop_;
};

/// A document in several batches, one with nothing to score, one with nothing at all.
TEST_F(JobWriting, PutsDocumentsTogether) {
  auto folder = open(4);
  const JobSinks kept = sinks();
  {
    JobWriter writer(*folder, kept, stop_);
    writer.push(RecordStart{{"a", "", "c", ""}, {3, 2, 0, 0}, {4, 3, 1, 0}});
    writer.push(rows({{0, 2}}, -1));
    writer.push(rows({{0, 1}, {1, 2}}, -0.5));
    writer.push(StateRows{4, {{0, 3}}, {1, 10, 2, 20, 3, 30}});
    writer.push(StateRows{4, {{0, 1}, {1, 3}, {2, 1}}, {2, 20, 7, 7, 7, 7, 7, 7, 9, 5}});
    writer.push(RecordEnd{});
    writer.finish();
  }
  folder->finish({});
  std::vector<nlohmann::json> lines;
  std::istringstream text(test::read_file(dir_ / "out" / kScoresName));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["sum_logprob"], -2.5);
  EXPECT_EQ(lines[0]["greedy"], true);
  EXPECT_EQ(lines[1]["mean_logprob"], -0.5);
  EXPECT_EQ(lines[1]["greedy"], false);
  EXPECT_EQ(lines[2]["tokens"], 0);
  EXPECT_TRUE(lines[2]["mean_logprob"].is_null());
  EXPECT_FALSE(lines[2].contains("greedy"));
  const std::string array = test::read_file(dir_ / "out" / kEmbeddingsArrayName);
  ASSERT_EQ(array.size(), kNpyHeadBytes + 4 * 2 * sizeof(float));
  std::vector<float> means(8);
  std::memcpy(means.data(), array.data() + kNpyHeadBytes, 8 * sizeof(float));
  EXPECT_EQ(means, (std::vector<float>{2, 20, 7, 7, 9, 5, 0, 0}));
}

/// What the writer's thread meets comes out where its owner pushes or ends.
TEST_F(JobWriting, AFailureComesOutOnce) {
  auto folder = open(4);
  JobWriter writer(*folder, sinks(), stop_);
  std::filesystem::remove_all(dir_ / "out");
  EXPECT_THROW(
      {
        for (int i = 0; i < 1000; ++i) {
          writer.push(RecordStart{{"a"}, {1}, {1}});
        }
        writer.finish();
      },
      Error);
}

/// A record that was pushed whole is kept, whoever stops; one that was not leaves no trace.
TEST_F(JobWriting, AStopKeepsWhatIsWhole) {
  auto folder = open(2);
  {
    JobWriter writer(*folder, sinks(), stop_);
    for (uint64_t d = 0; d < 2; ++d) {
      writer.push(RecordStart{{"a"}, {2}, {1}});
      writer.push(rows({{d, 1}}, -1));  // in two pieces: not in the order of the file
      writer.push(rows({{d, 1}}, -1));
      writer.push(StateRows{4, {{d, 1}}, {1, 2}});
      if (d == 0) writer.push(RecordEnd{});
    }
    stop_.request();
    EXPECT_THROW(writer.push(RecordEnd{}), Stopped);
  }
  folder.reset();
  const StopFlag none;
  JobFolder again(dir_ / "out", nlohmann::json{{"a", 1}}, {0, 2}, JobFolder::Check::kHashes, none);
  EXPECT_EQ(again.next_document(), 1u);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out" / "token_logprobs-00001.safetensors"));
}

}  // namespace
}  // namespace spillway
