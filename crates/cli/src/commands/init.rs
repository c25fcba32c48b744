//! `init`: a configuration for somebody's own data.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_data::check::check;
use sensei_data::dataset::{Dataset, DatasetError, UnusableRule};
use sensei_files::whole::create_whole;

use crate::arguments::{AnnotationFormat, InitArguments};
use crate::config::{FirstWeights, load_plan};
use crate::phases::data::{check_annotated, check_disjoint_images, load};
use crate::progress::{say, warn};
use crate::shipped_models::shipped;
use crate::usage;

/// Writes a commented configuration for these data sets, after asking for what the command line does not say.
///
/// # Errors
/// If something is not said and there is no terminal to ask on, a data set cannot be used, or the file exists.
pub fn init(arguments: &InitArguments) -> anyhow::Result<()> {
    let InitArguments { out, format, .. } = arguments;
    ensure!(!out.exists(), "{}: expected no such file yet, found one", out.display());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "{}: expected a folder to write {} into, found none", folder.display(), out.display());
    }
    let answer = |given: &Option<PathBuf>, flag: &str, question: &str| match given {
        Some(path) => Ok(path.clone()),
        None => asked_path(flag, question),
    };
    let files = [
        answer(&arguments.train, "--train", "Annotation file to train on")?,
        answer(&arguments.train_images, "--train-images", "Folder of its images")?,
        answer(
            &arguments.val,
            "--val",
            "Annotation file to score on, of other images; sensei data split makes two of one",
        )?,
        answer(&arguments.val_images, "--val-images", "Folder of its images")?,
    ];
    let [train_file, train_images, val_file, val_images] = absolute(files)?;
    let train = open(&train_file, &train_images, *format)?;
    let val = open(&val_file, &val_images, *format)?;
    let scored = val.dataset.instances.iter().map(|instance| instance.image_idx).collect();
    check_disjoint_images(&train.dataset, &val.dataset, &scored)?;

    let without_crowds = |dataset: &Dataset| dataset.instances.iter().filter(|instance| !instance.is_crowd).count();
    let (n_objects, n_scored) = (without_crowds(&train.dataset), without_crowds(&val.dataset));
    ensure!(n_objects >= BATCH, "{}: expected at least {BATCH} objects, found {n_objects}", train_file.display());
    let min_side = min_side(&train.dataset);
    let weights = initial_weights(arguments)?;
    let epochs = epochs_for(n_objects, if matches!(weights, FirstWeights::Random) { STEPS } else { FURTHER_STEPS });

    let path = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let split = |name: &str, file: &Path, images: &Path| {
        format!("{name} = {{ annotations = {}, images = {} }}", path(file), path(images))
    };
    let source = if *format == AnnotationFormat::Lvis { "lvis" } else { "coco" };
    let unusable = if train.leaves_out || val.leaves_out { "\nunusable = \"leave_out\"" } else { "" };
    let mut text = Template(TEMPLATE.lines().skip(TEMPLATE_HEAD).map(String::from).collect());
    text.set("source = ", &format!("source = \"{source}\""));
    text.set("train = ", &split("train", &train_file, &train_images));
    text.set("val = ", &format!("{}{unusable}", split("val", &val_file, &val_images)));
    text.set("min_side = ", &format!("min_side = {min_side:.1}"));
    text.set("# The sensor's window", "# The sensor's window has at least 64 of 4056 pixels across; of the median width of your images it is so many.");
    text.set("epochs = ", &format!("epochs = {epochs}"));
    match &weights {
        FirstWeights::Shipped(model) => text.set(INITIAL, &format!("{INITIAL}\"{}\"", model.name)),
        FirstWeights::File(weights) => text.set(INITIAL, &format!("initial_weights = {}", path(weights))),
        FirstWeights::PublishedEncoder(_) | FirstWeights::Random => {
            text.set(INITIAL, "# initial_weights = \"student.safetensors\": random weights without it");
            text.set("learning_rate = ", "learning_rate = 1e-3");
        }
    }
    let steps = epochs * n_objects.div_ceil(BATCH);
    let head = format!(
        "# {n_objects} objects of {} images to train on, {} of {} to score on; {epochs} epochs are about {steps} steps of {BATCH}.\n\
         # Every key: docs/configuration.md. What it costs: sensei plan.\n",
        train.dataset.images.len(),
        n_scored,
        val.dataset.images.len()
    );
    let is_new = create_whole(out, format!("{head}{}", text.text()).as_bytes())?;
    ensure!(is_new, "{}: expected no such file yet, found one", out.display());
    load_plan(out, &[]).map_err(usage)?;
    let shown = out.display();
    say(&format!("{shown}: written. Next: sensei plan {shown}, then sensei run {shown}"));
    Ok(())
}

/// A data set that can be trained on.
struct Opened {
    dataset: Dataset,
    /// Some of its entries cannot be used.
    leaves_out: bool,
}

/// The command that says what is wrong with a data set.
fn named_by(annotations: &Path, images: &Path, format: AnnotationFormat) -> String {
    let [annotations, images] = [annotations, images].map(|path| path.display().to_string());
    let format = if format == AnnotationFormat::Lvis { " --format lvis" } else { "" };
    format!("sensei data check {annotations:?} {images:?}{format}")
}

fn open(annotations: &Path, images: &Path, format: AnnotationFormat) -> anyhow::Result<Opened> {
    ensure!(images.is_dir(), "{}: expected a folder of images, found none", images.display());
    let (dataset, leaves_out) = match load(annotations, images, format, UnusableRule::Refuse) {
        Ok(dataset) => (dataset, false),
        Err(DatasetError::Entries { path, entries, .. }) => {
            let shown = path.display();
            warn(&format!(
                "{shown}: {} entries cannot be used and are left out; named by: {}",
                entries.len(),
                named_by(annotations, images, format)
            ));
            (load(annotations, images, format, UnusableRule::LeaveOut)?, true)
        }
        Err(error) => return Err(error.into()),
    };
    check_annotated(&dataset)?;
    let report = check(&dataset, false);
    ensure!(
        report.n_missing_files == 0,
        "{}: expected the files of all images, found {} missing; named by: {}",
        images.display(),
        report.n_missing_files,
        named_by(annotations, images, format)
    );
    if report.n_problems > 0 {
        let (shown, n) = (annotations.display(), report.n_problems);
        warn(&format!("{shown}: {n} problems; named by: {}", named_by(annotations, images, format)));
    }
    say(&format!("{}: {} objects of {} images", annotations.display(), report.n_instances, report.n_images));
    Ok(Opened { dataset, leaves_out })
}

/// Enough steps to learn something, and not more epochs than teach anything new.
fn epochs_for(n_objects: usize, steps: usize) -> usize {
    steps.div_ceil(n_objects.div_ceil(BATCH)).clamp(4, 40)
}

/// The sensor's shortest window in pixels of images of the median width.
fn min_side(dataset: &Dataset) -> f64 {
    let mut widths: Vec<u32> = dataset.images.iter().map(|image| image.size.width).collect();
    widths.sort_unstable();
    64.0 / 4056.0 * f64::from(widths[widths.len() / 2])
}

fn initial_weights(arguments: &InitArguments) -> anyhow::Result<FirstWeights> {
    if let Some(path) = &arguments.initial_weights {
        ensure!(path.is_file(), "{}: expected weights, found no file", path.display());
        return Ok(FirstWeights::File(std::path::absolute(path)?));
    }
    Ok(if arguments.from_random { FirstWeights::Random } else { FirstWeights::Shipped(shipped(SHIPPED)?) })
}

/// What a person answers on the terminal.
fn asked(flag: &str, question: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(usage(anyhow::anyhow!("{flag}: expected it, as there is no terminal to ask on, found none")));
    }
    warn(&format!("{question} ({flag}):"));
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("standard input: cannot read")?;
    let answer = line.trim();
    ensure!(!answer.is_empty(), "{flag}: expected a path, found nothing");
    Ok(answer.to_string())
}

/// A path that is there; another answer is asked for again.
fn asked_path(flag: &str, question: &str) -> anyhow::Result<PathBuf> {
    loop {
        let path = path_of(&asked(flag, question)?, std::env::var_os("HOME").map(PathBuf::from));
        if path.exists() {
            return Ok(path);
        }
        warn(&format!("{}: no such file or folder; once more, or Ctrl-C", path.display()));
    }
}

/// A path as people give it: in quotes, as terminals paste it, or below their home.
fn path_of(answer: &str, home: Option<PathBuf>) -> PathBuf {
    let within = |quote: char| answer.strip_prefix(quote)?.strip_suffix(quote);
    let answer = within('\'').or_else(|| within('"')).unwrap_or(answer);
    match (answer.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(answer),
    }
}

fn absolute<const N: usize>(paths: [PathBuf; N]) -> anyhow::Result<[PathBuf; N]> {
    let mut made = paths;
    for path in &mut made {
        *path = std::path::absolute(&*path).with_context(|| format!("{}: no such path", path.display()))?;
    }
    Ok(made)
}

/// Lines of a configuration whose values are changed.
struct Template(Vec<String>);

impl Template {
    /// Puts another line in the place of the only one that starts so.
    ///
    /// # Panics
    /// If there are none or several: the template and this file contradict each other.
    fn set(&mut self, start: &str, line: &str) {
        let found: Vec<usize> = (0..self.0.len()).filter(|&at| self.0[at].starts_with(start)).collect();
        let [at] = found[..] else { panic!("the template has {} lines that start with {start:?}", found.len()) };
        self.0[at] = line.to_string();
    }

    fn text(&self) -> String {
        self.0.join("\n") + "\n"
    }
}

const TEMPLATE: &str = include_str!("../../../../configs/finetune-own-data.toml");

/// Lines about the template itself.
const TEMPLATE_HEAD: usize = 8;

/// What a student of [`TEMPLATE`] starts from.
const SHIPPED: &str = "sensei-box";

/// How its line begins there.
const INITIAL: &str = "initial_model = ";

/// Objects of a step in the template.
const BATCH: usize = 8;

/// Steps that are enough for a few thousand objects.
const STEPS: usize = 2000;

/// Steps of a network that begins with a trained one's weights.
const FURTHER_STEPS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_people_give_them() {
        let path = |answer: &str| path_of(answer, Some("/home/me".into()));
        for (answer, expected) in [
            ("a b/c.json", "a b/c.json"),
            ("'a b/c.json'", "a b/c.json"),
            ("\"a b\"", "a b"),
            ("'a\"", "'a\""),
            ("'", "'"),
            ("~/photos", "/home/me/photos"),
            ("~other", "~other"),
        ] {
            assert_eq!(path(answer), Path::new(expected), "{answer}");
        }
        assert_eq!(path_of("~/photos", None), Path::new("~/photos"));
    }
}
