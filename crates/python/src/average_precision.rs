//! `COCOeval`: average precision by the calls that pycocotools' users know.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use numpy::PyArray1;
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError};
use pyo3::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_eval::average_precision::{ApReport, IouKind, Rules, average_precision};

use crate::annotations::Annotations;
use crate::exception::{raised, refused};
use crate::results::Results;
use crate::threads::compute;
use crate::{json, subset, summary};

/// What is evaluated. `imgIds` and `catIds` may be changed; the others say what the rules are.
#[pyclass(module = "sensei")]
pub(crate) struct Params {
    /// Ids of the images.
    #[pyo3(get, set, name = "imgIds")]
    image_ids: Vec<u64>,
    /// Ids of the categories.
    #[pyo3(get, set, name = "catIds")]
    category_ids: Vec<u64>,
    /// Of IoU.
    #[pyo3(get, set, name = "iouThrs")]
    iou_thresholds: Vec<f64>,
    /// Of recall.
    #[pyo3(get, set, name = "recThrs")]
    recall_thresholds: Vec<f64>,
    /// Detections of a category in an image; of LVIS, detections of an image.
    #[pyo3(get, set, name = "maxDets")]
    limits: Vec<usize>,
    /// From and to, in square pixels.
    #[pyo3(get, set, name = "areaRng")]
    areas: Vec<Vec<f64>>,
    /// Names of the areas.
    #[pyo3(get, set, name = "areaRngLbl")]
    area_names: Vec<String>,
    /// Whether a detection of another category is wrong.
    #[pyo3(get, set, name = "useCats")]
    uses_categories: i64,
}

/// Annotations, results, and what came of them.
#[pyclass(frozen, name = "COCOeval", module = "sensei")]
pub(crate) struct Evaluation {
    truth: Py<Annotations>,
    results: Py<Results>,
    iou: IouKind,
    #[pyo3(get)]
    params: Py<Params>,
    state: Mutex<State>,
}

/// How far it is.
enum State {
    New,
    Evaluated(Box<ApReport>),
    Accumulated(Box<ApReport>),
    Summarized(Box<ApReport>),
}

#[pymethods]
impl Evaluation {
    /// `iouType` is "segm", "bbox" or "boundary" (the smaller of mask and boundary IoU).
    #[new]
    #[pyo3(signature = (cocoGt, cocoDt, iouType = "segm"))]
    #[expect(non_snake_case, reason = "pycocotools' names of the arguments")]
    fn new(py: Python<'_>, cocoGt: Py<Annotations>, cocoDt: Py<Results>, iouType: &str) -> PyResult<Self> {
        let iou = match iouType {
            "segm" => IouKind::Segm,
            "bbox" => IouKind::Bbox,
            "boundary" => IouKind::Boundary,
            other => return Err(refused("iouType", "\"segm\", \"bbox\" or \"boundary\"", format!("{other:?}"))),
        };
        let (truth, results) = (cocoGt.get(), cocoDt.get());
        if !std::sync::Arc::ptr_eq(&truth.dataset, &results.truth) {
            let found = "those of another annotation file";
            return Err(refused("cocoDt", "results that this cocoGt's loadRes has read", found));
        }
        let params = Py::new(py, Params::of(&truth.dataset, truth.rules))?;
        Ok(Self { truth: cocoGt, results: cocoDt, iou, params, state: Mutex::new(State::New) })
    }

    /// Compares every image and computes all numbers.
    fn evaluate(&self, py: Python<'_>) -> PyResult<()> {
        let (truth, results) = (self.truth.get(), self.results.get());
        let (images, categories) = self.params.borrow(py).checked(&truth.dataset, truth.rules)?;
        let (dataset, detections, rules, iou) = (&*truth.dataset, &results.detections, truth.rules, self.iou);
        let report = compute(py, || {
            if images.len() == dataset.images.len() && categories.len() == dataset.categories.len() {
                return average_precision(dataset, detections, rules, iou);
            }
            let (dataset, detections) = subset::of(dataset, detections, &images, &categories);
            average_precision(&dataset, &detections, rules, iou)
        })?;
        *self.state() = State::Evaluated(Box::new(report.map_err(|error| raised(&error))?));
        Ok(())
    }

    /// Kept for its place between the others: the numbers are `evaluate`'s.
    fn accumulate(&self) -> PyResult<()> {
        let report = match &*self.state() {
            State::New => return Err(PyRuntimeError::new_err("accumulate: expected evaluate() before it, found none")),
            State::Evaluated(report) | State::Accumulated(report) | State::Summarized(report) => report.clone(),
        };
        *self.state() = State::Accumulated(report);
        Ok(())
    }

    /// Prints the numbers in pycocotools' lines (lvis-api's for LVIS) and sets `stats`.
    fn summarize(&self, py: Python<'_>) -> PyResult<()> {
        let report = match &*self.state() {
            State::New | State::Evaluated(_) => {
                return Err(PyRuntimeError::new_err("summarize: expected accumulate() before it, found none"));
            }
            State::Accumulated(report) | State::Summarized(report) => report.clone(),
        };
        py.import("builtins")?.call_method1("print", (summary::lines(&report),))?;
        *self.state() = State::Summarized(report);
        Ok(())
    }

    /// The numbers of `summarize`, -1 where no truth defines one: 12, and 13 of LVIS.
    #[getter]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        match &*self.state() {
            State::Summarized(report) => Ok(PyArray1::from_vec(py, summary::stats(report))),
            _ => Err(PyRuntimeError::new_err("stats: expected summarize() before it, found none")),
        }
    }

    /// Every number by name, those of each category too, with what was left out: as `sensei eval-coco --out` writes it.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let report = match &*self.state() {
            State::New => return Err(PyRuntimeError::new_err("report: expected evaluate() before it, found none")),
            State::Evaluated(report) | State::Accumulated(report) | State::Summarized(report) => report.clone(),
        };
        json::to_python(py, &report)
    }
}

impl Evaluation {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Params {
    fn of(dataset: &Dataset, rules: Rules) -> Self {
        let rising = |ids: BTreeSet<u64>| ids.into_iter().collect();
        Self {
            image_ids: rising(dataset.images.iter().map(|image| image.id).collect()),
            category_ids: rising(dataset.categories.iter().map(|category| category.id).collect()),
            iou_thresholds: (0..10).map(|idx| f64::from(50 + 5 * idx) / 100.0).collect(),
            recall_thresholds: (0..=100).map(|percent| f64::from(percent) / 100.0).collect(),
            limits: match rules {
                Rules::Coco => vec![1, 10, 100],
                Rules::Lvis => vec![300],
            },
            areas: [[0.0, 1e10], [0.0, 1024.0], [1024.0, 9216.0], [9216.0, 1e10]].map(|area| area.to_vec()).to_vec(),
            area_names: ["all", "small", "medium", "large"].map(String::from).to_vec(),
            uses_categories: 1,
        }
    }

    /// Images and categories, if nothing else was changed.
    fn checked(&self, dataset: &Dataset, rules: Rules) -> PyResult<(BTreeSet<u64>, BTreeSet<u64>)> {
        let rule = Self::of(dataset, rules);
        let are_close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        let are_areas = self.areas.concat().len() == self.areas.len() * 2;
        for (name, is_rule) in [
            ("iouThrs", are_close(&self.iou_thresholds, &rule.iou_thresholds)),
            ("recThrs", are_close(&self.recall_thresholds, &rule.recall_thresholds)),
            ("maxDets", self.limits == rule.limits),
            ("areaRng", are_areas && are_close(&self.areas.concat(), &rule.areas.concat())),
            ("areaRngLbl", self.area_names == rule.area_names),
            ("useCats", self.uses_categories == rule.uses_categories),
        ] {
            if !is_rule {
                let why = "expected the rules' own, found others; imgIds and catIds alone may be changed";
                return Err(PyNotImplementedError::new_err(format!("params.{name}: {why}")));
            }
        }
        let chosen = |name: &str, ids: &[u64], all: &[u64]| {
            let ids: BTreeSet<u64> = ids.iter().copied().collect();
            match ids.iter().find(|id| all.binary_search(id).is_err()) {
                Some(id) => Err(refused(&format!("params.{name}"), "ids of the annotation file", id.to_string())),
                None if ids.is_empty() && !all.is_empty() => {
                    Err(refused(&format!("params.{name}"), "ids of the annotation file", "none"))
                }
                None => Ok(ids),
            }
        };
        let images = chosen("imgIds", &self.image_ids, &rule.image_ids)?;
        let categories = chosen("catIds", &self.category_ids, &rule.category_ids)?;
        // The 300 best detections of an image are those of all categories.
        if rules == Rules::Lvis && categories.len() < rule.category_ids.len() {
            let why = "expected all categories by LVIS's rules, found some; report has each category's numbers";
            return Err(PyNotImplementedError::new_err(format!("params.catIds: {why}")));
        }
        Ok((images, categories))
    }
}
