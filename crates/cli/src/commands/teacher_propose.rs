//! `teacher propose`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_data::coco_writer::{CocoAnnotation, CocoCategory, CocoFile, CocoImage, CocoInfo, CocoProposal};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::Size;
use sensei_data::image_file::ImageLimits;
use sensei_files::whole::write_whole;
use sensei_teacher::error::TeacherError;
use sensei_teacher::propose::{Picture, Proposal, ProposeCounts, ProposePlan, Proposed, pictures_of, propose};
use sensei_teacher::teacher::Teacher;

use crate::arguments::ProposeArguments;
use crate::device::start_threads;
use crate::phases::data::load;
use crate::phases::teacher;
use crate::progress::{say, warn};
use crate::{stop, usage};

/// Asks the teacher, and writes the file.
///
/// # Errors
/// Weights or pictures that cannot be used, or a file that cannot be written or is there already.
pub fn execute(arguments: ProposeArguments) -> anyhow::Result<()> {
    let shares = [
        ("--min-predicted-iou", f64::from(arguments.min_predicted_iou)),
        ("--min-stability", f64::from(arguments.min_stability)),
        ("--max-area-share", arguments.max_area_share),
        ("--max-iou", arguments.max_iou),
    ];
    for (name, share) in shares {
        let is_share = (0.0..=1.0).contains(&share);
        is_share.then_some(()).with_context(|| format!("{name}: expected 0 to 1, found {share}")).map_err(usage)?;
    }
    ensure!(!arguments.out.exists(), "{}: exists already", arguments.out.display());
    let folder = arguments.out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    start_threads(arguments.threads)?;
    let dataset = match &arguments.annotations {
        Some(path) => Some(load(path, &arguments.images, arguments.format, arguments.unusable.into())?),
        None => None,
    };
    let (files, pictures) = match &dataset {
        Some(dataset) => (images_of(dataset), pictures_of(dataset)?),
        None => pictures_in(&arguments.images, arguments.first_id)?,
    };
    let teacher = teacher::open(&arguments.teacher.files())?;
    let plan = ProposePlan {
        points: arguments.points,
        fine_points: arguments.fine_points,
        min_predicted_iou: arguments.min_predicted_iou,
        min_stability: arguments.min_stability,
        min_area: arguments.min_area,
        max_area_share: arguments.max_area_share,
        max_iou: arguments.max_iou,
        max_failed_images: arguments.max_failed_images,
        limits: ImageLimits::default(),
    };
    let found = teacher::with_bar(|progress| propose(&pictures, &teacher, &plan, progress, &stop::is_asked))?;
    if matches!(found, Err(TeacherError::Interrupted)) {
        stop::check_command("asking the teacher")?;
    }
    let (proposed, counts, failures) = found?;
    failures.iter().for_each(|failure| warn(failure));
    let file = coco_file(&files, &proposed, &teacher, &plan, arguments.first_id);
    let mut json = serde_json::to_vec(&file)?;
    json.push(b'\n');
    write_whole(&arguments.out, &json)?;
    let n_pictures = pictures.len() - failures.len();
    say(&format!("{}: {} objects on {n_pictures} pictures", arguments.out.display(), counts.kept));
    say(&words(&counts));
    Ok(())
}

/// Why masks are no proposals, in words.
fn words(counts: &ProposeCounts) -> String {
    let &ProposeCounts { points, sure_points, low_predicted_iou, unstable, small, large, duplicates, annotated, kept } =
        counts;
    format!(
        "of {points} points asked: {kept} kept, {low_predicted_iou} of low predicted IoU, {unstable} unstable, {small} too small, \
         {large} too large, {duplicates} found twice, {annotated} annotated already; {sure_points} points of the second pass not asked, \
         because a mask was sure of them"
    )
}

fn images_of(dataset: &Dataset) -> Vec<ImageFileEntry> {
    let entry = |image: &sensei_data::dataset::ImageRecord| ImageFileEntry {
        id: image.id,
        file_name: image.file_name.clone(),
        size: Some(image.size),
    };
    dataset.images.iter().map(entry).collect()
}

/// The JPEG and PNG files of a folder, by name, at least one.
///
/// # Errors
/// If the folder cannot be listed or has none.
pub(super) fn pictures_of_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = read().with_context(|| format!("{}: cannot list the pictures", folder.display()))?;
    paths.retain(|path| {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        ["jpg", "jpeg", "png"].contains(&extension.as_str()) && path.is_file()
    });
    paths.sort();
    ensure!(!paths.is_empty(), "{}: expected JPEG or PNG files, found none", folder.display());
    Ok(paths)
}

/// The JPEG and PNG files of a folder, by name, numbered from `first_id`.
fn pictures_in(folder: &Path, first_id: u64) -> anyhow::Result<(Vec<ImageFileEntry>, Vec<Picture>)> {
    let paths = pictures_of_folder(folder)?;
    let named = |(id, path): (u64, &PathBuf)| {
        let file_name = path.file_name().and_then(OsStr::to_str).map(str::to_string);
        let file_name = file_name.with_context(|| format!("{}: expected a name in UTF-8", path.display()))?;
        Ok(ImageFileEntry { id, file_name, size: None })
    };
    let files = (first_id..).zip(&paths).map(named).collect::<anyhow::Result<_>>()?;
    Ok((files, paths.into_iter().map(|path| Picture { path, size: None, annotated: vec![] }).collect()))
}

/// An image as the file names it.
struct ImageFileEntry {
    id: u64,
    file_name: String,
    size: Option<Size>,
}

fn coco_file<'a>(
    files: &'a [ImageFileEntry],
    proposed: &Proposed,
    teacher: &Teacher,
    plan: &ProposePlan,
    first_id: u64,
) -> CocoFile<'a> {
    let (mut images, mut annotations) = (vec![], vec![]);
    for (entry, found) in files.iter().zip(proposed) {
        let size = found.as_ref().map(|(size, _)| *size).or(entry.size);
        let Some(size) = size else { continue };
        for proposal in found.iter().flat_map(|(_, proposals)| proposals) {
            annotations.push(coco_annotation(first_id + annotations.len() as u64, entry.id, proposal));
        }
        images.push(CocoImage::new(entry.id, &entry.file_name, size));
    }
    let description = format!(
        "Masks that {name} proposed: {0} x {0} points and {1} x {1} where these were not sure, predicted IoU at least {2}, stability \
         at least {3}, area at least {4} pixels and at most {5} of the picture, none with an IoU above {6} with another or with an \
         annotation. No person drew them.",
        plan.points,
        plan.fine_points,
        plan.min_predicted_iou,
        plan.min_stability,
        plan.min_area,
        plan.max_area_share,
        plan.max_iou,
        name = teacher.name()
    );
    CocoFile {
        info: CocoInfo { description, proposed_by: Some(teacher.digest().into()), composed_of: None },
        images,
        annotations,
        categories: vec![CocoCategory { id: CATEGORY_ID, name: "thing", supercategory: None, frequency: None }],
    }
}

/// Of everything: a teacher says where an object is, not what it is.
const CATEGORY_ID: u64 = 1;

fn coco_annotation(id: u64, image_id: u64, proposal: &Proposal) -> CocoAnnotation {
    let Proposal { mask, predicted_iou, stability, point } = proposal;
    let said = CocoProposal { score: *predicted_iou, stability: *stability, point: [point.x, point.y] };
    CocoAnnotation::new(id, image_id, CATEGORY_ID, mask).with_proposal(said)
}
