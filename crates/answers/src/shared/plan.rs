//! What is to be done: written first, by whoever comes first, and the same for all workers.

use std::path::Path;

use sensei_files::digest::{blake3_hex, hex};
use serde::{Deserialize, Serialize};

use super::checked_json::{self, Format};
use crate::error::CacheError;
use crate::key::{AnswerKey, TeacherDescription};

/// The plan of a store: a pure function of the key, the list of images and the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePlan {
    /// Everything that decides the numbers.
    pub key: AnswerKey,
    /// Who answers.
    pub teacher: TeacherDescription,
    /// Program and version that fill the store: another version could answer otherwise.
    pub tool: String,
    /// What a unit is made of, in words: `64 images`.
    pub unit: String,
    /// Ids of all units, in their order.
    pub units: Vec<String>,
}

impl StorePlan {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        checked_json::to_bytes(PLAN_FORMAT, self)
    }

    /// Reads the plan that is the object `path`.
    ///
    /// # Errors
    /// `Damaged`.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CacheError> {
        let plan: Self = checked_json::parse(PLAN_FORMAT, path, bytes)?;
        let damaged = |what: &str, expected: &str, found: String| {
            Err(CacheError::Damaged { path: path.into(), what: what.into(), expected: expected.into(), found })
        };
        if let Err(fault) = plan.key.check() {
            return damaged(fault.part, &fault.expected, fault.found);
        }
        // Objects are named after them.
        match plan.units.iter().find(|id| !is_digest(id)) {
            Some(id) => damaged("unit", "64 hexadecimal digits", id.clone()),
            None => Ok(plan),
        }
    }

    pub(crate) fn is_whole(bytes: &[u8]) -> bool {
        checked_json::is_whole::<Self>(PLAN_FORMAT, bytes)
    }

    /// Refuses a worker whose plan, `self`, is not the store's, `found`.
    ///
    /// # Errors
    /// `OtherPlan`, with the first difference; `KeyMismatch`.
    pub(crate) fn check_same(&self, place: &Path, store: &Self) -> Result<(), CacheError> {
        let differences = store.key.differences(&self.key);
        if !differences.is_empty() {
            return Err(CacheError::KeyMismatch { path: place.into(), differences });
        }
        let teacher = |plan: &Self| format!("{} ({})", plan.teacher.name, plan.teacher.licence);
        let units = |plan: &Self| {
            let digest = blake3_hex(plan.units.join(" ").as_bytes());
            format!("{} units of digest {}", plan.units.len(), &digest[..16])
        };
        for (what, expected, found) in [
            ("program", store.tool.clone(), self.tool.clone()),
            ("teacher", teacher(store), teacher(self)),
            ("size of a unit", store.unit.clone(), self.unit.clone()),
            ("objects and images", units(store), units(self)),
        ] {
            if expected != found {
                return Err(CacheError::OtherPlan { place: place.into(), what, expected, found });
            }
        }
        Ok(())
    }
}

/// The id of a unit: BLAKE3 of the key, the unit's number, and what is to be asked, as lines that the caller makes. Image files do
/// not count, since to hash them all would be to read them all before the first is asked about: the key has the digest of the
/// annotation file, which names them, and each record has its image's own.
pub fn unit_id(key: &AnswerKey, unit_idx: usize, asked: impl IntoIterator<Item = String>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(UNIT_DOMAIN).update(&key.digest()).update(&(unit_idx as u64).to_le_bytes());
    for line in asked {
        hasher.update(&(line.len() as u64).to_le_bytes()).update(line.as_bytes());
    }
    hex(hasher.finalize().as_bytes())
}

/// The order in which a worker takes up units: each worker has its own, so that few meet.
pub(crate) fn order_of(worker: &str, units: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    let rank = |idx: &usize| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(worker.as_bytes()).update(b"\0").update(units[*idx].as_bytes());
        *hasher.finalize().as_bytes()
    };
    order.sort_by_cached_key(rank);
    order
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

const UNIT_DOMAIN: &[u8] = b"sensei unit 1\0";
const PLAN_FORMAT: Format = Format { name: "sensei-shared-store", version: 1 };
/// A unit takes 67 bytes: room for a million of them.
pub(crate) const MAX_PLAN_BYTES: u64 = 64 << 20;
