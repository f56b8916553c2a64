//! The command line: flags in, one call to the library, a table or JSON out.

mod args;
mod bench;
mod catalog;
mod dev;
mod doctor;
mod jobs;
mod output;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::{
    args::{Args, Command, MigrateCommand, QueueCommand, TypesCommand},
    output::{Output, Table},
};
use crate::{Error, JobQueue, migrate::MIGRATIONS};

/// How a command ends, beside 0.
#[derive(Debug, thiserror::Error)]
enum Exit {
    /// 1, and nothing more to say.
    #[error("")]
    Failed,
    /// 2: the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// 3: there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// 4: it was refused.
    #[error("{0}")]
    Refused(String),
    /// 124: the wait was over first.
    #[error("{0}")]
    TimedOut(String),
}

/// Reads the command line, runs it, answers the exit code: 0, 1 error or job failed, 2 usage, 3 not found,
/// 4 refused, 124 wait timed out.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&e.into()),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let (code, say) = match (error.downcast_ref::<Exit>(), error.downcast_ref::<Error>()) {
        (Some(Exit::Failed), _) => (1, false),
        (Some(Exit::Usage(_)), _) | (_, Some(Error::Config(_) | Error::Json { .. })) => (2, true),
        (Some(Exit::NotFound(_)), _) | (_, Some(Error::NotFound(_))) => (3, true),
        (Some(Exit::Refused(_)), _) | (_, Some(Error::Refused { .. } | Error::WrongStatus(_))) => (4, true),
        (Some(Exit::TimedOut(_)), _) => (124, true),
        _ => (1, true),
    };
    if say {
        output::message(&format!("error: {error:#}"));
    }
    ExitCode::from(code)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let out = Output::new(args.output);
    let database = args.database_url.or_else(|| std::env::var("DATABASE_URL").ok());
    let connect = async || match &database {
        Some(url) => Ok::<_, anyhow::Error>(JobQueue::connect(url).await?),
        None => {
            Err(Exit::Usage("no database: give --database-url, or set DATABASE_URL or ROWLOCK_DATABASE_URL".into())
                .into())
        }
    };
    match args.command {
        Command::Migrate { command: MigrateCommand::Sql } => {
            MIGRATIONS.iter().try_for_each(|m| out.text(&format!("-- {}\n{}", m.name, m.sql)))
        }
        Command::Migrate { command: MigrateCommand::Up } => {
            let applied = connect().await?.migrate().await?;
            output::message(&match applied.len() {
                0 => "the schema is up to date".to_owned(),
                n => format!("applied {n} migrations"),
            });
            Ok(())
        }
        Command::Migrate { command: MigrateCommand::Status } => {
            let status = connect().await?.migration_status().await?;
            let mut table = Table::new(&["version", "name", "state", "applied_at"]);
            for s in &status {
                table.row([s.version.to_string(), s.name.clone(), s.state.clone(), output::time(s.applied_at)]);
            }
            out.list(&status, table, |s| s.version.to_string())
        }
        Command::Enqueue(command) => jobs::enqueue(&connect().await?, &out, command).await,
        Command::Jobs { command } => jobs::run(&connect().await?, &out, command).await,
        Command::Queues { command } => {
            let queue = connect().await?;
            match command {
                QueueCommand::Pause { queue: name } => Ok(queue.pause_queue(&name).await?),
                QueueCommand::Resume { queue: name } => Ok(queue.resume_queue(&name).await?),
                QueueCommand::List => {
                    out.view(
                        &queue,
                        "queues",
                        "queue",
                        &["queue", "paused", "pending", "scheduled", "running", "failed", "oldest_age_seconds"],
                    )
                    .await
                }
            }
        }
        Command::Workers => {
            out.view(
                &connect().await?,
                "workers",
                "name",
                &["name", "queues", "slots", "running", "draining", "last_heartbeat"],
            )
            .await
        }
        Command::Types { command: TypesCommand::Lint { file } } => {
            let catalog = catalog::read(&file)?;
            output::message(&format!("{} types are right", catalog.len()));
            Ok(())
        }
        Command::Types { command: TypesCommand::Apply { file } } => {
            let types = catalog::read(&file)?;
            catalog::apply(&connect().await?, &types).await?;
            output::message(&format!("applied {} types", types.len()));
            Ok(())
        }
        Command::Types { command: TypesCommand::List } => {
            out.view(
                &connect().await?,
                "job_types",
                "name",
                &["name", "queue", "launch", "command", "timeout", "max_retries", "priority"],
            )
            .await
        }
        Command::Worker(command) => worker::run(connect().await?, &out, command).await,
        Command::Dev(command) => dev::run(&out, command).await,
        Command::Bench(command) => bench::run(connect().await?, &out, command).await,
        Command::Doctor => doctor::run(&connect().await?, &out).await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "rowlock", &mut std::io::stdout());
            Ok(())
        }
    }
}
