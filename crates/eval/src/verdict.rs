//! What a report says of its student, in a sentence: above or below the floors, and the teacher.

use serde::Serialize;

use crate::gate::MIN_IMAGES;
use crate::metric::{Estimate, Group, Metric};
use crate::paired::PairingError;
use crate::report::EvalReport;
use crate::rows::{GUESSES, INITIAL, TEACHER, in_words, judged};

/// Where the row that a run is judged by stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// `int8`, else `float`, else `student`.
    pub row: String,
    /// `mean_iou` in the protocol's space.
    pub metric: Metric,
    /// Its value.
    pub score: Estimate,
    /// Instances it is of.
    pub n_instances: u64,
    /// Their images.
    pub n_images: u64,
    /// The best of the rows that never look at the picture, if there is one.
    pub floor: Option<Against>,
    /// The teacher, if it was scored.
    pub teacher: Option<Against>,
    /// The student before this training, if it had been trained before.
    pub initial: Option<Against>,
}

/// The judged row minus another, both on the same instances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// The other row.
    pub row: String,
    /// The paired difference: 0.01 is one point.
    pub difference: Estimate,
}

/// What a paired difference allows to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The whole 95 % interval is above 0.
    Above,
    /// The whole interval is below 0.
    Below,
    /// 0 is in the interval.
    NotToldApart,
    /// All instances are of one image: there is no interval.
    NoInterval,
}

impl Standing {
    /// What the difference of two rows says of them.
    pub fn of(difference: &Estimate) -> Self {
        match difference.interval {
            None => Self::NoInterval,
            Some(interval) if interval.low > 0.0 => Self::Above,
            Some(interval) if interval.high < 0.0 => Self::Below,
            Some(_) => Self::NotToldApart,
        }
    }

    /// In words, as the cell of a table.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::NotToldApart => "not told apart",
            Self::NoInterval => "one image",
        }
    }
}

impl Verdict {
    /// The verdict of a report; `None` if it has no row `int8`, `float` or `student`, or no instance.
    ///
    /// Differences are the report's own, and where it has none of two rows, what it would have had.
    ///
    /// # Errors
    /// If rows are not of the same instances, which a report that was read never has.
    pub fn of(report: &EvalReport) -> Result<Option<Self>, PairingError> {
        let rows = report.predictors.iter().map(|predictor| predictor.scores.predictor.as_str());
        let metric = report.protocol.headline();
        let score = |row: &str| {
            let all = report.predictor(row).ok()?.groups.get(&Group::All)?;
            Some((all.estimates.get(&metric).copied()?, all.n_instances, all.n_images))
        };
        let Some(row) = judged(rows) else { return Ok(None) };
        let Some((estimate, n_instances, n_images)) = score(row) else { return Ok(None) };
        let against = |other: &str| -> Result<Against, PairingError> {
            Ok(Against { row: other.to_string(), difference: report.headline_difference(other, row)? })
        };
        let floors = GUESSES.into_iter().filter_map(|floor| Some((floor, score(floor)?.0.value)));
        let floor = floors.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(floor, _)| against(floor)).transpose()?;
        let teacher = score(TEACHER).map(|_| against(TEACHER)).transpose()?;
        let initial = score(INITIAL).map(|_| against(INITIAL)).transpose()?;
        Ok(Some(Self { row: row.into(), metric, score: estimate, n_instances, n_images, floor, teacher, initial }))
    }

    /// Whether it is above the best floor, as far as the interval tells; `None` without a floor.
    pub fn above_floor(&self) -> Option<bool> {
        self.floor.as_ref().map(|floor| Standing::of(&floor.difference) == Standing::Above)
    }

    /// The sentence. Figures are never rounded in the student's favour.
    pub fn sentence(&self) -> String {
        let floor = self.floor.as_ref().map_or_else(|| "no floor was scored".to_string(), of_floor);
        let separator = match &self.floor {
            Some(floor) if Standing::of(&floor.difference) == Standing::Above => ",",
            _ => ";",
        };
        let is_after_points = separator == ",";
        let teacher = match &self.teacher {
            None => "no teacher was scored".to_string(),
            Some(teacher) => of_teacher(teacher, is_after_points),
        };
        let initial = self.initial.as_ref().map_or_else(String::new, |initial| format!("; {}", of_initial(initial)));
        let (row, score) = (&self.row, score(self.score.value));
        format!("{row} {score}: {floor}{separator} {teacher}{initial} ({})", self.on_what())
    }

    /// What the score is of, in words.
    pub fn on_what(&self) -> String {
        let space = if self.metric == Metric::MeanIouInCrop { "crop" } else { "image" };
        let few = if self.n_images < MIN_IMAGES as u64 { ": too few to rely on" } else { "" };
        let plural = |n: u64, one: &'static str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        let (instances, images) = (plural(self.n_instances, "instance"), plural(self.n_images, "image"));
        format!("mean IoU in the {space} on {instances} of {images}{few}")
    }
}

fn of_floor(floor: &Against) -> String {
    let (name, difference) = (in_words(&floor.row), &floor.difference);
    match Standing::of(difference) {
        Standing::Above => format!("{} above {name}", points(difference.value, "points ")),
        Standing::Below => format!(
            "{} below {name}, which never looks at the picture: it has learnt nothing useful",
            points(difference.value, "points ")
        ),
        Standing::NotToldApart => {
            format!("not told apart from {name}{}: it may have learnt nothing useful", range(difference))
        }
        Standing::NoInterval => format!("on one image alone nothing can be said beside {name}"),
    }
}

fn of_teacher(teacher: &Against, is_after_points: bool) -> String {
    let unit = if is_after_points { "" } else { "points " };
    let difference = &teacher.difference;
    match Standing::of(difference) {
        Standing::Above => format!("{} above the teacher", points(difference.value, unit)),
        Standing::Below => format!("{} below the teacher", points(difference.value, unit)),
        Standing::NotToldApart => format!("not told apart from the teacher{}", range(difference)),
        Standing::NoInterval => "nor beside the teacher".to_string(),
    }
}

fn of_initial(initial: &Against) -> String {
    let difference = &initial.difference;
    match Standing::of(difference) {
        Standing::Above => format!("{} above what it started from", points(difference.value, "points ")),
        Standing::Below => format!("{} below what it started from", points(difference.value, "points ")),
        Standing::NotToldApart => format!("not told apart from what it started from{}", range(difference)),
        Standing::NoInterval => "nor beside what it started from".to_string(),
    }
}

/// A score's first three decimals, rounded down: `.664`.
fn score(value: f64) -> String {
    let thousandths = (1000.0 * value + ROUNDING).floor();
    if thousandths >= 1000.0 { "1.000".into() } else { format!(".{thousandths:03.0}") }
}

/// Points with one decimal: those above rounded down, those below rounded up. `unit` ends with a space.
fn points(difference: f64, unit: &str) -> String {
    let tenths = 1000.0 * difference;
    let tenths = if tenths > 0.0 { (tenths + ROUNDING).floor() } else { (-tenths - ROUNDING).ceil() };
    let unit = unit.trim_end();
    let space = if unit.is_empty() { "" } else { " " };
    if tenths == 0.0 { format!("less than 0.1{space}{unit}") } else { format!("{:.1}{space}{unit}", tenths / 10.0) }
}

/// The interval of a difference, both ends rounded down.
fn range(difference: &Estimate) -> String {
    let tenths = |value: f64| (1000.0 * value + ROUNDING).floor() / 10.0;
    let shown = |value: f64| format!("{:+.1}", if value == 0.0 { 0.0 } else { value });
    difference.interval.map_or_else(String::new, |interval| {
        format!(" ({} to {} points)", shown(tenths(interval.low)), shown(tenths(interval.high)))
    })
}

/// A decimal that a sum misses by its last bits is not rounded to the next one.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{BootstrapConfig, Interval};
    use crate::evaluate::{Evaluation, PredictorScores};
    use crate::fixtures::{instance, protocol};
    use crate::protocol::Space;
    use crate::score::Stratum;

    const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 1, n_resamples: 400 };

    /// A row whose IoU is `thousandths`, up and down by `spread` from image to image, an instance an image.
    fn row(name: &str, n_images: u64, thousandths: u64, spread: i64) -> PredictorScores {
        let of = |image: u64| {
            let hits = (thousandths as i64 + if image.is_multiple_of(2) { spread } else { -spread }) as u64;
            instance(image, image, Stratum::M, [hits, 1000, hits])
        };
        PredictorScores { predictor: name.into(), instances: (0..n_images).map(of).collect() }
    }

    fn report(rows: Vec<PredictorScores>, differences: &[(&str, &str)]) -> EvalReport {
        EvalReport::new(protocol(), Evaluation { scores: rows, left_out: vec![] }, BOOTSTRAP, differences).unwrap()
    }

    fn sentence(rows: Vec<PredictorScores>) -> String {
        Verdict::of(&report(rows, &[])).unwrap().unwrap().sentence()
    }

    #[test]
    fn a_run_ends_with_a_sentence() {
        let check = |rows: Vec<PredictorScores>, expected: &str| assert_eq!(sentence(rows), expected);
        let ellipse = |thousandths| row("inscribed_ellipse", 80, thousandths, 3);
        let on = "(mean IoU in the crop on 80 instances of 80 images)";
        check(
            vec![ellipse(612), row("filled_box", 80, 575, 0), row("teacher", 80, 705, 9), row("int8", 80, 664, 5)],
            &format!("int8 .664: 5.2 points above an ellipse in the box, 4.1 below the teacher {on}"),
        );
        check(
            vec![ellipse(612), row("teacher", 80, 705, 9), row("int8", 80, 410, 5), row("float", 80, 700, 5)],
            &format!(
                "int8 .410: 20.2 points below an ellipse in the box, which never looks at the picture: it has learnt nothing useful; \
                 29.5 points below the teacher {on}"
            ),
        );
        // Differences are +-87 thousandths, so that 1.96 standard errors are 19; means of resamples are multiples of 2.175.
        check(
            vec![ellipse(612), row("float", 80, 612, 90)],
            &format!(
                "float .612: not told apart from an ellipse in the box (-2.2 to +1.9 points): it may have learnt nothing useful; \
                 no teacher was scored {on}"
            ),
        );
        check(
            vec![ellipse(500), row("filled_box", 80, 550, 0), row("teacher", 80, 600, 9), row("student", 80, 600, 9)],
            &format!(
                "student .600: 5.0 points above the filled box, not told apart from the teacher (+0.0 to +0.0 points) {on}"
            ),
        );
        check(
            vec![row("student", 80, 1000, 0)],
            &format!("student 1.000: no floor was scored; no teacher was scored {on}"),
        );
    }

    #[test]
    fn few_images_and_one_image_are_called_that() {
        let few = sentence(vec![row("inscribed_ellipse", 5, 500, 0), row("int8", 5, 700, 1)]);
        assert!(few.ends_with("(mean IoU in the crop on 5 instances of 5 images: too few to rely on)"), "{few}");
        let one =
            sentence(vec![row("inscribed_ellipse", 1, 500, 0), row("teacher", 1, 800, 0), row("int8", 1, 700, 0)]);
        let expected = "int8 .700: on one image alone nothing can be said beside an ellipse in the box; nor beside the teacher \
                        (mean IoU in the crop on 1 instance of 1 image: too few to rely on)";
        assert_eq!(one, expected);
    }

    #[test]
    fn an_interval_with_zero_in_it_never_says_above_or_below() {
        let standing = |low: f64, high: f64| {
            let interval = Some(Interval { low, high, n_undefined: 0 });
            Standing::of(&Estimate { value: f64::midpoint(low, high), interval })
        };
        assert_eq!(standing(1e-9, 0.1), Standing::Above);
        assert_eq!(standing(0.0, 0.1), Standing::NotToldApart);
        assert_eq!(standing(-0.1, 0.0), Standing::NotToldApart);
        assert_eq!(standing(0.0, 0.0), Standing::NotToldApart);
        assert_eq!(standing(-0.1, -1e-9), Standing::Below);
    }

    #[test]
    fn figures_are_not_rounded_in_the_students_favour() {
        assert_eq!(
            (score(0.6649), score(0.664), score(0.0), score(1.0)),
            (".664".into(), ".664".into(), ".000".into(), "1.000".into())
        );
        assert_eq!(points(0.0529, "points "), "5.2 points");
        assert_eq!(points(-0.0411, ""), "4.2");
        assert_eq!(points(0.0004, "points "), "less than 0.1 points");
        assert_eq!(points(-0.0004, "points "), "0.1 points");
    }

    #[test]
    fn a_difference_that_the_report_lacks_is_what_it_would_have_had() {
        let rows = || vec![row("inscribed_ellipse", 30, 500, 40), row("int8", 30, 520, 55)];
        let (with, without) = (report(rows(), &[("inscribed_ellipse", "int8")]), report(rows(), &[]));
        let difference = with.headline_difference("inscribed_ellipse", "int8").unwrap();
        assert_eq!(difference, with.differences[0].groups[&Group::All].estimates[&Metric::MeanIouInCrop]);
        assert_eq!(without.headline_difference("inscribed_ellipse", "int8").unwrap(), difference);
        assert_eq!(Verdict::of(&with).unwrap(), Verdict::of(&without).unwrap());
    }

    #[test]
    fn masks_of_another_program_have_no_verdict_and_the_image_is_named() {
        assert_eq!(Verdict::of(&report(vec![row("theirs", 5, 500, 0)], &[])).unwrap(), None);
        assert_eq!(Verdict::of(&report(vec![row("int8", 0, 500, 0)], &[])).unwrap(), None);
        let mut in_image = report(vec![row("int8", 70, 500, 0)], &[]);
        in_image.protocol.space = Space::Image;
        let sentence = Verdict::of(&in_image).unwrap().unwrap().sentence();
        assert!(sentence.contains("mean IoU in the image on 70 instances"), "{sentence}");
    }
}
