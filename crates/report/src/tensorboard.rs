//! Event files that TensorBoard shows: what `events.jsonl` and the scores say, for those who look there.
//!
//! They are a copy. Nothing of Sensei reads them.

mod messages;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use sensei_eval::metric::Metric;
use sensei_eval::report::{EvalReport, PredictorReport};
use sensei_files::error::FileError;

use crate::error::ReportPageError;
use crate::run_folder::RunFolder;
use messages::{
    Dimension, Event, FLOAT, Image, Metadata, PluginData, PrCurve, SESSION_START, SessionLog, Shape, Summary, Tensor,
    Value,
};

/// An open event file. Each record is written in one call: a kill leaves all of it or, at the end of the file, a part that readers skip.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// Makes the next file of a folder, and the folder. Files of earlier starts stay; readers take them in the order of their names.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(folder: &Path, unix_time: f64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let n_files = fs::read_dir(folder)?.count();
        let name = format!("events.out.tfevents.{:010}.sensei.{n_files:04}", unix_time.max(0.0) as u64);
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join(name))?;
        let mut events = Self { file };
        let file_version = Some("brain.Event:2".to_string());
        events.write(Event { wall_time: unix_time, file_version, ..Event::default() })?;
        Ok(events)
    }

    /// Says that training starts with this step, or goes on with it: what earlier files say of it and of later ones no longer holds.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn start(&mut self, unix_time: f64, step: u64) -> io::Result<()> {
        let session_log = Some(SessionLog { status: SESSION_START });
        self.write(Event { wall_time: unix_time, step: step as i64, session_log, ..Event::default() })
    }

    /// Values of a step by their tags. Those that are not finite are written as they are, and TensorBoard marks them.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn scalars(&mut self, unix_time: f64, step: u64, values: &[(String, f64)]) -> io::Result<()> {
        let value = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            simple_value: Some(*value as f32),
            ..Value::default()
        };
        self.values(unix_time, step, values.iter().map(value).collect())
    }

    /// A PNG file of `width * height` pixels in three channels.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn picture(&mut self, unix_time: f64, tag: &str, png: Vec<u8>, [width, height]: [u32; 2]) -> io::Result<()> {
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string: png };
        self.values(unix_time, 0, vec![Value { tag: tag.into(), image: Some(image), ..Value::default() }])
    }

    /// Precision and recall over the IoU from which a mask counts as found, from 0 to 1 in steps of a hundredth.
    ///
    /// `n_found[i]` of `n` masks have an IoU of at least `i / 100`. Every object has one mask, so a mask that misses its object is a
    /// false positive and its object a false negative: precision is recall.
    fn precision_and_recall(&mut self, unix_time: f64, tag: &str, n_found: &[u64], n: u64) -> io::Result<()> {
        let found = n_found.iter().map(|&found| found as f32);
        let missed = n_found.iter().map(|&found| (n - found) as f32);
        let share = n_found.iter().map(|&found| found as f32 / n as f32);
        let true_negatives = std::iter::repeat_n(0.0, n_found.len());
        let float_val =
            found.chain(missed.clone()).chain(true_negatives).chain(missed).chain(share.clone()).chain(share).collect();
        let dim = [6, n_found.len()].map(|size| Dimension { size: size as i64 }).into();
        let tensor = Tensor { dtype: FLOAT, tensor_shape: Some(Shape { dim }), float_val };
        let content = PrCurve { version: 0, num_thresholds: n_found.len() as u32 }.encode_to_vec();
        let plugin_data = PluginData { plugin_name: "pr_curves".into(), content };
        let metadata = Some(Metadata { plugin_data: Some(plugin_data) });
        self.values(unix_time, 0, vec![Value { tag: tag.into(), tensor: Some(tensor), metadata, ..Value::default() }])
    }

    fn values(&mut self, wall_time: f64, step: u64, value: Vec<Value>) -> io::Result<()> {
        let summary = Some(Summary { value });
        self.write(Event { wall_time, step: step as i64, summary, ..Event::default() })
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        self.file.write_all(&record::framed(&event.encode_to_vec()))
    }
}

/// Writes a run's scores anew: a folder a row, so that TensorBoard overlays them, and the sheet of pictures.
///
/// # Errors
/// If the scores cannot be read, a row's name is no name of a folder, or a file cannot be written.
pub fn write_scores(folder: &RunFolder, unix_time: f64) -> Result<(), ReportPageError> {
    let place = folder.tensorboard().join("scores");
    if place.exists() {
        fs::remove_dir_all(&place).map_err(FileError::io(&place, "remove"))?;
    }
    let report = EvalReport::read(&folder.scores())?;
    for predictor in &report.predictors {
        let row = place.join(folder_name(&folder.scores(), predictor)?);
        write_row(&row, predictor, unix_time).map_err(FileError::io(&row, "write"))?;
    }
    let sheet = folder.overlays();
    if sheet.exists() {
        let png = fs::read(&sheet).map_err(FileError::io(&sheet, "read"))?;
        let size = png_size(&png).ok_or_else(|| value(&sheet, "head", "that of a PNG file", "something else"))?;
        let pictures =
            || EventFile::create(&place.join("pictures"), unix_time)?.picture(unix_time, "overlays", png, size);
        pictures().map_err(FileError::io(&place, "write"))?;
    }
    Ok(())
}

fn write_row(place: &Path, predictor: &PredictorReport, unix_time: f64) -> io::Result<()> {
    let instances = &predictor.scores.instances;
    let mut file = EventFile::create(place, unix_time)?;
    // Of no instances there is no mean and no share.
    let Some(mean) = Metric::MeanIouInImage.of(instances) else { return Ok(()) };
    file.scalars(unix_time, 0, &[(MEAN_IOU.into(), mean)])?;
    let n = instances.len() as u64;
    let found = |percent| instances.iter().filter(|instance| instance.in_image.reaches(percent, 100)).count() as u64;
    let n_found: Vec<u64> = (0..=100).map(found).collect();
    for (percent, &found) in n_found.iter().enumerate() {
        file.scalars(unix_time, percent as u64, &[(SHARE_BY_IOU.into(), found as f64 / n as f64)])?;
    }
    file.precision_and_recall(unix_time, FOUND_BY_IOU, &n_found, n)
}

/// The row's name, if it can be a folder's.
fn folder_name<'a>(report: &Path, predictor: &'a PredictorReport) -> Result<&'a str, ReportPageError> {
    let name = predictor.scores.predictor.as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    let can_be = !name.is_empty() && name.chars().all(is_plain) && !name.starts_with('.');
    can_be.then_some(name).ok_or_else(|| value(report, "row", "letters, digits, -, _, + and .", name))
}

/// Width and height that a PNG file begins with.
fn png_size(png: &[u8]) -> Option<[u32; 2]> {
    let number = |at: usize| png.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    png.starts_with(b"\x89PNG\r\n\x1a\n").then(|| Some([number(16)?, number(20)?]))?
}

fn value(path: &Path, what: &str, expected: &str, found: &str) -> ReportPageError {
    let path: PathBuf = path.into();
    ReportPageError::Value { path, what: what.into(), expected: expected.into(), found: found.into() }
}

/// Mean IoU in the image, as in the report.
const MEAN_IOU: &str = "scores/mean_iou_in_image";

/// The share of masks whose IoU in the image is at least a hundredth of the step.
const SHARE_BY_IOU: &str = "scores/share_of_masks_by_least_iou_percent";

/// The same as a curve of precision and recall.
const FOUND_BY_IOU: &str = "scores/found_by_least_iou";
