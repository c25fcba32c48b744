#!/bin/sh
# Puts the vendor's IMX500 converter into a Python virtual environment of its own.
#
#   scripts/imx500/setup.sh FOLDER [PYTHON]
#
# The converter (imx500-converter 3.19.2, by Sony) is PROPRIETARY software. It is not part of Sensei and comes with no
# licence file; Sony grants its use under the terms of its developer site. Whether you are entitled to use it is between
# you and Sony. This script only calls pip, on your machine, because you asked for it.
#
# Needs Python 3.10 to 3.12 and, to run, Java 17 or later. Takes 0.6 GB.
set -eu
converter="imx500-converter[pt]==3.19.2"

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 FOLDER [PYTHON]   (makes a virtual environment at FOLDER with $converter)" >&2
    exit 2
fi
folder=$1
python=${2:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))'; then
    echo "$python: expected Python 3.10, 3.11 or 3.12, found $("$python" --version 2>&1)" >&2
    exit 1
fi
if [ -e "$folder" ]; then
    echo "$folder: exists already" >&2
    exit 1
fi

echo "note: the converter is proprietary software of Sony's; whether you may use it is between you and Sony."
trap 'rm -rf "$folder"; echo "$folder: not installed, the folder is removed" >&2' EXIT
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet "$converter"
test -x "$folder/bin/imxconv-pt"
trap - EXIT
command -v java >/dev/null || echo "note: no java on PATH; the converter needs a Java runtime, version 17 or later" >&2
echo "installed. Use it with: PATH=$folder/bin:\$PATH"
