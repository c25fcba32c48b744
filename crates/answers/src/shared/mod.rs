//! A store of answers that many machines fill and many read: a folder or an object store.
//!
//! Units of work are claimed by creating an object that must not be there yet. Nobody coordinates, nothing is leased, and no clock is
//! asked. Layout and protocol: `docs/formats/shared-store.md`.

mod checked_json;
pub mod fetched_store;
pub mod fill;
pub mod plan;
pub mod seal;
pub mod state;
pub mod sweep;
pub mod unit;
pub mod verify;

use sensei_files::digest::hex;
use sensei_store::place::Place;

use crate::key::AnswerKey;

/// The folder of a place in which the answers to a key are: keys share nothing.
pub fn folder_of(key: &AnswerKey) -> String {
    hex(&key.digest()[..8])
}

/// The store of a key in a place.
pub fn store_of(place: &Place, key: &AnswerKey) -> Place {
    place.within(&folder_of(key))
}

/// Name of what is written first.
pub const PLAN: &str = "plan.json";
/// Folder of the units.
pub const UNITS: &str = "units";

pub(crate) fn unit_name(unit_id: &str) -> String {
    format!("{UNITS}/{unit_id}.json")
}
