#!/usr/bin/env bash
# Plays somebody who has just installed the package on a bare Debian 12: model, init, a streamed run, a
# small bench, its page in a browser, the manual. Usage: newcomer.sh PACKAGE.deb [OUT_FOLDER]
# Needs root, debootstrap, a Debian mirror and chromium; 77 and a line where one is missing. The chroot
# and its mounts live in a namespace of this script and are gone with it. OUT_FOLDER (default
# build/newcomer) gets the page, its picture and what the program said.
#   SPILLWAY_DEBIAN_MIRROR=<url>   instead of http://deb.debian.org/debian
#   SPILLWAY_DEBIAN_BASE=<folder>  a fresh debootstrap to copy, for repeated runs
set -euo pipefail

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ -f "$1" ] || { echo "usage: newcomer.sh PACKAGE.deb [OUT_FOLDER]" >&2; exit 2; }
package=$(realpath "$1")
out=$(realpath -m "${2:-$(dirname "$0")/../build/newcomer}")
[ "$(id -u)" -eq 0 ] || skip "needs root for a chroot"
for program in debootstrap chromium unshare; do
  command -v $program >/dev/null || skip "$program is not installed (apt-get install debootstrap chromium)"
done
if [ -z "${SPILLWAY_IN_NAMESPACE:-}" ]; then
  unshare --mount true 2>/dev/null || skip "mount namespaces are not allowed here"
  exec env SPILLWAY_IN_NAMESPACE=1 unshare --mount --propagation private "$0" "$package" "$out"
fi

mirror=${SPILLWAY_DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$out"
work=$(mktemp -d)
root=$work/root
trap 'umount -Rl "$root"/proc "$root"/sys "$root"/dev 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
began=$SECONDS

step() { echo "== $* ($((SECONDS - began)) s)"; }
as_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }
newcomer() {
  chroot --userspec=newcomer "$root" env -i PATH=/usr/bin:/bin HOME=/home/newcomer LC_ALL=C.UTF-8 \
    TERM=xterm sh -c "cd && $1"
}

step "a bare Debian 12"
if [ -n "${SPILLWAY_DEBIAN_BASE:-}" ]; then
  cp -a "$SPILLWAY_DEBIAN_BASE" "$root"
else
  debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
    tail -n 3 "$work/debootstrap.log"
    skip "debootstrap could not get Debian 12 from $mirror"
  }
fi
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true

step "the package"
cp "$package" "$root/tmp/spillway.deb"
as_root apt-get install -y -q --no-install-recommends /tmp/spillway.deb man-db \
  >"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log"; fail "the package does not install"; }
as_root useradd -m newcomer
newcomer "spillway --version"

step "a model"
newcomer "spillway synth model --layers 8 --hidden 1024 --intermediate 4096 --heads 16 --vocab 8192"

step "init"
newcomer "spillway init model" | tee "$out/init.txt"
newcomer "cat model.yaml" >"$out/model.yaml"
grep -q '^ *#' "$out/model.yaml" || fail "init wrote no comments"
newcomer "spillway plan model.yaml" >"$out/plan.txt"

step "run"
newcomer 'spillway run model -p "Once upon a time" --ram 160MiB -n 24' 2>"$out/run.err" |
  python3 -c '
import os, sys
pieces = []
while piece := os.read(0, 65536):
    pieces.append(piece)
open(sys.argv[1], "wb").write(b"".join(pieces))
print(len(pieces), "pieces,", sum(map(len, pieces)), "bytes")
sys.exit(0 if len(pieces) > 3 else 1)' "$out/run.txt" || fail "the answer came in one piece"
newcomer "spillway run model.yaml -p Hello -n 4 --quiet" >"$out/run-yaml.txt"

step "bench"
newcomer "spillway bench model.yaml --out bench --sweeps decode --repeats 1 --shares 100,0 --batches 1 \
  --tokens 4 --prompt-tokens 8 --quiet" >"$out/bench.txt" 2>&1 || { cat "$out/bench.txt"; fail "bench"; }
cp "$root/home/newcomer/bench/bench.html" "$out/"

step "its page"
timeout 60 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1600 \
  --user-data-dir="$work/chromium" --screenshot="$out/bench.png" "file://$out/bench.html" \
  >"$work/chromium.log" 2>&1 || { tail -n 5 "$work/chromium.log"; fail "chromium"; }
[ "$(stat -c %s "$out/bench.png")" -gt 20000 ] || fail "the picture of the page is empty"

step "the manual"
for page in spillway spillway-run spillway.yaml; do
  newcomer "MANWIDTH=80 man $page" >"$out/$page.txt"
  grep -q '^NAME' "$out/$page.txt" || fail "man $page"
done

step "gone again"
as_root apt-get purge -y -q spillway >/dev/null 2>&1 || fail "the package cannot be removed"
left=$(find "$root/usr" -path '*spillway*' | head -n 3)
[ -z "$left" ] || fail "left behind: $left"
echo "newcomer: everything worked in $((SECONDS - began)) s; see $out"
