#![no_main]

use sensei_imx500::fit_report::FitReport;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = FitReport::parse(bytes);
});
