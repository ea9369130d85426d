#include "io/open_reader.h"

#include <fmt/format.h>

#include "core/error.h"
#include "io/pread_reader.h"
#include "io/uring_reader.h"

namespace spillway {

ReaderFactory choose_reader(EngineChoice choice, const NoticeSink& notice) {
  const ReaderFactory pread = [](uint32_t depth) { return std::make_unique<PreadReader>(depth); };
  if (choice == EngineChoice::kPread) return pread;
  try {
    const UringReader probe(1);
  } catch (const Error& error) {
    const std::string fix =
        "allow it with sysctl kernel.io_uring_disabled=0, or in a container with a seccomp "
        "profile that permits io_uring";
    if (choice == EngineChoice::kUring) throw Error(fmt::format("{}; {}", error.what(), fix));
    notice(fmt::format("{}: reading with pread threads instead; for the faster path {}",
                       error.what(), fix));
    return pread;
  }
  return [](uint32_t depth) { return std::make_unique<UringReader>(depth); };
}

}  // namespace spillway
