#!/usr/bin/env bash
# The tests of the kernels and of the integer interpreter under AddressSanitizer: reads and writes past the ends of slices,
# which their `unsafe` blocks promise not to do. The stable toolchain ships the runtime; RUSTC_BOOTSTRAP lets it be asked
# for. Builds in target/asan.
set -euo pipefail
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
if ! ls "$(rustc --print sysroot)/lib/rustlib/$host/lib/"librustc-*_rt.asan.a >/dev/null 2>&1; then
    echo "skipped: this toolchain has no AddressSanitizer runtime for $host"
    exit 0
fi
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" \
    cargo test --release -p sensei-kernels -p sensei-int8 --lib --target "$host" --target-dir target/asan
