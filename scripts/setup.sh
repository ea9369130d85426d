#!/usr/bin/env bash
# Installs the Debian 12 packages that are missing. Usage: scripts/setup.sh [build|package|test|ci|differential]
set -euo pipefail

build=(build-essential cmake ninja-build pkg-config git ca-certificates
  libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libfmt-dev liburing-dev libtbb-dev libdnnl-dev
  libsentencepiece-dev libpcre2-dev libutf8proc-dev libxxhash-dev)
package=(dpkg-dev file)  # what cpack asks for dependencies
test=(libgtest-dev libgmock-dev libbenchmark-dev librapidcheck-dev libboost-context-dev python3 man-db)
ci=(clang-16 clang-tidy-16 clang-format-16 libclang-rt-16-dev)

case "${1:-build}" in
  build) wanted=("${build[@]}") ;;
  package) wanted=("${build[@]}" "${package[@]}") ;;
  test) wanted=("${build[@]}" "${package[@]}" "${test[@]}") ;;
  differential) wanted=("${build[@]}" "${test[@]}" python3-venv binutils) ;;
  ci) wanted=("${build[@]}" "${package[@]}" "${test[@]}" "${ci[@]}") ;;
  *) echo "usage: scripts/setup.sh [build|package|test|ci|differential]" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" ||
    missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "run as root, or install: ${missing[*]}" >&2; exit 1; }
  run=(sudo)
fi
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
