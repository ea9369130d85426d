#include "core/failure.h"

#include <fmt/format.h>

#include <filesystem>
#include <new>
#include <system_error>

#include "core/limits.h"

namespace spillway {
namespace {

/// The system's words for it; a library's own stand before them in what().
std::string system_text(const std::error_code& code) {
  return code.category() == std::system_category() || code.category() == std::generic_category()
             ? errno_text(code.value())
             : code.message();
}

std::string file_text(const std::filesystem::filesystem_error& failure) {
  const std::string file = failure.path1().string();
  return file.empty() ? system_text(failure.code())
                      : fmt::format("{}: {}", file, system_text(failure.code()));
}

}  // namespace

std::string failure_text(const std::exception& failure, std::string_view memory_setting) {
  if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr) {
    return fmt::format("out of memory{}; lower {}", memory_limits_text(), memory_setting);
  }
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&failure)) {
    return file_text(*file);
  }
  if (const auto* refusal = dynamic_cast<const std::system_error*>(&failure)) {
    return fmt::format("the system refuses what the program needs: {}{}",
                       system_text(refusal->code()), thread_limits_text());
  }
  if (dynamic_cast<const Error*>(&failure) != nullptr) return failure.what();
  return fmt::format("internal error ({}); please report this with the command that led to it",
                     failure.what());
}

}  // namespace spillway
