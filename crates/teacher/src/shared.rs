//! A whole data set asked by many workers at once, into a store that they share.

use sensei_answers::key::TeacherDescription;
use sensei_answers::shared::fill::{FillReport, fill};
use sensei_answers::shared::plan::{StorePlan, unit_id};
use sensei_answers::shared::state::StoreState;
use sensei_answers::shared::store_of;
use sensei_answers::shared::unit::{UnitCounts, UnitWriter, UnusableImage};
use sensei_data::dataset::Dataset;
use sensei_store::place::Place;

use crate::asking::Asking;
use crate::build::{BuildPlan, TOOL};
use crate::error::TeacherError;
use crate::teacher::Teacher;

/// A worker among others, and what it fills.
#[derive(Debug, Clone, Copy)]
pub struct Worker<'a> {
    /// The place; the answers go to its folder of their key.
    pub place: &'a Place,
    /// Decides the order in which this worker takes up units, and nothing else.
    pub name: &'a str,
    /// Images of a unit: what a worker that is killed loses, and what a shard holds. The same for all workers.
    pub unit_images: usize,
}

/// What a worker did, and what the store holds afterwards, which is complete.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedReport {
    /// Address of the store, the folder of its key.
    pub store: String,
    /// What this worker did.
    pub fill: FillReport,
    /// Units of the store.
    pub n_units: usize,
    /// Records of the store.
    pub n_records: u64,
    /// What the workers counted, of the units that are in the store.
    pub counts: UnitCounts,
    /// Images without an object to ask about, which no worker has seen.
    pub n_without_objects: usize,
    /// Crowd regions, which the teacher is not asked about.
    pub n_crowd: usize,
    /// Images that could not be used, with unit and reason.
    pub unusable: Vec<String>,
}

/// Asks the teacher about what no other worker has asked it yet, until the store is complete. `progress` hears of each image that this
/// worker has looked at: how many, and of how many images the store is.
///
/// # Errors
/// If the question is not one for this teacher, an answer is not finite, the store was begun with other settings or cannot be written;
/// if more images are unusable than allowed, once all units are there, or none of a unit's can be used. What was stored before stays.
pub fn build_shared(
    dataset: &Dataset,
    teacher: &Teacher,
    description: TeacherDescription,
    plan: &BuildPlan,
    worker: &Worker<'_>,
    progress: &mut dyn FnMut(usize, usize),
    is_interrupted: &dyn Fn() -> bool,
) -> Result<SharedReport, TeacherError> {
    let asking = Asking::new(dataset, teacher, plan)?;
    let units: Vec<std::ops::Range<usize>> = (0..asking.images.len())
        .step_by(worker.unit_images.max(1))
        .map(|start| start..(start + worker.unit_images.max(1)).min(asking.images.len()))
        .collect();
    let key = asking.key(plan)?;
    let store_plan = StorePlan {
        teacher: description,
        tool: TOOL.into(),
        unit: format!("{} images", worker.unit_images),
        units: units
            .iter()
            .enumerate()
            .map(|(idx, unit)| unit_id(&key, idx, lines(dataset, &asking, unit.clone())))
            .collect(),
        key,
    };
    let mut n_seen = 0;
    let mut make = |unit_idx: usize, writer: &mut UnitWriter| -> Result<(), TeacherError> {
        for nth in units[unit_idx].clone() {
            match asking.image(nth, writer, is_interrupted)? {
                Ok(found) => {
                    writer.counts.n_images += 1;
                    writer.counts.n_zoomed += found.n_zoomed as u64;
                    writer.counts.n_cut += found.n_cut;
                }
                Err(error) => {
                    let image_id = dataset.images[asking.images[nth].0].id;
                    writer.unusable.push(UnusableImage { image_id, reason: in_words(&error) });
                }
            }
            n_seen += 1;
            progress(n_seen, asking.images.len());
        }
        check_some_are_usable(writer, plan.max_failed_images)
    };
    let fill = fill(worker.place, &store_plan, worker.name, &mut make)?;
    let store = store_of(worker.place, &store_plan.key);
    let state = StoreState::read(&store)?;
    state.check_complete(&store, plan.max_failed_images)?;
    Ok(SharedReport {
        store: store.address().into(),
        fill,
        n_units: units.len(),
        n_records: state.n_records(),
        counts: state.counts(),
        n_without_objects: asking.n_without_objects(),
        n_crowd: asking.n_crowd(),
        unusable: state.unusable(),
    })
}

/// What a unit asks: each image by id and file, and the objects in it.
fn lines(dataset: &Dataset, asking: &Asking<'_>, unit: std::ops::Range<usize>) -> Vec<String> {
    let line = |(image_idx, instances): &(usize, Vec<usize>)| {
        let image = &dataset.images[*image_idx];
        let ids: Vec<String> = instances.iter().map(|&idx| dataset.instances[idx].id.to_string()).collect();
        format!("{} {} {}", image.id, ids.join(","), image.file_name)
    };
    asking.images[unit].iter().map(line).collect()
}

/// Where no image of a unit of several can be used, it is the folder that is at fault, which this machine may not have: nothing is
/// stored then.
fn check_some_are_usable(writer: &UnitWriter, allowed: usize) -> Result<(), TeacherError> {
    let n_images = writer.unusable.len();
    if writer.counts.n_images > 0 || n_images <= allowed.max(1) {
        return Ok(());
    }
    let reasons = writer.unusable.iter().map(|image| image.reason.clone()).collect();
    Err(TeacherError::Failures { reasons, n_images, allowed })
}

/// An error with its causes, at a length that a store can keep for many images.
fn in_words(error: &TeacherError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words.chars().take(MAX_REASON_CHARS).collect()
}

const MAX_REASON_CHARS: usize = 500;
