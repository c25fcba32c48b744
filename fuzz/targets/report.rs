//! Reports of scores, with the tables made of them.
#![no_main]

use sensei_eval::report::EvalReport;
use sensei_fuzz::as_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    as_file("json", bytes, |path| {
        if let Ok(report) = EvalReport::read(path) {
            let _ = report.table();
        }
    });
});
