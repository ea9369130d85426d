#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "core/buffer.h"
#include "core/descriptor.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/nearest.h"
#include "core/one_line.h"
#include "core/output_file.h"
#include "core/read_file.h"
#include "core/system_memory.h"
#include "core/trace.h"
#include "core/units.h"
#include "core/user_path.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::TempDir;

TEST(Units, ParsesSizes) {
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("3GiB"), 3 * kGiB);
  EXPECT_EQ(parse_size("1.5 GiB"), 3 * kGiB / 2);
  EXPECT_EQ(parse_size("8GB"), 8'000'000'000u);
  EXPECT_EQ(parse_size("512MiB"), 512 * kMiB);
  EXPECT_EQ(parse_size("2mb"), 2'000'000u);
  for (const char* text : {"3G", "3g", "3 GiB", "3 G", "3Gi", "3gib"}) {
    EXPECT_EQ(parse_size(text), 3 * kGiB) << text;
  }
  EXPECT_EQ(parse_size("3gb"), 3'000'000'000u);
  EXPECT_EQ(parse_size("1.5T"), 1536 * kGiB);
  EXPECT_EQ(parse_size("1PiB"), uint64_t{1} << 50);
  EXPECT_EQ(parse_size("1pb"), 1'000'000'000'000'000u);
}

/// What is shown as enough is enough when it is typed again.
TEST(Units, ShownRoundedUpAreEnough) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bytes = random() >> (random() % 40 + 12);
    const std::string shown = format_bytes_up(bytes);
    const uint64_t typed = parse_size(shown).value();
    EXPECT_GE(typed, bytes) << shown;
    EXPECT_LE(static_cast<double>(typed), static_cast<double>(bytes) * 1.011) << shown;
  }
  EXPECT_EQ(format_bytes_up(12 * kMiB), "12.0 MiB");
  EXPECT_EQ(format_bytes_up(12 * kMiB + 1), "12.1 MiB");
}

TEST(Units, OneIsNotSeveral) {
  EXPECT_EQ(counted(1, "thread"), "1 thread");
  EXPECT_EQ(counted(0, "thread"), "0 threads");
  EXPECT_EQ(counted(12, "shard"), "12 shards");
}

TEST(Units, RefusesWhatIsNoSize) {
  for (const char* text : {"", "nan", ".nan", "inf", "-1", "3GiBs", "GiB", "1e30GiB", "0x10",
                           "99999999999999999999"}) {
    EXPECT_FALSE(parse_size(text).has_value()) << text;
  }
}

TEST(Units, PrintsThreeDigits) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(3 * kGiB), "3.00 GiB");
  EXPECT_EQ(format_bytes(400 * kMiB), "400 MiB");
}

TEST(OneLine, EscapesWhatWouldBreakIt) {
  EXPECT_EQ(one_line("a plain line"), "a plain line");
  EXPECT_EQ(one_line("new\nline\x1b[31m\x7f"), "new\\nline\\x1b[31m\\x7f");
  EXPECT_EQ(one_line("h\u00e9"), "h\u00e9");
}

TEST(OneLine, EscapesWhatIsNotUtf8AndUnicodesOwnControls) {
  EXPECT_EQ(one_line("caf\xe9!"), "caf\\xe9!");
  EXPECT_EQ(one_line("half \xe2\x82"), "half \\xe2\\x82");
  EXPECT_EQ(one_line("\xc0\xaf\xed\xa0\x80"), "\\xc0\\xaf\\xed\\xa0\\x80");
  for (const uint32_t point : {0x80u, 0x85u, 0x9Bu, 0x200Eu, 0x200Fu, 0x2028u, 0x2029u, 0x202Au,
                               0x202Eu, 0x2066u, 0x2069u, 0xFEFFu}) {
    std::string text = "a";
    if (point < 0x800) {
      text += static_cast<char>(0xC0 | (point >> 6));
    } else {
      text += static_cast<char>(0xE0 | (point >> 12));
      text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    }
    text += static_cast<char>(0x80 | (point & 0x3F));
    EXPECT_EQ(printable(text + "b"), fmt::format("a\\u{:04x}b", point));
  }
  EXPECT_EQ(printable("\U000E0001"), "\\U000e0001");
  const std::string family = "\U0001F468\u200D\U0001F469";  // joined
  EXPECT_EQ(printable(family), family);
}

TEST(Harmless, LeavesATextAndTakesItsCommands) {
  EXPECT_EQ(harmless("two\nlines\tand a tab"), "two\nlines\tand a tab");
  EXPECT_EQ(harmless("\x1b[2J\r\x7f"), "\\x1b[2J\\x0d\\x7f");
  EXPECT_EQ(harmless("\u009b2J"), "\\u009b2J") << "8-bit commands too";
  EXPECT_EQ(harmless("\u200f\u0645"), "\u200f\u0645") << "what writing needs stays";
}

TEST(OneLine, CutsOverlongNames) {
  const std::string name(5000, 'x');
  const std::string line = one_line("tensor " + name + " is missing; fetch it again");
  EXPECT_LT(line.size(), 400u);
  EXPECT_EQ(line.rfind("tensor xxx", 0), 0u);
  EXPECT_NE(line.find("x\u2026x"), std::string::npos);
  EXPECT_NE(line.find(" is missing; fetch it again"), std::string::npos);
  EXPECT_EQ(one_line("a  b "), "a  b ");
}

TEST(DisplayWidth, IsOfColumns) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("h\u00e9"), 2u);
  EXPECT_EQ(display_width("\u8a9e\u8a9e"), 4u);
  EXPECT_EQ(display_width("e\u0301"), 1u);
  EXPECT_EQ(display_width(""), 0u);
}

TEST(CutMiddle, KeepsBothEnds) {
  EXPECT_EQ(cut_middle("abcdef", 6), "abcdef");
  EXPECT_EQ(cut_middle("abcdefg", 6), "abc\u2026fg");
  EXPECT_EQ(cut_middle("abc", 1), "\u2026");
  // Wide characters are never cut in two.
  const std::string wide = "\u8a9e\u8a9e\u8a9e\u8a9e\u8a9e";
  for (size_t columns = 1; columns <= 10; ++columns) {
    const std::string cut = cut_middle(wide, columns);
    EXPECT_LE(display_width(cut), columns);
    EXPECT_EQ(printable(cut), cut) << columns;
  }
}

TEST(InQuotes, IsShortWhateverItHolds) {
  EXPECT_EQ(in_quotes("a\nb"), "\"a\\nb\"");
  EXPECT_LE(display_width(in_quotes(std::string(100000, '\n'))), 82u);
}

TEST(NearestWord, IsTheOneThatWasMeant) {
  const std::vector<std::string> words = {"run", "score", "plan", "probe", "tokenize", "trace"};
  EXPECT_EQ(nearest_word("rnu", words), "run");
  EXPECT_EQ(nearest_word("rn", words), "run");
  EXPECT_EQ(nearest_word("tok", words), "tokenize");
  EXPECT_EQ(nearest_word("tokenise", words), "tokenize");
  EXPECT_EQ(nearest_word("scroe", words), "score");
  EXPECT_EQ(nearest_word("fly", words), "");
  EXPECT_EQ(nearest_word("", words), "");
  EXPECT_EQ(nearest_word(std::string(100000, 'r'), words), "");
}

TEST(Link, ThatDanglesIsSaidToDangle) {
  const test::TempDir dir;
  const auto repository = dir / "models--Qwen--Qwen2.5-7B";
  const auto snapshot = repository / "snapshots" / "abc123";
  std::filesystem::create_directories(snapshot);
  const auto file = snapshot / "config.json";
  std::filesystem::create_symlink("../../blobs/0123", file);
  const std::string cache = std::filesystem::canonical(dir.path()).string();
  EXPECT_EQ(fetch_command(file),
            "hf download Qwen/Qwen2.5-7B --revision abc123 --cache-dir " + cache);
  std::filesystem::create_directories(repository / "refs");
  test::write_file(repository / "refs" / "main", "abc123");
  EXPECT_EQ(fetch_command(file), "hf download Qwen/Qwen2.5-7B --cache-dir " + cache);
  EXPECT_EQ(fetch_command(snapshot), fetch_command(file));
  EXPECT_EQ(fetch_command(snapshot / "q4" / "m.gguf"),
            "hf download Qwen/Qwen2.5-7B q4/m.gguf --cache-dir " + cache);
  const std::string said = test::error_of([&] { read_text_file(file, {"a JSON file", 100}); });
  EXPECT_NE(said.find("a link that dangles: ../../blobs/0123 is not there"), std::string::npos);
  EXPECT_NE(said.find("fetch it again: hf download Qwen/Qwen2.5-7B"), std::string::npos) << said;
  const auto plain = dir / "plain";
  std::filesystem::create_symlink("nowhere", plain);
  EXPECT_NE(dangling_text(plain).find("nowhere is not there; put that file back"),
            std::string::npos);
  EXPECT_TRUE(has_entry(plain));
  EXPECT_EQ(dangling_text(dir / "none"), "");
  EXPECT_EQ(fetch_command(dir / "none"), "");
}

/// refs/main may be anything; what it says becomes a part of a path.
TEST(Link, RevisionsAreNamesOnly) {
  const test::TempDir dir;
  std::filesystem::create_directories(dir / "refs");
  const auto main = dir / "refs" / "main";
  EXPECT_EQ(main_revision(dir.path()), "");
  for (const char* text : {"../../elsewhere", "a/b", "a b", "\x1b[2J", ".."}) {
    test::write_file(main, text);
    EXPECT_EQ(main_revision(dir.path()), "") << text;
  }
  test::write_file(main, "0123abcd\n");
  EXPECT_EQ(main_revision(dir.path()), "0123abcd");
  std::filesystem::remove(main);
  ASSERT_EQ(mkfifo(main.c_str(), 0600), 0);
  EXPECT_EQ(main_revision(dir.path()), "") << "nobody waits for a writer";
}

/// A cache of somebody else looks like one's own.
TEST(Link, SaysWhichCache) {
  const test::TempDir dir;
  const auto cache = dir / ".cache/huggingface/hub";
  std::filesystem::create_directories(cache / "models--gpt2/snapshots/main");
  EXPECT_EQ(
      fetch_command(cache / "models--gpt2/snapshots/main/x"),
      "hf download gpt2 --revision main --cache-dir " + std::filesystem::canonical(cache).string());
}

TEST(ShellWord, IsWhatAShellTakesForIt) {
  EXPECT_EQ(shell_word("plain-1.yaml"), "plain-1.yaml");
  EXPECT_EQ(shell_word("sp ace"), "'sp ace'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word("-z"), "./-z");
  EXPECT_EQ(shell_word("e\x1b[m"), "'e\\x1b[m'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(FailureText, HasNoLibrarysWords) {
  EXPECT_EQ(failure_text(Error("a: b; c")), "a: b; c");
  EXPECT_EQ(failure_text(std::filesystem::filesystem_error(
                "cannot iterate", "/x", std::make_error_code(std::errc::permission_denied))),
            "/x: Permission denied (errno 13)");
  const std::string refused = failure_text(
      std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again), "what"));
  EXPECT_EQ(refused.rfind("the system refuses what the program needs: Resource temporarily", 0), 0u)
      << refused;
  EXPECT_NE(failure_text(std::out_of_range("map::at")).find("please report this"),
            std::string::npos);
}

TEST(OneLine, NamesTheFirstFew) {
  EXPECT_EQ(first_few({"a"}), "a");
  EXPECT_EQ(first_few({"a", "b\n", "c"}), "a, b\\n, c");
  EXPECT_EQ(first_few({"a", "b", "c", "d", "e"}), "a, b, c and 2 more");
}

TEST(OneLine, LosesItsMiddleOnly) {
  std::string text = "no such file ";
  for (int i = 0; i < 5000; ++i) text += i % 100 == 99 ? "\u20ac " : "\u20ac";
  const std::string line = one_line(text + "; give another");
  EXPECT_LT(line.size(), 1700u);
  EXPECT_EQ(line.rfind("no such file ", 0), 0u);
  EXPECT_NE(line.find(" ... "), std::string::npos);
  EXPECT_EQ(line.substr(line.size() - 14), "; give another");
}

TEST(Dtype, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto raw = static_cast<uint16_t>(i);
    const float f16 = f32_from_f16(raw);
    const float bf16 = f32_from_bf16(raw);
    if (!std::isnan(f16)) {
      EXPECT_EQ(f16_from_f32(f16), raw);
    }
    if (!std::isnan(bf16)) {
      EXPECT_EQ(bf16_from_f32(bf16), raw);
    }
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(bf16))));
    }
  }
}

TEST(Dtype, HalfRoundsToNearestEven) {
  EXPECT_EQ(f16_from_f32(1.0f + 0x1p-11f), 0x3c00);      // tie to even, down
  EXPECT_EQ(f16_from_f32(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie to even, up
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);             // rounds up to infinity
  EXPECT_EQ(f16_from_f32(0x1p-25f), 0x0000);             // tie at half the smallest
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3f818000u)), 0x3f82);
}

TEST(HugeBuffer, IsAlignedRoundedAndMovable) {
  HugeBuffer buffer(3 * kMiB);
  buffer.touch();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kHugePageBytes, 0u);
  EXPECT_EQ(buffer.bytes(), 4 * kMiB);
  buffer.data()[buffer.bytes() - 1] = std::byte{7};
  const HugeBuffer moved(std::move(buffer));
  EXPECT_EQ(moved.data()[moved.bytes() - 1], std::byte{7});
}

/// A fake root with /proc and control groups.
class SystemMemoryTest : public ::testing::Test {
 protected:
  void put(const std::string& path, const std::string& content) {
    std::filesystem::create_directories((root_ / path).parent_path());
    test::write_file(root_ / path, content);
  }
  TempDir root_;
};

TEST_F(SystemMemoryTest, TakesTheSmallestLimitOnTheWayUp) {
  put("proc/meminfo", "MemTotal: 32000000 kB\nMemAvailable:   16777216 kB\n");
  put("proc/self/cgroup", "0::/a/b\n");
  put("sys/fs/cgroup/a/b/memory.max", "max\n");
  put("sys/fs/cgroup/a/memory.max", "4294967296\n");
  put("sys/fs/cgroup/a/memory.current", "2147483648\n");
  put("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 1073741824\n");
  const SystemMemory memory = read_system_memory(root_.path());
  EXPECT_EQ(memory.total_bytes, 32'000'000 * kKiB);
  EXPECT_EQ(memory.available_bytes, 16 * kGiB);
  ASSERT_TRUE(memory.least_room);
  EXPECT_EQ(memory.least_room->room_bytes, 3 * kGiB);
  EXPECT_EQ(memory.least_limit->limit_bytes, 4 * kGiB);
  EXPECT_EQ(memory.least_limit->file, root_.path() / "sys/fs/cgroup/a/memory.max");
  EXPECT_EQ(automatic_ram_budget(memory), 3 * kGiB - 512 * kMiB);
}

TEST_F(SystemMemoryTest, CountsMemoryHighLikeMemoryMax) {
  put("proc/meminfo", "MemAvailable:   16777216 kB\n");
  put("proc/self/cgroup", "0::/a\n");
  put("sys/fs/cgroup/a/memory.max", "4294967296\n");
  put("sys/fs/cgroup/a/memory.high", "3221225472\n");
  put("sys/fs/cgroup/a/memory.current", "0\n");
  const SystemMemory memory = read_system_memory(root_.path());
  ASSERT_TRUE(memory.least_limit);
  EXPECT_EQ(memory.least_limit->limit_bytes, 3 * kGiB);
  EXPECT_EQ(memory.least_limit->file.filename(), "memory.high");
  put("sys/fs/cgroup/a/memory.high", "max\n");
  EXPECT_EQ(read_system_memory(root_.path()).least_limit->limit_bytes, 4 * kGiB);
}

TEST_F(SystemMemoryTest, ReadsVersionOneGroups) {
  put("proc/meminfo", "MemAvailable:   1048576 kB\n");
  put("proc/self/cgroup", "5:cpu,memory:/x\n");
  put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "734003200\n");
  put("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "0\n");
  EXPECT_EQ(read_system_memory(root_.path()).least_room->room_bytes, 700 * kMiB);
}

TEST_F(SystemMemoryTest, NoLimitMeansTheMachine) {
  put("proc/meminfo", "MemAvailable:   16777216 kB\n");
  put("proc/self/cgroup", "5:memory:/\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  const SystemMemory memory = read_system_memory(root_.path());
  EXPECT_FALSE(memory.least_limit);
  EXPECT_FALSE(memory.least_room);
  EXPECT_EQ(automatic_ram_budget(memory), 16 * kGiB - 16 * kGiB / 10);
}

SystemMemory machine_of(uint64_t total, uint64_t available) {
  SystemMemory memory;
  memory.total_bytes = total;
  memory.available_bytes = available;
  return memory;
}

SystemMemory group_of(uint64_t limit, uint64_t room) {
  SystemMemory memory = machine_of(64 * kGiB, 32 * kGiB);
  memory.least_room = memory.least_limit = GroupLimit{"/sys/fs/cgroup/g/memory.max", limit, room};
  return memory;
}

TEST(AutomaticBudget, LeavesAReserveInProportion) {
  EXPECT_EQ(automatic_ram_budget(machine_of(64 * kGiB, 40 * kGiB)), 36 * kGiB);
  EXPECT_EQ(automatic_ram_budget(machine_of(8 * kGiB, 4 * kGiB)), 4 * kGiB - 512 * kMiB);
  EXPECT_EQ(automatic_ram_budget(group_of(600 * kMiB, 540 * kMiB)), 405 * kMiB);
  EXPECT_EQ(automatic_ram_budget(group_of(40 * kMiB, 36 * kMiB)), 27 * kMiB);
  EXPECT_EQ(automatic_ram_budget(group_of(40 * kMiB, 0)), 0u);
  // More room never gives a smaller budget.
  uint64_t last = 0;
  for (uint64_t room = 0; room < 12 * kGiB; room += 7 * kMiB) {
    const uint64_t budget = automatic_ram_budget(machine_of(64 * kGiB, room));
    EXPECT_GE(budget, last);
    last = budget;
  }
}

TEST(AutomaticBudget, SaysWhatItCameFrom) {
  const std::string group = automatic_ram_source(group_of(200 * kMiB, 100 * kMiB));
  EXPECT_NE(group.find("/sys/fs/cgroup/g/memory.max allows 200 MiB"), std::string::npos) << group;
  const std::string machine = automatic_ram_source(machine_of(8 * kGiB, 4 * kGiB));
  EXPECT_NE(machine.find("8.00 GiB"), std::string::npos) << machine;
}

TEST(ExplicitBudget, IsHeldAgainstWhatThereCanEverBe) {
  EXPECT_EQ(beyond_the_machine(6 * kGiB, machine_of(8 * kGiB, kGiB)), "")
      << "page cache that others fill goes away";
  const std::string machine = beyond_the_machine(9 * kGiB, machine_of(8 * kGiB, kGiB));
  EXPECT_NE(machine.find("8.00 GiB that this machine has"), std::string::npos) << machine;
  EXPECT_NE(machine.find("1.00 GiB available now"), std::string::npos) << machine;
  EXPECT_EQ(beyond_the_machine(200 * kMiB, group_of(200 * kMiB, 10 * kMiB)), "");
  const std::string group = beyond_the_machine(201 * kMiB, group_of(200 * kMiB, 10 * kMiB));
  EXPECT_NE(group.find("200 MiB that /sys/fs/cgroup/g/memory.max allows"), std::string::npos)
      << group;
}

class FixedClock final : public Clock {
 public:
  int64_t now_ns() const override { return 0; }
};

TEST(Trace, KeepsWhatFitsAndCountsTheRest) {
  const FixedClock clock;
  EXPECT_FALSE(Trace(clock, 0).on());
  EXPECT_GE(Trace::table_bytes(100), 100 * 4 * sizeof(uint64_t));
  Trace trace(clock, 2);
  for (int i = 0; i < 3; ++i) trace.span(TraceLane::kRead, 7, 1000, 3000, 42);
  EXPECT_EQ(trace.dropped(), 1u);
  const TempDir dir;
  FilesInUse in_use;
  OutputFile file(dir / "t.json", trace_format(), in_use);
  trace.write(file);
  const std::string text = test::read_file(dir / "t.json");
  EXPECT_NE(text.find("\"read unit 7\""), std::string::npos);
  EXPECT_NE(text.find("\"dur\":2.000"), std::string::npos);
  EXPECT_NE(text.find("\"dropped\":1"), std::string::npos);
  trace.write(file);  // what it wrote is known as a trace again
}

/// A shell may hand over a pipe that does not block. The reader begins when it is full.
TEST(WriteAll, WaitsForAReaderThatIsSlow) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  const Descriptor from(ends[0]);
  Descriptor to(ends[1]);
  const auto full = static_cast<int>(fcntl(to.get(), F_GETPIPE_SZ));
  std::string text(3 * static_cast<size_t>(full) + 17, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 251);
  std::string got;
  std::thread reader([&] {
    for (int there = 0; there < full;) ioctl(from.get(), FIONREAD, &there);
    std::array<char, 4096> block{};
    for (ssize_t count = -1; count != 0;) {
      count = read(from.get(), block.data(), block.size());
      if (count > 0) got.append(block.data(), static_cast<size_t>(count));
    }
  });
  const int error = write_all(to.get(), text);
  to.reset();
  reader.join();
  EXPECT_EQ(error, 0);
  EXPECT_TRUE(got == text);
}

/// A reader that is gone ends the wait.
TEST(WriteAll, SaysThatNobodyReads) {
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  Descriptor from(ends[0]);
  const Descriptor to(ends[1]);
  const auto full = static_cast<int>(fcntl(to.get(), F_GETPIPE_SZ));
  std::thread reader([&] {
    for (int there = 0; there < full;) ioctl(from.get(), FIONREAD, &there);
    from.reset();
  });
  EXPECT_EQ(write_all(to.get(), std::string(static_cast<size_t>(full) + 1, 'x')), EPIPE);
  reader.join();
  std::signal(SIGPIPE, before);
}

TEST(ReadFile, ReadsWhatItMay) {
  const test::TempDir dir;
  const std::string content(3 * kMiB + 7, 'x');
  test::write_file(dir / "f", content);
  EXPECT_EQ(read_text_file(dir / "f", {"a text", content.size()}), content);
  EXPECT_NE(test::error_of([&] {
              read_text_file(dir / "f", {"a text", content.size() - 1});
            }).find("more than 3.00 MiB; expected a text"),
            std::string::npos);
  EXPECT_EQ(read_text_file("/proc/self/comm", {"a name", 100}).back(), '\n') << "has no size";
  EXPECT_NE(test::error_of([&] {
              read_text_file(dir / "none", {"a text", 9});
            }).find("cannot read"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] {
              read_text_file(dir.path(), {"a text", 9});
            }).find("is a folder; expected a text"),
            std::string::npos);
}

TEST(ReadFile, NeverWaitsForWhatIsNoFileAndNeverReadsWithoutEnd) {
  const test::TempDir dir;
  const auto pipe = dir / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_NE(test::error_of([&] {
              read_text_file(pipe, {"a text", 9});
            }).find("is a pipe"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] {
              read_text_file("/dev/zero", {"a text", 9});
            }).find("is a device"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] {
              read_text_file("/dev/zero", {"a text", kMiB, FileKind::kStream});
            }).find("more than 1.00 MiB"),
            std::string::npos);
  std::thread writer([&] { test::write_file(pipe, "written slowly"); });
  EXPECT_EQ(read_text_file(pipe, {"a text", kMiB, FileKind::kStream}), "written slowly");
  writer.join();
}

}  // namespace
}  // namespace spillway
