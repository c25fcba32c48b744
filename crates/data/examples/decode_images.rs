//! Decodes images, and writes their pixels as PPM: to hold them to another decoder's.
//!
//! usage: decode_images OUT IMAGE...

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a program")]

use std::path::PathBuf;

use sensei_data::image_file::{ImageLimits, read_image};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let out = paths.next().ok_or("usage: decode_images OUT IMAGE...")?;
    for path in paths {
        let name = path.file_name().ok_or("an image is a file")?;
        match read_image(&path, &ImageLimits::default()) {
            Ok(encoded) => {
                let size = encoded.image.size;
                let mut ppm = format!("P6 {} {} 255\n", size.width, size.height).into_bytes();
                ppm.extend(encoded.image.pixels);
                std::fs::write(out.join(name).with_extension("ppm"), ppm)?;
            }
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}
