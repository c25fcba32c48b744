//! What a run keeps of its data: with it, it is quantized again and exported where the data are not.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;
use sensei_report::run_folder::RunFolder;
use sensei_samples::source::SampleSource;
use sensei_train::tensors::random_instances;

use crate::config::RunPlan;
use crate::progress::say;
use crate::run_folder;
use crate::stop;

/// A crop as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCrop {
    /// The annotation whose crop it is.
    pub annotation_id: u64,
    /// Its RGB pixels, `[side, side, 3]`.
    pub pixels: Vec<u8>,
}

/// Digests of the data that a student is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDigests {
    /// Annotation file of the training split.
    pub train: String,
    /// Annotation file of the validation split.
    pub val: String,
    /// Key of the teacher's answers about the training split.
    pub teacher: Option<String>,
}

/// What quantization and export read of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSamples {
    /// Training crops without augmentation, that thresholds are chosen on.
    pub calibration: Vec<KeptCrop>,
    /// Validation crops, spread evenly over the split, that a package shows the network on.
    pub examples: Vec<KeptCrop>,
    /// Which data they are of.
    pub data: DataDigests,
}

impl KeptSamples {
    /// The crops of these splits.
    ///
    /// # Errors
    /// If a sample cannot be had, the run is not for the chip, or the program was asked to stop.
    pub fn of(plan: &RunPlan, train: &SampleSource, val: &SampleSource) -> anyhow::Result<Self> {
        let data = |source: &SampleSource| blake3::Hash::from_bytes(source.dataset.digest).to_hex().to_string();
        let teacher = train.teacher.as_ref().map(|store| store.manifest().key.digest());
        Ok(Self {
            calibration: calibration_crops(plan, train)?,
            examples: example_crops(val)?,
            data: DataDigests {
                train: data(train),
                val: data(val),
                teacher: teacher.map(|digest| blake3::Hash::from_bytes(digest).to_hex().to_string()),
            },
        })
    }

    /// Writes them into the run's folder, and lists the file.
    ///
    /// # Errors
    /// If it, or the list, cannot be written.
    pub fn write(&self, folder: &RunFolder, side: usize) -> anyhow::Result<()> {
        let file = folder.samples();
        run_folder::forget(folder, std::slice::from_ref(&file))?;
        write_whole(&file, &self.to_bytes(side)?)?;
        run_folder::record(folder, &[file])
    }

    /// Reads them from a file, whatever the size of its crops.
    ///
    /// # Errors
    /// If it is not what a run wrote.
    pub fn read_file(file: &Path) -> anyhow::Result<Self> {
        let bytes = read_bounded(file, MAX_BYTES)?;
        let read = || {
            let tensors = SafeTensors::deserialize(&bytes)?;
            let pixels =
                tensors.tensor("calibration.pixels").context("calibration.pixels: expected a tensor, found none")?;
            let side = pixels.shape().get(1).copied().context("calibration.pixels: expected crops, found none")?;
            Self::from_bytes(&bytes, side)
        };
        read().with_context(|| file.display().to_string())
    }

    /// Reads them from the run's folder.
    ///
    /// # Errors
    /// If the file is not what the run wrote, or its crops are not of the student's size.
    pub fn read(folder: &RunFolder, side: usize) -> anyhow::Result<Self> {
        let file = folder.samples();
        run_folder::check(folder, &file)?;
        let bytes = read_bounded(&file, MAX_BYTES)?;
        Self::from_bytes(&bytes, side).with_context(|| file.display().to_string())
    }

    fn to_bytes(&self, side: usize) -> anyhow::Result<Vec<u8>> {
        let parts = [("calibration", &self.calibration), ("examples", &self.examples)];
        let mut bytes = vec![];
        for (name, crops) in parts {
            let ids: Vec<u8> = crops.iter().flat_map(|crop| crop.annotation_id.to_le_bytes()).collect();
            bytes.push((format!("{name}.annotation_ids"), Dtype::U64, vec![crops.len()], ids));
            let pixels = crops.iter().flat_map(|crop| crop.pixels.iter().copied()).collect();
            bytes.push((format!("{name}.pixels"), Dtype::U8, vec![crops.len(), side, side, 3], pixels));
        }
        let tensors = bytes
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)));
        let tensors = tensors.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let mut metadata = HashMap::from([
            ("train_data".to_string(), self.data.train.clone()),
            ("val_data".to_string(), self.data.val.clone()),
        ]);
        metadata.extend(self.data.teacher.clone().map(|key| ("teacher_key".to_string(), key)));
        Ok(safetensors::serialize(tensors, Some(metadata))?)
    }

    fn from_bytes(bytes: &[u8], side: usize) -> anyhow::Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let tensors = SafeTensors::deserialize(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let digest = |key: &str| metadata.get(key).cloned();
        Ok(Self {
            calibration: crops(&tensors, "calibration", side)?,
            examples: crops(&tensors, "examples", side)?,
            data: DataDigests {
                train: digest("train_data").context("metadata: expected train_data, found none")?,
                val: digest("val_data").context("metadata: expected val_data, found none")?,
                teacher: digest("teacher_key"),
            },
        })
    }
}

/// The run's own crops of these splits, from its folder or, of a run that has none there, from the data.
///
/// # Errors
/// As [`KeptSamples::read`], or as the splits'.
pub fn kept_or_made(
    plan: &RunPlan,
    folder: &RunFolder,
    splits: impl FnOnce() -> anyhow::Result<(SampleSource, SampleSource)>,
) -> anyhow::Result<KeptSamples> {
    let file = folder.samples();
    run_folder::check(folder, &file)?;
    if file.exists() {
        return KeptSamples::read(folder, plan.graph.input_size());
    }
    say(&format!("{}: none in this run; crops are taken from its data", file.display()));
    let (train, val) = splits()?;
    KeptSamples::of(plan, &train, &val)
}

/// Training crops that thresholds are chosen on, drawn by the run's seed.
///
/// # Errors
/// If a sample cannot be had, the run is not for the chip, or the program was asked to stop.
pub fn calibration_crops(plan: &RunPlan, train: &SampleSource) -> anyhow::Result<Vec<KeptCrop>> {
    let n_instances = plan.deployment()?.quantize.calibration_instances;
    kept_crops(train, &random_instances(train, n_instances, plan.train.seed))
}

fn example_crops(val: &SampleSource) -> anyhow::Result<Vec<KeptCrop>> {
    let n_examples = EXAMPLES.min(val.instances.len());
    let chosen = (0..n_examples).map(|at| val.instances[at * val.instances.len() / n_examples]);
    kept_crops(val, &chosen.collect::<Vec<_>>())
}

fn kept_crops(source: &SampleSource, instances: &[usize]) -> anyhow::Result<Vec<KeptCrop>> {
    let mut crops = Vec::with_capacity(instances.len());
    for chunk in instances.chunks(BATCH) {
        stop::check("keeping samples")?;
        let samples = source.samples(chunk)?;
        crops.extend(
            samples.into_iter().map(|sample| KeptCrop { annotation_id: sample.annotation_id, pixels: sample.pixels }),
        );
    }
    Ok(crops)
}

fn crops(tensors: &SafeTensors<'_>, name: &str, side: usize) -> anyhow::Result<Vec<KeptCrop>> {
    let tensor = |part: &str, dtype: Dtype| {
        let name = format!("{name}.{part}");
        let tensor = tensors.tensor(&name).with_context(|| format!("{name}: expected a tensor, found none"))?;
        ensure!(tensor.dtype() == dtype, "{name}: expected {dtype}, found {}", tensor.dtype());
        anyhow::Ok(tensor)
    };
    let (ids, pixels) = (tensor("annotation_ids", Dtype::U64)?, tensor("pixels", Dtype::U8)?);
    let (ids, _) = ids.data().as_chunks::<8>();
    let expected = [ids.len(), side, side, 3];
    ensure!(pixels.shape() == expected, "{name}.pixels: expected {expected:?}, found {:?}", pixels.shape());
    ensure!(!ids.is_empty(), "{name}: expected crops, found none");
    let crops = ids.iter().zip(pixels.data().chunks_exact(side * side * 3));
    let crop =
        |(id, pixels): (&[u8; 8], &[u8])| KeptCrop { annotation_id: u64::from_le_bytes(*id), pixels: pixels.to_vec() };
    Ok(crops.map(crop).collect())
}

/// Examples in a package.
const EXAMPLES: usize = 4;

/// Samples loaded together.
const BATCH: usize = 32;

/// More than 10,000 crops of 192 x 192.
const MAX_BYTES: u64 = 2 << 30;
