//! Inputs and outputs of a network as the chip delivers them, on disk, and the integer model held to them.
//!
//! A recording is a folder of pairs: `NAME.input`, the input tensor's bytes (`pixel - 128` or `pixel`, planes of rows), and
//! `NAME.output`, the output tensor as little-endian 32-bit floats in the order in which the chip sends it: channels first, then rows,
//! columns last, so that an image lies there column by column.

use std::fs;
use std::path::{Path, PathBuf};

use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_int8::grid::ActivationGrid;
use sensei_int8::interpreter::{IntTensor, Interpreter};
use sensei_int8::model::{IntegerModel, ModelError};

/// A recording that cannot be read, or is of another network.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something else than a recording of this network.
    #[error("{path}: expected {expected}, found {found}")]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// An input that the model cannot run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How one recorded frame compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameComparison {
    /// Name of the pair.
    pub name: String,
    /// Output values.
    pub values: usize,
    /// Values whose integers differ.
    pub mismatches: usize,
    /// Largest difference, in steps of the output's grid.
    pub max_steps: u32,
    /// Pixels that are foreground in one and background in the other.
    pub mask_flips: usize,
    /// Channel, row and column of the first value that differs, with the model's integer and the recorded one.
    pub first: Option<([usize; 3], i16, i32)>,
}

/// Writes one pair.
///
/// # Errors
/// If a file cannot be written.
pub fn write_pair(folder: &Path, name: &str, input: &[i16], output: &IntTensor) -> Result<(), RecordingError> {
    write_input(folder, name, input)?;
    let values = output.dequantize();
    let sent = send_order(output.shape).flat_map(|at| values[at].to_le_bytes()).collect::<Vec<u8>>();
    Ok(write_whole(&folder.join(format!("{name}.output")), &sent)?)
}

/// Writes an input without an output, for a camera to answer.
///
/// # Errors
/// If the file cannot be written.
pub fn write_input(folder: &Path, name: &str, input: &[i16]) -> Result<(), RecordingError> {
    Ok(write_whole(&folder.join(format!("{name}.input")), &input_bytes(input))?)
}

/// The recorded output of one input, `[channels, height, width]` as `shape` says.
///
/// # Errors
/// If the pair is not there, the recorded input is not `input`, or the output has another length or a value that is not finite.
pub fn read_answer(folder: &Path, name: &str, input: &[i16], shape: [usize; 3]) -> Result<Vec<f32>, RecordingError> {
    let path = folder.join(format!("{name}.input"));
    let expected = input_bytes(input);
    let found = read_exactly(&path, expected.len())?;
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        let (expected, found) = (format!("this sample's input, {} at byte {at}", expected[at]), found[at].to_string());
        return Err(RecordingError::Content { path, expected, found });
    }
    let path = folder.join(format!("{name}.output"));
    let mut values = vec![0.0; shape.iter().product()];
    let sent = read_exactly(&path, 4 * values.len())?;
    for (position, (at, bytes)) in send_order(shape).zip(sent.as_chunks::<4>().0).enumerate() {
        values[at] = f32::from_le_bytes(*bytes);
        if !values[at].is_finite() {
            let (expected, found) = ("finite numbers".into(), format!("{} at {position}", values[at]));
            return Err(RecordingError::Content { path, expected, found });
        }
    }
    Ok(values)
}

/// The chip's bytes: two's complement for signed inputs.
fn input_bytes(input: &[i16]) -> Vec<u8> {
    input.iter().map(|&q| q.to_le_bytes()[0]).collect()
}

/// Runs the model on every recorded input and compares with the recorded output.
///
/// # Errors
/// If the folder has no pairs, a file is missing or of another length, or an output is not on the model's grid.
pub fn compare(model: &IntegerModel, folder: &Path) -> Result<Vec<FrameComparison>, RecordingError> {
    let interpreter = Interpreter::new(model);
    let names = names(folder)?;
    names.iter().map(|name| compare_pair(model, &interpreter, folder, name)).collect()
}

fn names(folder: &Path) -> Result<Vec<String>, RecordingError> {
    let mut names = vec![];
    for entry in fs::read_dir(folder).map_err(FileError::io(folder, "list"))? {
        let path = entry.map_err(FileError::io(folder, "list"))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if let (Some("input" | "output"), Some(name)) = (ending, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        let (expected, found) = ("pairs of NAME.input and NAME.output".into(), "none".into());
        return Err(RecordingError::Content { path: folder.to_path_buf(), expected, found });
    }
    Ok(names)
}

fn compare_pair(
    model: &IntegerModel,
    interpreter: &Interpreter,
    folder: &Path,
    name: &str,
) -> Result<FrameComparison, RecordingError> {
    let (input, output) = (model.input(), model.output());
    let n_inputs = input.shape.iter().product::<usize>();
    let n_outputs = output.shape.iter().product::<usize>();
    let signed = input.grid.signed();
    let bytes = read_exactly(&folder.join(format!("{name}.input")), n_inputs)?;
    let integers: Vec<i16> =
        bytes.iter().map(|&byte| if signed { i16::from(byte as i8) } else { i16::from(byte) }).collect();
    let path = folder.join(format!("{name}.output"));
    let sent = read_exactly(&path, 4 * n_outputs)?;
    let expected = interpreter.run(&integers)?;
    let mut frame = FrameComparison {
        name: name.into(),
        values: n_outputs,
        mismatches: 0,
        max_steps: 0,
        mask_flips: 0,
        first: None,
    };
    for (position, (at, bytes)) in send_order(output.shape).zip(sent.as_chunks::<4>().0).enumerate() {
        let value = f32::from_le_bytes(*bytes);
        let found = on_grid(value, output.grid).ok_or_else(|| RecordingError::Content {
            path: path.clone(),
            expected: format!("multiples of {}", output.grid.step()),
            found: format!("{value} at {position}"),
        })?;
        let integer = expected.values[at];
        let steps = i32::from(integer).abs_diff(found);
        frame.mismatches += usize::from(steps > 0);
        frame.max_steps = frame.max_steps.max(steps);
        frame.mask_flips += usize::from((integer > 0) != (found > 0));
        if steps > 0 && frame.first.is_none() {
            let [_, height, width] = output.shape;
            frame.first = Some(([at / (height * width), at / width % height, at % width], integer, found));
        }
    }
    Ok(frame)
}

/// The integer that a recorded float stands for, if it stands for one.
fn on_grid(value: f32, grid: ActivationGrid) -> Option<i32> {
    let steps = f64::from(value) / grid.step();
    let nearest = steps.round();
    // Host software computes (integer - shift) * scale in 32 bits: exact for a scale that is a power of two.
    ((steps - nearest).abs() < 1e-3 && nearest.abs() < 65536.0).then_some(nearest as i32)
}

fn read_exactly(path: &Path, len: usize) -> Result<Vec<u8>, RecordingError> {
    let bytes = read_bounded(path, len as u64 + 1)?;
    if bytes.len() != len {
        let found = if bytes.len() > len { "more".into() } else { bytes.len().to_string() };
        return Err(RecordingError::Content { path: path.to_path_buf(), expected: format!("{len} bytes"), found });
    }
    Ok(bytes)
}

/// Positions in `[channels, height, width]` in the order in which the chip sends them.
fn send_order([channels, height, width]: [usize; 3]) -> impl Iterator<Item = usize> {
    let pixels = (0..width).flat_map(move |column| (0..height).map(move |row| row * width + column));
    pixels.flat_map(move |pixel| (0..channels).map(move |channel| channel * height * width + pixel))
}
