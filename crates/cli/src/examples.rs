//! Examples at the end of `--help`.

/// Of the program.
pub const PROGRAM: &str = "\
Examples:
  sensei run configs/quickstart.toml             from rendered scenes to a package and report.html
  sensei plan MY.toml                            what a run would do and cost
  sensei eval runs/MY --protocol sensei-box      the run's networks by another protocol
  sensei export runs/MY --rpk                    the file that the camera loads, with the vendor's converter
  sensei gate BASELINE.json runs/MY              for CI: fails where mean IoU drops

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 `gate` cannot tell, 4 stopped as asked.";

/// Of `run` and `train`.
pub const RUN: &str = "\
Examples:
  sensei run configs/quickstart.toml
  sensei run MY.toml --set train.batch_size=16 --set seed=2 --name my-2
  sensei run MY.toml --resume                    goes on after Ctrl-C, a kill or a power cut, to the same bits";

/// Of `init`.
pub const INIT: &str = "\
Examples:
  sensei init my.toml                            asks for the four paths
  sensei init my.toml --train train.json --train-images train --val val.json --val-images val
Of a single annotation file, sensei data split makes two.";

/// Of `plan`.
pub const PLAN: &str = "\
Examples:
  sensei plan MY.toml
  sensei plan MY.toml --json
  sensei plan --schema > run.json                what editors complete and check by";

/// Of `eval`.
pub const EVAL: &str = "\
Examples:
  sensei eval runs/MY                                      again, into eval/
  sensei eval runs/MY --protocol sensei-box --robustness   with boxes that are wrong
  sensei eval runs/MY --weights student.pth --imagenet-normalised
  sensei eval PACKAGE --package --annotations val.json --images val   what ships, where it was not trained";

/// Of `export`.
pub const EXPORT: &str = "\
Examples:
  sensei export runs/MY                                    ONNX for stock runtimes, and the package
  sensei export runs/PROMPTABLE --int8                     encoder and decoder, and the encoder in integers
  sensei export runs/MY --converter ~/imx500/bin/imxconv-pt --rpk
On a machine without the data it works from what the run kept; see docs/guides/deploy-imx500.md.";

/// Of `convert`.
pub const CONVERT: &str = "\
Examples:
  sensei convert runs/MY                                   the converter's memory report; keeps nothing
  sensei convert runs/MY/package/MY.onnx --packer-out --out converted";

/// Of `gate`.
pub const GATE: &str = "\
Examples:
  sensei gate runs/OLD runs/NEW --max-drop-points 0.3
  sensei gate baseline.json runs/NEW --junit gate.xml --markdown gate.md";

/// Of `data check`.
pub const DATA_CHECK: &str = "\
Examples:
  sensei data check instances_train.json images/train
  sensei data check lvis_v1_val.json images --format lvis --decode";

/// Of `data split`.
pub const DATA_SPLIT: &str = "\
Examples:
  sensei data split all.json split                   split/train.json, and split/val.json of a fifth of the images
  sensei data split all.json split --val-share 0.1 --seed 2
No image is on both sides. Frames of one film look alike: give each side films of its own instead.";

/// Of `data paste`.
pub const DATA_PASTE: &str = "\
Examples:
  sensei data paste train.json images/train pasted --copies 2
A configuration trains on it beside the images themselves:
  [[data.also_train]]
  name = \"pasted\"
  annotations = \"pasted/annotations.json\"
  images = \"pasted/images\"";

/// Of `teacher build`.
pub const TEACHER_BUILD: &str = "\
Examples:
  sensei teacher build instances.json images answers --weights mobile_sam.pt
  sensei teacher build instances.json images features --weights mobile_sam.pt --features embedding
  sensei teacher build instances.json images --store s3://BUCKET/ANSWERS --weights mobile_sam.pt";

/// Of `inspect`.
pub const INSPECT: &str = "\
Examples:
  sensei inspect runs/MY                 a run: what is there and what it scored
  sensei inspect runs/MY/package         a package
  sensei inspect network.rpk             what a camera would load
  sensei inspect MY.toml                 a configuration, resolved";

/// Of `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  sensei completions bash > ~/.local/share/bash-completion/completions/sensei
  sensei completions zsh > ~/.zfunc/_sensei";
