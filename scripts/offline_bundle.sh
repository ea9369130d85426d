#!/usr/bin/env bash
# Collects the Debian packages that a build, its tests and benchmarks need, for a GPU machine with no
# network. Usage: scripts/offline_bundle.sh [FOLDER]   (default build/offline)
# Take the source and the folder there and run scripts/gpu_check.sh. What the machine must have
# itself: g++, cmake, ninja, python3, CUDA 12.4 or later.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/offline}

# Headers and link libraries; what they need at run time follows by dependency.
wanted=(libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libfmt-dev liburing-dev libtbb-dev
  libdnnl-dev libsentencepiece-dev libpcre2-dev libutf8proc-dev libxxhash-dev libgtest-dev
  libbenchmark-dev librapidcheck-dev libboost-context-dev pkg-config)
# Of every system that has a compiler.
base='^(libc6|libc-|libc-dev|libcrypt|linux-libc|libgcc|libstdc|gcc-|cpp|g\+\+|binutils|perl|dpkg|'
base+='libdpkg|python3|debconf|tar|install-info|libperl|zlib1g|libselinux|libpcre2-8-0-udeb|'
base+='make|coreutils|libgomp|libnsl|libtirpc|libssl|libkrb|libk5|libgssapi|libkeyutils|libcom-err|'
base+='libudev|libcap|libasan|libubsan|liblsan|libtsan|libitm|libatomic|libquadmath)'

mapfile -t packages < <(
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "${wanted[@]}" | grep -E '^[a-z0-9]' | sort -u |
    grep -vE "$base" | while read -r package; do
      [ -n "$(apt-cache show --no-all-versions "$package" 2>/dev/null)" ] && echo "$package"
    done
)
mkdir -p "$folder"
(cd "$folder" && rm -f ./*.deb && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}")
echo "$folder: $(find "$folder" -name '*.deb' | wc -l) packages, $(du -sh "$folder" | cut -f1)"
