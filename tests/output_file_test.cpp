#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/output_file.h"
#include "tests/sim/denied_calls.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using test::read_file;
using test::write_file;

const OutputFormat kNotes{"notes", R"({"a":*,"b":)"};
constexpr const char* kOurs = "{ \"a\": 1,\n  \"b\": 2 }";

class OutputFileTest : public ::testing::Test {
 protected:
  void write(const fs::path& file, const std::string& text) {
    FilesInUse in_use;
    OutputFile(file, kNotes, in_use).write(text);
  }
  /// Why it may not be written; empty when it may.
  std::string refusal(const fs::path& file) {
    try {
      FilesInUse in_use = in_use_;
      const OutputFile output(file, kNotes, in_use);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  /// A device of the test's own where that can be made: as root a mistake would replace the
  /// system's.
  fs::path device(const std::string& name, unsigned minor) {
    const fs::path node = dir_ / ("device-" + name);
    return mknod(node.c_str(), S_IFCHR | 0666, makedev(1, minor)) == 0 ? node
                                                                       : fs::path("/dev") / name;
  }
  size_t names() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(dir_.path())) ++count;
    return count;
  }
  test::TempDir dir_;
  FilesInUse in_use_;
};

TEST_F(OutputFileTest, ReplacesWholeAndOnlyWhenThereIsSomething) {
  const fs::path file = dir_ / "n";
  write(file, kOurs);
  EXPECT_EQ(read_file(file), kOurs);
  FilesInUse in_use;
  {
    OutputFile output(file, kNotes, in_use);
    EXPECT_EQ(names(), 1u) << "nothing is left to see before there is something to write";
    output.append("{\"a\": 3,");
    EXPECT_EQ(read_file(file), kOurs);
    output.append("\"b\": 4}");
    output.finish();
    EXPECT_EQ(read_file(file), "{\"a\": 3,\"b\": 4}");
    output.write("{\"a\": 5,\"b\": 6}");  // again and again, as bench does
    EXPECT_EQ(read_file(file), "{\"a\": 5,\"b\": 6}");
    output.append("half");
  }
  EXPECT_EQ(read_file(file), "{\"a\": 5,\"b\": 6}");
  EXPECT_EQ(names(), 1u);
}

TEST_F(OutputFileTest, KeepsModeAndPartialFilesOfOthers) {
  write_file(dir_ / "n.partial", "mine");
  write(dir_ / "n", kOurs);
  chmod((dir_ / "n").c_str(), 0640);
  write(dir_ / "n", kOurs);
  struct stat status {};
  ASSERT_EQ(stat((dir_ / "n").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  EXPECT_EQ(read_file(dir_ / "n.partial"), "mine");
}

TEST_F(OutputFileTest, NoFileIsNoFile) {
  OutputFile none;
  none.write("x");
  EXPECT_FALSE(none.wanted());
  EXPECT_FALSE(OutputFile("", kNotes, in_use_).wanted());
}

/// Each way to name a file that the run uses already.
TEST_F(OutputFileTest, RefusesWhatIsInUseWhateverItsName) {
  write_file(dir_ / "input", "");
  fs::create_directory(dir_ / "folder");
  fs::create_symlink("input", dir_ / "link");
  fs::create_symlink(dir_.path(), dir_ / "folder/up");
  fs::create_hard_link(dir_ / "input", dir_ / "hard");
  fs::create_symlink("later", dir_ / "dangling");
  in_use_.add(dir_ / "input", "the configuration");
  in_use_.add(dir_ / "later", "a file of the model");
  for (const char* name : {"input", "link", "hard", "folder/up/input", "folder/../input"}) {
    EXPECT_NE(refusal(dir_ / name).find("it is also the configuration"), std::string::npos) << name;
  }
  for (const char* name : {"later", "dangling", "folder/../later", "folder/up/later"}) {
    EXPECT_NE(refusal(dir_ / name).find("it is also a file of the model"), std::string::npos)
        << name;
  }
  EXPECT_TRUE(refusal(dir_ / "folder/later").empty()) << "another folder's";
}

/// A model reads every file of its folder that is called like a part of it, also a new one.
TEST_F(OutputFileTest, RefusesNamesThatAFolderKeeps) {
  fs::create_directory(dir_ / "model");
  fs::create_directory(dir_ / "other");
  write_file(dir_ / "model/there.part", "");
  fs::create_symlink("../model/new.part", dir_ / "other/link");
  fs::create_hard_link(dir_ / "model/there.part", dir_ / "other/hard");
  in_use_.add_names(dir_ / "model", ".part", "a file of the model");
  for (const char* name :
       {"model/there.part", "model/new.part", "model/.part", "other/link", "other/hard"}) {
    EXPECT_NE(refusal(dir_ / name).find("it is also a file of the model"), std::string::npos)
        << name;
  }
  for (const char* name : {"model/part", "model/new.part.json", "other/new.part"}) {
    EXPECT_EQ(refusal(dir_ / name), "") << name;
  }
  in_use_.add(dir_ / "other/*.part", "the report");
  EXPECT_EQ(refusal(dir_ / "other/x.part"), "") << "a star in a name is a star";
}

TEST_F(OutputFileTest, RefusesWhatAnotherOutputIs) {
  for (const char* name : {"n", "./n", "link"}) {
    FilesInUse in_use;
    const OutputFile first(dir_ / "n", kNotes, in_use);
    fs::remove(dir_ / "link");
    fs::create_symlink("n", dir_ / "link");
    const std::string error = test::error_of([&] {
      OutputFile(dir_ / name, {"picture", "<svg"}, in_use);
    });
    EXPECT_NE(error.find("it is also the notes"), std::string::npos) << name;
  }
  FilesInUse in_use;  // but any number may go to where nothing is kept
  const fs::path null = device("null", 3);
  OutputFile(null, kNotes, in_use).write("x");
  OutputFile(null, kNotes, in_use).write("x");
  EXPECT_TRUE(fs::is_character_file(null));
}

TEST_F(OutputFileTest, RefusesForeignContent) {
  for (const char* text : {"x", "{", "[]", "{\"b\":1,\"a\":2}", "{\"aa\":1,\"b\":", "\0\0\0"}) {
    write_file(dir_ / "n", text);
    if (*text == '\0') write_file(dir_ / "n", std::string(8, '\0'));
    EXPECT_NE(refusal(dir_ / "n").find("no notes of Spillway"), std::string::npos) << text;
  }
  for (const char* text : {"", "{\"a\":1,\"b\":2}", " {\n\t\"a\" : {}, \"b\": 1 }"}) {
    write_file(dir_ / "n", text);
    EXPECT_TRUE(refusal(dir_ / "n").empty()) << text;
    EXPECT_EQ(read_file(dir_ / "n"), text);
  }
}

/// What comes while the run works is not overwritten either, and the result is not lost.
TEST_F(OutputFileTest, ForeignContentThatComesLaterIsKept) {
  FilesInUse in_use;
  OutputFile output(dir_ / "n", kNotes, in_use);
  write_file(dir_ / "n", "mine");
  const std::string error = test::error_of([&] { output.write(kOurs); });
  const std::string mark = "it is kept as ";
  ASSERT_NE(error.find(mark), std::string::npos) << error;
  EXPECT_EQ(read_file(dir_ / "n"), "mine");
  EXPECT_EQ(read_file(error.substr(error.find(mark) + mark.size())), kOurs);
}

TEST_F(OutputFileTest, WritesBehindLinks) {
  fs::create_directory(dir_ / "elsewhere");
  write_file(dir_ / "elsewhere/n", kOurs);
  fs::create_symlink("elsewhere/n", dir_ / "link");
  fs::create_symlink("elsewhere/new", dir_ / "dangling");
  write(dir_ / "link", "{\"a\":9,\"b\":9}");
  write(dir_ / "dangling", kOurs);
  EXPECT_TRUE(fs::is_symlink(dir_ / "link"));
  EXPECT_EQ(read_file(dir_ / "elsewhere/n"), "{\"a\":9,\"b\":9}");
  EXPECT_TRUE(fs::is_symlink(dir_ / "dangling"));
  EXPECT_EQ(read_file(dir_ / "elsewhere/new"), kOurs);
}

TEST_F(OutputFileTest, WritesIntoFifosAndDescriptors) {
  const fs::path fifo = dir_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  {
    const Descriptor reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    write(fifo, kOurs);
    std::string got(100, '\0');
    got.resize(static_cast<size_t>(read(reader.get(), got.data(), got.size())));
    EXPECT_EQ(got, kOurs);
  }
  EXPECT_TRUE(fs::is_fifo(fifo));
  EXPECT_NE(refusal(fifo).find("nobody reads"), std::string::npos);
  const Descriptor file(open((dir_ / "n").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "before\n", 7), 7);
  write("/dev/fd/" + std::to_string(file.get()), kOurs);
  EXPECT_EQ(read_file(dir_ / "n"), std::string("before\n") + kOurs) << "where the shell left it";
  const Descriptor closed_for_writing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_NE(refusal("/proc/self/fd/" + std::to_string(closed_for_writing.get())).find("errno 9"),
            std::string::npos);
}

/// A reader that sleeps holds nobody who wants to stop.
TEST_F(OutputFileTest, StreamsThatNobodyReadsHoldNoStop) {
  ASSERT_EQ(mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  const Descriptor reader(open((dir_ / "fifo").c_str(), O_RDONLY | O_NONBLOCK));
  FilesInUse in_use;
  OutputFile output(dir_ / "fifo", kNotes, in_use);
  StopFlag stop;
  stop.request();
  output.heed(stop);
  const std::string error = test::error_of([&] { output.write(std::string(1 << 20, 'x')); });
  EXPECT_NE(error.find("cannot write notes"), std::string::npos) << error;
  EXPECT_NE(error.find("nobody reads it"), std::string::npos) << error;
}

TEST_F(OutputFileTest, SaysAtOnceWhatCannotBeWritten) {
  write_file(dir_ / "file", "");
  for (const auto& [name, says] :
       std::vector<std::pair<std::string, std::string>>{{dir_ / "no/n", "No such file"},
                                                        {dir_ / "file/n", "Not a directory"},
                                                        {dir_.path(), "folder"},
                                                        {dir_.path().string() + "/", "directory"},
                                                        {"/proc/n", "cannot write"},
                                                        {device("full", 7), ""},
                                                        {"/", "directory"}}) {
    const std::string error = refusal(name);
    EXPECT_NE(error.find(says), std::string::npos) << name << ": " << error;
    EXPECT_EQ(error.empty(), says.empty()) << name << ": " << error;
  }
  fs::create_symlink("loop", dir_ / "loop");
  EXPECT_FALSE(refusal(dir_ / "loop").empty());
  FilesInUse in_use;
  const fs::path node = dir_ / "device-full";
  OutputFile full(fs::exists(node) ? node : fs::path("/dev/full"), kNotes, in_use);
  EXPECT_NE(test::error_of([&] { full.write("x"); }).find("No space left"), std::string::npos);
}

/// A rename that reaches the drive before the content would leave an empty file after a crash.
TEST_F(OutputFileTest, WhatDoesNotReachTheDriveReplacesNothing) {
  const fs::path file = dir_ / "n";
  write(file, kOurs);
  EXPECT_EQ(test::in_child([&] {
              test::deny_calls({__NR_fsync, __NR_fdatasync}, EIO);
              const std::string message = test::error_of([&] { write(file, "{}"); });
              return message.find("Input/output error") != std::string::npos ? 0 : 1;
            }),
            0);
  EXPECT_EQ(read_file(file), kOurs);
  EXPECT_EQ(names(), 1u);
}

/// A folder that takes no new file because it is full: the old report is not cut for the new one.
TEST_F(OutputFileTest, AFullDiskKeepsWhatIsThere) {
  const fs::path disk = dir_ / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", 0, "size=64k,nr_inodes=2") != 0) {
    GTEST_SKIP() << "only root may mount a small file system";
  }
  write_file(disk / "n", kOurs);  // the last inode
  const std::string message = refusal(disk / "n");
  const std::string kept = read_file(disk / "n");
  umount(disk.c_str());
  EXPECT_NE(message.find("No space left"), std::string::npos) << message;
  EXPECT_EQ(kept, kOurs);
}

/// In a folder of somebody else a file that may be written is written in place.
TEST_F(OutputFileTest, InPlaceWhatIsThereGoesOnlyWhenThereIsRoom) {
  const fs::path file = dir_ / "n";
  write_file(file, kOurs);
  fs::permissions(file, fs::perms(0666));
  fs::permissions(dir_.path(), fs::perms(0755));
  if (geteuid() != 0) GTEST_SKIP() << "only root may become somebody else";
  const auto as_other = [&](const std::string& text, rlim_t most_bytes) {
    return test::in_child([&] {
      constexpr uid_t kOther = 61234;
      const rlimit limit{most_bytes, most_bytes};
      signal(SIGXFSZ, SIG_IGN);
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0 || setuid(kOther) != 0) return 2;
      try {
        write(file, text);
      } catch (const Error&) {
        return 1;
      }
      return 0;
    });
  };
  const std::string longer = std::string(kOurs) + std::string(10000, ' ');
  EXPECT_EQ(as_other(longer, 4096), 1);
  EXPECT_EQ(read_file(file), kOurs);
  EXPECT_EQ(as_other(longer, RLIM_INFINITY), 0);
  EXPECT_EQ(read_file(file), longer);
  EXPECT_EQ(as_other(kOurs, RLIM_INFINITY), 0);
  EXPECT_EQ(read_file(file), kOurs);
}

/// Where a file system cannot be asked for room, the C library looks at what is there.
TEST_F(OutputFileTest, InPlaceAlsoWhereThereIsNoAskingForRoom) {
  const fs::path disk = dir_ / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "ramfs", 0, "mode=0755") != 0) {
    GTEST_SKIP() << "only root may mount a small file system";
  }
  const fs::path file = disk / "n";
  write_file(file, kOurs);
  fs::permissions(file, fs::perms(0666));
  fs::permissions(dir_.path(), fs::perms(0755));
  const std::string longer = std::string(kOurs) + std::string(10000, ' ');
  const int code = test::in_child([&] {
    constexpr uid_t kOther = 61234;
    if (setuid(kOther) != 0) return 2;
    try {
      write(file, longer);
    } catch (const Error&) {
      return 1;
    }
    return 0;
  });
  const std::string kept = read_file(file);
  umount(disk.c_str());
  EXPECT_EQ(code, 0);
  EXPECT_EQ(kept, longer);
}

TEST_F(OutputFileTest, AWriteThatFailedLeavesNothingToTheNext) {
  const fs::path disk = dir_ / "disk";
  fs::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "only root may mount a small file system";
  }
  std::string message;
  std::string kept;
  {
    FilesInUse in_use;
    OutputFile file(disk / "n", kNotes, in_use);
    message = test::error_of([&] { file.write(std::string(kOurs) + std::string(1 << 20, ' ')); });
    file.write(kOurs);
    kept = read_file(disk / "n");
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(disk), {}), 1);
  umount(disk.c_str());
  EXPECT_NE(message.find("No space left"), std::string::npos) << message;
  EXPECT_EQ(kept, kOurs);
}

}  // namespace
}  // namespace spillway
