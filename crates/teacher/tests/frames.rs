//! How teachers are shown a picture, against the packages that they come from.

use sensei_answers::asked::Resize;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;
use sensei_teacher::frame::Frame;
use sensei_testing::{Tolerance, assert_close, golden};

#[test]
fn stretched_pictures_are_the_packages() {
    let case = golden("teacher/frames");
    let image = RgbImage { size: Size { width: 37, height: 23 }, pixels: case.u8s("picture") };
    for side in [12, 56] {
        for (name, resize) in [("sam2", Resize::Sam2Transforms), ("efficient", Resize::TorchBilinear)] {
            let frame = Frame::stretch(&image, side, resize);
            let n_pixels = (side * side) as usize;
            let planes: Vec<f32> = (0..3)
                .flat_map(|channel| (0..n_pixels).map(move |at| (channel, at)))
                .map(|(c, at)| frame.values[3 * at + c])
                .collect();
            let expected = case.f32s(&format!("{name}.{side}"));
            assert_close(&format!("{name} at {side}"), &planes, &expected, Tolerance { absolute: 2e-5, relative: 0.0 });
        }
        let frame = Frame::stretch(&image, side, Resize::Sam2Transforms);
        let points = case.f32s("points");
        let found: Vec<f32> = points
            .as_chunks::<2>()
            .0
            .iter()
            .flat_map(|&[x, y]| frame.point(PointInImage { x: x.into(), y: y.into() }).map(|at| at as f32))
            .collect();
        let expected = case.f32s(&format!("sam2.points.{side}"));
        assert_close("points", &found, &expected, Tolerance { absolute: 1e-4, relative: 0.0 });
    }
}
