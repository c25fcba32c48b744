//! `compare`: several runs beside the first, on the terminal and on a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sensei_eval::compare::{Comparison, compare as compare_reports};
use sensei_eval::metric::{Estimate, Group};
use sensei_eval::report::EvalReport;
use sensei_eval::table::{GROUPS, aligned};
use sensei_eval::verdict::Verdict;
use sensei_files::whole::write_whole;
use sensei_report::compare_page::{ChangedKey, RunBeside, compare_page};
use sensei_report::events::Training;
use sensei_report::gallery::Gallery;
use sensei_report::run_folder::RunFolder;
use toml::{Table, Value};

use crate::progress::{on_one_line, say};
use crate::run_folder;
use crate::usage;

/// Compares runs by their own scores. With `out`, writes a page there.
///
/// # Errors
/// If a folder is no run or has no scores, or the runs cannot be compared.
pub fn compare(runs: &[PathBuf], row: Option<&str>, out: Option<&Path>) -> anyhow::Result<()> {
    let folders =
        runs.iter().map(PathBuf::as_path).map(open).collect::<anyhow::Result<Vec<RunFolder>>>().map_err(usage)?;
    let names = names(&folders);
    let reports = folders.iter().map(read_scores).collect::<anyhow::Result<Vec<_>>>().map_err(usage)?;
    let named: Vec<(&str, &EvalReport)> = names.iter().map(String::as_str).zip(&reports).collect();
    let comparison = compare_reports(&named, row).map_err(usage)?;
    let beside = names.iter().zip(&folders).zip(&reports).map(|((name, folder), report)| beside(name, folder, report));
    let beside = beside.collect::<anyhow::Result<Vec<RunBeside>>>()?;
    let changed = changed_keys(&folders)?;
    print(&comparison, &beside, &changed);
    if let Some(out) = out {
        write_whole(out, compare_page(&comparison, &beside, &changed).as_bytes())?;
        say(&format!("page: {}", out.display()));
    }
    comparison.sentences().iter().for_each(|(_, sentence)| say(sentence));
    Ok(())
}

fn open(run: &Path) -> anyhow::Result<RunFolder> {
    let run = std::path::absolute(run).with_context(|| format!("{}: no such folder", run.display()))?;
    run_folder::open(&run)
}

fn read_scores(folder: &RunFolder) -> anyhow::Result<EvalReport> {
    let file = folder.scores();
    run_folder::check(folder, &file)?;
    let advice = "`sensei run CONFIG --resume` finishes a run, `sensei eval RUN` scores one that is trained";
    run_folder::expect(folder, &file, "scores", advice)?;
    Ok(EvalReport::read(&file)?)
}

/// Names of the folders; as much of their paths as tells them apart.
fn names(folders: &[RunFolder]) -> Vec<String> {
    let parts: Vec<Vec<String>> = folders
        .iter()
        .map(|folder| folder.root().components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect())
        .collect();
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let with =
        |n: usize| parts.iter().map(|parts| parts[parts.len().saturating_sub(n)..].join("/")).collect::<Vec<String>>();
    let differ = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    (1..=longest).map(with).find(|names| differ(names)).unwrap_or_else(|| {
        // The same folder twice.
        with(1).into_iter().enumerate().map(|(idx, name)| format!("{name} ({})", idx + 1)).collect()
    })
}

fn beside(name: &str, folder: &RunFolder, report: &EvalReport) -> anyhow::Result<RunBeside> {
    let training = folder.events().exists().then(|| Training::read(&folder.events())).transpose()?;
    if folder.gallery().exists() {
        run_folder::check(folder, &folder.gallery())?;
    }
    let gallery = folder.gallery().exists().then(|| Gallery::read(&folder.gallery())).transpose()?;
    Ok(RunBeside { name: name.into(), verdict: Verdict::of(report)?, training, gallery })
}

fn print(comparison: &Comparison, beside: &[RunBeside], changed: &[ChangedKey]) {
    for run in beside {
        let verdict = run.verdict.as_ref().map_or_else(|| "no student's row".into(), Verdict::sentence);
        say(&format!("{}: {verdict}", run.name));
    }
    say(&format!("\n{}", comparison.on_what()));
    if let Some(note) = comparison.crop_note() {
        say(&note);
    }
    aligned(&difference_rows(comparison)).iter().for_each(|line| say(line));
    say("by size and crowding: points of mean IoU in the image, with 95 % intervals");
    if changed.is_empty() {
        say("\nconfiguration: every key is the same");
    } else {
        say("");
        let mut rows = vec![
            std::iter::once("configuration".to_string()).chain(beside.iter().map(|run| run.name.clone())).collect(),
        ];
        rows.extend(changed.iter().map(|(key, values)| {
            let value = |value: &Option<String>| value.as_deref().map_or_else(|| "not set".into(), on_one_line);
            std::iter::once(key.clone()).chain(values.iter().map(value)).collect::<Vec<String>>()
        }));
        aligned(&rows).iter().for_each(|line| say(line));
    }
    say("");
}

/// Scores and paired differences, by group.
fn difference_rows(comparison: &Comparison) -> Vec<Vec<String>> {
    let (metric, first) = (comparison.metric, &comparison.runs[0]);
    let groups: Vec<(Group, &str)> =
        GROUPS.into_iter().filter(|(group, _)| first.groups.get(group).is_some_and(|of| of.n_instances > 0)).collect();
    let head = ["run", "mean IoU", "minus the first, points"].map(String::from).into_iter();
    let mut rows = vec![head.chain(groups.iter().map(|(_, name)| (*name).to_string())).collect::<Vec<String>>()];
    for run in &comparison.runs {
        let own = run.groups.get(&Group::All).and_then(|all| all.estimates.get(&metric));
        let mut row = vec![
            run.name.clone(),
            own.map_or_else(String::new, |own| with_interval(own, &|value| format!("{value:.4}"))),
        ];
        if let Some(difference) = &run.difference {
            let points = |value: f64| format!("{:+.2}", 100.0 * value);
            let cell = |group: Group, metric| {
                let found = difference.groups.get(&group).and_then(|of| of.estimates.get(&metric));
                found.map_or_else(|| "n=0".into(), |found| with_interval(found, &points))
            };
            row.push(cell(Group::All, metric));
            row.extend(groups.iter().map(|(group, _)| cell(*group, sensei_eval::metric::Metric::MeanIouInImage)));
        }
        rows.push(row);
    }
    rows
}

fn with_interval(estimate: &Estimate, shown: &dyn Fn(f64) -> String) -> String {
    let value = shown(estimate.value);
    match estimate.interval {
        Some(interval) => format!("{value} [{}, {}]", shown(interval.low), shown(interval.high)),
        None => format!("{value} [one image]"),
    }
}

/// The keys of the runs' configurations that are not the same in all.
fn changed_keys(folders: &[RunFolder]) -> anyhow::Result<Vec<ChangedKey>> {
    let read = |folder: &RunFolder| {
        let path = folder.plan_toml();
        let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        let table: Table = toml::from_str(&text).with_context(|| format!("{}: not TOML", path.display()))?;
        let mut keys = BTreeMap::new();
        flatten("", &Value::Table(table), &mut keys);
        anyhow::Ok(keys)
    };
    let configurations = folders.iter().map(read).collect::<anyhow::Result<Vec<BTreeMap<String, String>>>>()?;
    let keys: BTreeSet<&String> = configurations.iter().flat_map(BTreeMap::keys).collect();
    let values = |key: &String| configurations.iter().map(|keys| keys.get(key).cloned()).collect::<Vec<_>>();
    let changed = keys.into_iter().map(|key| (key.clone(), values(key)));
    Ok(changed.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect())
}

/// Every value under its path, as `train.stage.0.epochs`.
fn flatten(path: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&below(key), value, keys)),
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(idx, value)| flatten(&below(&idx.to_string()), value, keys));
        }
        plain => drop(keys.insert(path.to_string(), plain.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_they_must_be() {
        let check = |paths: &[&str], expected: &[&str]| {
            let folders: Vec<RunFolder> = paths.iter().map(RunFolder::at).collect();
            assert_eq!(names(&folders), expected);
        };
        check(&["/x/runs/a", "/x/runs/b"], &["a", "b"]);
        check(&["/x/one/a", "/x/two/a"], &["one/a", "two/a"]);
        check(&["/x/a", "/x/a"], &["a (1)", "a (2)"]);
    }
}
