//! The events of a training as arrays.

use std::path::PathBuf;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sensei_report::events::{Step, Training};

use crate::exception::{raised, refused};

/// What an `events.jsonl` tells.
#[pyclass(frozen, module = "sensei")]
pub(crate) struct Events {
    training: Training,
}

/// Reads the `events.jsonl` of a run, also while the run goes on.
#[pyfunction]
pub(crate) fn read_events(py: Python<'_>, path: PathBuf) -> PyResult<Events> {
    let training = py.detach(|| Training::read(&path)).map_err(|error| raised(&error))?;
    if training.last_time.is_none() && training.starts.is_empty() && training.n_broken > 0 {
        let found = format!("none in {} lines", training.n_broken);
        return Err(refused(&path.display().to_string(), "events of a training", found));
    }
    Ok(Events { training })
}

#[pymethods]
impl Events {
    /// Starts and resumes: step, total_steps, n_samples, devices, threads.
    #[getter]
    fn starts<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let start = |start: &sensei_report::events::Start| {
            let fields = PyDict::new(py);
            fields.set_item("step", start.step)?;
            fields.set_item("total_steps", start.total_steps)?;
            fields.set_item("n_samples", start.n_samples)?;
            fields.set_item("devices", &start.devices)?;
            fields.set_item("threads", start.threads)?;
            Ok(fields)
        };
        self.training.starts.iter().map(start).collect()
    }

    /// The logged steps, an array for each of step, loss, learning_rate and gradient_norm; NaN where a value was not finite.
    #[getter]
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let steps = &self.training.steps;
        let floats = |value: fn(&Step) -> f64| PyArray1::from_iter(py, steps.iter().map(value));
        let arrays = PyDict::new(py);
        arrays.set_item("step", PyArray1::from_iter(py, steps.iter().map(|step| step.step)))?;
        arrays.set_item("loss", floats(|step| step.loss.unwrap_or(f64::NAN)))?;
        arrays.set_item("learning_rate", floats(|step| step.learning_rate))?;
        arrays.set_item("gradient_norm", floats(|step| step.gradient_norm.unwrap_or(f64::NAN)))?;
        Ok(arrays)
    }

    /// Unweighted terms of the loss at the logged steps, an array for each; NaN where a step has none.
    #[getter]
    fn terms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let arrays = PyDict::new(py);
        for (idx, name) in self.training.terms.iter().enumerate() {
            let value =
                |step: &Step| step.terms.iter().find(|(term, _)| *term == idx).map_or(f64::NAN, |(_, value)| *value);
            arrays.set_item(name, PyArray1::from_iter(py, self.training.steps.iter().map(value)))?;
        }
        Ok(arrays)
    }

    /// Scores between epochs, an array for each of step, mean_iou_in_crop and n_instances.
    #[getter]
    fn validations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let validations = &self.training.validations;
        let arrays = PyDict::new(py);
        arrays.set_item("step", PyArray1::from_iter(py, validations.iter().map(|of| of.step)))?;
        arrays
            .set_item("mean_iou_in_crop", PyArray1::from_iter(py, validations.iter().map(|of| of.mean_iou_in_crop)))?;
        arrays.set_item("n_instances", PyArray1::from_iter(py, validations.iter().map(|of| of.n_instances)))?;
        Ok(arrays)
    }

    /// Stages, each with its first logged step.
    #[getter]
    fn stages(&self) -> Vec<(u64, String)> {
        self.training.stages.clone()
    }

    /// Whether the training was asked to stop; None while it goes on, or if it was killed.
    #[getter]
    fn stopped(&self) -> Option<bool> {
        self.training.stopped
    }

    /// Step of the last event.
    #[getter]
    fn last_step(&self) -> u64 {
        self.training.last_step
    }

    /// Steps of the whole plan; None if it never began.
    #[getter]
    fn total_steps(&self) -> Option<u64> {
        self.training.total_steps()
    }

    /// Seconds of computation.
    #[getter]
    fn seconds(&self) -> f64 {
        self.training.seconds
    }

    /// Lines that are no events: a power cut can leave half a line.
    #[getter]
    fn n_broken_lines(&self) -> usize {
        self.training.n_broken
    }

    fn __repr__(&self) -> String {
        let of = self.total_steps().map_or(String::from("?"), |total| total.to_string());
        format!("Events(step {} of {of}, {} logged)", self.training.last_step, self.training.steps.len())
    }
}
