#!/usr/bin/env bash
# Builds a benchmark program (crates/*/benches) and prints its path: cargo puts a hash of the build into the name.
#
# usage: scripts/bench/build.sh NAME [CARGO ARGUMENTS]     without a package among them, with the features of the whole workspace
set -euo pipefail
cd "$(dirname "$0")/../.."
name=$1
shift
case " $* " in *" -p "*) ;; *) set -- --workspace "$@" ;; esac
path=$(cargo build --release --quiet --bench "$name" --message-format=json-render-diagnostics "$@" |
    sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p')
[ -x "$path" ] || { echo "$name: expected the path of one program, found '$path'" >&2; exit 1; }
echo "$path"
