//! Writes files whole or not at all, reads them within a limit, and names their content by digest.
//!
//! It never knows what is in a file. Everything that this workspace writes under a name that somebody reads goes through
//! [`write_whole`](whole::write_whole).

pub mod bounded;
pub mod digest;
pub mod digest_list;
pub mod error;
pub mod folder;
pub mod free_space;
pub mod lock;
pub mod whole;
