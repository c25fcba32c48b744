//! Instances on a page: the picture once, and each row's mask over it, with its IoU.

use std::fmt::Write;

use sensei_eval::choice::Why;
use sensei_eval::protocol::Space;

use crate::gallery::{Answer, Gallery, MaskRuns, Shown};
use crate::html::escape;
use crate::outline::outline;

/// The pictures of a run, by why they were chosen.
pub(crate) fn gallery(gallery: &Gallery) -> String {
    let mut html = legend();
    html.push_str("<div id=\"pictures\">\n");
    let (mut bytes, mut n_left_out) = (0, 0);
    for why in Why::ALL {
        let of_kind: Vec<&Shown> = gallery.shown.iter().filter(|shown| shown.why == why).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = writeln!(html, "<h3>{}</h3>\n<div class=\"row\">", heading(why, gallery));
        for shown in of_kind {
            let truth = panel(shown, "", "truth", None, None);
            let answers = shown.answers.iter().map(|answer| panel(shown, "", &answer.row, Some(answer), None));
            let panels = std::iter::once(truth).chain(answers).collect::<String>();
            let instance = instance(shown, &definition(shown, ""), &panels);
            if bytes + instance.len() > MAX_PICTURE_BYTES {
                n_left_out += 1;
                continue;
            }
            bytes += instance.len();
            html.push_str(&instance);
        }
        html.push_str("</div>\n");
    }
    html.push_str("</div>\n");
    if n_left_out > 0 {
        let _ = writeln!(
            html,
            "<p class=\"note\">{n_left_out} more instances are left out of this page, which would be too large with them; \
             eval/overlays.png has all.</p>"
        );
    }
    html
}

/// The same instances of several runs side by side: truth, then the named row of each, on what the run's student was shown.
pub(crate) fn side_by_side(runs: &[(&str, &Gallery)], row: &str) -> String {
    let (Some((_, first)), false) = (runs.first(), runs.len() < 2) else { return String::new() };
    let (mut rows, mut bytes, mut n_left_out) = (String::new(), 0, 0);
    for shown in &first.shown {
        let same = |gallery: &'_ Gallery| {
            let is_same =
                |other: &&Shown| (other.annotation_id, other.image_id) == (shown.annotation_id, shown.image_id);
            let other = gallery.shown.iter().find(is_same)?.clone();
            let answer = other.answers.iter().find(|answer| answer.row == row)?.clone();
            Some((other, answer))
        };
        let of_all: Option<Vec<(Shown, Answer)>> = runs.iter().map(|(_, gallery)| same(gallery)).collect();
        let Some(of_all) = of_all else { continue };
        let (mut definitions, mut panels) = (definition(shown, "r0-"), panel(shown, "r0-", "truth", None, None));
        for (idx, ((name, _), (own, answer))) in runs.iter().zip(&of_all).enumerate() {
            // Students that are shown the same see one picture.
            let prefix = if own.picture == shown.picture { "r0-".to_string() } else { format!("r{idx}-") };
            if own.picture != shown.picture {
                definitions.push_str(&definition(own, &prefix));
            }
            panels.push_str(&panel(own, &prefix, row, Some(answer), Some(name)));
        }
        let instance = instance(shown, &definitions, &panels);
        if bytes + instance.len() > MAX_PICTURE_BYTES {
            n_left_out += 1;
            continue;
        }
        bytes += instance.len();
        rows.push_str(&instance);
    }
    if rows.is_empty() {
        return rows;
    }
    if n_left_out > 0 {
        let _ = writeln!(rows, "<p class=\"note\">{n_left_out} more would make this page too large.</p>");
    }
    format!("{}<div id=\"pictures\" class=\"row\">\n{rows}</div>\n", legend())
}

/// An instance's panels below its name.
fn instance(shown: &Shown, definitions: &str, panels: &str) -> String {
    let (annotation, image) = (shown.annotation_id, shown.image_id);
    format!(
        "<div class=\"shown\">{definitions}<p class=\"note\">annotation {annotation} of image {image}</p>\
         <ul class=\"panels\">{panels}</ul></div>\n"
    )
}

fn heading(why: Why, gallery: &Gallery) -> String {
    let row = escape(&gallery.chosen_by);
    match why {
        Why::Best => format!("Best, by the IoU of {row}"),
        Why::Median => format!("In the middle, by the IoU of {row}"),
        Why::Worst => format!("Worst, by the IoU of {row}"),
        Why::Fixed => "Whatever the score, chosen by their ids: other runs on these instances show the same".into(),
    }
}

/// What the colours are, and a switch.
fn legend() -> String {
    let switch = "<input type=\"checkbox\" checked data-bare=\"pictures\">";
    format!(
        "<ul class=\"legend\" aria-label=\"Legend\"><li><span class=\"key truth\"></span>annotated mask, on the panel \u{201c}truth\u{201d}; \
         elsewhere its border is white</li><li><span class=\"key answer\"></span>answer</li>\
         <li><span class=\"key prompt\"></span>box</li>\
         <li><label>{switch} draw masks and boxes</label></li></ul>\n"
    )
}

/// The picture, once for all panels.
fn definition(shown: &Shown, prefix: &str) -> String {
    format!(
        "<svg class=\"defs\" aria-hidden=\"true\"><defs><image id=\"{prefix}p{}\" href=\"{}\" width=\"{grid}\" height=\"{grid}\"/></defs></svg>",
        shown.annotation_id,
        shown.picture.address(),
        grid = shown.grid,
    )
}

/// A panel: the truth's, or of an answer; under the row's name or another.
fn panel(shown: &Shown, prefix: &str, row: &str, answer: Option<&Answer>, name: Option<&str>) -> String {
    let truth = path(&shown.truth, shown.grid);
    let name = escape(name.unwrap_or(row));
    let id = shown.annotation_id;
    let (masks, iou, label) = match answer {
        None => {
            let [left, top, right, bottom] = shown.prompt;
            let (width, height) = ((right - left).max(0.0), (bottom - top).max(0.0));
            let prompt = format!(
                "<rect class=\"prompt\" x=\"{left:.2}\" y=\"{top:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>"
            );
            let masks = format!("<path class=\"truth\" d=\"{truth}\"/>{prompt}");
            (masks, String::new(), format!("annotation {id}: the annotated mask"))
        }
        Some(answer) => {
            let own = path(&answer.mask, shown.grid);
            let masks = format!("<path class=\"answer\" d=\"{own}\"/><path class=\"edge\" d=\"{truth}\"/>");
            let iou = format!("<span class=\"iou\">IoU {:.2}</span>", answer.iou);
            (masks, iou, format!("annotation {id}: mask of {name}, IoU {:.2}", answer.iou))
        }
    };
    format!(
        "<li><svg viewBox=\"0 0 {grid} {grid}\" role=\"img\" aria-label=\"{label}\"><use href=\"#{prefix}p{id}\"/>{masks}</svg>{iou}{name}</li>",
        grid = shown.grid,
    )
}

fn path(mask: &MaskRuns, grid: u32) -> String {
    let (pixels, grid) = (mask.pixels(), grid as usize);
    outline(grid, grid, |x, y| pixels[y * grid + x] == 1)
}

/// Where the IoU on the panels is taken, in words.
pub(crate) fn space_in_words(space: Space) -> &'static str {
    match space {
        Space::Crop => "in the crop",
        Space::Image => "in the image",
    }
}

/// Of the page's 1.5 MB.
const MAX_PICTURE_BYTES: usize = 900_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::Picture;
    use crate::gallery::tests::gallery as two;

    #[test]
    fn each_panel_has_its_mask_and_its_iou() {
        let html = gallery(&two());
        assert_eq!(html.matches("<h3>").count(), 2, "best, and those of every run");
        assert_eq!(html.matches("class=\"truth\"").count(), 2);
        assert_eq!(html.matches("IoU 0.50</span>int8").count(), 2);
        // The annotated mask is the upper half of the grid, the answer the upper quarter.
        assert!(html.contains("<path class=\"answer\" d=\"M0 0h4v1h-4z\"/><path class=\"edge\" d=\"M0 0h4v2h-4z\"/>"));
        assert_eq!(html.matches("<image ").count(), 2, "each picture once");
    }

    #[test]
    fn what_would_make_the_page_too_large_is_counted() {
        let mut many = two();
        let mut large = many.shown[0].clone();
        large.picture = Picture::of_png(&vec![7; 250_000]);
        many.shown = (0..5).map(|id| Shown { annotation_id: id, ..large.clone() }).collect();
        let html = gallery(&many);
        assert_eq!(html.matches("<image ").count(), 2, "of a third of a million characters each");
        assert!(html.contains("3 more instances are left out of this page") && html.len() < MAX_PICTURE_BYTES + 2000);
    }

    #[test]
    fn names_of_rows_are_escaped() {
        let mut evil = two();
        evil.chosen_by = "<script>".into();
        evil.shown[0].answers[0].row = "\"><script>".into();
        let html = gallery(&evil);
        assert!(!html.contains("<script>") && html.contains("&quot;&gt;&lt;script&gt;"), "{html}");
    }

    #[test]
    fn only_what_all_runs_show_is_put_side_by_side() {
        let (a, mut b) = (two(), two());
        b.shown.remove(0);
        let html = side_by_side(&[("a", &a), ("b", &b)], "int8");
        assert!(html.contains("annotation 2 of image 7") && !html.contains("annotation 1 of image 7"), "{html}");
        assert_eq!(html.matches("<li><svg").count(), 3, "truth, a, b");
        assert_eq!(side_by_side(&[("a", &a), ("b", &b)], "float"), "");
    }
}
