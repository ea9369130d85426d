// Writes the folder of a small job for sinks_test.py: sinks_files DIR.
#include <cstdio>
#include <exception>

#include "tests/sinks_job.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    spillway::test::run_sinks_job(argv[1], {});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
