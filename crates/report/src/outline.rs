//! The outline of a mask as a path of SVG: along the borders of its pixels, so that nothing is smoothed.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The closed loops around a mask's pixels, outer ones and those of holes, for `fill-rule="evenodd"`; empty for an empty mask.
///
/// `is_set(x, y)` is asked for columns from 0 to `width` and rows from 0 to `height`, both exclusive.
pub(crate) fn outline(width: usize, height: usize, is_set: impl Fn(usize, usize) -> bool) -> String {
    // Every border of a set pixel with one that is not, as a step from corner to corner with the set pixel on its right.
    let mut steps: BTreeMap<Corner, Vec<Corner>> = BTreeMap::new();
    let set = |x: i64, y: i64| {
        x >= 0 && y >= 0 && (x as usize) < width && (y as usize) < height && is_set(x as usize, y as usize)
    };
    let mut step = |from: Corner, to: Corner| steps.entry(from).or_default().push(to);
    for y in 0..height as i64 {
        for x in (0..width as i64).filter(|&x| set(x, y)) {
            if !set(x, y - 1) {
                step((y, x), (y, x + 1));
            }
            if !set(x + 1, y) {
                step((y, x + 1), (y + 1, x + 1));
            }
            if !set(x, y + 1) {
                step((y + 1, x + 1), (y + 1, x));
            }
            if !set(x - 1, y) {
                step((y + 1, x), (y, x));
            }
        }
    }
    let mut path = String::new();
    while let Some((&start, _)) = steps.first_key_value() {
        path.push_str(&as_path(&walk(&mut steps, start)));
    }
    path
}

/// Row and column of a pixel's upper left corner.
type Corner = (i64, i64);

/// Takes a loop out of the steps. Every corner has as many steps to it as from it, so the walk ends where it began.
fn walk(steps: &mut BTreeMap<Corner, Vec<Corner>>, start: Corner) -> Vec<Corner> {
    let (mut corners, mut at) = (vec![start], start);
    loop {
        let Some(ways) = steps.get_mut(&at) else { return corners };
        // Where two pixels touch at a corner there are two ways: either leads back.
        let next = ways.remove(0);
        if ways.is_empty() {
            steps.remove(&at);
        }
        if next == start {
            return corners;
        }
        corners.push(next);
        at = next;
    }
}

/// A loop with only its turns.
fn as_path(corners: &[Corner]) -> String {
    let n = corners.len();
    let is_turn = |idx: usize| {
        let (before, at, after) = (corners[(idx + n - 1) % n], corners[idx], corners[(idx + 1) % n]);
        (before.0 == at.0) != (at.0 == after.0)
    };
    let turns: Vec<Corner> = (0..n).filter(|&idx| is_turn(idx)).map(|idx| corners[idx]).collect();
    let mut path = String::new();
    for (idx, &(y, x)) in turns.iter().enumerate() {
        // Writing into a string does not fail.
        let _ = match idx {
            0 => write!(path, "M{x} {y}"),
            _ if turns[idx - 1].0 == y => write!(path, "h{}", x - turns[idx - 1].1),
            _ => write!(path, "v{}", y - turns[idx - 1].0),
        };
    }
    if !path.is_empty() {
        path.push('z');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[&str]) -> String {
        let is_set = |x: usize, y: usize| rows[y].as_bytes()[x] == b'#';
        outline(rows[0].len(), rows.len(), is_set)
    }

    #[test]
    fn borders_are_those_of_the_pixels() {
        assert_eq!(of(&["...", "..."]), "");
        assert_eq!(of(&["#"]), "M0 0h1v1h-1z");
        assert_eq!(of(&["....", ".##.", ".##.", "...."]), "M1 1h2v2h-2z");
        assert_eq!(of(&["##", "#."]), "M0 0h2v1h-1v1h-1z");
        // A hole is a loop of its own, the other way around.
        assert_eq!(of(&["###", "#.#", "###"]), "M0 0h3v3h-3zM1 1v1h1v-1z");
        // Two that touch at a corner: every border once.
        assert_eq!(of(&["#.", ".#"]).matches(['h', 'v']).count() + 2, 8);
    }
}
