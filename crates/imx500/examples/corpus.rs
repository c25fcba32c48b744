//! `corpus FOLDER`: small valid files for each target of `fuzz/`, from which mutations start.

#![expect(clippy::disallowed_methods, reason = "a program")]

use std::fs;
use std::path::{Path, PathBuf};

use sensei_imx500::onnx;
use sensei_imx500::rpk::Rpk;
use sensei_int8::model_file;

#[path = "../tests/sample/mod.rs"]
mod sample;
use sample::package::{CASES, Case};
use sample::{BILINEAR, MOBILE, RELU6, SMALL2, SMALL3};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: corpus FOLDER")?;
    for case in CASES {
        let small = Case { parts: [100, 4, 64, 32, 300], ..*case };
        let network = small.packer_out();
        let rpk = Rpk::new(&network, small.format, small.intrinsics()).map_err(|refusal| refusal.to_string())?;
        save(&folder, "packer_out", case.name, &network.to_zip()?)?;
        save(&folder, "dnn_params", case.name, network.params.to_xml().as_bytes())?;
        save(&folder, "rpk", case.name, &rpk.to_bytes().map_err(|refusal| refusal.to_string())?)?;
    }
    let report = br#"{"Memory Report": {"Name": "net", "Runtime Memory Physical Size": "2.29MB",
        "Model Memory Physical Size": "1.26MB", "Reserved Memory": "1.00KB", "Memory Usage": "3.55MB",
        "Total Memory Available On Chip": "8.00MB", "Memory Utilization": "45%", "Fit In Chip": true}}"#;
    save(&folder, "memory_report", "fits", report)?;
    for sample in [SMALL2, SMALL3, BILINEAR, RELU6, MOBILE] {
        let model = sample.model();
        let bytes = model_file::to_bytes(&model);
        save(&folder, "onnx", sample.name, &onnx::write_onnx(&model, &[].into()))?;
        save(&folder, "int8_model", sample.name, &bytes[..bytes.len() - 32])?;
    }
    Ok(())
}

fn save(folder: &Path, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    fs::write(folder.join(name), bytes)
}
