#!/usr/bin/env python3
"""One page that needs nothing else: the program for browsers, a package's integer model, and what its manifest says.

usage: web/build.py PROGRAM.wasm PACKAGE OUT.html
"""

import base64
import html
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    program, package, out = map(Path, sys.argv[1:])
    manifest = json.loads((package / "manifest.json").read_text())
    model = (package / f"{manifest['network']}.s8m").read_bytes()
    encoded = lambda content: base64.b64encode(content).decode()
    facts = {"program": encoded(program.read_bytes()), "model": encoded(model), "crop": manifest["crop"]}
    said = []
    scores = (manifest.get("scores") or {}).get("int8") or {}
    for metric, estimate in (scores.get("all") or {}).get("estimates", {}).items():
        if metric == "mean_iou_in_image" and isinstance(estimate, dict):
            said.append(f"mean IoU {estimate['value']:.3f} in the image, by the protocol {manifest['protocol']['name']}")
    said.insert(0, f"integers, {len(model):,} bytes, crops of {manifest['input_side']} x {manifest['input_side']} pixels")
    words = {
        "NAME": manifest["network"],
        "PARAMETERS": f"{len(model) / 1e6:.1f} MB",
        "CROP": manifest["crop"],
        "FACTS": "; ".join(said),
        "ORIGIN": f"annotations {manifest.get('train_data_digest', 'not known')[:16]}, Sensei {manifest['sensei_version']}; the package's MODEL_CARD.md says more",
    }
    page = (HERE / "page.html").read_text()
    for key, value in words.items():
        page = page.replace("{{" + key + "}}", html.escape(value))
    # `</` would end the script element.
    page = page.replace("{{JSON}}", json.dumps(facts).replace("</", "<\\/"))
    page = page.replace("{{CSS}}", (HERE / "page.css").read_text()).replace("{{JS}}", (HERE / "page.js").read_text())
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(page)
    temporary.replace(out)
    print(f"{out}: {len(page):,} bytes, model {manifest['network']}; open it in a browser")


main()
