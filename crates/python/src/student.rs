//! The integer student on NumPy arrays.

use std::path::PathBuf;

use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use rayon::prelude::*;
use sensei_data::crop::{CropGeometry, crop_image, paste_logits};
use sensei_data::crop_rule::{CropRule, check_prompt};
use sensei_data::geometry::PointInImage;
use sensei_data::image_file::RgbImage;
use sensei_data::prompt_source::Prompt;
use sensei_eval::mask_score::mask_score;
use sensei_files::digest::hex;
use sensei_int8::interpreter::{IntTensor, Interpreter};
use sensei_int8::model::ModelError;

use crate::array_input::{described, image, rows};
use crate::exception::{check_exists, raised, raised_at, refused};
use crate::package;
use crate::threads::compute;

/// The integer network of a package: the chip's own integers.
#[pyclass(frozen, module = "sensei")]
pub(crate) struct Student {
    interpreter: Interpreter<'static>,
    rule: CropRule,
}

/// Masks, `bool[n, height, width]`, and scores, `float64[n]`.
type Answers<'py> = (Bound<'py, PyArray3<bool>>, Bound<'py, PyArray1<f64>>);

#[pymethods]
impl Student {
    /// Reads a package (a folder with manifest.json) or an .s8m file; `crop` names the crop of a bare one.
    #[staticmethod]
    #[pyo3(signature = (path, *, crop = None))]
    fn load(py: Python<'_>, path: PathBuf, crop: Option<String>) -> PyResult<Self> {
        check_exists(&path, "a package or an .s8m file")?;
        let opened = py.detach(|| {
            let (model, rule) = package::open(&path, crop.as_deref())?;
            Ok(Self { interpreter: Interpreter::owning(model), rule })
        });
        opened.map_err(|error: package::PackageError| raised(&error))
    }

    /// Side of the network's input in pixels.
    #[getter]
    fn input_size(&self) -> u32 {
        self.rule.grid()
    }

    /// Name of the crop rule.
    #[getter]
    fn crop(&self) -> String {
        self.rule.name()
    }

    /// The network's name.
    #[getter]
    fn name(&self) -> &str {
        self.interpreter.model().name()
    }

    /// BLAKE3 of the model, hexadecimal.
    #[getter]
    fn digest(&self) -> String {
        hex(&self.interpreter.model().digest())
    }

    /// Whether it is asked by boxes alone.
    #[getter]
    fn needs_box(&self) -> bool {
        self.rule.needs_box()
    }

    /// Logit of one unit of `logits`.
    #[getter]
    fn logit_step(&self) -> f64 {
        self.interpreter.model().output().grid.step()
    }

    /// Masks and scores of boxes (x, y, width, height) or points (x, y) in pixels of an image.
    #[pyo3(signature = (image, boxes = None, *, points = None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'py, PyAny>,
        boxes: Option<&Bound<'py, PyAny>>,
        points: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Answers<'py>> {
        let image = self::image("image", image)?;
        let (what, prompts): (_, Vec<Prompt>) = match (boxes, points) {
            (Some(boxes), None) => ("boxes", rows::<4>("boxes", boxes)?.into_iter().map(Prompt::Box).collect()),
            (None, Some(points)) => {
                if self.needs_box() {
                    let expected = format!("boxes, which this student's crop is made of ({})", self.rule.name());
                    return Err(refused("predict", expected, "points"));
                }
                let point = |[x, y]: [f64; 2]| Prompt::Point(PointInImage { x, y });
                ("points", rows::<2>("points", points)?.into_iter().map(point).collect())
            }
            (both, _) => {
                let found = if both.is_some() { "both" } else { "neither" };
                return Err(PyTypeError::new_err(format!("predict: expected boxes or points, found {found}")));
            }
        };
        let n_pixels = image.size.n_pixels();
        let (height, width) = (image.size.height as usize, image.size.width as usize);
        let (n_prompts, mut masks) = (prompts.len(), Vec::new());
        let n_bits = n_pixels.saturating_mul(n_prompts);
        masks.try_reserve_exact(n_bits).map_err(|_| {
            PyMemoryError::new_err(format!("{n_prompts} masks of {width} x {height}: cannot get {n_bits} bytes"))
        })?;
        let scores = compute(py, || {
            // All prompts are checked before the first one costs anything.
            let crops = crops(what, self.rule, &image, prompts)?;
            masks.resize(n_bits, false);
            let answers = crops.par_iter().zip(masks.par_chunks_mut(n_pixels));
            let answer = |(geometry, mask): (&CropGeometry, &mut [bool])| {
                let logits = self.run(&crop_image(&image, geometry))?.dequantize();
                let pasted = paste_logits(&logits, geometry, image.size);
                mask.iter_mut().zip(pasted.bits).for_each(|(is_object, bit)| *is_object = bit != 0);
                Ok(mask_score(&logits))
            };
            answers.map(answer).collect::<Result<Vec<f64>, ModelError>>().map_err(|error| raised(&error))
        })??;
        let masks = PyArray1::from_vec(py, masks).reshape([n_prompts, height, width])?;
        Ok((masks, PyArray1::from_vec(py, scores)))
    }

    /// The network's output for a crop of its input's size: the chip's integers.
    fn logits<'py>(&self, py: Python<'py>, crop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<i16>>> {
        let (side, pixels) = (self.input_size(), image("crop", crop)?);
        if [pixels.size.width, pixels.size.height] != [side, side] {
            return Err(refused("crop", format!("uint8[{side}, {side}, 3]"), described(crop)?));
        }
        let output = compute(py, || self.run(&pixels.pixels))?.map_err(|error| raised(&error))?;
        PyArray1::from_vec(py, output.values).reshape([side as usize, side as usize])
    }

    fn __repr__(&self) -> String {
        format!("Student({:?}, crop={:?})", self.interpreter.model().name(), self.rule.name())
    }
}

impl Student {
    fn run(&self, pixels: &[u8]) -> Result<IntTensor, ModelError> {
        self.interpreter.run(&self.interpreter.from_pixels(pixels)?)
    }
}

/// Where each prompt's crop lies.
fn crops(what: &str, rule: CropRule, image: &RgbImage, prompts: Vec<Prompt>) -> PyResult<Vec<CropGeometry>> {
    let crop = |(nth, prompt): (usize, Prompt)| {
        check_prompt(&prompt, image.size)
            .and_then(|()| rule.crop(prompt, image.size))
            .map_err(|error| raised_at(&format!("{what}[{nth}]"), &error))
    };
    prompts.into_iter().enumerate().map(crop).collect()
}
