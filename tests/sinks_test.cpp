// What a job leaves is whole whatever happens to it: kills at any system call, full disks, folders
// that vanish; and parts that are merged are what one job would have written.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "io/direct_file.h"
#include "io/json_strict.h"
#include "io/safetensors.h"
#include "sinks/content_hash.h"
#include "sinks/job_difference.h"
#include "sinks/merge_jobs.h"
#include "sinks/partial_file.h"
#include "tests/sim/denied_calls.h"
#include "tests/sim/traced.h"
#include "tests/sinks_job.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using test::error_of;
using test::read_file;
using test::run_sinks_job;
using test::SinksJob;
using test::write_file;
using test::write_sinks_sweep;

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = read_file(entry.path());
  }
  return files;
}

/// Names first: a difference of bytes is not to be printed.
void expect_same(const fs::path& a, const fs::path& b) {
  const auto left = contents(a);
  const auto right = contents(b);
  for (const auto& [name, text] : left) {
    ASSERT_TRUE(right.contains(name)) << name;
    EXPECT_TRUE(right.at(name) == text) << name;
  }
  EXPECT_EQ(left.size(), right.size());
}

struct ReadTensor {
  TensorEntry entry;
  std::string bytes;
  template <typename T>
  std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

/// By the engine's own strict reader.
std::map<std::string, ReadTensor> read_tensors(const fs::path& file) {
  const std::string all = read_file(file);
  const uint64_t head = safetensors_header_bytes(all.substr(0, 8), all.size(), file.string());
  EXPECT_EQ(head % 8, 0u);
  std::map<std::string, ReadTensor> tensors;
  for (const auto& entry :
       parse_safetensors_header(all.substr(8, head), all.size(), file.string())) {
    tensors[entry.name] = {entry, all.substr(entry.offset, entry.bytes)};
  }
  return tensors;
}

Json read_header(const fs::path& file) {
  const std::string all = read_file(file);
  return Json::parse(
      all.substr(8, safetensors_header_bytes(all.substr(0, 8), all.size(), file.string())));
}

/// What the child's action throws, as text; empty where it throws nothing.
std::string message_in_child(const std::function<void()>& action) {
  const test::TempDir dir;
  chmod(dir.path().c_str(), 0777);
  const int out = open((dir / "message").c_str(), O_RDWR | O_CREAT, 0666);
  const int code = test::in_child([&] {
    try {
      action();
    } catch (const Error& error) {
      std::string text = error.what();
      const iovec line{text.data(), text.size()};  // write() itself may be what is refused
      return writev(out, &line, 1) == static_cast<ssize_t>(text.size()) ? 1 : 3;
    }
    return 0;
  });
  close(out);
  EXPECT_LE(code, 1);
  return read_file(dir / "message");
}

/// Where a sync takes no time: what reaches a drive is judged by the order of calls.
fs::path quick_folder() {
  const fs::path memory = "/dev/shm";
  const bool usable = file_system_name(memory) == "tmpfs" && access(memory.c_str(), W_OK) == 0;
  return usable ? memory : fs::temp_directory_path();
}

class Sinks : public ::testing::Test {
 protected:
  std::string opening(const SinksJob& job) const {
    return error_of([&] { run_sinks_job(out_, job); });
  }
  std::string out() const { return out_.string(); }
  std::string file(const std::string& name) const { return (out_ / name).string(); }
  /// The folder as it is left by a job that is not interrupted.
  void expect_whole(const SinksJob& job = {}) const {
    run_sinks_job(dir_ / "reference", job);
    expect_same(dir_ / "reference", out_);
  }

  const test::TempDir dir_{quick_folder()};
  const fs::path out_ = dir_ / "out";
};

// Round trips.

TEST_F(Sinks, ShardsHoldWhatWasAppended) {
  const SinksJob job;
  run_sinks_job(out_, job);
  uint64_t document = 0;
  for (uint64_t sweep = 0; document < job.documents; ++sweep) {
    const auto topk = read_tensors(out_ / shard_name(kTopK, sweep));
    const auto hidden = read_tensors(out_ / shard_name(hidden_sink(3), sweep));
    const auto embeddings = read_tensors(out_ / shard_name(kEmbeddings, sweep));
    const auto scores = read_tensors(out_ / shard_name(kTokenLogprobs, sweep));
    EXPECT_EQ(read_header(out_ / shard_name(kTopK, sweep))["__metadata__"]["first_document"],
              std::to_string(document));
    const auto offsets = topk.at("document_offsets").as<int64_t>();
    EXPECT_EQ(scores.at("document_offsets").bytes, topk.at("document_offsets").bytes);
    EXPECT_EQ(hidden.at("document_offsets").bytes, topk.at("document_offsets").bytes);
    const auto logprobs = topk.at("logprobs").as<float>();
    const auto ids = topk.at("ids").as<int32_t>();
    const auto halves = hidden.at("hidden").as<uint16_t>();
    const std::vector<uint64_t> shape = {static_cast<uint64_t>(offsets.back()), job.k};
    EXPECT_EQ(topk.at("ids").entry.shape, shape);
    EXPECT_EQ(topk.at("ids").entry.format_text, "I32");
    EXPECT_EQ(hidden.at("hidden").entry.format_text, "BF16");
    ASSERT_EQ(offsets.front(), 0);
    for (size_t i = 0; i + 1 < offsets.size(); ++i, ++document) {
      ASSERT_EQ(offsets[i + 1] - offsets[i],
                static_cast<int64_t>(test::sinks_tokens(job, document)));
      const auto first = static_cast<uint64_t>(offsets[i]);
      const auto count = static_cast<uint64_t>(offsets[i + 1]) - first;
      for (uint64_t t = 0; t < count; ++t) {
        EXPECT_EQ(scores.at("logprobs").as<float>()[first + t],
                  test::sinks_value(job, document, t));
        EXPECT_EQ(topk.at("logsumexp").as<float>()[first + t], test::sinks_value(job, document, t));
      }
      for (uint64_t v = 0; v < count * job.k; ++v) {
        const float value = test::sinks_value(job, document, v);
        EXPECT_EQ(logprobs[first * job.k + v], value);
        EXPECT_EQ(ids[first * job.k + v], static_cast<int32_t>(-value * 64));
      }
      for (uint64_t v = 0; v < count * job.hidden; ++v) {
        EXPECT_EQ(halves[first * job.hidden + v],
                  bf16_from_f32(test::sinks_value(job, document, v)));
      }
      for (uint64_t v = 0; v < job.hidden; ++v) {
        EXPECT_EQ(embeddings.at("embeddings").as<float>()[i * job.hidden + v],
                  test::sinks_value(job, document, v));
      }
    }
  }
}

TEST_F(Sinks, RowsAndArrayHoldEveryDocument) {
  const SinksJob job;
  run_sinks_job(out_, job);
  std::istringstream lines(read_file(out_ / kScoresName));
  std::string line;
  uint64_t d = 0;
  for (; std::getline(lines, line); ++d) {
    const Json row = Json::parse(line);
    const ScoreRow expected = test::sinks_row(job, d);
    EXPECT_EQ(row["id"], expected.id);
    EXPECT_EQ(row["document"], d);
    EXPECT_EQ(row["tokens"], expected.tokens);
    EXPECT_EQ(row["sum_logprob"].get<double>(), expected.sum_logprob);
    EXPECT_EQ(row["mean_logprob"].get<double>(), expected.mean_logprob);
    EXPECT_EQ(row.contains("greedy"), expected.greedy.has_value());
  }
  EXPECT_EQ(d, job.documents);
  const std::string array = read_file(out_ / kEmbeddingsArrayName);
  EXPECT_EQ(array.substr(0, kNpyHeadBytes), npy_head(job.documents, job.hidden));
  EXPECT_EQ(array.size(), kNpyHeadBytes + job.documents * job.hidden * 4);
  EXPECT_EQ(kNpyHeadBytes % 64, 0u);
  EXPECT_EQ(npy_head(UINT64_MAX, UINT64_MAX).size(), kNpyHeadBytes);
}

TEST_F(Sinks, NumbersThatJsonLacksAreNull) {
  ScoreRow row = test::sinks_row({}, 1);
  row.id = "\xff";
  row.sum_logprob = -std::numeric_limits<double>::infinity();
  row.mean_logprob = std::nan("");
  const OutputFolder folder(out_, OutputFolder::Missing::kMake);
  AppendFile rows(folder, "x");
  rows.begin(0, "");
  JsonlAppender(rows).append(row);
  rows.sync();
  const Json read = Json::parse(read_file(out_ / "x"));
  EXPECT_TRUE(read["sum_logprob"].is_null() && read["mean_logprob"].is_null());
  EXPECT_EQ(read["id"], "\xef\xbf\xbd");
}

TEST_F(Sinks, IndexSaysWhereEachTokenIs) {
  const SinksJob job;
  run_sinks_job(out_, job);
  const Json index = Json::parse(read_file(out_ / kIndexName));
  EXPECT_EQ(index["sinks"].size(), 4u);
  for (const auto& [sink, shards] : index["sinks"].items()) {
    uint64_t document = 0;
    uint64_t token = 0;
    uint64_t row = 0;
    for (const Json& shard : shards) {
      EXPECT_EQ(shard["name"].get<std::string>().find(sink + "-"), 0u);
      EXPECT_EQ(shard["documents"]["first"], document);
      EXPECT_EQ(shard["first_row"], row);
      const uint64_t end = document + shard["documents"]["count"].get<uint64_t>();
      for (; document < end; ++document) token += test::sinks_tokens(job, document);
      row = sink == kEmbeddings ? document : token;
      EXPECT_EQ(shard["first_row"].get<uint64_t>() + shard["rows"].get<uint64_t>(), row);
    }
    EXPECT_EQ(document, job.documents);
    EXPECT_EQ(index["tokens"], token);
  }
  EXPECT_EQ(Json::parse(read_file(out_ / kSummaryName))["documents"], job.documents);
}

/// How a job was cut into pieces, and how often it was interrupted, is not to be seen.
TEST_F(Sinks, PiecesAndPausesDoNotMatter) {
  for (int round = 0; round < 8; ++round) {
    std::mt19937_64 random(test::run_seed() + static_cast<uint64_t>(round));
    SCOPED_TRACE(test::seed_note(test::run_seed() + static_cast<uint64_t>(round)));
    SinksJob job;
    job.documents = 1 + random() % 30;
    job.sweep_documents = 1 + random() % 8;
    job.hidden = 1 + random() % 70;
    job.k = 1 + random() % 9;
    job.seed = random() % 1000;
    job.piece_tokens = 1000;
    const fs::path once = dir_ / ("once" + std::to_string(round));
    const fs::path often = dir_ / ("often" + std::to_string(round));
    run_sinks_job(once, job);
    while (!fs::exists(often / kSummaryName)) {
      job.piece_tokens = 1 + random() % 5;
      job.check = random() % 2 == 0 ? JobFolder::Check::kSizes : JobFolder::Check::kHashes;
      run_sinks_job(often, job, random() % 3);
    }
    expect_same(once, often);
  }
}

TEST_F(Sinks, TensorsAreAlignedToTheirElements) {
  const OutputFolder folder(out_, OutputFolder::Missing::kMake);
  SafetensorsWriter writer(folder, "s",
                           {{"half", Element::kF16, {3}},
                            {"number", Element::kU32, {1, 1}},
                            {"long", Element::kI64, {1}},
                            {"none", Element::kF32, {0, 7}}},
                           {});
  writer.append("half", std::vector<uint16_t>{1, 2});
  writer.append("long", std::vector<int64_t>{-1});
  writer.append("number", std::vector<uint32_t>{7});
  EXPECT_FALSE(fs::exists(out_ / "s"));
  writer.append("half", std::vector<uint16_t>{3});
  const ShardRecord record = writer.publish(StopFlag());
  EXPECT_EQ(record.bytes, fs::file_size(out_ / "s"));
  ContentHash hash;
  hash.update(read_file(out_ / "s"));
  EXPECT_EQ(record.xxh3, hash.digest());
  auto tensors = read_tensors(out_ / "s");
  EXPECT_EQ(tensors.at("long").entry.offset % 8, 0u);
  EXPECT_EQ(tensors.at("number").entry.offset % 4, 0u);
  EXPECT_EQ(tensors.at("half").as<uint16_t>(), (std::vector<uint16_t>{1, 2, 3}));
  EXPECT_FALSE(read_header(out_ / "s").contains("__metadata__"));
}

TEST_F(Sinks, SizesAreChecked) {
  const OutputFolder folder(out_, OutputFolder::Missing::kMake);
  const auto write = [&](uint64_t values, bool fits) {
    SafetensorsWriter writer(folder, "s", {{"t", Element::kF32, {2, 3}}}, {});
    if (!fits) writer.append("t", std::vector<int32_t>(values));
    writer.append("t", std::vector<float>(values));
    writer.publish(StopFlag());
  };
  EXPECT_DEATH(write(4, true), "does not hold") << "half a row";
  EXPECT_DEATH(write(9, true), "does not hold") << "too many";
  EXPECT_DEATH(write(3, true), "does not hold") << "too few";
  EXPECT_DEATH(write(6, false), "does not hold") << "of another type";
  write(6, true);
}

TEST_F(Sinks, BugsOfTheCallerStopTheProgram) {
  const OutputFolder folder(dir_.path(), OutputFolder::Missing::kMake);
  AppendFile rows(folder, "x");
  EXPECT_DEATH(NpyAppender(rows, 0), "does not hold");
  EXPECT_DEATH(SafetensorsWriter(folder, "s", {{"t", Element::kF32, {2, 0}}}, {}), "does not hold")
      << "rows of no length";
  const Json with_documents = {{"documents", 3}};
  EXPECT_DEATH(JobFolder(out_, with_documents, {0, 1}, JobFolder::Check::kSizes, StopFlag()),
               "does not hold");
  JobFolder job(out_, Json::object(), {0, 1}, JobFolder::Check::kSizes, StopFlag());
  job.begin_sweep(0);
  auto shard = job.new_shard(kEmbeddings, embeddings_tensors(1, 1));
  EXPECT_DEATH(job.new_shard(kEmbeddings, embeddings_tensors(1, 1)), "does not hold") << "open";
  shard.append("embeddings", std::vector<float>{1});
  job.publish(std::move(shard), StopFlag());
  EXPECT_DEATH(job.new_shard(kEmbeddings, embeddings_tensors(1, 1)), "does not hold")
      << "published";
}

/// Bytes that were not written in order are read back.
TEST_F(Sinks, AStopEndsTheReadingBackOfAShard) {
  const OutputFolder folder(out_, OutputFolder::Missing::kMake);
  StopFlag stop;
  stop.request();
  {
    SafetensorsWriter writer(folder, "s", {{"a", Element::kF32, {1}}, {"b", Element::kF32, {1}}},
                             {});
    writer.append("b", std::vector<float>{2});
    writer.append("a", std::vector<float>{1});
    EXPECT_THROW(writer.publish(stop), Stopped);
  }
  EXPECT_TRUE(fs::is_empty(out_));
}

/// What was read back before the end is neither hashed twice nor left out.
TEST_F(Sinks, AShardIsReadBackFromWhereItEnded) {
  const OutputFolder folder(out_, OutputFolder::Missing::kMake);
  const uint64_t floats = 3 << 18;  // three pieces of a MiB
  SafetensorsWriter writer(folder, "s", {{"a", Element::kF32, {1}}, {"b", Element::kF32, {floats}}},
                           {});
  std::vector<float> values(floats);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  writer.append("b", values);
  writer.append("a", std::vector<float>{1});
  const fs::path partial = file("s" + std::string(PartialFile::kEnding));
  const std::string whole = read_file(partial);
  fs::resize_file(partial, whole.size() - (1 << 20));
  EXPECT_NE(error_of([&] { writer.publish(StopFlag()); }).find("became shorter"),
            std::string::npos);
  write_file(partial, whole);
  ContentHash hash;
  hash.update(whole);
  EXPECT_EQ(writer.publish(StopFlag()).xxh3, hash.digest());
}

/// A sweep is not recorded without a shard that was begun.
TEST_F(Sinks, ASweepWithoutItsShardIsNotFinished) {
  const auto shard_of = [](JobFolder& folder) {
    folder.begin_sweep(0);
    auto shard = folder.new_shard(kTokenLogprobs, token_logprobs_tensors(1, 1, Element::kI32));
    shard.append("logprobs", std::vector<float>{1});
    shard.append("ids", std::vector<int32_t>{1});
    shard.append("document_offsets", document_offsets(std::vector<uint64_t>{1}));
    return shard;
  };
  const std::string partial = shard_name(kTokenLogprobs, 0) + std::string(PartialFile::kEnding);
  for (const bool stopped : {true, false}) {
    {
      JobFolder folder(out_, Json::object(), {0, 1}, JobFolder::Check::kSizes, StopFlag());
      ASSERT_EQ(folder.next_sweep(), 0u) << "the one before is done again";
      auto shard = shard_of(folder);
      StopFlag stop;
      if (stopped) {
        stop.request();
        EXPECT_THROW(folder.publish(std::move(shard), stop), Stopped);
      } else {
        fs::remove(out_ / partial);
        EXPECT_THROW(folder.publish(std::move(shard), stop), Error);
      }
      ASSERT_DEATH(folder.finish_sweep(1, 1), "does not hold");
    }
  }
  JobFolder folder(out_, Json::object(), {0, 1}, JobFolder::Check::kSizes, StopFlag());
  folder.publish(shard_of(folder), StopFlag());
  folder.finish_sweep(1, 1);
  EXPECT_TRUE(folder.manifest().sweeps.at(0).has_shard(shard_name(kTokenLogprobs, 0)));
}

/// It is open only once there is something to publish.
TEST_F(Sinks, AShardThatCannotBeMadeIsNotOpen) {
  JobFolder folder(out_, Json::object(), {0, 1}, JobFolder::Check::kSizes, StopFlag());
  folder.begin_sweep(0);
  const fs::path partial = file(shard_name(kEmbeddings, 0) + std::string(PartialFile::kEnding));
  fs::create_directory(partial);
  EXPECT_THROW(folder.new_shard(kEmbeddings, embeddings_tensors(1, 1)), Error);
  fs::remove(partial);
  EXPECT_EQ(folder.new_shard(kEmbeddings, embeddings_tensors(1, 1)).name(),
            shard_name(kEmbeddings, 0));
}

TEST(SinkNames, AreReadAsTheyAreWritten) {
  EXPECT_EQ(shard_name(hidden_sink(7), 12), "hidden-007-00012.safetensors");
  EXPECT_EQ(parse_shard_name("hidden-1234-123456.safetensors")->sweep, 123456u);
  EXPECT_EQ(parse_shard_name("topk-00003.safetensors")->sink, "topk");
  for (const char* name :
       {"topk-3.safetensors", "topk-00003.safetensors.partial", "hidden-00003.safetensors",
        "hidden-7-00003.safetensors", "model-00001-of-00002.safetensors", "topk-+0001.safetensors",
        "../topk-00000.safetensors", "topk-000003.safetensors", "topk.safetensors", ""}) {
    EXPECT_FALSE(parse_shard_name(name)) << name;
  }
}

// Kills.

/// All that has a final name is whole.
void expect_nothing_half(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (parse_shard_name(name)) read_tensors(entry.path());
    if (name == kManifestName) parse_manifest(read_file(entry.path()), name);
  }
}

TEST_F(Sinks, AKillAtAnySystemCallCostsNoMoreThanItsSweep) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  SinksJob job;
  run_sinks_job(dir_ / "reference", job);
  int kills = 0;
  int folders = 0;
  for (; kills < 80; ++folders) {
    fs::remove_all(out_);
    uint64_t finished = 0;
    for (uint64_t attempt = 0;; ++attempt) {
      uint64_t calls = random() % (200 + 20 * attempt);  // ends, however many a whole job makes
      const auto killed =
          test::run_traced([&] { run_sinks_job(out_, job); },
                           [&](const auto&) { return calls-- > 0; }, [](const auto&) {});
      if (killed == test::Killed::kCannotTrace) GTEST_SKIP() << "no process may be traced here";
      if (killed == test::Killed::kNo) break;
      ++kills;
      if (!fs::exists(out_ / kManifestName)) continue;
      expect_nothing_half(out_);
      const uint64_t now = parse_manifest(read_file(out_ / kManifestName), "m").sweeps.size();
      EXPECT_GE(now, finished) << "what was finished is gone";
      finished = now;
    }
    expect_same(dir_ / "reference", out_);
  }
}

/// What a power cut may take: content that was not synced, and names that were not.
class Drive {
 public:
  explicit Drive(const fs::path& folder) : folder_(folder.string()) {}
  void ends(const test::TracedCall& call) {
    const int fd = static_cast<int>(call.arguments[0]);
    switch (call.number) {
      case __NR_openat:
        if (call.result >= 0) open(static_cast<int>(call.result), call);
        return;
      case __NR_write:
      case __NR_pwrite64:
      case __NR_ftruncate:
      case __NR_fallocate:
        if (names_.contains(fd)) dirty_.insert(names_[fd]);
        return;
      case __NR_fsync:
        if (names_.contains(fd)) dirty_.erase(names_[fd]);
        if (names_.contains(fd) && names_[fd] == folder_) fresh_.clear();
        return;
      case __NR_close:
        names_.erase(fd);
        return;
      default:
        if (!call.target.empty()) rename(call);
    }
  }
  void expect_all_on_it() const {
    EXPECT_TRUE(dirty_.empty()) << *dirty_.begin();
    EXPECT_TRUE(fresh_.empty()) << *fresh_.begin();
  }
  int manifests() const { return manifests_; }

 private:
  void open(int fd, const test::TracedCall& call) {
    names_[fd] = call.path;
    if ((call.arguments[2] & O_CREAT) != 0) fresh_.insert(call.path);
  }
  void rename(const test::TracedCall& call) {
    EXPECT_FALSE(dirty_.contains(call.path)) << call.path << " gets its name before its content";
    fresh_.erase(call.path);
    if (call.target == kManifestName) {
      ++manifests_;
      expect_all_on_it();
    }
    fresh_.insert(call.target);
  }

  const std::string folder_;
  std::map<int, std::string> names_;
  std::set<std::string> dirty_;
  std::set<std::string> fresh_;  // names that the folder on the drive may lack
  int manifests_ = 0;
};

TEST_F(Sinks, AManifestNamesNothingThatIsNotOnTheDrive) {
  for (const bool goes_on : {false, true}) {
    fs::remove_all(out_);
    fs::create_directories(out_);
    if (goes_on) run_sinks_job(out_, {}, 2);
    Drive drive(out_);
    const auto killed =
        test::run_traced([&] { run_sinks_job(out_, {}); }, [](const auto&) { return true; },
                         [&](const auto& call) { drive.ends(call); });
    if (killed == test::Killed::kCannotTrace) GTEST_SKIP() << "no process may be traced here";
    drive.expect_all_on_it();
    EXPECT_EQ(drive.manifests(), goes_on ? 3 : 6);
  }
}

/// Without a shard, whose name takes that of the rows along.
TEST_F(Sinks, RowsAloneAreOnTheDriveToo) {
  fs::create_directories(out_);
  Drive drive(out_);
  const auto rows = [&] {
    JobFolder folder(out_, Json::object(), {0, 1}, JobFolder::Check::kSizes, StopFlag());
    JsonlAppender scores = folder.scores();
    folder.begin_sweep(0);
    scores.append(test::sinks_row({}, 0));
    folder.finish_sweep(1, test::sinks_tokens({}, 0));
  };
  const auto killed = test::run_traced(
      rows, [](const auto&) { return true; }, [&](const auto& call) { drive.ends(call); });
  if (killed == test::Killed::kCannotTrace) GTEST_SKIP() << "no process may be traced here";
  EXPECT_EQ(drive.manifests(), 2);
}

// Faults.

/// Goes before its folder does, whatever ends the test.
struct Mounted {
  ~Mounted() { umount2(folder.c_str(), MNT_DETACH); }
  const fs::path folder;
};

TEST_F(Sinks, AFullDriveSaysSoAndTheJobGoesOnWhenThereIsRoom) {
  fs::create_directories(out_);
  if (mount("none", out_.c_str(), "tmpfs", 0, "size=32k") != 0) {
    GTEST_SKIP() << "nothing can be mounted here";
  }
  const Mounted mounted{out_};
  SinksJob job;
  const std::string error = opening(job);
  EXPECT_NE(error.find(": No space left on device (errno 28); free some space and start it again: "
                       "what is finished is kept"),
            std::string::npos)
      << error;
  EXPECT_EQ(error.find("cannot "), 0u) << error;
  const Manifest manifest = parse_manifest(read_file(out_ / kManifestName), "m");
  EXPECT_EQ(mount("none", out_.c_str(), "tmpfs", MS_REMOUNT, "size=4m"), 0);
  EXPECT_FALSE(manifest.finished);
  run_sinks_job(out_, job);
  expect_whole();
}

TEST_F(Sinks, ALimitOnFilesSaysSo) {
  SinksJob job;
  job.hidden = 5000;
  const std::string error = message_in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{50000, 50000};
    setrlimit(RLIMIT_FSIZE, &limit);
    run_sinks_job(out_, job);
  });
  const std::string tail = " " + file("hidden-003-00000.safetensors") +
                           ": File too large (errno 27); raise the limit on the size of files "
                           "(ulimit -f) and start it again: what is finished is kept";
  // Not every file system reserves.
  EXPECT_TRUE(error == "cannot reserve space for" + tail || error == "cannot write" + tail)
      << error;
  run_sinks_job(out_, job);
  expect_whole(job);
}

TEST_F(Sinks, SpaceNeedNotBeReserved) {
  const auto with = [&](int error) {
    fs::remove_all(out_);
    return message_in_child([&] {
      test::deny_calls({__NR_fallocate}, error);
      run_sinks_job(out_, {});
    });
  };
  for (const int error : {EOPNOTSUPP, ENOSYS}) {
    EXPECT_EQ(with(error), "");
    expect_whole();
  }
  // Without end.
  EXPECT_EQ(with(EINTR), "cannot reserve space for " + file(kManifestName) +
                             ": Interrupted system call (errno 4)");
}

/// Some file systems have room until the content is synced, or the file closed.
TEST_F(Sinks, AFullDriveMaySaySoLate) {
  const std::string advice =
      ": No space left on device (errno 28); free some space and start it again: what is finished "
      "is kept";
  run_sinks_job(out_, {}, 2);
  const auto denied = [&](int call) {
    return message_in_child([&] {
      JobFolder folder(out_, SinksJob().description(), SinksJob().range(), JobFolder::Check::kSizes,
                       StopFlag());
      test::deny_calls({call}, ENOSPC);
      write_sinks_sweep(folder, {});
    });
  };
  EXPECT_EQ(denied(__NR_fsync), "cannot sync " + file("token_logprobs-00002.safetensors") + advice);
  EXPECT_EQ(denied(__NR_close),
            "cannot close " + file("token_logprobs-00002.safetensors") + advice);
  EXPECT_EQ(denied(__NR_pwrite64),
            "cannot write " + file("token_logprobs-00002.safetensors") + advice);
#ifndef __SANITIZE_ADDRESS__  // whose run-time library asks with write() which memory is there
  EXPECT_EQ(denied(__NR_write), "cannot write " + file("embeddings.npy") + advice);
#endif
  EXPECT_EQ(parse_manifest(read_file(out_ / kManifestName), "m").sweeps.size(), 2u);
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, AFolderThatIsRemovedIsNotMadeAgain) {
  const SinksJob job;
  {
    JobFolder folder(out_, job.description(), job.range(), job.check, StopFlag());
    write_sinks_sweep(folder, job);
    fs::remove_all(out_);
    EXPECT_EQ(error_of([&] { write_sinks_sweep(folder, job); }),
              "cannot write " + file("token_logprobs-00001.safetensors") +
                  ": No such file or directory (errno 2); the folder was removed in the meantime");
  }
  EXPECT_FALSE(fs::exists(out_));
  run_sinks_job(out_, job);
  expect_whole();
}

TEST_F(Sinks, ARowFileThatIsRemovedIsNotRecorded) {
  const SinksJob job;
  JobFolder folder(out_, job.description(), job.range(), job.check, StopFlag());
  write_sinks_sweep(folder, job);
  fs::remove(out_ / kScoresName);
  EXPECT_EQ(error_of([&] { write_sinks_sweep(folder, job); }),
            "cannot sync " + file("scores.jsonl") + ": No such file or directory (errno 2)");
  EXPECT_EQ(parse_manifest(read_file(out_ / kManifestName), "m").sweeps.size(), 1u);
}

/// May a user who owns none of them pass through the folder and those above it?
bool others_reach(const fs::path& folder) {
  for (fs::path there = fs::absolute(folder);; there = there.parent_path()) {
    if ((fs::status(there).permissions() & fs::perms::others_exec) == fs::perms::none) return false;
    if (!there.has_relative_path()) return true;
  }
}

TEST_F(Sinks, AReadOnlyFolderSaysSo) {
  run_sinks_job(out_, {}, 1);
  if (!others_reach(dir_.path().parent_path())) {
    GTEST_SKIP() << "other users cannot reach " << dir_.path().parent_path().string();
  }
  for (const auto& entry : fs::directory_iterator(out_)) chmod(entry.path().c_str(), 0666);
  chmod(dir_.path().c_str(), 0777);
  chmod(out_.c_str(), 0555);
  const auto as_nobody = [&] {
    return message_in_child([&] {
      if (geteuid() == 0 && setuid(65534) != 0) throw Error("cannot become another user");
      run_sinks_job(out_, {});
    });
  };
  EXPECT_EQ(as_nobody(), "cannot write into " + out() +
                             ": Permission denied (errno 13); make the folder writable or give "
                             "another --out");
  chmod(out_.c_str(), 0777);
  EXPECT_EQ(as_nobody(), "");
  expect_whole();
}

TEST_F(Sinks, OneProcessAtATime) {
  const SinksJob job;
  {
    JobFolder folder(out_, job.description(), job.range(), job.check, StopFlag());
    if (!folder.locked()) GTEST_SKIP() << "no locks on the file system of " << out();
    write_sinks_sweep(folder, job);
    EXPECT_EQ(message_in_child([&] { run_sinks_job(out_, job); }),
              out() + ": another process is using it; wait for its end or give another --out");
  }
  run_sinks_job(out_, job);
  expect_whole();
}

TEST_F(Sinks, AStopEndsTheCheck) {
  run_sinks_job(out_, {}, 2);
  StopFlag stop;
  stop.request();
  EXPECT_THROW(JobFolder(out_, SinksJob().description(), SinksJob().range(),
                         JobFolder::Check::kHashes, stop),
               Stopped);
  run_sinks_job(out_, {});
  expect_whole();
}

/// What JSON cannot say is compared as it was stored.
TEST_F(Sinks, AnyJobGoesOn) {
  const Json job = {{"path", "caf\xe9"}, {"limit", std::nan("")}, {"huge", UINT64_MAX}};
  for (int round = 0; round < 2; ++round) {
    JobFolder folder(out_, job, {0, 1}, JobFolder::Check::kSizes, StopFlag());
    EXPECT_EQ(folder.manifest().job["path"], "caf\xef\xbf\xbd");
    EXPECT_TRUE(folder.manifest().job["limit"].is_null());
  }
}

TEST_F(Sinks, WhatAFileSystemKeepsInAFolderIsNotInTheWay) {
  fs::create_directories(out_ / "lost+found");
  write_file(out_ / ".nfs000000000001", "");
  run_sinks_job(out_, {}, 1);
  run_sinks_job(out_, {});
  EXPECT_TRUE(fs::exists(out_ / "lost+found"));
  fs::remove(out_ / "lost+found");
  EXPECT_TRUE(fs::remove(out_ / ".nfs000000000001"));
  expect_whole();
}

TEST_F(Sinks, AFolderBehindALinkIsFoundThroughIt) {
  fs::create_directories(dir_ / "far/inner");
  fs::create_directory_symlink(dir_ / "far/inner", dir_ / "link");
  run_sinks_job(dir_ / "link/../out", {}, 1);
  EXPECT_TRUE(fs::exists(dir_ / "far/out" / kManifestName));
  EXPECT_FALSE(fs::exists(out_));
  run_sinks_job(dir_ / "new/../new/sub/", {}, 0);
  EXPECT_TRUE(fs::exists(dir_ / "new/sub" / kManifestName));
  fs::create_directory_symlink("nowhere", out_);
  for (const fs::path& path : {out_, out_ / "below"}) {
    EXPECT_EQ(error_of([&] {
                run_sinks_job(path, {});
              }).find(out() + ": a link that dangles: nowhere is not there; "),
              0u);
  }
}

// Refusals.

TEST_F(Sinks, AnotherNumberOfColumnsIsRefused) {
  run_sinks_job(out_, {}, 2);
  const auto before = contents(out_);
  {
    JobFolder folder(out_, SinksJob().description(), SinksJob().range(), JobFolder::Check::kSizes,
                     StopFlag());
    for (const uint64_t columns : {4u, 6u}) {
      EXPECT_EQ(error_of([&] { folder.embeddings(columns); }),
                file(kEmbeddingsArrayName) + ": its rows are not " + std::to_string(columns) +
                    " numbers long; put it back as it was, or begin anew with another --out");
    }
  }
  EXPECT_EQ(contents(out_), before);
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, HardLinksAreNotWrittenInto) {
  run_sinks_job(out_, {}, 1);
  write_file(out_ / kScoresName, read_file(out_ / kScoresName) + "more");
  write_file(out_ / "index.json", "left");
  fs::create_hard_link(out_ / kScoresName, dir_ / "backup");
  EXPECT_EQ(opening({}), file(kScoresName) +
                             ": has 2 names (hard links), and writing into one would change all; "
                             "put a copy in its place");
  EXPECT_TRUE(read_file(dir_ / "backup").ends_with("more"));
  EXPECT_TRUE(fs::exists(out_ / "index.json")) << "nothing was changed";
  fs::remove(dir_ / "backup");
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, NoRowFileIsCutWhereAnotherIsRefused) {
  run_sinks_job(out_, {}, 1);
  for (const char* name : {kScoresName, kEmbeddingsArrayName}) {
    write_file(out_ / name, read_file(out_ / name) + "more");
  }
  const auto before = contents(out_);
  for (const char* name : {kScoresName, kEmbeddingsArrayName}) {
    fs::create_hard_link(out_ / name, dir_ / "backup");
    EXPECT_NE(opening({}).find("hard links"), std::string::npos);
    fs::remove(dir_ / "backup");
    EXPECT_TRUE(contents(out_) == before) << name;
  }
}

TEST_F(Sinks, OtherJobsAreNamedKeyByKey) {
  run_sinks_job(out_, {}, 1);
  const auto before = contents(out_);
  const auto with = [&](const std::function<void(Json&)>& change, uint64_t documents = 11) {
    Json job = SinksJob().description();
    change(job);
    return error_of([&] {
      JobFolder(out_, job, {0, documents}, JobFolder::Check::kSizes, StopFlag());
    });
  };
  const std::string began = ", which the job in " + out() + " began with; give another --out or ";
  EXPECT_EQ(with([](Json& job) { job["model"]["fingerprint"] = "b"; }),
            "model: fingerprint \"b\" is not \"a\"" + began + "the same model");
  EXPECT_EQ(with([](Json& job) { job["config"] = 3; }),
            "config: 3 is not \"c0ffee\"" + began + "the same config");
  EXPECT_EQ(with([](Json& job) { job["model"].erase("layers"); }),
            "model: layers is missing, not 4" + began + "the same model");
  EXPECT_EQ(with([](Json& job) { job["extra"] = true; }),
            "extra: true is new" + began + "the same extra");
  EXPECT_EQ(with([](Json& job) { job["sinks"][1] = "hidden"; }),
            "sinks: [1] \"hidden\" is not \"topk\"" + began + "the same sinks");
  EXPECT_EQ(with([](Json&) {}, 12), "documents: count 12 is not 11" + began + "the same documents");
  EXPECT_EQ(with([](Json& job) {
              job = {{"model", {{"fingerprint", "b\n"}, {"layers", 5}, {"more", 1}}}};
            }),
            "config: is missing, not \"c0ffee\"; model: fingerprint \"b\\n\" is not \"a\", layers "
            "5 is not 4 and 2 more" +
                began + "the same config, model, sinks");
  EXPECT_EQ(contents(out_), before);
}

TEST_F(Sinks, ForeignContentIsRefused) {
  const auto refused = [&](const std::string& name) {
    EXPECT_EQ(opening({}), out() + ": " + name +
                               " is no file of this job; move it elsewhere or give another --out");
  };
  fs::create_directories(out_);
  for (const char* name : {"notes.txt", "scores.jsonl", "topk-00000.safetensors", "summary.json",
                           "topk-00000.safetensors.partial"}) {
    write_file(out_ / name, "mine");
    refused(name);
    EXPECT_EQ(contents(out_).size(), 1u);
    fs::remove(out_ / name);
  }
  run_sinks_job(out_, {}, 2);
  for (const char* name : {"notes.txt", "topk-00003.safetensors", "hidden-004-00001.safetensors",
                           "x.partial", "model-00001-of-00002.safetensors"}) {
    write_file(out_ / name, "mine");
    refused(name);
    fs::remove(out_ / name);
  }
  fs::create_symlink("/dev/null", out_ / "topk-00002.safetensors");
  refused("topk-00002.safetensors");
  fs::remove(out_ / "topk-00002.safetensors");
  fs::create_directory(out_ / "summary.json");
  refused("summary.json");
  fs::remove(out_ / "summary.json");
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, WhatACrashLeavesIsRemoved) {
  fs::create_directories(out_);
  write_file(out_ / "manifest.json.partial", "{");
  run_sinks_job(out_, {}, 2);
  for (const char* name : {"topk-00002.safetensors", "topk-00002.safetensors.partial",
                           "manifest.json.partial", "index.json", "summary.json.partial"}) {
    write_file(out_ / name, "left");
  }
  write_file(out_ / kScoresName, read_file(out_ / kScoresName) + "{\"id\": \"ha");
  write_file(out_ / kEmbeddingsArrayName, read_file(out_ / kEmbeddingsArrayName) + "xyz");
  JobFolder(out_, SinksJob().description(), SinksJob().range(), JobFolder::Check::kHashes,
            StopFlag());
  EXPECT_FALSE(fs::exists(out_ / "topk-00002.safetensors"));
  EXPECT_EQ(contents(out_).size(), 3u + 4 * 2) << "manifest, rows, array, shards";
  EXPECT_EQ(read_file(out_ / kScoresName).find("\"ha"), std::string::npos);
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, WhatWasFinishedIsChecked) {
  run_sinks_job(out_, {}, 2);
  const std::string anew = "; put it back as it was, or begin anew with another --out";
  const fs::path shard = out_ / "topk-00001.safetensors";
  const std::string whole = read_file(shard);
  const std::string rows = read_file(out_ / kScoresName);
  fs::remove(shard);
  EXPECT_EQ(opening({}), shard.string() + ": is missing, but was finished" + anew);
  write_file(shard, whole.substr(1));
  EXPECT_EQ(opening({}), shard.string() + ": " + std::to_string(whole.size() - 1) + " bytes, but " +
                             std::to_string(whole.size()) + " were written" + anew);
  std::string changed = whole;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  write_file(shard, changed);
  const std::string error = opening({});
  EXPECT_EQ(error.find(shard.string() + ": its content is not what was written (XXH3 "), 0u);
  EXPECT_TRUE(error.ends_with(")" + anew)) << error;
  SinksJob sizes;
  sizes.check = JobFolder::Check::kSizes;
  run_sinks_job(out_, sizes, 0);
  write_file(shard, whole);
  write_file(out_ / kScoresName, rows.substr(0, rows.size() - 1));
  EXPECT_EQ(opening(sizes), file(kScoresName) + ": " + std::to_string(rows.size() - 1) +
                                " bytes, but " + std::to_string(rows.size()) + " were written" +
                                anew);
  changed = rows;
  changed[3] = '_';
  write_file(out_ / kScoresName, changed);
  EXPECT_NE(opening({}).find("scores.jsonl: its content is not what was written"),
            std::string::npos);
  write_file(out_ / kScoresName, rows);
  run_sinks_job(out_, {});
  expect_whole();
}

TEST_F(Sinks, ADamagedManifestIsOneLine) {
  run_sinks_job(out_, {}, 2);
  const std::string name = file(kManifestName);
  const std::string whole = read_file(name);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    EXPECT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
    write_file(name, text);
    return opening({});
  };
  const std::string damaged = name + ": damaged: ";
  EXPECT_EQ(with("\"version\": 1", "\"version\": 2"),
            name +
                ": version 2, but this program knows 1; use the program that wrote it or give "
                "another --out");
  EXPECT_EQ(with("\"finished\": false", "\"finished\": 0"),
            damaged + "finished is neither true nor false; give another --out");
  EXPECT_EQ(with("\"topk-00000", "\"../topk-00000"),
            damaged + "\"../topk-00000.safetensors\" is no file of sweep 0; give another --out");
  EXPECT_EQ(with("\"topk-00000", "\"topk-00001"),
            damaged + "\"topk-00001.safetensors\" is no file of sweep 0; give another --out");
  EXPECT_EQ(with("\"scores.jsonl\"", "\"/etc/passwd\""),
            damaged + "\"/etc/passwd\" is no file of sweep 0; give another --out");
  EXPECT_EQ(with("\"finished\": false", "\"finished\": true"),
            damaged + "finished without all documents; give another --out");
  EXPECT_EQ(with("\"job\": {", "\"job\": [], \"was\": {"),
            damaged + "job is no object; give another --out");
  EXPECT_EQ(with("\"job\": {", "\"job\": {\"documents\": 1, "),
            damaged + "job has documents of its own; give another --out");
  EXPECT_EQ(with("\"number\":1", "\"number\":2"),
            damaged + "sweep 1 does not follow the one before; give another --out");
  EXPECT_EQ(with("\"sweeps\"", "\"swept\""), damaged + "no sweeps; give another --out");
  EXPECT_EQ(with("\"xxh3\":\"", "\"xxh3\":\"x"), damaged + "xxh3 is no hash; give another --out");
  EXPECT_EQ(with("\"tokens\":", "\"tokens\":-"),
            damaged + "tokens is no whole number; give another --out");
  EXPECT_EQ(with(whole, whole.substr(0, 20)).find(name + ": not valid JSON: "), 0u);
}

/// Whatever stands in a manifest, opening its folder ends in one line or well.
TEST_F(Sinks, NoManifestBreaksIt) {
  run_sinks_job(out_, {}, 2);
  const std::string whole = read_file(out_ / kManifestName);
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int i = 0; i < 300; ++i) {
    std::string text = whole;
    for (uint64_t change = random() % 3; change < 3; ++change) {
      const size_t at = random() % text.size();
      const char* with = "0123456789{}[]\":,ax";
      if (random() % 3 == 0) text.erase(at, 1 + random() % 5);
      if (random() % 2 == 0) text.insert(at, 1, with[random() % 19]);
      if (!text.empty()) text[random() % text.size()] = with[random() % 19];
    }
    write_file(out_ / kManifestName, text);
    try {
      run_sinks_job(out_, {}, 0);
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  write_file(out_ / kManifestName, whole);
}

// Merging.

class Merging : public Sinks {
 protected:
  SinksJob part(uint64_t index, uint64_t count, SinksJob job = {}) const {
    job.shard_index = index;
    job.shard_count = count;
    return job;
  }
  fs::path folder(uint64_t index) const { return dir_ / ("part" + std::to_string(index)); }
  std::vector<fs::path> write_parts(uint64_t count, const SinksJob& job = {}) const {
    std::vector<fs::path> folders;
    for (uint64_t i = 0; i < count; ++i) {
      fs::remove_all(folder(i));
      run_sinks_job(folder(i), part(i, count, job));
      folders.push_back(folder(i));
    }
    return folders;
  }
  std::string merging(const std::vector<fs::path>& folders) const {
    return error_of([&] { merge_jobs(folders, out_, StopFlag()); });
  }
  std::string name(uint64_t index) const { return folder(index).string(); }
};

TEST_F(Merging, IsWhatOneJobWouldHaveWritten) {
  for (uint64_t round = 0; round < 6; ++round) {
    std::mt19937_64 random(test::run_seed() + round);
    SCOPED_TRACE(test::seed_note(test::run_seed() + round));
    SinksJob job;
    job.documents = 1 + random() % 25;
    job.sweep_documents = 1 + random() % 5;
    job.seed = random() % 1000;
    auto folders = write_parts(1 + random() % 5, job);
    std::shuffle(folders.begin(), folders.end(), random);
    fs::remove_all(out_);
    fs::remove_all(dir_ / "one");
    merge_jobs(folders, out_, StopFlag());
    run_sinks_job(dir_ / "one", job);
    for (const char* same : {kScoresName, kEmbeddingsArrayName}) {
      EXPECT_TRUE(read_file(out_ / same) == read_file(dir_ / "one" / same)) << same;
    }
    const Json index = Json::parse(read_file(out_ / kIndexName));
    const Json one = Json::parse(read_file(dir_ / "one" / kIndexName));
    EXPECT_EQ(index["tokens"], one["tokens"]);
    EXPECT_EQ(index["documents"], one["documents"]);
    // As a job's own: every hash is right, and each shard says with which document it begins.
    JobFolder merged(out_, job.description(), job.range(), JobFolder::Check::kHashes, StopFlag());
    EXPECT_TRUE(merged.finished());
    for (const SweepRecord& sweep : merged.manifest().sweeps) {
      for (const ShardRecord& shard : sweep.shards) {
        EXPECT_EQ(read_header(out_ / shard.name)["__metadata__"]["first_document"],
                  std::to_string(sweep.documents.first));
      }
    }
  }
}

TEST_F(Merging, OfPartsOfWholeSweepsIsTheSameFolder) {
  SinksJob job;
  job.documents = 12;
  merge_jobs(write_parts(2, job), out_, StopFlag());
  run_sinks_job(dir_ / "one", job);
  EXPECT_EQ(Json::parse(read_file(out_ / kSummaryName))["parts"].size(), 2u);
  fs::copy_file(dir_ / "one" / kSummaryName, out_ / kSummaryName,
                fs::copy_options::overwrite_existing);
  expect_same(dir_ / "one", out_);
}

TEST_F(Merging, GoesOnAfterAKill) {
  const auto folders = write_parts(3);
  merge_jobs(folders, dir_ / "reference", StopFlag());
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (uint64_t kills = 0; kills < 15;) {
    fs::remove_all(out_);
    auto killed = test::Killed::kYes;
    for (uint64_t attempt = 0; killed == test::Killed::kYes; ++attempt) {
      uint64_t calls = random() % (150 + 20 * attempt);
      killed = test::run_traced([&] { merge_jobs(folders, out_, StopFlag()); },
                                [&](const auto&) { return calls-- > 0; }, [](const auto&) {});
      kills += killed == test::Killed::kYes ? 1 : 0;
    }
    if (killed == test::Killed::kCannotTrace) GTEST_SKIP() << "no process may be traced here";
    expect_same(dir_ / "reference", out_);
  }
  merge_jobs(folders, out_, StopFlag());
  expect_same(dir_ / "reference", out_);
}

TEST_F(Merging, RefusesMissingAndDoubleParts) {
  const auto parts = write_parts(4);
  EXPECT_EQ(merging({}), "nothing to merge; give the folders of the jobs");
  EXPECT_EQ(merging({parts[0], parts[1], parts[3]}), "shard 2/4 is missing; give its folder too");
  EXPECT_EQ(merging({parts[2]}), "shard 0/4, 1/4, 3/4 is missing; give their folders too");
  EXPECT_EQ(merging({parts[0], parts[0] / "."}),
            name(0) + " and " + (parts[0] / ".").string() + " are one folder; give it once");
  fs::copy(parts[1], dir_ / "copy");
  EXPECT_EQ(merging({parts[0], parts[1], parts[2], parts[3], dir_ / "copy"}),
            name(1) + " and " + (dir_ / "copy").string() + " are both shard 1/4; give one of them");
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_EQ(error_of([&] { merge_jobs(parts, parts[1], StopFlag()); }),
            name(1) + " is one of the folders to merge; give another --out");
}

TEST_F(Merging, RefusesWhatIsNoFinishedPart) {
  const auto parts = write_parts(2);
  fs::remove_all(parts[1]);
  run_sinks_job(parts[1], part(1, 2), 1);
  EXPECT_EQ(merging(parts), name(1) +
                                ": its job is not finished (3 of 6 documents); start it again with "
                                "the same --out");
  fs::remove_all(parts[1]);
  EXPECT_EQ(merging(parts), "cannot open folder " + name(1) +
                                ": No such file or directory (errno 2); give the folder of a job");
  fs::create_directory(parts[1]);
  EXPECT_EQ(merging(parts),
            name(1) + ": no folder of a job, for it has no manifest.json; give another");
  run_sinks_job(parts[1], {});
  EXPECT_EQ(merging(parts), name(1) +
                                ": its job did all documents, not a part of them (--shard i/n); "
                                "leave it out");
  write_parts(2);
  const FolderLock lock(parts[0]);
  EXPECT_EQ(merging(parts), name(0) + ": another process is using it; wait for its end");
}

TEST_F(Merging, RefusesMixedJobsGapsAndOverlaps) {
  const auto parts = write_parts(2);
  const auto with_second = [&](const std::function<void(Json&)>& change, DocumentRange documents) {
    fs::remove_all(parts[1]);
    Json job = part(1, 2).description();
    change(job);
    SinksJob wide;
    wide.documents = documents.end();
    {
      JobFolder second(parts[1], job, documents, JobFolder::Check::kSizes, StopFlag());
      while (second.next_document() < documents.end()) write_sinks_sweep(second, wide);
      second.finish({});
    }
    return merging(parts);
  };
  const std::string tail = "; give the parts of one job";
  const auto same = [](Json&) {};
  EXPECT_EQ(with_second([](Json& job) { job["model"]["fingerprint"] = "b"; }, {5, 6}),
            name(1) + ": model: fingerprint \"b\" is not \"a\", which " + name(0) + " has" + tail);
  EXPECT_EQ(with_second([](Json& job) { job["shard"]["count"] = 3; }, {5, 6}),
            name(1) + ": shard: count 3 is not 2, which " + name(0) + " has" + tail);
  EXPECT_EQ(with_second([](Json& job) { job["shard"]["index"] = "1"; }, {5, 6}),
            (parts[1] / kManifestName).string() +
                ": damaged: shard is no index below a count; leave it out");
  EXPECT_EQ(with_second(same, {7, 4}), "documents 5 to 6 are in no shard: " + name(0) +
                                           " ends before, and " + name(1) + " begins behind" +
                                           tail);
  EXPECT_EQ(with_second(same, {6, 5}), "document 5 is in no shard: " + name(0) +
                                           " ends before, and " + name(1) + " begins behind" +
                                           tail);
  EXPECT_EQ(with_second(same, {3, 8}),
            "documents 3 to 4 are in two shards: " + name(0) + " and " + name(1) + tail);
  EXPECT_FALSE(fs::exists(out_));
  with_second([](Json& job) { job["model"]["fingerprint"] = "b"; }, {5, 6});
}

TEST_F(Merging, RefusesPartsWithOtherFiles) {
  const auto parts = write_parts(2);
  const auto with_second = [&](const std::function<void(JobFolder&)>& write) {
    fs::remove_all(parts[1]);
    const SinksJob job = part(1, 2);
    {
      JobFolder second(parts[1], job.description(), job.range(), job.check, StopFlag());
      second.begin_sweep(0);
      write(second);
      second.finish_sweep(job.range().count, 1);
      second.finish({});
    }
    return merging(parts);
  };
  const std::string tail = "; give the parts of one job";
  EXPECT_EQ(with_second([](JobFolder&) {}),
            name(1) + " lacks embeddings, " + name(0) + " has it" + tail);
  write_parts(2);
  fs::remove_all(parts[0]);
  {
    const SinksJob job = part(0, 2);
    JobFolder first(parts[0], job.description(), job.range(), job.check, StopFlag());
    first.begin_sweep(0);
    first.finish_sweep(job.range().count, 1);
    first.finish({});
  }
  EXPECT_EQ(merging(parts), name(1) + " has embeddings, " + name(0) + " lacks it" + tail);
  EXPECT_EQ(with_second([](JobFolder& folder) { folder.scores(); }),
            name(1) + " has scores.jsonl, " + name(0) + " lacks it" + tail);
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(Merging, NeedsTheSummariesBeforeItCopies) {
  const auto parts = write_parts(2);
  const fs::path summary = parts[1] / kSummaryName;
  const std::string whole = read_file(summary);
  write_file(summary, "{");
  EXPECT_EQ(merging(parts).find(summary.string() + ": not valid JSON: "), 0u);
  fs::remove(summary);
  EXPECT_EQ(merging(parts).find("cannot read " + summary.string() + ": No such file"), 0u);
  EXPECT_FALSE(fs::exists(out_));
  write_file(summary, whole);
  merge_jobs(parts, out_, StopFlag());
}

TEST_F(Merging, GoesOnWithTheSamePartsOnly) {
  merge_jobs(write_parts(3), out_, StopFlag());
  const auto before = contents(out_);
  const std::string refused =
      out() + ": has documents that are not from these folders; give another --out";
  EXPECT_EQ(merging(write_parts(2)), refused);
  SinksJob other;
  other.k = 2;
  EXPECT_EQ(merging(write_parts(3, other)), refused);
  merge_jobs(write_parts(3), out_, StopFlag());
  EXPECT_EQ(contents(out_), before);
}

TEST_F(Sinks, APlaceThatIsNoFolderSaysSo) {
  write_file(out_, "");
  EXPECT_EQ(opening({}),
            "cannot open folder " + out() + ": Not a directory (errno 20); give another --out");
  EXPECT_EQ(error_of([&] { run_sinks_job(out_ / "a/b", {}); }),
            "cannot make folder " + (out_ / "a/b").string() +
                ": Not a directory (errno 20); give another --out");
  fs::remove(out_);
  run_sinks_job(dir_ / "a/b/out", {});
  EXPECT_TRUE(fs::exists(dir_ / "a/b/out/summary.json"));
}

TEST_F(Merging, RefusesChangedFiles) {
  const auto parts = write_parts(2);
  const fs::path shard = parts[1] / "topk-00001.safetensors";
  const std::string whole = read_file(shard);
  std::string changed = whole;
  changed[changed.size() / 2] = static_cast<char>(changed[changed.size() / 2] ^ 4);
  write_file(shard, changed);
  const std::string error = merging(parts);
  EXPECT_EQ(error.find(shard.string() + ": its content is not what was written (XXH3 "), 0u)
      << error;
  write_file(shard, whole.substr(1));
  EXPECT_EQ(merging(parts), shard.string() + ": became shorter while it was read");
  write_file(shard, whole);
  merge_jobs(parts, out_, StopFlag());
}

TEST(ShardDocuments, AreContiguousEqualParts) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int i = 0; i < 200; ++i) {
    const uint64_t documents = random() >> (random() % 64);
    const uint64_t count = 1 + random() % 50;
    uint64_t next = 0;
    for (uint64_t part = 0; part < count; ++part) {
      const DocumentRange range = shard_documents(documents, part, count);
      EXPECT_EQ(range.first, next);
      EXPECT_LE(range.count - documents / count, 1u);
      next = range.end();
    }
    EXPECT_EQ(next, documents);
  }
}

}  // namespace
}  // namespace spillway
