#!/usr/bin/env bash
# Compiles the student's interpreter for browsers, with their 128-bit vectors, and makes one page with a package's model.
#
# usage: web/build.sh PACKAGE [OUT.html]      (default: target/web/NAME.html, NAME the folder's, or the run's whose package it is)
set -euo pipefail
[ $# -ge 1 ] || { sed -n 's/^# //p' "$0"; exit 2; }
package=$(realpath "$1")
root=$(realpath "$(dirname "$0")/..")
name=$(basename "$package")
# A run's package is named by its run.
[ "$name" != package ] || name=$(basename "$(dirname "$package")")
out=${2:-$root/target/web/$name.html}

target=wasm32-unknown-unknown
if ! rustc --print target-libdir --target $target | xargs test -d; then
    rustup target add $target
fi
# What other processors have is dead code here.
(cd "$root" && RUSTFLAGS="-C target-feature=+simd128 -C strip=symbols -A dead_code" cargo build --release --locked -p sensei-web --target $target)
python3 "$root/web/build.py" "$root/target/$target/release/sensei_web.wasm" "$package" "$out"
