//! `pipeline status RUN`: how far a run is, and which units are missing.

use crate::cli::{MissingFormat, Status};
use crate::error::Exit;
use crate::plan::overview::Overview;
use std::collections::BTreeSet;

pub fn run(args: &Status, json: bool) -> anyhow::Result<Exit> {
    let (dir, plan) = super::existing_plan(&args.run)?;
    let overview = Overview::new(&plan, &dir)?;
    let exit = if overview.complete() { Exit::Done } else { Exit::Incomplete };
    if json {
        super::print_json(&overview)?;
    } else if !args.missing {
        super::print(&overview.text())?;
    } else {
        let missing: BTreeSet<&str> = overview
            .stages
            .iter()
            .flat_map(|stage| stage.missing.iter().map(String::as_str))
            .filter(|unit| *unit != "all")
            .collect();
        match (args.format, args.task_count) {
            (MissingFormat::Slurm, Some(tasks)) => {
                // A unit belongs to task (its index mod the number of tasks), so that only those tasks need to run again.
                let indices = plan.inputs.iter().flat_map(|input| input.units.iter().enumerate());
                let tasks: BTreeSet<u64> = indices
                    .filter(|(_, unit)| missing.contains(unit.id.as_str()))
                    .map(|(index, _)| index as u64 % tasks)
                    .collect();
                super::print(&(ranges(&tasks) + "\n"))?;
            }
            _ => super::print(&missing.iter().map(|unit| format!("{unit}\n")).collect::<String>())?,
        }
    }
    Ok(exit)
}

/// `0-2,5,7-8`, as `sbatch --array` reads it.
fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => parts.push((number, number)),
        }
    }
    parts
        .iter()
        .map(|(start, end)| if start == end { start.to_string() } else { format!("{start}-{end}") })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn ranges_are_short() {
        let check = |numbers: &[u64], expect: &str| assert_eq!(ranges(&numbers.iter().copied().collect()), expect);
        check(&[], "");
        check(&[3], "3");
        check(&[8, 0, 1, 2, 5, 7], "0-2,5,7-8");
    }
}
