use std::path::Path;

use sensei_data::dataset::{Dataset, DatasetError, Frequency, LoadOptions, Segmentation, UnusableRule};
use sensei_data::geometry::Size;
use sensei_testing::shared_dir;

/// A file with one image, one category and two annotations, the second a crowd region.
const WHOLE: &str = r#"{"info": {"year": 2017}, "licenses": [],
"images": [{"id": 7, "width": 8, "height": 6, "file_name": "a.jpg", "license": 3, "date_captured": "then"}],
"categories": [{"id": 3, "name": "cup", "supercategory": "kitchen"}],
"annotations": [
 {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 3, 3.5], "area": 9.25, "iscrowd": 0,
  "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]},
 {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 8, 6], "area": 10, "iscrowd": 1,
  "segmentation": {"size": [6, 8], "counts": [20, 10, 18]}}]}"#;

fn load(text: &str, load: impl FnOnce(&Path, &Path) -> Result<Dataset, DatasetError>) -> Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    std::fs::write(&path, text).unwrap();
    let one_line = |error: DatasetError| {
        let mut line = error.to_string();
        if let Some(source) = std::error::Error::source(&error).filter(|_| matches!(error, DatasetError::Json { .. })) {
            line += &format!(": {source}");
        }
        line.replace(&format!("{}/", dir.path().display()), "")
    };
    load(&path, Path::new("images")).map_err(one_line)
}

/// The error of [`WHOLE`] with `from` replaced by `to`.
fn error_with(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "{from}");
    load(&WHOLE.replacen(from, to, 1), Dataset::load_coco).expect_err(to)
}

#[test]
fn a_file_is_read_as_it_is_written() {
    let dataset = load(WHOLE, Dataset::load_coco).unwrap();
    assert_eq!(dataset.images[0].size, Size { width: 8, height: 6 });
    assert_eq!(dataset.image_path(0), Path::new("images/a.jpg"));
    assert_eq!((dataset.categories[0].id, dataset.categories[0].name.as_str()), (3, "cup"));
    let [cup, crowd] = &dataset.instances[..] else { panic!("two instances") };
    assert_eq!((cup.id, cup.image_idx, cup.category_id, cup.is_crowd), (1, 0, 3, false));
    assert_eq!((cup.bbox, cup.area), ([1.0, 1.0, 3.0, 3.5], 9.25));
    assert_eq!(dataset.mask(0).unwrap().area(), 9);
    assert!(crowd.is_crowd && matches!(crowd.segmentation, Segmentation::Rle(_)));
    assert_eq!(dataset.mask(1).unwrap().counts(), [20, 10, 18]);
    assert_eq!(dataset.digest, *blake3::hash(WHOLE.as_bytes()).as_bytes());
}

#[test]
fn compressed_runs_are_read_too() {
    let runs = dataset_mask(&WHOLE.replace("[20, 10, 18]", "\"d0:b0\""));
    assert_eq!(runs, [20, 10, 18]);
}

fn dataset_mask(text: &str) -> Vec<u32> {
    load(text, Dataset::load_coco).unwrap().mask(1).unwrap().counts().to_vec()
}

#[test]
fn errors_name_the_entry_what_is_expected_and_what_is_found() {
    let check = |from: &str, to: &str, expected: &str| assert_eq!(error_with(from, to), expected);
    check(
        "\"category_id\": 3, \"bbox\": [1",
        "\"category_id\": 4, \"bbox\": [1",
        "file.json: annotation 1: category 4 is not in the list of 1 categories",
    );
    check(
        "\"image_id\": 7, \"category_id\": 3, \"bbox\": [0",
        "\"image_id\": 8, \"category_id\": 3, \"bbox\": [0",
        "file.json: annotation 2: image 8 is not in the list of 1 images",
    );
    check(
        "\"id\": 2",
        "\"id\": 1",
        "file.json: annotation 1: id: expected one that no other entry has, found it 2 times",
    );
    check(
        "{\"id\": 3, \"name\": \"cup\"",
        "{\"id\": 3, \"name\": \"mug\"}, {\"id\": 3, \"name\": \"cup\"",
        "file.json: category 3: id: expected one that no other entry has, found it 2 times",
    );
    check(
        "\"images\": [",
        "\"images\": [{\"id\": 7, \"width\": 1, \"height\": 1, \"file_name\": \"b.jpg\"}, ",
        "file.json: image 7: id: expected one that no other entry has, found it 2 times",
    );
    let side = "expected a whole number of pixels from 1 to 65535, found";
    check("\"width\": 8", "\"width\": 0", &format!("file.json: image 7: width: {side} 0"));
    check("\"height\": 6", "\"height\": 65536", &format!("file.json: image 7: height: {side} 65536"));
    check(
        "\"width\": 8, \"height\": 6",
        "\"width\": 20000, \"height\": 20000",
        "file.json: image 7: width and height: expected at most 268435456 pixels, found 20000 x 20000 = 400000000",
    );
    let folder = "file.json: image 7: file_name: expected a path that stays inside of the image folder, found";
    for name in ["../a.jpg", "/etc/passwd", "", "b/../../a.jpg"] {
        check("a.jpg", name, &format!("{folder} {name:?}"));
    }
    check(
        "\"file_name\"",
        "\"name\"",
        "file.json: image 7: file_name: expected a path below the image folder, found none",
    );
    let bbox = "file.json: annotation 1: bbox: expected [x, y, width, height], finite, with sides of at least 0, found";
    check("[1, 1, 3, 3.5]", "[1, 1, -3, 3.5]", &format!("{bbox} [1, 1, -3, 3.5]"));
    check("[1, 1, 3, 3.5]", "[1e308, 1, 1e308, 3.5]", &format!("{bbox} [1e308, 1, 1e308, 3.5]"));
    check("9.25", "-1", "file.json: annotation 1: area: expected a finite number of at least 0, found -1");
    check("\"iscrowd\": 0", "\"iscrowd\": 2", "file.json: annotation 1: iscrowd: expected 0 or 1, found 2");
}

#[test]
fn outlines_that_are_none_name_their_annotation() {
    let check = |from: &str, to: &str, expected: &str| {
        assert_eq!(error_with(from, to), format!("file.json: annotation {expected}"));
    };
    let polygon = "[[1, 1, 4, 1, 4, 4, 1, 4]]";
    let outline =
        "segmentation: expected a list of polygons [x, y, x, y, ...], or an object with size and counts, found";
    let even = "polygon 0: expected an even number of at least 6 coordinates, found";
    check(polygon, "[[1, 1, 4, 1, 4, 4, 1]]", &format!("1: {even} 7"));
    check(polygon, "[[1, 1, 4, 1]]", &format!("1: {even} 4"));
    check(polygon, "[[]]", &format!("1: {even} 0"));
    check(polygon, "[]", "1: expected at least 1 polygon, found none");
    check(polygon, "null", &format!("1: {outline} null"));
    check(polygon, "[1, 1, 4, 1]", &format!("1: {outline} a list with 1, not with a list for each polygon"));
    check(polygon, "[[[1, 1], [4, 1]]]", &format!("1: {outline} a polygon made of lists, one for each point"));
    check(polygon, "[{\"size\": [6, 8]}]", &format!("1: {outline} an object inside of a list"));
    check(polygon, "[[1, 1, 4, null]]", &format!("1: {outline} a polygon with null"));
    check(
        "[20, 10, 18]",
        "[20, -1]",
        "2: segmentation: expected counts as a list of whole numbers or a compressed string, found a list with -1",
    );
    let far = "1: polygon 0: expected coordinates within +-131072 pixels, found 4000000000000";
    check(polygon, "[[1, 1, 4e12, 1, 4, 4]]", far);
    check("[20, 10, 18]", "[20, 10, 17]", "2: runs cover 47 pixels, a 8 x 6 mask has 48");
    check("[20, 10, 18]", "\"d0: \"", "2: byte 0x20 at 3: a compressed mask is made of the characters '0' to 'o'");
    check("[6, 8]", "[8, 6]", "2: segmentation: expected runs of its image's size, 8 x 6, found 6 x 8");
}

#[test]
fn what_is_not_coco_is_named_with_its_line() {
    let start = "file.json: not a COCO or LVIS annotation file: ";
    let check = |from: &str, to: &str, expected: &str| {
        let error = error_with(from, to);
        assert!(error.starts_with(&format!("{start}{expected}")), "{error}");
    };
    check("[1, 1, 3, 3.5]", "[1, nan, 3, 4]", "expected ident at line 5 column");
    check("[1, 1, 3, 3.5]", "[1, 1e999, 3, 4]", "number out of range at line 5 column");
    let cut = load(&WHOLE[..WHOLE.len() - 30], Dataset::load_coco).unwrap_err();
    assert!(cut.starts_with(&format!("{start}EOF while parsing")), "{cut}");
    assert!(load("", Dataset::load_coco).unwrap_err().starts_with(&format!("{start}EOF")));
    let missing = Dataset::load_coco(Path::new("/no/such.json"), Path::new("")).unwrap_err();
    assert_eq!(missing.to_string(), "/no/such.json: cannot read annotations");
}

#[test]
fn equal_values_of_another_json_type_are_read() {
    let plain = load(WHOLE, Dataset::load_coco).unwrap();
    for (from, to) in [
        ("\"iscrowd\": 1", "\"iscrowd\": true"),
        ("\"iscrowd\": 1", "\"iscrowd\": 1.0"),
        ("\"iscrowd\": 0", "\"iscrowd\": null"),
        ("\"id\": 1, \"image_id\": 7", "\"id\": 1.0, \"image_id\": 7.0"),
        ("\"category_id\": 3", "\"category_id\": 3.0"),
        ("\"width\": 8", "\"width\": 8.0"),
        ("[20, 10, 18]", "[20.0, 10, 18]"),
        ("a.jpg", "./a.jpg"),
        ("a.jpg", "b/.././a.jpg"),
        ("\"year\": 2017", "\"year\": NaN"),
        ("{\"info\"", "\u{feff}{\"info\""),
    ] {
        assert!(WHOLE.contains(from), "{from}");
        let read = load(&WHOLE.replacen(from, to, 1), Dataset::load_coco).expect(to);
        assert_eq!((read.images, read.instances), (plain.images.clone(), plain.instances.clone()), "{to}");
    }
}

/// Programs write many things as `info`. Only a teacher's masks must not be taken for a person's.
#[test]
fn what_a_file_says_of_itself_may_be_anything() {
    let proposed_by = |info: &str| {
        let text = WHOLE.replacen(r#"{"year": 2017}"#, info, 1);
        assert_ne!(text, WHOLE);
        load(&text, Dataset::load_coco).expect(info).parts[0].proposed_by.clone()
    };
    for info in ["[]", "[1, {}]", "null", "\"by hand\"", "3", "{}", r#"{"proposed_by": null}"#, r#"{"year": [2017]}"#] {
        assert_eq!(proposed_by(info), None, "{info}");
    }
    let digest = "8fb27508e79f55348e12d87c123a3c36a6d36969c4236fb7a70ade0d2c89921c";
    assert_eq!(proposed_by(&format!(r#"{{"proposed_by": "{digest}"}}"#)).as_deref(), Some(digest));
    for info in
        [r#"{"proposed_by": 3}"#, r#"{"proposed_by": true}"#, r#"{"proposed_by": ["a"]}"#, r#"{"proposed_by": {}}"#]
    {
        assert!(proposed_by(info).is_some(), "{info}");
    }
}

#[test]
fn values_that_mean_nothing_are_named_with_entry_and_field() {
    let check = |from: &str, to: &str, expected: &str| {
        assert_eq!(error_with(from, to), format!("file.json: {expected}"), "{to}");
    };
    let whole = "expected a whole number from 0 to 18446744073709551615, found";
    check(
        "\"id\": 1, \"image_id\"",
        "\"id\": \"1\", \"image_id\"",
        &format!("annotation at place 0 of its list, counted from 0: id: {whole} \"1\""),
    );
    check("\"id\": 2, ", "", &format!("annotation at place 1 of its list, counted from 0: id: {whole} none"));
    check(
        "\"image_id\": 7, \"category_id\": 3, \"bbox\": [1",
        "\"image_id\": \"7\", \"category_id\": 3, \"bbox\": [1",
        &format!("annotation 1: image_id: {whole} \"7\""),
    );
    check(
        "\"category_id\": 3, \"bbox\": [1",
        "\"category_id\": -3, \"bbox\": [1",
        &format!("annotation 1: category_id: {whole} -3"),
    );
    check("\"area\": 9.25", "\"area\": NaN", "annotation 1: area: expected a finite number, found NaN");
    check("\"area\": 9.25, ", "", "annotation 1: area: expected a finite number, found none");
    let bbox = "annotation 1: bbox: expected [x, y, width, height], finite, with sides of at least 0, found";
    check("[1, 1, 3, 3.5]", "[1, 1, 3]", &format!("{bbox} [1, 1, 3]"));
    check("[1, 1, 3, 3.5]", "[[1, 1, 3, 3.5]]", &format!("{bbox} [a list of 4]"));
    check("[1, 1, 3, 3.5]", "[1, -Infinity, 3, 4]", &format!("{bbox} [1, -Infinity, 3, 4]"));
    check(
        "\"width\": 8",
        "\"width\": null",
        "image 7: width: expected a whole number of pixels from 1 to 65535, found null",
    );
    check("\"categories\"", "\"classes\"", "categories: expected a list, found none");
    check(
        "{\"id\": 3, \"name\": \"cup\", \"supercategory\": \"kitchen\"}",
        "\"cup\"",
        "category at place 0 of its list, counted from 0: entry: expected an object, found \"cup\"",
    );
}

#[test]
fn all_unusable_annotations_are_named_or_left_out() {
    let polygon = "[[1, 1, 4, 1, 4, 4, 1, 4]]";
    let text = WHOLE.replace(polygon, "[]").replace("\"area\": 10,", "");
    let error = load(&text, Dataset::load_coco).unwrap_err();
    assert_eq!(
        error,
        "file.json: 2 entries cannot be used, 0 annotations are sound: annotation 1: expected at least 1 polygon, found none; \
         annotation 2: area: expected a finite number, found none"
    );
    fn leaving_out(path: &Path, images: &Path) -> Result<Dataset, DatasetError> {
        let options = LoadOptions { unusable: UnusableRule::LeaveOut, ..LoadOptions::default() };
        Dataset::load_coco_with(path, images, options)
    }
    let dataset = load(&WHOLE.replace(polygon, "[]"), leaving_out).unwrap();
    assert_eq!((dataset.instances.len(), dataset.unusable.len()), (1, 1));
    assert_eq!(dataset.unusable[0].to_string(), "annotation 1: expected at least 1 polygon, found none");
    // Nobody can say which annotation was left out, or which image is meant.
    assert!(load(&WHOLE.replace("\"id\": 2, ", ""), leaving_out).is_err());
    assert!(load(&WHOLE.replace("\"width\": 8", "\"width\": 0"), leaving_out).is_err());
}

#[test]
fn an_area_may_lack_where_nobody_asks_for_it() {
    let boxes = |needs_areas: bool| {
        let options = LoadOptions { needs_masks: false, needs_areas, ..LoadOptions::default() };
        move |path: &Path, images: &Path| Dataset::load_coco_with(path, images, options)
    };
    for area in ["", "\"area\": null, "] {
        let text = WHOLE.replace("\"area\": 9.25, ", area).replace("\"area\": 10, ", area);
        for error in [load(&text, Dataset::load_coco).unwrap_err(), load(&text, boxes(true)).unwrap_err()] {
            assert!(error.contains("annotation 1: area: expected a finite number, found n"), "{error}");
        }
        let dataset = load(&text, boxes(false)).unwrap();
        assert_eq!((dataset.instances[0].area, dataset.instances[1].area), (10.5, 48.0));
    }
    assert_eq!(load(WHOLE, boxes(false)).unwrap().instances[0].area, 9.25);
}

#[test]
fn boxes_need_no_masks() {
    fn boxes(path: &Path, images: &Path) -> Result<Dataset, DatasetError> {
        Dataset::load_coco_with(path, images, LoadOptions { needs_masks: false, ..LoadOptions::default() })
    }
    let polygon = "\"segmentation\": [[1, 1, 4, 1, 4, 4, 1, 4]]";
    for segmentation in [polygon, "\"segmentation\": []", "\"segmentation\": null", "\"other\": 0"] {
        let dataset = load(&WHOLE.replace(polygon, segmentation), boxes).unwrap();
        assert_eq!(dataset.instances[0].segmentation, Segmentation::NotRead);
        let error = dataset.mask(0).unwrap_err().to_string();
        assert!(error.ends_with("annotation 1: its outline was not read"), "{error}");
    }
}

#[test]
fn text_of_another_encoding_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    let units = std::iter::once(0xfeff).chain(WHOLE.encode_utf16());
    std::fs::write(&path, units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let error = Dataset::load_coco(&path, Path::new("")).unwrap_err().to_string();
    assert!(error.ends_with("file.json: expected text in UTF-8, found UTF-16"), "{error}");
}

const LVIS_V1: &str = r#"{"images": [{"id": 7, "width": 8, "height": 6,
"coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg",
"neg_category_ids": [3], "not_exhaustive_category_ids": []}],
"categories": [{"id": 3, "name": "cup", "frequency": "c", "synset": "cup.n.01"}], "annotations": []}"#;

#[test]
fn lvis_v1_has_no_file_names() {
    let dataset = load(LVIS_V1, Dataset::load_lvis).unwrap();
    assert_eq!(dataset.images[0].file_name, "train2017/000000000007.jpg");
    assert_eq!(dataset.images[0].neg_category_ids, [3]);
    assert_eq!(dataset.categories[0].frequency, Some(Frequency::Common));
}

#[test]
fn lvis_v05_has_the_file_names_of_2014() {
    let text = LVIS_V1.replace("\"coco_url\"", "\"file_name\": \"COCO_val2014_000000000007.jpg\", \"coco_url\"");
    assert_eq!(load(&text, Dataset::load_lvis).unwrap().images[0].file_name, "000000000007.jpg");
}

#[test]
fn lvis_needs_what_its_evaluation_needs() {
    let check = |from: &str, to: &str, expected: &str| {
        assert!(LVIS_V1.contains(from));
        assert_eq!(load(&LVIS_V1.replacen(from, to, 1), Dataset::load_lvis).unwrap_err(), expected);
    };
    let gone = "expected a list, as LVIS files have, found none";
    check("\"neg_", "\"other_", &format!("file.json: image 7: neg_category_ids: {gone}"));
    check("\"not_ex", "\"ex", &format!("file.json: image 7: not_exhaustive_category_ids: {gone}"));
    let letter = "file.json: category 3: frequency: expected \"r\", \"c\" or \"f\", as LVIS files have, found";
    check("\"c\"", "\"x\"", &format!("{letter} \"x\""));
    check("\"frequency\"", "\"often\"", &format!("{letter} none"));
    check("[3]", "[4]", "file.json: image 7: category 4 is not in the list of 1 categories");
    check(
        "\"coco_url\"",
        "\"url\"",
        "file.json: image 7: file_name: expected a path below the image folder, found none",
    );
    let coco = load(WHOLE, Dataset::load_lvis).unwrap_err();
    let all = format!(
        "file.json: 2 entries cannot be used, 0 annotations are sound: image 7: neg_category_ids: {gone}; category 3"
    );
    assert!(coco.starts_with(&all), "{coco}");
}

#[test]
fn the_shared_lvis_files_have_their_lists() {
    let Some(shared) = shared_dir("the_shared_lvis_files_have_their_lists") else { return };
    let load = |path: &str| Dataset::load_lvis(&shared.join("data").join(path), Path::new("")).unwrap();
    let dataset = load("lvis/lvis_val_98_annotations_only.json");
    assert_eq!((dataset.images.len(), dataset.instances.len(), dataset.categories.len()), (98, 973, 1230));
    let of = |frequency| {
        let category_of = |id| dataset.categories.iter().find(|category| category.id == id).unwrap();
        dataset.instances.iter().filter(|i| category_of(i.category_id).frequency == Some(frequency)).count()
    };
    assert_eq!([Frequency::Frequent, Frequency::Common, Frequency::Rare].map(of), [872, 100, 1]);
    let derived = load("coco/annotations/lvis_style_val.json");
    assert!(derived.images.iter().all(|image| image.neg_category_ids.len() == 8));
}
