#include "core/new_file.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "tests/sim/denied_calls.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
}

TEST(NewFile, IsThereWhenItIsWhole) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, NewFile::kBufferBytes - 1,
                             2 * NewFile::kBufferBytes + 7777}) {
    const test::TempDir dir;
    std::string text(bytes, 'x');
    for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 >> 3);
    NewFile file(dir / "f", bytes + 5);
    file.write(std::string_view(text).substr(0, bytes / 3));
    file.write(std::string_view(text).substr(bytes / 3));
    file.write_zeros(5);
    EXPECT_EQ(file.position(), bytes + 5);
    file.finish();
    EXPECT_FALSE(fs::exists(dir / "f"));
    file.publish();
    EXPECT_EQ(test::read_file(dir / "f"), text + std::string(5, '\0'));
    EXPECT_EQ(entries(dir.path()), 1u);
  }
}

TEST(NewFile, LeavesNothingUnlessItIsPublished) {
  const test::TempDir dir;
  {
    NewFile file(dir / "f", 3);
    file.write("abc");
    file.finish();
  }
  EXPECT_EQ(entries(dir.path()), 0u);
}

TEST(NewFile, NeverReplaces) {
  const test::TempDir dir;
  test::write_file(dir / "f", "mine");
  fs::create_symlink("nowhere", dir / "link");
  for (const char* name : {"f", "link"}) {
    const std::string error = test::error_of([&] { NewFile(dir / name, 3); });
    EXPECT_NE(error.find("cannot create"), std::string::npos) << error;
  }
  NewFile file(dir / "g", 3);
  file.write("abc");
  file.finish();
  test::write_file(dir / "g", "mine");
  const std::string error = test::error_of([&] { file.publish(); });
  EXPECT_NE(error.find("cannot rename"), std::string::npos) << error;
  EXPECT_EQ(test::read_file(dir / "g"), "mine");
  EXPECT_EQ(test::read_file(dir / "f"), "mine");
}

/// A name that is not on the drive is gone after a crash of the system, and the file with it.
TEST(NewFile, ItsNameIsOnTheDriveToo) {
  const test::TempDir dir;
  const auto publish_with = [&](int error) {
    return test::in_child([&] {
      NewFile file(dir / "f", 3);
      file.write("abc");
      file.finish();
      test::deny_calls({__NR_fsync, __NR_fdatasync}, error);
      const std::string message = test::error_of([&] { file.publish(); });
      return message.empty() ? 0 : message.find("cannot sync the folder of") == 0 ? 1 : 2;
    });
  };
  EXPECT_EQ(publish_with(EIO), 1);
  EXPECT_EQ(entries(dir.path()), 0u);
  EXPECT_EQ(publish_with(EINVAL), 0) << "a file system that cannot say";
  EXPECT_EQ(entries(dir.path()), 1u);
}

TEST(NewFile, NamesAFolderThatIsNotThere) {
  const test::TempDir dir;
  const std::string error = test::error_of([&] { NewFile(dir / "no/f", 3); });
  EXPECT_NE(error.find("no/f: No such file"), std::string::npos) << error;
}

}  // namespace
}  // namespace spillway
