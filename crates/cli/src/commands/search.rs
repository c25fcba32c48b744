//! `search`: candidates within a cost, trained for a short time, the best of them longer.
//!
//! Every training is a run of its own, by a process of its own, so that it can be looked at, resumed and compared as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use sensei_eval::compare::compare;
use sensei_eval::metric::Group;
use sensei_eval::report::EvalReport;
use sensei_eval::table::aligned;
use sensei_eval::verdict::Verdict;
use sensei_files::lock::Lock;
use sensei_files::whole::write_whole;
use sensei_report::run_folder::RunFolder;
use serde::Serialize;

use crate::arguments::SearchArguments;
use crate::commands::plan::check_budget;
use crate::config::{Override, Round, RunPlan, SearchPlan, check_same_run, load_plan, load_search};
use crate::progress::{log_to_stderr, note, on_one_line, say, say_result, warn};
use crate::run_folder;
use crate::stop;
use crate::trials::{Trial, Trials};
use crate::usage;

/// A network of the space that is within the limits.
struct Candidate {
    number: usize,
    overrides: Vec<Override>,
    /// In each round, and last without any round's keys.
    costs: Vec<Cost>,
}

/// What a candidate costs.
#[derive(Debug, Clone, Copy, Serialize)]
struct Cost {
    /// Multiply-accumulates of one answer.
    macs: u64,
    parameters: u64,
    /// Estimated; none of a run that ends with the float network.
    chip_bytes: Option<u64>,
}

/// A candidate after a round, as `search.json` has it.
#[derive(Debug, Clone, Serialize)]
struct Scored {
    /// Its number in the space.
    candidate: usize,
    /// The keys that make it.
    keys: BTreeMap<String, String>,
    cost: Cost,
    /// Its runs, in the order of the seeds.
    runs: Vec<String>,
    /// `mean_iou` in the protocol's space, the mean over the seeds; none if a training failed.
    score: Option<f64>,
    /// Whether no candidate of the round with fewer products scores as much.
    is_on_front: bool,
    /// Why a training failed.
    failed: Option<String>,
}

/// What is written.
#[derive(Debug, Serialize)]
struct SearchFile<'a> {
    name: &'a str,
    /// Combinations that were not tried, by reason.
    left_out: &'a BTreeMap<String, usize>,
    /// The best candidate first.
    rounds: &'a [Vec<Scored>],
}

/// Searches, or says what would be tried.
///
/// # Errors
/// If the file is none, no combination can be trained, or every training of a round failed.
pub fn search(arguments: &SearchArguments) -> anyhow::Result<()> {
    if arguments.json {
        log_to_stderr();
    }
    let plan = load_search(&arguments.file).map_err(usage)?;
    run_folder::check_name(&format!("{}-r1", plan.name)).map_err(usage)?;
    let candidates = candidates(&plan).with_context(|| arguments.file.display().to_string());
    // Being asked to stop is no wrong usage.
    let (candidates, left_out) =
        candidates.map_err(|error| if error.is::<stop::Stopped>() { error } else { usage(error) })?;
    say(&format!("{} of {} combinations", candidates.len(), plan.n_combinations()));
    for (reason, count) in &left_out {
        say(&format!("left out: {count}: {}", on_one_line(reason)));
    }
    let as_json = |rounds: &[Vec<Scored>]| {
        serde_json::to_string_pretty(&SearchFile { name: &plan.name, left_out: &left_out, rounds })
    };
    if arguments.plan {
        let n_rounds = plan.rounds.len();
        let unscored = candidates.iter().map(|candidate| scored(candidate, n_rounds, vec![], Ok(vec![])));
        let unscored: Vec<Scored> = unscored.collect();
        table(&unscored).iter().for_each(|line| say(line));
        if arguments.json {
            say_result(&as_json(&[unscored])?);
        }
        return Ok(());
    }
    let runs = std::path::absolute(&arguments.runs)
        .with_context(|| format!("{}: no such folder", arguments.runs.display()))?;
    let folder = RunFolder::at(runs.join(format!("search-{}", plan.name)));
    fs::create_dir_all(folder.root()).with_context(|| format!("{}: cannot make", folder.root().display()))?;
    let _lock = run_folder::lock(&folder)?;
    let (file, config) = (folder.root().join("search.json"), folder.root().join("best.toml"));
    // What an earlier call found is not what this one finds.
    for old in [&file, &config].into_iter().filter(|old| old.exists()) {
        fs::remove_file(old).with_context(|| format!("{}: cannot remove", old.display()))?;
    }
    let trials = Trials::new(&runs, folder.root(), &arguments.machine, usize::from(arguments.jobs))?;

    let mut left: Vec<Candidate> = candidates;
    let mut rounds: Vec<Vec<Scored>> = vec![];
    for (idx, round) in plan.rounds.iter().enumerate() {
        let mut found = trained(&plan, idx, round, &left, &trials, &runs)?;
        found.sort_by(order);
        mark_front(&mut found);
        say(&format!("round {} of {}:", idx + 1, plan.rounds.len()));
        table(&found).iter().for_each(|line| say(line));
        let failure = found[0].score.is_none().then(|| why(&found[0]));
        let best = found.iter().filter(|scored| scored.score.is_some()).take(round.keep.unwrap_or(usize::MAX));
        let best: Vec<usize> = best.map(|scored| scored.candidate).collect();
        left.retain(|candidate| best.contains(&candidate.number));
        rounds.push(found);
        write_whole(&file, as_json(&rounds)?.as_bytes())?;
        if let Some(failure) = failure {
            bail!("round {}: every training failed: {failure}", idx + 1);
        }
    }
    let last = rounds.last().context("a search has a round")?;
    let best = left.iter().find(|candidate| candidate.number == last[0].candidate).context("the best is left")?;
    write_whole(&config, load_plan(&plan.config, &best.overrides)?.resolved_toml.as_bytes())?;
    apart_from_the_best(last, &runs)?;
    if arguments.json {
        say_result(&as_json(&rounds)?);
    }
    say(&format!(
        "best: {}; it was chosen by the scores above, so its own is too good by an unknown part: {} trains it, and a split that was not \
         looked at says what it is worth",
        in_words(&last[0]),
        config.display()
    ));
    Ok(())
}

/// Networks within the limits, and how many combinations are left out by which reason.
fn candidates(plan: &SearchPlan) -> anyhow::Result<(Vec<Candidate>, BTreeMap<String, usize>)> {
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    let (mut found, mut first_error, mut known) = (vec![], None, BTreeSet::new());
    let n_wanted = plan.draw.map_or(usize::MAX, |draw| draw.count);
    for number in numbers(plan) {
        if found.len() == n_wanted {
            break;
        }
        stop::check_command("planning candidates")?;
        let overrides = plan.combination(number);
        let reason = match costs(plan, &overrides) {
            Ok((costs, configuration)) => match costs.iter().find_map(|cost| over(plan, cost)) {
                Some(limit) => limit,
                None if !known.insert(configuration) => "the same configuration as another".into(),
                None => {
                    found.push(Candidate { number, overrides, costs });
                    continue;
                }
            },
            Err(error) => {
                first_error.get_or_insert(error);
                "no configuration that can be run".into()
            }
        };
        *left_out.entry(reason).or_default() += 1;
    }
    if found.is_empty() {
        let reasons =
            left_out.iter().map(|(reason, count)| format!("{count}: {reason}")).collect::<Vec<_>>().join("; ");
        let message = format!("[space]: expected a combination within the limits, found none ({reasons})");
        return Err(match first_error {
            Some(error) => error.context(message),
            None => anyhow::anyhow!(message),
        });
    }
    if let Some(error) = first_error {
        warn(&format!("the first combination that cannot be run: {error:#}"));
    }
    found.sort_by_key(|candidate| candidate.number);
    Ok((found, left_out))
}

/// Numbers of combinations, in the order in which they are tried.
fn numbers(plan: &SearchPlan) -> Vec<usize> {
    let n = plan.n_combinations();
    let Some(draw) = plan.draw else { return (0..n).collect() };
    // Sorted by a hash of seed and number: a draw that does not depend on how many are drawn.
    let mut all: Vec<(blake3::Hash, usize)> = (0..n)
        .map(|number| (blake3::hash(format!("sensei search {} {number}", draw.seed).as_bytes()), number))
        .collect();
    all.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    all.into_iter().map(|(_, number)| number).collect()
}

/// What a combination costs in each round and without any round's keys, and its configuration without them.
fn costs(plan: &SearchPlan, overrides: &[Override]) -> anyhow::Result<(Vec<Cost>, String)> {
    let own = load_plan(&plan.config, overrides)?;
    let mut costs = vec![];
    for round in &plan.rounds {
        costs.push(cost(&load_plan(&plan.config, &[overrides, &round.set].concat())?)?);
    }
    costs.push(cost(&own)?);
    Ok((costs, without_head(&own.resolved_toml)))
}

fn cost(run: &RunPlan) -> anyhow::Result<Cost> {
    let chip_bytes = check_budget(run)?.map(|estimate| estimate.total());
    Ok(Cost { macs: run.graph.macs(), parameters: run.graph.parameters() as u64, chip_bytes })
}

/// A resolved configuration without the lines that say what was set.
fn without_head(toml: &str) -> String {
    toml.lines().skip_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The limit that a cost is over.
fn over(plan: &SearchPlan, cost: &Cost) -> Option<String> {
    let limits = &plan.limits;
    let over = |what: &str, found: Option<u64>, limit: Option<u64>| {
        let (found, limit) = (found?, limit?);
        (found > limit).then(|| format!("over {limit} {what}"))
    };
    over("multiply-accumulates", Some(cost.macs), limits.macs)
        .or_else(|| over("parameters", Some(cost.parameters), limits.parameters))
        .or_else(|| over("bytes on the chip", cost.chip_bytes, limits.chip_bytes))
}

/// Trains every candidate that is left with every seed of a round.
fn trained(
    plan: &SearchPlan,
    round_idx: usize,
    round: &Round,
    left: &[Candidate],
    trials: &Trials,
    runs: &Path,
) -> anyhow::Result<Vec<Scored>> {
    let name =
        |candidate: &Candidate, seed: u64| format!("{}-r{}-c{}-s{seed}", plan.name, round_idx + 1, candidate.number);
    let all: Vec<(&Candidate, u64)> =
        left.iter().flat_map(|candidate| round.seeds.iter().map(move |seed| (candidate, *seed))).collect();
    let mut waiting = vec![];
    for (candidate, seed) in &all {
        let seed_key = Override { key: "seed".parse().map_err(anyhow::Error::msg)?, value: toml_integer(*seed)? };
        let overrides = [&candidate.overrides[..], &round.set, &[seed_key]].concat();
        let name = name(candidate, *seed);
        let run = RunFolder::at(runs.join(&name));
        if !is_done(&run, plan, &overrides).with_context(|| name.clone())? {
            waiting.push(Trial { config: plan.config.clone(), overrides, name });
        }
    }
    note(&format!(
        "round {} of {}: {} trainings, {} of them done before",
        round_idx + 1,
        plan.rounds.len(),
        all.len(),
        all.len() - waiting.len()
    ));
    let failed: BTreeMap<String, String> = trials.run(waiting)?;
    left.iter()
        .map(|candidate| {
            let names: Vec<String> = round.seeds.iter().map(|seed| name(candidate, *seed)).collect();
            let scores = match names.iter().find_map(|name| failed.get(name)) {
                Some(why) => Err(why.clone()),
                None => {
                    Ok(names.iter().map(|name| score_of(&runs.join(name))).collect::<anyhow::Result<Vec<f64>>>()?)
                }
            };
            Ok(scored(candidate, round_idx, names, scores))
        })
        .collect()
}

/// Whether a run has been trained and scored by this configuration.
fn is_done(run: &RunFolder, plan: &SearchPlan, overrides: &[Override]) -> anyhow::Result<bool> {
    // As one whose search was killed: it is neither done nor to be begun.
    if let Some(holder) = Lock::holder(&run.lock())? {
        bail!("{}: this run is in the hands of {holder}: wait for it, or stop it", run.root().display());
    }
    if !run.plan_toml().exists() {
        return Ok(false);
    }
    run_folder::check(run, &run.plan_toml())?;
    let expected = load_plan(&plan.config, overrides)?;
    check_same_run(&run.plan_toml(), &expected)?;
    // Also what training does not depend on, and the score does: bits, paths, the scored objects.
    let found = fs::read_to_string(run.plan_toml()).with_context(|| run.plan_toml().display().to_string())?;
    ensure!(
        without_head(&found) == without_head(&expected.resolved_toml),
        "{}: expected the configuration that the search has now, found another: {}",
        run.plan_toml().display(),
        first_difference(&found, &expected.resolved_toml)
    );
    // The page is what a run writes last.
    Ok(run.report().exists())
}

/// The first line in which two configurations differ.
fn first_difference(found: &str, expected: &str) -> String {
    let (found, expected) = (without_head(found), without_head(expected));
    let mut lines = found.lines().zip(expected.lines());
    match lines.find(|(found, expected)| found != expected) {
        Some((found, expected)) => format!("`{}` in place of `{}`", on_one_line(found), on_one_line(expected)),
        None => "one has more keys".into(),
    }
}

fn score_of(run: &Path) -> anyhow::Result<f64> {
    let file = RunFolder::at(run).scores();
    run_folder::check(&RunFolder::at(run), &file)?;
    let report = EvalReport::read(&file)?;
    Ok(Verdict::of(&report)?.with_context(|| format!("{}: expected a student's row", file.display()))?.score.value)
}

/// `round_idx` may be the number of rounds: without any round's keys.
fn scored(candidate: &Candidate, round_idx: usize, runs: Vec<String>, scores: Result<Vec<f64>, String>) -> Scored {
    let keys = candidate.overrides.iter().map(|set| (set.key.to_string(), set.value.to_string())).collect();
    let score = scores.as_ref().ok().filter(|scores| !scores.is_empty());
    let score = score.map(|scores| scores.iter().sum::<f64>() / scores.len() as f64);
    Scored {
        candidate: candidate.number,
        keys,
        cost: candidate.costs[round_idx],
        runs,
        score,
        is_on_front: false,
        failed: scores.err(),
    }
}

/// The best first; of equals the one with fewer products, then the one that comes first in the space.
fn order(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    let score = |scored: &Scored| scored.score.unwrap_or(f64::NEG_INFINITY);
    score(b).total_cmp(&score(a)).then(a.cost.macs.cmp(&b.cost.macs)).then(a.candidate.cmp(&b.candidate))
}

fn mark_front(round: &mut [Scored]) {
    let points: Vec<(u64, f64)> = round.iter().filter_map(|one| Some((one.cost.macs, one.score?))).collect();
    for one in round {
        let Some(score) = one.score else { continue };
        one.is_on_front = !points.iter().any(|&(macs, other)| macs < one.cost.macs && other >= score);
    }
}

fn table(candidates: &[Scored]) -> Vec<String> {
    let keys: Vec<&String> = candidates.first().map(|first| first.keys.keys().collect()).unwrap_or_default();
    let head = ["mean IoU", "MMAC", "parameters", "bytes on the chip", "front"].map(String::from).into_iter();
    let mut rows: Vec<Vec<String>> = vec![head.chain(keys.iter().map(|key| on_one_line(key))).collect()];
    rows.extend(candidates.iter().map(|candidate| {
        let Cost { macs, parameters, chip_bytes } = candidate.cost;
        let score = match (candidate.score, &candidate.failed) {
            (Some(score), _) => format!("{score:.4}"),
            (None, Some(_)) => "failed".into(),
            (None, None) => String::new(),
        };
        let first = [
            score,
            format!("{:.1}", macs as f64 / 1e6),
            parameters.to_string(),
            chip_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            if candidate.is_on_front { "yes".into() } else { String::new() },
        ];
        first.into_iter().chain(keys.iter().map(|key| on_one_line(&candidate.keys[*key]))).collect()
    }));
    let mut lines = aligned(&rows);
    let failed = candidates.iter().filter(|candidate| candidate.failed.is_some());
    lines.extend(failed.map(|candidate| format!("failed: {}: {}", in_words(candidate), why(candidate))));
    lines
}

fn in_words(candidate: &Scored) -> String {
    candidate.keys.iter().map(|(key, value)| format!("{key}={}", on_one_line(value))).collect::<Vec<_>>().join(" ")
}

fn why(candidate: &Scored) -> String {
    on_one_line(candidate.failed.as_deref().unwrap_or("unknown"))
}

/// Says which candidates of the last round the best one can be told apart from, on the objects of its first seed.
fn apart_from_the_best(last: &[Scored], runs: &Path) -> anyhow::Result<()> {
    let others: Vec<&Scored> = last.iter().filter(|scored| scored.score.is_some()).collect();
    if others.len() < 2 {
        return Ok(());
    }
    let read = |scored: &&Scored| {
        let name = scored.runs.first().context("a trained candidate has a run")?;
        Ok((name.clone(), EvalReport::read(&RunFolder::at(runs.join(name)).scores())?))
    };
    let reports = others.iter().map(read).collect::<anyhow::Result<Vec<(String, EvalReport)>>>()?;
    let named: Vec<(&str, &EvalReport)> = reports.iter().map(|(name, report)| (name.as_str(), report)).collect();
    let comparison = compare(&named, None)?;
    say("beside the best, on the first seed, points of mean IoU with 95 % intervals over images:");
    let mut rows = vec![];
    for run in &comparison.runs[1..] {
        let difference = run.difference.as_ref().and_then(|difference| difference.groups.get(&Group::All));
        let estimate = difference.and_then(|all| all.estimates.get(&comparison.metric));
        let words = estimate.map_or_else(String::new, |estimate| {
            let points = |value: f64| format!("{:+.2}", 100.0 * value);
            let interval = estimate
                .interval
                .map_or_else(String::new, |interval| format!(" [{}, {}]", points(interval.low), points(interval.high)));
            format!("{}{interval}", points(estimate.value))
        });
        rows.push(vec![run.name.clone(), words]);
    }
    aligned(&rows).iter().for_each(|line| say(line));
    Ok(())
}

fn toml_integer(seed: u64) -> anyhow::Result<toml::Value> {
    match i64::try_from(seed) {
        Ok(seed) => Ok(toml::Value::Integer(seed)),
        Err(_) => bail!("seed: expected at most {}, found {seed}", i64::MAX),
    }
}
