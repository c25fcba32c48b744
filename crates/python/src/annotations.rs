//! `COCO`: an annotation file, by the names that pycocotools' users know.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sensei_data::dataset::{Dataset, LoadOptions};
use sensei_eval::average_precision::Rules;

use crate::exception::{raised, refused};
use crate::results::{self, Results};
use crate::threads::compute;

/// An annotation file of COCO's or LVIS's form.
#[pyclass(frozen, name = "COCO", module = "sensei")]
pub(crate) struct Annotations {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) rules: Rules,
    /// Places in the file's lists, by id.
    images: HashMap<u64, usize>,
    instances: HashMap<u64, usize>,
}

/// One id or several, as pycocotools takes them.
#[derive(FromPyObject)]
enum Ids {
    One(u64),
    Several(Vec<u64>),
}

impl Ids {
    fn list(self) -> Vec<u64> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

#[pymethods]
impl Annotations {
    /// Reads and checks a file; `format` is "coco" or "lvis". With `masks=False` outlines are left unread: boxes alone can be compared.
    #[new]
    #[pyo3(signature = (annotation_file, *, format = "coco", masks = true))]
    fn new(py: Python<'_>, annotation_file: PathBuf, format: &str, masks: bool) -> PyResult<Self> {
        let rules = rules(format)?;
        let dataset = compute(py, || load(annotation_file, rules, masks))??;
        let images = dataset.images.iter().enumerate().map(|(idx, image)| (image.id, idx)).collect();
        let instances = dataset.instances.iter().enumerate().map(|(idx, instance)| (instance.id, idx)).collect();
        Ok(Self { dataset: Arc::new(dataset), rules, images, instances })
    }

    /// Reads results: a file, or a list of dictionaries. An annotation file's image and category ids are the ones they may have.
    #[pyo3(name = "loadRes")]
    fn load_results(&self, py: Python<'_>, results: &Bound<'_, PyAny>) -> PyResult<Results> {
        let detections = results::read(py, results, &self.dataset)?;
        Ok(Results { truth: Arc::clone(&self.dataset), detections })
    }

    /// Ids of the images, rising.
    #[pyo3(name = "getImgIds")]
    fn image_ids(&self) -> Vec<u64> {
        rising(self.dataset.images.iter().map(|image| image.id))
    }

    /// Ids of the categories, rising; of those with these names, if any are given.
    #[pyo3(name = "getCatIds", signature = (catNms = vec![]))]
    #[expect(non_snake_case, reason = "pycocotools' name of the argument")]
    fn category_ids(&self, catNms: Vec<String>) -> Vec<u64> {
        let is_asked = |name: &String| catNms.is_empty() || catNms.contains(name);
        rising(self.dataset.categories.iter().filter(|category| is_asked(&category.name)).map(|category| category.id))
    }

    /// Ids of the annotations in the file's order; of these images, categories and crowd flag, if any are given.
    #[pyo3(name = "getAnnIds", signature = (imgIds = Ids::Several(vec![]), catIds = Ids::Several(vec![]), iscrowd = None))]
    #[expect(non_snake_case, reason = "pycocotools' names of the arguments")]
    fn annotation_ids(&self, imgIds: Ids, catIds: Ids, iscrowd: Option<bool>) -> Vec<u64> {
        let (of_images, of_categories): (HashSet<u64>, HashSet<u64>) =
            (imgIds.list().into_iter().collect(), catIds.list().into_iter().collect());
        let instances = self.dataset.instances.iter().filter(|instance| {
            let image_id = self.dataset.images[instance.image_idx].id;
            (of_images.is_empty() || of_images.contains(&image_id))
                && (of_categories.is_empty() || of_categories.contains(&instance.category_id))
                && iscrowd.is_none_or(|is_crowd| instance.is_crowd == is_crowd)
        });
        instances.map(|instance| instance.id).collect()
    }

    /// What the file says of images: id, file_name, width, height.
    #[pyo3(name = "loadImgs")]
    fn images<'py>(&self, py: Python<'py>, ids: Ids) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let image = |id: &u64| {
            let found = &self.dataset.images[*self.images.get(id).ok_or_else(|| unknown("image", *id))?];
            let fields = PyDict::new(py);
            fields.set_item("id", found.id)?;
            fields.set_item("file_name", &found.file_name)?;
            fields.set_item("width", found.size.width)?;
            fields.set_item("height", found.size.height)?;
            Ok(fields)
        };
        ids.list().iter().map(image).collect()
    }

    /// What the file says of categories: id, name.
    #[pyo3(name = "loadCats")]
    fn categories<'py>(&self, py: Python<'py>, ids: Ids) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let category = |id: &u64| {
            let found = self.dataset.categories.iter().find(|category| category.id == *id);
            let found = found.ok_or_else(|| unknown("category", *id))?;
            let fields = PyDict::new(py);
            fields.set_item("id", found.id)?;
            fields.set_item("name", &found.name)?;
            Ok(fields)
        };
        ids.list().iter().map(category).collect()
    }

    /// What the file says of annotations: id, image_id, category_id, bbox, area, iscrowd. The outline is `annToMask`'s.
    #[pyo3(name = "loadAnns")]
    fn annotations<'py>(&self, py: Python<'py>, ids: Ids) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let annotation = |id: &u64| {
            let found = &self.dataset.instances[self.instance_idx(*id)?];
            let fields = PyDict::new(py);
            fields.set_item("id", found.id)?;
            fields.set_item("image_id", self.dataset.images[found.image_idx].id)?;
            fields.set_item("category_id", found.category_id)?;
            fields.set_item("bbox", found.bbox.to_vec())?;
            fields.set_item("area", found.area)?;
            fields.set_item("iscrowd", i32::from(found.is_crowd))?;
            Ok(fields)
        };
        ids.list().iter().map(annotation).collect()
    }

    /// The mask of an annotation of `loadAnns`, uint8[height, width] of 0 and 1.
    #[pyo3(name = "annToMask")]
    fn mask<'py>(&self, py: Python<'py>, ann: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyArray2<u8>>> {
        let id = ann.get_item("id")?.ok_or_else(|| PyKeyError::new_err("annotation: expected its id, found none"))?;
        let idx = self.instance_idx(id.extract()?)?;
        let mask = self.dataset.mask(idx).map_err(|error| raised(&error))?.to_mask();
        PyArray1::from_vec(py, mask.bits).reshape([mask.size.height as usize, mask.size.width as usize])
    }

    fn __repr__(&self) -> String {
        let Dataset { images, instances, .. } = &*self.dataset;
        let path = self.dataset.annotations_path.display();
        format!("COCO({path}: {} images, {} annotations)", images.len(), instances.len())
    }
}

impl Annotations {
    fn instance_idx(&self, id: u64) -> PyResult<usize> {
        self.instances.get(&id).copied().ok_or_else(|| unknown("annotation", id))
    }
}

/// Whose rules a format's name stands for.
///
/// # Errors
/// If there is no such format.
pub(crate) fn rules(format: &str) -> PyResult<Rules> {
    match format {
        "coco" => Ok(Rules::Coco),
        "lvis" => Ok(Rules::Lvis),
        other => Err(refused("format", "\"coco\" or \"lvis\"", format!("{other:?}"))),
    }
}

/// An annotation file that may be scored on.
///
/// # Errors
/// If it cannot be used, or its masks are a teacher's.
pub(crate) fn load(path: PathBuf, rules: Rules, needs_masks: bool) -> PyResult<Dataset> {
    let options = LoadOptions { needs_masks, ..LoadOptions::default() };
    // No image is opened: annotations say how large they are.
    let images = std::path::Path::new("");
    let dataset = match rules {
        Rules::Coco => Dataset::load_coco_with(&path, images, options),
        Rules::Lvis => Dataset::load_lvis_with(&path, images, options),
    };
    let dataset = dataset.map_err(|error| raised(&error))?;
    match dataset.parts.iter().find(|part| part.proposed_by.is_some()) {
        None => Ok(dataset),
        Some(part) => {
            let expected = "annotations to score on";
            let found = "masks that a teacher proposed (info.proposed_by)";
            Err(refused(&part.annotations_path.display().to_string(), expected, found))
        }
    }
}

fn rising(ids: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}

fn unknown(what: &str, id: u64) -> PyErr {
    PyKeyError::new_err(format!("{what} {id}: expected one of the file's, found none of this id"))
}
