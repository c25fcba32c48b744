//! How a SAM teacher is shown a picture, and where a point of it lies there.

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_answers::asked::Normalization;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;
use sensei_teacher::frame::Frame;

fn main() {
    let size = Size { width: 640, height: 427 };
    let image = RgbImage { size, pixels: vec![128; size.n_pixels() * 3] };
    let frame = Frame::letterbox(&image, 1024, Normalization::Imagenet);
    println!("{size} becomes {} in a square of {}", frame.resized, frame.side);
    let at = PointInImage { x: 320.0, y: 427.0 };
    println!("({}, {}) is at {:?}", at.x, at.y, frame.point(at));
    println!("of 64 x 64 cells, {} show the picture", frame.used_cells(64));
    let padding = frame.values.iter().filter(|value| **value == 0.0).count() / 3;
    println!("padding: {padding} pixels");
}
