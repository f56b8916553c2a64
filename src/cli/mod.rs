//! The command line: flags in, one call to the library, a table or JSON out.

mod args;
mod bench;
mod catalog;
mod controller;
mod database;
mod demo;
mod denied;
mod dev;
mod doctor;
mod exit;
mod explain;
mod install;
mod jobs;
mod logs;
mod migrate;
mod output;
mod plugin;
mod query;
mod queues;
mod schedules;
mod secrecy;
mod serve;
mod simulate;
mod types;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use self::{
    args::{Args, Command, MigrateCommand, TypesCommand},
    exit::Exit,
    output::Output,
};
use crate::{JobQueue, cluster::ClusterOptions};

/// Reads the command line, runs it, answers the exit code: 0, 1 error or job failed, 2 usage, 3 not found,
/// 4 refused, 124 wait timed out.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     rowlock::cli::main()
/// }
/// ```
pub fn main() -> ExitCode {
    secrecy::protect();
    let args = if plugin::is_plugin(&program()) {
        let command = Args::command().name("kubectl rowlock").bin_name("kubectl rowlock");
        Args::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit())
    } else {
        Args::parse()
    };
    if matches!(args.command, Command::Worker(_) | Command::Controller(_))
        && let Err(error) = secrecy::hide_urls()
    {
        return fail(&anyhow::Error::from(error).context("the URL of the database could not leave the command line"));
    }
    secrecy::keep_descriptors();
    // The guardian only waits, and there is one for every worker: no threads for it. A worker's jobs are processes,
    // and it hands them over faster to itself than to another thread.
    let mut runtime = match &args.command {
        Command::Guardian { .. } | Command::PodRun { .. } | Command::Worker(_) => {
            tokio::runtime::Builder::new_current_thread()
        }
        Command::Bench(bench) if bench.launch => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e.into()),
    };
    if let Command::PodRun { grace, timeout, command } = &args.command {
        // The job's exit code is this program's.
        return match runtime.block_on(crate::launch::pod::shim::run(command, *grace, *timeout)) {
            Ok(code) => ExitCode::from(code),
            Err(e) => fail(&e.into()),
        };
    }
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The name under which this process was started.
fn program() -> String {
    std::env::args().next().unwrap_or_default()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(text) = exit::explain(error) {
        output::message(&format!("error: {text}"));
    }
    ExitCode::from(exit::code(error))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let out = Output::new(args.output);
    // Read only by who needs it: to check a file nobody needs a database.
    let target = || database::target(args.database_url.clone(), args.database_url_file.clone());
    let cluster = ClusterOptions::from(args.cluster);
    let waits = matches!(args.command, Command::Worker(_) | Command::Controller(_));
    let connect = async || match target() {
        // These wait for a database that is away, so nobody asks it here.
        Some(target) if waits => Ok(JobQueue::of_target(target?, &["default"], CONNECTIONS)?),
        Some(target) => Ok::<_, anyhow::Error>(JobQueue::connect_target(target?, &["default"], CONNECTIONS).await?),
        None if plugin::is_plugin(&program()) => plugin::connect(cluster.clone()).await,
        None => Err(Exit::Usage(database::NONE.into()).into()),
    };
    let has_database = matches!(args.command, Command::Bench(_)) && target().is_some();
    let role = denied::least_role(&args.command);
    match dispatch(args.command, &out, &cluster, has_database, &connect).await {
        Err(error) if exit::is_denied(&error) => {
            let advice = denied::advice(&connect().await?, role).await;
            Err(Exit::Denied(format!("{}; {advice}", exit::explain(&error).unwrap_or_default())).into())
        }
        ended => ended,
    }
}

/// As many as [`JobQueue::connect`] takes.
const CONNECTIONS: usize = 16;

async fn dispatch(
    command: Command,
    out: &Output,
    cluster: &ClusterOptions,
    has_database: bool,
    connect: &impl AsyncFn() -> anyhow::Result<JobQueue>,
) -> anyhow::Result<()> {
    match command {
        Command::Migrate { command: MigrateCommand::Sql } => out.text(&crate::migrate::script()),
        Command::Migrate { command: MigrateCommand::Up } => migrate::up(&connect().await?).await,
        Command::Migrate { command: MigrateCommand::Status } => migrate::status(&connect().await?, out).await,
        Command::Enqueue(command) => jobs::enqueue(&connect().await?, out, command).await,
        Command::Jobs { command } => jobs::run(&connect().await?, out, cluster, command).await,
        Command::Queues { command } => queues::run(&connect().await?, out, command).await,
        Command::Workers => {
            let columns = ["name", "queues", "slots", "running", "draining", "last_heartbeat"];
            out.view(&connect().await?, "workers", &columns, &["id", "identity", "started_at", "version"]).await
        }
        Command::Types { command: TypesCommand::Lint { file } } => types::lint(&file),
        Command::Types { command } => types::run(&connect().await?, out, command).await,
        Command::Schedules { command } => schedules::run(&connect().await?, out, command).await,
        Command::Explain(command) => explain::run(&connect().await?, out, command).await,
        Command::Controller(command) => controller::run(connect().await?, cluster, command).await,
        Command::Worker(command) => worker::run(connect().await?, out, cluster, *command).await,
        Command::Dev(command) => dev::run(out, command).await,
        Command::Bench(command) => {
            let given = if has_database { Some(connect().await?) } else { None };
            bench::run(given, out, command).await
        }
        Command::Simulate(command) => simulate::run(out, command),
        Command::Doctor => doctor::run(connect().await, out).await,
        Command::Guardian { worker, dir } => Ok(crate::launch::guardian::stand(worker, &dir).await?),
        Command::PodRun { .. } => Ok(()), // before this, in main
        Command::Install { dir } => install::run(out, &dir),
        Command::Completion { shell } => {
            // Into memory first: it panics when a reader such as `head` has gone.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "rowlock", &mut script);
            out.text(String::from_utf8(script)?.trim_end())
        }
    }
}
