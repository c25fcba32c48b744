//! Masks of another program, scored by a protocol.

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use sensei_data::detections::Detections;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::foreign::score_masks;
use sensei_eval::named_rules::{NamedRules, shipped_protocols};
use sensei_eval::protocol::{EvalProtocol, ProtocolRules};

use crate::annotations::{load, rules};
use crate::array_input::described;
use crate::exception::{raised, raised_at, refused};
use crate::threads::compute;
use crate::{json, results};

/// The shipped protocols by name: the words that `evaluate_masks` also takes.
#[pyfunction]
pub(crate) fn protocols(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let by_name = PyDict::new(py);
    for words in shipped_protocols() {
        by_name.set_item(&words.name, json::to_python(py, &words)?)?;
    }
    Ok(by_name)
}

/// Scores masks by a protocol, which is a shipped one's name, or its words as `protocols()` or a report's "protocol" has them.
#[pyfunction]
#[pyo3(signature = (annotations, predictions, protocol, *, name = "predictions", format = "coco"))]
pub(crate) fn evaluate_masks<'py>(
    py: Python<'py>,
    annotations: PathBuf,
    predictions: &Bound<'py, PyAny>,
    protocol: &Bound<'py, PyAny>,
    name: &str,
    format: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let (protocol, format) = (protocol_rules(protocol)?, rules(format)?);
    let dataset = compute(py, || load(annotations, format, true))??;
    let detections: Detections = results::read(py, predictions, &dataset)?;
    let scores = compute(py, || score_masks(&dataset, &detections, name, &protocol, BOOTSTRAP))?;
    let scores = scores.map_err(|error| raised(&error))?;
    let scored = PyDict::new(py);
    scored.set_item("report", json::to_python(py, &scores.report)?)?;
    scored.set_item("table", scores.report.table())?;
    scored.set_item("n_not_scored", scores.n_not_scored)?;
    scored.set_item("n_not_chosen", scores.n_not_chosen)?;
    Ok(scored)
}

fn protocol_rules(protocol: &Bound<'_, PyAny>) -> PyResult<ProtocolRules> {
    let words = if let Ok(name) = protocol.cast::<PyString>() {
        let name = name.to_str()?;
        let shipped = shipped_protocols();
        let names = || shipped.iter().map(|words| words.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = shipped.iter().find(|words| words.name == name);
        found.cloned().ok_or_else(|| refused("protocol", format!("one of {}", names()), format!("{name:?}")))?
    } else if let Ok(fields) = protocol.cast::<PyDict>() {
        let text = json::to_text(protocol)?;
        // What a report states says on which data set, too.
        if fields.contains("dataset")? {
            let stated: EvalProtocol = serde_json::from_str(&text).map_err(|error| raised_at("protocol", &error))?;
            NamedRules::of_protocol(&stated).map_err(|error| raised_at("protocol", &error))?
        } else {
            serde_json::from_str(&text).map_err(|error| raised_at("protocol", &error))?
        }
    } else {
        let expected = "a name or a dictionary";
        return Err(PyTypeError::new_err(format!("protocol: expected {expected}, found {}", described(protocol)?)));
    };
    words.rules().map_err(|error| raised_at("protocol", &error))
}

/// As `sensei eval-masks` has it, so that numbers can be compared.
const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 10_000 };
