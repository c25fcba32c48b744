//! What a network is shown of each instance, as files that a camera can answer.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use sensei_imx500::recording::write_input;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;
use sensei_samples::source::SampleSource;

use crate::progress::say;
use crate::stop;

/// Writes the input of every instance as `ANNOTATION.input` into a folder that is made or empty.
///
/// # Errors
/// If the folder holds something, a sample cannot be had, or a file not be written.
pub fn write_inputs(model: &IntegerModel, source: &SampleSource, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot make the folder"))?;
    let mut there = fs::read_dir(folder).with_context(|| format!("{shown}: cannot list the folder"))?;
    ensure!(there.next().is_none(), "{shown}: expected an empty folder, found files in it");
    let interpreter = Interpreter::new(model);
    for chunk in source.instances.chunks(BATCH) {
        stop::check("writing inputs")?;
        for sample in source.samples(chunk)? {
            let input = interpreter.from_pixels(&sample.pixels)?;
            write_input(folder, &sample.annotation_id.to_string(), &input)?;
        }
    }
    say(&format!("{shown}: {} inputs; next, on the camera: camera.py inject {shown} ANSWERS", source.instances.len()));
    Ok(())
}

/// Samples loaded together.
const BATCH: usize = 32;
