//! A teacher's answers as arrays.

use std::path::PathBuf;

use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sensei_answers::error::CacheError;
use sensei_answers::features::FeatureRecord;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::RecordKind;
use sensei_answers::record::{MaskRecord, PromptAnswer as RecordedPrompt};
use sensei_answers::store::Store;
use sensei_answers::verify::stats;

use crate::exception::{check_exists, raised};
use crate::json;
use crate::threads::compute;

/// An open cache of a teacher's answers.
#[pyclass(frozen, module = "sensei")]
pub(crate) struct Cache {
    store: FolderStore,
    ids: Vec<u64>,
}

/// What the teacher answered about an object.
#[pyclass(frozen, get_all, module = "sensei")]
pub(crate) struct ObjectAnswer {
    /// The object.
    annotation_id: u64,
    /// Its image.
    image_id: u64,
    /// Width and height of the image in pixels.
    image_size: (u32, u32),
    /// Logit of one unit of a prompt's `logits`.
    logit_step: f32,
    /// One answer for each prompt.
    prompts: Vec<Py<PromptAnswer>>,
}

/// What the teacher answered to one prompt.
#[pyclass(frozen, get_all, module = "sensei")]
pub(crate) struct PromptAnswer {
    /// The area that the logits cover, x0, y0, x1, y1 in image pixels; it may run past the image's border.
    rect_in_image: (f64, f64, f64, f64),
    /// The prompt's points in image pixels, `[n, 2]`.
    points: Py<PyArray2<f64>>,
    /// What each point says: 0 background, 1 foreground, 2 upper left and 3 lower right corner of a box.
    labels: Py<PyArray1<i64>>,
    /// `[masks, grid, grid]`: logit divided by `logit_step`; -128 outside of the image.
    logits: Py<PyArray3<i8>>,
    /// The teacher's guess of each mask's IoU with the truth.
    predicted_ious: Py<PyArray1<f32>>,
    /// Each mask's stability; NaN where it was not measured.
    stabilities: Py<PyArray1<f32>>,
}

/// The teacher's features of an image.
#[pyclass(frozen, get_all, module = "sensei")]
pub(crate) struct ImageAnswer {
    /// The image.
    image_id: u64,
    /// Its width and height in pixels.
    image_size: (u32, u32),
    /// Columns and rows of cells whose centre lies in the image; the others show padding.
    used_cells: (u32, u32),
    /// `[channels, grid, grid]`.
    features: Py<PyArray3<f32>>,
}

/// The answers of a cache, one after the other.
#[pyclass(module = "sensei")]
pub(crate) struct CacheAnswers {
    cache: Py<Cache>,
    next: usize,
}

/// Opens the cache in a folder.
#[pyfunction]
pub(crate) fn read_cache(py: Python<'_>, folder: PathBuf) -> PyResult<Cache> {
    check_exists(&folder, "the folder of a teacher cache")?;
    let opened = py.detach(|| {
        let store = FolderStore::open_any(&folder)?;
        let ids = store.ids();
        Ok(Cache { store, ids })
    });
    opened.map_err(|error: CacheError| raised(&error))
}

#[pymethods]
impl Cache {
    /// The teacher's name.
    #[getter]
    fn teacher(&self) -> &str {
        &self.store.manifest().teacher.name
    }

    /// Licence of the teacher's weights.
    #[getter]
    fn licence(&self) -> &str {
        &self.store.manifest().teacher.licence
    }

    /// What a record holds: "mask logits" or "image features".
    #[getter]
    fn kind(&self) -> String {
        self.kept().to_string()
    }

    /// Everything that decides the numbers: teacher, preprocessing, question, kept, dataset.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::to_python(py, &self.store.manifest().key)
    }

    /// Ids of the records, rising: of annotations or, where features are kept, of images.
    #[getter]
    fn ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_slice(py, &self.ids)
    }

    /// Reads everything and counts it.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = compute(py, || stats(&self.store))?.map_err(|error| raised(&error))?;
        let counts = PyDict::new(py);
        counts.set_item("n_records", stats.n_records)?;
        counts.set_item("n_images", stats.n_images)?;
        counts.set_item("n_shards", stats.n_shards)?;
        counts.set_item("bytes", stats.bytes)?;
        counts.set_item("uncompressed_bytes", stats.uncompressed_bytes)?;
        counts.set_item("n_masks", stats.n_masks)?;
        counts.set_item("n_saturated", stats.n_saturated)?;
        counts.set_item("predicted_iou_histogram", stats.predicted_iou_histogram.to_vec())?;
        counts.set_item("n_clamped_predicted_ious", stats.n_clamped_predicted_ious)?;
        Ok(counts)
    }

    /// The answer about an object.
    fn masks(&self, py: Python<'_>, annotation_id: u64) -> PyResult<ObjectAnswer> {
        let record = py.detach(|| self.store.masks(annotation_id)).map_err(|error| raised(&error))?;
        object_answer(py, record)
    }

    /// The features of an image.
    fn features(&self, py: Python<'_>, image_id: u64) -> PyResult<ImageAnswer> {
        let read = py.detach(|| self.store.features(image_id).map(|record| (record.to_f32(), about(&record))));
        let (values, (image_size, used_cells, shape)) = read.map_err(|error| raised(&error))?;
        let features = PyArray1::from_vec(py, values).reshape(shape)?.unbind();
        Ok(ImageAnswer { image_id, image_size, used_cells, features })
    }

    fn __len__(&self) -> usize {
        self.ids.len()
    }

    fn __contains__(&self, id: u64) -> bool {
        self.store.contains(id)
    }

    fn __iter__(slf: Py<Self>) -> CacheAnswers {
        CacheAnswers { cache: slf, next: 0 }
    }

    fn __repr__(&self) -> String {
        let path = self.store.location().display();
        format!("Cache({path}: {} of {}, {} records)", self.kept(), self.teacher(), self.ids.len())
    }
}

impl Cache {
    fn kept(&self) -> RecordKind {
        self.store.manifest().key.kept.kind()
    }
}

#[pymethods]
impl CacheAnswers {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let cache = self.cache.get();
        let Some(&id) = cache.ids.get(self.next) else { return Ok(None) };
        self.next += 1;
        Ok(Some(match cache.kept() {
            RecordKind::MaskLogits => Py::new(py, cache.masks(py, id)?)?.into_any(),
            RecordKind::ImageFeatures => Py::new(py, cache.features(py, id)?)?.into_any(),
        }))
    }
}

/// Sizes of image and used cells, and the shape of the map.
fn about(record: &FeatureRecord<'_>) -> ((u32, u32), (u32, u32), [usize; 3]) {
    let (size, used, grid) = (record.image.size, record.used, record.grid as usize);
    ((size.width, size.height), (used.width, used.height), [record.channels as usize, grid, grid])
}

fn object_answer(py: Python<'_>, record: MaskRecord) -> PyResult<ObjectAnswer> {
    let grid = record.grid as usize;
    let prompts = record.prompts.into_iter().map(|prompt| Py::new(py, prompt_answer(py, prompt, grid)?));
    Ok(ObjectAnswer {
        annotation_id: record.annotation_id,
        image_id: record.image.id,
        image_size: (record.image.size.width, record.image.size.height),
        logit_step: record.logit_step,
        prompts: prompts.collect::<PyResult<_>>()?,
    })
}

fn prompt_answer(py: Python<'_>, prompt: RecordedPrompt, grid: usize) -> PyResult<PromptAnswer> {
    let (rect, masks) = (prompt.rect_in_image, &prompt.masks);
    let points = prompt.points.iter().flat_map(|point| [point.at.x, point.at.y]).collect();
    let logits: Vec<i8> = masks.iter().flat_map(|mask| mask.logits.iter().copied()).collect();
    let stability = |mask: &sensei_answers::record::MaskAnswer| mask.stability.unwrap_or(f32::NAN);
    Ok(PromptAnswer {
        rect_in_image: (rect.x0, rect.y0, rect.x1, rect.y1),
        points: PyArray1::from_vec(py, points).reshape([prompt.points.len(), 2])?.unbind(),
        labels: PyArray1::from_iter(py, prompt.points.iter().map(|point| point.label as i64)).unbind(),
        logits: PyArray1::from_vec(py, logits).reshape([masks.len(), grid, grid])?.unbind(),
        predicted_ious: PyArray1::from_iter(py, masks.iter().map(|mask| mask.predicted_iou)).unbind(),
        stabilities: PyArray1::from_iter(py, masks.iter().map(stability)).unbind(),
    })
}
