// A folder's marker decides what is removed: whoever wrote it, nothing outside the folder, and
// nothing is waited for.
#include "model/new_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/error.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTitle = "spillway synth is writing these files\n";

class NewFolders : public testing::Test {
 protected:
  NewFolders() {
    fs::create_directories(folder_);
    test::write_file(victim_, "mine");
  }
  void mark(const std::string& lines) const { test::write_file(marker_, kTitle + lines); }
  /// That nothing was made of it, and that the victim is there.
  void expect_refused(const char* says) const {
    const std::string message =
        test::error_of([&] { const NewFolder folder(folder_, {"model.gguf"}); });
    EXPECT_NE(message.find(says), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(test::read_file(victim_), "mine");
  }

  const test::TempDir dir_;
  const fs::path folder_ = dir_ / "m";
  const fs::path victim_ = dir_ / "victim";
  const fs::path marker_ = folder_ / ".spillway-synth";
};

TEST_F(NewFolders, NamesOutsideOfTheFolderAreNotRemoved) {
  fs::create_directories(dir_ / "m/deeper");
  test::write_file(dir_ / "m/deeper/victim", "mine");
  fs::rename(dir_ / "m/deeper", dir_ / "deeper");
  fs::create_symlink(dir_ / "deeper", dir_ / "link");
  mark("../victim\n" + victim_.string() + "\n./../victim\n..\n.\n\n../deeper/victim\n" +
       "../link/victim\nwhole\n");
  test::write_file(folder_ / "whole", "left");
  test::write_file(folder_ / "whole.partial", "left");
  {
    const NewFolder folder(folder_, {"model.gguf"});
    EXPECT_FALSE(fs::exists(folder_ / "whole"));
    EXPECT_FALSE(fs::exists(folder_ / "whole.partial"));
  }
  EXPECT_EQ(test::read_file(victim_), "mine");
  EXPECT_EQ(test::read_file(dir_ / "deeper/victim"), "mine");
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(NewFolders, NamedLinksAndFoldersAreSomebodyElses) {
  mark("model.gguf\n");
  fs::create_symlink(victim_, folder_ / "model.gguf");
  expect_refused("is not empty (model.gguf)");
  EXPECT_TRUE(fs::is_symlink(folder_ / "model.gguf"));
  fs::remove(folder_ / "model.gguf");
  fs::create_directory(folder_ / "model.gguf");
  expect_refused("is not empty (model.gguf)");
}

TEST_F(NewFolders, AMarkerThatIsALinkIsNotFollowed) {
  test::write_file(victim_, std::string(kTitle) + "model.gguf\n");
  fs::create_symlink(victim_, marker_);
  const std::string message =
      test::error_of([&] { const NewFolder folder(folder_, {"model.gguf"}); });
  EXPECT_NE(message.find("is not empty (.spillway-synth)"), std::string::npos) << message;
  EXPECT_EQ(test::read_file(victim_), std::string(kTitle) + "model.gguf\n");
  test::write_file(victim_, "mine");
  fs::remove(marker_);
  fs::create_symlink("/dev/zero", marker_);  // endless, if it were read
  expect_refused("is not empty (.spillway-synth)");
}

TEST_F(NewFolders, AMarkerThatIsAnotherFileAsWellIsNotWritten) {
  test::write_file(victim_, "");
  fs::create_hard_link(victim_, marker_);
  const std::string message =
      test::error_of([&] { const NewFolder folder(folder_, {"model.gguf"}); });
  EXPECT_NE(message.find("is another file as well"), std::string::npos) << message;
  EXPECT_EQ(test::read_file(victim_), "");
}

TEST_F(NewFolders, AMarkerThatIsAPipeIsNotWaitedFor) {
  ASSERT_EQ(mkfifo(marker_.c_str(), 0644), 0);
  expect_refused("is not empty (.spillway-synth)");
}

TEST_F(NewFolders, AMarkerWithoutEndIsRefused) {
  mark("x\n");
  fs::resize_file(marker_, uint64_t{1} << 40);  // takes no room
  expect_refused(".spillway-synth");
}

}  // namespace
}  // namespace spillway
