//! `rowlock simulate`.

use std::{fs, io, path::Path};

use super::{
    args::{Format, Simulate},
    exit::Exit,
    output::{self, Output, Table},
};
use crate::simulate::{Load, Options, Report, chart, simulate, svg};

pub(super) fn run(out: &Output, args: Simulate) -> anyhow::Result<()> {
    let load = match &args.trace {
        Some(file) => read(file)?,
        None => args.shape.load(args.duration.as_secs_f64(), args.seed),
    };
    let options = Options {
        seed: args.seed,
        target_wait: args.target_wait,
        max_replicas: args.max_replicas,
        slots: args.slots,
        scale_down_delay: args.scale_down_delay,
        pod_start: args.pod_start,
    };
    let reports = simulate(&load, &options);
    let wait = args.target_wait.as_secs_f64();
    if let Some(file) = &args.svg {
        let title = format!("{}: {} jobs, to wait no longer than {wait} s", load.name, load.arrivals.len());
        fs::write(file, svg(&reports, &title, wait)).map_err(|e| {
            Exit::Usage(format!("--svg: cannot write {}: {e}. Give a file in a directory that exists", file.display()))
        })?;
        output::message(&format!("drawn into {}", file.display()));
    }
    out.list(&reports, table(&reports, out.wide()), |r| r.scaler.clone())?;
    if matches!(out.format(), Format::Table | Format::Wide) {
        out.text(&format!("\n{}\n\n{}", chart(&reports, wait), settings(&reports)))?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Load> {
    let name = file.display().to_string();
    let text = if name == "-" { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text
        .map_err(|e| Exit::Usage(format!("--trace: cannot read {name}: {e}. Give a file, or - for standard input")))?;
    Ok(Load::trace(&name, &text).map_err(|e| Exit::Usage(format!("--trace: {name}, {e}")))?)
}

fn table(reports: &[Report], wide: bool) -> Table {
    let mut head = vec!["scaler", "wait_p50", "p95", "p99", "max", "objective_met", "replica_seconds", "flaps"];
    if wide {
        head.extend(["times_ideal", "most_replicas", "told_to_stop_busy"]);
    }
    let mut table = Table::new(&head);
    for r in reports {
        let mut row = vec![r.scaler.clone()];
        row.extend(
            [r.wait_p50_seconds, r.wait_p95_seconds, r.wait_p99_seconds, r.wait_max_seconds]
                .map(|w| format!("{w:.2} s")),
        );
        row.extend([
            format!("{:.2} %", r.objective_met_percent),
            format!("{:.0}", r.replica_seconds),
            r.flaps.to_string(),
        ]);
        if wide {
            row.extend([format!("{:.2}", r.times_ideal), r.most_replicas.to_string(), r.told_to_stop_busy.to_string()]);
        }
        table.push(row);
    }
    table
}

fn settings(reports: &[Report]) -> String {
    reports.iter().map(|r| format!("{:>13}: {}", r.scaler, r.settings)).collect::<Vec<_>>().join("\n")
}
