//! Sums over each sample's pixels, of which all mask distances are made: by our CPU kernel in one pass, elsewhere by tensors.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, DispatchDevice, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::FlexTensor;
use sensei_kernels::mask::{self, MaskForward, Masks, PixelSums};

use crate::masks::{MaskLogits, MaskProbs, cross_entropy, pixel_sum, same_shape};
use crate::ops::flex_tensor::{contiguous, dims, flex, tensor, tracked, values};

/// Sums over the pixels of each sample, `[batch]`; `p` and `y` are the student's probabilities and the true mask.
pub struct MaskSums {
    /// Pixels of a sample.
    pub pixels: f64,
    /// Of `p`.
    pub student: Tensor<1>,
    /// Of `y`.
    pub truth: Tensor<1>,
    /// Of `p y`.
    pub student_truth: Tensor<1>,
    /// Of the binary cross-entropy.
    pub cross_entropy: Tensor<1>,
    /// With the teacher's probabilities, if there is a teacher.
    pub teacher: Option<TeacherSums>,
}

/// Those with `t`, the teacher's probabilities.
#[derive(Clone)]
pub struct TeacherSums {
    /// Of `t`.
    pub teacher: Tensor<1>,
    /// Of `p t`.
    pub student_teacher: Tensor<1>,
    /// Of `(p - t)^2`.
    pub squared_difference: Tensor<1>,
}

impl MaskSums {
    /// Of probabilities `sigma(sharpness * logit)`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn new(sharpness: f64, student: MaskLogits, teacher: Option<MaskLogits>, truth: MaskProbs) -> Self {
        same_shape("true mask", &student.0, &truth.0);
        if let Some(teacher) = &teacher {
            same_shape("teacher's mask", &student.0, &teacher.0);
        }
        let device = student.0.device();
        let is_ours = matches!(device.without_autodiff().as_dispatch(), DispatchDevice::Flex(_));
        if is_ours && student.0.dtype() == DType::F32 {
            return by_kernel(sharpness, student, teacher, truth);
        }
        portable(sharpness, student, teacher, truth)
    }
}

fn portable(sharpness: f64, student: MaskLogits, teacher: Option<MaskLogits>, truth: MaskProbs) -> MaskSums {
    let [_, channels, height, width] = student.0.dims();
    let logits = student.sharpened(sharpness);
    let probs = logits.clone().probs();
    let teacher = teacher.map(|teacher| {
        let teacher = teacher.sharpened(sharpness).probs();
        let difference = probs.0.clone() - teacher.0.clone();
        TeacherSums {
            teacher: teacher.area(),
            student_teacher: pixel_sum(probs.0.clone() * teacher.0),
            squared_difference: pixel_sum(difference.clone() * difference),
        }
    });
    MaskSums {
        pixels: (channels * height * width) as f64,
        student: probs.area(),
        truth: truth.area(),
        student_truth: pixel_sum(probs.0 * truth.0.clone()),
        cross_entropy: pixel_sum(cross_entropy(logits, truth)),
        teacher,
    }
}

fn by_kernel(sharpness: f64, student: MaskLogits, teacher: Option<MaskLogits>, truth: MaskProbs) -> MaskSums {
    let (device, [batch, channels, height, width]) = (student.0.device(), student.0.dims());
    let pixels = channels * height * width;
    let has_teacher = teacher.is_some();
    let is_tracked = device.is_autodiff();
    // Targets have no gradient.
    let target = |tensor: Tensor<4>| flex(if is_tracked { tensor.inner() } else { tensor });
    let targets = Targets {
        pixels,
        sharpness: sharpness as f32,
        teacher: teacher.map(|teacher| target(teacher.0)),
        truth: target(truth.0),
    };
    let (sums, constant) = if is_tracked {
        track(student.0, targets)
    } else {
        let sums = mask::sums(&targets.masks(&flex(student.0))).sums;
        (Tensor::from_primitive::<Flex>(rows_of_sums(&sums)), sums)
    };
    let row = |idx: usize| sums.clone().narrow(0, idx, 1).reshape([batch]);
    let column = |value: fn(&PixelSums) -> f32| {
        let values: Vec<f32> = constant.iter().map(value).collect();
        Tensor::from_data(TensorData::new(values, [batch]), &device)
    };
    MaskSums {
        pixels: pixels as f64,
        student: row(0),
        truth: column(|sums| sums.truth),
        student_truth: row(1),
        cross_entropy: row(2),
        teacher: has_teacher.then(|| TeacherSums {
            teacher: column(|sums| sums.teacher),
            student_teacher: row(3),
            squared_difference: row(4),
        }),
    }
}

/// What the student is compared with.
#[derive(Debug, Clone)]
struct Targets {
    pixels: usize,
    sharpness: f32,
    teacher: Option<FlexTensor>,
    truth: FlexTensor,
}

impl Targets {
    fn masks<'a>(&'a self, student: &'a FlexTensor) -> Masks<'a> {
        let teacher = self.teacher.as_ref().map(values);
        let Self { pixels, sharpness, .. } = *self;
        Masks { pixels, sharpness, student: values(student), teacher, truth: values(&self.truth) }
    }
}

/// The sums that depend on the student as one tracked tensor, `[5, batch]`, and all of them.
fn track(student: Tensor<4>, targets: Targets) -> (Tensor<2>, Vec<PixelSums>) {
    #[derive(Debug)]
    struct Step;
    impl Backward<Flex, 1> for Step {
        /// The targets, the student's logits, the probabilities of student and teacher.
        type State = (Targets, FlexTensor, [FlexTensor; 2]);
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            let ((targets, student, [probs, teacher]), [node]) = (ops.state, ops.parents);
            let Some(node) = node else { return };
            let gradients = sums_of_rows(values(&grad));
            let gradient = mask::backward(&targets.masks(&student), [values(&probs), values(&teacher)], &gradients);
            grads.register::<Flex>(node.id, tensor(gradient, dims(&student)));
        }
    }
    let student = tracked(student);
    let prepared = Step.prepare::<NoCheckpointing>([student.node()]).compute_bound().stateful();
    let student = contiguous(student.into_primitive());
    let MaskForward { sums, student_probs, teacher_probs } = mask::sums(&targets.masks(&student));
    let output = rows_of_sums(&sums);
    let output = match prepared {
        OpsKind::Tracked(prep) => {
            let flat = |values: Vec<f32>| {
                let len = values.len();
                tensor(values, [len])
            };
            prep.finish((targets, student, [flat(student_probs), flat(teacher_probs)]), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    (Tensor::from_primitive::<Autodiff<Flex>>(output), sums)
}

/// The sums that depend on the student, `[5, batch]`.
fn rows_of_sums(sums: &[PixelSums]) -> FlexTensor {
    let rows: [fn(&PixelSums) -> f32; 5] = [
        |sums| sums.student,
        |sums| sums.student_truth,
        |sums| sums.cross_entropy,
        |sums| sums.student_teacher,
        |sums| sums.squared_difference,
    ];
    let values: Vec<f32> = rows.iter().flat_map(|row| sums.iter().map(row)).collect();
    tensor(values, [rows.len(), sums.len()])
}

/// The inverse of [`rows_of_sums`].
fn sums_of_rows(values: &[f32]) -> Vec<PixelSums> {
    let batch = values.len() / 5;
    let sample_sums = |sample: usize| {
        let [student, student_truth, cross_entropy, student_teacher, squared_difference] =
            std::array::from_fn(|row| values[row * batch + sample]);
        PixelSums { student, student_truth, cross_entropy, student_teacher, squared_difference, ..PixelSums::default() }
    };
    (0..batch).map(sample_sums).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    /// The values of all sums, and the gradient of a sum of all with different weights.
    fn all(
        sums: impl Fn(f64, MaskLogits, Option<MaskLogits>, MaskProbs) -> MaskSums,
        [samples, height, width]: [usize; 3],
        [student, teacher, truth]: [&[f32]; 3],
        has_teacher: bool,
    ) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let tensor = |values: &[f32]| {
            Tensor::<4>::from_data(TensorData::new(values.to_vec(), [samples, 1, height, width]), &device)
        };
        let student = tensor(student).require_grad();
        let teacher = has_teacher.then(|| MaskLogits(tensor(teacher)));
        let made = sums(1.5, MaskLogits(student.clone()), teacher, MaskProbs(tensor(truth)));
        assert_eq!(made.pixels, (height * width) as f64);
        let mut all = vec![made.student, made.truth, made.student_truth, made.cross_entropy];
        if let Some(TeacherSums { teacher, student_teacher, squared_difference }) = made.teacher {
            all.extend([teacher, student_teacher, squared_difference]);
        }
        let total = all.iter().enumerate().map(|(idx, sum)| (sum.clone() * (0.3 + idx as f64)).sum());
        let total: Tensor<1> = total.reduce(|a, b| a + b).expect("not empty");
        let gradient = student.grad(&total.backward()).expect("tracked").flatten::<1>(0, 3);
        all.push(Tensor::from_inner(gradient));
        all.into_iter().map(|tensor| tensor.into_data().try_to_vec().expect("single precision")).collect()
    }

    proptest! {
        #[test]
        fn the_kernel_sums_what_tensors_sum(
            samples in 1..4usize,
            height in 1..20usize,
            width in 1..20usize,
            has_teacher: bool,
            seed in proptest::collection::vec((-30.0f32..30.0, -30.0f32..30.0, 0..2u8), 3 * 20 * 20),
        ) {
            let seed = &seed[..samples * height * width];
            let student: Vec<f32> = seed.iter().map(|pixel| pixel.0).collect();
            let teacher: Vec<f32> = seed.iter().map(|pixel| pixel.1).collect();
            let truth: Vec<f32> = seed.iter().map(|pixel| f32::from(pixel.2)).collect();
            let (shape, maps) = ([samples, height, width], [&student[..], &teacher, &truth]);
            let (got, expected) = (all(by_kernel, shape, maps, has_teacher), all(portable, shape, maps, has_teacher));
            prop_assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
                for (got, expected) in got.iter().zip(expected) {
                    prop_assert!((got - expected).abs() <= 3e-6 * largest, "{got}, expected {expected}");
                }
            }
        }
    }
}
